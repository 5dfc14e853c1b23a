"""Handlers as they are kept."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from tocsin.clock import Micros
from tocsin.model import Reason
from tocsin.ports.history import Page


class HandlerFilter(Struct, frozen=True):
    """`state`: ok, failing, unconfirmed, paused or switched_off. `order_by`: a column of the API, or `state`: failing ones first."""

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
    `time_zone`: its user's, where one is set. `partition`: None if it is not known yet. `consent`: a `ports.consents.Consent`; `asked_at`:
    when its address was first asked. `owner_is_admin`: its user is an administrator."""

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
    partition: int | None = None
    consent: int = 1
    asked_at: Micros | None = None
    owner_is_admin: bool = False


class HandlerBrief(Struct, frozen=True):
    """What planning needs to know about a handler."""

    id: int
    is_enabled: bool
    disabled_reason: str | None
    partition: int = 0


class HandlerChange(Struct, frozen=True):
    """What is to be written; None leaves a column as it was.

    With another `partition`, what waits stays where it is: its owner there lets its attempts end, and has it follow then
    (`tocsin.ports.workers.Workers.rehome`). So nothing is sent twice, and nothing newer first.

    `fields`: the names of what differs from before, for the audit log.
    """

    type: str | None = None
    name: str | None = None
    settings: bytes | None = None
    secret: bytes | None = None
    is_enabled: bool | None = None
    disabled_reason: str | None = None
    partition: int | None = None
    consent: int | None = None
    fields: tuple[str, ...] = ()


class HandlerEvent(Struct, frozen=True):
    """What happened to a handler. `what`: switched_off or moved (by the service), paused, enabled or changed (by its owner), unsubscribed
    (by the recipient)."""

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


class HandlerRows(Protocol):
    """Handlers of all users by id; a list or a page is of one user. Every method raises Busy while the store cannot answer."""

    async def get(self, handler_id: int) -> HandlerRow | None:
        """The row, even of a deleted handler."""
        ...

    async def rows(self, handler_ids: Sequence[int]) -> list[HandlerRow]:
        """The rows of those that exist, including deleted ones."""
        ...

    async def after(self, after: int, limit: int) -> list[HandlerRow]:
        """The next handlers of anybody after that id, deleted ones left out."""
        ...

    async def briefs(self, user_id: int) -> list[HandlerBrief]:
        """All of a user's handlers that are not deleted, by id."""
        ...

    async def page(self, user_id: int, which: HandlerFilter, page: int, size: int, sealed: Collection[int] = ()) -> Page[HandlerRow]:
        """One page of a user's handlers that are not deleted. `page` counts from 1; `size` rows each. `sealed`: those that no key opens."""
        ...

    async def add(self, user_id: int, change: HandlerChange, at: Micros, most: int = 0) -> int | None:
        """The new handler's id; None: the user has `most` already (0: any number may be). Without a `partition` it gets the one of its own
        root (`tocsin.partitions`)."""
        ...

    async def change(
        self, handler_id: int, change: HandlerChange, expected_version: int | None = None, event: HandlerEvent | None = None, most: int = 0
    ) -> bool:
        """False if it is deleted, or no longer at the expected version. A pause ends up to `most` waiting deliveries in the same commit."""
        ...

    async def delete(self, handler_id: int, at: Micros, most: int = 0) -> bool:
        """Up to `most` of its waiting deliveries are cancelled in the same commit."""
        ...

    async def switch_off(self, what: SwitchOff) -> bool:
        """False if it was no longer at that version."""
        ...

    async def count_failure(self, handler_id: int, at: Micros) -> Streak:
        """One more delivery that failed by the handler's own fault; a delivery that arrives ends the streak. None fail of a handler that
        went with its user."""
        ...

    # where processes share the store
    async def unplaced(self, after: int, limit: int) -> list[HandlerRow]:
        """The next handlers after that id whose partition is not known, deleted ones left out."""
        ...

    async def place(self, partitions: Mapping[int, int]) -> None:
        """Give these handlers, and what waits for them, their partition; those that have one meanwhile keep it."""
        ...
