"""Fresh connections: which address is used, and that a look-up or a certificate store that is slow holds up nobody else."""

import asyncio
import resource
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from mailserver import DROP, MailServer
from receiver import Receiver
from tocsin import settings
from tocsin.model import HttpReply, HttpRequest, Mail, MailReply, NoReply, Reason
from tocsin.net import dial
from tocsin.net.http import HttpWire
from tocsin.net.mail import MailWire
from tocsin.net.smtp import Timeouts

MAIL = Mail("alarm@example.com", "root@nas", b"Subject: hi\r\n\r\nhi\r\n")
HUNG = 600.0  # seconds: a test that waits for this has failed
HOST = "mail.test"


def wire_to(url: str, connect_seconds: float = HUNG, **more: Any) -> MailWire:
    given = {"TOCSIN_EMAIL_FROM": "alarm@example.com", "TOCSIN_SMTP_URL": url}
    return MailWire(settings.load(given, Path("/nonexistent")), timeouts=Timeouts(connect_seconds=connect_seconds), **more)


def run(work: Any) -> Any:
    """On the service's own kind of event loop; a test that hangs ends."""

    async def limited() -> Any:
        async with asyncio.timeout(30):
            return await work

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(limited())


class Resolver:
    """Stands in for the system's: knows one name; `block` keeps those who ask for it until `answer`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.asked = 0
        self.threads: set[str] = set()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._whole = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host != HOST:
            return self._whole(host, port, *args, **options)
        self.asked += 1
        self.threads.add(threading.current_thread().name)
        self.may_answer.wait()
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such host")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in self.addresses]


@contextmanager
def silent(address: str, port: int) -> Iterator[None]:
    """Packets to this address and port are dropped: nobody accepts, and the queue is full."""
    with socket.socket() as listener, socket.socket() as first:
        listener.bind((address, port))
        listener.listen(0)
        first.connect((address, port))
        yield


# ------------------------------------------------------------------------------------------------------------- addresses


def test_an_address_that_is_silent_holds_up_the_next_one_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    Resolver(monkeypatch, "127.0.0.2", "127.0.0.3", "127.0.0.1")
    with MailServer() as server, silent("127.0.0.2", server.port), silent("127.0.0.3", server.port):
        reply = run(wire_to(server.url("?tls=optional", HOST)).send(MAIL))
    assert isinstance(reply, MailReply)
    assert reply.code == 250


def test_one_that_refuses_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "STAGGER_SECONDS", HUNG)
    Resolver(monkeypatch, "127.0.0.2", "127.0.0.3", "127.0.0.1")
    with MailServer() as server:
        reply = run(wire_to(server.url("?tls=optional", HOST)).send(MAIL))
    assert isinstance(reply, MailReply)
    assert reply.code == 250


def test_families_take_turns() -> None:
    assert dial._families_in_turn(["::1", "::2", "::3", "1.1.1.1"]) == ["::1", "1.1.1.1", "::2", "::3"]
    assert dial._families_in_turn(["1.1.1.1", "1.1.1.2", "::1", "::2"]) == ["1.1.1.1", "::1", "1.1.1.2", "::2"]
    assert dial._families_in_turn([]) == []


@pytest.mark.parametrize("how", ["won", "cancelled", "all fail"])
def test_no_socket_is_left_behind(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Of `dial`'s own: while it runs, event loops and servers of other tests' threads make sockets too."""
    monkeypatch.setattr(dial, "STAGGER_SECONDS", 0.01)
    links: list[socket.socket] = []

    class Noted(socket.socket):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            links.append(self)

    async def work(port: int) -> socket.socket | None:
        race = asyncio.create_task(dial.race(["127.0.0.2", "127.0.0.3", "127.0.0.1"], port, 0.1 if how == "all fail" else HUNG))
        if how == "cancelled":
            while len(links) < 2:
                await asyncio.sleep(0.001)
            race.cancel()
        won = (await asyncio.gather(race, return_exceptions=True))[0]
        for _ in range(2000):  # those that lost are closed in their own time
            if all(link is won or link.fileno() == -1 for link in links):
                break
            await asyncio.sleep(0.001)
        return won if isinstance(won, socket.socket) else None

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with silent("127.0.0.2", port), silent("127.0.0.3", port):
            if how != "won":
                listener.close()
            monkeypatch.setattr(dial, "socket", SimpleNamespace(**{**vars(socket), "socket": Noted}))
            won = asyncio.run(work(port))
    assert len(links) >= 2
    still_open = [link for link in links if link.fileno() != -1]
    assert still_open == ([won] if how == "won" else [])
    for link in still_open:
        link.close()


# --------------------------------------------------------------------------------------------------------------- look-ups


def test_a_name_server_that_hangs_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither other names, nor whatever else runs in asyncio's threads, nor the mail for longer than it may take to connect."""
    resolver = Resolver(monkeypatch, "127.0.0.1")
    resolver.may_answer.clear()

    async def work() -> tuple[object, object, object]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        http = HttpWire(settings.load({"TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8,::1/128"}, Path("/nonexistent")))
        patient, hasty = wire_to(f"smtp://{HOST}:25", HUNG), wire_to(f"smtp://{HOST}:25", 0.1)
        waiting = [asyncio.create_task(patient.send(MAIL)) for _ in range(8)]
        while not resolver.asked:
            await asyncio.sleep(0.001)
        url = receiver.url("/hook").replace("127.0.0.1", "localhost")
        answered = await http.send(HttpRequest(url, url, b"{}")), await asyncio.to_thread(lambda: "done"), await hasty.send(MAIL)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await http.close()
        return answered

    with Receiver() as receiver:
        try:
            http_reply, threaded, mail_reply = run(work())
        finally:
            resolver.may_answer.set()
    assert isinstance(http_reply, HttpReply)
    assert threaded == "done"
    assert isinstance(mail_reply, NoReply)
    assert (mail_reply.reason, mail_reply.sent, mail_reply.ours) == (Reason.DNS, False, False)
    assert resolver.asked == 2  # once for each wire, however many mails wait


