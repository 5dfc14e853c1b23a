"""Host names and their addresses, looked up in threads of our own, so that names that hang do not hold up others.

libcurl looks up with 20 threads at most, and two of them for each name (https://curl.se/libcurl/c/CURLMOPT_RESOLVE_THREADS_MAX.html):
ten dead name servers would stop everything. A look-up that hangs cannot be ended, so its thread is a daemon that nobody waits for.
"""

import asyncio
import contextlib
import functools
import socket
import threading
import time
from collections.abc import Sequence

from msgspec import Struct

from tocsin.net.shortage import NO_DESCRIPTOR, Lacking, lacks_descriptors

MAX_LOOKUPS = 256  # at the same time
MAX_DOUBTFUL = 192  # of them for names whose last look-up failed: however many hang, threads remain for others
MAX_REMEMBERED = 50_000  # names


class Place(Struct, frozen=True):
    """What is looked up, and the key under which libcurl keeps the addresses."""

    host: str
    port: int


class Names:
    """Which names were looked up recently, on one event loop. libcurl keeps the addresses themselves."""

    def __init__(self, fresh_seconds: float) -> None:
        self._fresh_seconds = fresh_seconds
        self._fresh_until: dict[Place, float] = {}
        self._doubtful: set[str] = set()
        self._running: dict[str, asyncio.Task[list[str]]] = {}
        self._threads = asyncio.Semaphore(MAX_LOOKUPS)
        self._doubtful_threads = asyncio.Semaphore(MAX_DOUBTFUL)

    def is_fresh(self, place: Place) -> bool:
        return self._fresh_until.get(place, 0.0) > time.monotonic()

    def forget(self, place: Place | None) -> None:
        """Look it up again before the next request: its address could not be reached, so it may have moved."""
        if place is not None:
            self._fresh_until.pop(place, None)

    async def addresses(self, place: Place, seconds: float) -> list[str]:
        """Addresses in the resolver's order. Raises OSError if there are none, Lacking if the fault is ours, and TimeoutError."""
        task = self._running.get(place.host)
        if task is None:
            task = self._running[place.host] = asyncio.get_running_loop().create_task(self._look_up(place.host))
            task.add_done_callback(functools.partial(self._ended, place.host))
        # It continues after the timeout: the next attempt finds its result, or waits for the same look-up.
        done, _ = await asyncio.wait([task], timeout=seconds)
        if not done:
            self._doubt(place.host)
            raise TimeoutError
        found = task.result()
        if len(self._fresh_until) >= MAX_REMEMBERED:
            self._fresh_until.clear()
        self._fresh_until[place] = time.monotonic() + self._fresh_seconds
        return found

    def _ended(self, host: str, task: "asyncio.Task[list[str]]") -> None:
        del self._running[host]
        if not task.cancelled():
            task.exception()  # retrieve it: if nobody waits any more, asyncio would complain

    def _doubt(self, host: str) -> None:
        if len(self._doubtful) >= MAX_REMEMBERED:
            self._doubtful.clear()
        self._doubtful.add(host)

    async def _look_up(self, host: str) -> list[str]:
        async with contextlib.AsyncExitStack() as stack:
            if host in self._doubtful:
                await stack.enter_async_context(self._doubtful_threads)
            await stack.enter_async_context(self._threads)
            try:
                found = await _in_a_thread(host)
            except Lacking:
                raise
            except OSError:
                self._doubt(host)
                raise
            self._doubtful.discard(host)
            return found

    def close(self) -> None:
        for task in self._running.values():
            task.cancel()


async def _in_a_thread(host: str) -> list[str]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[str]] = loop.create_future()

    def settle(found: Sequence[str], failure: Exception | None) -> None:
        if future.done():
            return
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(list(dict.fromkeys(found)))

    def work() -> None:
        found: list[str] = []
        failure: Exception | None = None
        try:
            found = [str(peer[0]) for *_, peer in socket.getaddrinfo(host.strip("[]").rstrip("."), None, type=socket.SOCK_STREAM)]
        except OSError as error:
            failure = Lacking(NO_DESCRIPTOR) if error.errno == socket.EAI_MEMORY or lacks_descriptors() else error
        except MemoryError:
            failure = Lacking("No memory is left to look up the host name.")
        except UnicodeError:
            failure = OSError("not a host name")
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, found, failure)

    try:
        threading.Thread(target=work, name="look-up", daemon=True).start()
    except (RuntimeError, MemoryError) as error:
        raise Lacking("No thread can be started to look up the host name.") from error
    return await future
