"""The writes that come one by one, as functions of an open transaction. The hot ones are in accepting.py and settling.py."""

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, func, insert, literal, select, update

from tocsin import clock
from tocsin.clock import DAY, Micros
from tocsin.model import Reason, Status
from tocsin.ports.handlers import HandlerChange, HandlerEvent, HandlerHour, Streak, SwitchOff
from tocsin.ports.history import DeliveryFilter
from tocsin.ports.intake import Idempotency
from tocsin.ports.queue import PostFacts
from tocsin.store import notices, values
from tocsin.store.accepting import remember
from tocsin.store.listing import replayable_deliveries
from tocsin.store.statements import chunks, run, upsert
from tocsin.store.tables import (
    TOTAL_HANDLERS,
    deliveries,
    handler_events,
    handler_hours,
    handlers,
    keys,
    posts,
    replays,
)
from tocsin.store.totals import Totals

ALIVE_AT = "alive_at"
MAX_EVENTS = 100  # of a handler are kept

_HOUR = ("handler_id", "hour")
ADD_HOURS = upsert(handler_hours, key=_HOUR, given=("latencies",), adds=("delivered", "failed", "expired"))

# ----------------------------------------------------------------------------------------------------------- deliveries


def end_pending(connection: Connection, handler_id: int, status: Status, reason: Reason, limit: int, error: str | None = None) -> int:
    chosen = select(deliveries.c.id).where(deliveries.c.handler_id == handler_id, deliveries.c.status == int(Status.PENDING)).limit(limit)
    return len(_end(connection, [row[0] for row in connection.execute(chosen)], status, reason, error))


def cancel(connection: Connection, user_id: int, notification_id: int) -> list[int]:
    return _cancel(connection, user_id, deliveries.c.notification_id == notification_id)


def cancel_delivery(connection: Connection, user_id: int, delivery_id: int) -> list[int]:
    return _cancel(connection, user_id, deliveries.c.id == delivery_id)


def _cancel(connection: Connection, user_id: int, which: ColumnElement[bool]) -> list[int]:
    chosen = select(deliveries.c.id).where(which, deliveries.c.user_id == user_id, deliveries.c.status == int(Status.PENDING))
    return _end(connection, [row[0] for row in connection.execute(chosen)], Status.CANCELLED, Reason.CANCELLED)


def _end(connection: Connection, ids: Sequence[int], status: Status, reason: Reason, error: str | None = None) -> list[int]:
    """End pending deliveries without an attempt. `error`: their last error, which otherwise stays as it was."""
    totals = Totals()
    changes: dict[str, Any] = {"due_at": clock.now()}  # when it ended, for retention: there is no attempt to go by
    if error is not None:
        changes["last_error"] = error
    for chunk in chunks(ids):
        ended = connection.execute(
            update(deliveries)
            .where(deliveries.c.id.in_(chunk))
            .values(status=int(status), last_reason=reason.value, **changes)
            .returning(deliveries.c.user_id)
        )
        for row in ended:
            totals[row[0], Status.PENDING] -= 1
            totals[row[0], status] += 1
    totals.write(connection)
    return list(ids)


def retry(
    connection: Connection, user_id: int, which: DeliveryFilter | int, at: Micros, limit: int, idempotency: Idempotency | None
) -> list[tuple[int, int]]:
    """Settled but not delivered ones wait again: a new schedule, the same delivery. How they had ended is kept."""
    chosen = replayable_deliveries(user_id, which, limit)
    rows = connection.execute(
        select(deliveries.c.id, deliveries.c.handler_id, deliveries.c.status).where(deliveries.c.id.in_(select(chosen.c.id)))
    ).all()
    totals = Totals()
    for chunk in chunks([row.id for row in rows]):
        connection.execute(insert(replays).from_select(replays.c.keys(), select(*_as_ended(at)).where(deliveries.c.id.in_(chunk))))
        connection.execute(
            update(deliveries)
            .where(deliveries.c.id.in_(chunk))
            .values(
                status=int(Status.PENDING),
                due_at=at,
                step=0,
                throttles=0,
                replays=deliveries.c.replays + 1,
                last_reason=None,
                last_error=None,
            )
        )
    for row in rows:
        totals[user_id, row.status] -= 1
        totals[user_id, Status.PENDING] += 1
    totals.write(connection)
    if idempotency is not None:
        remember(connection, user_id, at, idempotency, [len(rows)])
    return [(row.id, row.handler_id) for row in rows]


def _as_ended(at: Micros) -> tuple[ColumnElement[Any], ...]:
    """The columns of `replays`, from a delivery."""
    row = deliveries.c
    return (row.id, row.replays + 1, literal(at, replays.c.at.type), row.attempt_count, row.status, row.last_reason, row.due_at)


def posted(connection: Connection, key: str, text_hash: bytes, delivery_id: int, at: Micros, limit: int) -> PostFacts:
    # At most a day ahead: what a clock noted that was years ahead would use up the budget for years.
    recent = [posts.c.key == key, posts.c.at > at - DAY, posts.c.at <= at + DAY, posts.c.delivery_id != delivery_id]
    count = connection.scalar(select(func.count()).select_from(posts).where(*recent)) or 0
    if count >= limit:
        return PostFacts(over_budget=True, repeated=False)
    same = [*recent, posts.c.text_hash == text_hash, posts.c.delivery_id < delivery_id]
    repeated = connection.scalar(select(func.count()).select_from(posts).where(*same)) or 0
    connection.execute(delete(posts).where(posts.c.key == key, posts.c.at <= at - DAY))
    connection.execute(delete(posts).where(posts.c.key == key, posts.c.delivery_id == delivery_id))
    connection.execute(insert(posts).values(key=key, text_hash=text_hash, delivery_id=delivery_id, at=at))
    return PostFacts(over_budget=False, repeated=bool(repeated))


