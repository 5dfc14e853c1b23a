"""The HTTP wire: sends a channel's requests through libcurl and gives back the answer, or why there is none."""

import asyncio
import functools
import io
import ipaddress
import socket
import ssl
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, cast

import msgspec
import pycurl
from msgspec import Struct

from tocsin import __version__
from tocsin.model import HttpReply, HttpRequest, NoReply, Reason
from tocsin.net.curl_failures import no_reply, was_sent
from tocsin.net.guard import Closed, Guard
from tocsin.net.heads import Headers, header_lines, read_headers, target
from tocsin.net.multi import Multi
from tocsin.net.names import Names, Place
from tocsin.net.urls import wire_url
from tocsin.settings import Settings

MAX_BODY = 65_536
CONNECT_SECONDS = 5.0
DNS_SECONDS = 300
_FREE_HANDLES = 256
_AGENT = f"tocsin/{__version__}"
_WITHOUT_BODY = frozenset({"GET", "HEAD"})

Done: TypeAlias = Callable[[HttpReply | NoReply], None]
_STOPPED = NoReply(Reason.CUT, sent=False, detail="The service is stopping.", stopped=True)

# Where systems keep their certificate authorities; the libcurl in pycurl's wheel knows one place only, and Debian has another.
_AUTHORITIES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem")


class HttpWire:
    """Sends HTTP requests, many at a time, on the loop it is first used on.

    Guarded and unguarded requests share nothing: a connection that was opened without the guard never carries a guarded request.
    """

    def __init__(self, settings: Settings, closed: Closed = tuple) -> None:
        self._guard = Guard(settings.allow_networks, closed)
        self._has_proxy = bool(settings.proxy)
        self._lanes = {True: _Lane(self._guard, settings.proxy), False: _Lane(None, settings.proxy)}
        self._preparing: set[asyncio.Task[None]] = set()

    async def send(self, request: HttpRequest) -> HttpReply | NoReply:
        """The answer, whatever its status, or what became of the request instead. Raises only CancelledError, which aborts the transfer."""
        addresses: tuple[str, ...] = ()
        route = _route(request.url)
        if self._must_prepare(request, route):
            prepared = await self._prepared(request)
            if isinstance(prepared, NoReply):
                return prepared
            addresses = prepared
        future: asyncio.Future[HttpReply | NoReply] = asyncio.get_running_loop().create_future()
        done = functools.partial(_resolve, future)
        exchange = self._lanes[request.guarded].start(request, route, done, addresses)
        try:
            return await future
        finally:
            if exchange is not None:
                exchange.abort(done)

    def start(self, request: HttpRequest, done: Done) -> None:
        """Like `send`, for those who have no time to wait: `done` is told, never from within this call. It must not raise."""
        route = _route(request.url)
        if self._must_prepare(request, route):
            preparing = asyncio.get_running_loop().create_task(self._prepare_and_start(request, route, done))
            self._preparing.add(preparing)
            preparing.add_done_callback(self._preparing.discard)
        else:
            self._lanes[request.guarded].start(request, route, done)

    async def _prepare_and_start(self, request: HttpRequest, route: "_Route", done: Done) -> None:
        try:
            prepared = await self._prepared(request)
        except asyncio.CancelledError:
            prepared = _STOPPED
        if isinstance(prepared, NoReply):
            done(prepared)
        else:
            self._lanes[request.guarded].start(request, route, done, prepared)

    def _must_prepare(self, request: HttpRequest, route: "_Route") -> bool:
        """Whether something is to be looked up before libcurl is given the request: nearly never, names stay fresh for minutes."""
        if self._has_proxy:
            return request.guarded
        named = route.named
        return named is not None and not self._lanes[request.guarded].knows(named)

    async def _prepared(self, request: HttpRequest) -> tuple[str, ...] | NoReply:
        """The addresses of its host, none if they are another's concern; or why it cannot be sent."""
        place = _place(request.url)
        if place is None:
            return NoReply(Reason.SETTINGS, sent=False, detail="The URL cannot be read.")
        found = await self._lanes[request.guarded].look_up(place, min(CONNECT_SECONDS, request.timeout_seconds))
        if not self._has_proxy or isinstance(found, NoReply):
            return found
        # libcurl's socket is the proxy's: so the addresses of the target itself are judged beforehand.
        objections = [objection for address in found if (objection := self._guard.objection(address, place.port))]
        return NoReply(Reason.BLOCKED, sent=False, detail=objections[0]) if objections else ()

    def cut(self) -> None:
        """End the requests that are under way; their replies say whether anything of them went out."""
        for preparing in self._preparing:
            preparing.cancel()
        for lane in self._lanes.values():
            lane.cut()

    async def close(self) -> None:
        """Close all connections; requests under way come back as cut."""
        for lane in self._lanes.values():
            lane.close()


