"""Receivers with distance: one process that listens on every address of 127.0.0.0/8, and each URL's path says how it answers.

    /wait/200/7     200 after 200 ms
    /mix/0/7        200 after a time from the long-tailed mix, see `long_tailed_ms`
    /hang/0/7       never
    /once/0/7       503 to a message's first request, then 200
    /close/0/7      200, and the connection is closed
    /bot12:ab/...   what Telegram's Bot API says, at once

The last number is the tag, which comes back with each arrival. One raw protocol and one timer of libuv for each answer: 6,000 requests
a second take half a core.
"""

import asyncio
import math
import os
import random
import re
import socket
import ssl
import time
from array import array
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import trustme
import uvloop
from msgspec import Struct

from bench.machine import start_pinned

MEDIAN_MS = 120.0
# Of a normal distribution 1 % lies above 2.326 standard deviations, and 1 % is to take more than 5 s.
SIGMA = math.log(5000 / MEDIAN_MS) / 2.326
MAX_MIX_MS = 15_000.0  # the service gives up after 20 s
SEED = 1
HOSTS_A_CERTIFICATE = 50  # a certificate with a thousand addresses would make the handshake the receiver's
_LOOPBACK = "lo"
_BACKLOG = 4096
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PATH = re.compile(rb"POST /(?:([a-z]+)/(\d+)/(\d+)|bot(\d+):)")
_ID = re.compile(rb'"data":\{"id":(\d+)|#(\d+)')  # the webhook's notification id, or the number in the text


