"""Which lane may start an attempt: the places of one wire, shared by need.

Nobody has a fixed share. A user holds at most `USER_SHARE` times what is left free, so that something is always left for the
next user, however many there are (dynamic thresholds: Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998); a handler
at most what is left free. Handlers are trusted while they answer. New ones, and those that did not answer last time,
share a part of the places, and the latter only a part of that, so that hanging handlers never hold what others need. When a user's
handlers have used up the share of the untrusted, one more starts every `trickle_seconds`, the newest and the oldest in turn, so a new
handler starts soon even if thousands hang ahead of it. Bytes in flight are shared in the same way.
"""

from collections import deque
from collections.abc import Callable

from msgspec import Struct

from tocsin.caches import Tidied
from tocsin.engine.lanes import NEW, PARKED, SILENT, SLOW, TRUSTED, Holding, Lane

USER_SHARE = 2  # times what is free
MAX_PLACES = 2000
MAX_SIZE = 48 << 20  # bytes in flight
IDLE_BYTES = 96 << 20  # what an idle service uses
ATTEMPT_BYTES = 48 << 10  # what an attempt to a host of its own uses over plain http, including its connection; TLS uses 100 KB more
MAX_USERS = 10_000  # remembered; those that hold nothing are dropped first
MAX_LOOKS = 8  # users asked when a place becomes free
# Which of a user's waiting lanes come first. However many lanes answer, the others get their turns.
_COMMON = ((TRUSTED, NEW, SLOW, SILENT), (NEW, TRUSTED, SLOW, SILENT), (TRUSTED, NEW, SLOW, SILENT))
_ORDERS = (*_COMMON, (SLOW, SILENT, NEW, TRUSTED), *_COMMON, (SILENT, SLOW, NEW, TRUSTED))


class Bounds(Struct, frozen=True):
    """`untrusted` of the `places` may go to new or silent handlers, `silent` of these to silent ones, and `slow` to handlers whose
    latest answer took more than `slow_seconds`. `size`: bytes in flight.
    """

    places: int
    size: int
    untrusted: int
    silent: int
    trickle_seconds: float = 0.1
    slow: int = 0
    slow_seconds: float = float("inf")


