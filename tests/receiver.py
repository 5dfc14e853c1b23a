"""A real HTTP/1.1 server on loopback that answers from a script, as badly as a test wants, and remembers what it was asked.

It runs in a thread of its own, so it serves tests with or without an event loop:

    with Receiver() as receiver:                                # or tls=True: https with a certificate of its own
        receiver.answer("/hook", 500)                           # the first request to /hook
        receiver.answer("/hook", 200, body=b"ok")               # the second, and all that follow
        ...                                                     # send something to receiver.url("/hook?x=1")
        await receiver.wait_for(2)                              # or receiver.wait(2) where no loop runs
        assert receiver.requests[0].json() == {...}

Answers are queued per path (without the query); the last one stays. A path without a script answers 200 with the body `ok`.
How an answer misbehaves is said by `how`, see `Answer`. With `hold=True` an answer waits until `receiver.release()`.
"""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import trustme

HOW = (
    "whole",  # as a good server answers
    "chunked",  # good too: the body in chunks
    "dribble",  # the answer byte by byte, `pause` seconds apart
    "endless",  # a body without an end, or without one in sight
    "endless_headers",  # header lines without an end
    "broken_chunks",  # a chunk whose size cannot be read
    "cut_headers",  # closes in the middle of the header lines
    "cut_body",  # closes in the middle of the body
    "close",  # closes before it answers
    "reset",  # resets the connection before it answers
    "hang",  # reads the request and never answers
    "raw",  # writes `body` as it is, instead of an answer, then closes
)


@dataclass
class Answer:
    """One scripted answer. `headers` may hold Content-Length, else the right one is sent; `close` ends the connection after it."""

    status: int = 200
    headers: Mapping[str, str] | list[tuple[str, str]] = field(default_factory=dict)
    body: bytes = b"ok"
    how: str = "whole"
    version: str = "HTTP/1.1"
    delay: float = 0.0
    pause: float = 0.01
    hold: bool = False
    close: bool = False
    before: bytes = b""
    """Written in front of the status line: 1xx responses, say."""

    def __post_init__(self) -> None:
        assert self.how in HOW, f"how must be one of {', '.join(HOW)}"

    def head(self) -> bytes:
        given = list(self.headers.items()) if isinstance(self.headers, Mapping) else self.headers
        names = {name.lower() for name, _ in given}
        if self.how in {"chunked", "broken_chunks"}:
            given = [*given, ("Transfer-Encoding", "chunked")]
        elif "content-length" not in names and self.how != "endless":
            given = [*given, ("Content-Length", str(len(self.body)))]
        if self.close and "connection" not in names:
            given = [*given, ("Connection", "close")]
        lines = "".join(f"{name}: {value}\r\n" for name, value in given)
        return self.before + f"{self.version} {self.status} Answer\r\n{lines}\r\n".encode("latin-1")


@dataclass(frozen=True)
class Received:
    """One request. `target` is as it stood in the request line; header names in lower case; `at` is time.monotonic()."""

    method: str
    target: str
    headers: dict[str, str]
    header_lines: list[tuple[str, str]]
    body: bytes
    at: float
    connection: int

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def json(self) -> Any:
        return json.loads(self.body)


