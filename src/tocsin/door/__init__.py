"""The listening side: who may connect, how much and how slowly a client may send, and what happens when there is no room.

uvicorn is subclassed rather than replaced: its parser and ASGI side are the quickest in Python and well tested, and what
it lacks (limits on heads, deadlines, a bound on connections) fits into its protocol class and its startup.
"""

import asyncio
import errno
import functools
import ipaddress
import logging
import os
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from tocsin.api.proxies import is_trusted, neighbourhood, transport_security
from tocsin.door.acceptor import Acceptor
from tocsin.door.incoming import Incoming
from tocsin.door.register import Register, Rules
from tocsin.ports.errors import StoreError
from tocsin.settings import Settings

SWEEP_SECONDS = 1.0
LEAVE_SECONDS = 0.2  # before the time for clients is over
SOCKET_MODE = 0o660
BACKLOG = 2048  # connections that wait in the kernel, which caps this at net.core.somaxconn


class Door(uvicorn.Server):
    """uvicorn on sockets that are listening already, with our own acceptor. We handle the signals ourselves: uvicorn would let them end
    the process, and set its exit code.
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
                headers=_headers(settings),
            )
        )
        logging.getLogger("uvicorn.error").addFilter(_is_fault)
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
        leaving = asyncio.get_running_loop().call_later((self.config.timeout_graceful_shutdown or 0) - LEAVE_SECONDS, self._leave)
        await super().shutdown(sockets)
        leaving.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _leave(self) -> None:
        """Close the connections that are left: a client that does not read its answer would hold up the request that waits for it."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def _sweep(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
        self.register.sweep()


def _is_fault(record: logging.LogRecord) -> bool:
    """A request that was cut off when the service stopped is not a fault."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


def _headers(settings: Settings) -> list[tuple[str, str]]:
    """Of every answer."""
    found = [("x-content-type-options", "nosniff")]
    if settings.base_url and (value := transport_security(settings.base_url)):
        found.append(("strict-transport-security", value))
    return found


def counted_address(peer: str, settings: Settings) -> str | None:
    """The address a connection counts against; None for loopback and trusted proxies, which many clients share."""
    try:
        ip = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return None
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return None if ip.is_loopback or is_trusted(peer, settings) else neighbourhood(peer)


def listen(settings: Settings) -> socket.socket:
    """Raises StoreError, in a sentence for the operator."""
    if settings.unix_socket:
        return _listen_on_unix_socket(Path(settings.unix_socket))
    host = settings.host[1:-1] if settings.host.startswith("[") and settings.host.endswith("]") else settings.host
    if host == "*":
        host = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104  # as it was asked for
    family = _family_of(host)
    is_dual = host == "::" and socket.has_dualstack_ipv6()  # `::` is everything, as with other servers
    try:
        return socket.create_server((host, settings.port), family=family, backlog=BACKLOG, dualstack_ipv6=is_dual)
    except (OSError, TypeError) as error:  # the second: characters that no host name has
        number = error.errno or 0 if isinstance(error, OSError) else -1
        why = f"{settings.host!r} is not an address" if number < 0 else os.strerror(number)
        raise StoreError(
            f"Cannot listen on {settings.host}:{settings.port}: {why}. TOCSIN_HOST and TOCSIN_PORT choose another address."
        ) from error


def _family_of(host: str) -> socket.AddressFamily:
    """Of a name with addresses of both, IPv4; what is no name is said when it is listened on."""
    if ":" in host:
        return socket.AF_INET6
    try:
        families = {found[0] for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return socket.AF_INET
    return socket.AF_INET6 if families == {socket.AF_INET6} else socket.AF_INET


def _listen_on_unix_socket(path: Path) -> socket.socket:
    """Removes a socket that an earlier service left behind. Folder and group decide who may use it."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket() and not _is_listened_on(path):
            path.unlink()
        listener.bind(str(path))
        path.chmod(SOCKET_MODE)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise StoreError(f"Cannot listen on {path}: {error.strerror or error}. TOCSIN_UNIX_SOCKET names another path.") from error
    return listener


def _is_listened_on(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) != errno.ECONNREFUSED
