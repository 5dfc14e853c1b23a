"""The receiver: one process, a listening port for each handler, the least work that HTTP/1.1 allows for each request."""

import asyncio
import os
import re
import time
from array import array
from multiprocessing.connection import Connection

import uvloop

from bench.machine import start_pinned

_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb'"data":\{"id":(\d+)|"message": ?"#(\d+)')  # the webhook's notification id, or the number in Apprise's text


class Receiver:
    """The parent's end. What arrived is kept until it is taken."""

    def __init__(self, core: set[int], ports: int) -> None:
        self._process, self._pipe = start_pinned(core, serve)
        self._pipe.send(ports)
        self.ports: list[int] = self._pipe.recv()

    def count(self) -> int:
        """Requests since the last `take`."""
        self._pipe.send("count")
        return self._pipe.recv()

    def take(self) -> list[tuple[int, int]]:
        """(id, nanoseconds since 1970) of every request since the last call, in the order of arrival."""
        self._pipe.send("take")
        ids, times = array("q", self._pipe.recv_bytes()), array("q", self._pipe.recv_bytes())
        return list(zip(ids, times, strict=True))

    def close(self) -> None:
        self._pipe.send("end")
        self._process.join()


class _Arrivals:
    def __init__(self) -> None:
        self.ids = array("q")
        self.times = array("q")


class _Exchange(asyncio.Protocol):
    def __init__(self, arrivals: _Arrivals) -> None:
        self._arrivals = arrivals
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

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
            found = _ID.search(data, head, end)
            self._arrivals.ids.append(int(found[1] or found[2]) if found else -1)
            self._arrivals.times.append(time.time_ns())
            self._transport.write(_OK)
            data = data[end:]
        self._rest = data


def serve(pipe: Connection) -> None:
    uvloop.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    loop = asyncio.get_running_loop()
    arrivals = _Arrivals()
    ended = loop.create_future()
    servers = [await loop.create_server(lambda: _Exchange(arrivals), "127.0.0.1", 0, backlog=1024) for _ in range(pipe.recv())]
    pipe.send([server.sockets[0].getsockname()[1] for server in servers])

    def asked() -> None:
        try:
            if _answer(pipe, arrivals):
                ended.set_result(None)
        except OSError as error:
            ended.set_exception(error)  # the parent then reads the end of the pipe instead of waiting

    loop.add_reader(pipe.fileno(), asked)
    os.set_blocking(pipe.fileno(), True)  # uvloop made it non-blocking, and answers are larger than its buffer
    await ended


def _answer(pipe: Connection, arrivals: _Arrivals) -> bool:
    """Answer the parent; whether that was all."""
    match pipe.recv() if pipe.poll() else None:
        case "count":
            pipe.send(len(arrivals.ids))
        case "take":
            pipe.send_bytes(arrivals.ids.tobytes())
            pipe.send_bytes(arrivals.times.tobytes())
            arrivals.ids, arrivals.times = array("q"), array("q")
        case "end":
            return True
        case _:
            pass
    return False
