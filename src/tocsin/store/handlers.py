"""Handlers as they are kept: `tocsin.ports.handlers`."""

from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from tocsin.clock import Micros
from tocsin.ports.handlers import HandlerBrief, HandlerChange, HandlerEvent, HandlerFilter, HandlerRow, Streak, SwitchOff
from tocsin.ports.history import Page
from tocsin.store import writing
from tocsin.store.database import Database
from tocsin.store.rows import HANDLER, handler_of, total_of
from tocsin.store.standings import STATE, WORST_FIRST
from tocsin.store.statements import chunks
from tocsin.store.tables import TOTAL_HANDLERS, handlers


class SqlHandlers:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, handler_id: int) -> HandlerRow | None:
        return await self._database.read(handler, handler_id)

    async def rows(self, handler_ids: Sequence[int]) -> list[HandlerRow]:
        return await self._database.read(handler_rows, handler_ids)

    async def briefs(self, user_id: int) -> list[HandlerBrief]:
        return await self._database.read(handler_briefs, user_id)

    async def page(self, user_id: int, which: HandlerFilter, page: int, size: int) -> Page[HandlerRow]:
        return await self._database.look(handlers_page, user_id, which, page, size)

    async def add(self, user_id: int, change: HandlerChange, at: Micros) -> int:
        return await self._database.write(writing.add_handler, user_id, change, at)

    async def change(
        self, handler_id: int, change: HandlerChange, expected_version: int | None = None, event: HandlerEvent | None = None, most: int = 0
    ) -> bool:
        return await self._database.write(writing.change_handler, handler_id, change, expected_version, event, most)

    async def delete(self, handler_id: int, at: Micros, most: int = 0) -> bool:
        return await self._database.write(writing.delete_handler, handler_id, at, most)

    async def switch_off(self, what: SwitchOff) -> bool:
        return await self._database.write(writing.switch_off, what)

    async def count_failure(self, handler_id: int, at: Micros) -> Streak:
        return await self._database.write(writing.count_failure, handler_id, at)


def handler(connection: Connection, handler_id: int) -> HandlerRow | None:
    row = connection.execute(select(*HANDLER).where(handlers.c.id == handler_id)).first()
    return None if row is None else handler_of(row)


def handler_rows(connection: Connection, handler_ids: Sequence[int]) -> list[HandlerRow]:
    found: list[HandlerRow] = []
    for chunk in chunks(handler_ids):
        rows = connection.execute(select(*HANDLER).where(handlers.c.id.in_(chunk)))
        found.extend(map(handler_of, rows))
    return found


def handler_briefs(connection: Connection, user_id: int) -> list[HandlerBrief]:
    rows = connection.execute(
        select(handlers.c.id, handlers.c.is_enabled, handlers.c.disabled_reason, handlers.c.partition)
        .where(handlers.c.user_id == user_id, handlers.c.deleted_at.is_(None))
        .order_by(handlers.c.id)
    )
    return [HandlerBrief(row[0], bool(row[1]), row[2], row[3]) for row in rows]


_HANDLER_ORDER = {
    "notification_handler_id": handlers.c.id,
    "datetime": handlers.c.created_at,
    "last_datetime": handlers.c.last_delivered_at,
    "name": func.lower(handlers.c.name),
    "state": WORST_FIRST,
}


def handlers_page(connection: Connection, user_id: int, which: HandlerFilter, page: int, size: int) -> Page[HandlerRow]:
    chosen = select(*HANDLER).where(handlers.c.user_id == user_id, handlers.c.deleted_at.is_(None))
    if which.search:
        chosen = chosen.where(handlers.c.name.icontains(which.search, autoescape=True))
    if which.is_enabled is not None:
        chosen = chosen.where(handlers.c.is_enabled.is_(which.is_enabled))
    if which.type is not None:
        chosen = chosen.where(handlers.c.type == which.type)
    if which.state is not None:
        chosen = chosen.where(which.state == STATE)
    moment = handlers.c.last_delivered_at if which.datetime_field == "last_datetime" else handlers.c.created_at
    if which.datetime_start is not None:
        chosen = chosen.where(moment >= which.datetime_start)
    if which.datetime_end is not None:
        chosen = chosen.where(moment <= which.datetime_end)
    if which == HandlerFilter(order_by=which.order_by, descending=which.descending):
        total = total_of(connection, user_id, TOTAL_HANDLERS)
    else:
        total = connection.scalar(select(func.count()).select_from(chosen.subquery())) or 0
    order = _HANDLER_ORDER[which.order_by]
    ordered = chosen.order_by(*((order.desc(), handlers.c.id.desc()) if which.descending else (order, handlers.c.id)))
    rows = connection.execute(ordered.limit(size).offset((page - 1) * size))
    return Page([handler_of(row) for row in rows], total)
