"""The state of handlers and how they have fared."""

from collections.abc import Collection, Sequence
from typing import Protocol

from msgspec import Struct

from tocsin.clock import Micros
from tocsin.model import Handler, Reason, Status
from tocsin.ports.handlers import HandlerEvent, Streak


class Standing(Struct, frozen=True):
    """A handler's current state. `waiting`: its pending deliveries, counted to 10,000, and `next_at` when the first is due
    that does not expire before it is tried.

    `failing_since`: when the first attempt failed since it last accepted a delivery; None: none has. `reason` and `error`: those of the
    latest failure. `event`: the last pause or switch-off of one that is not enabled. `unconfirmed_since`: since when
    its address has been waiting to be confirmed; None: it is not.
    """

    waiting: int = 0
    next_at: Micros | None = None
    failing_since: Micros | None = None
    reason: Reason | None = None
    error: str | None = None
    event: HandlerEvent | None = None
    unconfirmed_since: Micros | None = None


class Overview(Struct, frozen=True):
    """All handlers of a user at a glance: how many are in each state, and each hour's delivered and failed (or expired) deliveries."""

    states: dict[str, int]
    hours: tuple[tuple[int, int, int], ...]


class Troubled(Struct, frozen=True):
    """A handler that is failing or was switched off, and its owner. Its settings are left out."""

    email: str
    handler: Handler
    standing: Standing


class HandlerHour(Struct, frozen=True):
    """The outcomes of a handler's deliveries within an hour (counted since 1970). `latencies`: by bucket, see `flow.delivery.tally`."""

    handler_id: int
    hour: int
    delivered: int
    failed: int
    expired: int
    latencies: tuple[int, ...] = ()


class HandlerFacts(Struct, frozen=True):
    """A handler's statistics. `counts`: its deliveries by status except delivered ones, each counted to 10,000; `reasons`:
    why its latest 1,000 failed ones failed, most frequent first; `events` newest first; `hours` oldest first.
    """

    streak: Streak
    counts: dict[Status, int]
    reasons: tuple[tuple[Reason, int], ...]
    events: tuple[HandlerEvent, ...]
    hours: tuple[HandlerHour, ...]


class Standings(Protocol):
    async def of(self, handler_ids: Sequence[int]) -> dict[int, Standing]:
        """The current state of each of these handlers."""
        ...

    async def overview(self, user_id: int, since_hour: int, sealed: Collection[int] = ()) -> Overview:
        """`since_hour`: the first hour that is told of, counted since 1970. `sealed`: handlers that no key opens."""
        ...

    async def troubled(self, limit: int, sealed: Collection[int] = ()) -> list[Troubled]:
        """Handlers of all users, worst first. `sealed`: those that no key opens."""
        ...

    async def facts(self, handler_id: int, since_hour: int) -> HandlerFacts:
        """Since that hour, counted since 1970."""
        ...

    async def hours(self, handler_ids: Sequence[int], since_hour: int) -> list[HandlerHour]:
        """The hours in which something happened, since that one; by handler, oldest first."""
        ...

    async def add_hours(self, hours: Sequence[HandlerHour]) -> None:
        """Add to the stored counts of these hours."""
        ...
