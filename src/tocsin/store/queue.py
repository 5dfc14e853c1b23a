"""What is due and what came of it: `tocsin.ports.queue`. Reads are short, so that none holds up a delivery."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, delete, exists, func, select, text, update

from tocsin import clock
from tocsin.clock import DAY, Micros
from tocsin.model import Delivery, Reason, Status
from tocsin.ports.queue import Due, PostFacts, Recent, Settlement, Waiting, Wanted
from tocsin.store.database import Database
from tocsin.store.due import due, named, waiting
from tocsin.store.rows import PENDING, STILL_PENDING
from tocsin.store.settling import SettleAll
from tocsin.store.statements import chunks, wait_for_turn
from tocsin.store.tables import IS_PENDING, deliveries, handlers, posts
from tocsin.store.totals import Totals

T = TypeVar("T")
MAX_MOVED = 10_000  # deliveries that move to another partition in one write


class SqlQueue:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._writer = database.writer

    async def waiting_handlers(self) -> list[tuple[int, int, Micros]]:
        return await self._database.read(waiting_handlers)

    async def due(self, wanted: Mapping[int, Wanted], now: Micros) -> dict[int, Due]:
        return await self._database.glance(due, wanted, now)

    async def waiting(self, delivery_ids: Sequence[int]) -> list[Waiting]:
        return await self._database.glance(waiting, delivery_ids)

    def settle(self, settlement: Settlement, ticket: T, done: Callable[[Sequence[T], Sequence[bool | Exception]], None]) -> None:
        self._writer.submit_then(settlement, SettleAll, done, ticket)

    async def posted(self, key: str, text_hash: bytes, delivery_id: int, at: Micros, limit: int) -> PostFacts:
        return await self._database.write(posted, key, text_hash, delivery_id, at, limit)

    async def end_pending(self, handler_id: int, status: Status, reason: Reason, limit: int, error: str | None = None) -> int:
        return await self._database.write(end_pending, handler_id, status, reason, limit, error)

    async def stopped_handlers(self) -> list[tuple[int, Status, Reason]]:
        return await self._database.read(stopped_handlers)

    async def named(self, delivery_ids: Sequence[int]) -> list[Delivery]:
        return await self._database.glance(named, delivery_ids)

    async def recent(self, since: Micros, types: Sequence[str], limit: int) -> list[Recent]:
        return await self._database.read(recent, since, types, limit)


# A loose index scan: one step per handler, not per row (https://wiki.postgresql.org/wiki/Loose_indexscan).
_WAITING_HANDLERS = text(
    "WITH RECURSIVE lane(handler_id) AS ("
    f" SELECT min(handler_id) FROM deliveries WHERE {IS_PENDING}"
    f" UNION ALL SELECT (SELECT min(handler_id) FROM deliveries WHERE {IS_PENDING} AND handler_id > lane.handler_id)"
    " FROM lane WHERE lane.handler_id IS NOT NULL)"
    " SELECT lane.handler_id, handlers.user_id,"
    f" (SELECT min(due_at) FROM deliveries WHERE {IS_PENDING} AND handler_id = lane.handler_id)"
    " FROM lane JOIN handlers ON handlers.id = lane.handler_id"
)


def waiting_handlers(connection: Connection) -> list[tuple[int, int, Micros]]:
    return [(row[0], row[1], row[2]) for row in connection.execute(_WAITING_HANDLERS)]


def recent(connection: Connection, since: Micros, types: Sequence[str], limit: int) -> list[Recent]:
    rows: dict[int, Recent] = {}
    newest = select(func.coalesce(func.max(deliveries.c.id), 0)).scalar_subquery()
    of_types = select(handlers.c.id).where(handlers.c.type.in_(types))
    attempts = select(deliveries.c.handler_id, deliveries.c.last_attempt_at).where(
        deliveries.c.id > newest - limit, deliveries.c.last_attempt_at >= since, deliveries.c.handler_id.in_(of_types)
    )
    for handler_id, at in connection.execute(attempts):
        rows.setdefault(handler_id, Recent(handler_id)).attempts.append(at)
    throttled = select(deliveries.c.handler_id, func.max(deliveries.c.due_at)).where(PENDING, deliveries.c.throttles > 0)
    for handler_id, until in connection.execute(throttled.group_by(deliveries.c.handler_id)):
        rows.setdefault(handler_id, Recent(handler_id)).throttled_until = until
    return list(rows.values())


def rehome(connection: Connection, handler_id: int, to: int, before: int | None = None) -> bool:
    """Bring what waits for a handler, in a partition or in any, to another, in the order of the ids, as all others write deliveries.
    Whether that was all."""
    here = deliveries.c.partition != to if before is None else deliveries.c.partition == before
    some = (
        select(deliveries.c.id)
        .where(PENDING, deliveries.c.handler_id == handler_id, deliveries.c.partition != to, here)
        .order_by(deliveries.c.id)
        .limit(MAX_MOVED)
        .with_for_update()
    )
    moved = connection.execute(update(deliveries).where(deliveries.c.id.in_(some)).values(partition=to))
    return moved.rowcount < MAX_MOVED


def stopped_handlers(connection: Connection) -> list[tuple[int, Status, Reason]]:
    waiting = [row[0] for row in connection.execute(_WAITING_HANDLERS)]
    found: list[tuple[int, Status, Reason]] = []
    for chunk in chunks(waiting):
        rows = connection.execute(
            select(handlers.c.id, handlers.c.deleted_at, handlers.c.disabled_reason).where(
                handlers.c.id.in_(chunk), handlers.c.is_enabled.is_(False)
            )
        )
        for handler_id, deleted_at, disabled_reason in rows:
            if deleted_at is not None:
                found.append((handler_id, Status.CANCELLED, Reason.HANDLER_DELETED))
            elif disabled_reason is not None:
                found.append((handler_id, Status.FAILED, Reason.HANDLER_DISABLED))
            else:
                found.append((handler_id, Status.SKIPPED, Reason.HANDLER_PAUSED))
    return found


def end_pending(connection: Connection, handler_id: int, status: Status, reason: Reason, limit: int, error: str | None = None) -> int:
    totals = Totals()
    ended = end_of_handler(connection, totals, handler_id, status, reason, limit, error)
    totals.write(connection)
    return ended


def end_of_handler(
    connection: Connection, totals: Totals, handler_id: int, status: Status, reason: Reason, limit: int, error: str | None = None
) -> int:
    some = select(deliveries.c.id).where(PENDING, deliveries.c.handler_id == handler_id).limit(limit)
    return len(end(connection, totals, deliveries.c.id.in_(some), status, reason, error))


def end(
    connection: Connection, totals: Totals, which: ColumnElement[bool], status: Status, reason: Reason, error: str | None = None
) -> list[int]:
    """End those that are pending without an attempt; their ids. `totals` are written by the caller, once all deliveries are locked.

    `error`: their last error, which otherwise stays as it was.
    """
    changes: dict[str, Any] = {"due_at": clock.now()}  # when it ended, for retention: there is no attempt to go by
    if error is not None:
        changes["last_error"] = error
    ended = connection.execute(
        update(deliveries)
        .where(STILL_PENDING, which)
        .values(status=int(status), last_reason=reason.value, **changes)
        .returning(deliveries.c.id, deliveries.c.user_id)
    ).all()
    for row in ended:
        totals[row.user_id, Status.PENDING] -= 1
        totals[row.user_id, status] += 1
    return sorted(row.id for row in ended)


_POST = text(  # if the others leave room for it
    "INSERT INTO posts (key, delivery_id, text_hash, at) SELECT :key, :delivery_id, :text_hash, :at"
    " WHERE (SELECT count(*) FROM posts WHERE key = :key AND at > :since AND at <= :until AND delivery_id <> :delivery_id) < :limit"
    " ON CONFLICT (key, delivery_id) DO UPDATE SET text_hash = excluded.text_hash, at = excluded.at RETURNING delivery_id"
)


def posted(connection: Connection, key: str, text_hash: bytes, delivery_id: int, at: Micros, limit: int) -> PostFacts:
    wait_for_turn(connection, f"posts of {key}")
    # At most a day ahead: what a clock noted that was years ahead would use up the budget for years.
    since, until = at - DAY, at + DAY
    post = {"key": key, "delivery_id": delivery_id, "text_hash": text_hash, "at": at, "since": since, "until": until, "limit": limit}
    if connection.execute(_POST, post).first() is None:
        return PostFacts(over_budget=True, repeated=False)
    earlier = (posts.c.at > since, posts.c.at <= until, posts.c.text_hash == text_hash, posts.c.delivery_id < delivery_id)
    repeated = connection.scalar(select(exists().where(posts.c.key == key, *earlier)))
    connection.execute(delete(posts).where(posts.c.key == key, posts.c.at <= since))
    return PostFacts(over_budget=False, repeated=bool(repeated))
