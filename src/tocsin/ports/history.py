"""Viewing what was sent."""

from typing import Generic, TypeAlias, TypeVar

from msgspec import Struct

from tocsin.clock import Micros
from tocsin.model import Reason, Severity, Status

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
    """What a notification is about, in a line. `text`: its first characters."""

    title: str
    text: str
    severity: Severity
