"""What users have used of their quotas: `tocsin.ports.usage`."""

from collections.abc import Sequence

from sqlalchemy import Column, ColumnElement, Connection, LargeBinary, cast, func, or_, select

from tocsin import clock
from tocsin.model import Status
from tocsin.ports.usage import ROW_BYTES, Owned, Used
from tocsin.store.database import Database
from tocsin.store.rows import total_of
from tocsin.store.statements import run, upsert
from tocsin.store.tables import TOTAL_HANDLERS, TOTAL_NOTIFICATIONS, keys, notifications, usage, users

ADD = upsert(usage, key=("user_id", "day", "what", "mark"), adds=("n",))


class SqlUsageRows:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, day: int) -> list[Used]:
        return await self._database.read(of, day)

    async def add(self, used: Sequence[Used]) -> None:
        await self._database.write(add, used)

    async def owned(self, user_id: int) -> Owned:
        return await self._database.look(owned, user_id)

    async def is_admin(self, user_id: int) -> bool:
        return await self._database.read(is_admin, user_id)


def of(connection: Connection, day: int) -> list[Used]:
    return [Used(row.user_id, row.day, row.what, row.mark, row.n) for row in connection.execute(select(usage).where(usage.c.day == day))]


def add(connection: Connection, used: Sequence[Used]) -> None:
    """In the order of the keys, so that two writers do not wait for each other in a circle."""
    run(connection, ADD, sorted((one.user_id, one.day, one.what, one.mark, one.n) for one in used))


def owned(connection: Connection, user_id: int) -> Owned:
    """Their texts are measured one by one, which takes a while where they are many."""
    texts = func.sum(_bytes(connection, notifications.c.text) + _bytes(connection, notifications.c.title))
    more = func.sum(_bytes(connection, notifications.c.fields) + _bytes(connection, notifications.c.url))
    measured = connection.execute(select(texts, more).where(notifications.c.user_id == user_id)).one()
    rows = total_of(connection, user_id, TOTAL_NOTIFICATIONS, *map(int, Status))
    own = (keys.c.user_id == user_id, keys.c.revoked_at.is_(None), or_(keys.c.expires_at.is_(None), keys.c.expires_at > clock.now()))
    return Owned(
        total_of(connection, user_id, TOTAL_HANDLERS),
        connection.scalar(select(func.count()).select_from(keys).where(*own)) or 0,
        sum(int(one or 0) for one in measured) + rows * ROW_BYTES,
    )


def _bytes(connection: Connection, column: Column[str]) -> ColumnElement[int]:
    return func.octet_length(column) if connection.dialect.name == "postgresql" else func.length(cast(column, LargeBinary))


def is_admin(connection: Connection, user_id: int) -> bool:
    return bool(connection.scalar(select(users.c.is_admin).where(users.c.id == user_id)))
