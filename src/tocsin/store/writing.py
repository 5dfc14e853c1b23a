"""The writes that come one by one, as functions of an open transaction. The hot ones are in bulk.py."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, delete, func, insert, select, update

from tocsin.model import Micros, Reason, Status
from tocsin.store import DeliveryFilter, HandlerChange, PostFacts, Remembered
from tocsin.store.bulk import Totals, chunks, remember
from tocsin.store.reading import chosen_deliveries
from tocsin.store.tables import (
    TOTAL_HANDLERS,
    TOTAL_NOTIFICATIONS,
    attempts,
    deliveries,
    handlers,
    idempotency,
    keys,
    notifications,
    posts,
)

DAY: Micros = 86_400_000_000

# ----------------------------------------------------------------------------------------------------------- deliveries


def end_pending(connection: Connection, handler_id: int, status: Status, reason: Reason, limit: int) -> int:
    chosen = select(deliveries.c.id).where(deliveries.c.handler_id == handler_id, deliveries.c.status == int(Status.PENDING)).limit(limit)
    return len(_end(connection, [row[0] for row in connection.execute(chosen)], status, reason))


def cancel(connection: Connection, user_id: int, notification_id: int) -> list[int]:
    chosen = select(deliveries.c.id).where(
        deliveries.c.notification_id == notification_id,
        deliveries.c.user_id == user_id,
        deliveries.c.status == int(Status.PENDING),
    )
    return _end(connection, [row[0] for row in connection.execute(chosen)], Status.CANCELLED, Reason.CANCELLED)


def _end(connection: Connection, ids: Sequence[int], status: Status, reason: Reason) -> list[int]:
    """End pending deliveries without an attempt."""
    totals = Totals()
    for chunk in chunks(ids):
        ended = connection.execute(
            update(deliveries)
            .where(deliveries.c.id.in_(chunk))
            .values(status=int(status), last_reason=reason.value)
            .returning(deliveries.c.user_id)
        )
        for row in ended:
            totals[row[0], Status.PENDING] -= 1
            totals[row[0], status] += 1
    totals.write(connection)
    return list(ids)


REPLAYABLE = (Status.FAILED, Status.EXPIRED, Status.CANCELLED, Status.SKIPPED)


def retry(
    connection: Connection, user_id: int, which: DeliveryFilter | int, at: Micros, limit: int, remembered: Remembered | None
) -> list[tuple[int, int]]:
    """Settled but not delivered ones wait again: a new schedule, the same delivery. Those of deleted handlers stay."""
    chosen = chosen_deliveries(user_id, which, REPLAYABLE, limit)
    rows = connection.execute(
        select(deliveries.c.id, deliveries.c.handler_id, deliveries.c.status)
        .join(handlers, handlers.c.id == deliveries.c.handler_id)
        .where(deliveries.c.id.in_(select(chosen.c.id)), handlers.c.deleted_at.is_(None))
    ).all()
    totals = Totals()
    for chunk in chunks([row.id for row in rows]):
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
    if remembered is not None:
        remember(connection, user_id, at, msgspec.structs.replace(remembered, answer=(len(rows),)))
    return [(row.id, row.handler_id) for row in rows]


def posted(connection: Connection, key: str, text_hash: bytes, delivery_id: int, at: Micros, limit: int) -> PostFacts:
    recent = [posts.c.key == key, posts.c.at > at - DAY, posts.c.delivery_id != delivery_id]
    count = connection.scalar(select(func.count()).select_from(posts).where(*recent)) or 0
    if count >= limit:
        return PostFacts(over_budget=True, repeated=False)
    same = [*recent, posts.c.text_hash == text_hash, posts.c.delivery_id < delivery_id]
    repeated = connection.scalar(select(func.count()).select_from(posts).where(*same)) or 0
    connection.execute(delete(posts).where(posts.c.key == key, posts.c.at <= at - DAY))
    connection.execute(delete(posts).where(posts.c.key == key, posts.c.delivery_id == delivery_id))
    connection.execute(insert(posts).values(key=key, text_hash=text_hash, delivery_id=delivery_id, at=at))
    return PostFacts(over_budget=False, repeated=bool(repeated))


def tidy(connection: Connection, before: Micros, limit: int) -> int:
    """Old, wholly settled notifications go, with all that hangs on them; so do idempotency keys of more than a day."""
    waiting = select(1).where(deliveries.c.notification_id == notifications.c.id, deliveries.c.status == int(Status.PENDING)).exists()
    old = select(notifications.c.id, notifications.c.user_id).where(notifications.c.created_at < before, ~waiting).limit(limit)
    rows = connection.execute(old.order_by(notifications.c.id)).all()
    totals = Totals()
    for chunk in chunks([row.id for row in rows]):
        inside = deliveries.c.notification_id.in_(chunk)
        connection.execute(delete(attempts).where(attempts.c.delivery_id.in_(select(deliveries.c.id).where(inside))))
        for gone in connection.execute(delete(deliveries).where(inside).returning(deliveries.c.user_id, deliveries.c.status)):
            totals[gone[0], gone[1]] -= 1
        connection.execute(delete(notifications).where(notifications.c.id.in_(chunk)))
    for row in rows:
        totals[row.user_id, TOTAL_NOTIFICATIONS] -= 1
    totals.write(connection)
    return len(rows)


def forget_idempotency(connection: Connection, before: Micros) -> None:
    connection.execute(delete(idempotency).where(idempotency.c.created_at < before))


# ------------------------------------------------------------------------------------------------------------- handlers


def add_handler(connection: Connection, user_id: int, change: HandlerChange, at: Micros) -> int:
    values = {name: value for name, value in msgspec.structs.asdict(change).items() if name != "disabled_reason"}
    row = insert(handlers).values(user_id=user_id, created_at=at, version=1, **values).returning(handlers.c.id)
    handler_id = connection.execute(row).scalar_one()
    totals = Totals()
    totals[user_id, TOTAL_HANDLERS] += 1
    totals.write(connection)
    return handler_id


def change_handler(connection: Connection, handler_id: int, change: HandlerChange, expected_version: int | None) -> bool:
    values = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not None}
    if change.is_enabled:
        values["disabled_reason"] = None
    statement = update(handlers).where(handlers.c.id == handler_id, handlers.c.deleted_at.is_(None))
    if expected_version is not None:
        statement = statement.where(handlers.c.version == expected_version)
    return connection.execute(statement.values(version=handlers.c.version + 1, **values)).rowcount == 1


def delete_handler(connection: Connection, handler_id: int, at: Micros) -> bool:
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
    return True


def touch_keys(connection: Connection, used: dict[int, Micros]) -> None:
    for key_id, at in used.items():
        connection.execute(update(keys).where(keys.c.id == key_id).values(last_used_at=at))
