"""How far this machine's clock is behind the store's, as beats show it: all processes live by the clock of the store."""

import time
from collections import deque
from collections.abc import Callable

from msgspec import Struct

from tocsin import clock
from tocsin.clock import SECOND, Micros

SAMPLES = 60  # beats among which the quickest answer is the most exact one
TOLERANCE: Micros = 10_000  # between two clocks; more, and this machine's clock has been set


class Times(Struct, frozen=True):
    """The clocks that it goes by; tests have their own."""

    steady: Callable[[], float] = clock.steady
    own: Callable[[], Micros] = lambda: time.time_ns() // 1000
    follow: Callable[[Micros], None] = clock.follow


class ServerClock:
    """`own`: this machine's wall clock; `steady`: seconds of a clock that nobody sets."""

    def __init__(self, own: Callable[[], Micros], steady: Callable[[], float], follow: Callable[[Micros], None] = clock.follow) -> None:
        self._own = own
        self._steady = steady
        self._follow = follow
        self._samples: deque[tuple[float, Micros]] = deque(maxlen=SAMPLES)  # how long the answer took, how far behind we are
        self._difference: Micros | None = None
        self.behind: Micros = 0

    def heard(self, now: Micros, seconds: float) -> None:
        """The store's clock says `now`, in an answer that took so long; the store looked at it halfway, at the most half of that ago."""
        own, steady = self._own(), int(self._steady() * SECOND)
        if self._difference is None or abs(own - steady - self._difference) > TOLERANCE:
            self._samples.clear()
        self._difference = own - steady
        self._samples.append((seconds, now + int(seconds * SECOND / 2) - own))
        self.behind = min(self._samples)[1]
        self._follow(self.behind)
