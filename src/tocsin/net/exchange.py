"""One request on a libcurl handle: its options, what it received, and the resulting reply."""

import functools
import io
import os
import re
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import msgspec
import pycurl
import structlog
from msgspec import Struct

from tocsin import __version__
from tocsin.model import HttpReply, HttpRequest, NoReply, Reason
from tocsin.net import trust
from tocsin.net.closers import Closers
from tocsin.net.curl_failures import HEAD_TOO_LARGE, HTTP2_STREAM, no_reply, was_sent
from tocsin.net.guard import Guard, Objection
from tocsin.net.heads import Headers, header_lines, is_text, read_headers, target, unpacked
from tocsin.net.multi import Multi
from tocsin.net.names import Names, Place
from tocsin.net.origins import Origins, Sessions
from tocsin.net.proxies import Proxy
from tocsin.net.routes import Route, place_of, route_of
from tocsin.net.shortage import ERRNOS, NO_DESCRIPTOR, nothing_sent

MAX_BODY = 65_536
MAX_HEAD_COST, LINE_COST = 131_072, 128  # of an answer's header lines: each costs memory besides its bytes
CONNECT_SECONDS = 5.0
DNS_SECONDS = 300
MAX_FREE = 256  # idle handles kept for reuse
_AGENT = f"tocsin/{__version__}"
log = structlog.get_logger(__name__)
_MAX_TRIES = 3  # of a request that was certainly not processed
_RETRIABLE = frozenset({pycurl.E_SEND_FAIL_REWIND, pycurl.E_HTTP2})  # libcurl's codes for a kept connection that ended
_CANNOT_REWIND = "necessary data rewind"
# A stream above the last one that a GOAWAY names gets the GOAWAY's error code. libcurl never resets a stream with one of these itself.
_PAST_THE_LAST = re.compile(r"HTTP/2 stream \d+ reset by curl \(error 0x(4|a|b|c|d) ")
_FIRST_FINAL = 200  # statuses below announce another answer
_WITHOUT_BODY = frozenset({"GET", "HEAD"})

Done: TypeAlias = Callable[[HttpReply | NoReply], None]
Https: TypeAlias = tuple[Origins, Sessions]
STOPPED = NoReply(Reason.CUT, sent=False, detail="The service is stopping.", stopped=True)


class Kept(Struct, frozen=True):
    """What is known of kept connections. `repeats`: a request whose kept connection ended without an answer is sent again."""

    repeats: bool
    closers: Closers
    names: Names