def _resolve(future: "asyncio.Future[HttpReply | NoReply]", reply: HttpReply | NoReply) -> None:
    if not future.done():  # cancelled a moment ago
        future.set_result(reply)


class _Lane:
    """One cache of connections, for the guarded or for the unguarded requests, and the handles that wait to be used again."""

    def __init__(self, guard: Guard | None, proxy: str | None) -> None:
        self._guard = guard
        self._proxy = proxy
        self._free: deque[_Exchange] = deque(maxlen=_FREE_HANDLES)
        self._multi: Multi | None = None
        self._is_closed = False
        self._names = Names(DNS_SECONDS * 0.9)  # known a little shorter than to libcurl, which keeps the addresses

    def knows(self, place: Place) -> bool:
        """Whether libcurl knows the addresses of the host."""
        return self._names.is_fresh(place)

    async def look_up(self, place: Place, seconds: float) -> tuple[str, ...] | NoReply:
        try:
            return tuple(await self._names.addresses(place, seconds))
        except TimeoutError:
            return NoReply(Reason.TIMEOUT, sent=False, detail="Resolving the host name took too long.")
        except OSError:
            return NoReply(Reason.DNS, sent=False, detail="The host name does not resolve.")

    def start(self, request: HttpRequest, route: "_Route", done: Done, addresses: tuple[str, ...] = ()) -> "_Exchange | None":
        """None: it cannot be sent, and `done` hears of it soon."""
        if self._is_closed:
            asyncio.get_running_loop().call_soon(done, _STOPPED)
            return None
        multi = self._multi
        if multi is None:
            multi = self._multi = Multi()
        exchange = self._free.pop() if self._free else _Exchange(multi, self._free, self._guard, self._proxy)
        exchange.request, exchange.done = request, done
        try:
            exchange.prepare(request, route, addresses)
        except (ValueError, pycurl.error):
            exchange.let_go()
            detail = "The request cannot be written as HTTP: its URL or a header is malformed."
            asyncio.get_running_loop().call_soon(done, NoReply(Reason.SETTINGS, sent=False, detail=detail))
            return None
        multi.start(exchange)
        return exchange

    def cut(self) -> None:
        if self._multi:
            self._multi.cut()

    def close(self) -> None:
        self._is_closed = True
        self._free.clear()
        self._names.close()
        if self._multi:
            self._multi.close()


