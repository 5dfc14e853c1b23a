"""Pauses that outlive the process which was asked for them: `tocsin.ports.pauses`."""

import contextlib
from collections.abc import Collection, Sequence

from sqlalchemy import Connection, or_, select

from tocsin.clock import Micros
from tocsin.model import Busy
from tocsin.ports.pauses import Pause
from tocsin.store.database import Database
from tocsin.store.noting import NEWS, WAIT_FOR_TURN
from tocsin.store.shared_tables import pauses
from tocsin.store.workers import SqlWorkers

_BEGIN = (
    "INSERT INTO pauses AS kept (key, until, partition)"
    " SELECT * FROM unnest(%s::text[], %s::bigint[], %s::smallint[]) ORDER BY 1"  # everybody in the same order, so nobody waits in a circle
    " ON CONFLICT (key) DO UPDATE SET until = greatest(kept.until, excluded.until)"
)
# It waits for no other process, whatever that holds.
_TIDY = "DELETE FROM pauses WHERE key IN (SELECT key FROM pauses WHERE until <= %s FOR UPDATE SKIP LOCKED)"
_NOTE = "INSERT INTO changes (what, at) VALUES ('pause', %s)"
_NOTIFY = "SELECT pg_notify(%s, '')"


class SqlPauses:
    """On the connections of the worker: groups of the writer must not wait for keys that another process writes."""

    def __init__(self, database: Database, workers: SqlWorkers) -> None:
        self._database = database
        self._workers = workers

    async def begin(self, pauses: Sequence[Pause], now: Micros) -> None:
        values = ([one.key for one in pauses], [one.until for one in pauses], [one.partition for one in pauses])
        has_news = any(one.partition is None for one in pauses)
        news = [(WAIT_FOR_TURN, ()), (_NOTE, (now,))] if has_news else []  # last, and until the commit, as in noting.py
        await self._workers.firm.run(lambda session: session.durably((_BEGIN, values), (_TIDY, (now,)), *news))
        if has_news:
            # After the commit: it waits for disk and standby, and NOTIFY takes a lock for which all that say anything would wait as long.
            with contextlib.suppress(Busy):  # the next beat of the others shows that there is news
                await self._workers.quick.run(lambda session: session.rows(_NOTIFY, (NEWS,)))

    async def of(self, partitions: Collection[int], now: Micros) -> Sequence[Pause]:
        return await self._database.read(lasting, partitions, now)


def lasting(connection: Connection, partitions: Collection[int], now: Micros) -> list[Pause]:
    theirs = or_(pauses.c.partition.is_(None), pauses.c.partition.in_(partitions))
    rows = connection.execute(select(pauses.c.key, pauses.c.until, pauses.c.partition).where(pauses.c.until > now, theirs))
    return [Pause(*row) for row in rows]