def _answer(status: bytes, body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status, b"content-type: application/json", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


_OK = _answer(b"200 OK", b"ok")  # the very body that Slack's answer has
_OK_AND_CLOSE = _answer(b"200 OK", b"ok", b"connection: close")
_LATER = _answer(b"503 Later", b"")
_TELEGRAM = _answer(b"200 OK", b'{"ok":true,"result":{"message_id":1}}')


def host(number: int) -> str:
    """The address of receiver `number`, of up to ten million."""
    return f"127.{10 + number // 62_500}.{number // 250 % 250}.{number % 250 + 1}"


def long_tailed_ms(dice: random.Random) -> float:
    """Milliseconds of the long-tailed mix: log-normal, median 120 ms, 1 % over 5 s."""
    return min(MAX_MIX_MS, dice.lognormvariate(math.log(MEDIAN_MS), SIGMA))


class Arrival(Struct, frozen=True, array_like=True):
    """`id`: the notification's, or the number after the # in its text; `at`: nanoseconds since 1970, when the request was whole."""

    id: int
    tag: int
    at: int


class Seen(Struct, frozen=True):
    """Requests since the last `take`; connections that are open, and the most there have been since `forget_peak`."""

    requests: int
    connections: int
    peak_connections: int


class _Setup(Struct, frozen=True):
    certificates: list[str]
    hosts: list[list[str]]


class Distant:
    """The parent's end. With `tls_hosts` the first so many hosts speak TLS too, with certificates of the authority in `authority`."""

    def __init__(self, core: set[int], folder: Path, tls_hosts: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        setup = _certificates(folder, tls_hosts)
        self.authority = folder / "authority.pem"
        self._process, self._pipe = start_pinned(core, serve)
        self._pipe.send(setup)
        self._port, self._tls_port = self._pipe.recv()

    def url(self, number: int, answer: str = "wait", wait_ms: int = 0, tls: bool = False, tag: int | None = None) -> str:
        """Of the receiver `number`, answering so; its tag is its number."""
        path = f"{host(number)}:{self._tls_port if tls else self._port}/{answer}/{wait_ms}/{number if tag is None else tag}"
        return f"{'https' if tls else 'http'}://{path}"

    @property
    def telegram_url(self) -> str:
        """For TOCSIN_TELEGRAM_API_URL."""
        return f"http://{host(0)}:{self._port}"

    def seen(self) -> Seen:
        self._pipe.send("seen")
        return Seen(*self._pipe.recv())

    def forget_peak(self) -> None:
        self._pipe.send("forget")
        self._pipe.recv()

    def take(self) -> list[Arrival]:
        """Every request since the last call, in the order of arrival."""
        self._pipe.send("take")
        ids, tags, times = (array("q", self._pipe.recv_bytes()) for _ in range(3))
        return [Arrival(*one) for one in zip(ids, tags, times, strict=True)]

    def close(self) -> None:
        self._pipe.send("end")
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()


def _certificates(folder: Path, tls_hosts: int) -> _Setup:
    setup = _Setup([], [])
    if not tls_hosts:
        return setup
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    for first in range(0, tls_hosts, HOSTS_A_CERTIFICATE):
        hosts = [host(number) for number in range(first, min(first + HOSTS_A_CERTIFICATE, tls_hosts))]
        file = folder / f"certificate-{first}.pem"
        authority.issue_cert(*hosts).private_key_and_cert_chain_pem.write_to_path(file)
        setup.certificates.append(str(file))
        setup.hosts.append(hosts)
    return setup


# ---------------------------------------------------------------------------------------------------- the process itself


class _Book:
    """What arrived and who is connected."""

    def __init__(self) -> None:
        self.ids, self.tags, self.times = array("q"), array("q"), array("q")
        self.refused: set[int] = set()
        self.connections = 0
        self.peak = 0
        self.dice = random.Random(SEED)


class _Exchange(asyncio.Protocol):
    def __init__(self, book: _Book) -> None:
        self._book = book
        self._rest = b""
        self._call_later = asyncio.get_running_loop().call_later

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._book.connections += 1
        self._book.peak = max(self._book.peak, self._book.connections)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's name
        self._book.connections -= 1

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        while data:
            head = data.find(b"\r\n\r\n")
            length = _LENGTH.search(data, 0, head + 2) if head >= 0 else None
            end = head + 4 + int(length[1]) if length else -1
            if head >= 0 and length is None:
                self._transport.abort()  # every sender here says its length
                return
            if end < 0 or len(data) < end:
                break
            self._take(data, head, end)
            data = data[end:]
        self._rest = data

    def _take(self, data: bytes, head: int, end: int) -> None:
        found, path, book = _ID.search(data, head, end), _PATH.match(data), self._book
        one = int(found[1] or found[2]) if found else -1
        book.ids.append(one)
        book.tags.append(int(path[3] or path[4]) if path else -1)
        book.times.append(time.time_ns())
        what = path[1] if path else b"wait"
        if what == b"wait" and path:
            self._later(_OK, int(path[2]))
        elif what == b"mix":
            self._later(_OK, long_tailed_ms(book.dice))
        elif what == b"once" and one not in book.refused:
            book.refused.add(one)
            self._later(_LATER, 0)
        elif what is None:
            self._later(_TELEGRAM, 0)
        elif what == b"close":
            self._later(_OK_AND_CLOSE, 0)
            self._transport.close()  # after what is written
        elif what != b"hang":
            self._later(_OK, 0)

    def _later(self, answer: bytes, wait_ms: float) -> None:
        if wait_ms:
            self._call_later(wait_ms / 1000, self._write, answer)
        else:
            self._transport.write(answer)

    def _write(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


def serve(pipe: Connection) -> None:
    uvloop.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    loop = asyncio.get_running_loop()
    book = _Book()
    ended: asyncio.Future[None] = loop.create_future()
    setup: _Setup = pipe.recv()

    def make() -> _Exchange:
        return _Exchange(book)

    server = await loop.create_server(make, sock=_everywhere(), backlog=_BACKLOG)
    servers = [server, *await _with_tls(make, setup)]
    pipe.send([servers[0].sockets[0].getsockname()[1], servers[-1].sockets[0].getsockname()[1]])

    def asked() -> None:
        try:
            if _tell(pipe, book):
                ended.set_result(None)
        except (OSError, EOFError) as error:
            ended.set_exception(error)  # the parent is gone

    loop.add_reader(pipe.fileno(), asked)
    os.set_blocking(pipe.fileno(), True)  # uvloop made it non-blocking, and answers are larger than its buffer
    await ended


def _everywhere() -> socket.socket:
    """A socket that listens on all loopback addresses and on no other device."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _LOOPBACK.encode() + b"\0")
    listening.bind(("0.0.0.0", 0))
    listening.setblocking(False)
    return listening


async def _with_tls(make: Callable[[], asyncio.Protocol], setup: _Setup) -> Sequence[asyncio.Server]:
    loop = asyncio.get_running_loop()
    servers: list[asyncio.Server] = []
    port = 0
    for certificate, hosts in zip(setup.certificates, setup.hosts, strict=True):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        if not port:
            with socket.create_server((hosts[0], 0)) as probe:
                port = probe.getsockname()[1]
        servers.append(await loop.create_server(make, hosts, port, ssl=context, backlog=_BACKLOG))
    return servers


def _tell(pipe: Connection, book: _Book) -> bool:
    """Answer the parent; whether that was all."""
    match pipe.recv() if pipe.poll() else None:
        case "seen":
            pipe.send((len(book.ids), book.connections, book.peak))
        case "forget":
            book.peak = book.connections
            pipe.send(None)
        case "take":
            for column in (book.ids, book.tags, book.times):
                pipe.send_bytes(column.tobytes())
            book.ids, book.tags, book.times = array("q"), array("q"), array("q")
        case "end":
            return True
        case _:
            pass
    return False
