"""A network that goes away and names that are not resolved, in a network namespace of the test's own: with an address that it can take
away, and a resolver that answers when it likes."""

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.conftest import Starter
from e2e.namespace import INSIDE, in_a_namespace
from e2e.service import until
from e2e.test_outages import does_not_spin
from receiver import Receiver

ADDRESS = "10.9.0.1"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def network() -> Iterator[None]:
    """Inside: loopback, and one address that stands for all the rest of the world."""
    if INSIDE in os.environ:
        ip("address", "add", f"{ADDRESS}/32", "dev", "lo")
    yield


@in_a_namespace
def test_when_the_network_is_gone_everything_waits_for_it(network: None, start_service: Starter) -> None:
    with Receiver(ADDRESS) as receiver:
        service = start_service(TOCSIN_ALLOW_NETWORKS="10.0.0.0/8", TOCSIN_RETRY_SCHEDULE="1s," * 29 + "1s")
        client = service.first()
        handlers = [client.add_handler("webhook", webhook=receiver.url(f"/{number}")) for number in range(5)]
        client.settled(client.send("before", handlers=handlers))
        ip("address", "del", f"{ADDRESS}/32", "dev", "lo")
        meanwhile = client.send("meanwhile", handlers=handlers)
        until(lambda: all(one["attempt_count"] >= 2 for one in client.deliveries(meanwhile)), 40)
        assert {one["status"] for one in client.deliveries(meanwhile)} == {"pending"}
        assert client.get("/readyz").status == 200
        does_not_spin(service)
        ip("address", "add", f"{ADDRESS}/32", "dev", "lo")
        assert {one["status"] for one in client.settled(meanwhile, 40)} == {"delivered"}
        assert all(client.handler(handler)["is_enabled"] for handler in handlers)


class Resolver:
    """A name server that knows every name below `good.test`, and says nothing at all to others."""

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                question, whence = self._socket.recvfrom(2048)
                name, kind = _question(question)
                self.asked.add(name)
                if name.endswith("good.test"):
                    self._socket.sendto(_answer(question, kind), whence)

    def close(self) -> None:
        self._socket.close()


def _question(packet: bytes) -> tuple[str, int]:
    labels, at = [], 12
    while length := packet[at]:
        labels.append(packet[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels), int.from_bytes(packet[at + 1 : at + 3])


def _answer(packet: bytes, kind: int) -> bytes:
    """The address for an A question, nothing for others (RFC 1035, section 4)."""
    end = packet.index(b"\0", 12) + 5
    found = kind == 1
    record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04" + socket.inet_aton(ADDRESS) if found else b""
    return packet[:2] + b"\x81\x80\x00\x01" + (b"\x00\x01" if found else b"\x00\x00") + b"\0\0\0\0" + packet[12:end] + record


@pytest.fixture
def resolver(tmp_path: Path, network: None) -> Iterator[Resolver | None]:
    if INSIDE not in os.environ:
        yield None
        return
    ours = tmp_path / "resolv.conf"
    ours.write_text("nameserver 127.0.0.1\noptions timeout:30 attempts:1\n")
    subprocess.run(["mount", "--bind", str(ours), "/etc/resolv.conf"], check=True)
    found = Resolver()
    yield found
    found.close()
    subprocess.run(["umount", "/etc/resolv.conf"], check=True)


@in_a_namespace
def test_names_that_are_never_resolved_hold_up_no_other_name(resolver: Resolver, start_service: Starter) -> None:
    with Receiver(ADDRESS) as receiver:
        service = start_service(TOCSIN_ALLOW_NETWORKS="10.0.0.0/8")
        client = service.first()
        hanging = [client.add_handler("webhook", webhook=f"http://n{number}.hangs.test/") for number in range(150)]
        client.send("nobody resolves this", handlers=hanging)
        until(lambda: len([name for name in resolver.asked if name.endswith("hangs.test")]) >= 60)
        for number in range(20):
            url = f"http://n{number}.good.test:{receiver.port}/"
            [one] = client.settled(client.send("at once", handlers=[client.add_handler("webhook", webhook=url)]), 10)
            assert (one["status"], one["attempt_count"]) == ("delivered", 1)
        does_not_spin(service)
