"""What is due and what came of it: `tocsin.ports.queue`. Reads are short, so that none holds up a delivery."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, TextClause, bindparam, delete, exists, func, select, text, true, update

from tocsin import clock
from tocsin.clock import DAY, Micros
from tocsin.model import Delivery, Notification, Reason, Status
from tocsin.ports.queue import BACKLOG_AFTER, Due, PostFacts, Recent, Settlement, Waiting, Wanted
from tocsin.store.database import Database
from tocsin.store.rows import NOTIFICATION, PENDING, STILL_PENDING, delivery_of, notification_of
from tocsin.store.settling import SettleAll
from tocsin.store.statements import chunks, wait_for_turn
from tocsin.store.tables import IS_PENDING, deliveries, handlers, notifications, posts
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
        return await self._database.read(due, wanted, now)

    async def waiting(self, delivery_ids: Sequence[int]) -> list[Waiting]:
        return await self._database.read(waiting, delivery_ids)

    def settle(self, settlement: Settlement, ticket: T, done: Callable[[Sequence[T], Sequence[bool | Exception]], None]) -> None:
        self._writer.submit_then(settlement, SettleAll, done, ticket)

    async def posted(self, key: str, text_hash: bytes, delivery_id: int, at: Micros, limit: int) -> PostFacts:
        return await self._database.write(posted, key, text_hash, delivery_id, at, limit)

    async def end_pending(self, handler_id: int, status: Status, reason: Reason, limit: int, error: str | None = None) -> int:
        return await self._database.write(end_pending, handler_id, status, reason, limit, error)

    async def stopped_handlers(self) -> list[tuple[int, Status, Reason]]:
        return await self._database.read(stopped_handlers)

    async def named(self, delivery_ids: Sequence[int]) -> list[Delivery]:
        return await self._database.read(named, delivery_ids)

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


_FIRST = text(
    f"SELECT id, due_at FROM deliveries WHERE {IS_PENDING} AND handler_id = :handler_id ORDER BY due_at, id LIMIT :limit"
)  # not yet due ones too: the first of them is the next
_FIRST_CRITICAL = (
    select(deliveries.c.id)
    .where(PENDING, deliveries.c.is_critical == true(), deliveries.c.handler_id == bindparam("handler_id"))
    .where(deliveries.c.due_at <= bindparam("until"))
    .order_by(deliveries.c.due_at, deliveries.c.id)
    .limit(bindparam("limit"))
)
_TEXTS_AT_ONCE = 100  # each of 64 KB at most
MAX_CHARACTERS = 4 << 20  # of texts in one read, beyond the first of each handler


def due(connection: Connection, wanted: Mapping[int, Wanted], now: Micros) -> dict[int, Due]:
    ids: dict[int, list[int]] = {}
    later: dict[int, Micros | None] = {}
    full: set[int] = set()
    for handler_id, want in wanted.items():
        some, later[handler_id] = _first(connection, handler_id, now, want.limit)
        ids[handler_id] = [delivery_id for delivery_id in some if delivery_id not in want.known]
        if len(some) >= want.limit:
            full.add(handler_id)
    found = {row.id: row for row in _deliveries(connection, [one for some in ids.values() for one in some], STILL_PENDING)}
    urgent_until = now - BACKLOG_AFTER
    lanes = {handler_id: [found[delivery_id] for delivery_id in some if delivery_id in found] for handler_id, some in ids.items()}
    for rows in lanes.values():
        rows.sort(key=lambda row: not (row.is_critical and row.due_at <= urgent_until))
    firsts = [rows[0].notification_id for rows in lanes.values() if rows]
    texts = _texts(connection, firsts, [row.notification_id for rows in lanes.values() for row in rows], MAX_CHARACTERS)
    result: dict[int, Due] = {}
    for handler_id, rows in lanes.items():
        read = list(itertools.takewhile(lambda row: row.notification_id in texts, rows))
        jobs = [Waiting(delivery_of(row), texts[row.notification_id]) for row in read]
        result[handler_id] = Due(jobs, later[handler_id], handler_id in full or len(read) < len(rows))
    return result


def _deliveries(connection: Connection, delivery_ids: Sequence[int], *where: ColumnElement[bool] | TextClause) -> Iterator[Row[Any]]:
    for chunk in chunks(delivery_ids):
        yield from connection.execute(select(deliveries).where(*where, deliveries.c.id.in_(chunk)))


def _texts(connection: Connection, firsts: Sequence[int], others: Sequence[int], most: float) -> dict[int, Notification]:
    """Notifications by id, each in memory once however many deliveries it has: `firsts`, and of the others what `most` characters hold."""
    found: dict[int, Notification] = {}
    size = 0
    wanted = list(dict.fromkeys([*firsts, *others]))
    for start in range(0, len(wanted), _TEXTS_AT_ONCE):
        if size > most and start >= len(firsts):
            break
        some = wanted[start : start + _TEXTS_AT_ONCE]
        for row in connection.execute(select(*NOTIFICATION).where(notifications.c.id.in_(some))):
            found[row.n_id] = notification_of(row)
            size += len(row.text)
    return found


def _first(connection: Connection, handler_id: int, now: Micros, limit: int) -> tuple[list[int], Micros | None]:
    """Ids of what is due, critical ones of a backlog among them first where there are more than the limit; and when the next is due."""
    rows = connection.execute(_FIRST, {"handler_id": handler_id, "limit": limit + 1}).all()
    due_now = [row[0] for row in rows if row[1] <= now]
    next_due = next((row[1] for row in rows if row[1] > now), None)
    if len(due_now) <= limit:
        return due_now, next_due
    values = {"handler_id": handler_id, "until": now - BACKLOG_AFTER, "limit": limit}
    urgent = [row[0] for row in connection.execute(_FIRST_CRITICAL, values)]
    return list(dict.fromkeys([*urgent, *due_now]))[:limit], next_due


def waiting(connection: Connection, delivery_ids: Sequence[int]) -> list[Waiting]:
    rows = list(_deliveries(connection, delivery_ids, STILL_PENDING))
    texts = _texts(connection, (), [row.notification_id for row in rows], math.inf)
    return [Waiting(delivery_of(row), texts[row.notification_id]) for row in rows]


def named(connection: Connection, delivery_ids: Sequence[int]) -> list[Delivery]:
    return list(map(delivery_of, _deliveries(connection, delivery_ids)))


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