class Receiver:
    """The server. `requests`: all so far, in order. `connections`: how many were opened. `greeting`: `hang`, `close` or
    `reset` does that to every new connection before a byte is read."""

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, tls: bool = False, names: tuple[str, ...] = (), greeting: str = ""
    ) -> None:
        self.host = host
        self.port = port
        self.greeting = greeting
        self.requests: list[Received] = []
        self.connections = 0
        self.open_connections = 0
        self.authority = trustme.CA() if tls else None
        """Signs the certificate; `authority.cert_pem.write_to_path(...)` gives clients something to trust."""
        self._names = names or (host, "localhost")
        self._script: dict[str, list[Answer]] = defaultdict(list)
        self._changed = threading.Condition()
        self._released = threading.Event()
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)

    # ------------------------------------------------------------------------------------------------------ for the test

    def url(self, path: str = "/", host: str | None = None) -> str:
        host = host or self.host
        host = f"[{host}]" if ":" in host else host
        return f"{'https' if self.authority else 'http'}://{host}:{self.port}{path}"

    def answer(self, path: str, status: int = 200, **details: Any) -> None:
        """Queue an answer for a path; `details` are the fields of `Answer`."""
        with self._changed:
            self._script[path].append(Answer(status, **details))

    def forget(self, path: str) -> None:
        """Drop what is queued for a path, so that the next `answer` is the next answer."""
        with self._changed:
            self._script.pop(path, None)

    def release(self) -> None:
        """Let the answers with `hold=True` go, now and from now on."""
        self._released.set()

    def wait(self, count: int, timeout: float = 10.0) -> list[Received]:
        """The requests, once there are at least `count`. Raises AssertionError if there are fewer after `timeout` seconds."""
        with self._changed:
            enough = self._changed.wait_for(lambda: len(self.requests) >= count, timeout)
            assert enough, f"{len(self.requests)} requests came within {timeout} s, {count} were expected"
            return list(self.requests)

    async def wait_for(self, count: int, timeout: float = 10.0) -> list[Received]:
        """As `wait`, without blocking the event loop."""
        return await asyncio.to_thread(self.wait, count, timeout)

    async def wait_closed(self, timeout: float = 10.0) -> None:
        """Until no connection is open any more."""

        def wait() -> None:
            with self._changed:
                assert self._changed.wait_for(lambda: self.open_connections == 0, timeout), (
                    f"{self.open_connections} connections stayed open"
                )

        await asyncio.to_thread(wait)

    def close_connections(self) -> None:
        """Close every open connection from this side, idle or not; returns once they are closed."""
        assert self._loop
        asyncio.run_coroutine_threadsafe(self._end_connections(), self._loop).result(10)

    def start(self) -> Self:
        self._thread.start()
        self._started.wait(10)
        if self._failure:
            raise self._failure
        return self

    def stop(self) -> None:
        self._released.set()
        if self._loop and self._stop and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the receiver did not stop"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -------------------------------------------------------------------------------------------------------- the server

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
            self._started.set()
            raise

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        context = None
        if self.authority:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.authority.issue_cert(*self._names).configure_cert(context)
        end = {"ssl_shutdown_timeout": 0.05} if context else {}  # closing does not wait for the client to agree
        server = await asyncio.start_server(self._connected, self.host, self.port, ssl=context, backlog=1024, limit=1 << 20, **end)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        await self._end_connections()

    async def _end_connections(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._changed:
            self.connections += 1
            self.open_connections += 1
            number = self.connections
        try:
            if self.greeting == "hang":
                await asyncio.Event().wait()
            elif self.greeting == "reset":
                _reset(writer)
            elif not self.greeting:
                while (request := await _read(reader, number)) and await self._respond(request, writer):
                    pass
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the client went away, which is its right
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            with self._changed:
                self.open_connections -= 1
                self._changed.notify_all()

    async def _respond(self, request: Received, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection stays open."""
        with self._changed:
            queue = self._script.get(request.path) or [Answer()]
            answer = queue.pop(0) if len(queue) > 1 else queue[0]
            self.requests.append(request)
            self._changed.notify_all()
        if answer.hold:
            await asyncio.to_thread(self._released.wait)
        await asyncio.sleep(answer.delay)
        await _write(answer, writer)
        stays = answer.how in {"whole", "chunked", "dribble"} and not answer.close and answer.version == "HTTP/1.1"
        return stays and request.headers.get("connection", "").lower() != "close"


async def _read(reader: asyncio.StreamReader, connection: int) -> Received | None:
    head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
    if not head:
        return None
    first, *rest = head.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = first.split(" ")
    lines = [(name, value.strip()) for name, _, value in (line.partition(":") for line in rest)]
    headers = {name.lower(): value for name, value in lines}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(method, target, headers, lines, body, time.monotonic(), connection)


async def _write(answer: Answer, writer: asyncio.StreamWriter) -> None:
    head, body = answer.head(), answer.body
    match answer.how:
        case "whole":
            writer.write(head + body)
        case "chunked":
            writer.write(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else head + b"0\r\n\r\n")
        case "broken_chunks":
            writer.write(head + b"%x\r\n%b\r\nzz\r\n" % (len(body), body))
        case "dribble":
            await _write_bytewise(writer, head + body, answer.pause)
        case "endless":
            await _write_endless(writer, head, (body or b"x") * (65536 // len(body or b"x")))
        case "endless_headers":
            await _write_endless(writer, head[:-2], b"X-Filler: filler\r\n" * 1000)
        case "cut_headers":
            writer.write(head[: len(head) // 2])
        case "cut_body":
            writer.write(head + body[: len(body) // 2])
        case "hang":
            await asyncio.Event().wait()
        case "raw":
            writer.write(body)
        case "reset":
            _reset(writer)
            return
    await writer.drain()


async def _write_bytewise(writer: asyncio.StreamWriter, data: bytes, pause: float) -> None:
    for byte in data:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(pause)


async def _write_endless(writer: asyncio.StreamWriter, head: bytes, piece: bytes) -> None:
    writer.write(head)
    while True:
        writer.write(piece)
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