class Exchange:
    """A libcurl handle and what it received; used for one request after another. `free`: where it waits for the next one."""

    def __init__(self, multi: Multi, free: "deque[Exchange]", guard: Guard | None, proxy: Proxy | None, https: Https, kept: "Kept") -> None:
        self.curl = pycurl.Curl()
        self._setopt = self.curl.setopt  # pycurl takes long to find its own methods
        self._multi = multi
        self._free = free
        self.request: HttpRequest | None = None
        self.done: Done | None = None
        self._guard = None if proxy else guard  # libcurl's socket is the proxy's
        self._proxy = proxy
        self._lines: list[bytes] = []  # behind a proxy its head comes first, if the connection is new
        self._head_cost = 0
        self._body = bytearray()
        self._is_capped = False
        self._head_at = 0.0  # when a whole head was first noticed
        self._objection: Objection | None = None
        self._sockets = 0
        self._is_short = False
        self._is_second = False
        self._tries = 0
        self._closers, self._repeats, self._names = kept.closers, kept.repeats, kept.names
        self._manner = _Manner()
        self._origins, self._sessions = https
        self._origin: str | None = None
        self._cache: pycurl.CurlShare | None = None
        self._waits = False
        self._watches = False
        self._has_target = False
        self._has_addresses = False
        for option, value in {**_OPTIONS, **self._sessions.authorities}.items():
            self.curl.setopt(option, value)
        if proxy:
            proxy.set_on(self.curl)
        else:
            self.curl.setopt(pycurl.PROXY, "")
        self.curl.setopt(pycurl.HEADERFUNCTION, self._on_header)
        self.curl.setopt(pycurl.WRITEFUNCTION, self._on_body)
        if not proxy:  # else libcurl looks up the proxy's name itself, with sockets that it does not report
            self.curl.setopt(pycurl.SOCKOPTFUNCTION, self._on_socket)
        self.curl.setopt(pycurl.OPENSOCKETFUNCTION, self._on_connect)

    def abort(self, done: Done) -> None:
        """End the request of this `done` if it is still under way, because nobody waits for it any more. Its connection is closed."""
        if self.done is done:
            if self._origin is not None:
                self._origins.forget(self._origin, self)
            self._multi.abort(self.curl)
            self.let_go()

    def start(self) -> None:
        """Begin the prepared request, perhaps a little later: see `Origins`."""
        if self._origin is None:
            self.begin(False)
        else:
            self._origins.start(self._origin, self)

    def begin(self, waits: bool) -> None:
        if waits is not self._waits:
            self._setopt(pycurl.PIPEWAIT, waits)
            self._waits = waits
        self._multi.start(self)

    def watch(self) -> None:
        self._setopt(pycurl.PREREQFUNCTION, self._on_connected)
        self._watches = True

    def stop(self) -> None:
        if done := self.done:
            self.let_go()
            done(STOPPED)

    def relieve(self) -> float:
        """Remove libcurl's time limits; returns the seconds that the request may still take."""
        self._setopt(pycurl.TIMEOUT_MS, 0)
        self._setopt(pycurl.CONNECTTIMEOUT_MS, 0)
        self._manner = msgspec.structs.replace(self._manner, is_relieved=True)
        return self._manner.timeout_seconds

    def let_go(self) -> None:
        self.request = self.done = None
        self._lines.clear()
        if self._body:
            self._body = bytearray()  # free its memory too: the handle may be idle for long
        self._is_second = False
        self._tries = 0
        if self._watches:
            self._watches = False
            self.curl.unsetopt(pycurl.PREREQFUNCTION)
            self._origins.failed(self._origin or "")
        if len(self._free) < MAX_FREE:
            self._free.append(self)
        else:
            self.curl.close()  # handle and callbacks refer to each other, which only a rare garbage collection would notice

    def ended(self, code: int) -> None:
        """libcurl has finished the transfer."""
        request, done = self.request, self.done
        if request is None or done is None:  # aborted
            return
        if code and (code in _RETRIABLE or self._is_refused(code)) and self._may_go_again(request, code):
            return
        if self._is_short and not self._is_second and not was_sent(self.curl) and self._multi.shed():
            self._is_second = True
            self._start_again(request, fresh=False)
            return
        reply = self.result(code)
        route = route_of(request.url)
        if self._proxy is not None:
            reply = self._through(self._proxy, route, reply)
        if isinstance(reply, NoReply) and not reply.sent and (self._proxy is None or reply.reason is Reason.PROXY):
            self._names.forget(self._connected_to(route))
        self.let_go()
        done(reply)

    def _through(self, proxy: Proxy, route: Route, reply: HttpReply | NoReply) -> HttpReply | NoReply:
        """The reply, or what the proxy did instead."""
        is_through = route.origin is not None and was_sent(self.curl)  # plain http may have ended at the proxy
        if isinstance(reply, HttpReply) or is_through or self.curl.getinfo(pycurl.RESPONSE_CODE):
            proxy.passed()
            return reply
        return proxy.refusal(self.curl, reply, route.host, self._lines)

    def _connected_to(self, route: Route) -> Place | None:
        """What libcurl connects to, if it is a name: the proxy or the target."""
        return self._proxy.named if self._proxy else route.named

    def _may_go_again(self, request: HttpRequest, code: int) -> bool:
        """Whether the request has been sent again at once, because it was certainly not processed, or because a kept connection ended
        without a byte of an answer: a server that closes a kept connection has almost never read the request."""
        if self.curl.getinfo(pycurl.RESPONSE_CODE):
            return False
        is_kept = self._is_kept()
        if code == pycurl.E_READ_ERROR and self._origin is not None:
            self._origins.requires_1(self._origin)
        if not was_sent(self.curl) or self._is_refused(code):
            may = self._tries < _MAX_TRIES
        else:
            if is_kept and not self._waits:
                self._closers.closed(route_of(request.url).host, time.monotonic())
            may = is_kept and self._repeats and request.repeats and not self._tries
        if may:
            self._tries += 1
            self._start_again(request, fresh=is_kept and not self._waits)  # HTTP/2: better one connection for all refused requests
        return may

    def _is_refused(self, code: int) -> bool:
        """Whether the server said that it did nothing with it: REFUSED_STREAM, GOAWAY with a lower last stream (RFC 9113 8.7), or
        HTTP_1_1_REQUIRED.

        libcurl would send it again if it could rewind the body, and reports that it cannot. It reports the same for a kept connection
        that ended, but with HTTP/2 it has named the reason before. HTTP/1.1 it begins by itself, and has no body left to read.
        """
        if code == pycurl.E_SEND_FAIL_REWIND:
            return not self._is_kept() or (self._waits and self.curl.errstr().startswith(_CANNOT_REWIND))
        if code == HTTP2_STREAM:
            return _PAST_THE_LAST.match(self.curl.errstr()) is not None
        return code == pycurl.E_READ_ERROR

    def _is_kept(self) -> bool:
        """Whether the request went over a connection that was there before."""
        return not self.curl.getinfo(pycurl.NUM_CONNECTS)

    def _start_again(self, request: HttpRequest, fresh: bool) -> None:
        self.prepare(request, route_of(request.url), fresh=fresh)
        self._multi.start(self)

    def prepare(self, request: HttpRequest, route: Route, addresses: tuple[str, ...] = (), fresh: bool = False) -> None:
        """Set what differs from request to request. `fresh`: not over an idle connection. `addresses`: the host's, or the proxy's,
        for libcurl to keep.

        Raises ValueError or pycurl.error where libcurl cannot send it.
        """
        self._lines.clear()
        self._head_cost = 0
        self._body.clear()
        self._is_capped = False
        self._head_at = 0.0
        self._objection = None
        self._sockets = 0
        self._is_short = False
        setopt, body = self._setopt, request.body
        closers = self._closers
        is_single = bool(closers.hosts) and not closers.keeps(route.host, time.monotonic())
        needs_1 = self._origins.needs_1(route.origin)
        manner = _Manner(request.method, request.timeout_seconds, route.named is None, fresh or is_single, is_single, needs_1)
        if manner != self._manner:
            self._set_manner(manner)
        setopt(pycurl.URL, route.url)
        setopt(pycurl.HTTPHEADER, header_lines(request.headers, len(body)))
        self._origin = route.origin
        if route.origin is not None and (cache := self._sessions.cache(route.origin)) is not self._cache:
            self._set_cache(cache)
        if addresses or self._has_addresses:
            self._set_addresses(self._connected_to(route), addresses)
        if self._has_target or route.is_escaped:
            # libcurl would write percent-encodings in upper case; what is set here goes out as it is, and cannot be unset.
            setopt(pycurl.REQUEST_TARGET, target(route.url))
            self._has_target = True
        if manner.method not in _WITHOUT_BODY:
            setopt(pycurl.POSTFIELDSIZE_LARGE, len(body))
            # A body that libcurl cannot rewind keeps it from sending a request again by itself when a connection dies under it.
            setopt(pycurl.READFUNCTION, io.BytesIO(body).read)

    def result(self, code: int) -> HttpReply | NoReply:
        """The reply that a finished transfer got."""
        if code == 0 or self._is_capped:
            return self._answer()
        if self._has_head():
            return self._answer(no_reply(self.curl, code).reason)
        if self._head_cost > MAX_HEAD_COST and was_sent(self.curl):
            return NoReply(Reason.ANSWER_TOO_LARGE, sent=True, detail=HEAD_TOO_LARGE)
        if self._objection and not self._sockets:
            return blocked(self._objection, place_of(self.request.url) if self.request is not None else None)
        if self._is_short and not was_sent(self.curl):
            return nothing_sent(NO_DESCRIPTOR)
        if was_sent(self.curl) and self._is_refused(code):
            return NoReply(Reason.SERVER_ERROR, sent=False, detail="The server refused the request each time without looking at it.")
        return no_reply(self.curl, code)

    def _answer(self, cut: Reason | None = None) -> HttpReply | NoReply:
        lines = self._lines
        if lines and lines[-1] == b"\r\n" and lines[0].startswith(b"HTTP/"):
            headers = Headers(tuple(lines))
        elif (headers := read_headers(lines)) is None:
            return NoReply(Reason.CUT, sent=True, detail="The connection ended within the answer's header lines.")
        if self._origin is not None:
            self._origins.answered(self._origin, self.curl.getinfo(pycurl.INFO_HTTP_VERSION) >= pycurl.CURL_HTTP_VERSION_2_0)
        body = bytes(self._body)
        if not is_text(body):
            body = unpacked(body, headers.get("content-encoding", ""), MAX_BODY)
        return HttpReply(self.curl.getinfo(pycurl.RESPONSE_CODE), headers, body, cut)

    def _has_head(self) -> bool:
        """Whether the target's own answer head is there: not a 1xx, and not a proxy's, which libcurl counts elsewhere."""
        return bool(self._lines) and self.curl.getinfo(pycurl.RESPONSE_CODE) >= _FIRST_FINAL and read_headers(self._lines) is not None

    def is_answered(self, now: float) -> bool:
        """Whether the head has been there for so long that the rest of the body is no longer awaited."""
        request = self.request
        if request is None or request.body_seconds is None or not self._has_head():
            return False
        self._head_at = self._head_at or now
        return now - self._head_at >= request.body_seconds

    def _set_manner(self, manner: "_Manner") -> None:
        curl, method = self.curl, manner.method
        if not method.isascii() or not method.isalpha():
            raise ValueError("not a method")
        if method != self._manner.method:
            curl.setopt(pycurl.NOBODY, 0)
            curl.setopt({"GET": pycurl.HTTPGET, "HEAD": pycurl.NOBODY}.get(method, pycurl.POST), 1)
            curl.setopt(pycurl.CUSTOMREQUEST, method)
        curl.setopt(pycurl.TIMEOUT_MS, max(1, int(manner.timeout_seconds * 1000)))
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, int(CONNECT_SECONDS * 1000))
        # An address never expires, so libcurl need not search all its names for expired ones.
        curl.setopt(pycurl.DNS_CACHE_TIMEOUT, -1 if manner.is_address else DNS_SECONDS)
        curl.setopt(pycurl.FRESH_CONNECT, manner.is_fresh)
        curl.setopt(pycurl.FORBID_REUSE, manner.is_single)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1 if manner.needs_1 else pycurl.CURL_HTTP_VERSION_2TLS)
        self._manner = manner

    def _set_addresses(self, place: Place | None, addresses: tuple[str, ...]) -> None:
        self._has_addresses = place is not None and bool(addresses)
        if place is None or not addresses:
            self.curl.unsetopt(pycurl.RESOLVE)
            return
        listed = ",".join(f"[{one}]" if ":" in one else one for one in addresses)
        self.curl.setopt(pycurl.RESOLVE, [f"+{place.host}:{place.port}:{listed}"])  # +: it expires like what libcurl finds by itself

    def _set_cache(self, cache: pycurl.CurlShare) -> None:
        if self._cache:
            self.curl.unsetopt(pycurl.SHARE)  # pycurl requires it
        self.curl.setopt(pycurl.SHARE, cache)
        self._cache = cache

    def _on_header(self, line: bytes) -> int | None:
        self._lines.append(line)
        self._head_cost += len(line) + LINE_COST
        if self._head_cost > MAX_HEAD_COST:
            self._forget_interim()
            if self._head_cost > MAX_HEAD_COST:
                return 0  # ends the transfer
        return None

    def _forget_interim(self) -> None:
        """1xx answers are dropped once the next head begins."""
        starts = [index for index, line in enumerate(self._lines) if line.startswith(b"HTTP/")]
        if starts:
            del self._lines[: starts[-1]]
            self._head_cost = sum(len(line) + LINE_COST for line in self._lines)

    def _on_body(self, piece: bytes) -> int | None:
        self._body += piece
        if len(self._body) <= MAX_BODY:
            return None
        del self._body[MAX_BODY:]
        self._is_capped = True
        return 0  # ends the transfer

    def _on_connect(self, _purpose: int, peer: tuple[int, int, int, tuple[str, int]]) -> socket.socket | int:
        """libcurl is about to connect to `peer`: (family, type, protocol, (address, port, ...)). Must not raise."""
        family, kind, protocol, (address, port, *_) = peer
        objection = self._guard.objection(address, port) if self._guard else None
        if objection:
            self._objection = objection
            return pycurl.SOCKET_BAD
        try:
            opened = socket.socket(family, kind, protocol)
            os.close(os.dup(opened.fileno()))  # pycurl makes a copy as well; if it cannot, libcurl does not learn why
        except OSError as error:
            self._is_short = error.errno in ERRNOS
            return pycurl.SOCKET_BAD
        self._sockets += 1
        return opened

    def _on_connected(self, *_: object) -> int:
        self._origins.connected(self._origin or "")
        return pycurl.PREREQFUNC_OK

    def _on_socket(self, fd: int, _purpose: int) -> int:
        self._multi.opened(fd)
        return pycurl.SOCKOPT_OK


