"""How often a provider may be called: windows of starts, and pauses after a throttle. Pure but for the memory of past starts."""

from collections import deque
from collections.abc import Iterable, Sequence

from msgspec import Struct

from tocsin.channels.contract import Pace

_TIDY_ABOVE = 10_000  # keys in memory before idle ones are dropped


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
    """Windows and pauses by key. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._starts: dict[tuple[str, int, float], deque[float]] = {}
        self._paused_until: dict[str | int, float] = {}
        self._tidy_pauses_at = _TIDY_ABOVE

    def take(self, credential: str, paces: Sequence[Pace], now: float, realm: str = "") -> float:
        """0 and a start is taken in every window, or the seconds to wait; nothing is taken then."""
        if self._paused_until and (paused := self._paused(credential, realm, now)) > 0:
            return paused
        if not paces:
            return 0.0
        windows = [self._window(pace) for pace in paces]
        wait = max(wait_in_window(window, pace, now) for window, pace in zip(windows, paces, strict=True))
        if wait > 0:
            return wait
        for window in windows:
            window.append(now)
        return 0.0

    def wait(self, credential: str, paces: Sequence[Pace], now: float, realm: str = "") -> Wait:
        """What `take` would say, and why; nothing is taken."""
        if (paused := self._paused(credential, realm, now)) > 0:
            return Wait(paused)
        waits = [Wait(wait_in_window(self._window(pace), pace, now), pace) for pace in paces]
        return max(waits, key=lambda one: one.seconds, default=Wait(0.0))

    def remember(self, pace: Pace, starts: Iterable[float]) -> None:
        """Starts before this process began: they count in the window as its own do."""
        key = (pace.key, pace.count, pace.seconds)
        self._starts[key] = deque(sorted([*self._window(pace), *starts])[-pace.count :])

    @property
    def has_pauses(self) -> bool:
        return bool(self._paused_until)

    def pause(self, whom: str | int, until: float, now: float) -> None:
        """No start before then: for a credential that is throttled, or for one handler, by its id."""
        if len(self._paused_until) >= self._tidy_pauses_at:  # nobody asks for those of deleted handlers any more
            self._paused_until = {one: end for one, end in self._paused_until.items() if end > now}
            self._tidy_pauses_at = max(_TIDY_ABOVE, 2 * len(self._paused_until))
        self._paused_until[whom] = max(until, self._paused_until.get(whom, 0.0))

    def pause_left(self, whom: str | int, now: float) -> float:
        """Seconds until the pause is over; 0 without one."""
        until = self._paused_until.get(whom)
        if until is None:
            return 0.0
        if until > now:
            return until - now
        del self._paused_until[whom]
        return 0.0

    def _paused(self, credential: str, realm: str, now: float) -> float:
        left = self.pause_left(credential, now)
        return max(left, self.pause_left(realm, now)) if realm else left

    def _window(self, pace: Pace) -> "deque[float]":
        key = (pace.key, pace.count, pace.seconds)
        window = self._starts.get(key)
        if window is None:
            if len(self._starts) > _TIDY_ABOVE:
                self._tidy()
            window = self._starts[key] = deque()
        return window

    def _tidy(self) -> None:
        newest = max((window[-1] for window in self._starts.values() if window), default=0.0)
        idle = [key for key, window in self._starts.items() if not window or window[-1] < newest - key[2]]
        for key in idle:
            del self._starts[key]
