"""The demo's service: `tocsin serve` as a child process on a throw-away store."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tocsin.admin import open_admin
from tocsin.cli.failure import Failure
from tocsin.settings import load
from tocsin.vault import random_base62

EMAIL = "demo@localhost"
START_SECONDS = 20.0
_STOP_SECONDS = 15.0
_LOG_LINES = 5


class DemoService:
    """The running child: where it is and how to get in."""

    def __init__(
        self, process: subprocess.Popen[bytes], url: str, api_key: str, password: str, log: Path, environ: Mapping[str, str]
    ) -> None:
        self.url = url
        self.api_key = api_key
        self.password = password
        self._environ = environ
        self._process = process
        self._log = log

    def sign_in_link(self) -> str:
        """Signs in to the pages as the demo's user, once."""
        with open_admin(load(self._environ, self._log.parent / "none.env")) as admin:
            return f"{self.url}/sign-in/{admin.sign_in_token(EMAIL)}"

    def check_alive(self) -> None:
        """Raises Failure with the end of its log if the service has stopped."""
        if self._process.poll() is not None:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
            raise Failure("\n".join([f"The demo's service stopped with exit code {self._process.returncode}.", *lines]))

    def wait_until_ready(self) -> None:
        ends_at = time.monotonic() + START_SECONDS
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < ends_at:
            self.check_alive()
            try:
                with opener.open(f"{self.url}/readyz", timeout=2):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.05)
        raise Failure(f"The demo's service was not ready within {START_SECONDS:.0f} s.")


@contextmanager
def demo_service(folder: Path, port: int, receivers: Mapping[str, str]) -> Generator[DemoService, None, None]:
    """Start the service in `folder` with the settings that lead to the receivers; stop it at the end."""
    api_key, password = "tk_" + random_base62(43), random_base62(16)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
    environ = inherited | {
        "TOCSIN_HOST": "127.0.0.1",
        "TOCSIN_PORT": str(port),
        "TOCSIN_DATA_DIR": str(folder / "data"),
        "TOCSIN_BOOTSTRAP_EMAIL": EMAIL,
        "TOCSIN_BOOTSTRAP_API_KEY": api_key,
        "TOCSIN_BOOTSTRAP_PASSWORD": password,
        "TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8",
        "TOCSIN_X_DAILY_LIMIT": "1000",
        "TOCSIN_RETRY_SCHEDULE": "3s,10s,1m",
        "TOCSIN_LOG_LEVEL": "warning",
        **receivers,
    }
    log = folder / "service.log"
    # In its own folder, so that no .env is read; in its own session, so that Ctrl-C reaches the demo alone, which stops it in order.
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tocsin", "serve"], cwd=folder, env=environ, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield DemoService(process, f"http://127.0.0.1:{port}", api_key, password, log, environ)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