def blocked(objection: Objection, place: Place | None) -> NoReply:
    """The reply to a request that the guard does not let out. What its host resolves to is in the log only."""
    if place is not None:
        log.warning("egress.blocked", host=place.host, port=place.port, address=objection.address, why=objection.said)
    return NoReply(Reason.BLOCKED, sent=False, detail=objection.said)


_OPTIONS = {
    pycurl.NOSIGNAL: 1,
    pycurl.TCP_NODELAY: 1,
    pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
    pycurl.PATH_AS_IS: 1,
    pycurl.NOPROXY: "",  # otherwise no_proxy in the environment would send some requests past TOCSIN_PROXY
    pycurl.NETRC: pycurl.NETRC_IGNORED,
    pycurl.FOLLOWLOCATION: 0,
    pycurl.HTTP_CONTENT_DECODING: 0,
    pycurl.USERAGENT: _AGENT,
    # Idle connections live long, kept awake past the routers that forget them after a few minutes, but not past a change of DNS.
    pycurl.MAXAGE_CONN: 300,
    pycurl.MAXLIFETIME_CONN: 1800,
    pycurl.DNS_CACHE_TIMEOUT: DNS_SECONDS,
    pycurl.TCP_KEEPALIVE: 1,
    pycurl.TCP_KEEPIDLE: 60,
    pycurl.TCP_KEEPINTVL: 30,
    pycurl.UPLOAD_BUFFERSIZE: 16_384,  # every handle keeps one; 64 KB, the default, is memory that most requests never need
    pycurl.POST: 1,
}


authorities = functools.cache(trust.authorities)


class _Manner(Struct, frozen=True, gc=False):
    """How a handle sends: options that rarely change from one request to the next."""

    method: str = "POST"
    timeout_seconds: float = -1.0
    is_address: bool = False
    is_fresh: bool = False
    is_single: bool = False
    needs_1: bool = False
    is_relieved: bool = False
