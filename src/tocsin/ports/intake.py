"""Storing what was accepted."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from tocsin.clock import DAY, Micros
from tocsin.model import Delivery, Message, Notification, Reason, Status, Value


class PlannedDelivery(Value, frozen=True):
    """A delivery to one handler, to be stored. `reason`: why it is not pending. `partition`: its handler's, where it has one."""

    handler_id: int
    status: Status
    due_at: Micros
    reason: Reason | None = None
    partition: int = 0


class Planned(Value, frozen=True):
    """A notification and its deliveries, ready to be stored."""

    message: Message
    send_at: Micros | None
    expires_at: Micros | None
    deliveries: tuple[PlannedDelivery, ...]


class Idempotency(Value, frozen=True):
    """An Idempotency-Key with the path it came to and a hash of the parsed content."""

    path: str
    key: str
    content: bytes


class Remembered(Value, frozen=True):
    """What an idempotency key was used for: the hash of the content, and the ids (or the count) it was answered with."""

    content: bytes
    answer: tuple[int, ...]


REMEMBERED_FOR: Micros = DAY
"""How long an idempotency key counts; and how far ahead of now at most, or what a clock noted that was years ahead would swallow new
messages for years."""


class Answered(Exception):
    """A request with this idempotency key has been answered meanwhile, by another process."""

    def __init__(self, remembered: Remembered) -> None:
        super().__init__("answered by another process")
        self.remembered = remembered


class Accept(Value, frozen=True):
    """What one request brings, to be stored in one commit. `at`: when it was accepted."""

    user_id: int
    at: Micros
    planned: Sequence[Planned]
    idempotency: Idempotency | None = None


class Accepted(Value, frozen=True):
    """The result of one draft: the id in the answer to its sender, and its rows as stored, with the deliveries in the planned order."""

    id: int
    notification: Notification
    deliveries: Sequence[Delivery]


class Intake(Protocol):
    """Raises Busy while the store takes no writes."""

    def accept(self, accept: Accept, committed: Callable[[list[Accepted]], None] | None = None) -> Awaitable[list[Accepted]]:
        """`committed` is called right after the commit, before anything that follows from it, such as a settlement, is reported.

        Raises Answered, and InFlight while another process answers a request with the same idempotency key.
        """
        ...

    async def remembered(self, user_id: int, path: str, key: str, since: Micros, until: Micros) -> Remembered | None:
        """What this idempotency key was used for within that time."""
        ...
