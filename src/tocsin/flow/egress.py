"""Starts that a provider counts by the address they come from, where several processes send from the same one.

Each has its share of the count, as long as the others have used no more than theirs. A start belongs to the partition that it was made
for, and moves on with it: so a process that ends, or joins, neither loses a start nor gets a new window.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

from tocsin.channels.contract import Pace

ASK_AGAIN_SECONDS = 0.5  # a share may grow with any beat
Window: TypeAlias = tuple[str, int, float]
"""A pace's key, count and seconds."""


class Egress:
    """Times are seconds of one steady clock."""

    def __init__(self) -> None:
        self._starts: dict[Window, deque[tuple[float, int]]] = {}  # when, and for which partition; oldest first
        self._handed_on: dict[Window, deque[float]] = {}  # they count here too until they have arrived
        self._workers = 0
        self._used: Sequence[Mapping[str, int]] = ()

    def share(self, workers: int, used: Sequence[Mapping[str, int]], is_settled: bool) -> None:
        """See `tocsin.ports.workers.Succession.share_egress`."""
        self._workers, self._used = workers, used
        if is_settled:
            self._handed_on.clear()

    def used(self, now: float) -> dict[str, int]:
        """How many starts each window holds."""
        return {_name(window): len(self._times(window, now)) for window in {*self._starts, *self._handed_on}}

    def wait(self, pace: Pace, now: float) -> float:
        """Seconds until a start may be free; it may be sooner or later, as others use theirs."""
        window = (pace.key, pace.count, pace.seconds)
        times, allowed = self._times(window, now), self._allowed(window)
        if len(times) < allowed:
            return 0.0
        over = len(times) - allowed
        return min(times[over] + pace.seconds - now, ASK_AGAIN_SECONDS) if over < len(times) else ASK_AGAIN_SECONDS

    def began(self, pace: Pace, partition: int, times: Sequence[float]) -> None:
        """Starts for this partition, which count."""
        starts = self._starts.setdefault((pace.key, pace.count, pace.seconds), deque())
        is_newest = not starts or times[0] >= starts[-1][0]
        starts.extend((time, partition) for time in times)
        if not is_newest or len(times) > 1:
            self._starts[pace.key, pace.count, pace.seconds] = deque(sorted(starts))

    def hand_on(self, partitions: Collection[int], now: float) -> dict[int, list[tuple[Window, list[float]]]]:
        """The starts of these partitions that still count."""
        found: dict[int, list[tuple[Window, list[float]]]] = {}
        for window, starts in self._starts.items():
            gone: dict[int, list[float]] = {}
            for time, partition in starts:
                if partition in partitions and time + window[2] > now:
                    gone.setdefault(partition, []).append(time)
            for partition, times in gone.items():
                found.setdefault(partition, []).append((window, times))
            handed_on = [time for times in gone.values() for time in times]
            self._handed_on[window] = deque(sorted([*self._handed_on.get(window, ()), *handed_on]))
            self._starts[window] = deque(one for one in starts if one[1] not in partitions)
        return found

    def forget(self) -> None:
        """Others own everything now."""
        self._starts.clear()
        self._handed_on.clear()
        self._workers = 0

    def _times(self, window: Window, now: float) -> list[float]:
        """The starts that count, oldest first."""
        starts, handed_on = self._starts.get(window, ()), self._handed_on.get(window, ())
        since = now - window[2]
        while starts and starts[0][0] <= since:
            starts.popleft()
        while handed_on and handed_on[0] <= since:
            handed_on.popleft()
        times = [time for time, _ in starts]
        return sorted([*times, *handed_on]) if handed_on else times

    def _allowed(self, window: Window) -> int:
        """How many starts may be in the window at the same time. More workers than the count has starts have one each."""
        count, workers = window[1], self._workers
        if workers == 0:
            return 0
        if workers > count:
            return 1
        share, name = count // workers, _name(window)
        return max(0, min(share, count - sum(max(used.get(name, 0), share) for used in self._used)))


def _name(window: Window) -> str:
    key, count, seconds = window
    return f"{key} {count} {seconds:g}"
