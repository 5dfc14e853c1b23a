"""How often a password may be guessed: failed tries by what they count against, and those that are under way."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager

from msgspec import Struct

from tocsin.caches import Tidied
from tocsin.flow.windows import one_process, share_of

SHARED_ADDRESS = "address shared "  # how the name of an address begins that many people may share
MAX_WAITING_TRIES = 16  # of an address or an account, until it is known how those before them end
_FREE_TRIES, _FREE_TRIES_OF_MANY = 5, 50
_LONGEST_WAIT_SECONDS = 900.0
_FORGOTTEN_AFTER_SECONDS = 3600.0
_MAX_REMEMBERED = 10_000


class Throttled(Exception):
    """Too many failed tries; `seconds` until the next one is looked at."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class Counted(Struct, frozen=True):
    """What a try counts against, by short names. `own`: this account as tried by this client, which is all that a success clears.
    `others`: what more people have a share in, such as the client's address. `is_known`: this client has been let in there before.
    """

    own: str
    others: tuple[str, ...] = ()
    is_known: bool = False

    @property
    def all(self) -> tuple[str, ...]:
        return (self.own, *self.others)


class Try:
    """One try under way. `is_right` is set once that is known; a try that ends before counts neither way."""

    is_right: bool | None = None


class Tries:
    """From the sixth failure on each doubles the wait, until none came for an hour.

    A success takes away what the same client failed at the same account, and nothing else: somebody with an account must not clear with it
    what they guessed at others, and its owner's success must not clear what somebody else guessed.

    Where several processes take requests, each has its share of the free tries, and the waits grow with their number: all of them together
    let through what one process would. `api_processes`: how many they are.

    A try is counted before its password is looked at, as if it were to fail, so no more are looked at at once than may fail.
    """

    def __init__(self, api_processes: Callable[[], int] = one_process) -> None:
        self._api_processes = api_processes
        self._failed: Tidied[str, tuple[int, float]] = Tidied(_MAX_REMEMBERED)
        self._under_way: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._one_ended = asyncio.Event()

    @asynccontextmanager
    async def one(self, counted: Counted) -> AsyncGenerator[Try, None]:
        """One try; where those under way may use up what is free, it waits until it is known whether they do. Raises Throttled."""
        self.check(counted)
        if not self._may_begin(counted.all):
            await self._turn(counted)
        self._under_way.update(counted.all)
        one = Try()
        try:
            yield one
        finally:
            self._take_off(self._under_way, counted.all)
            if one.is_right is not None:
                (self.succeeded if one.is_right else self.failed)(counted)
            self._one_ended.set()
            self._one_ended = asyncio.Event()

    def _may_begin(self, names: Iterable[str]) -> bool:
        """One at a time is always looked at, once its wait is over."""
        return all(not self._under_way[name] or self._under_way[name] + self._count(name) <= self._free(name) for name in names)

    async def _turn(self, counted: Counted) -> None:
        if any(self._waiting[name] >= MAX_WAITING_TRIES for name in counted.all):
            raise Throttled(1.0)
        self._waiting.update(counted.all)
        try:
            while not self._may_begin(counted.all):
                await self._one_ended.wait()
                self.check(counted)
        finally:
            self._take_off(self._waiting, counted.all)

    @staticmethod
    def _take_off(counts: Counter[str], names: Iterable[str]) -> None:
        for name in names:
            counts[name] -= 1
            if counts[name] <= 0:
                del counts[name]

    def _count(self, name: str) -> int:
        count, until = self._failed.get(name, (0, 0.0))
        return count if time.monotonic() - until < _FORGOTTEN_AFTER_SECONDS else 0

    def check(self, counted: Counted) -> None:
        """Raises Throttled."""
        now = time.monotonic()
        wait = max(self._failed.get(name, (0, 0.0))[1] - now for name in counted.all)
        if wait > 0:
            raise Throttled(wait)

    def failed(self, counted: Counted) -> None:
        now = time.monotonic()
        for name in counted.all:
            count = self._count(name) + 1
            over = count - self._free(name)
            wait = min(_LONGEST_WAIT_SECONDS, 2.0 ** min(over, 20)) * self._api_processes() if over > 0 else 0.0
            self._failed.add(name, (count, now + wait), lambda _, failed: failed[1] <= now)

    def _free(self, name: str) -> int:
        """How many may fail before the next has to wait. What many people share locks them all out, so it takes more."""
        return share_of(_FREE_TRIES_OF_MANY if name.startswith(SHARED_ADDRESS) else _FREE_TRIES, self._api_processes())

    def succeeded(self, counted: Counted) -> None:
        now = time.monotonic()
        own = self._count(counted.own)
        for name in counted.all:
            if (left := self._count(name) - own) > 0:
                self._failed[name] = (left, now)
            else:
                self._failed.pop(name, None)
