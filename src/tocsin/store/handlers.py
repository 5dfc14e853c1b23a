"""Handlers as they are kept: `tocsin.ports.handlers`."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select, update

from tocsin.acting import SERVICE
from tocsin.clock import Micros
from tocsin.model import Reason, Status
from tocsin.partitions import own_root, partition_of
from tocsin.ports.audit import Act
from tocsin.ports.handlers import HandlerBrief, HandlerChange, HandlerEvent, HandlerFilter, HandlerRow, Streak, SwitchOff
from tocsin.ports.history import Page
from tocsin.store import notices, statements
from tocsin.store.audit import record
from tocsin.store.database import Database
from tocsin.store.noting import note
from tocsin.store.queue import end_of_handler, end_pending, rehome
from tocsin.store.rows import HANDLER, handler_of, total_of
from tocsin.store.standings import state_with, worst_first
from tocsin.store.statements import chunks, run
from tocsin.store.tables import TOTAL_HANDLERS, handler_events, handlers
from tocsin.store.totals import Totals

MAX_EVENTS = 100  # of a handler are kept
PLACE = statements.update(handlers, key=("id",), given=("partition",), where="handlers.partition IS NULL", returning=("id",))


class SqlHandlers:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, handler_id: int) -> HandlerRow | None:
        return await self._database.read(handler, handler_id)

    async def rows(self, handler_ids: Sequence[int]) -> list[HandlerRow]:
        return await self._database.read(handler_rows, handler_ids)

    async def after(self, after: int, limit: int) -> list[HandlerRow]:
        return await self._database.look(handlers_after, after, limit)

    async def briefs(self, user_id: int) -> list[HandlerBrief]:
        return await self._database.read(handler_briefs, user_id)

    async def page(self, user_id: int, which: HandlerFilter, page: int, size: int, sealed: Collection[int] = ()) -> Page[HandlerRow]:
        return await self._database.look(handlers_page, user_id, which, page, size, sealed)

    async def add(self, user_id: int, change: HandlerChange, at: Micros, most: int = 0) -> int | None:
        return await self._database.write(add_handler, user_id, change, at, most)

    async def change(
        self, handler_id: int, change: HandlerChange, expected_version: int | None = None, event: HandlerEvent | None = None, most: int = 0
    ) -> bool:
        return await self._database.write(change_handler, handler_id, change, expected_version, event, most)

    async def delete(self, handler_id: int, at: Micros, most: int = 0) -> bool:
        return await self._database.write(delete_handler, handler_id, at, most)

    async def switch_off(self, what: SwitchOff) -> bool:
        return await self._database.write(switch_off, what)

    async def count_failure(self, handler_id: int, at: Micros) -> Streak:
        return await self._database.write(count_failure, handler_id, at)

    async def unplaced(self, after: int, limit: int) -> list[HandlerRow]:
        return await self._database.read(unplaced, after, limit)

    async def place(self, partitions: Mapping[int, int]) -> None:
        await self._database.write(place, partitions)


def handler(connection: Connection, handler_id: int) -> HandlerRow | None:
    row = connection.execute(select(*HANDLER).where(handlers.c.id == handler_id)).first()
    return None if row is None else handler_of(row)


def handler_rows(connection: Connection, handler_ids: Sequence[int]) -> list[HandlerRow]:
    found: list[HandlerRow] = []
    for chunk in chunks(handler_ids):
        rows = connection.execute(select(*HANDLER).where(handlers.c.id.in_(chunk)))
        found.extend(map(handler_of, rows))
    return found


def handlers_after(connection: Connection, after: int, limit: int) -> list[HandlerRow]:
    chosen = select(*HANDLER).where(handlers.c.id > after, handlers.c.deleted_at.is_(None))
    return [handler_of(row) for row in connection.execute(chosen.order_by(handlers.c.id).limit(limit))]


def handler_briefs(connection: Connection, user_id: int) -> list[HandlerBrief]:
    rows = connection.execute(
        select(handlers.c.id, handlers.c.is_enabled, handlers.c.disabled_reason, handlers.c.partition)
        .where(handlers.c.user_id == user_id, handlers.c.deleted_at.is_(None))
        .order_by(handlers.c.id)
    )
    return [HandlerBrief(row[0], bool(row[1]), row[2], row[3] or 0) for row in rows]


_HANDLER_ORDER = {
    "notification_handler_id": handlers.c.id,
    "datetime": handlers.c.created_at,
    "last_datetime": handlers.c.last_delivered_at,
    "name": func.lower(handlers.c.name),
}


def handlers_page(
    connection: Connection, user_id: int, which: HandlerFilter, page: int, size: int, sealed: Collection[int] = ()
) -> Page[HandlerRow]:
    chosen = select(*HANDLER).where(handlers.c.user_id == user_id, handlers.c.deleted_at.is_(None))
    if which.search:
        chosen = chosen.where(handlers.c.name.icontains(which.search, autoescape=True))
    if which.is_enabled is not None:
        chosen = chosen.where(handlers.c.is_enabled.is_(which.is_enabled))
    if which.type is not None:
        chosen = chosen.where(handlers.c.type == which.type)
    if which.state is not None:
        chosen = chosen.where(state_with(sealed) == which.state)
    moment = handlers.c.last_delivered_at if which.datetime_field == "last_datetime" else handlers.c.created_at
    if which.datetime_start is not None:
        chosen = chosen.where(moment >= which.datetime_start)
    if which.datetime_end is not None:
        chosen = chosen.where(moment <= which.datetime_end)
    if which == HandlerFilter(order_by=which.order_by, descending=which.descending):
        total = total_of(connection, user_id, TOTAL_HANDLERS)
    else:
        total = connection.scalar(select(func.count()).select_from(chosen.subquery())) or 0
    order = worst_first(sealed) if which.order_by == "state" else _HANDLER_ORDER[which.order_by]
    ordered = chosen.order_by(*((order.desc(), handlers.c.id.desc()) if which.descending else (order, handlers.c.id)))
    rows = connection.execute(ordered.limit(size).offset((page - 1) * size))
    return Page([handler_of(row) for row in rows], total)


def add_handler(connection: Connection, user_id: int, change: HandlerChange, at: Micros, most: int = 0) -> int | None:
    if most and total_of(connection, user_id, TOTAL_HANDLERS) >= most:
        return None
    values = {name: value for name, value in msgspec.structs.asdict(change).items() if name not in {"disabled_reason", "fields"}}
    if change.consent is None:
        del values["consent"]
    row = insert(handlers).values(user_id=user_id, created_at=at, version=1, **values).returning(handlers.c.id)
    handler_id = connection.execute(row).scalar_one()
    if change.partition is None:
        connection.execute(update(handlers).where(handlers.c.id == handler_id).values(partition=partition_of(own_root(handler_id))))
    note(connection, "handler", handler_id, user_id)
    totals = Totals()
    totals[user_id, TOTAL_HANDLERS] += 1
    totals.write(connection)
    record(connection, Act.HANDLER_ADDED, user_id, handler_id, change.name or "", type=change.type, fields=list(change.fields))
    return handler_id


def change_handler(
    connection: Connection, handler_id: int, change: HandlerChange, expected_version: int | None, event: HandlerEvent | None, most: int
) -> bool:
    values = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not None and name != "fields"}
    if change.is_enabled:
        values["disabled_reason"] = None
    if change.is_enabled or change.settings is not None:  # a fresh start
        values |= {"failures": 0, "failing_since": None}
    if change.consent is not None:  # of another address, or one that has to be asked again
        values["asked_at"] = None
    statement = update(handlers).where(handlers.c.id == handler_id, handlers.c.deleted_at.is_(None))
    if expected_version is not None:
        statement = statement.where(handlers.c.version == expected_version)
    changed = statement.values(version=handlers.c.version + 1, **values).returning(handlers.c.user_id, handlers.c.name, handlers.c.type)
    row = connection.execute(changed).first()
    if row is None:
        return False
    note(connection, "handler", handler_id, row.user_id)
    _audit(connection, handler_id, row, change, event)
    if event is not None:
        keep_event(connection, handler_id, event)
    if change.is_enabled is False and most:
        end_pending(connection, handler_id, Status.SKIPPED, Reason.HANDLER_PAUSED, most)
    return True


_ACTS = {"paused": Act.HANDLER_PAUSED, "enabled": Act.HANDLER_ENABLED}
_BY_ITSELF = {"switched_off": Act.HANDLER_SWITCHED_OFF, "moved": Act.HANDLER_MOVED}


def _audit(connection: Connection, handler_id: int, row: Row[Any, Any, Any], change: HandlerChange, event: HandlerEvent | None) -> None:
    what = "" if event is None else event.what
    if what in _BY_ITSELF:
        reason = None if event is None else event.reason
        record(connection, _BY_ITSELF[what], row.user_id, handler_id, row.name, by=SERVICE, type=row.type, reason=reason)
    elif change.secret and change.type is None:
        record(connection, Act.SECRET_ROTATED, row.user_id, handler_id, row.name, type=row.type)
    elif change.fields:
        record(
            connection,
            _ACTS.get(what, Act.HANDLER_CHANGED),
            row.user_id,
            handler_id,
            row.name,
            type=row.type,
            fields=list(change.fields),
        )


def switch_off(connection: Connection, what: SwitchOff) -> bool:
    """Whether it was at that version."""
    change = HandlerChange(is_enabled=False, disabled_reason=what.event.detail)
    if not change_handler(connection, what.handler_id, change, what.version, what.event, most=0):
        return False
    notices.record(connection, what.user_id, what.handler_id, what.event, what.notification_id)
    end_pending(connection, what.handler_id, Status.FAILED, Reason.HANDLER_DISABLED, what.most, what.last_error)
    return True


def keep_event(connection: Connection, handler_id: int, event: HandlerEvent) -> None:
    """Keep an event; only the last ones stay."""
    reason = None if event.reason is None else event.reason.value
    connection.execute(
        insert(handler_events).values(handler_id=handler_id, at=event.at, what=event.what, detail=event.detail, reason=reason)
    )
    own = handler_events.c.handler_id == handler_id
    oldest = select(handler_events.c.id).where(own).order_by(handler_events.c.id.desc()).limit(1).offset(MAX_EVENTS - 1)
    connection.execute(delete(handler_events).where(own, handler_events.c.id < oldest.scalar_subquery()))


def count_failure(connection: Connection, handler_id: int, at: Micros) -> Streak:
    row = connection.execute(
        update(handlers)
        .where(handlers.c.id == handler_id)
        .values(failures=handlers.c.failures + 1, failing_since=func.coalesce(handlers.c.failing_since, at))
        .returning(handlers.c.failures, handlers.c.failing_since)
    ).first()
    return Streak(0, None) if row is None else Streak(row[0], row[1])


def unplaced(connection: Connection, after: int, limit: int) -> list[HandlerRow]:
    chosen = select(*HANDLER).where(handlers.c.id > after, handlers.c.partition.is_(None), handlers.c.deleted_at.is_(None))
    return [handler_of(row) for row in connection.execute(chosen.order_by(handlers.c.id).limit(limit))]


def place(connection: Connection, partitions: Mapping[int, int]) -> None:
    placed = run(connection, PLACE, sorted(partitions.items()))
    if placed:
        note(connection, "everything")
    for (handler_id,) in placed:
        while not rehome(connection, handler_id, partitions[handler_id]):
            pass


def delete_handler(connection: Connection, handler_id: int, at: Micros, most: int) -> bool:
    """Up to `most` of what waits for it is cancelled."""
    totals = Totals()
    if not erase_handlers(connection, totals, handlers.c.id == handler_id, at):
        return False
    end_of_handler(connection, totals, handler_id, Status.CANCELLED, Reason.HANDLER_DELETED, most)
    totals.write(connection)
    row = connection.execute(select(handlers.c.user_id, handlers.c.name, handlers.c.type).where(handlers.c.id == handler_id)).one()
    record(connection, Act.HANDLER_DELETED, row.user_id, handler_id, row.name, type=row.type)
    return True


def erase_handlers(connection: Connection, totals: Totals, which: ColumnElement[bool], at: Micros) -> list[int]:
    """The ids of those that were there. Their secrets go at once; the rows stay for the history that names them.

    `totals` are written by the caller, once all deliveries are locked.
    """
    live = select(handlers.c.id).where(which, handlers.c.deleted_at.is_(None)).order_by(handlers.c.id).with_for_update()
    gone = connection.execute(
        update(handlers)
        .where(handlers.c.id.in_(live), handlers.c.deleted_at.is_(None))
        .values(deleted_at=at, settings=None, secret=None, is_enabled=False, version=handlers.c.version + 1)
        .returning(handlers.c.id, handlers.c.user_id)
    ).all()
    for row in gone:
        totals[row.user_id, TOTAL_HANDLERS] -= 1
        note(connection, "handler", row.id, row.user_id)
    return sorted(row.id for row in gone)
