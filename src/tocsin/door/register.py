"""Which clients are connected and what each waits for, how long that may take, and which connection closes when room is needed.

A connection is in at most one queue, in order of arrival, so the front of each queue is overdue first, and
a request costs two dictionary operations instead of a timer. Loopback, trusted proxies and Unix sockets have no limit of
connections per address: their `address` is None.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

import structlog
from msgspec import Struct

from tocsin.limits import Limits

MIN_PER_ADDRESS = 256  # an office or a provider behind one address
MAX_LEAVING = 16  # refused connections that wait only for the client to read the answer
MAX_UNFINISHED_BYTES = 8 << 20
# A first request follows its connection at once, or was already waiting in the backlog: until then no connection counts as idle.
FRESH_SECONDS = 0.05
QUIET_SECONDS = 5.0  # a body that has sent nothing for this long gives way to others when there is no room left
LOG_SECONDS = 60.0

_log = structlog.get_logger(__name__)


class Rules(Struct, frozen=True, kw_only=True):
    """What one client may take. `head_seconds`: from its connection, or a later request's first byte, to a complete head.
    `piece_seconds`: between pieces of a body, which in all may take `body_seconds` and a second more for every `body_rate` bytes.
    `kept_seconds`: idle between requests. `stalled_seconds`: not reading our answer. `unfinished_bytes`: of heads and of requests
    sent ahead, all connections together.
    """

    connections: int
    per_address: int
    unfinished_bytes: int = MAX_UNFINISHED_BYTES
    head_seconds: float = 30.0
    piece_seconds: float = 30.0
    body_seconds: float = 60.0
    body_rate: int = 8192
    kept_seconds: float = 75.0  # longer than clients and proxies keep theirs, or their next request meets a closed connection
    stalled_seconds: float = 60.0
    leaving_seconds: float = 5.0


def rules_within(limits: Limits) -> Rules:
    connections = limits.incoming_descriptors
    unfinished = min(MAX_UNFINISHED_BYTES, limits.memory_bytes // 32)
    return Rules(connections=connections, per_address=max(MIN_PER_ADDRESS, connections // 16), unfinished_bytes=unfinished)


class Guest(Protocol):
    """One connection, as the register sees it. `queue` and `charged` are the register's own notes on it."""

    address: str | None
    queue: "Queue | None"
    charged: int

    @property
    def can_be_dismissed(self) -> bool:
        """Whether we wait for the client, not the client for us."""
        ...

    def overdue(self) -> None:
        """What it waits for has not come in time; it leaves its queue or moves to the end."""
        ...

    def dismiss(self) -> None:
        """Others need its place, or its memory."""
        ...

    def abort(self) -> None:
        """Close it at once, even with unread data."""
        ...


Queue: TypeAlias = OrderedDict[Guest, float]


