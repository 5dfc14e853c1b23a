"""One handler's work, and whose turn it is: users take turns, and within a user the handlers do.

A lane's activity is one state, and how much of its work is in memory is another. These are the legal transitions:

| state | meaning | may become |
|---|---|---|
| IDLE | nothing to start | QUEUED |
| QUEUED | waits for its turn | IDLE, BUSY, PACED, PARKED, CLAIMING |
| BUSY | has as many attempts in flight as it may, or one that is sent alone | QUEUED |
| PACED | waits for its provider's pace | QUEUED |
| PARKED | waits for a place | QUEUED |
| CLAIMING | waits for the store to say what this process may send; only where several share it | QUEUED |

| supply | meaning | may become |
|---|---|---|
| COMPLETE | all of its due work is in memory | SPILLED, ASKED, PREPARING |
| SPILLED | more is in the store, and enough in memory for now | ASKED, or COMPLETE where another process sends for it |
| PREPARING | its handler is to be read; its due work is in memory | ASKED, COMPLETE, SPILLED |
| ASKED | waits to be read from the store | READING, COMPLETE, SPILLED |
| READING | is being read | REREAD, COMPLETE, SPILLED, ASKED |
| REREAD | is being read, and more was left in the store meanwhile | ASKED, SPILLED |
"""

from collections import deque
from typing import Final, Generic, TypeVar

from tocsin.caches import Tidied
from tocsin.engine.window import Window
from tocsin.ports.queue import Waiting

IDLE, QUEUED, BUSY, PACED, PARKED, CLAIMING = range(6)
COMPLETE, SPILLED, PREPARING, ASKED, READING, REREAD = range(6)

STATES: Final = {
    IDLE: {QUEUED},
    QUEUED: {IDLE, BUSY, PACED, PARKED, CLAIMING},
    BUSY: {QUEUED},
    PACED: {QUEUED},
    PARKED: {QUEUED},
    CLAIMING: {QUEUED},
}
SUPPLIES: Final = {
    COMPLETE: {SPILLED, ASKED, PREPARING},
    SPILLED: {ASKED, COMPLETE},
    PREPARING: {ASKED, COMPLETE, SPILLED},
    ASKED: {READING, COMPLETE, SPILLED},
    READING: {REREAD, COMPLETE, SPILLED, ASKED},
    REREAD: {ASKED, SPILLED},
}
"""The tables above, for the tests."""

MAX_USERS = 10_000  # remembered by `Turns`; those with nothing waiting are dropped first
SIZE_OF_CHARACTER = 4  # bytes in flight for each character of a text: the text, its request, and the copies in libcurl and the kernel
SIZE_OF_ATTEMPT = 4096
T = TypeVar("T")


NEW, SILENT, SLOW, TRUSTED = range(4)
"""What is known of a lane: it was never answered, or its last attempt was not answered, answered slowly, or answered in time."""


class Lane:
    """What is known of one handler's work."""

    __slots__ = (
        "alone",
        "behind",
        "dropped",
        "ended_at",
        "handler_id",
        "holding",
        "jobs",
        "known",
        "own",
        "parked_in",
        "sending",
        "state",
        "supply",
        "trust",
        "unanswered",
        "user_id",
        "window",
    )

    def __init__(self, handler_id: int, user_id: int, trust: int) -> None:
        self.handler_id = handler_id
        self.user_id = user_id
        self.jobs: deque[Waiting] = deque()
        self.known: set[int] = set()  # delivery ids in `jobs` or running
        self.behind: list[Waiting] = []  # arrived while the handler or its work was being read, so they follow it
        self.dropped: set[int] = set()  # left `known`, or are not to be started, while the work was being read
        self.own: Own[Lane] | None = None  # its user's lanes that wait for their turn
        self.holding: Holding | None = None  # what its user holds of the places of its wire
        self.parked_in: dict[Lane, None] | None = None
        self.sending = 0  # attempts that have not come back yet
        self.alone = 0  # how many of them are sent alone, so nothing else starts
        self.window = Window()
        self.trust = trust
        self.unanswered = 0  # attempts in a row
        self.ended_at = 0.0  # when its last attempt came back
        self.state = IDLE
        self.supply = COMPLETE

    @property
    def next_size(self) -> int:
        """Bytes in flight that its next attempt will take."""
        return size_of(self.jobs[0]) if self.jobs else 0

    @property
    def is_empty(self) -> bool:
        return not self.known and self.state == IDLE and self.supply == COMPLETE


class Holding:
    """What one user holds of a wire's places, and which of its lanes wait for one."""

    __slots__ = ("is_asking", "parked", "picks", "places", "silent", "size", "untrusted", "wants_oldest", "wire")

    def __init__(self, wire: str) -> None:
        self.wire = wire
        self.places = 0
        self.size = 0
        self.untrusted = 0
        self.silent = 0
        self.parked: tuple[dict[Lane, None], ...] = ({}, {}, {}, {})  # by what is known of them, in the order in which they came
        self.is_asking = False
        self.wants_oldest = False  # whether its oldest new lane is next
        self.picks = 0  # how many waiting lanes got a place

    @property
    def is_idle(self) -> bool:
        return not self.places and not self.is_asking


def size_of(job: Waiting) -> int:
    """Bytes that an attempt takes while it is in flight, roughly."""
    return SIZE_OF_ATTEMPT + SIZE_OF_CHARACTER * len(job.notification.message.text)


class Own(Generic[T]):
    """What one user has waiting for its turn."""

    __slots__ = ("is_waiting", "things")

    def __init__(self) -> None:
        self.things: deque[T] = deque()
        self.is_waiting = False


class Turns(Generic[T]):
    """Round robin over users, and over what each one has: a user with ten thousand handlers gets no more turns than a user with one."""

    def __init__(self) -> None:
        self._users: Tidied[int, Own[T]] = Tidied(MAX_USERS)
        self._ring: deque[Own[T]] = deque()

    def __bool__(self) -> bool:
        return bool(self._ring)

    def own(self, user_id: int) -> "Own[T]":
        """What this user has waiting; made if it is not there."""
        found = self._users.get(user_id)
        if found is None:
            found = self._users.add(user_id, Own(), lambda _, own: not own.is_waiting)
        return found

    def put(self, own: "Own[T]", thing: T) -> None:
        """At the end of what its user has waiting."""
        own.things.append(thing)
        if not own.is_waiting:
            own.is_waiting = True
            self._ring.append(own)

    def take(self) -> T | None:
        """None: nothing waits."""
        if not self._ring:
            return None
        own = self._ring[0]
        thing = own.things.popleft()
        if own.things:
            self._ring.rotate(-1)
        else:
            self._ring.popleft()
            own.is_waiting = False
        return thing
