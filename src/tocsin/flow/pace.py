"""How often a provider may be called: windows of starts, and pauses after a throttle.

Both are kept in memory, and noted in a record that outlives the process, so that a restart neither resets a window nor cuts a pause short.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence

from msgspec import Struct, msgpack

from tocsin import clock
from tocsin.caches import Tidied
from tocsin.channels.contract import Pace
from tocsin.clock import SECOND, Micros
from tocsin.flow.egress import Egress, Window
from tocsin.partitions import partition_of, root_of
from tocsin.ports.paces import Record

MAX_IDLE = 10_000  # keys in memory before idle ones are dropped
INEXACT_SECONDS = 0.005  # of a time that was another process's: two clocks were read for it


def is_realm(key: str) -> bool:
    """Whether what is paused is a realm, and not a credential: see `tocsin.flow.directory.load`."""
    return "@" in key


def wait_in_window(starts: "deque[float]", pace: Pace, now: float) -> float:
    """Seconds until a start is free, given the past starts, oldest first. Drops those that have left the window."""
    while starts and starts[0] + pace.seconds <= now:
        starts.popleft()
    return starts[0] + pace.seconds - now if len(starts) >= pace.count else 0.0


class Wait(Struct, frozen=True):
    """Why nothing may start: a `pace` whose window is full, or, without one, a pause that the provider asked for."""

    seconds: float
    pace: Pace | None = None


class Handed(Struct, frozen=True, array_like=True):
    """What a process knows of one partition's paces, for the next one: starts by window, and until when keys are paused, by the wall
    clock. `at`: when it was handed on. `egress`: see `tocsin.flow.egress`."""

    at: Micros
    starts: list[tuple[Window, list[Micros]]]
    pauses: list[tuple[str, Micros]]
    egress: list[tuple[Window, list[Micros]]]


_read_handed = msgpack.Decoder(Handed).decode
_read_paces = msgpack.Decoder(list[Pace]).decode


class Pacer:
    """Windows and pauses by key. Times are seconds of one monotonic clock, but for those of the record, which are `wall`'s.

    `egress`: where several processes share a store, the windows that are counted by address. `fence`: seconds until this process may
    start anything, 0 if it may now; None: nobody else could. `began_pause`: told of every pause of a credential or a realm that this
    process was asked for, by the wall clock.
    """

    def __init__(self, record: Record | None = None, wall: Callable[[], Micros] = clock.now, egress: Egress | None = None) -> None:
        self._record = record
        self._wall = wall
        self.egress = egress
        self.fence: Callable[[], float] | None = None
        self.began_pause: Callable[[str, Micros], None] | None = None
        self._starts: Tidied[tuple[str, int, float], deque[float]] = Tidied(MAX_IDLE)
        self._paused_until: Tidied[str | int, float] = Tidied(MAX_IDLE)
        self._has_kept_rests = record is not None and record.rests_until > 0
        self._rests_read: tuple[Micros, float] | None = None  # both clocks, when kept rests were first asked for

    def take(self, credential: str, paces: Sequence[Pace], now: float, realm: str = "") -> float:
        """0 and a start is taken in every window, or the seconds to wait; nothing is taken then."""
        if self.fence is not None and (closed := self.fence()) > 0:
            return closed
        if (self._paused_until or self._has_kept_rests) and (paused := self._paused(credential, realm, now)) > 0:
            return paused
        if not paces:
            return 0.0
        shared: Sequence[Pace] = ()
        if self.egress is not None:
            paces, shared = _parted(paces)
        windows = [self._window(pace, now) for pace in paces]
        wait = max(wait_in_window(window, pace, now) for window, pace in zip(windows, paces, strict=True))
        if wait > 0:
            return wait
        if shared and self.egress is not None:
            wait = max(self.egress.wait(pace, now) for pace in shared)
            if wait > 0:
                return wait
            for pace in shared:
                self.egress.began(pace, partition_of(root_of(credential)), [now])
        for window in windows:
            window.append(now)
        if self._record is not None:
            at = self._wall()
            for key, seconds in _lengths(paces).items():
                self._record.begin(key, at, seconds)
        return 0.0

    def wait(self, credential: str, paces: Sequence[Pace], now: float, realm: str = "") -> Wait:
        """What `take` would say, and why; nothing is taken."""
        if self.fence is not None and (closed := self.fence()) > 0:
            return Wait(closed)
        if (paused := self._paused(credential, realm, now)) > 0:
            return Wait(paused)
        waits = [Wait(self._wait(pace, now), pace) for pace in paces]
        return max(waits, key=lambda one: one.seconds, default=Wait(0.0))

    def remember(self, paces: Sequence[Pace], starts: Iterable[Micros], now: float) -> None:
        """Starts before this process began, as rows tell of them: they count, and are noted, as its own are."""
        at = self._wall()
        newest = sorted(starts)
        times = [_then(start, at, now) for start in newest]
        for pace in paces:
            if self.egress is not None and pace.scope == "egress" and times:
                self.egress.began(pace, partition_of(root_of(paces[0].key)), times)
            else:
                self._merge((pace.key, pace.count, pace.seconds), times, now)
        if self._record is not None:
            for key, seconds in _lengths(paces).items():
                for start in newest:
                    self._record.begin(key, start, seconds)

    @property
    def has_pauses(self) -> bool:
        """Whether anything may be paused at all; a quick look before asking whom."""
        return bool(self._paused_until) or self._has_kept_rests or (self.fence is not None and self.fence() > 0)

    def pause(self, whom: str | int, until: float, now: float) -> None:
        """No start before then: for a credential that is throttled, or for one handler, by its id."""
        if until <= now or until <= now + self.pause_left(whom, now):
            return
        self._pause(whom, until, now)
        if self.began_pause is not None and isinstance(whom, str):
            self.began_pause(whom, _at(until, self._wall(), now))

    def hear_of_pause(self, key: str, until: Micros, now: float) -> None:
        """Of one that another process was asked for, by the wall clock."""
        left = (until - self._wall()) / SECOND
        if left > self.pause_left(key, now) + INEXACT_SECONDS:
            self._pause(key, now + left + INEXACT_SECONDS, now)

    def _pause(self, whom: str | int, until: float, now: float) -> None:
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

    # ------------------------------------------------------------------------------- from one process to the next

    def hand_on(self, partitions: Collection[int], now: float) -> dict[int, bytes]:
        """What the next owner of each of these partitions must know; it is forgotten here. A realm's pauses stay: they are those of
        all processes."""
        at = self._wall()
        found = {partition: Handed(at, [], [], []) for partition in partitions}
        for window in [one for one in self._starts if partition_of(root_of(one[0])) in found]:
            starts = [_at(one, at, now) for one in self._starts.pop(window) if one + window[2] > now]
            if starts:
                found[partition_of(root_of(window[0]))].starts.append((window, starts))
        for key, until in list(self._paused_until.items()):
            if isinstance(key, str) and not is_realm(key) and (home := partition_of(root_of(key))) in found:
                del self._paused_until[key]
                if until > now:
                    found[home].pauses.append((key, _at(until, at, now)))
        if self.egress is not None:
            for partition, windows in self.egress.hand_on(partitions, now).items():
                found[partition].egress.extend((window, [_at(one, at, now) for one in starts]) for window, starts in windows)
        return {partition: msgpack.encode(one) for partition, one in found.items()}

    def restore(self, partition: int, state: bytes, now: float) -> None:
        """What another process handed on with this partition."""
        handed, at = _read_handed(state), self._wall()
        for window, starts in handed.starts:
            self._merge(window, [_then(start, at, now) + INEXACT_SECONDS for start in starts], now)
        for key, until in handed.pauses:
            self.hear_of_pause(key, until, now)
        if self.egress is not None:
            for window, starts in handed.egress:
                self.egress.began(Pace(*window, "egress"), partition, [_then(start, at, now) + INEXACT_SECONDS for start in starts])

    def forget(self) -> None:
        """Others own everything now, and have begun to send."""
        self._starts.clear()
        self._paused_until.clear()
        if self.egress is not None:
            self.egress.forget()

    def _merge(self, key: Window, times: Sequence[float], now: float) -> None:
        window = self._window(Pace(*key), now)
        merged = sorted([*window, *times])[-key[1] :]
        window.clear()
        window.extend(merged)

    def _wait(self, pace: Pace, now: float) -> float:
        if self.egress is not None and pace.scope == "egress":
            return self.egress.wait(pace, now)
        return wait_in_window(self._window(pace, now), pace, now)

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


def handed_at(state: bytes) -> Micros:
    """When a process handed this on."""
    return _read_handed(state).at


def paces_to_note(paces: Sequence[Pace]) -> bytes:
    """As a store keeps the windows of a start that is no delivery's."""
    return msgpack.encode(paces)


def noted_paces(noted: bytes) -> Sequence[Pace]:
    return _read_paces(noted)


def _parted(paces: Sequence[Pace]) -> tuple[Sequence[Pace], Sequence[Pace]]:
    """Those of this process alone, and those that it shares with the others that send from the same address."""
    if all(pace.scope != "egress" for pace in paces):
        return paces, ()
    return [pace for pace in paces if pace.scope != "egress"], [pace for pace in paces if pace.scope == "egress"]


def _lengths(paces: Sequence[Pace]) -> dict[str, float]:
    """For how many seconds a start counts under each key, at the most: in its longest window."""
    lengths: dict[str, float] = {}
    for pace in paces:
        lengths[pace.key] = max(pace.seconds, lengths.get(pace.key, 0.0))
    return lengths


def _at(then: float, at: Micros, now: float) -> Micros:
    """A time of the monotonic clock, which says `now`, by the wall's, which says `at`."""
    return at + int((then - now) * SECOND)


def _then(start: Micros, at: Micros, now: float) -> float:
    """A time of the wall clock, which says `at`, by the monotonic one, which says `now`. The future counts as now."""
    return now - max(0, at - start) / SECOND
