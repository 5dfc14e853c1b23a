"""How the store itself fares: `tocsin.ports.vitals`."""

from sqlalchemy import Connection, func, select

from tocsin import clock
from tocsin.model import Status
from tocsin.store import values
from tocsin.store.database import Database
from tocsin.store.tables import totals

ALIVE_AT = "alive_at"


class SqlVitals:
    """Nobody waits for what is measured, and it has no need of the flow's threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def is_alive(self) -> bool:
        return self._database.is_alive

    @property
    def trouble(self) -> str | None:
        return self._database.trouble

    @property
    def writes_waiting(self) -> int:
        return self._database.writes_waiting

    async def backlog(self) -> int:
        return await self._database.look(backlog)

    async def size(self) -> int:
        return await self._database.size()

    async def unused(self) -> int:
        return await self._database.unused()


def backlog(connection: Connection) -> int:
    return int(connection.scalar(select(func.coalesce(func.sum(totals.c.n), 0)).where(totals.c.what == int(Status.PENDING))) or 0)


def note_alive(connection: Connection) -> None:
    """A small write, which shows that the store can be written; kept is when it was."""
    values.write(connection, ALIVE_AT, b"%d" % clock.now())
