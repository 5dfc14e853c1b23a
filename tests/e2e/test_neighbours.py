"""Strangers' connections, heads and half bodies: the service as an operator runs it, with few descriptors."""

import contextlib
import functools
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.conftest import Starter
from e2e.service import Service, until
from receiver import Receiver

FEW = 1024


@pytest.fixture
def few_descriptors(start_service: Starter, monkeypatch: pytest.MonkeyPatch) -> Starter:
    """A service whose hard limit is 1,024."""
    real = subprocess.Popen

    def limited(arguments: list[str], **options: object) -> "subprocess.Popen[str]":
        limit = f"import resource, os, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({FEW}, {FEW})); os.execv(sys.argv[1], sys.argv[1:])"
        return real([sys.executable, "-c", limit, *arguments], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", limited)
    return functools.partial(start_service, from_scratch=True)


@contextlib.contextmanager
def connections(service: Service, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many, open as long as the service lets them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 500)), hard))
    wires: list[socket.socket] = []
    try:
        for _ in range(count):
            wires.append(socket.create_connection(("127.0.0.1", service.port), 20))
            if sent:
                with contextlib.suppress(OSError):
                    wires[-1].sendall(sent)
        yield wires
    finally:
        for wire in wires:
            wire.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident_mb(service: Service) -> float:
    assert service.process is not None
    lines = Path(f"/proc/{service.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def descriptors(service: Service) -> int:
    assert service.process is not None
    return len([*Path(f"/proc/{service.process.pid}/fd").iterdir()])


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_silent_connections_take_no_descriptor_from_anybody(few_descriptors: Starter, receiver: Receiver, sent: bytes) -> None:
    service = few_descriptors(TOCSIN_RETRY_SCHEDULE="1s")
    client = service.first()
    handlers = [client.add_handler("webhook", webhook=receiver.url(f"/{number}")) for number in range(20)]
    with connections(service, 1100, sent):
        assert client.get("/healthz").status == 200
        notification = client.send("among strangers", handlers=handlers)
        assert {one["status"] for one in client.settled(notification)} == {"delivered"}
        assert [client.delivery(one["id"])["attempt_count"] for one in client.deliveries(notification)] == [1] * 20
        assert descriptors(service) < FEW // 2
        assert client.get("/readyz").json["complaints"] == []
        assert service.log().count("connections.full") <= 1


def test_what_strangers_send_is_not_held(few_descriptors: Starter) -> None:
    service = few_descriptors()
    assert service.first().get("/healthz").status == 200
    before = resident_mb(service)
    form = b"POST /sign-in HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1048576\r\n\r\n"
    with connections(service, 100, form + b"x" * (1048576 - 6)) as wires:
        assert all(wire.recv(20).startswith(b"HTTP/1.1 413 ") for wire in wires)
        assert resident_mb(service) - before < 50
    line = b"x: " + b"y" * 100_000 + b"\r\n"
    with connections(service, 300, b"GET /healthz HTTP/1.1\r\n") as wires:
        for wire in wires:
            with contextlib.suppress(OSError):
                wire.settimeout(1)
                wire.sendall(line * 5)
        assert service.first().get("/healthz").status == 200
        assert resident_mb(service) - before < 50
    assert "Traceback" not in service.log()


def test_readyz_says_when_descriptors_run_out(start_service: Starter) -> None:
    service = start_service()
    client = service.first()
    assert client.get("/readyz").status == 200
    service.limit_descriptors(4)
    answer = until(lambda: (found := client.get("/readyz")).status == 503 and found)
    assert answer.json["complaints"] == ["Nearly all file descriptors are in use: raise LimitNOFILE."]
    service.limit_descriptors(1000)
    assert client.get("/readyz").status == 200


def test_a_shortage_of_descriptors_neither_spins_nor_fills_the_log(start_service: Starter) -> None:
    from e2e.test_outages import does_not_spin

    service = start_service()
    assert service.first().get("/healthz").status == 200
    service.limit_descriptors(0)
    with connections(service, 5):
        does_not_spin(service)
    service.limit_descriptors(1000)
    until(lambda: service.first().get("/healthz").status == 200)
    until(lambda: service.log().count("connections.not_accepted") == 1, what="it was not logged")
