"""The store, in the flow's words. Every write returns after its commit. Reads see committed rows only."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from tocsin.clock import Micros
from tocsin.model import Attempt, Delivery, Notification, Reason, Replay, Status
from tocsin.ports.handlers import (
    HandlerBrief,
    HandlerChange,
    HandlerEvent,
    HandlerFacts,
    HandlerFilter,
    HandlerHour,
    HandlerRow,
    Standing,
    Streak,
    SwitchOff,
    Telling,
)
from tocsin.ports.history import DeliveryFilter, Labels, Page
from tocsin.ports.intake import Accept, Accepted, Idempotency, Remembered
from tocsin.ports.people import KeyRow
from tocsin.ports.queue import Due, PostFacts, Recent, Settlement, Waiting, Wanted

T = TypeVar("T")


class Store(Protocol):
    """The keeper of the rows. Methods raise Busy if the store cannot answer now."""

    # hot path
    def accept(self, accept: Accept, committed: Callable[[list[Accepted]], None] | None = None) -> Awaitable[list[Accepted]]:
        """`committed` is called right after the commit, before anything that follows from it, such as a settlement, is reported."""
        ...

    def settle(self, settlement: Settlement, ticket: T, done: Callable[[Sequence[T], Sequence[bool | Exception]], None]) -> None:
        """`done` is told after the commit, once for all settlements in it that came with the same `done`: their tickets, which the store
        never looks into, and of each: True if it was applied, False if the delivery was no longer pending, or what went wrong."""
        ...

    # users, keys and sessions: rare, so they are functions of an open transaction, in `people`
    async def ask(self, read: Callable[..., T], *args: object) -> T: ...

    async def tell(self, write: Callable[..., T], *args: object) -> T:
        """Committed when it returns."""
        ...

    async def fold_log(self) -> None:
        """Fold committed pages into the store, beside the writer, so that no single commit has much of that to do."""
        ...

    async def labels(self, user_id: int, notification_ids: Sequence[int], handler_ids: Sequence[int]) -> Labels:
        """What these notifications of a user are about, and the names of these handlers, including deleted ones."""
        ...

    # what is due
    async def waiting_handlers(self) -> list[tuple[int, int, Micros]]:
        """Each handler with pending deliveries, its user, and when the first of them is due."""
        ...

    async def due(self, wanted: Mapping[int, Wanted], now: Micros) -> dict[int, Due]:
        """For each named handler its due pending deliveries, critical ones of a backlog first, then in due order. If texts are long
        there may be fewer than wanted, but at least one."""
        ...

    async def named(self, delivery_ids: Sequence[int]) -> list[Delivery]:
        """These deliveries in any status; deleted ones are left out."""
        ...

    async def recent(self, since: Micros, types: Sequence[str], limit: int) -> list[Recent]:
        """What handlers of these types were doing recently, as far as the newest `limit` deliveries show, and all that are throttled."""
        ...

    async def ahead(self, delivery: Delivery, most: int) -> int:
        """How many pending deliveries of its handler are due before it; counted up to `most`."""
        ...

    async def waiting(self, delivery_ids: Sequence[int]) -> list[Waiting]: ...

    # deliveries
    async def end_pending(self, handler_id: int, status: Status, reason: Reason, limit: int, error: str | None = None) -> int:
        """End up to `limit` pending deliveries of a handler; returns how many. `error`: their last error, if it should change."""
        ...

    async def cancel(self, user_id: int, notification_id: int) -> list[int]:
        """Cancel the waiting deliveries of a notification; returns their ids."""
        ...

    async def cancel_delivery(self, user_id: int, delivery_id: int) -> list[int]:
        """Cancel one delivery if it is waiting; returns its id, or nothing."""
        ...

    async def retry(
        self, user_id: int, which: DeliveryFilter | int, at: Micros, limit: int, idempotency: Idempotency | None
    ) -> list[tuple[int, int]]:
        """Make settled, undelivered deliveries of enabled handlers pending again; (delivery id, handler id) of each."""
        ...

    async def replayable(self, user_id: int, which: DeliveryFilter, limit: int) -> int:
        """How many `retry` would take."""
        ...

    async def notifications(self, user_id: int, page: int, size: int) -> Page[tuple[Notification, dict[Status, int]]]: ...
    async def notification(self, user_id: int, notification_id: int) -> tuple[Notification, dict[Status, int]] | None: ...
    async def deliveries(self, user_id: int, which: DeliveryFilter, page: int, size: int) -> Page[Delivery]: ...
    async def fan_out(
        self, user_id: int, notification_id: int, limit: int
    ) -> tuple[Notification, dict[Status, int], Page[Delivery], Labels] | None:
        """A notification and up to `limit` of its deliveries, all as of one moment."""
        ...

    async def delivery(self, user_id: int, delivery_id: int) -> tuple[Delivery, Notification, list[Attempt], list[Replay]] | None: ...
    async def remembered(self, user_id: int, path: str, key: str, since: Micros, until: Micros) -> Remembered | None: ...
    async def posted(self, key: str, text_hash: bytes, delivery_id: int, at: Micros, limit: int) -> PostFacts:
        """Note that a delivery posts this text under a credential, unless its last 24 hours hold `limit` others already."""
        ...

    # handlers
    async def handler_briefs(self, user_id: int) -> list[HandlerBrief]: ...
    async def handlers(self, user_id: int, which: HandlerFilter, page: int, size: int) -> Page[HandlerRow]: ...
    async def handler(self, handler_id: int) -> HandlerRow | None:
        """The row, even of a deleted handler."""
        ...

    async def handler_rows(self, handler_ids: Sequence[int]) -> list[HandlerRow]:
        """The rows of those that exist, including deleted ones."""
        ...

    async def add_handler(self, user_id: int, change: HandlerChange, at: Micros) -> int: ...
    async def change_handler(
        self, handler_id: int, change: HandlerChange, expected_version: int | None = None, event: HandlerEvent | None = None, most: int = 0
    ) -> bool:
        """False if it is deleted, or no longer at the expected version. A pause ends up to `most` waiting deliveries in the same commit."""
        ...

    async def delete_handler(self, handler_id: int, at: Micros, most: int = 0) -> bool:
        """Up to `most` of its waiting deliveries are cancelled in the same commit."""
        ...

    async def switch_off(self, what: SwitchOff) -> bool:
        """False if it was no longer at that version."""
        ...

    async def tell_owner(self, telling: Telling, committed: Callable[[list[Accepted]], None]) -> None:
        """Store a notice. `committed` is called as for `accept`."""
        ...

    async def count_failure(self, handler_id: int, at: Micros) -> Streak:
        """One more delivery that failed by the handler's own fault; a delivery that arrives ends the streak."""
        ...

    async def stopped_handlers(self) -> list[tuple[int, Status, Reason]]:
        """Handlers that are paused, switched off or deleted but still have waiting deliveries, and how these should end."""
        ...

    async def handler_facts(self, handler_id: int, since_hour: int) -> HandlerFacts: ...
    async def standings(self, handler_ids: Sequence[int]) -> dict[int, Standing]:
        """The current state of each of these handlers."""
        ...

    async def handler_hours(self, handler_ids: Sequence[int], since_hour: int) -> list[HandlerHour]: ...
    async def add_hours(self, hours: Sequence[HandlerHour]) -> None:
        """Add to the stored counts of these hours."""
        ...

    # keys
    async def key(self, key_hash: bytes) -> KeyRow | None: ...
    async def touch_keys(self, used: dict[int, Micros]) -> None: ...
