"""What is known of https hosts: which speak HTTP/2, and their TLS sessions.

By itself, libcurl opens a hundred connections for a hundred requests to a host it has no connection to, and learns too late that one
could have carried them all. Its own remedy, PIPEWAIT, makes them wait for the whole first *answer* where the host turns out to speak
HTTP/1.1. So the first requests wait here until a connection is made, and PIPEWAIT is set for hosts that have spoken HTTP/2.
"""

import asyncio
import itertools
import time
from collections.abc import Mapping
from typing import Protocol

import pycurl

MAX_REMEMBERED = 50_000  # hosts
MAX_WAIT_SECONDS = 1.0  # so that a hanging first connection does not hold up the rest
REQUIRED_SECONDS = 3600.0
_MAX_STREAMS = 90  # started at once: libcurl and most servers allow 100 on a connection
_CACHES = 80
"""Of TLS sessions. libcurl keeps those of 25 hosts in each, whatever it is told, and two for a host: about 3 KB."""


class Waiter(Protocol):
    """A request that is ready to be started."""

    def begin(self, waits: bool) -> None:
        """Start it. `waits`: prefer a connection that is being made to one of its own."""
        ...

    def watch(self) -> None:
        """Have `Origins.connected` called when its connection is made."""
        ...

    def stop(self) -> None:
        """It will not be started."""
        ...


class Origins:
    """On one event loop. An origin is the host and port of an https URL."""

    def __init__(self) -> None:
        self._speaks_2: dict[str, bool] = {}
        self._gates: dict[str, list[Waiter]] = {}
        self._only_1: dict[str, float] = {}  # those that require HTTP/1.1, and until when this is remembered: nearly always empty

    def start(self, origin: str, waiter: Waiter) -> None:
        """Start it now, or once the first connection to its host is made."""
        speaks_2 = self._speaks_2.get(origin)
        if speaks_2 is not None:
            waiter.begin(speaks_2)
        elif (gate := self._gates.get(origin)) is not None:
            gate.append(waiter)
        else:
            self._gates[origin] = []
            asyncio.get_running_loop().call_later(MAX_WAIT_SECONDS, self._open, origin)
            waiter.watch()
            waiter.begin(False)

    def connected(self, origin: str) -> None:
        """The first connection is made; called from within libcurl. Waiting requests share it if it speaks HTTP/2, else they get others."""
        asyncio.get_running_loop().call_soon(self._open, origin, _MAX_STREAMS)

    def answered(self, origin: str, speaks_2: bool) -> None:
        if self._speaks_2.get(origin) is not speaks_2:
            if len(self._speaks_2) >= MAX_REMEMBERED:
                self._speaks_2.clear()
            self._speaks_2[origin] = speaks_2
            self._open(origin)

    def requires_1(self, origin: str) -> None:
        """The host offers HTTP/2, and then asks for HTTP/1.1 instead."""
        if len(self._only_1) >= MAX_REMEMBERED:
            self._only_1.clear()
        self._only_1[origin] = time.monotonic() + REQUIRED_SECONDS

    def needs_1(self, origin: str | None) -> bool:
        """Whether it is to be spoken to in HTTP/1.1 only."""
        return origin in self._only_1 and self._only_1[origin] > time.monotonic()

    def failed(self, origin: str) -> None:
        """The first request ended without an answer."""
        self._open(origin)

    def forget(self, origin: str, waiter: Waiter) -> None:
        """It is no longer wanted; it may or may not be waiting here."""
        if waiter in (gate := self._gates.get(origin, [])):
            gate.remove(waiter)

    def _open(self, origin: str, count: int | None = None) -> None:
        """Start `count` of the waiting requests, or all; once all are started the origin is no longer waited for."""
        gate = self._gates.get(origin)
        if gate is None:
            return
        let_go = gate[:count]
        del gate[: len(let_go)]
        if count is None:
            del self._gates[origin]
        for waiter in let_go:
            waiter.begin(self._speaks_2.get(origin, False))

    def cut(self) -> None:
        """None of the waiting requests is started."""
        gates = list(self._gates.values())
        self._gates.clear()
        for waiter in itertools.chain(*gates):
            waiter.stop()


class Sessions:
    """TLS sessions to resume, shared by all handles: a host that is known needs no second check of its certificates.
    `authorities`: libcurl's options for whom to trust."""

    def __init__(self, authorities: Mapping[int, str]) -> None:
        self.authorities = authorities
        self._caches: dict[int, pycurl.CurlShare] = {}

    def cache(self, origin: str) -> pycurl.CurlShare:
        number = hash(origin) % _CACHES
        cache = self._caches.get(number)
        if cache is None:
            cache = self._caches[number] = pycurl.CurlShare()
            cache.setopt(pycurl.SH_SHARE, pycurl.LOCK_DATA_SSL_SESSION)
        return cache
