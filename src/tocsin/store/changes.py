"""What processes that share the store have changed: `tocsin.ports.changes`. It is noted in noting.py."""

from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from tocsin.ports.changes import Change
from tocsin.store.database import Database
from tocsin.store.shared_tables import changes


class SqlChanges:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(self) -> int:
        return await self._database.read(newest)

    async def after(self, change_id: int, limit: int) -> Sequence[Change]:
        return await self._database.read(after, change_id, limit)


def newest(connection: Connection) -> int:
    return connection.scalar(select(func.coalesce(func.max(changes.c.id), 0))) or 0


def after(connection: Connection, change_id: int, limit: int) -> list[Change]:
    columns = (changes.c.id, changes.c.what, changes.c.ref, changes.c.user_id)
    chosen = select(*columns).where(changes.c.id > change_id).order_by(changes.c.id).limit(limit)
    return [Change(*row) for row in connection.execute(chosen)]
