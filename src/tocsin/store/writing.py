"""The writes, as functions of an open transaction. The two hot ones run in bulk; each has its SQL beside it, by name."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, insert, select, text, update

from tocsin.model import Delivery, Micros, Reason, Status
from tocsin.store import Accept, Accepted, DeliveryFilter, HandlerChange, PostFacts, Remembered, Settlement
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
_CHUNK = 500  # ids in one IN (...): SQLite takes 32,766 parameters, short statements parse quicker

ADD_NOTIFICATION = text(
    "INSERT INTO notifications (id, user_id, created_at, send_at, expires_at, kind, severity, title, text, url, fields)"
    " VALUES (:id, :user_id, :created_at, :send_at, :expires_at, :kind, :severity, :title, :text, :url, :fields)"
)
ADD_DELIVERY = text(
    "INSERT INTO deliveries (id, notification_id, handler_id, user_id, status, due_at, first_due_at, created_at, last_reason,"
    " attempt_count, step, throttles, may_have_arrived, part, replays)"
    " VALUES (:id, :notification_id, :handler_id, :user_id, :status, :due_at, :due_at, :created_at, :last_reason, 0, 0, 0, 0, 0, 0)"
)
SETTLE_DELIVERY = text(
    "UPDATE deliveries SET status = :status, due_at = :due_at, attempt_count = :attempt_count, step = :step, throttles = :throttles,"
    " last_attempt_at = :last_attempt_at, late = :late, may_have_arrived = :may_have_arrived, part = :part,"
    " last_reason = :last_reason, last_error = :last_error WHERE id = :id"
)
COUNT_ATTEMPT = text("UPDATE deliveries SET attempt_count = :attempt_count, last_attempt_at = :last_attempt_at WHERE id = :id")
ADD_ATTEMPT = text(
    "INSERT INTO attempts (delivery_id, number, at, duration_us, outcome, reason, status_code, response, next_at)"
    " VALUES (:delivery_id, :number, :at, :duration_us, :outcome, :reason, :status_code, :response, :next_at)"
)
HANDLER_DELIVERED = text(
    "UPDATE handlers SET last_delivered_at = :at WHERE id = :id AND (last_delivered_at IS NULL OR last_delivered_at < :at)"
)
ADD_TOTAL = text(
    "INSERT INTO totals (user_id, what, n) VALUES (:user_id, :what, :n) ON CONFLICT (user_id, what) DO UPDATE SET n = totals.n + excluded.n"
)
REMEMBER = text(
    "INSERT INTO idempotency (user_id, path, key, content, answer, created_at) VALUES (:user_id, :path, :key, :content, :answer, :at)"
    " ON CONFLICT (user_id, path, key) DO UPDATE SET content = excluded.content, answer = excluded.answer, created_at = excluded.created_at"
)


class Totals:
    """Changes of totals within one transaction, written once at its end."""

    def __init__(self) -> None:
        self._changes: Counter[tuple[int, int]] = Counter()

    def add(self, user_id: int, what: int, n: int = 1) -> None:
        self._changes[user_id, what] += n

    def write(self, connection: Connection) -> None:
        rows = [{"user_id": user_id, "what": what, "n": n} for (user_id, what), n in self._changes.items() if n]
        if rows:
            connection.execute(ADD_TOTAL, rows)


def _next_id(connection: Connection, table: str) -> int:
    """The first id never used before. Inside a write transaction, so nobody else takes it."""
    if connection.dialect.name == "sqlite":
        last = connection.execute(text("SELECT seq FROM sqlite_sequence WHERE name = :table"), {"table": table}).scalar()
        return (last or 0) + 1
    raise NotImplementedError("ids of other databases come with them")


# ------------------------------------------------------------------------------------------------------------- hot path


class AcceptAll:
    @staticmethod
    def run_all(connection: Connection, writes: Sequence[Accept]) -> list[list[Accepted]]:
        notification_id = _next_id(connection, "notifications")
        delivery_id = _next_id(connection, "deliveries")
        notification_rows: list[dict[str, Any]] = []
        delivery_rows: list[dict[str, Any]] = []
        remembered: list[dict[str, Any]] = []
        changes = Totals()
        results: list[list[Accepted]] = []
        for accept in writes:
            accepted: list[Accepted] = []
            user_id, at = accept.user_id, accept.at
            for planned in accept.planned:
                message = planned.message
                notification_rows.append(
                    {
                        "id": notification_id,
                        "user_id": user_id,
                        "created_at": at,
                        "send_at": planned.send_at,
                        "expires_at": planned.expires_at,
                        "kind": message.kind,
                        "severity": message.severity.value,
                        "title": message.title,
                        "text": message.text,
                        "url": message.url,
                        "fields": msgspec.json.encode(message.fields).decode() if message.fields else "[]",
                    }
                )
                accepted.append(Accepted(notification_id, delivery_id))
                for one in planned.deliveries:
                    delivery_rows.append(
                        {
                            "id": delivery_id,
                            "notification_id": notification_id,
                            "handler_id": one.handler_id,
                            "user_id": user_id,
                            "status": int(one.status),
                            "due_at": one.due_at,
                            "created_at": at,
                            "last_reason": one.reason and one.reason.value,
                        }
                    )
                    changes.add(user_id, one.status)
                    delivery_id += 1
                notification_id += 1
            changes.add(user_id, TOTAL_NOTIFICATIONS, len(accepted))
            results.append(accepted)
            if accept.idempotency is not None:
                answer = tuple(one.notification_id for one in accepted)
                remembered.append(_remembered_row(user_id, at, msgspec.structs.replace(accept.idempotency, answer=answer)))
        connection.execute(ADD_NOTIFICATION, notification_rows)
        connection.execute(ADD_DELIVERY, delivery_rows)
        if remembered:
            connection.execute(REMEMBER, remembered)
        changes.write(connection)
        return results


def _remembered_row(user_id: int, at: Micros, what: Remembered) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "path": what.path,
        "key": what.key,
        "content": what.content,
        "answer": ",".join(map(str, what.answer)),
        "at": at,
    }


class SettleAll:
    @staticmethod
    def run_all(connection: Connection, writes: Sequence[Settlement]) -> list[bool]:
        statuses = _statuses(connection, [write.delivery.id for write in writes])
        delivery_rows: list[dict[str, Any]] = []
        counted_rows: list[dict[str, Any]] = []
        attempt_rows: list[dict[str, Any]] = []
        arrived: dict[int, Micros] = {}
        changes = Totals()
        applied: list[bool] = []
        for write in writes:
            delivery, attempt = write.delivery, write.attempt
            before = statuses.get(delivery.id)
            # What has arrived has arrived, even if somebody cancelled it meanwhile.
            wanted = before == Status.PENDING or (before is not None and delivery.status is Status.DELIVERED)
            applied.append(wanted)
            if before is None:
                continue
            if wanted:
                delivery_rows.append(_settled_row(delivery))
                if before != delivery.status:
                    changes.add(delivery.user_id, before, -1)
                    changes.add(delivery.user_id, delivery.status)
                    statuses[delivery.id] = delivery.status
                if delivery.status is Status.DELIVERED:
                    arrived[delivery.handler_id] = max(write.at, arrived.get(delivery.handler_id, 0))
            elif attempt is not None:
                counted_rows.append({"id": delivery.id, "attempt_count": attempt.number, "last_attempt_at": attempt.at})
            if attempt is not None:
                attempt_rows.append(
                    {
                        "delivery_id": attempt.delivery_id,
                        "number": attempt.number,
                        "at": attempt.at,
                        "duration_us": attempt.duration_us,
                        "outcome": attempt.outcome,
                        "reason": attempt.reason.value,
                        "status_code": attempt.status_code,
                        "response": attempt.response,
                        "next_at": attempt.next_at if wanted else None,
                    }
                )
        for statement, rows in (
            (SETTLE_DELIVERY, delivery_rows),
            (COUNT_ATTEMPT, counted_rows),
            (ADD_ATTEMPT, attempt_rows),
            (HANDLER_DELIVERED, [{"id": handler_id, "at": at} for handler_id, at in arrived.items()]),
        ):
            if rows:
                connection.execute(statement, rows)
        changes.write(connection)
        return applied


def _settled_row(delivery: Delivery) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "status": int(delivery.status),
        "due_at": delivery.due_at,
        "attempt_count": delivery.attempt_count,
        "step": delivery.step,
        "throttles": delivery.throttles,
        "last_attempt_at": delivery.last_attempt_at,
        "late": delivery.late,
        "may_have_arrived": delivery.may_have_arrived,
        "part": delivery.part,
        "last_reason": delivery.last_reason and delivery.last_reason.value,
        "last_error": delivery.last_error,
    }


_STATUSES = text("SELECT id, status FROM deliveries WHERE id IN :ids").bindparams(bindparam("ids", expanding=True))


def _statuses(connection: Connection, ids: Sequence[int]) -> dict[int, Status]:
    found: dict[int, Status] = {}
    for chunk in _chunks(ids):
        found.update((row[0], Status(row[1])) for row in connection.execute(_STATUSES, {"ids": chunk}))
    return found


def _chunks(ids: Sequence[int]) -> Iterable[Sequence[int]]:
    return (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))


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
    changes = Totals()
    for chunk in _chunks(ids):
        ended = connection.execute(
            update(deliveries)
            .where(deliveries.c.id.in_(chunk))
            .values(status=int(status), last_reason=reason.value)
            .returning(deliveries.c.user_id)
        )
        for row in ended:
            changes.add(row[0], Status.PENDING, -1)
            changes.add(row[0], status)
    changes.write(connection)
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
    changes = Totals()
    for chunk in _chunks([row.id for row in rows]):
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
        changes.add(user_id, row.status, -1)
        changes.add(user_id, Status.PENDING)
    changes.write(connection)
    if remembered is not None:
        connection.execute(REMEMBER, _remembered_row(user_id, at, msgspec.structs.replace(remembered, answer=(len(rows),))))
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
    changes = Totals()
    for chunk in _chunks([row.id for row in rows]):
        inside = deliveries.c.notification_id.in_(chunk)
        connection.execute(delete(attempts).where(attempts.c.delivery_id.in_(select(deliveries.c.id).where(inside))))
        for gone in connection.execute(delete(deliveries).where(inside).returning(deliveries.c.user_id, deliveries.c.status)):
            changes.add(gone[0], gone[1], -1)
        connection.execute(delete(notifications).where(notifications.c.id.in_(chunk)))
    for row in rows:
        changes.add(row.user_id, TOTAL_NOTIFICATIONS, -1)
    changes.write(connection)
    return len(rows)


def forget_idempotency(connection: Connection, before: Micros) -> None:
    connection.execute(delete(idempotency).where(idempotency.c.created_at < before))


# ------------------------------------------------------------------------------------------------------------- handlers


def add_handler(connection: Connection, user_id: int, change: HandlerChange, at: Micros) -> int:
    values = {name: value for name, value in msgspec.structs.asdict(change).items() if name != "disabled_reason"}
    row = insert(handlers).values(user_id=user_id, created_at=at, version=1, **values).returning(handlers.c.id)
    handler_id = connection.execute(row).scalar_one()
    changes = Totals()
    changes.add(user_id, TOTAL_HANDLERS)
    changes.write(connection)
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
    changes = Totals()
    changes.add(gone, TOTAL_HANDLERS, -1)
    changes.write(connection)
    return True


def touch_keys(connection: Connection, used: dict[int, Micros]) -> None:
    for key_id, at in used.items():
        connection.execute(update(keys).where(keys.c.id == key_id).values(last_used_at=at))