def test_addresses_are_kept_for_minutes_and_longer_while_nobody_knows_better(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver(monkeypatch, "127.0.0.1")
    now = 1000.0
    monkeypatch.setattr(dial.time, "monotonic", lambda: now)

    async def work() -> list[int]:
        nonlocal now
        dialer = dial.Dialer(HOST, port, HUNG, tls=None)
        counts = []

        async def connect() -> None:
            (await dialer.connect()).close()
            counts.append(resolver.asked)

        await connect()
        now += dial.FRESH_SECONDS - 1
        await connect()
        now += 2
        await connect()
        now += dial.FRESH_SECONDS + 1
        resolver.addresses.clear()
        await connect()  # the name server has failed: the old address is as good as any
        await connect()
        return counts

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert asyncio.run(work()) == [1, 1, 2, 3, 3]


def test_a_host_that_cannot_be_reached_is_looked_up_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver(monkeypatch, "127.0.0.9")

    async def work(url: str) -> list[MailReply | NoReply]:
        wire = wire_to(url)
        first = await wire.send(MAIL)
        resolver.addresses[:] = ["127.0.0.1"]
        return [first, await wire.send(MAIL)]

    with MailServer() as server:
        first, second = run(work(server.url("?tls=optional", HOST)))
    assert isinstance(first, NoReply)
    assert first.reason is Reason.CONNECT
    assert isinstance(second, MailReply)
    assert resolver.asked == 2


# -------------------------------------------------------------------------------------------------------------- resources


def test_certificates_are_read_once_and_in_no_shared_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole, threads = ssl.create_default_context, []

    def noted() -> ssl.SSLContext:
        threads.append(threading.current_thread().name)
        return whole()

    async def work(url: str) -> list[MailReply | NoReply]:
        loop = asyncio.get_running_loop()
        busy, until = ThreadPoolExecutor(1), threading.Event()
        loop.set_default_executor(busy)
        blocker = loop.run_in_executor(None, until.wait)
        wire = wire_to(url)
        gives_up = asyncio.create_task(wire.send(MAIL))
        others = [asyncio.create_task(wire.send(MAIL)) for _ in range(3)]
        await asyncio.sleep(0)
        gives_up.cancel()
        replies = await asyncio.gather(*others)
        until.set()
        await blocker
        return replies

    with MailServer(tls=True) as server:
        assert server.authority
        server.authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        monkeypatch.setattr(ssl, "create_default_context", noted)
        replies = run(work(server.url()))
    assert [isinstance(reply, MailReply) and reply.code for reply in replies] == [250] * 3
    assert threads == ["certificates"]


@contextmanager
def no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as lowest:
        limit = lowest.fileno()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def no_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return monkeypatch.undo


def test_what_this_process_lacks_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(url: str) -> list[MailReply | NoReply]:
        wire = wire_to(url)
        with no_descriptors():
            without_descriptors = await wire.send(MAIL)
        named, secure = wire_to(f"smtp://{HOST}:25?tls=optional"), wire_to(url.replace("smtp:", "smtps:"))
        threads_are_back = no_threads(monkeypatch)
        without_threads = [await named.send(MAIL), await secure.send(MAIL)]
        threads_are_back()
        return [without_descriptors, *without_threads, await wire.send(MAIL)]

    with MailServer() as server:
        *lacking, fine = run(work(server.url()))
    for reply in lacking:
        assert isinstance(reply, NoReply)
        assert (reply.ours, reply.sent) == (True, False), reply
    assert isinstance(fine, MailReply)
    assert fine.code == 250


@pytest.mark.parametrize("how", ["tls", "starttls", "closes"])
def test_a_host_at_whose_address_another_answers_is_looked_up_anew(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its old address was given to another machine, which has no certificate for the name, or closes."""
    resolver = Resolver(monkeypatch, "127.0.0.9")
    secure = {} if how == "closes" else {how: True}

    async def work(url: str) -> list[MailReply | NoReply]:
        wire = wire_to(url)
        first = await wire.send(MAIL)
        resolver.addresses[:] = ["127.0.0.1"]
        return [first, await wire.send(MAIL)]

    with MailServer(**secure, host="127.0.0.9", names=(HOST,)) as old:
        if how == "closes":
            old.answer("connect", DROP, DROP)
        server = MailServer(**secure, names=(HOST,))
        server.port = old.port
        with server:
            if server.authority:
                server.authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
                monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
            first, second = run(work(server.url("" if server.authority else "?tls=optional", HOST)))
    assert isinstance(first, NoReply)
    assert (first.reason, first.sent) == (Reason.CONNECT if how == "closes" else Reason.TLS, False)
    assert isinstance(second, MailReply)
    assert second.code == 250
    assert resolver.asked == 2