# ------------------------------------------------------------------------------------------------------------- handlers


def add_handler(connection: Connection, user_id: int, change: HandlerChange, at: Micros) -> int:
    values = {name: value for name, value in msgspec.structs.asdict(change).items() if name != "disabled_reason"}
    row = insert(handlers).values(user_id=user_id, created_at=at, version=1, **values).returning(handlers.c.id)
    handler_id = connection.execute(row).scalar_one()
    totals = Totals()
    totals[user_id, TOTAL_HANDLERS] += 1
    totals.write(connection)
    return handler_id


def change_handler(
    connection: Connection, handler_id: int, change: HandlerChange, expected_version: int | None, event: HandlerEvent | None, most: int
) -> bool:
    values = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not None}
    if change.is_enabled:
        values["disabled_reason"] = None
    if change.is_enabled or change.settings is not None:  # a fresh start
        values |= {"failures": 0, "failing_since": None}
    statement = update(handlers).where(handlers.c.id == handler_id, handlers.c.deleted_at.is_(None))
    if expected_version is not None:
        statement = statement.where(handlers.c.version == expected_version)
    if connection.execute(statement.values(version=handlers.c.version + 1, **values)).rowcount != 1:
        return False
    if event is not None:
        _note(connection, handler_id, event)
    if change.is_enabled is False and most:
        end_pending(connection, handler_id, Status.SKIPPED, Reason.HANDLER_PAUSED, most)
    return True


def switch_off(connection: Connection, what: SwitchOff) -> bool:
    """Whether it was at that version."""
    change = HandlerChange(is_enabled=False, disabled_reason=what.event.detail)
    if not change_handler(connection, what.handler_id, change, what.version, what.event, most=0):
        return False
    end_pending(connection, what.handler_id, Status.FAILED, Reason.HANDLER_DISABLED, what.most, what.last_error)
    notices.record(connection, what.user_id, what.handler_id, what.event, what.notification_id)
    return True


def _note(connection: Connection, handler_id: int, event: HandlerEvent) -> None:
    """Keep an event; only the last ones stay."""
    reason = None if event.reason is None else event.reason.value
    connection.execute(
        insert(handler_events).values(handler_id=handler_id, at=event.at, what=event.what, detail=event.detail, reason=reason)
    )
    own = handler_events.c.handler_id == handler_id
    oldest = select(handler_events.c.id).where(own).order_by(handler_events.c.id.desc()).limit(1).offset(MAX_EVENTS - 1)
    connection.execute(delete(handler_events).where(own, handler_events.c.id < oldest.scalar_subquery()))


def count_failure(connection: Connection, handler_id: int, at: Micros) -> Streak:
    row = connection.execute(
        update(handlers)
        .where(handlers.c.id == handler_id)
        .values(failures=handlers.c.failures + 1, failing_since=func.coalesce(handlers.c.failing_since, at))
        .returning(handlers.c.failures, handlers.c.failing_since)
    ).one()
    return Streak(row[0], row[1])


def add_hours(connection: Connection, hours: Sequence[HandlerHour]) -> None:
    kept: dict[tuple[int, int], tuple[int, ...]] = {}
    for hour in {one.hour for one in hours}:
        for chunk in chunks([one.handler_id for one in hours if one.hour == hour]):
            chosen = select(handler_hours).where(handler_hours.c.handler_id.in_(chunk), handler_hours.c.hour == hour)
            for row in connection.execute(chosen):
                kept[row.handler_id, hour] = msgspec.json.decode(row.latencies, type=tuple[int, ...])
    rows: list[Any] = []
    for one in hours:
        before = kept.get((one.handler_id, one.hour))
        latencies = one.latencies if before is None else map(sum, itertools.zip_longest(before, one.latencies, fillvalue=0))
        rows.append((one.handler_id, one.hour, msgspec.json.encode(list(latencies)).decode(), one.delivered, one.failed, one.expired))
    run(connection, ADD_HOURS, rows)


def delete_handler(connection: Connection, handler_id: int, at: Micros, most: int) -> bool:
    """The secrets go at once; the row stays for the history that names it."""
    gone = connection.execute(
        update(handlers)
        .where(handlers.c.id == handler_id, handlers.c.deleted_at.is_(None))
        .values(deleted_at=at, settings=None, secret=None, is_enabled=False, version=handlers.c.version + 1)
        .returning(handlers.c.user_id)
    ).scalar()
    if gone is None:
        return False
    totals = Totals()
    totals[gone, TOTAL_HANDLERS] -= 1
    totals.write(connection)
    end_pending(connection, handler_id, Status.CANCELLED, Reason.HANDLER_DELETED, most)
    return True


def note_alive(connection: Connection) -> None:
    """A small write, which shows that the store can be written; kept is when it was."""
    values.write(connection, ALIVE_AT, b"%d" % clock.now())


def touch_keys(connection: Connection, used: dict[int, Micros]) -> None:
    for key_id, at in used.items():
        connection.execute(update(keys).where(keys.c.id == key_id).values(last_used_at=at))
