"""The load: a few keep-alive connections that send requests made beforehand and keep the ids of every 202."""

import asyncio
import re
import time
from collections import deque
from collections.abc import Sequence

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb'"id": ?(\d+)')


class Refused(Exception):
    """The service answered something else than 202 or 503, or closed the connection."""


class Producer:
    """Sends all requests once; 503 is sent again after the wait it asks for."""

    def __init__(self, requests: Sequence[bytes]) -> None:
        self.accepted: dict[int, int] = {}  # id: when its 202 came, nanoseconds since 1970
        self.answered_ms: list[float] = []  # how long each request waited for its 202
        self.first_sent_at = 0
        self.busy_answers = 0
        self.longest_stall_seconds = 0.0  # by which a paced request was late: the machine stood still, or this process did
        self._loop = asyncio.get_running_loop()
        self._waiting = deque(requests)
        self._left = len(requests)
        self._idle: deque[_Connection] = deque()  # in turn, so that none stays idle until the service closes it
        self._paced = False
        self._overdue = 0  # paced requests whose time came while all connections waited for answers
        self._done: asyncio.Future[None] = self._loop.create_future()

    async def run(self, port: int, connections: int, interval_seconds: float = 0.0) -> None:
        """As fast as the answers come, or one request every interval, however late the answers are. Raises Refused."""
        opened = [await self._loop.create_connection(lambda: _Connection(self), "127.0.0.1", port) for _ in range(connections)]
        self._idle.extend(connection for _, connection in opened)
        self.first_sent_at = time.time_ns()
        self._paced = interval_seconds > 0
        if self._paced:
            self._tick(self._loop.time(), interval_seconds)
        else:
            while self._idle and self._waiting:
                self._idle.popleft().send(self._waiting.popleft())
        try:
            await self._done
        finally:
            self._done.cancel()
            for transport, _ in opened:
                transport.close()

    def _tick(self, at: float, interval: float) -> None:
        if self._waiting and not self._done.done():
            self.longest_stall_seconds = max(self.longest_stall_seconds, self._loop.time() - at)
            self._overdue += 1
            while self._idle and self._overdue and self._waiting:
                self._overdue -= 1
                self._idle.popleft().send(self._waiting.popleft())
            self._loop.call_at(at + interval, self._tick, at + interval, interval)

    def answered(self, connection: "_Connection", request: bytes, head: bytes, body: bytes) -> None:
        status = head[9:12]
        if status == b"503":
            self.busy_answers += 1
            wait = _RETRY_AFTER.search(head)
            self._loop.call_later(int(wait[1]) if wait else 1, connection.send, request)
            return
        if status != b"202":
            self.failed(Refused(f"{head[:40]!r} {body[:300]!r}"))
            return
        now = time.time_ns()
        self.answered_ms.append((now - connection.sent_at) / 1e6)
        for found in _ID.findall(body):
            self.accepted[int(found)] = now
        self._left -= 1
        if not self._left and not self._done.done():
            self._done.set_result(None)
        elif self._waiting and (self._overdue or not self._paced):
            self._overdue = max(0, self._overdue - 1)
            connection.send(self._waiting.popleft())
        else:
            self._idle.append(connection)

    def failed(self, error: Refused) -> None:
        if not self._done.done():
            error.add_note(f"The producer's longest stall was {self.longest_stall_seconds:.3f} s.")
            self._done.set_exception(error)


class _Connection(asyncio.Protocol):
    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._request = b""
        self._answer = b""
        self._waits = False
        self.sent_at = 0  # of the last request, nanoseconds since 1970

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._quiet_since = asyncio.get_running_loop().time()

    def send(self, request: bytes) -> None:
        self._request, self._waits = request, True
        self._quiet_since = asyncio.get_running_loop().time()
        self.sent_at = time.time_ns()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head = self._answer.find(b"\r\n\r\n")
        length = _LENGTH.search(self._answer, 0, head + 2) if head >= 0 else None
        if length is None or len(self._answer) < head + 4 + int(length[1]):
            return
        answer, self._answer, self._waits = self._answer, b"", False
        self._producer.answered(self, self._request, answer[: head + 2], answer[head + 4 :])

    def connection_lost(self, exc: Exception | None) -> None:
        state = "with a request on it" if self._waits else "while it was idle"
        idle_seconds = asyncio.get_running_loop().time() - self._quiet_since
        self._producer.failed(Refused(f"a connection was lost {state}, {idle_seconds:.3f} s after its last use: {exc or 'closed'}"))