class _Exchange:
    """A libcurl handle and what it heard; used for one request after another. `free`: where it waits for the next."""

    def __init__(self, multi: Multi, free: "deque[_Exchange]", guard: Guard | None, proxy: str | None) -> None:
        self.curl = pycurl.Curl()
        self._setopt = self.curl.setopt  # pycurl takes long to find its own methods
        self._multi = multi
        self._free = free
        self.request: HttpRequest | None = None
        self.done: Done | None = None
        self._guard = guard
        self._proxy = proxy
        self._lines: list[bytes] = []
        self._body = bytearray()
        self._is_capped = False
        self._objection = ""
        self._sockets = 0
        self._manner = _Manner()
        self._has_target = False
        self._has_addresses = False
        for option, value in {**_OPTIONS, **_authorities()}.items():
            self.curl.setopt(option, value)
        self.curl.setopt(pycurl.PROXY, proxy or "")
        self.curl.setopt(pycurl.HEADERFUNCTION, self._lines.append)  # libcurl itself ends answers with over 300 KB of headers
        self.curl.setopt(pycurl.WRITEFUNCTION, self._on_body)
        if not proxy:  # else libcurl looks up the proxy's name itself, with sockets that nobody is told of
            self.curl.setopt(pycurl.SOCKOPTFUNCTION, self._on_socket)
        if guard and not proxy:
            self.curl.setopt(pycurl.OPENSOCKETFUNCTION, self._on_connect)

    def abort(self, done: Done) -> None:
        """End the request of this `done`, if it is still under way: nobody waits for it any more. Its connection is closed."""
        if self.done is done:
            self._multi.abort(self.curl)
            self.let_go()

    def relieve(self) -> float:
        """Take libcurl's time limits off it; the seconds that the request may go on from now."""
        self._setopt(pycurl.TIMEOUT_MS, 0)
        self._setopt(pycurl.CONNECTTIMEOUT_MS, 0)
        self._manner = msgspec.structs.replace(self._manner, is_relieved=True)
        return self._manner.timeout_seconds

    def let_go(self) -> None:
        self.request = self.done = None
        self._free.append(self)

    def ended(self, code: int) -> None:
        """libcurl is through with it."""
        request, done = self.request, self.done
        if request is None or done is None:  # aborted
            return
        if code == pycurl.E_SEND_FAIL_REWIND and not was_sent(self.curl):
            # The idle connection was dead and not a byte went out, so trying a fresh one at once repeats nothing.
            self.prepare(request, _route(request.url), fresh=True)
            self._multi.start(self)
            return
        reply = self.result(code)
        self.let_go()
        done(reply)

    def prepare(self, request: HttpRequest, route: "_Route", addresses: tuple[str, ...] = (), fresh: bool = False) -> None:
        """Set what differs from request to request. `fresh` keeps it off idle connections. `addresses`: of its host, for libcurl to keep.

        Raises ValueError or pycurl.error where libcurl cannot send it.
        """
        self._lines.clear()
        self._body.clear()
        self._is_capped = False
        self._objection = ""
        self._sockets = 0
        setopt, body = self._setopt, request.body
        manner = _Manner(request.method, request.timeout_seconds, route.named is None, fresh)
        if manner != self._manner:
            self._set_manner(manner)
        setopt(pycurl.URL, route.url)
        setopt(pycurl.HTTPHEADER, header_lines(request.headers, len(body)))
        if addresses or self._has_addresses:
            self._set_addresses(route.named, addresses)
        if self._has_target or (route.is_escaped and not self._proxy):
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
            lines = self._lines
            if lines and lines[-1] == b"\r\n" and lines[0].startswith(b"HTTP/"):
                headers = Headers(tuple(lines))
            elif (headers := read_headers(lines)) is None:
                return NoReply(Reason.CUT, sent=True, detail="The connection ended within the answer's header lines.")
            return HttpReply(self.curl.getinfo(pycurl.RESPONSE_CODE), headers, bytes(self._body))
        if self._objection and not self._sockets:
            return NoReply(Reason.BLOCKED, sent=False, detail=self._objection)
        return no_reply(self.curl, code)

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
        # Of an address nothing grows old, and libcurl need not look through all its names for old ones.
        curl.setopt(pycurl.DNS_CACHE_TIMEOUT, -1 if manner.is_address else DNS_SECONDS)
        curl.setopt(pycurl.FRESH_CONNECT, manner.is_fresh)
        self._manner = manner

    def _set_addresses(self, place: Place | None, addresses: tuple[str, ...]) -> None:
        self._has_addresses = place is not None and bool(addresses)
        if place is None or not addresses:
            self.curl.unsetopt(pycurl.RESOLVE)
            return
        listed = ",".join(f"[{one}]" if ":" in one else one for one in addresses)
        self.curl.setopt(pycurl.RESOLVE, [f"+{place.host}:{place.port}:{listed}"])  # +: it grows old as what libcurl finds by itself

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
        self._sockets += 1
        try:
            return socket.socket(family, kind, protocol)
        except OSError:
            return pycurl.SOCKET_BAD

    def _on_socket(self, fd: int, _purpose: int) -> int:
        self._multi.opened(fd)
        return pycurl.SOCKOPT_OK


_OPTIONS = {
    pycurl.NOSIGNAL: 1,
    pycurl.TCP_NODELAY: 1,
    pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
    pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_2TLS,
    pycurl.PATH_AS_IS: 1,
    pycurl.NOPROXY: "",  # or no_proxy of the environment would send some requests past TOCSIN_PROXY
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


@functools.cache
def _authorities() -> dict[int, str]:
    """The options that name the trusted certificate authorities; SSL_CERT_FILE and SSL_CERT_DIR count."""
    paths = ssl.get_default_verify_paths()
    for file in (paths.cafile, *_AUTHORITIES):
        if file and Path(file).is_file():
            return {pycurl.CAINFO: file}
    return {pycurl.CAPATH: paths.capath} if paths.capath else {}


class _Manner(Struct, frozen=True, gc=False):
    """How a handle sends: what is nearly always as it was for the request before."""

    method: str = "POST"
    timeout_seconds: float = -1.0
    is_address: bool = False
    is_fresh: bool = False
    is_relieved: bool = False


class _Route(Struct, frozen=True, gc=False):
    """A URL as libcurl is given it. `named`: its place if its host is a name; None for an address, of which there is nothing to look up."""

    url: str
    named: Place | None
    is_escaped: bool


@functools.lru_cache(maxsize=10_000)
def _route(url: str) -> _Route:
    """Never raises: what cannot be read is refused where it is set."""
    place = _place(url)
    if place is None:
        return _Route(url, None, False)
    url = wire_url(url)
    try:
        ipaddress.ip_address(place.host.strip("[]"))
    except ValueError:
        return _Route(url, place, "%" in url)
    return _Route(url, None, "%" in url)


def _place(url: str) -> Place | None:
    """The host and port in libcurl's own reading of the URL, so that nothing is read in two ways; None if it cannot be read."""
    try:
        parts = cast(Any, pycurl).CurlUrl(wire_url(url))
        port = int(parts.port or {"http": 80, "https": 443}[parts.scheme])
    except (KeyError, ValueError, pycurl.error):
        return None
    return Place(parts.host, port)
