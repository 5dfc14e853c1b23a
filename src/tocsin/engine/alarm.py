"""A heap of times and one timer: it wakes whatever has become due."""

import asyncio
import heapq
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from tocsin import clock
from tocsin.clock import SECOND, Micros

K = TypeVar("K", bound=Hashable)


class Alarm(Generic[K]):
    """Wakes each thing once, at the earliest of the times it was set for; waking something twice must do no harm.

    Times are of the wall clock, which may jump, so it is checked at least every `look_seconds`.
    """

    def __init__(self, wake: Callable[[K], None], look_seconds: float) -> None:
        self._wake = wake
        self._look_seconds = look_seconds
        self._heap: list[tuple[Micros, int, K]] = []
        self._earliest: dict[K, Micros] = {}  # the entry of the heap that counts
        self._count = 0  # orders entries of the same time
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopped = False

    def set(self, what: K, when: Micros) -> None:
        """Tell of `what` at `when`; of two times for the same, the earlier counts."""
        known = self._earliest.get(what)
        if known is not None and known <= when:
            return
        self._earliest[what] = when
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, what))
        if self._heap[0][2] == what:
            self.look()

    def look(self) -> None:
        """Set the timer by the clock as it is now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap and not self._is_stopped:
            delay = max(0.0, (self._heap[0][0] - clock.now()) / SECOND)
            self._timer = asyncio.get_running_loop().call_later(min(delay, self._look_seconds), self._rang)

    def stop(self) -> None:
        """Nothing is told any more."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()

    @property
    def earliest(self) -> Micros | None:
        """When the next of them is due, by the wall clock; None: there is none."""
        return self._heap[0][0] if self._heap else None

    def _rang(self) -> None:
        now = clock.now()
        while self._heap and self._heap[0][0] <= now:
            when, _, what = heapq.heappop(self._heap)
            if self._earliest.get(what) == when:
                del self._earliest[what]
                self._wake(what)
        self.look()
