"""Handlers, how they are doing, and whose owners have to be told."""

from msgspec import Struct

from tocsin.clock import Micros
from tocsin.model import Handler, Reason, Status
from tocsin.ports.intake import Accept


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


class HandlerRow(Struct, frozen=True):
    """A handler as it is stored: settings and signing secret sealed, both None once it is deleted. `last_delivered_at`: to the second.
    `time_zone`: its user's, where one is set."""

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
    time_zone: str | None


class HandlerBrief(Struct, frozen=True):
    """What planning needs to know about a handler."""

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


class HandlerEvent(Struct, frozen=True):
    """What happened to a handler. `what`: switched_off or moved (by the service), paused, enabled or changed (by its owner)."""

    at: Micros
    what: str
    detail: str = ""
    reason: Reason | None = None


class SwitchOff(Struct, frozen=True):
    """A handler is disabled by the service: its waiting deliveries end, its history says why, and its owner is told, all in one commit.

    Nothing happens unless the handler is still at `version`. `notification_id`: the one it did not accept. `most`: how many deliveries
    are ended at once, with `last_error`.
    """

    user_id: int
    handler_id: int
    version: int
    event: HandlerEvent
    notification_id: int
    most: int
    last_error: str | None = None


class Streak(Struct, frozen=True):
    """Deliveries that failed by the handler's own fault since it last accepted one; `since`: when the first of them did."""

    failures: int
    since: Micros | None


class Standing(Struct, frozen=True):
    """A handler's current state. `waiting`: its pending deliveries, counted to 10,000, and `next_at` when the first is due.

    `failing_since`: when the first attempt failed since it last accepted a delivery; None: none has. `reason` and `error`: those of the
    latest failure. `event`: the last pause or switch-off of one that is not enabled.
    """

    waiting: int = 0
    next_at: Micros | None = None
    failing_since: Micros | None = None
    reason: Reason | None = None
    error: str | None = None
    event: HandlerEvent | None = None


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
    """The outcomes of a handler's deliveries within an hour (counted since 1970). `latencies`: delivered ones by `flow.tally.bucket`."""

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


class Untold(Struct, frozen=True):
    """A handler that was switched off, and why, in words. `by_notice`: it refused a notice."""

    user_id: int
    handler_id: int
    at: Micros
    reason: Reason
    why: str
    by_notice: bool


class Telling(Struct, frozen=True):
    """A notice to be stored (None: no handler can deliver it), what it reports, and when the latest ones were sent, including this one."""

    user_id: int
    notice: Accept | None
    handler_ids: tuple[int, ...]
    told_at: tuple[Micros, ...]
