"""Fresh TCP connections to one host, and what TLS needs, so that nothing slow on the way holds up others.

asyncio's own look-ups share the threads of everything else; these have threads of their own, as do the certificates. All addresses
of the host are tried, the next one as soon as the last has failed or been silent for a moment (RFC 8305, "Happy Eyeballs").
"""

import asyncio
import concurrent.futures
import errno
import ipaddress
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TypeVar

from tocsin.net.names import Names, Place
from tocsin.net.shortage import Lacking

STAGGER_SECONDS = 0.25  # https://www.rfc-editor.org/rfc/rfc8305#section-8
FRESH_SECONDS = 300.0  # how long addresses are used without a new look-up
_DOUBTFUL_SECONDS = 30.0  # how long the old ones are used without asking, after a look-up that failed
_LACKING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})

T = TypeVar("T")


class Unresolved(OSError):
    """The host name gave no address, or none in time."""


def is_lack(error: BaseException | None) -> bool:
    """Whether this process lacked a descriptor, memory, a port or a thread."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _LACKING)


class Dialer:
    """Connects to one host. `seconds`: for the look-up, and for each of its addresses. `tls` makes what TLS needs; None: no TLS."""

    def __init__(self, host: str, port: int, seconds: float, *, tls: Callable[[], ssl.SSLContext] | None) -> None:
        self._place = Place(host, port)
        self._seconds = seconds
        self._make_tls = tls
        self._names = Names(FRESH_SECONDS)
        self._addresses: list[str] = [host] if _is_address(host) else []
        self._fresh_until = float("inf") if self._addresses else 0.0
        self._tls: asyncio.Task[ssl.SSLContext] | None = None

    async def connect(self) -> socket.socket:
        """A connected socket. Raises OSError: `Unresolved`, or that of the last address that failed."""
        addresses = await self._known_addresses()
        try:
            return await race(addresses, self._place.port, self._seconds)
        except OSError:
            self.forget()
            raise

    def forget(self) -> None:
        """Look the name up again before the next connection: the host may have moved."""
        if self._fresh_until != float("inf"):
            self._fresh_until = 0.0

    async def tls(self) -> ssl.SSLContext | None:
        """None where TLS is not used. Made once, at the first call. Raises OSError."""
        if self._make_tls is None:
            return None
        making = self._tls
        if making is None:
            making = self._tls = asyncio.get_running_loop().create_task(_in_a_thread(self._make_tls))
        try:
            return await asyncio.shield(making)  # a caller that is cancelled does not end it for others
        except OSError:
            if self._tls is making:
                self._tls = None
            raise

    def close(self) -> None:
        self._names.close()

    async def _known_addresses(self) -> Sequence[str]:
        if time.monotonic() < self._fresh_until:
            return self._addresses
        try:
            found = await self._names.addresses(self._place, self._seconds)
        except OSError as error:
            if not self._addresses:
                raise _reason(error) from error
            self._fresh_until = time.monotonic() + _DOUBTFUL_SECONDS
        else:
            self._addresses, self._fresh_until = found, time.monotonic() + FRESH_SECONDS
        return self._addresses


def _reason(error: OSError) -> OSError:
    if isinstance(error, Lacking):
        return OSError(errno.EAGAIN, str(error))
    if is_lack(error):
        return error
    if isinstance(error, TimeoutError):
        return Unresolved("the host name was not resolved in time")
    return Unresolved("the host name cannot be resolved")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def race(addresses: Sequence[str], port: int, seconds: float) -> socket.socket:
    """The first socket that connects. Each address has `seconds`. Raises the OSError of the one that failed last."""
    waiting = deque(_families_in_turn(addresses))
    running: set[asyncio.Task[socket.socket]] = set()
    failure: OSError = ConnectionError("the host name has no address")
    won: asyncio.Task[socket.socket] | None = None
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.get_running_loop().create_task(_link(waiting.popleft(), port, seconds)))
            ended, _ = await asyncio.wait(running, timeout=STAGGER_SECONDS if waiting else None, return_when=asyncio.FIRST_COMPLETED)
            for one in ended:
                error = one.exception()
                if error is None:
                    won = one
                    return one.result()
                if not isinstance(error, OSError):
                    raise error
                failure = error
            running -= ended
        raise failure
    finally:
        for one in running - {won}:
            one.cancel()
            one.add_done_callback(_give_up)


def _families_in_turn(addresses: Sequence[str]) -> list[str]:
    """The resolver's order within each family, that of its first address first."""
    is_six = bool(addresses) and ":" in addresses[0]
    first, second = [a for a in addresses if (":" in a) is is_six], [a for a in addresses if (":" in a) is not is_six]
    return [address for pair in zip_longest(first, second) for address in pair if address is not None]


async def _link(address: str, port: int, seconds: float) -> socket.socket:
    link = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        link.setblocking(False)
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(link, (address, port))
    except BaseException:
        link.close()
        raise
    return link


def _give_up(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _in_a_thread(work: Callable[[], T]) -> T:
    """What `work` gives, from a thread of its own that nobody waits for at the end. Raises OSError if no thread can be started."""
    done: concurrent.futures.Future[T] = concurrent.futures.Future()
    done.set_running_or_notify_cancel()  # from now on it cannot be cancelled, so `run` always finds it unsettled

    def run() -> None:
        try:
            found = work()
        except Exception as error:  # noqa: BLE001  # raised again where it is awaited
            done.set_exception(error)
        else:
            done.set_result(found)

    try:
        threading.Thread(target=run, name="certificates", daemon=True).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, "no thread can be started") from error
    return await asyncio.wrap_future(done)
