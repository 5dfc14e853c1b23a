"""Keeping what was accepted: `tocsin.ports.intake`. The rows are written in accepting.py."""

import asyncio
from collections.abc import Callable

from sqlalchemy import Connection, select

from tocsin.clock import Micros
from tocsin.ports.intake import Accept, Accepted, Remembered
from tocsin.store.accepting import AcceptAll, answer_of
from tocsin.store.database import Database
from tocsin.store.tables import idempotency


class SqlIntake:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._writer = database.writer

    def accept(self, accept: Accept, committed: Callable[[list[Accepted]], None] | None = None) -> "asyncio.Future[list[Accepted]]":
        return self._writer.submit(accept, AcceptAll, committed)

    async def remembered(self, user_id: int, path: str, key: str, since: Micros, until: Micros) -> Remembered | None:
        return await self._database.read(remembered, user_id, path, key, since, until)


def remembered(connection: Connection, user_id: int, path: str, key: str, since: Micros, until: Micros) -> Remembered | None:
    is_it = (idempotency.c.user_id == user_id, idempotency.c.path == path, idempotency.c.key == key)
    row = connection.execute(select(idempotency).where(*is_it, idempotency.c.created_at.between(since, until))).first()
    if row is None:
        return None
    return Remembered(row.content, answer_of(row.answer))
