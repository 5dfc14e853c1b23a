"""The HTTP wire: sends a channel's requests through libcurl and gives back the answer, or why there is none."""

import asyncio
import functools
from collections import deque

import msgspec
import pycurl

from tocsin.model import HttpReply, HttpRequest, NoReply, Reason
from tocsin.net.closers import Closers
from tocsin.net.exchange import CONNECT_SECONDS, DNS_SECONDS, STOPPED, Done, Exchange, Kept, authorities, blocked
from tocsin.net.guard import Closed, Guard
from tocsin.net.multi import Multi
from tocsin.net.names import Names, Place
from tocsin.net.origins import Origins, Sessions
from tocsin.net.proxies import Direct, Proxy
from tocsin.net.routes import Route, place_of, route_of
from tocsin.net.shortage import NO_DESCRIPTOR, Lacking, nothing_sent
from tocsin.settings import Settings

_UNRESOLVED = frozenset({Reason.DNS, Reason.TIMEOUT})
_LET_PROXY = "The operator can let the proxy look names up with TOCSIN_PROXY_RESOLVES."


class HttpWire:
    """Sends HTTP requests, many at a time, on the loop it is first used on.

    Guarded and unguarded requests share nothing: a connection that was opened without the guard never carries a guarded request.
    """

    def __init__(self, settings: Settings, closed: Closed = tuple) -> None:
        self._guard = Guard(settings.allow_networks, settings.allow_ports, closed)
        self._proxy = Proxy(settings.proxy) if settings.proxy else None
        self._direct = Direct(settings)
        self._proxy_resolves = settings.proxy_resolves
        trusted = authorities(settings.ca_file, settings.data_path)
        sessions = Sessions(trusted)  # shared: a certificate that was good for one lane is good for the other
        repeats = settings.unknown != "stop"

        def lanes(proxy: Proxy | None) -> "dict[bool, _Lane]":
            return {guarded: _Lane(self._guard if guarded else None, proxy, sessions, repeats) for guarded in (True, False)}

        self._lanes = lanes(self._proxy)
        self._past = lanes(None) if self._proxy else self._lanes  # past the proxy
        self._preparing: set[asyncio.Task[None]] = set()

    async def send(self, request: HttpRequest) -> HttpReply | NoReply:
        """The answer, whatever its status, or what happened instead. Raises only CancelledError, which aborts the transfer."""
        addresses: tuple[str, ...] = ()
        route, lane = route_of(request.url), self._lanes[request.guarded]
        if self._must_prepare(request, route):
            prepared = await self._prepared(request)
            if isinstance(prepared, NoReply):
                return prepared
            lane, addresses = prepared
        future: asyncio.Future[HttpReply | NoReply] = asyncio.get_running_loop().create_future()
        done = functools.partial(_resolve, future)
        exchange = lane.start(request, route, done, addresses)
        try:
            return await future
        finally:
            if exchange is not None:
                exchange.abort(done)

    def start(self, request: HttpRequest, done: Done) -> None:
        """Like `send`, for callers that do not await: `done` is called with the result, never within this call, and must not raise."""
        route = route_of(request.url)
        if self._must_prepare(request, route):
            preparing = asyncio.get_running_loop().create_task(self._prepare_and_start(request, route, done))
            self._preparing.add(preparing)
            preparing.add_done_callback(functools.partial(self._prepared_or_not, done))
        else:
            self._lanes[request.guarded].start(request, route, done)

    def _prepared_or_not(self, done: Done, task: "asyncio.Task[None]") -> None:
        self._preparing.discard(task)
        if task.cancelled():  # before its first step, so it could not report it
            done(STOPPED)

    async def _prepare_and_start(self, request: HttpRequest, route: Route, done: Done) -> None:
        try:
            prepared = await self._prepared(request)
        except asyncio.CancelledError:
            prepared = STOPPED
        if isinstance(prepared, NoReply):
            done(prepared)
        else:
            lane, addresses = prepared
            lane.start(request, route, done, addresses)

    def _must_prepare(self, request: HttpRequest, route: Route) -> bool:
        """Whether something has to be looked up before libcurl gets the request: rarely, since names stay fresh for minutes."""
        if self._proxy is not None:
            return True
        named = route.named
        return named is not None and not self._lanes[request.guarded].knows(named)

    async def _prepared(self, request: HttpRequest) -> "tuple[_Lane, tuple[str, ...]] | NoReply":
        """Its lane and the addresses of its host (none if something else looks them up); or why it cannot be sent."""
        place = place_of(request.url)
        if place is None:
            return NoReply(Reason.SETTINGS, sent=False, detail="The URL cannot be read.")
        lane = self._lanes[request.guarded]
        if self._proxy is not None:
            if not self._direct.has(place.host):
                return await self._prepared_for_proxy(request, place, lane)
            lane = self._past[request.guarded]
            if lane.knows(place):
                return lane, ()
        found = await lane.look_up(place, min(CONNECT_SECONDS, request.timeout_seconds))
        return found if isinstance(found, NoReply) else (lane, found)

    async def _prepared_for_proxy(self, request: HttpRequest, place: Place, lane: "_Lane") -> "tuple[_Lane, tuple[str, ...]] | NoReply":
        if request.guarded and (objection := self._guard.objection_to_port(place.port)) is not None:
            return blocked(objection, place)
        seconds = min(CONNECT_SECONDS, request.timeout_seconds)
        if not (request.guarded or self._direct.networks):
            return lane, await lane.addresses_of_proxy(seconds)
        found = await lane.look_up(place, seconds)
        if isinstance(found, NoReply):
            is_unknown = found.reason in _UNRESOLVED
            if is_unknown and (self._proxy_resolves or not request.guarded):
                return lane, await lane.addresses_of_proxy(seconds)
            return msgspec.structs.replace(found, detail=f"{found.detail} {_LET_PROXY}") if is_unknown else found
        if self._direct.covers(found):
            return self._past[request.guarded], found
        # libcurl's socket leads to the proxy, so the target's own addresses are checked beforehand.
        addresses = found if request.guarded else ()
        objections = [objection for address in addresses if (objection := self._guard.objection(address, place.port))]
        return blocked(objections[0], place) if objections else (lane, await lane.addresses_of_proxy(seconds))

    @property
    def trouble(self) -> str | None:
        """Why nothing can go out, in a sentence."""
        return self._proxy.trouble if self._proxy else None

    def complaints(self) -> list[str]:
        """What else the operator should know, one sentence each."""
        return [self._proxy.suspicion] if self._proxy and self._proxy.suspicion else []

    def cut(self) -> None:
        """End the requests that are under way; their replies say whether anything of them went out."""
        for preparing in self._preparing:
            preparing.cancel()
        for lane in (*self._lanes.values(), *self._past.values()):
            lane.cut()

    async def close(self) -> None:
        """Close all connections; requests under way come back as cut."""
        for lane in (*self._lanes.values(), *self._past.values()):
            lane.close()


