"""What all scenes share: a place to run in, receivers, a service on a filled store, and goals whose figures are medians of rounds."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

from msgspec import Struct

from bench import service
from bench.distant import Arrival, Distant
from bench.filling import KEYS, MINE, Planned, fill
from bench.machine import cores
from bench.service import Service

MAX_WATCH_SECONDS = 25.0
ENVIRON = {"TOCSIN_DISABLE_AFTER_FAILURES": "0", "TOCSIN_LOG_LEVEL": "warning"}


class Goal(Struct, frozen=True):
    """What was measured against what it is to be: at least or at most `bound`."""

    what: str
    measured: float
    bound: float
    unit: str = ""
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def line(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{'pass' if self.is_met else 'FAIL'}  {self.what}: {self.measured:,.3g}{self.unit} ({sign} {self.bound:,.3g}{self.unit})"


def middle(rounds: Sequence[Sequence[Goal]]) -> list[Goal]:
    """The same goals, each with the middle of its measurements (and of its bounds, which may be measured too)."""
    return [
        Goal(same[0].what, median(one.measured for one in same), median(one.bound for one in same), same[0].unit, same[0].at_least)
        for same in zip(*rounds, strict=True)
    ]


class Place:
    """Where a scene runs: a folder, the service's cores and the others. `say` prints a line of figures."""

    def __init__(self, folder: Path, say: Callable[[str], None] = print) -> None:
        self.folder = folder
        self.core, self.others = cores()
        self.say = say

    @contextmanager
    def distant(self, tls_hosts: int = 0) -> Generator[Distant, None, None]:
        found = Distant(self.others, self.folder / "certificates", tls_hosts)
        try:
            yield found
        finally:
            found.close()

    @contextmanager
    def serving(
        self, planned: Sequence[Planned], environ: Mapping[str, str] | None = None, name: str = "service", descriptors: int = 0
    ) -> Generator[Service, None, None]:
        """A service whose handlers 1, 2, ... are those planned."""
        folder = self.folder / name
        folder.mkdir()
        fill(folder, planned)
        with service.running(folder, self.core, environ=ENVIRON | dict(environ or {}), descriptors=descriptors) as running:
            yield running


Scene = Callable[[Place], list[Goal]]


def send(
    running: Service, handlers: Sequence[int], message: str = "Is anybody there?", user: int = MINE, **more: object
) -> tuple[int, int]:
    """The notification's id, and when its 202 came, in nanoseconds since 1970."""
    body = {"message": message, "handlers": list(handlers), **more}
    answer = running.call("POST", "/api/notifications", body, KEYS[user])
    return int(answer["data"]["id"]), time.time_ns()


def in_seconds(seconds: float) -> tuple[str, int]:
    """That time as the API takes it, and in nanoseconds since 1970."""
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    return at.isoformat(), int(at.timestamp() * 1e9)


class Watch:
    """Arrivals as they come, by notification. It waits for all that is asked of it together no longer than `seconds`."""

    def __init__(self, distant: Distant, seconds: float = MAX_WATCH_SECONDS) -> None:
        self._ends_at = time.monotonic() + seconds
        self._distant = distant
        self._seen: dict[int, list[Arrival]] = {}

    def arrivals(self, notification: int, count: int = 1) -> list[int]:
        """When it arrived, `count` times if that happens in time, in nanoseconds since 1970."""
        while True:
            for one in self._distant.take():
                self._seen.setdefault(one.id, []).append(one)
            found = self._seen.get(notification, [])
            if len(found) >= count or time.monotonic() > self._ends_at:
                return [one.at for one in found]
            time.sleep(0.02)

    def late_seconds(self, notification: int, due_at: int, count: int = 1) -> float:
        """How long after `due_at` its arrival number `count` was; infinite if it did not come in time."""
        found = self.arrivals(notification, count)
        return max(0.0, (found[count - 1] - due_at) / 1e9) if len(found) >= count else float("inf")