def http_bounds(descriptors: int, memory_bytes: int) -> Bounds:
    """Half of the descriptors are for attempts in flight, the others for idle connections. Of the memory that the idle service leaves,
    attempts get a quarter, and their texts another quarter."""
    share = max(0, memory_bytes - IDLE_BYTES) // 4
    places = max(8, min(MAX_PLACES, descriptors // 2, share // ATTEMPT_BYTES))
    return Bounds(places, max(1 << 20, min(MAX_SIZE, share)), places * 3 // 10, places * 3 // 20)


def mail_bounds(connections: int) -> Bounds:
    """All mail goes to one server, and a slow mailbox occupies one of its few connections for long."""
    untrusted, silent, slow = (max(1, connections * share // 12) for share in (8, 4, 6))
    return Bounds(connections, 32 << 20, untrusted, silent, trickle_seconds=5.0, slow=slow, slow_seconds=2.0)


class Places:
    """The places of one wire."""

    def __init__(self, bounds: Bounds, wire: str = "http") -> None:
        self.bounds = bounds
        self._wire = wire
        self.knows_slow = bounds.slow_seconds < float("inf")
        self._users: Tidied[int, Holding] = Tidied(MAX_USERS)
        self.asking: deque[Holding] = deque()  # users with parked lanes, in order of their turns
        self.first: deque[Holding] = deque()  # those who held nothing when they began to wait; they come first
        self._taken = 0
        self._size = 0
        self._untrusted = 0
        self._silent = 0
        self._slow = 0
        self._extra = 0  # starts allowed beyond a user's share of the untrusted
        self.returning: deque[Callable[[], bool]] = deque()  # resting attempts that want to continue; True: it took the place

    @property
    def taken(self) -> int:
        """How many places attempts hold now."""
        return self._taken

    @property
    def are_taken(self) -> bool:
        return self._taken >= self.bounds.places

    def holding(self, user_id: int) -> Holding:
        """What this user holds; made if it is not there."""
        found = self._users.get(user_id)
        if found is None:
            found = self._users.add(user_id, Holding(self._wire), lambda _, holding: holding.is_idle)
        return found

    def admits(self, lane: Lane, holding: Holding, size: int) -> bool:
        """Whether the lane may now start one more attempt, of `size` bytes."""
        bounds = self.bounds
        if lane.trust == TRUSTED and 2 * self._taken < bounds.places and 2 * (self._size + size) < bounds.size:
            return True  # there is plenty
        free, left = bounds.places - self._taken, bounds.size - self._size
        if free <= 0 or (size > left and self._size):
            return False
        if holding.places > USER_SHARE * free or lane.sending > free or (holding.size and holding.size + size > USER_SHARE * left):
            return False
        if lane.trust == SLOW:
            return self._slow < bounds.slow
        return lane.trust == TRUSTED or self._admits_untrusted(lane, holding)

    def _admits_untrusted(self, lane: Lane, holding: Holding) -> bool:
        if 2 * self._size >= self.bounds.size and self._size:
            return False  # however many hang with long messages, half is left for others
        free = self.bounds.untrusted - self._untrusted
        if lane.trust == NEW and not holding.untrusted and free > -(self.bounds.places // 10):
            return True  # a user's first: however many users have hanging handlers, a part is reserved for it
        if lane.trust == SILENT:
            free = min(free, self.bounds.silent - self._silent)
        return self._extra > 0 or (free > 0 and holding.untrusted <= USER_SHARE * free)

    def take(self, lane: Lane, holding: Holding, size: int) -> None:
        """For an attempt of `size` bytes; `give_back` must be told the same, and the lane's trust of now."""
        self._taken += 1
        self._size += size
        holding.places += 1
        holding.size += size
        if lane.trust == SLOW:
            self._slow += 1
        elif lane.trust != TRUSTED:
            self._extra = 0
            self._untrusted += 1
            holding.untrusted += 1
            if lane.trust == SILENT:
                self._silent += 1

    def give_back(self, holding: Holding, size: int, trust: int) -> None:
        """`size` and `trust` as they were when the place was taken."""
        self._taken -= 1
        self._size -= size
        holding.places -= 1
        holding.size -= size
        if trust == SLOW:
            self._slow -= 1
        elif trust != TRUSTED:
            self._untrusted -= 1
            holding.untrusted -= 1
            if trust == SILENT:
                self._silent -= 1

    # --------------------------------------------------------------------------------------------- those that wait

    def park(self, lane: Lane, holding: Holding) -> None:
        """The lane waits until `next` returns it, or until it is let go."""
        lane.state = PARKED
        lane.parked_in = holding.parked[lane.trust]
        lane.parked_in[lane] = None
        if not holding.is_asking:
            holding.is_asking = True
            (self.asking if holding.places else self.first).append(holding)

    def extra(self) -> None:
        """Allow one start beyond a user's share, since `trickle_seconds` have passed."""
        self._extra = 1

    def next(self) -> Lane | None:
        """A lane that waited and may start now, users taking turns; it waits no longer."""
        return self._next_of(self.first) or self._next_of(self.asking)

    def _next_of(self, users: deque[Holding]) -> Lane | None:
        for _ in range(min(len(users), MAX_LOOKS)):
            holding = users.popleft()
            lane = self._pick(holding)
            if lane is not None:
                let_go(lane)
            if not any(holding.parked):
                holding.is_asking = False
            elif lane is None:
                users.append(holding)
            else:
                self.asking.append(holding)  # it holds something from now on
            if lane is not None:
                return lane
        return None

    def _pick(self, holding: Holding) -> Lane | None:
        for trust in _ORDERS[holding.picks % len(_ORDERS)]:
            waiting = holding.parked[trust]
            if not waiting:
                continue
            is_newest = trust == NEW and not holding.wants_oldest
            lane = next(reversed(waiting)) if is_newest else next(iter(waiting))
            if self.admits(lane, holding, lane.next_size):
                holding.wants_oldest = is_newest
                holding.picks += 1
                return lane
        return None


def let_go(lane: Lane) -> None:
    """A parked lane no longer waits: its situation has changed."""
    if lane.parked_in is not None:
        del lane.parked_in[lane]
        lane.parked_in = None
