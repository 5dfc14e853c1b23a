"""The hot writes: what many callers want at once is done in a few statements, each with its SQL beside it, by name.

A statement takes many rows as one `VALUES` list, and not as `executemany`: that would give up and take back Python's lock for every
row, and wait for it each time while the event loop is busy.

Nearly all values are plain numbers and strings. The driver asks its adapters about every other one, None and booleans included
(https://docs.python.org/3/library/sqlite3.html#sqlite3-adapters), which takes ten times as long; so columns that are nearly always
empty have a statement of their own.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import msgspec
from sqlalchemy import Connection

from tocsin.model import Delivery, Micros, Reason, Severity, Status
from tocsin.store import Accept, Accepted, Remembered, Settlement
from tocsin.store.tables import TOTAL_NOTIFICATIONS

# `?` stands for the rows, in parentheses, with as many values as each has.
ADD_NOTIFICATIONS = "INSERT INTO notifications (id, user_id, created_at, kind, severity, title, text, url, fields) VALUES ?"
ADD_TIMED_NOTIFICATIONS = (
    "INSERT INTO notifications (id, user_id, created_at, kind, severity, title, text, url, fields, send_at, expires_at) VALUES ?"
)
ADD_DELIVERIES = (  # the counts begin at 0, as the table has it
    "INSERT INTO deliveries (id, notification_id, handler_id, user_id, status, due_at, first_due_at, created_at, is_critical) VALUES ?"
)
ADD_SKIPPED_DELIVERIES = (
    "INSERT INTO deliveries (id, notification_id, handler_id, user_id, status, due_at, first_due_at, created_at, is_critical, last_reason)"
    " VALUES ?"
)
SETTLE_DELIVERIES = (
    "UPDATE deliveries SET status = v.column2, due_at = v.column3, attempt_count = v.column4, step = v.column5, throttles = v.column6,"
    " last_attempt_at = v.column7, late = v.column8, may_have_arrived = v.column9, part = v.column10, last_reason = v.column11,"
    " last_error = v.column12 FROM (VALUES ?) AS v WHERE deliveries.id = v.column1"
)
# The same for what has arrived, nearly all of them: the rest of the row stays or is known.
SETTLE_DELIVERED = (
    "UPDATE deliveries SET status = 1, throttles = 0, may_have_arrived = 0, last_reason = 'ok', last_error = NULL,"
    " attempt_count = v.column2, last_attempt_at = v.column3, late = v.column4, part = v.column5"
    " FROM (VALUES ?) AS v WHERE deliveries.id = v.column1"
)
COUNT_ATTEMPTS = (
    "UPDATE deliveries SET attempt_count = v.column2, last_attempt_at = v.column3 FROM (VALUES ?) AS v WHERE deliveries.id = v.column1"
)
ADD_ATTEMPTS = (
    "INSERT INTO attempts (delivery_id, number, at, duration_us, outcome, reason, status_code, response, next_at) VALUES ?"
    " ON CONFLICT (delivery_id, number) DO NOTHING"
)
ADD_ANSWERED_ATTEMPTS = (  # the last ones, with an answer to show
    "INSERT INTO attempts (delivery_id, number, at, duration_us, outcome, reason, status_code, response) VALUES ?"
    " ON CONFLICT (delivery_id, number) DO NOTHING"
)
HANDLERS_DELIVERED = (
    "UPDATE handlers SET last_delivered_at = v.column2, failures = 0, failing_since = NULL FROM (VALUES ?) AS v"
    " WHERE handlers.id = v.column1 AND (last_delivered_at IS NULL OR last_delivered_at < v.column2)"
)
ADD_HOURS = (
    "INSERT INTO handler_hours (handler_id, hour, delivered, failed, expired, latencies) VALUES ?"
    " ON CONFLICT (handler_id, hour) DO UPDATE SET"
    " delivered = handler_hours.delivered + excluded.delivered, failed = handler_hours.failed + excluded.failed,"
    " expired = handler_hours.expired + excluded.expired, latencies = excluded.latencies"
)
ADD_TOTALS = "INSERT INTO totals (user_id, what, n) VALUES ? ON CONFLICT (user_id, what) DO UPDATE SET n = totals.n + excluded.n"
REMEMBER = (
    "INSERT INTO idempotency (user_id, path, key, content, answer, created_at) VALUES ?"
    " ON CONFLICT (user_id, path, key) DO UPDATE SET content = excluded.content, answer = excluded.answer, created_at = excluded.created_at"
)
COUNT_PENDING = "SELECT count(*) FROM deliveries WHERE status = 0 AND id IN (VALUES ?)"
STATUSES = "SELECT id, status FROM deliveries WHERE id IN (VALUES ?)"
LAST_ID = "SELECT seq FROM sqlite_sequence WHERE name = (VALUES ?)"

_ROWS = (256, 128, 64, 32, 16, 8, 4, 2, 1)  # of one statement: few sizes, so that the driver finds them prepared

_PENDING = int(Status.PENDING)
# As plain strings: an enum's `value` is a call.
_WORDS = {reason: reason.value for reason in Reason}
_SEVERITIES = {severity: severity.value for severity in Severity}


def run(connection: Connection, statement: str, values: Sequence[Any], width: int) -> list[Any]:
    """Run a statement for all rows, whose `width` values each stand one after the other; what it gives back, row by row.

    Straight on the driver: SQLAlchemy takes longer than the statement.
    """
    found: list[Any] = []
    if not values:
        return found
    cursor: Any = connection.connection.cursor()
    start, end = 0, len(values)
    for rows in _ROWS:
        step = rows * width
        while end - start >= step:
            cursor.execute(_with_rows(statement, rows, width), values[start : start + step])
            if cursor.description is not None:
                found.extend(cursor.fetchall())
            start += step
    cursor.close()
    return found


@functools.lru_cache(maxsize=256)
def _with_rows(statement: str, rows: int, width: int) -> str:
    row = f"({', '.join('?' * width)})"
    return statement.replace("?", ", ".join([row] * rows))


class Totals(Counter[tuple[int, int]]):
    """Changes of totals within one transaction, by user and what is counted; written once at its end."""

    def write(self, connection: Connection) -> None:
        values = [value for (user_id, what), n in self.items() if n for value in (user_id, what, n)]
        run(connection, ADD_TOTALS, values, 3)


def remember(connection: Connection, user_id: int, at: Micros, what: Remembered) -> None:
    answer = ",".join(map(str, what.answer))
    run(connection, REMEMBER, (user_id, what.path, what.key, what.content, answer, at), 6)


class AcceptAll:
    """Keep notifications and their deliveries. Somebody waits for the answer, so it does not linger."""

    linger_seconds: ClassVar[float] = 0.0

    @staticmethod
    def run_all(connection: Connection, writes: Sequence[Accept]) -> list[list[Accepted]]:
        notification_id = _next_id(connection, "notifications")
        delivery_id = _next_id(connection, "deliveries")
        notification_values: list[Any] = []
        timed_values: list[Any] = []
        delivery_values: list[Any] = []
        skipped_values: list[Any] = []
        statuses: list[tuple[int, int]] = []
        results: list[list[Accepted]] = []
        for accept in writes:
            accepted: list[Accepted] = []
            user_id, at = accept.user_id, accept.at
            for planned in accept.planned:
                message = planned.message
                severity = message.severity
                is_critical = 1 if severity is Severity.CRITICAL else 0
                fields = msgspec.json.encode(message.fields).decode() if message.fields else "[]"
                is_timed = planned.send_at is not None or planned.expires_at is not None
                values = timed_values if is_timed else notification_values
                values += (
                    notification_id,
                    user_id,
                    at,
                    message.kind,
                    _SEVERITIES[severity],
                    message.title,
                    message.text,
                    message.url,
                    fields,
                )
                if is_timed:
                    values += (planned.send_at, planned.expires_at)
                accepted.append(Accepted(notification_id, delivery_id))
                for one in planned.deliveries:
                    status, due_at = one.status._value_, one.due_at
                    values = delivery_values if one.reason is None else skipped_values
                    values += (delivery_id, notification_id, one.handler_id, user_id, status, due_at, due_at, at, is_critical)
                    if one.reason is not None:
                        values.append(_WORDS[one.reason])
                    statuses.append((user_id, status))
                    delivery_id += 1
                notification_id += 1
            results.append(accepted)
        run(connection, ADD_NOTIFICATIONS, notification_values, 9)
        run(connection, ADD_TIMED_NOTIFICATIONS, timed_values, 11)
        run(connection, ADD_DELIVERIES, delivery_values, 9)
        run(connection, ADD_SKIPPED_DELIVERIES, skipped_values, 10)
        for accept, accepted in zip(writes, results, strict=True):
            if accept.idempotency is not None:
                answer = tuple(one.notification_id for one in accepted)
                remember(connection, accept.user_id, accept.at, msgspec.structs.replace(accept.idempotency, answer=answer))
        totals = Totals(statuses)
        for accept, accepted in zip(writes, results, strict=True):
            totals[accept.user_id, TOTAL_NOTIFICATIONS] += len(accepted)
        totals.write(connection)
        return results


def _next_id(connection: Connection, table: str) -> int:
    """The first id never used before. Inside a write transaction, so nobody else takes it."""
    if connection.dialect.name != "sqlite":
        raise NotImplementedError("ids of other databases come with them")
    found = run(connection, LAST_ID, (table,), 1)
    return found[0][0] + 1 if found else 1


class SettleAll:
    """Keep how deliveries stand after their attempts, and the attempts' log rows. Nobody waits for it but the in-flight ledger."""

    linger_seconds: ClassVar[float] = 0.008

    @staticmethod
    def run_all(connection: Connection, writes: Sequence[Settlement]) -> list[bool]:
        statuses = _statuses(connection, [write.delivery.id for write in writes])
        delivered: list[Any] = []
        others: list[Any] = []
        counted: list[Any] = []
        attempts: list[Any] = []
        answered: list[Any] = []
        arrived: dict[int, Micros] = {}
        left: list[tuple[int, int]] = []
        entered: list[tuple[int, int]] = []
        applied: list[bool] = []
        is_delivered = Status.DELIVERED
        for write in writes:
            delivery, attempt = write.delivery, write.attempt
            delivery_id, status = delivery.id, delivery.status
            before = statuses.get(delivery_id)
            # What has arrived has arrived, even if somebody cancelled it meanwhile.
            wanted = before == _PENDING or (before is not None and status is is_delivered)
            applied.append(wanted)
            if before is None:
                continue
            if wanted:
                if before != status:
                    left.append((delivery.user_id, before))
                    entered.append((delivery.user_id, int(status)))
                    statuses[delivery_id] = int(status)
                if status is is_delivered:
                    late = 1 if delivery.late else 0
                    delivered += (delivery_id, delivery.attempt_count, delivery.last_attempt_at, late, delivery.part)
                    if write.at > arrived.get(delivery.handler_id, 0):
                        arrived[delivery.handler_id] = write.at
                else:
                    others += _settled_row(delivery)
            elif attempt is not None:
                counted += (delivery_id, attempt.number, attempt.at)
            if attempt is not None:
                next_at = attempt.next_at if wanted else None
                is_answered = attempt.response is not None and next_at is None
                values = answered if is_answered else attempts
                values += (delivery_id, attempt.number, attempt.at, attempt.duration_us, attempt.outcome, _WORDS[attempt.reason])
                values += (attempt.status_code, attempt.response)
                if not is_answered:
                    values.append(next_at)
        run(connection, SETTLE_DELIVERED, delivered, 5)
        run(connection, SETTLE_DELIVERIES, others, 12)
        run(connection, COUNT_ATTEMPTS, counted, 3)
        run(connection, ADD_ATTEMPTS, attempts, 9)
        run(connection, ADD_ANSWERED_ATTEMPTS, answered, 8)
        run(connection, HANDLERS_DELIVERED, [value for item in arrived.items() for value in item], 2)
        totals = Totals(entered)
        totals.subtract(left)
        totals.write(connection)
        return applied


def _settled_row(delivery: Delivery) -> tuple[Any, ...]:
    return (
        delivery.id,
        int(delivery.status),
        delivery.due_at,
        delivery.attempt_count,
        delivery.step,
        delivery.throttles,
        delivery.last_attempt_at,
        delivery.late,
        delivery.may_have_arrived,
        delivery.part,
        None if delivery.last_reason is None else _WORDS[delivery.last_reason],
        delivery.last_error,
    )


def _statuses(connection: Connection, ids: Sequence[int]) -> dict[int, int]:
    """The status of each delivery that is there. Nearly always all are pending, and one number says so."""
    found = dict.fromkeys(ids, _PENDING)
    different = list(found)
    if sum(count for (count,) in run(connection, COUNT_PENDING, different, 1)) == len(different):
        return found
    return dict(run(connection, STATUSES, different, 1))


def chunks(ids: Sequence[int], size: int = 500) -> Iterable[Sequence[int]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))