def _resolve(future: "asyncio.Future[HttpReply | NoReply]", reply: HttpReply | NoReply) -> None:
    if not future.done():  # cancelled a moment ago
        future.set_result(reply)


class _Lane:
    """One cache of connections, for the guarded or for the unguarded requests, and the idle handles."""

    def __init__(self, guard: Guard | None, proxy: Proxy | None, sessions: Sessions, repeats: bool) -> None:
        self._guard = guard
        self._names = Names(DNS_SECONDS * 0.9)  # remembered slightly shorter than by libcurl, which keeps the addresses
        self._kept = Kept(repeats, Closers(2 if repeats else 1), self._names)
        self._https = (Origins(), sessions)
        # Users have many hosts; the operator and the providers, reached without the guard, have few.
        self._idle_share = 1 / 4 if guard else 1 / 16
        self._proxy = proxy
        self._free: deque[Exchange] = deque()
        self._multi: Multi | None = None
        self._is_closed = False

    def knows(self, place: Place) -> bool:
        """Whether libcurl knows the addresses of the host."""
        return self._names.is_fresh(place)

    async def look_up(self, place: Place, seconds: float) -> tuple[str, ...] | NoReply:
        try:
            return tuple(await self._names.addresses(place, seconds))
        except TimeoutError:
            return NoReply(Reason.TIMEOUT, sent=False, detail="Resolving the host name took too long.")
        except Lacking as lacking:
            return nothing_sent(str(lacking))
        except OSError:
            return NoReply(Reason.DNS, sent=False, detail="The host name does not resolve.")

    async def addresses_of_proxy(self, seconds: float) -> tuple[str, ...]:
        """None if libcurl knows them, or none are found: libcurl then says why."""
        named = self._proxy.named if self._proxy else None
        if named is None or self.knows(named):
            return ()
        found = await self.look_up(named, seconds)
        return () if isinstance(found, NoReply) else found

    def start(self, request: HttpRequest, route: Route, done: Done, addresses: tuple[str, ...] = ()) -> "Exchange | None":
        """None: it cannot be sent, and `done` is told soon."""
        if self._is_closed:
            asyncio.get_running_loop().call_soon(done, STOPPED)
            return None
        try:
            if self._multi is None:
                self._multi = Multi(self._idle_share)
            exchange = (
                self._free.pop() if self._free else Exchange(self._multi, self._free, self._guard, self._proxy, self._https, self._kept)
            )
        except (OSError, MemoryError, pycurl.error):
            asyncio.get_running_loop().call_soon(done, nothing_sent(NO_DESCRIPTOR))
            return None
        exchange.request, exchange.done = request, done
        try:
            exchange.prepare(request, route, addresses)
        except (ValueError, pycurl.error):
            exchange.let_go()
            detail = "The request cannot be written as HTTP: its URL or a header is malformed."
            asyncio.get_running_loop().call_soon(done, NoReply(Reason.SETTINGS, sent=False, detail=detail))
            return None
        exchange.start()
        return exchange

    def cut(self) -> None:
        self._https[0].cut()
        if self._multi:
            self._multi.cut()

    def close(self) -> None:
        self._is_closed = True
        self._https[0].cut()
        self._free.clear()
        self._names.close()
        if self._multi:
            self._multi.close()
