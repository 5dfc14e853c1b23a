"""How often somebody asks, counted in memory by minutes."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from msgspec import Struct

WINDOW_SECONDS = 60.0
MAX_REMEMBERED = 20_000


class Standing(Struct, frozen=True):
    """Someone's count in the current window of a minute."""

    limit: int
    used: int
    reset_seconds: int

    @property
    def is_over(self) -> bool:
        return self.used > self.limit


class Windows:
    """Counts by key, each in a window of a minute that begins with its first one. Remembers a bounded number of keys."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._windows: OrderedDict[object, tuple[float, int]] = OrderedDict()

    def count(self, key: object) -> Standing:
        now = self._clock()
        start, used = self._windows.get(key, (now, 0))
        if now - start >= WINDOW_SECONDS:
            start, used = now, 0
        if not used:  # a new window goes to the end, so the oldest comes first
            _ = self._windows.pop(key, None)
            if len(self._windows) >= MAX_REMEMBERED:
                _ = self._windows.popitem(last=False)
        self._windows[key] = (start, used + 1)
        return Standing(self._limit, used + 1, max(1, math.ceil(start + WINDOW_SECONDS - now)))
