"""The store, in the flow's words: what is written, what is asked, and the protocol of whatever keeps it.

Every write returns after its commit. Reads see committed rows only. Secrets come and go sealed (`bytes`): the store never sees
them in the clear.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

from msgspec import Struct

from tocsin.model import SECOND, Attempt, Delivery, Handler, Message, Micros, Notification, Reason, Replay, Severity, Status, Value

if TYPE_CHECKING:
    from tocsin.store.notices import Telling

T = TypeVar("T")
AnySettlement = TypeVar("AnySettlement", bound="Settlement")
Labels: TypeAlias = "tuple[dict[int, Label], dict[int, tuple[str, str]]]"  # handlers: type and name
BACKLOG_AFTER: Micros = 30 * SECOND  # past its due time a delivery belongs to a backlog, in which critical ones go first


class StoreError(Exception):
    """The store cannot be used; the message is one sentence for the operator."""


# ---------------------------------------------------------------------------------------------------------- what is asked


class Page(Struct, Generic[T], frozen=True):
    """Rows of one page and how many there are in all; `exact` False: counted to a cap only."""

    rows: list[T]
    total: int
    exact: bool = True


class HandlerFilter(Struct, frozen=True):
    """`state`: ok, failing, paused or switched_off. `order_by`: a column of the API, or `state`: failing ones first."""

    search: str = ""
    is_enabled: bool | None = None
    type: str | None = None
    datetime_field: str = "datetime"
    datetime_start: Micros | None = None
    datetime_end: Micros | None = None
    order_by: str = "notification_handler_id"
    descending: bool = False
    state: str | None = None


class DeliveryFilter(Struct, frozen=True):
    """`before`: only deliveries with smaller ids, so that the next page of a list costs no more than the first."""

    notification_id: int | None = None
    notification_handler_id: int | None = None
    status: Status | None = None
    datetime_start: Micros | None = None
    datetime_end: Micros | None = None
    search: str = ""
    reason: Reason | None = None
    severity: Severity | None = None
    before: int | None = None

    @property
    def only_status(self) -> bool:
        """Nothing but the status is asked for, so that the kept totals are exact."""
        return self == DeliveryFilter(status=self.status)


# ------------------------------------------------------------------------------------------------------- what is kept


class HandlerRow(Struct, frozen=True):
    """A handler as it is kept: settings and signing secret sealed, both None once it is deleted. `last_delivered_at`: to the second."""

    id: int
    user_id: int
    type: str
    name: str
    settings: bytes | None
    secret: bytes | None
    is_enabled: bool
    created_at: Micros
    last_delivered_at: Micros | None
    disabled_reason: str | None
    version: int
    deleted_at: Micros | None


class HandlerEvent(Struct, frozen=True):
    """What happened to a handler. `what`: switched_off or moved (by the service), paused, enabled or changed (by its owner)."""

    at: Micros
    what: str
    detail: str = ""
    reason: Reason | None = None


class Streak(Struct, frozen=True):
    """Deliveries that failed by the handler's own fault since it last took one; `since`: when the first of them did."""

    failures: int
    since: Micros | None


class Standing(Struct, frozen=True):
    """How a handler stands at this moment. `waiting`: its pending deliveries, counted to 10,000, and `next_at` when the first is due.

    `failing_since`: when the first attempt failed since it last took a delivery; None: none has. `reason` and `error`: what the latest
    of them met. `event`: the last pause or switch-off of one that is not enabled.
    """

    waiting: int = 0
    next_at: Micros | None = None
    failing_since: Micros | None = None
    reason: Reason | None = None
    error: str | None = None
    event: HandlerEvent | None = None


class Overview(Struct, frozen=True):
    """All handlers of a user at a glance: how many are in which state, and each hour's delivered and failed (or expired) deliveries."""

    states: dict[str, int]
    hours: tuple[tuple[int, int, int], ...]


class Troubled(Struct, frozen=True):
    """A handler that fails or was switched off, and whose it is. Its settings are left out."""

    email: str
    handler: Handler
    standing: Standing


class HandlerHour(Struct, frozen=True):
    """What became of a handler's deliveries within an hour (since 1970). `latencies`: delivered ones by `flow.tally.bucket`."""

    handler_id: int
    hour: int
    delivered: int
    failed: int
    expired: int
    latencies: tuple[int, ...] = ()


