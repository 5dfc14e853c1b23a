"""What is due, and what came of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from msgspec import Struct

from tocsin.clock import SECOND, Micros
from tocsin.model import Attempt, Delivery, Notification, Reason, Status, Value

BACKLOG_AFTER: Micros = 30 * SECOND  # past its due time a delivery belongs to a backlog, in which critical ones go first
T = TypeVar("T")


class Settlement(Value, frozen=True):
    """A delivery after an attempt (None: it ended without one). Applied only while the row is pending and has not been replayed since,
    except for arrivals.
    """

    delivery: Delivery
    attempt: Attempt | None
    at: Micros


class Waiting(Value, frozen=True):
    """A pending delivery with what it takes to send it."""

    delivery: Delivery
    notification: Notification

    def has_expired(self, now: Micros) -> bool:
        """Whether no attempt may begin any more. What somebody sends again does not expire."""
        expires_at = self.notification.expires_at
        return expires_at is not None and now >= expires_at and self.delivery.replays == 0


class Wanted(Struct, frozen=True):
    """Which of a handler's due work to read: at most `limit` deliveries; those that are already `known` are counted but not read."""

    limit: int
    known: frozenset[int] = frozenset()


class Due(Struct, frozen=True):
    """A handler's due work. `next_due`: when the next that is not due yet will be. `is_more`: some may have been left in the store."""

    jobs: list[Waiting]
    next_due: Micros | None
    is_more: bool = False


class Recent(Struct):
    """What a handler was doing lately: when its `attempts` began, oldest delivery first; `throttled_until`: 0 if it is not."""

    handler_id: int
    attempts: list[Micros] = []
    throttled_until: Micros = 0


class PostFacts(Struct, frozen=True):
    """About a credential's last 24 hours: whether the budget is used up, and whether an earlier delivery had the same text."""

    over_budget: bool
    repeated: bool


class Queue(Protocol):
    async def waiting_handlers(self) -> list[tuple[int, int, Micros]]:
        """Each handler with pending deliveries, its user, and when the first of them is due."""
        ...

    async def due(self, wanted: Mapping[int, Wanted], now: Micros) -> dict[int, Due]:
        """For each named handler its due pending deliveries, critical ones of a backlog first, then in due order. If texts are long
        there may be fewer than wanted, but at least one."""
        ...

    async def waiting(self, delivery_ids: Sequence[int]) -> list[Waiting]:
        """Those of these deliveries that are pending."""
        ...

    def settle(self, settlement: Settlement, ticket: T, done: Callable[[Sequence[T], Sequence[bool | Exception]], None]) -> None:
        """`done` is told after the commit, once for all settlements in it that came with the same `done`: their tickets, which the store
        never looks into, and of each: True if it was applied, False if the delivery was no longer pending, or what went wrong."""
        ...

    async def posted(self, key: str, text_hash: bytes, delivery_id: int, at: Micros, limit: int) -> PostFacts:
        """Note that a delivery posts this text under a credential, unless its last 24 hours hold `limit` others already."""
        ...

    async def end_pending(self, handler_id: int, status: Status, reason: Reason, limit: int, error: str | None = None) -> int:
        """End up to `limit` pending deliveries of a handler; returns how many. `error`: their last error, if it should change."""
        ...

    # at the start, after a crash too
    async def stopped_handlers(self) -> list[tuple[int, Status, Reason]]:
        """Handlers that are paused, switched off or deleted but still have waiting deliveries, and how these should end."""
        ...

    async def named(self, delivery_ids: Sequence[int]) -> list[Delivery]:
        """These deliveries in any status; deleted ones are left out."""
        ...

    async def recent(self, since: Micros, types: Sequence[str], limit: int) -> list[Recent]:
        """What handlers of these types were doing recently, as far as the newest `limit` deliveries show, and all that are throttled."""
        ...
