"""Single values that are kept by name, in the table `meta`: `tocsin.ports.values`."""

from sqlalchemy import Connection, select

from tocsin.store.database import Database
from tocsin.store.statements import run, upsert
from tocsin.store.tables import meta

WRITE = upsert(meta, key=("name",), given=("value",))


class SqlValues:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, name: str) -> bytes | None:
        return await self._database.read(read, name)

    async def write(self, name: str, value: bytes) -> None:
        await self._database.write(write, name, value)


def read(connection: Connection, name: str) -> bytes | None:
    return connection.scalar(select(meta.c.value).where(meta.c.name == name))


def write(connection: Connection, name: str, value: bytes) -> None:
    """New, or in place of the one there was."""
    run(connection, WRITE, [(name, value)])
