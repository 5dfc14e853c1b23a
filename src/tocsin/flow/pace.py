"""How often a provider may be called: windows of starts, and pauses after a throttle.

Both are kept in memory, and noted in a record that outlives the process, so that a restart neither resets a window nor cuts a pause short.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from tocsin import clock
from tocsin.caches import Tidied
from tocsin.channels.contract import Pace
from tocsin.clock import SECOND, Micros
from tocsin.ports.paces import Record

MAX_IDLE = 10_000  # keys in memory before idle ones are dropped


def wait_in_window(starts: "deque[float]", pace: Pace, now: float) -> float:
    """Seconds until a start is free, given the past starts, oldest first. Drops those that have left the window."""
    while starts and starts[0] + pace.seconds <= now:
        starts.popleft()
    return starts[0] + pace.seconds - now if len(starts) >= pace.count else 0.0


class Wait(Struct, frozen=True):
    """Why nothing may start: a `pace` whose window is full, or, without one, a pause that the provider asked for."""

    seconds: float
    pace: Pace | None = None


class Pacer:
    """Windows and pauses by key. Times are seconds of one monotonic clock, but for those of the record, which are `wall`'s."""

    def __init__(self, record: Record | None = None, wall: Callable[[], Micros] = clock.now) -> None:
        self._record = record
        self._wall = wall
        self._starts: Tidied[tuple[str, int, float], deque[float]] = Tidied(MAX_IDLE)
        self._paused_until: Tidied[str | int, float] = Tidied(MAX_IDLE)
        self._has_kept_rests = record is not None and record.rests_until > 0
        self._rests_read: tuple[Micros, float] | None = None  # both clocks, when kept rests were first asked for

    def take(self, credential: str, paces: Sequence[Pace], now: float, realm: str = "") -> float:
        """0 and a start is taken in every window, or the seconds to wait; nothing is taken then."""
        if (self._paused_until or self._has_kept_rests) and (paused := self._paused(credential, realm, now)) > 0:
            return paused
        if not paces:
            return 0.0
        windows = [self._window(pace, now) for pace in paces]
        wait = max(wait_in_window(window, pace, now) for window, pace in zip(windows, paces, strict=True))
        if wait > 0:
            return wait
        for window in windows:
            window.append(now)
        if self._record is not None:
            at = self._wall()
            for key, seconds in _lengths(paces).items():
                self._record.begin(key, at, seconds)
        return 0.0

    def wait(self, credential: str, paces: Sequence[Pace], now: float, realm: str = "") -> Wait:
        """What `take` would say, and why; nothing is taken."""
        if (paused := self._paused(credential, realm, now)) > 0:
            return Wait(paused)
        waits = [Wait(wait_in_window(self._window(pace, now), pace, now), pace) for pace in paces]
        return max(waits, key=lambda one: one.seconds, default=Wait(0.0))

    def remember(self, paces: Sequence[Pace], starts: Iterable[Micros], now: float) -> None:
        """Starts before this process began, as rows tell of them: they count, and are noted, as its own are."""
        at = self._wall()
        newest = sorted(starts)
        for pace in paces:
            window = self._window(pace, now)
            merged = sorted([*window, *(_then(start, at, now) for start in newest)])[-pace.count :]
            window.clear()
            window.extend(merged)
        if self._record is not None:
            for key, seconds in _lengths(paces).items():
                for start in newest:
                    self._record.begin(key, start, seconds)

    @property
    def has_pauses(self) -> bool:
        """Whether anything may be paused at all; a quick look before asking whom."""
        return bool(self._paused_until) or self._has_kept_rests

    def pause(self, whom: str | int, until: float, now: float) -> None:
        """No start before then: for a credential that is throttled, or for one handler, by its id."""
        if until <= now or until <= now + self.pause_left(whom, now):
            return
        self._paused_until.add(whom, until, lambda _, end: end <= now)  # nobody asks for those of deleted handlers any more
        if self._record is not None and isinstance(whom, str):
            at = self._wall()
            self._record.rest(whom, at, at + int((until - now) * SECOND))

    def pause_left(self, whom: str | int, now: float) -> float:
        """Seconds until the pause is over; 0 without one."""
        until = self._paused_until.get(whom)
        if until is None:
            return self._kept_pause_left(whom, now) if self._has_kept_rests and isinstance(whom, str) else 0.0
        if until > now:
            return until - now
        del self._paused_until[whom]
        return 0.0

    def _paused(self, credential: str, realm: str, now: float) -> float:
        left = self.pause_left(credential, now)
        return max(left, self.pause_left(realm, now)) if realm else left

    def _kept_pause_left(self, whom: str, now: float) -> float:
        """The same of a pause that an earlier process was asked for."""
        if self._record is None:
            return 0.0
        # A wall clock that is set back must not make a pause longer: what the steady one says has passed, has passed.
        since, began = self._rests_read = self._rests_read or (self._wall(), now)
        at = max(self._wall(), since + int((now - began) * SECOND))
        if self._record.rests_until <= at:
            self._has_kept_rests = False
            return 0.0
        left = (self._record.rest_until(whom) - at) / SECOND
        if left <= 0:
            return 0.0
        self._paused_until[whom] = now + left
        return left

    def _window(self, pace: Pace, now: float) -> "deque[float]":
        key = (pace.key, pace.count, pace.seconds)
        window = self._starts.get(key)
        if window is None:
            kept = deque(self._kept_starts(pace, now))
            window = self._starts.add(key, kept, lambda key, window: not window or window[-1] < now - key[2])
        return window

    def _kept_starts(self, pace: Pace, now: float) -> list[float]:
        """Those of an earlier process that still count, oldest first."""
        if self._record is None:
            return []
        at = self._wall()
        self._record.forget_before(at)
        kept = self._record.starts_since(pace.key, at - int(pace.seconds * SECOND))
        return sorted(_then(start, at, now) for start in kept)[-pace.count :]


def _lengths(paces: Sequence[Pace]) -> dict[str, float]:
    """For how many seconds a start counts under each key, at the most: in its longest window."""
    lengths: dict[str, float] = {}
    for pace in paces:
        lengths[pace.key] = max(pace.seconds, lengths.get(pace.key, 0.0))
    return lengths


def _then(start: Micros, at: Micros, now: float) -> float:
    """A time of the wall clock, which says `at`, by the monotonic one, which says `now`. The future counts as now."""
    return now - max(0, at - start) / SECOND
