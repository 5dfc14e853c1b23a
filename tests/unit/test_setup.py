"""`make` on a machine that has little: what it says where something is missing, and whom it trusts on the way out."""

import base64
import functools
import hashlib
import http.server
import os
import re
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trustme

from e2e.namespace import cannot_unshare

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project that wants one package, which nobody else has."""
    folder = tmp_path / "checkout"
    (folder / "requirements").mkdir(parents=True)
    (folder / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    (folder / "requirements" / "uv.txt").write_text("tocsin-sample==1\n")
    return folder


def make(
    checkout: Path, target: str, python: object = sys.executable, before: Sequence[str] = (), **environ: str
) -> "subprocess.CompletedProcess[str]":
    environ = {"PATH": os.environ["PATH"], "HOME": str(checkout), "PIP_CONFIG_FILE": os.devnull, **environ}
    command = [*before, "make", target, f"PYTHON={python}"]
    return subprocess.run(command, cwd=checkout, env=environ, capture_output=True, text=True, check=False)


def a_python(folder: Path, module: str, content: str) -> Path:
    """One whose standard library differs in this module."""
    (folder / f"{module}.py").write_text(content)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python


def test_without_venv_one_sentence_says_what_to_install(checkout: Path, tmp_path: Path) -> None:
    """As Debian has it: venv is there, ensurepip is in another package."""
    done = make(checkout, ".venv/.uv", a_python(tmp_path, "ensurepip", "raise ModuleNotFoundError"))
    assert done.returncode != 0
    assert "apt-get install python3-venv" in done.stderr and "Traceback" not in done.stderr
    assert not (checkout / ".venv").exists()


def test_an_old_python_is_refused_with_one_sentence(checkout: Path, tmp_path: Path) -> None:
    done = make(checkout, ".venv/.uv", a_python(tmp_path, "sitecustomize", "import sys; sys.version_info = (3, 10, 13)"))
    assert done.returncode != 0
    assert "Python 3.11 or newer" in done.stderr and "Traceback" not in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A package index whose certificate only a system with our authority trusts: its URL, and that system's file of authorities."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusted = tmp_path / "authorities.pem"
    authority.cert_pem.write_to_path(str(trusted))
    folder = tmp_path / "served"
    write_wheel(folder / "tocsin-sample")
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}/", trusted
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def write_wheel(folder: Path) -> None:
    """An empty package, and the page that lists it."""
    folder.mkdir(parents=True)
    about = "tocsin_sample-1.dist-info"
    files = {
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: tocsin-sample\nVersion: 1\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},sha256={digest(content)},{len(content)}\n" for name, content in files.items())
    name = "tocsin_sample-1-py3-none-any.whl"
    with zipfile.ZipFile(folder / name, "w") as wheel:
        for path, content in {**files, f"{about}/RECORD": f"{record}{about}/RECORD,,\n"}.items():
            wheel.writestr(path, content)
    sha = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "index.html").write_text(f'<a href="{name}#sha256={sha}">{name}</a>')


def digest(content: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).decode().rstrip("=")


# Inside, the system's authorities are others.
TRUSTING = 'mount --bind "$0" /etc/ssl/certs/ca-certificates.crt && exec "$@"'


@pytest.mark.long
@pytest.mark.skipif(not Path("/etc/ssl/certs/ca-certificates.crt").exists(), reason="known for Debian only")
def test_pip_and_uv_trust_whom_the_system_trusts(checkout: Path, index: tuple[str, Path]) -> None:
    if why := cannot_unshare():
        pytest.skip(why)
    url, trusted = index
    [sha] = re.findall("sha256=([0-9a-f]{64})", (trusted.parent / "served" / "tocsin-sample" / "index.html").read_text())
    (checkout / "requirements" / "uv.txt").write_text(f"tocsin-sample==1 --hash=sha256:{sha}\n")
    (checkout / "Makefile").open("a").write("\nuv:\n\tuv pip install --python .venv --reinstall --no-cache -r requirements/uv.txt\n")
    environ = {"PIP_INDEX_URL": url, "PIP_RETRIES": "0", "UV_INDEX_URL": url, "UV_HTTP_RETRIES": "0"}
    environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for target in (".venv/.uv", "uv"):
        assert make(checkout, target, **environ).returncode != 0, "a machine that does not know the authority must not get it from there"
        done = make(checkout, target, before=["unshare", "--map-root-user", "--mount", "sh", "-c", TRUSTING, str(trusted)], **environ)
        assert done.returncode == 0, done.stderr