class Register:
    """`heads`: no complete head yet; `bodies`: a body is missing; `kept`: between requests; `leaving`: refused, or told to go. A connection
    in none of them has a request in progress. `clock` gives seconds.
    """

    def __init__(self, rules: Rules, clock: Callable[[], float] = time.monotonic) -> None:
        self.rules = rules
        self.clock = clock
        self.count = 0
        self.heads: Queue = OrderedDict()
        self.bodies: Queue = OrderedDict()
        self.kept: Queue = OrderedDict()
        self.leaving: Queue = OrderedDict()
        self._stalled: Queue = OrderedDict()
        self._addresses: dict[str, OrderedDict[Guest, None]] = {}
        self._unfinished = 0
        self._call_when_room: Callable[[], None] | None = None
        self._last_logged: dict[str, float] = {}

    # ------------------------------------------------------------------------------------------------- coming and going

    def expect(self, change: int) -> None:
        """A connection was accepted and counts from now on (1), or failed after all (-1)."""
        self.count += change

    def enter(self, guest: Guest) -> bool:
        """An expected connection is ready; False if its address has too many already and none of them is idle."""
        self.place(guest, self.heads)
        if guest.address is None:
            return True
        others = self._addresses.setdefault(guest.address, OrderedDict())
        is_welcome = len(others) < self.rules.per_address or self._dismiss_one(others)
        if not is_welcome:
            self.say("connections.address_full", address=guest.address, limit=self.rules.per_address)
        others[guest] = None
        return is_welcome

    def left(self, guest: Guest) -> None:
        """The connection is closed."""
        self.count -= 1
        self.place(guest, None)
        self._stalled.pop(guest, None)
        if guest.address is not None:
            others = self._addresses[guest.address]
            del others[guest]
            if not others:
                del self._addresses[guest.address]
        self._tell_of_room()

    def place(self, guest: Guest, queue: Queue | None) -> None:
        """Where it waits from now on; None: a request is in progress."""
        if guest.queue is not None:
            del guest.queue[guest]
        if guest.charged:
            self.charge(guest, 0)
        guest.queue = queue
        if queue is not None:
            queue[guest] = self.clock()
            if self._call_when_room is not None:
                self._tell_of_room()

    def see_off(self, guest: Guest) -> None:
        """It has been told to close and may still read why."""
        self.place(guest, self.leaving)
        if len(self.leaving) > MAX_LEAVING:
            next(iter(self.leaving)).abort()

    def stalls(self, guest: Guest, is_stalled: bool) -> None:
        """Whether the client reads what we answer."""
        self._stalled.pop(guest, None)
        if is_stalled:
            self._stalled[guest] = self.clock()

    # -------------------------------------------------------------------------------------------------------------- room

    def has_room(self) -> bool:
        """Whether another connection fits."""
        return self.count - len(self.leaving) < self.rules.connections

    def make_room(self) -> bool:
        """Close the connection that matters least; False while a request is in progress on each.

        First one that has not asked for anything yet, then the one that has been idle for longest, last one whose body has stopped.
        """
        for queue, seconds in ((self.heads, FRESH_SECONDS), (self.kept, FRESH_SECONDS), (self.bodies, QUIET_SECONDS)):
            for guest in self._overdue(queue, seconds):
                if guest.can_be_dismissed:
                    guest.dismiss()
                    return True
        return False

    def call_when_room(self, call: Callable[[], None]) -> None:
        """Once, as soon as there may be room again."""
        self._call_when_room = call

    def say(self, event: str, **values: object) -> None:
        """Log at most once a minute, since strangers could otherwise fill the log."""
        now = self.clock()
        if now - self._last_logged.get(event, -LOG_SECONDS) >= LOG_SECONDS:
            self._last_logged[event] = now
            _log.warning(event, **values)

    def charge(self, guest: Guest, size: int) -> None:
        """Note how many bytes its unfinished requests hold. Over the limit the oldest connections are closed, and finally this one."""
        self._unfinished += size - guest.charged
        guest.charged = size
        while self._unfinished > self.rules.unfinished_bytes and guest.charged:
            self.say("connections.unfinished_full", limit=self.rules.unfinished_bytes)
            (next(iter(self.heads)) if self.heads else guest).dismiss()

    def _dismiss_one(self, others: OrderedDict[Guest, None]) -> bool:
        """Dismiss the oldest idle one of these."""
        limit = self.clock() - FRESH_SECONDS
        for guest in others:
            queue = guest.queue
            if queue is not None and (queue is self.heads or queue is self.kept) and queue[guest] <= limit:
                guest.dismiss()
                return True
        return False

    def _tell_of_room(self) -> None:
        call, self._call_when_room = self._call_when_room, None
        if call is not None:
            call()

    # --------------------------------------------------------------------------------------------------------------- time

    def sweep(self) -> None:
        """Once a second: ends what is overdue."""
        rules = self.rules
        for queue, seconds in (
            (self.heads, rules.head_seconds),
            (self.bodies, rules.piece_seconds),
            (self.kept, rules.kept_seconds),
        ):
            for guest in [*self._overdue(queue, seconds)]:
                guest.overdue()
        for queue, seconds in ((self.leaving, rules.leaving_seconds), (self._stalled, rules.stalled_seconds)):
            for guest in [*self._overdue(queue, seconds)]:
                guest.abort()

    def _overdue(self, queue: Queue, seconds: float) -> Iterator[Guest]:
        limit = self.clock() - seconds
        for guest, since in queue.items():
            if since > limit:
                return
            yield guest
