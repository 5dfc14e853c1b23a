"""Whether a healthy handler notices what goes on beside it: it gets a message now and then, all the time."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable

from msgspec import Struct

from bench.isolation import MIN_BOUND_MS
from bench.receiver import Receiver
from bench.report import percentile

ALONE = 80  # messages before everything else begins
EVERY_SECONDS = 0.2
ARRIVES_WITHIN_SECONDS = 60.0


class Beside(Struct):
    """Milliseconds from asking for a message to its arrival, for 99 % of them."""

    messages: int
    alone_p99_ms: float
    beside_p99_ms: float

    @property
    def complaint(self) -> str | None:
        bound = max(MIN_BOUND_MS, 2 * self.alone_p99_ms)
        if self.beside_p99_ms <= bound:
            return None
        return f"a healthy handler's messages took {self.beside_p99_ms:.0f} ms, not {bound:.0f}"


class Probe:
    """`send` sends one message to the healthy handler and gives its id. The receiver is a process of its own, for exact times."""

    def __init__(self, receiver: Receiver, send: Callable[[int], int]) -> None:
        self._receiver = receiver
        self._send = send
        self._sent: dict[int, int] = {}  # id: nanoseconds since 1970
        self._alone: set[int] = set()
        self._numbers = itertools.count()
        self._ends = threading.Event()
        self.arrived: Counter[int] = Counter()

    def alone(self) -> None:
        for _ in range(ALONE):
            self._one()
            time.sleep(0.02)
        self._alone = set(self._sent)

    def run(self) -> None:
        """Until `end`."""
        while not self._ends.wait(EVERY_SECONDS):
            self._one()

    def end(self) -> None:
        self._ends.set()

    def found(self) -> Beside:
        """Once everything has been sent."""
        ends_at = time.monotonic() + ARRIVES_WITHIN_SECONDS
        while self._receiver.count() < len(self._sent) and time.monotonic() < ends_at:
            time.sleep(0.1)
        taken = self._receiver.take()
        self.arrived.update(one for one, _ in taken)
        arrivals = dict(reversed(taken))  # the first of each
        waits = {one: (arrivals[one] - at) / 1e6 if one in arrivals else float("inf") for one, at in self._sent.items()}
        return Beside(
            len(waits) - len(self._alone),
            percentile(self._of(waits, alone=True), 0.99),
            percentile(self._of(waits, alone=False), 0.99),
        )

    def _of(self, waits: dict[int, float], *, alone: bool) -> list[float]:
        return [wait for one, wait in waits.items() if (one in self._alone) is alone]

    def _one(self) -> None:
        at = time.time_ns()
        self._sent[self._send(next(self._numbers))] = at
