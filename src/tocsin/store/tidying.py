"""What deletes old rows, in steps: `tocsin.ports.tidying`.

Every step is a function of an open transaction, `(connection, before, rows, after) -> Swept`.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Column, ColumnElement, Connection, Table, and_, bindparam, delete, exists, func, select, tuple_

from tocsin import clock
from tocsin.clock import DAY, HOUR, Micros
from tocsin.model import Status
from tocsin.ports.tidying import START, Old, Place, Swept
from tocsin.store.database import Database
from tocsin.store.shared_tables import asks, changes, claims, partitions
from tocsin.store.statements import among, chunks
from tocsin.store.tables import (
    TOTAL_NOTIFICATIONS,
    attempts,
    audit,
    consent_asks,
    deliveries,
    handler_events,
    handler_hours,
    handlers,
    idempotency,
    notifications,
    posts,
    replays,
    usage,
)
from tocsin.store.totals import Totals, fold

Sweep: TypeAlias = Callable[[Connection, Micros, int, Place], Swept]
_LOOKED_AT_TOGETHER = {"sqlite": 2}  # notifications: one with 10,000 deliveries takes milliseconds to look through
_FETCHED_TOGETHER = 50  # where more than these have to be asked for, which takes longer than to look at most of them


class SqlTidying:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def sweep(self, what: Old, before: Micros, rows: int, after: Place) -> Swept:
        return await self._database.write(timed, SWEEPS[what], before, rows, after)

    async def fold_log(self) -> None:
        await self._database.fold_log()


def timed(connection: Connection, sweep: Sweep, before: Micros, rows: int, after: Place) -> Swept:
    """One step, and how long it took inside the transaction."""
    began = time.perf_counter()
    swept = sweep(connection, before, rows, after)
    return Swept(swept.rows, swept.after, swept.at, time.perf_counter() - began)


def may_go(before: Micros) -> ColumnElement[bool]:
    """The one predicate of retention, of a row of `notifications`: it and all its deliveries are settled and ended before then.

    The end of a delivery is its last attempt, or the time it was due when it ended without one, which is then set to that moment; so
    what was scheduled far ahead, or waited for long, keeps its record as long as anything else.
    """
    kept = select(1).where(deliveries.c.notification_id == notifications.c.id, ~_ended(before)).exists()
    return and_(notifications.c.created_at < before, ~kept)


def _ended(before: Micros) -> ColumnElement[bool]:
    """Of a row of `deliveries`."""
    attempted_at = func.coalesce(deliveries.c.last_attempt_at, 0)
    times = (deliveries.c.due_at, deliveries.c.first_due_at, attempted_at)
    return and_(deliveries.c.status != int(Status.PENDING), *(time < before for time in times))


def old_notifications(connection: Connection, before: Micros, rows: int, after: Place) -> Swept:
    """With their deliveries, and what was kept of those. By id, which is the order of their times: so no index has to be kept for it."""
    last_id = after[0] if after else 0
    looked_at, going = _look(connection, before, rows, last_id)
    taken, partial = _take(connection, [row.id for row in going], rows)
    totals = Totals()
    gone = 0
    for chunk in chunks([row.id for row in taken]):
        these = and_(
            among(connection, deliveries.c.id, chunk), _ended(before)
        )  # still: some may have been replayed since they were looked at
        for table in (attempts, replays):
            gone += connection.execute(delete(table).where(table.c.delivery_id.in_(select(deliveries.c.id).where(these)))).rowcount
        deleted = connection.execute(delete(deliveries).where(these).returning(deliveries.c.user_id, deliveries.c.status)).all()
        gone += len(deleted)
        for row in deleted:
            totals[row.user_id, row.status] -= 1
    whole = [row.id for row in going if partial is None or row.id < partial]
    for chunk in chunks(whole):
        these = and_(among(connection, notifications.c.id, chunk), may_go(before), ~_has_deliveries)
        deleted = connection.execute(delete(notifications).where(these).returning(notifications.c.user_id)).all()
        gone += len(deleted)
        for row in deleted:
            totals[row.user_id, TOTAL_NOTIFICATIONS] -= 1
    totals.write(connection)
    at = going[-1].created_at if going else None
    if partial is not None:
        return Swept(gone, (partial - 1,), at)
    # What a clock that was ahead has dated says nothing of those behind it.
    young = range(before, clock.now() + 1)
    ends = not looked_at or (len(looked_at) == rows and all(row.created_at in young for row in looked_at))
    return Swept(gone, None if ends else (looked_at[-1].id,), at)


_has_deliveries = select(1).where(deliveries.c.notification_id == notifications.c.id).exists()


def _look(connection: Connection, before: Micros, rows: int, last_id: int) -> tuple[list[Any], list[Any]]:
    """The next notifications, as many as have `rows` deliveries between them, and those of them that go."""
    some = select(1).where(deliveries.c.notification_id == notifications.c.id).limit(rows).correlate(notifications).subquery()
    size = select(func.count()).select_from(some).scalar_subquery()
    columns = (notifications.c.id, notifications.c.user_id, notifications.c.created_at, size.label("size"), may_go(before).label("goes"))
    chosen = select(*columns).where(notifications.c.id > last_id).order_by(notifications.c.id).limit(rows)
    some_at_once = _LOOKED_AT_TOGETHER.get(connection.dialect.name, _FETCHED_TOGETHER)
    looked_at: list[Any] = []
    budget = rows
    with connection.execute(chosen, execution_options={"yield_per": some_at_once}) as found:
        for row in found:
            looked_at.append(row)
            budget -= row.size
            if budget <= 0:
                break
    return looked_at, [row for row in looked_at if row.goes]


_TAKEN = [deliveries.c[name] for name in ("id", "notification_id", "user_id", "status", "attempt_count", "replays")]


def _take(connection: Connection, notification_ids: Sequence[int], rows: int) -> tuple[list[Any], int | None]:
    """Their deliveries, oldest first, as many as have `rows` rows with attempts and replays; and the first notification that keeps some."""
    taken: list[Any] = []
    for chunk in chunks(notification_ids):
        found = connection.execute(
            select(*_TAKEN)
            .where(among(connection, deliveries.c.notification_id, chunk))
            .order_by(deliveries.c.notification_id, deliveries.c.id)
            .limit(max(1, rows) + 1)
            .with_for_update(skip_locked=True)  # who replays one of them waits, or is before us
        )
        for row in found.all():
            if rows <= 0:
                return taken, row.notification_id
            rows -= 1 + row.attempt_count + row.replays
            taken.append(row)
    return taken, None


def idempotency_keys(connection: Connection, before: Micros, rows: int, _: Place) -> Swept:
    key = (idempotency.c.user_id, idempotency.c.path, idempotency.c.key)
    gone = _delete(connection, key, connection.execute(select(*key).where(idempotency.c.created_at < before).limit(rows)).all())
    return Swept(gone, START if gone == rows else None)


def handler_history(connection: Connection, before: Micros, rows: int, after: Place) -> Swept:
    """The hours before then, and all that was kept of handlers that were deleted before then."""
    last_id = after[0] if after else 0
    next_ones = select(handlers.c.id, handlers.c.deleted_at).where(handlers.c.id > last_id).order_by(handlers.c.id).limit(rows)
    looked_at = connection.execute(next_ones).all()
    deleted = [row.id for row in looked_at if row.deleted_at is not None and row.deleted_at < before]
    hour_key = (handler_hours.c.handler_id, handler_hours.c.hour)
    gone = 0
    for ids, is_old in (([row.id for row in looked_at], handler_hours.c.hour < before // HOUR), (deleted, handler_hours.c.hour >= 0)):
        for chunk in chunks(ids):
            chosen = select(*hour_key).where(among(connection, handler_hours.c.handler_id, chunk), is_old).limit(rows - gone)
            gone += _delete(connection, hour_key, connection.execute(chosen).all())
    for chunk in chunks(deleted):
        events = select(handler_events.c.id).where(among(connection, handler_events.c.handler_id, chunk)).limit(rows - gone)
        gone += connection.execute(delete(handler_events).where(handler_events.c.id.in_(events))).rowcount
    if gone >= rows:
        return Swept(gone, after)
    return Swept(gone, (looked_at[-1].id,) if len(looked_at) == rows else None)


def old_posts(connection: Connection, before: Micros, rows: int, after: Place) -> Swept:
    key = (posts.c.key, posts.c.delivery_id)
    chosen = select(*key, posts.c.at).order_by(*key).limit(rows)
    if after:
        chosen = chosen.where(tuple_(*key) > tuple_(*after))
    looked_at = connection.execute(chosen).all()
    gone = _delete(connection, key, [row[:2] for row in looked_at if row.at < before])
    return Swept(gone, tuple(looked_at[-1][:2]) if len(looked_at) == rows else None)


def consent_asks_of_before(connection: Connection, before: Micros, rows: int, _: Place) -> Swept:
    key = (consent_asks.c.mailbox, consent_asks.c.at)
    gone = _delete(connection, key, connection.execute(select(*key).where(consent_asks.c.at < before).limit(rows)).all())
    return Swept(gone, START if gone == rows else None)


def old_usage(connection: Connection, before: Micros, rows: int, _: Place) -> Swept:
    key = (usage.c.user_id, usage.c.day, usage.c.what, usage.c.mark)
    gone = _delete(connection, key, connection.execute(select(*key).where(usage.c.day < before // DAY).limit(rows)).all())
    return Swept(gone, START if gone == rows else None)


def _delete(connection: Connection, key: Sequence[Column[Any]], rows: Sequence[Sequence[Any]]) -> int:
    """Rows by their primary key, one by one: for `(a, b) IN (...)` SQLite looks through the whole table."""
    if rows:
        is_it = [column == bindparam(f"key_{column.name}") for column in key]
        values = [{f"key_{column.name}": value for column, value in zip(key, row, strict=True)} for row in rows]
        connection.execute(delete(key[0].table).where(*is_it), values)
    return len(rows)


def old_claims(connection: Connection, before: Micros, rows: int, _: Place) -> Swept:
    """As long as a partition waits to be taken over, what its dead owner had begun must be known, however long ago that was."""
    if connection.scalar(select(exists().where(partitions.c.is_crashed, partitions.c.owner.is_(None)))):
        return Swept(0, None)
    return _delete_old(connection, claims, claims.c.at < before, rows)


def old_changes(connection: Connection, before: Micros, rows: int, _: Place) -> Swept:
    """The newest one stays, since processes go by its id."""
    newest = select(func.max(changes.c.id)).scalar_subquery()
    return _delete_old(connection, changes, and_(changes.c.at < before, changes.c.id < newest), rows)


def old_asks(connection: Connection, before: Micros, rows: int, _: Place) -> Swept:
    """Whose asker has died."""
    return _delete_old(connection, asks, asks.c.at < before, rows)


def old_audit(connection: Connection, before: Micros, rows: int, _: Place) -> Swept:
    return _delete_old(connection, audit, audit.c.at < before, rows)


def _delete_old(connection: Connection, table: Table, is_old: ColumnElement[bool], rows: int) -> Swept:
    some = select(table.c.id).where(is_old).limit(rows)
    gone = connection.execute(delete(table).where(table.c.id.in_(some))).rowcount
    return Swept(gone, START if gone == rows else None)


SWEEPS: dict[Old, Sweep] = {
    "notifications": old_notifications,
    "idempotency": idempotency_keys,
    "posts": old_posts,
    "consent_asks": consent_asks_of_before,
    "handlers": handler_history,
    "totals": fold,
    "usage": old_usage,
    "audit": old_audit,
    "claims": old_claims,
    "changes": old_changes,
    "asks": old_asks,
}
