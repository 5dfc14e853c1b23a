"""What workers have begun: `tocsin.ports.claims`. One statement claims a batch; the same statement says which of it may be sent."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import BigInteger, Connection, Integer, column, func, select, true

from tocsin.clock import Micros
from tocsin.model import Delivery
from tocsin.ports.claims import Claimed
from tocsin.store.database import Database
from tocsin.store.dialects.quick import Quick, Session
from tocsin.store.rows import delivery_of
from tocsin.store.shared_tables import claims, workers
from tocsin.store.tables import IS_PENDING, attempts, deliveries, handlers

# Rows are found by their keys: with few rows, or without statistics, the server would look through whole tables.
_BY_KEY = b"; SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off"
_CLAIM = (
    "WITH me AS (SELECT id FROM workers WHERE id = %s FOR KEY SHARE),"
    " may AS (SELECT v.id, v.handler, v.number, v.due"
    " FROM me CROSS JOIN unnest(%s::bigint[], %s::bigint[], %s::int[], %s::bigint[]) AS v(id, handler, number, due)"
    f" JOIN deliveries d ON d.id = v.id AND d.{IS_PENDING} AND d.attempt_count + 1 = v.number AND d.due_at = v.due"
    " JOIN handlers h ON h.id = d.handler_id AND h.partition = d.partition"
    " JOIN partitions p ON p.partition = d.partition AND p.owner = me.id),"
    " noted AS (INSERT INTO claims (worker, at, ids, handlers, numbers, due)"
    " SELECT %s, %s, array_agg(id), array_agg(handler), array_agg(number), array_agg(due) FROM may HAVING count(*) > 0)"
    " SELECT ARRAY(SELECT id FROM may) FROM me"
)


class SqlClaims:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._quick = Quick(database.engine, "claims", _BY_KEY)

    async def claim(self, worker_id: int, at: Micros, deliveries: Sequence[Delivery]) -> Collection[int] | None:
        values = (
            worker_id,
            [one.id for one in deliveries],
            [one.handler_id for one in deliveries],
            [one.attempt_count + 1 for one in deliveries],
            [one.due_at for one in deliveries],
            worker_id,
            at,
        )

        def claim(session: Session) -> set[int] | None:
            rows = session.rows(_CLAIM, values)
            return set(rows[0][0]) if rows else None

        return await self._quick.run(claim)

    async def of(self, partitions: Collection[int], since: Micros, types: Collection[str] | None = None) -> Sequence[Claimed]:
        return await self._database.read(claimed, partitions, since, types)

    async def close(self) -> None:
        await self._quick.close()


def claimed(connection: Connection, partitions: Collection[int], since: Micros, types: Collection[str] | None) -> list[Claimed]:
    each = (
        func.unnest(claims.c.ids, claims.c.handlers, claims.c.numbers)
        .table_valued(column("id", BigInteger), column("handler", BigInteger), column("number", Integer), name="one")
        .render_derived()
    )
    theirs = select(handlers.c.id).where(handlers.c.partition.in_(partitions))
    if types is not None:
        theirs = theirs.where(handlers.c.type.in_(types))
    is_dead = claims.c.worker.not_in(select(workers.c.id))
    chosen = (
        select(deliveries, each.c.number, claims.c.at, attempts.c.at.label("started_at"), is_dead.label("is_dead"))
        .select_from(claims)
        .join(each, true())
        .join(deliveries, deliveries.c.id == each.c.id)
        .outerjoin(attempts, (attempts.c.delivery_id == each.c.id) & (attempts.c.number == each.c.number))
        .where(claims.c.at >= since, each.c.handler.in_(theirs))
        .order_by(claims.c.id)
    )
    return [_claimed(row) for row in connection.execute(chosen)]


def _claimed(row: Any) -> Claimed:
    is_open = row.is_dead and row.started_at is None and row.attempt_count + 1 == row.number
    return Claimed(delivery_of(row), row.number, row.at, is_open, row.started_at)
