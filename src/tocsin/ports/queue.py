"""What is due, and what came of it."""

from msgspec import Struct

from tocsin.clock import SECOND, Micros
from tocsin.model import Attempt, Delivery, Notification, Value

BACKLOG_AFTER: Micros = 30 * SECOND  # past its due time a delivery belongs to a backlog, in which critical ones go first


class Settlement(Value, frozen=True):
    """A delivery after an attempt (None: it ended without one). Applied only while the row is pending, except for arrivals."""

    delivery: Delivery
    attempt: Attempt | None
    at: Micros


class Waiting(Value, frozen=True):
    """A pending delivery with what it takes to send it."""

    delivery: Delivery
    notification: Notification


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
