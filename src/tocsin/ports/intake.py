"""Keeping what was accepted."""

from collections.abc import Sequence

from msgspec import Struct

from tocsin.clock import Micros
from tocsin.model import Message, Reason, Status, Value


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
