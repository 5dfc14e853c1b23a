"""What workers have begun: `tocsin.ports.claims`. One statement claims a batch; the same statement says which of it may be sent."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, Connection, and_, column, false, func, or_, select, text, true
from sqlalchemy.dialects.postgresql import distinct_on

from tocsin.clock import MINUTE, Micros
from tocsin.model import Delivery, Status
from tocsin.ports.claims import Claimed, Noted
from tocsin.ports.ledger import UnderWay
from tocsin.store.database import Database
from tocsin.store.dialects.arrays import numbers
from tocsin.store.dialects.quick import Quick, Session
from tocsin.store.rows import delivery_of
from tocsin.store.shared_tables import claims, workers
from tocsin.store.tables import IS_PENDING, attempts, deliveries, handlers

LAST_CLAIMS: Micros = 10 * MINUTE
_CLAIM = (
    "WITH me AS (SELECT id FROM workers WHERE id = %s FOR KEY SHARE),"
    " may AS (SELECT v.id, v.handler, v.number, v.due, v.replays"
    " FROM me CROSS JOIN unnest(%s::bigint[], %s::bigint[], %s::int[], %s::bigint[], %s::int[]) AS v(id, handler, number, due, replays)"
    f" JOIN deliveries d ON d.id = v.id AND +d.{IS_PENDING}"  # `+`: not by the index of all that is pending
    " AND d.attempt_count + 1 = v.number AND d.due_at = v.due AND d.replays = v.replays"
    " JOIN handlers h ON h.id = d.handler_id AND h.partition = d.partition"
    " JOIN partitions p ON p.partition = d.partition AND p.owner = me.id),"
    " noted AS (INSERT INTO claims (worker, at, ids, handlers, numbers, due, replays)"
    " SELECT %s, %s, array_agg(id), array_agg(handler), array_agg(number), array_agg(due), array_agg(replays) FROM may HAVING count(*) > 0)"
    " SELECT ARRAY(SELECT id FROM may) FROM me"
)
_NOTE = (
    "WITH me AS (SELECT id FROM workers WHERE id = %s FOR KEY SHARE)"
    " INSERT INTO claims (worker, at, ids, handlers, numbers, due, partition, paces)"
    " SELECT me.id, %s, '{}', '{}', '{}', '{}', p.partition, %s FROM me JOIN partitions p ON p.owner = me.id AND p.partition = %s"
    " RETURNING id"
)
_LAST_OF_WORKER = f"c.worker = :worker AND c.at >= (SELECT max(at) FROM claims WHERE worker = :worker) - {LAST_CLAIMS}"
# Outcomes are never forgotten here: they count in windows. What was claimed long before the end had gone out, or was let go.
_LET_GO = text(
    "WITH found AS (SELECT c.id AS claim, u.*, EXISTS (SELECT FROM attempts a WHERE a.delivery_id = u.id AND a.number = u.number)"
    " OR (u.id, u.number) IN (SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:numbers AS bigint[]))) AS is_kept FROM claims c"
    " CROSS JOIN LATERAL unnest(c.ids, c.handlers, c.numbers, c.due, c.replays) WITH ORDINALITY"
    " AS u(id, handler, number, due, lives, place)"
    f" WHERE {_LAST_OF_WORKER}),"
    " kept AS (SELECT claim, array_agg(id ORDER BY place) FILTER (WHERE is_kept) AS ids,"
    " array_agg(handler ORDER BY place) FILTER (WHERE is_kept) AS handlers,"
    " array_agg(number ORDER BY place) FILTER (WHERE is_kept) AS numbers, array_agg(due ORDER BY place) FILTER (WHERE is_kept) AS due,"
    " array_agg(lives ORDER BY place) FILTER (WHERE is_kept) AS replays FROM found GROUP BY claim HAVING NOT bool_and(is_kept))"
    " UPDATE claims c SET ids = coalesce(k.ids, '{}'), handlers = coalesce(k.handlers, '{}'), numbers = coalesce(k.numbers, '{}'),"
    " due = coalesce(k.due, '{}'), replays = coalesce(k.replays, '{}') FROM kept k WHERE c.id = k.claim"
)

# Claims do not wait for the disk, so a server that crashes loses the last ones. While the worker lives, it knows better; if it has died,
# too, its ledger does.
_CLAIM_AGAIN = text(
    "WITH sent AS (SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:numbers AS bigint[]), CAST(:replays AS bigint[]),"
    " CAST(:at AS bigint[])) AS u(id, number, replays, at)),"
    " lost AS (SELECT id, number FROM sent EXCEPT SELECT u.id, u.number FROM claims c"
    f" CROSS JOIN LATERAL unnest(c.ids, c.numbers) AS u(id, number) WHERE {_LAST_OF_WORKER})"
    " INSERT INTO claims (worker, at, ids, handlers, numbers, due, replays)"
    " SELECT me.id, s.at, ARRAY[d.id], ARRAY[d.handler_id], ARRAY[s.number], ARRAY[d.due_at], ARRAY[s.replays]"
    " FROM lost JOIN sent s USING (id, number) JOIN workers me ON me.id = :worker"
    " JOIN deliveries d ON d.id = s.id AND d.attempt_count + 1 = s.number AND d.replays >= s.replays"
)


class SqlClaims:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._quick = Quick(database.engine, "claims")

    async def claim(self, worker_id: int, at: Micros, deliveries: Sequence[Delivery]) -> Collection[int] | None:
        values = (
            worker_id,
            numbers([one.id for one in deliveries]),
            numbers([one.handler_id for one in deliveries]),
            numbers([one.attempt_count + 1 for one in deliveries]),
            numbers([one.due_at for one in deliveries]),
            numbers([one.replays for one in deliveries]),
            worker_id,
            at,
        )

        def claim(session: Session) -> set[int] | None:
            rows = session.rows(_CLAIM, values)
            return set(rows[0][0]) if rows else None

        return await self._quick.run(claim)

    async def correct(self, worker_id: int, sent: Collection[UnderWay]) -> None:
        await self._database.write(correct, worker_id, sent)

    async def note(self, worker_id: int, until: Micros, partition: int, paces: bytes) -> bool:
        return await self._quick.run(lambda session: bool(session.rows(_NOTE, (worker_id, until, paces, partition))))

    async def noted(self, partitions: Collection[int], since: Micros) -> Sequence[Noted]:
        return await self._database.read(noted, partitions, since)

    async def of(self, partitions: Collection[int], since: Mapping[str, Micros]) -> Sequence[Claimed]:
        return await self._database.read(claimed, partitions, since)

    async def close(self) -> None:
        await self._quick.close()


def correct(connection: Connection, worker_id: int, sent: Collection[UnderWay]) -> None:
    values = {"worker": worker_id, "ids": [one.delivery_id for one in sent], "numbers": [one.number for one in sent]}
    connection.execute(_LET_GO, values)
    connection.execute(_CLAIM_AGAIN, {**values, "replays": [one.replays for one in sent], "at": [one.at for one in sent]})


def claimed(connection: Connection, partitions: Collection[int], since: Mapping[str, Micros]) -> list[Claimed]:
    """Those of other handlers are left out before the rows of their deliveries are looked up: there may be many."""
    each = (
        func.unnest(claims.c.ids, claims.c.handlers, claims.c.numbers, claims.c.due, claims.c.replays)
        .table_valued(*(column(name, BigInteger) for name in ("id", "handler", "number", "due", "lives")))
        .render_derived("one")
    )
    is_dead = claims.c.worker.not_in(select(workers.c.id))
    is_recent = or_(false(), *(and_(handlers.c.type == one, claims.c.at >= at) for one, at in since.items()))
    last = (
        select(each.c.id, each.c.number, each.c.due, each.c.lives, claims.c.at, claims.c.id.label("claim"))
        .add_columns(is_dead.label("is_dead"), is_recent.label("is_recent"))
        .ext(distinct_on(each.c.id, each.c.number))
        .select_from(claims)
        .join(each, true())
        .join(handlers, handlers.c.id == each.c.handler)
        .where(or_(is_recent, is_dead), handlers.c.partition.in_(partitions))
        .order_by(each.c.id, each.c.number, claims.c.id.desc())
        .subquery()
    )
    tried = (attempts.c.delivery_id == last.c.id) & (attempts.c.number == last.c.number)
    may_be_open = and_(attempts.c.at.is_(None), deliveries.c.attempt_count + 1 == last.c.number)
    chosen = (
        select(deliveries, last.c.number, last.c.at, last.c.due, last.c.lives, attempts.c.at.label("started_at"), last.c.is_dead)
        .select_from(last)
        .join(deliveries, deliveries.c.id == last.c.id)
        .outerjoin(attempts, tried)
        .where(or_(last.c.is_recent, may_be_open))
        .order_by(last.c.claim, last.c.id)
    )
    return [_claimed(row) for row in connection.execute(chosen)]


def _claimed(row: Any) -> Claimed:
    delivery = delivery_of(row)
    lives = delivery.replays if row.lives is None else row.lives
    is_due = delivery.status is not Status.PENDING or delivery.due_at == row.due or lives < delivery.replays
    is_open = row.is_dead and row.started_at is None and delivery.attempt_count + 1 == row.number and is_due
    return Claimed(delivery, row.number, row.at, is_open, row.started_at, lives)


def noted(connection: Connection, partitions: Collection[int], since: Micros) -> list[Noted]:
    chosen = select(claims.c.at, claims.c.paces).where(claims.c.at >= since, claims.c.partition.in_(partitions))
    return [Noted(*row) for row in connection.execute(chosen.order_by(claims.c.id))]
