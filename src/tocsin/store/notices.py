"""Whose owners are still to be told that the service switched a handler off: `tocsin.ports.notices`.

Each such handler has a row of `meta`, `untold:{user}:{handler}`, written in the commit that switches it off and deleted in the one that
keeps the notice: so whatever happens in between, the owner is told. `told:{user}` holds when the last notices went.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, delete, or_, select

from tocsin.clock import Micros
from tocsin.model import Reason
from tocsin.ports.handlers import HandlerEvent
from tocsin.ports.intake import Accepted
from tocsin.ports.notices import MAX_READ, Telling, Untold
from tocsin.store import values
from tocsin.store.accepting import AcceptAll
from tocsin.store.database import Database
from tocsin.store.statements import chunks, wait_for_turn
from tocsin.store.tables import handlers, meta, notifications, users

MAX_CANDIDATES = 50


class SqlPendingNotices:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def users(self) -> list[int]:
        return await self._database.read(users_to_tell)

    async def untold(self, user_id: int) -> tuple[list[Untold], list[Micros]]:
        return await self._database.read(untold_of, user_id)

    async def language(self, user_id: int) -> str | None:
        return await self._database.read(language, user_id)

    async def candidates(self, user_id: int) -> list[tuple[int, Micros | None]]:
        return await self._database.read(candidates, user_id)

    async def tell(self, telling: Telling, committed: Callable[[list[Accepted]], None]) -> bool:
        def run(connection: Connection) -> list[Accepted] | None:
            return tell(connection, telling)

        def told(accepted: list[Accepted] | None) -> None:
            if accepted:
                committed(accepted)

        return await self._database.writer.submit(run, committed=told) is not None


def record(connection: Connection, user_id: int, handler_id: int, event: HandlerEvent, notification_id: int | None = None) -> None:
    """`notification_id`: what the handler did not take, if that is why."""
    kind = connection.scalar(select(notifications.c.kind).where(notifications.c.id == notification_id)) if notification_id else None
    reason = event.reason or Reason.GONE
    untold = Untold(user_id, handler_id, event.at, reason, event.detail, kind == "handler.disabled", event.what == "unsubscribed")
    values.write(connection, f"untold:{user_id}:{handler_id}", msgspec.json.encode(untold))


def users_to_tell(connection: Connection) -> list[int]:
    names = connection.scalars(select(meta.c.name).where(*_begins("untold:")))
    return sorted({int(name.split(":")[1]) for name in names})


def untold_of(connection: Connection, user_id: int) -> tuple[list[Untold], list[Micros]]:
    """The handlers that the owner does not know of, oldest first, and when the latest notices went."""
    rows = connection.scalars(select(meta.c.value).where(*_begins(f"untold:{user_id}:")).limit(MAX_READ))
    found = sorted((msgspec.json.decode(row, type=Untold) for row in rows), key=lambda one: (one.at, one.handler_id))
    told = values.read(connection, f"told:{user_id}")
    return found, msgspec.json.decode(told, type=list[Micros]) if told else []


def language(connection: Connection, user_id: int) -> str | None:
    return connection.scalar(select(users.c.language).where(users.c.id == user_id))


def candidates(connection: Connection, user_id: int) -> list[tuple[int, Micros | None]]:
    """Enabled handlers that a notice may go through, and when they last took something: likely ones first."""
    rows = connection.execute(
        select(handlers.c.id, handlers.c.last_delivered_at)
        .where(handlers.c.user_id == user_id, handlers.c.deleted_at.is_(None), handlers.c.is_enabled)
        .order_by(handlers.c.failures > 0, handlers.c.last_delivered_at.desc().nulls_last(), handlers.c.id)
        .limit(MAX_CANDIDATES)
    )
    return [(row[0], row[1]) for row in rows]


def tell(connection: Connection, telling: Telling) -> list[Accepted] | None:
    """Keep the notice, and that its handlers have been told of. What it became; None: somebody else was faster."""
    wait_for_turn(connection, f"notices of {telling.user_id}")
    names = [f"untold:{telling.user_id}:{handler_id}" for handler_id in telling.handler_ids]
    taken: list[Any] = []
    for chunk in chunks(names):
        taken += connection.execute(delete(meta).where(meta.c.name.in_(chunk)).returning(meta.c.name, meta.c.value)).all()
    told = values.read(connection, f"told:{telling.user_id}")
    if len(taken) < len(names) or (msgspec.json.decode(told, type=tuple[Micros, ...]) if told else ()) != telling.told_before:
        for name, value in taken:
            values.write(connection, name, value)
        return None
    if telling.notice is None:
        return []
    values.write(connection, f"told:{telling.user_id}", msgspec.json.encode(telling.told_at))
    return AcceptAll.run_all(connection, [telling.notice])[0]


def forget(connection: Connection, user_id: int) -> None:
    """The user is being deleted: nobody is to be told any more."""
    connection.execute(delete(meta).where(or_(and_(*_begins(f"untold:{user_id}:")), meta.c.name == f"told:{user_id}")))


def _begins(prefix: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return meta.c.name >= prefix, meta.c.name < prefix[:-1] + chr(ord(prefix[-1]) + 1)
