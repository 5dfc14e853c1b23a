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
from tocsin.ports.queue import AnySettlement, Due, PostFacts, Recent, Waiting, Wanted

T = TypeVar("T")


class Store(Protocol):
    """Whatever keeps the rows. Methods raise Busy when the store cannot answer now."""

    # hot path
    def accept(self, accept: Accept, committed: Callable[[list[Accepted]], None] | None = None) -> Awaitable[list[Accepted]]:
        """`committed` is told at once after the commit: before anything that came of it is told to anybody, a settlement for one."""
        ...

    def settle(self, settlement: AnySettlement, done: Callable[[Sequence[AnySettlement], Sequence[bool | Exception]], None]) -> None:
        """`done` is told after the commit, with all settlements in it that came with the same `done`, and of each: True if it was
        applied, False if the delivery was no longer pending, or what went wrong."""
        ...

    # users, keys and sessions: rare, so they are functions of an open transaction, in `people`
    async def ask(self, read: Callable[..., T], *args: object) -> T: ...

    async def tell(self, write: Callable[..., T], *args: object) -> T:
        """Committed when it returns."""
        ...

    async def fold_log(self) -> None:
        """Bring what has been committed into its place, beside the writer, so that none of its commits has much of that to do."""
        ...

    async def labels(self, user_id: int, notification_ids: Sequence[int], handler_ids: Sequence[int]) -> Labels:
        """What these notifications of a user are about, and what these handlers are called, deleted ones too."""
        ...

    # what is due
    async def waiting_handlers(self) -> list[tuple[int, int, Micros]]:
        """Each handler with pending deliveries, its user, and when the first of them is due."""
        ...

    async def due(self, wanted: Mapping[int, Wanted], now: Micros) -> dict[int, Due]:
        """Of each handler named the pending deliveries that are due, critical ones of a backlog first, then in due order. Where texts are
        long there may be fewer than wanted, but at least one."""
        ...

    async def named(self, delivery_ids: Sequence[int]) -> list[Delivery]:
        """These deliveries, whatever has become of them; those that are gone are left out."""
        ...

    async def recent(self, since: Micros, types: Sequence[str], limit: int) -> list[Recent]:
        """What handlers of these types were doing lately, as far as the newest `limit` deliveries show it, and all that are throttled."""
        ...

    async def ahead(self, delivery: Delivery, most: int) -> int:
        """How many pending deliveries of its handler are due before it; counted up to `most`."""
        ...

    async def waiting(self, delivery_ids: Sequence[int]) -> list[Waiting]: ...

    # deliveries
    async def end_pending(self, handler_id: int, status: Status, reason: Reason, limit: int, error: str | None = None) -> int:
        """End up to `limit` pending deliveries of a handler; how many were ended. `error`: their last error, if it is to change."""
        ...

    async def cancel(self, user_id: int, notification_id: int) -> list[int]:
        """End what waits of a notification as cancelled; the deliveries' ids."""
        ...

    async def cancel_delivery(self, user_id: int, delivery_id: int) -> list[int]:
        """End one delivery as cancelled if it waits; its id, or nothing."""
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
        """The row, of a deleted handler too."""
        ...

    async def handler_rows(self, handler_ids: Sequence[int]) -> list[HandlerRow]:
        """The rows of those that there are, deleted ones too."""
        ...

    async def add_handler(self, user_id: int, change: HandlerChange, at: Micros) -> int: ...
    async def change_handler(
        self, handler_id: int, change: HandlerChange, expected_version: int | None = None, event: HandlerEvent | None = None, most: int = 0
    ) -> bool:
        """False if it is deleted, or is no longer at the version expected. A pause ends up to `most` of what waits, in the same commit."""
        ...

    async def delete_handler(self, handler_id: int, at: Micros, most: int = 0) -> bool:
        """Up to `most` of what waits for it is cancelled in the same commit."""
        ...

    async def switch_off(self, what: SwitchOff) -> bool:
        """False if it was not at that version any more."""
        ...

    async def tell_owner(self, telling: Telling, committed: Callable[[list[Accepted]], None]) -> None:
        """Keep a notice. `committed` is told what it became, as with `accept`."""
        ...

    async def count_failure(self, handler_id: int, at: Micros) -> Streak:
        """One more delivery that failed by the handler's own fault; a delivery that arrives ends the streak."""
        ...

    async def stopped_handlers(self) -> list[tuple[int, Status, Reason]]:
        """Handlers that are paused, switched off or deleted, for which something waits all the same; how it is to end."""
        ...

    async def handler_facts(self, handler_id: int, since_hour: int) -> HandlerFacts: ...
    async def standings(self, handler_ids: Sequence[int]) -> dict[int, Standing]:
        """How each of these handlers stands at this moment."""
        ...

    async def handler_hours(self, handler_ids: Sequence[int], since_hour: int) -> list[HandlerHour]: ...
    async def add_hours(self, hours: Sequence[HandlerHour]) -> None:
        """Add to what is kept of these hours."""
        ...

    # keys
    async def key(self, key_hash: bytes) -> KeyRow | None: ...
    async def touch_keys(self, used: dict[int, Micros]) -> None: ...
