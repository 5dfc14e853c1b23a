"""The listening side: who may connect, how much and how slowly a client may send, and what happens when there is no room.

uvicorn is subclassed rather than replaced: its parser and ASGI side are the quickest that there are in Python and well proven, and what
it lacks (limits on heads, deadlines, a bound on connections) fits into its protocol class and its way of starting.
"""

import asyncio
import functools
import ipaddress
import os
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from tocsin.api.proxies import is_trusted, neighbourhood
from tocsin.door.acceptor import Acceptor
from tocsin.door.incoming import Incoming
from tocsin.door.register import Register, Rules
from tocsin.settings import Settings
from tocsin.store import StoreError

SWEEP_SECONDS = 1.0
BACKLOG = 2048  # connections that wait in the kernel; it cuts this to net.core.somaxconn


class Door(uvicorn.Server):
    """uvicorn on sockets that listen already, with our own way of accepting. The signals stay in our hands: it would end the process by
    them, and the exit code with it.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, rules: Rules, grace_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                interface="asgi3",
                http=Incoming,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=int(grace_seconds),
            )
        )
        self.register = Register(rules, clock)
        self._settings = settings
        self._sweeper: asyncio.TimerHandle | None = None

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        counted_as = functools.partial(counted_address, settings=self._settings)
        make = functools.partial(Incoming, self.config, self.server_state, self.register, counted_as, loop)
        acceptors: list[Any] = [Acceptor(one, self.register, make) for one in sockets or ()]
        self.servers = acceptors
        self._sweep()
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _sweep(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
        self.register.sweep()


def counted_address(peer: str, settings: Settings) -> str | None:
    """What a connection counts against: None for loopback and trusted proxies, behind which there are many."""
    try:
        ip = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return None
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return None if ip.is_loopback or is_trusted(peer, settings) else neighbourhood(peer)


def listen(settings: Settings) -> socket.socket:
    """Raises StoreError, in a sentence for the operator."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise StoreError(
            f"Cannot listen on {settings.host}:{settings.port}: {why}. TOCSIN_HOST and TOCSIN_PORT choose another address."
        ) from error
