"""The audit log: `tocsin.ports.audit`. `record` is called by what changes something, within its transaction."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs
from sqlalchemy import ColumnElement, Connection, Row, Select, exists, or_, select, union_all

from tocsin import acting, clock
from tocsin.acting import SERVICE, Actor
from tocsin.ports.audit import NEW_FOR, Act, AuditFilter, Entry, News
from tocsin.store.database import Database
from tocsin.store.tables import audit, users

MAX_NAME = 256  # characters


class SqlAuditLog:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self, act: Act, owner: int | None = None, ref: int | None = None, name: str = "", detail: Mapping[str, object] | None = None
    ) -> None:
        await self._database.write(_append, acting.now(), act, owner, ref, name, detail or {})

    async def page(self, which: AuditFilter, limit: int) -> list[Entry]:
        return await self._database.look(entries, which, limit)

    async def news(self, after: int, acts: Sequence[Act], limit: int) -> list[News]:
        return await self._database.look(news, after, acts, limit)


def record(
    connection: Connection,
    act: Act,
    owner: int | None = None,
    ref: int | None = None,
    name: str = "",
    *,
    by: Actor | None = None,
    by_owner: bool = False,
    **detail: object,
) -> None:
    """`by`: None is the actor of this context; `by_owner`: the owner, who has only now shown who they are.

    `detail` holds no secret; what is None is left out of it.
    """
    actor = acting.now() if by is None else by
    if by_owner:
        actor = structs.replace(actor, user_id=owner)
    _append(connection, actor, act, owner, ref, name, {name: value for name, value in detail.items() if value is not None})


def _append(
    connection: Connection, actor: Actor, act: Act, owner: int | None, ref: int | None, name: str, detail: Mapping[str, object]
) -> None:
    row = {
        "at": clock.now(),
        "via": actor.via,
        "act": act.value,
        "user_id": actor.user_id,
        "who": actor.name if actor.user_id is None else _email(connection, actor.user_id),
        "key_id": actor.key_id,
        "address": actor.address,
        "owner_id": owner,
        "whose": "" if owner is None else _email(connection, owner),
        "ref": ref,
        "name": name[:MAX_NAME],
        "detail": json.dumps(detail, ensure_ascii=False),
    }
    connection.execute(audit.insert().values(row))


def _email(connection: Connection, user: int) -> str:
    return connection.scalar(select(users.c.email).where(users.c.id == user)) or ""


def entries(connection: Connection, which: AuditFilter, limit: int) -> list[Entry]:
    """The newest first."""
    found = connection.execute(_selected(which, limit).order_by(audit.c.id.desc()).limit(limit))
    return [_entry(row) for row in found]


def news(connection: Connection, after: int, acts: Sequence[Act], limit: int) -> list[News]:
    """The oldest first."""
    earlier = audit.alias()
    has_signed_in = exists().where(earlier.c.owner_id == audit.c.owner_id, earlier.c.act == Act.SIGNED_IN.value, earlier.c.id < audit.c.id)
    found = (
        select(audit, users.c.email, users.c.language, users.c.time_zone)
        .join(users, users.c.id == audit.c.owner_id)
        .where(audit.c.id > after, audit.c.act.in_([act.value for act in acts]), audit.c.via != SERVICE.via)
        .where(users.c.disabled_at.is_(None), or_(users.c.created_at < audit.c.at - NEW_FOR, has_signed_in))
    )
    rows = connection.execute(found.order_by(audit.c.id).limit(limit))
    return [News(_entry(row), row.email, row.language, row.time_zone) for row in rows]


def _selected(which: AuditFilter, limit: int) -> Select[Any]:
    conditions = _conditions(which)
    if which.concerns is None:
        return select(audit).where(*conditions)
    # Each half has an index of its own, and gives its newest only.
    halves = (
        select(audit.c.id).where(column == which.concerns, *conditions).order_by(audit.c.id.desc()).limit(limit).subquery()
        for column in (audit.c.user_id, audit.c.owner_id)
    )
    return select(audit).where(audit.c.id.in_(union_all(*(select(half.c.id) for half in halves))))


def _conditions(which: AuditFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if which.act:
        found.append(or_(audit.c.act == which.act, audit.c.act.startswith(f"{which.act}.", autoescape=True)))
    if which.via:
        found.append(audit.c.via == which.via)
    if which.user:
        found.append(or_(*(column.icontains(which.user, autoescape=True) for column in (audit.c.who, audit.c.whose))))
    if which.address:
        found.append(audit.c.address == which.address)
    if which.start is not None:
        found.append(audit.c.at >= which.start)
    if which.end is not None:
        found.append(audit.c.at <= which.end)
    if which.before is not None:
        found.append(audit.c.id < which.before)
    return found


def _entry(row: Row[Any]) -> Entry:
    return Entry(
        row.id,
        row.at,
        row.via,
        row.act,
        row.user_id,
        row.who,
        row.key_id,
        row.address,
        row.owner_id,
        row.whose,
        row.ref,
        row.name,
        json.loads(row.detail),
    )
