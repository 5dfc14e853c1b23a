"""Where the service listens, and how it ends when it is told to."""

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.conftest import Starter
from e2e.service import Service, until


def _has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


def status(host: str, port: int, path: str = "/healthz") -> int:
    with contextlib.closing(http.client.HTTPConnection(host, port, timeout=10)) as connection:
        connection.request("GET", path)
        return connection.getresponse().status


@pytest.mark.skipif(not _has_ipv6(), reason="there is no IPv6 here")
@pytest.mark.parametrize("host", ["::", "[::]", "*"])
def test_everything_is_both_families(start_service: Starter, host: str) -> None:
    service = start_service(TOCSIN_HOST=host)
    assert service.printed[-1] == f"tocsin serves http://127.0.0.1:{service.port}"
    assert [status(one, service.port) for one in ("127.0.0.1", "::1")] == [200, 200]
    client = service.first()
    blocked = [client.add_handler("webhook", webhook=f"http://{one}:{service.port}/") for one in ("127.0.0.1", "[::1]")]
    for delivery in client.settled(client.send("to itself", handlers=blocked)):
        assert delivery["last_error"].startswith("blocked"), delivery
    assert status("127.0.0.1", service.port, "/api/notifications") == 401
    until(lambda: "key.refused" in service.log())
    assert "::ffff:" not in service.log()


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost", "[::1]"])
def test_other_hosts_are_what_they_say(start_service: Starter, host: str) -> None:
    if ":" in host and not _has_ipv6():
        pytest.skip("there is no IPv6 here")
    service = start_service(TOCSIN_HOST=host)
    assert status("::1" if ":" in host else "127.0.0.1", service.port) == 200


def test_a_host_that_is_no_address_is_named_in_one_sentence(tmp_path: Path) -> None:
    for host in ("[", "::1::", "no such host", "127.0.0.1:80"):
        said = Service(tmp_path / "service", TOCSIN_HOST=host).refused()
        assert "TOCSIN_HOST" in said and "Unknown error" not in said and "Traceback" not in said, said


# --------------------------------------------------------------------------------------------------------- Unix sockets


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a name so short that a socket fits in."""
    found = Path(tempfile.mkdtemp(prefix="tocsin"))
    yield found
    shutil.rmtree(found)


def served(service: Service, path: Path) -> Service:
    service.launch()
    until(lambda: path.is_socket() and asked(path, "/healthz")[0] == 200 if path.exists() else False, 40)
    return service


def asked(path: Path, target: str, **headers: str) -> tuple[int, str]:
    with contextlib.closing(UnixConnection(path)) as connection:
        try:
            connection.request("GET", target, headers={name.replace("_", "-"): value for name, value in headers.items()})
        except OSError:
            return 0, ""
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_a_unix_socket_instead_of_a_port(folder: Path, tmp_path: Path) -> None:
    path = folder / "s"
    service = Service(tmp_path / "service", TOCSIN_UNIX_SOCKET=str(path))
    try:
        served(service, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert asked(path, "/api/notifications", authorization=f"Bearer {service.first().key}")[0] == 200
        # Anyone who may open it is a proxy of ours, so what it says of its clients is believed.
        found = asked(path, "/api/openapi.json", x_forwarded_proto="https", x_forwarded_host="alerts.example")[1]
        assert "https://alerts.example" in found
        assert asked(path, "/api/notifications", x_forwarded_for="203.0.113.9")[0] == 401
        until(lambda: "203.0.113.9" in service.log())
        other = Service(tmp_path / "other", TOCSIN_UNIX_SOCKET=str(path))
        assert f"Cannot listen on {path}" in other.refused()  # one that is in use is nobody's to take
        service.kill()
        assert path.is_socket()
        served(service, path)  # what a killed one left is
        assert service.terminate() == 0
        assert not path.exists()
    finally:
        service.kill()


def test_a_socket_takes_no_place_of_a_file(folder: Path, tmp_path: Path) -> None:
    (folder / "s").write_text("precious")
    long = Service(tmp_path / "service", TOCSIN_UNIX_SOCKET=str(folder / ("long" * 40))).refused()
    assert long.startswith("tocsin: TOCSIN_UNIX_SOCKET must be at most 107 bytes long") and "Traceback" not in long
    for path in (folder / "s", folder / "none" / "s"):
        said = Service(tmp_path / "service", TOCSIN_UNIX_SOCKET=str(path)).refused()
        assert said.startswith(f"tocsin: Cannot listen on {path}:") and "Traceback" not in said
    assert (folder / "s").read_text() == "precious"


# ------------------------------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_order(start_service: Starter, number: signal.Signals) -> None:
    service = start_service()
    assert service.process is not None
    service.process.send_signal(number)
    assert service.process.wait(20) == 0


def test_under_nohup_it_outlives_the_terminal(tmp_path: Path) -> None:
    service = Service(tmp_path / "service", from_scratch=True)
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        service.start()
    finally:
        signal.signal(signal.SIGHUP, previous)
    try:
        assert service.process is not None
        [ignored] = re.findall(r"SigIgn:\s*(\w+)", Path(f"/proc/{service.process.pid}/status").read_text())
        assert int(ignored, 16) & 1 << signal.SIGHUP - 1
        service.process.send_signal(signal.SIGHUP)
        assert service.first().get("/readyz").status == 200
        assert service.terminate() == 0
    finally:
        service.kill()


def test_half_an_upload_holds_no_end_up(start_service: Starter) -> None:
    service = start_service()
    key = service.first().key
    with socket.create_connection(("127.0.0.1", service.port), 20) as client:
        client.sendall(
            f"POST /api/notifications HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 100\r\n\r\nhalf".encode()
        )
        until(lambda: service.first().get("/metrics").content.count(b"tocsin_connections 2"))
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)
        answer = b""
        while piece := client.recv(4096):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 503 "), answer
    assert service.process.wait(20) == 0
    assert "Traceback" not in service.log() and "Cancelled" not in service.log()


def test_the_first_process_of_a_container_ends_whenever_it_is_told(tmp_path: Path) -> None:
    """The kernel ignores what such a process has no handler for; it is told in each step of its start."""
    if not shutil.which("unshare") or os.geteuid() != 0:
        pytest.skip("only root, with unshare (util-linux), can make a process the first of a namespace here")
    namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("no namespace can be made here")
    told = (
        "import os, signal, sys\n"
        "import tocsin.cli as cli\n"
        "assert os.getpid() == 1\n"
        "real = cli.run\n"
        "cli.run = lambda arguments: (os.kill(1, signal.SIGTERM), real(arguments))[1]\n"
        "sys.argv = ['tocsin', 'serve']\n"
        "cli.main()\n"
    )
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TOCSIN_DATA_DIR": str(tmp_path / "data"), "TOCSIN_PORT": "0"}
    done = subprocess.run([*namespace, sys.executable, "-c", told], env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done
