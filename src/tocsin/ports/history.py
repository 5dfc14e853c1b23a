"""Looking at what was sent, cancelling it, sending it again."""

from collections.abc import Sequence
from typing import Generic, Protocol, TypeAlias, TypeVar

from msgspec import Struct

from tocsin.clock import Micros
from tocsin.model import Attempt, Delivery, Notification, Reason, Replay, Severity, Status
from tocsin.ports.intake import Idempotency

T = TypeVar("T")
Labels: TypeAlias = "tuple[dict[int, Label], dict[int, tuple[str, str]]]"  # handlers: type and name


class Page(Struct, Generic[T], frozen=True):
    """Rows of one page and how many there are in all; `exact` False: counted to a cap only."""

    rows: list[T]
    total: int
    exact: bool = True


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
        """Whether only the status is filtered, so that the stored totals are exact."""
        return self == DeliveryFilter(status=self.status)


class Label(Struct, frozen=True):
    """What a notification is about, in a line, and when it expires. `text`: its first characters."""

    title: str
    text: str
    severity: Severity
    expires_at: Micros | None = None


class History(Protocol):
    """Of one user's own: what is somebody else's is not there."""

    async def notifications(self, user_id: int, page: int, size: int) -> Page[tuple[Notification, dict[Status, int]]]:
        """One page, newest first, each with how many deliveries it has in each status. `page` counts from 1."""
        ...

    async def notification(self, user_id: int, notification_id: int) -> tuple[Notification, dict[Status, int]] | None:
        """The same for one; None if it is not this user's."""
        ...

    async def deliveries(self, user_id: int, which: DeliveryFilter, page: int, size: int) -> Page[Delivery]:
        """One page, newest first. `page` counts from 1."""
        ...

    async def delivery(self, user_id: int, delivery_id: int) -> tuple[Delivery, Notification, list[Attempt], list[Replay]] | None:
        """A delivery with its attempts and replays, oldest first; None if it is not this user's."""
        ...

    async def fan_out(
        self, user_id: int, notification_id: int, limit: int
    ) -> tuple[Notification, dict[Status, int], Page[Delivery], Labels] | None:
        """A notification and up to `limit` of its deliveries, all as of one moment."""
        ...

    async def labels(self, user_id: int, notification_ids: Sequence[int], handler_ids: Sequence[int]) -> Labels:
        """What these notifications are about, and what these handlers are called, deleted ones too."""
        ...

    async def due_of(self, user_id: int, now: Micros) -> tuple[int, Micros | None]:
        """How many deliveries are due, counted to 10,000, and since when the oldest of them is."""
        ...

    async def ahead(self, delivery: Delivery, most: int) -> int:
        """How many pending deliveries of its handler are due before it; counted up to `most`."""
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
        """Make settled, undelivered deliveries of enabled handlers pending again; returns (delivery id, handler id) of each.

        Raises Answered and InFlight as `Intake.accept` does.
        """
        ...

    async def replayable(self, user_id: int, which: DeliveryFilter, limit: int) -> int:
        """How many `retry` would take."""
        ...
