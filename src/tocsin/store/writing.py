"""The writes that come one by one, as functions of an open transaction. The hot ones are in accepting.py and settling.py."""

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, insert, select, text, update

from tocsin import clock
from tocsin.clock import DAY, Micros
from tocsin.model import Reason, Status
from tocsin.ports.handlers import HandlerChange, HandlerEvent, Streak, SwitchOff
from tocsin.ports.history import DeliveryFilter
from tocsin.ports.intake import Idempotency
from tocsin.ports.queue import PostFacts
from tocsin.ports.standings import HandlerHour
from tocsin.store import notices, statements, values
from tocsin.store.accepting import remember
from tocsin.store.filters import replayable_deliveries
from tocsin.store.rows import PENDING
from tocsin.store.statements import run, wait_for_turn
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

RETRY = statements.update(  # under the status that each was seen to have
    deliveries,
    key=("id", "status"),
    given=("due_at",),
    adds=("replays",),
    fixed={"status": Status.PENDING, "step": 0, "throttles": 0, "last_reason": None, "last_error": None},
    returning=("id",),
)
ADD_REPLAYS = statements.insert(replays, given=("delivery_id", "number", "at", "attempt_count", "status", "reason", "ended_at"))
_HOUR = ("handler_id", "hour")
_COUNTS = ("delivered", "failed", "expired")
THERE = statements.look(handlers, key=("id",), wanted=("id",))
HOURS = statements.look(handler_hours, key=_HOUR, wanted=(*_HOUR, "latencies"))
NEW_HOURS = statements.insert(handler_hours, given=(*_HOUR, *_COUNTS, "latencies"), unless=_HOUR, returning=_HOUR)
ADD_HOURS = statements.update(  # where nobody has added latencies since they were read
    handler_hours,
    key=(*_HOUR, "latencies"),
    adds=_COUNTS,
    given=("latencies",),
    returning=_HOUR,
)
TOUCH_KEYS = statements.update(keys, key=("id",), given=("last_used_at",), where="last_used_at IS NULL OR last_used_at < {last_used_at}")

# ----------------------------------------------------------------------------------------------------------- deliveries


def end_pending(connection: Connection, handler_id: int, status: Status, reason: Reason, limit: int, error: str | None = None) -> int:
    some = select(deliveries.c.id).where(PENDING, deliveries.c.handler_id == handler_id).limit(limit)
    return len(_end(connection, deliveries.c.id.in_(some), status, reason, error))


def cancel(connection: Connection, user_id: int, notification_id: int) -> list[int]:
    return _cancel(connection, user_id, deliveries.c.notification_id == notification_id)


def cancel_delivery(connection: Connection, user_id: int, delivery_id: int) -> list[int]:
    return _cancel(connection, user_id, deliveries.c.id == delivery_id)


def _cancel(connection: Connection, user_id: int, which: ColumnElement[bool]) -> list[int]:
    return _end(connection, and_(which, deliveries.c.user_id == user_id), Status.CANCELLED, Reason.CANCELLED)


def _end(connection: Connection, which: ColumnElement[bool], status: Status, reason: Reason, error: str | None = None) -> list[int]:
    """End those that are pending without an attempt; their ids. `error`: their last error, which otherwise stays as it was."""
    changes: dict[str, Any] = {"due_at": clock.now()}  # when it ended, for retention: there is no attempt to go by
    if error is not None:
        changes["last_error"] = error
    ended = connection.execute(
        update(deliveries)
        .where(PENDING, which)
        .values(status=int(status), last_reason=reason.value, **changes)
        .returning(deliveries.c.id, deliveries.c.user_id)
    ).all()
    totals = Totals()
    for row in ended:
        totals[row.user_id, Status.PENDING] -= 1
        totals[row.user_id, status] += 1
    totals.write(connection)
    return sorted(row.id for row in ended)


def retry(
    connection: Connection, user_id: int, which: DeliveryFilter | int, at: Micros, limit: int, idempotency: Idempotency | None
) -> list[tuple[int, int]]:
    """Settled but not delivered ones wait again: a new schedule, the same delivery. How they had ended is kept."""
    chosen = replayable_deliveries(user_id, which, limit)
    rows = connection.execute(
        select(
            deliveries.c.id,
            deliveries.c.handler_id,
            deliveries.c.status,
            deliveries.c.attempt_count,
            deliveries.c.last_reason,
            deliveries.c.due_at,
            deliveries.c.replays,
        ).where(deliveries.c.id.in_(select(chosen.c.id)))
    ).all()
    again = {delivery_id for (delivery_id,) in run(connection, RETRY, [(row.id, row.status, at, 1) for row in rows])}
    retried = [row for row in rows if row.id in again]
    ended = [(row.id, row.replays + 1, at, row.attempt_count, row.status, row.last_reason, row.due_at) for row in retried]
    run(connection, ADD_REPLAYS, ended)
    totals = Totals()
    for row in retried:
        totals[user_id, row.status] -= 1
        totals[user_id, Status.PENDING] += 1
    totals.write(connection)
    if idempotency is not None:
        remember(connection, user_id, at, idempotency, [len(retried)])
    return [(row.id, row.handler_id) for row in retried]


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
    """If another writer adds to an hour between the look and the write, it is looked at again. Handlers that went with their user have
    no hours, and must not keep those of the others from being kept.
    """
    there = {handler_id for (handler_id,) in run(connection, THERE, [(one.handler_id,) for one in hours])}
    rest = {(one.handler_id, one.hour): one for one in hours if one.handler_id in there}
    while rest:
        kept = {(row[0], row[1]): row[2] for row in run(connection, HOURS, list(rest))}
        new: list[Any] = []
        more: list[Any] = []
        for key, one in rest.items():
            counts, before = (one.delivered, one.failed, one.expired), kept.get(key)
            if before is None:
                new.append((*key, *counts, _summed("[]", one.latencies)))
            else:
                more.append((*key, before, _summed(before, one.latencies), *counts))
        for handler_id, hour in run(connection, NEW_HOURS, new) + run(connection, ADD_HOURS, more):
            del rest[handler_id, hour]


def _summed(kept: str, latencies: Sequence[int]) -> str:
    before = msgspec.json.decode(kept, type=tuple[int, ...])
    return msgspec.json.encode([sum(pair) for pair in itertools.zip_longest(before, latencies, fillvalue=0)]).decode()


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
    run(connection, TOUCH_KEYS, sorted(used.items()))