class HandlerFacts(Struct, frozen=True):
    """What is kept of how a handler fares. `counts`: its deliveries by status but for delivered ones, each counted to 10,000; `reasons`:
    why the latest 1,000 of its failed ones did, oftenest first; `events` newest first; `hours` oldest first.
    """

    streak: Streak
    counts: dict[Status, int]
    reasons: tuple[tuple[Reason, int], ...]
    events: tuple[HandlerEvent, ...]
    hours: tuple[HandlerHour, ...]


class SwitchOff(Struct, frozen=True):
    """A handler is disabled by the service: what waits for it ends, its history says why, and its owner is to be told, all in one commit.

    Nothing happens unless the handler is still at `version`. `notification_id`: what it did not take. `most`: deliveries that are ended
    at once, with `last_error`.
    """

    user_id: int
    handler_id: int
    version: int
    event: HandlerEvent
    notification_id: int
    most: int
    last_error: str | None = None


class HandlerBrief(Struct, frozen=True):
    """What planning needs to know of a handler."""

    id: int
    is_enabled: bool
    disabled_reason: str | None


class HandlerChange(Struct, frozen=True):
    """What is to be written; None leaves a column as it was."""

    type: str | None = None
    name: str | None = None
    settings: bytes | None = None
    secret: bytes | None = None
    is_enabled: bool | None = None
    disabled_reason: str | None = None


class KeyRow(Struct, frozen=True):
    """An API key that may be used: neither it nor its user is revoked or disabled. No scopes means all."""

    id: int
    user_id: int
    scopes: tuple[str, ...]
    is_used: bool = True


class PlannedDelivery(Value, frozen=True):
    handler_id: int
    status: Status
    due_at: Micros
    reason: Reason | None = None


class Planned(Value, frozen=True):
    """A notification and its deliveries, ready to be kept."""

    message: Message
    send_at: Micros | None
    expires_at: Micros | None
    deliveries: tuple[PlannedDelivery, ...]


class Remembered(Struct, frozen=True):
    """What an idempotency key was used for: the hash of the content and the ids (or the count) it was answered with."""

    path: str
    key: str
    content: bytes
    answer: tuple[int, ...] = ()


class Accept(Value, frozen=True):
    user_id: int
    at: Micros
    planned: Sequence[Planned]
    idempotency: Remembered | None = None


class Accepted(Value, frozen=True):
    """Ids of what was kept: those of its notifications, and those of all their deliveries in the same order, count on from these."""

    first_notification_id: int
    first_delivery_id: int


class Settlement(Value, frozen=True):
    """How a delivery stands after an attempt (None: ended without one). Applied only while the row is pending, but an arrival always."""

    delivery: Delivery
    attempt: Attempt | None
    at: Micros


class Recent(Struct):
    """What a handler was doing lately: when its `attempts` began, oldest delivery first; `throttled_until`: 0 if it is not."""

    handler_id: int
    attempts: list[Micros] = []
    throttled_until: Micros = 0


class Label(Struct, frozen=True):
    """What a notification is about, in a line. `text`: its first characters."""

    title: str
    text: str
    severity: Severity


class Waiting(Value, frozen=True):
    """A pending delivery with what it takes to send it."""

    delivery: Delivery
    notification: Notification


class Wanted(Struct, frozen=True):
    """What of a handler's due work is to be read: `limit` deliveries at most, those that are `known` already counted but not read."""

    limit: int
    known: frozenset[int] = frozenset()


class Due(Struct, frozen=True):
    """A handler's due work. `next_due`: when the next that is not due yet will be. `is_more`: some may have been left in the store."""

    jobs: list[Waiting]
    next_due: Micros | None
    is_more: bool = False


class PostFacts(Struct, frozen=True):
    """Of a credential's last 24 hours: whether the budget is used up, and whether an earlier delivery had the same text."""

    over_budget: bool
    repeated: bool


class Swept(Struct, frozen=True):
    """What a step of `store.tidying` did: how many `rows` went, and `after` what to go on (None: nothing is left to look at).

    `at`: when the last notification that may go was accepted. `seconds`: how long the step took, without its commit.
    """

    rows: int
    after: tuple[Any, ...] | None
    at: Micros | None = None
    seconds: float = 0.0


class Store(Protocol):
    """Whatever keeps the rows. Methods raise Busy when the store cannot answer now."""

    # hot path
    def accept(self, accept: Accept, committed: Callable[[Accepted], None] | None = None) -> Awaitable[Accepted]:
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
        self, user_id: int, which: DeliveryFilter | int, at: Micros, limit: int, idempotency: Remembered | None
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

    async def tell_owner(self, telling: "Telling", committed: Callable[[Accepted], None]) -> None:
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
