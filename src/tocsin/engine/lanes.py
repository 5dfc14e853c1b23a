"""One handler's work, and whose turn it is: users take turns, and within a user the handlers do."""

from collections import deque

from tocsin.store import Waiting

FIRST_LIMIT = 2  # attempts of a handler at the same time; doubled by every answer, so that dead ones never take many places


class Lane:
    """What is known of one handler's work. `spilled`: the store holds due work that is not in `jobs`."""

    __slots__ = (
        "behind",
        "dropped",
        "filling",
        "handler_id",
        "in_ring",
        "jobs",
        "known",
        "limit",
        "own",
        "parked",
        "proven",
        "sending",
        "spilled",
        "unanswered",
        "unproven",
        "waits",
    )

    def __init__(self, handler_id: int, proven: bool) -> None:
        self.handler_id = handler_id
        self.jobs: deque[Waiting] = deque()
        self.known: set[int] = set()  # delivery ids in `jobs` or running
        self.behind: list[Waiting] = []  # came while a refill was reading, so it may have missed them
        self.dropped: set[int] = set()  # left `known`, or are not to be started, while a refill was reading
        self.own: _Own | None = None  # its user's lanes; known with the first job
        self.sending = 0
        self.limit = FIRST_LIMIT
        self.unanswered = 0
        self.proven = proven  # its last attempt was answered
        self.unproven = 0  # attempts running that began when it was not
        self.parked = False  # until a place for such ones is free
        self.in_ring = False
        self.waits = False  # for its turn in the pacing
        self.filling = False
        self.spilled = False


class _Own:
    """The lanes of one user that may start something, in turn."""

    __slots__ = ("in_ring", "lanes")

    def __init__(self) -> None:
        self.lanes: deque[Lane] = deque()
        self.in_ring = False


class Turns:
    """Round robin over users, and over each one's lanes: who has ten thousand handlers gets no more turns than who has one."""

    def __init__(self) -> None:
        self._users: dict[int, _Own] = {}
        self._ring: deque[_Own] = deque()

    def own(self, user_id: int) -> "_Own":
        found = self._users.get(user_id)
        if found is None:
            found = self._users[user_id] = _Own()
        return found

    def put(self, lane: Lane) -> None:
        """At the end of its user's lanes, if it has work, is not there already, and nothing else keeps it."""
        own = lane.own
        if lane.in_ring or lane.parked or lane.waits or own is None or not lane.jobs:
            return
        lane.in_ring = True
        own.lanes.append(lane)
        if not own.in_ring:
            own.in_ring = True
            self._ring.append(own)

    def take(self) -> Lane | None:
        """None: no lane wants a turn."""
        if not self._ring:
            return None
        own = self._ring[0]
        lane = own.lanes.popleft()
        lane.in_ring = False
        if own.lanes:
            self._ring.rotate(-1)
        else:
            self._ring.popleft()
            own.in_ring = False
        return lane
