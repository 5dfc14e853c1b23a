"""How often somebody asks, counted in memory by minutes. Where several processes take requests, each counts what it takes itself, and has a
share of the limit."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from msgspec import Struct

WINDOW_SECONDS = 60.0
MAX_REMEMBERED = 20_000


def one_process() -> int:
    """How many processes take requests, where this is the only one."""
    return 1


def share_of(limit: int, api_processes: int) -> int:
    """What each of so many processes that take requests may let through, one at least; 0: there is no limit."""
    return max(1, limit // api_processes) if limit else 0


class Standing(Struct, frozen=True):
    """Someone's count in the current window of a minute. `share`: what of the limit is this process's."""

    limit: int
    share: int
    used: int
    reset_seconds: int

    @property
    def is_over(self) -> bool:
        return self.used > self.share


class Window(Struct):
    """A minute that begins with the first that is counted, and what was counted in it."""

    ends_at: float = 0.0
    counted: int = 0

    def count(self, n: int, now: float) -> None:
        if self.ends_at <= now:
            self.ends_at, self.counted = now + WINDOW_SECONDS, 0
        self.counted += n

    def used(self, now: float) -> int:
        return self.counted if self.ends_at > now else 0


class Windows:
    """Counts by key, each in a window of its own. Remembers a bounded number of keys. `api_processes`: see `share_of`."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic, api_processes: Callable[[], int] = one_process) -> None:
        self._api_processes = api_processes
        self._limit = limit
        self._clock = clock
        self._windows: OrderedDict[object, Window] = OrderedDict()

    def count(self, key: object) -> Standing:
        now = self._clock()
        window = self._windows.get(key)
        if window is None or not window.used(now):  # a new one goes to the end, so the oldest comes first
            _ = self._windows.pop(key, None)
            if len(self._windows) >= MAX_REMEMBERED:
                _ = self._windows.popitem(last=False)
            window = self._windows[key] = Window()
        window.count(1, now)
        return Standing(self._limit, share_of(self._limit, self._api_processes()), window.counted, max(1, math.ceil(window.ends_at - now)))
