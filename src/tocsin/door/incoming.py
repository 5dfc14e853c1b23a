"""One connection of a client: uvicorn's protocol on httptools, with limits on what is sent and on how long that takes.

uvicorn itself has no limit on heads and no deadline except between requests, and no setting for either; its h11 protocol
limits heads but takes three times as long for a request. The parser, the flow control and the ASGI side stay uvicorn's.
"""

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import cast

import httptools
from uvicorn import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from tocsin.door.offers import parser_behind
from tocsin.door.refusals import refusal, target_in
from tocsin.door.register import Queue, Register

MAX_HEAD_BYTES = 65_536  # we promise to accept 32 KB
MAX_UNREAD_BYTES = 16 << 20  # of an unwanted body, read so that the client sees the answer
MAX_FED_BYTES = 8_192  # at once: what is checked between two pieces cannot grow beyond this
_HEADER_COST, _REQUEST_COST = 100, 3_000  # bytes of memory for a header besides its text, and for a request sent ahead


class _Wants(Enum):
    """What the parser waits for."""

    NOTHING = "a request may begin"
    HEAD = "the rest of a head"
    BODY = "the rest of a body"


_NOTHING, _HEAD, _BODY = _Wants  # needed for each request, and access through the class takes several times as long


class Incoming(HttpToolsProtocol):
    """`counted_as`: the address that the connection counts against, None for none."""

    # Beyond 30 names Python no longer shares the keys of the instances' dictionaries, which costs 1 KB per connection: hence slots.
    __slots__ = (
        "_ahead", "_body_bytes", "_counted_as", "_fault", "_fed", "_hosts", "_is_deaf", "_is_ended", "_is_offered", "_pending",
        "_register", "_started", "_wants", "address", "charged", "queue",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        state: ServerState,
        register: Register,
        counted_as: Callable[[str], str | None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(config, state, {}, loop)
        self.parser: httptools.HttpRequestParser | None
        self._register = register
        self._counted_as = counted_as
        self.url = b""
        self.address: str | None = None
        self.queue: Queue | None = None
        self.charged = 0
        self._ahead: RequestResponseCycle | None = None  # the request in progress, when others are sent ahead of its answer
        self._wants = _HEAD
        self._fed = 0  # bytes since the parser last made progress
        self._pending = b""  # read but not yet fed to the parser
        self._body_bytes = 0
        self._started = 0.0  # when this body was first waited for
        self._hosts = 0
        self._fault = ""
        self._is_deaf = False  # further input is ignored
        self._is_ended = False  # the client sends nothing more
        self._is_offered = False  # the head that was read offers another protocol

    # ------------------------------------------------------------------------------------------------------ the connection

    @property
    def has_begun(self) -> bool:
        return self.flow is not None  # pyright: ignore[reportUnnecessaryComparison] - it is, until connection_made

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self.address = self._counted_as(self.client[0]) if self.client else None
        if not self._register.enter(self):
            self._refuse("rate_limited")

    def connection_lost(self, exc: Exception | None) -> None:
        ahead = self._ahead
        if ahead is not None and not ahead.response_complete:  # uvicorn tells only the last one
            ahead.disconnected = True
            ahead.message_event.set()
        super().connection_lost(exc)
        self._register.left(self)
        self._pending = b""

    def eof_received(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride] - uvicorn's always closes
        """A client that has finished sending still gets its answers."""
        if self._is_deaf or self._wants is _BODY or not (self._is_answering or self._pending):
            return False
        self._is_ended = True
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._register.stalls(self, True)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._register.stalls(self, False)

    def shutdown(self) -> None:
        if self._wants is _BODY:  # the rest may never come, and something waits for the end
            self._refuse("busy")
        super().shutdown()
        if self.transport.is_closing():
            self._register.see_off(self)

    # ------------------------------------------------------------------------------------------------------- what comes in

    def data_received(self, data: bytes) -> None:
        if len(data) > MAX_FED_BYTES or self._pending or self._is_deaf:
            self._pending += data
            self._feed_pending()
        else:
            self._feed(data)
            self._settle()

    def _feed_pending(self) -> None:
        """Feed piece by piece, until requests have to wait for the one before them."""
        data, self._pending = memoryview(self._pending), b""
        while data and not self._is_deaf and not self.pipeline and self.parser is not None:
            self._feed(data[:MAX_FED_BYTES])
            data = data[MAX_FED_BYTES:]
        if self._is_deaf:
            self._overhear(len(data))
        elif self.parser is not None:
            self._pending = bytes(data)
            self._settle()

    def _feed(self, data: bytes | memoryview) -> None:
        self._fed += len(data)
        try:
            self.parser.feed_data(data)  # pyright: ignore[reportOptionalMemberAccess] - None only after connection_lost
        except httptools.HttpParserUpgrade as offer:
            self._ignore_offer(data[offer.args[0] :])
        except httptools.HttpParserError:
            self._refuse(self._fault or "unreadable", bytes(data))
        else:
            if self._fed > MAX_HEAD_BYTES:
                self._refuse("line_too_long" if self._is_line_long() else "head_too_large")

    def _ignore_offer(self, behind: bytes | memoryview) -> None:
        """`behind`: what came after the head."""
        self._is_offered = False
        try:
            self.parser = parser_behind(self.scope["headers"], self, self.cycle.keep_alive)
        except httptools.HttpParserError:
            self._refuse("unreadable")
            return
        if behind:
            self._feed(behind)

    def _overhear(self, size: int) -> None:
        self._body_bytes += size
        if self._body_bytes > MAX_UNREAD_BYTES:
            self.abort()

    def on_message_begin(self) -> None:
        HttpToolsProtocol.on_message_begin(self)
        self._wants = _HEAD
        self._hosts = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"host":
            self._hosts += 1
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        # `_fed` also counts what follows in the same piece, and misses what came before this head in it.
        if self._fed > MAX_HEAD_BYTES - 2 * MAX_FED_BYTES and self._head_size() > MAX_HEAD_BYTES:
            self._fail("line_too_long" if self._is_line_long() else "head_too_large")
        if self._hosts > 1:
            self._fail("two_hosts")
        parser = cast(httptools.HttpRequestParser, self.parser)
        self._is_offered = parser.should_upgrade()
        if self.expect_100_continue and parser.get_http_version() != "1.1":
            self.expect_100_continue = False  # RFC 9110 10.1.1
        before = self.cycle
        HttpToolsProtocol.on_headers_complete(self)
        if len(self.pipeline) == 1:
            self._ahead = before
        self.headers = []  # trailers are not the request's headers
        self._wants = _BODY
        self._fed = self._body_bytes = 0

    # The two below are uvicorn's, without its check for web sockets on every piece.

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        self._fed = 0
        self._body_bytes += len(body)
        if not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()
        elif self._body_bytes > MAX_UNREAD_BYTES:
            self._fail("unreadable")

    def on_message_complete(self) -> None:
        if self._is_offered:
            return  # only to the parser
        cycle = self.cycle
        self._fed = 0
        self._started = 0.0
        self._wants = _NOTHING
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def _fail(self, code: str) -> None:
        """Stop the parser; `_feed` sends the answer."""
        self._fault = code
        raise ValueError(code)

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + len(b": \r\n") for name, value in self.headers)

    def _is_line_long(self) -> bool:
        return self._wants is _HEAD and len(self.url) > MAX_HEAD_BYTES // 2

    # ---------------------------------------------------------------------------------------------- what is waited for now

    @property
    def _is_answering(self) -> bool:
        """A request is complete, but its answer or an earlier one is not."""
        return self._wants is not _BODY and bool(self.cycle) and not self.cycle.response_complete

    @property
    def can_be_dismissed(self) -> bool:
        return not self.flow.read_paused and not self.pipeline

    def _settle(self) -> None:
        """Move to the queue of the register that fits what came last."""
        if self._is_deaf:
            return
        register, wants, cycle = self._register, self._wants, self.cycle
        if wants is _BODY:
            self._await_body()
        elif cycle and not cycle.response_complete:
            if self.queue is not None:
                register.place(self, None)
            if self.pipeline:
                register.charge(self, _REQUEST_COST * len(self.pipeline) + len(self._pending))
        elif self._is_ended:
            self.transport.close()
        elif wants is _HEAD:
            if self.queue is not register.heads:
                register.place(self, register.heads)
            if self._fed:
                register.charge(self, self._fed + _HEADER_COST * len(self.headers or ()))
        elif self.queue is not register.kept:
            register.place(self, register.kept)

    def _await_body(self) -> None:
        register = self._register
        now = register.clock()
        if not self._started:
            self._started = now
        elif now - self._started > register.rules.body_seconds + self._body_bytes / register.rules.body_rate:
            self._refuse("too_slow")
            return
        register.place(self, register.bodies)

    def on_response_complete(self) -> None:
        """uvicorn's, with the register instead of a timer for each request."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._ahead = cycle
            self._start_asgi_task(cycle, app)
        elif self._is_deaf:
            self.transport.close()
        elif self._pending:
            self.loop.call_soon(self._feed_pending)
        else:
            self._settle()

    # ------------------------------------------------------------------------------------------------------------ the end

    def overdue(self) -> None:
        register = self._register
        if self.queue is register.bodies and not self.can_be_dismissed:
            self._started = register.clock()  # we are the ones who do not read
            register.place(self, register.bodies)
        elif self._has_asked:
            self._refuse("too_slow")
        else:
            self._close()

    def dismiss(self) -> None:
        if self._has_asked:
            self._refuse("busy")
        else:
            self._close()

    def abort(self) -> None:
        self.transport.abort()

    @property
    def _has_asked(self) -> bool:
        """A request has begun, so an answer makes sense."""
        return self.queue is not self._register.kept and (self._fed > 0 or self._wants is _BODY or self._is_answering)

    def _close(self) -> None:
        self._is_deaf = True
        self.transport.close()
        self._register.see_off(self)

    def _refuse(self, code: str, data: bytes = b"") -> None:
        """Send this answer and close the connection once the client has read it. `data`: bytes that may name the target."""
        if self._is_answering:
            # A request in progress gets its answer; requests sent ahead do not.
            self._is_deaf = True
            self._pending = b""
            self.pipeline.clear()
            self._register.place(self, None)
            return
        target = self.url if self._wants is not _NOTHING else b""
        if self._wants is _BODY:
            if self.pipeline or self.cycle.response_started:
                self._close()
                return
            self.cycle.disconnected = True  # for the service the client has gone
            self.cycle.message_event.set()
        self._is_deaf = True
        self.transport.write(refusal(code, target or target_in(data), self.server_state.default_headers))
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()  # if we closed now, whatever the client still sends would cause a reset, which hides our answer
        self._register.see_off(self)
