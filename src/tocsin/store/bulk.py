"""The hot writes: what many callers want at once is done in a few statements, each with its SQL beside it, by name.

A statement takes many rows as one `VALUES` list, and not as `executemany`: that would give up and take back Python's lock for every
row, and wait for it each time while the event loop is busy.

Nearly all values are plain numbers and strings. The driver asks its adapters about every other one, None and booleans included
(https://docs.python.org/3/library/sqlite3.html#sqlite3-adapters), which takes ten times as long, and every value takes its time; so
rows that are nearly always alike in some columns have a statement of their own, in which those are written out.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, TypeVar

import msgspec
from msgspec import Struct
from sqlalchemy import Connection

from tocsin.clock import SECOND, Micros
from tocsin.model import Delivery, Message, Reason, Severity, Status, SwitchedOff
from tocsin.ports.intake import Accept, Accepted, Remembered
from tocsin.ports.queue import Settlement
from tocsin.store.tables import TOTAL_NOTIFICATIONS

T = TypeVar("T")


class Statement(Struct, frozen=True):
    """SQL for any number of rows: `{}` stands for them, and each is written as `row`, with a `?` for every value that differs."""

    sql: str
    row: str


ADD_NOTIFICATIONS = Statement(  # just a Markdown text and a title, to be sent at once
    "INSERT INTO notifications (id, user_id, created_at, kind, severity, title, text, url, fields) VALUES {}",
    "(?, ?, ?, 'notification', ?, ?, ?, '', '[]')",
)
ADD_ANY_NOTIFICATIONS = Statement(
    "INSERT INTO notifications (id, user_id, created_at, kind, severity, title, text, url, fields, send_at, expires_at, is_text) VALUES {}",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
)
_DELIVERY = "id, notification_id, handler_id, user_id, status, is_critical, due_at, first_due_at, created_at, last_reason"
ADD_DELIVERIES = Statement(  # to be sent; the counts begin at 0, as the table has it
    f"INSERT INTO deliveries ({_DELIVERY}) VALUES {{}}", "(?, ?, ?, ?, 0, 0, ?, ?, ?, NULL)"
)
ADD_ANY_DELIVERIES = Statement(f"INSERT INTO deliveries ({_DELIVERY}) VALUES {{}}", "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
# What has arrived, nearly all of them: the rest of the row stays or is known.
_SETTLE = "UPDATE deliveries SET status = 1, throttles = 0, may_have_arrived = 0, last_reason = 'ok', last_error = NULL"
SETTLE_AT_ONCE = Statement(  # in one part, with the first attempt, in time
    f"{_SETTLE}, attempt_count = 1, last_attempt_at = v.column2, late = 0, part = 1"
    " FROM (VALUES {}) AS v WHERE deliveries.id = v.column1",
    "(?, ?)",
)
SETTLE_DELIVERED = Statement(
    f"{_SETTLE}, attempt_count = v.column2, last_attempt_at = v.column3, late = v.column4, part = v.column5"
    " FROM (VALUES {}) AS v WHERE deliveries.id = v.column1",
    "(?, ?, ?, ?, ?)",
)
SETTLE_OTHERS = Statement(
    "UPDATE deliveries SET status = v.column2, due_at = v.column3, attempt_count = v.column4, step = v.column5, throttles = v.column6,"
    " last_attempt_at = v.column7, late = v.column8, may_have_arrived = v.column9, part = v.column10, last_reason = v.column11,"
    " last_error = v.column12 FROM (VALUES {}) AS v WHERE deliveries.id = v.column1",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
)
COUNT_ATTEMPTS = Statement(  # of what has ended otherwise meanwhile: a replay goes on from what has arrived, or may have
    "UPDATE deliveries SET attempt_count = v.column2, last_attempt_at = v.column3, may_have_arrived = v.column4, part = v.column5"
    " FROM (VALUES {}) AS v WHERE deliveries.id = v.column1",
    "(?, ?, ?, ?, ?)",
)
_ADD_ATTEMPTS = (
    "INSERT INTO attempts (delivery_id, number, at, duration_us, outcome, reason, status_code, response, next_at, provider_id, detail)"
    " VALUES {} ON CONFLICT (delivery_id, number) DO NOTHING"
)
ADD_LAST_ATTEMPTS = Statement(_ADD_ATTEMPTS, "(?, ?, ?, ?, 'delivered', 'ok', ?, ?, NULL, NULL, NULL)")  # with an answer to show
ADD_ATTEMPTS = Statement(_ADD_ATTEMPTS, "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
HANDLERS_DELIVERED = Statement(  # to the second, so that of many within one only the first writes to the handler's page
    "UPDATE handlers SET last_delivered_at = v.column2, failures = 0, failing_since = NULL FROM (VALUES {}) AS v"
    " WHERE handlers.id = v.column1 AND (last_delivered_at IS NULL OR last_delivered_at < v.column2"
    " OR (failures > 0 AND last_delivered_at = v.column2))",
    "(?, ?)",
)
ADD_HOURS = Statement(
    "INSERT INTO handler_hours (handler_id, hour, delivered, failed, expired, latencies) VALUES {}"
    " ON CONFLICT (handler_id, hour) DO UPDATE SET"
    " delivered = handler_hours.delivered + excluded.delivered, failed = handler_hours.failed + excluded.failed,"
    " expired = handler_hours.expired + excluded.expired, latencies = excluded.latencies",
    "(?, ?, ?, ?, ?, ?)",
)
ADD_TOTALS = Statement(
    "INSERT INTO totals (user_id, what, n) VALUES {} ON CONFLICT (user_id, what) DO UPDATE SET n = totals.n + excluded.n", "(?, ?, ?)"
)
REMEMBER = Statement(
    "INSERT INTO idempotency (user_id, path, key, content, answer, created_at) VALUES {}"
    " ON CONFLICT (user_id, path, key) DO UPDATE SET"
    " content = excluded.content, answer = excluded.answer, created_at = excluded.created_at",
    "(?, ?, ?, ?, ?, ?)",
)
COUNT_PENDING = Statement("SELECT count(*) FROM deliveries WHERE status = 0 AND id IN (VALUES {})", "(?)")
STATUSES = Statement("SELECT id, status FROM deliveries WHERE id IN (VALUES {})", "(?)")
LAST_ID = Statement("SELECT seq FROM sqlite_sequence WHERE name = (VALUES {})", "(?)")

_ROWS = (256, 128, 64, 32, 16, 8, 4, 2, 1)  # of one statement: few sizes, so that the driver finds them prepared

_PENDING = int(Status.PENDING)
_NO_TIMES = (None, None)


def run(connection: Connection, statement: Statement, values: Sequence[Any]) -> list[Any]:
    """Run a statement for all rows, whose values stand one after the other; what it gives back, row by row.

    Straight on the driver: SQLAlchemy takes longer than the statement.
    """
    found: list[Any] = []
    if not values:
        return found
    cursor: Any = connection.connection.cursor()
    start, end, width = 0, len(values), statement.row.count("?")
    for rows in _ROWS:
        step = rows * width
        while end - start >= step:
            cursor.execute(_with_rows(statement, rows), values[start : start + step])
            if cursor.description is not None:
                found.extend(cursor.fetchall())
            start += step
    cursor.close()
    return found


@functools.lru_cache(maxsize=256)
def _with_rows(statement: Statement, rows: int) -> str:
    return statement.sql.format(", ".join([statement.row] * rows))


class Totals(Counter[tuple[int, int]]):
    """Changes of totals within one transaction, by user and what is counted; written once at its end."""

    def write(self, connection: Connection) -> None:
        values = [value for (user_id, what), n in self.items() if n for value in (user_id, what, n)]
        run(connection, ADD_TOTALS, values)


class Fields(Struct, frozen=True):
    """What the column of that name holds for a notice; for all else it is a plain array of pairs."""

    fields: tuple[tuple[str, str], ...]
    handlers: tuple[SwitchedOff, ...]


def fields_text(message: Message) -> str:
    kept = Fields(message.fields, message.handlers) if message.handlers else message.fields
    return msgspec.json.encode(kept).decode()


def remember(connection: Connection, user_id: int, at: Micros, what: Remembered) -> None:
    answer = ",".join(map(str, what.answer))
    run(connection, REMEMBER, (user_id, what.path, what.key, what.content, answer, at))


class AcceptAll:
    """Keep notifications and their deliveries. Somebody waits for the answer, so it does not linger."""

    linger_seconds: ClassVar[float] = 0.0

    @staticmethod
    def run_all(connection: Connection, writes: Sequence[Accept]) -> list[Accepted]:
        notification_id = _next_id(connection, "notifications")
        delivery_id = _next_id(connection, "deliveries")
        notifications: list[Any] = []
        any_notifications: list[Any] = []
        deliveries: list[Any] = []
        any_deliveries: list[Any] = []
        totals = Totals()
        results: list[Accepted] = []
        pending, critical = Status.PENDING, Severity.CRITICAL
        for accept in writes:
            results.append(Accepted(notification_id, delivery_id))
            user_id, at = accept.user_id, accept.at
            first_delivery_id, counted = delivery_id, 0
            for planned in accept.planned:
                message = planned.message
                severity = message.severity
                is_critical = 1 if severity is critical else 0
                title, text, url, kind = message.title, message.text, message.url, message.kind
                times = (planned.send_at, planned.expires_at)
                if url or message.fields or kind != "notification" or message.is_text or times != _NO_TIMES:
                    fields = fields_text(message)
                    any_notifications += (notification_id, user_id, at, kind, severity._value_, title, text, url, fields, *times)
                    any_notifications.append(1 if message.is_text else 0)
                else:
                    notifications += (notification_id, user_id, at, severity._value_, title, text)  # `value` is a call
                for one in planned.deliveries:
                    handler_id, due_at = one.handler_id, one.due_at
                    if one.status is pending and not is_critical:
                        deliveries += (delivery_id, notification_id, handler_id, user_id, due_at, due_at, at)
                    else:
                        status = one.status._value_
                        any_deliveries += (delivery_id, notification_id, handler_id, user_id, status, is_critical, due_at, due_at, at)
                        any_deliveries.append(None if one.reason is None else one.reason._value_)
                        totals[user_id, status] += 1
                        counted += 1
                    delivery_id += 1
                notification_id += 1
            totals[user_id, _PENDING] += delivery_id - first_delivery_id - counted
            totals[user_id, TOTAL_NOTIFICATIONS] += len(accept.planned)
        run(connection, ADD_NOTIFICATIONS, notifications)
        run(connection, ADD_ANY_NOTIFICATIONS, any_notifications)
        run(connection, ADD_DELIVERIES, deliveries)
        run(connection, ADD_ANY_DELIVERIES, any_deliveries)
        for accept, accepted in zip(writes, results, strict=True):
            if accept.idempotency is not None:
                first = accepted.first_notification_id
                answer = tuple(range(first, first + len(accept.planned)))
                remember(connection, accept.user_id, accept.at, msgspec.structs.replace(accept.idempotency, answer=answer))
        totals.write(connection)
        return results


def _next_id(connection: Connection, table: str) -> int:
    """The first id never used before. Inside a write transaction, so nobody else takes it."""
    if connection.dialect.name != "sqlite":
        raise NotImplementedError("ids of other databases come with them")
    found = run(connection, LAST_ID, (table,))
    return found[0][0] + 1 if found else 1


class SettleAll:
    """Keep how deliveries stand after their attempts, and the attempts' log rows. Nobody waits for it but the in-flight ledger."""

    linger_seconds: ClassVar[float] = 0.008

    @staticmethod
    def run_all(connection: Connection, writes: Sequence[Settlement]) -> list[bool]:
        statuses = _statuses(connection, [write.delivery.id for write in writes])
        at_once: list[Any] = []
        delivered: list[Any] = []
        others: list[Any] = []
        counted: list[Any] = []
        attempts: list[Any] = []
        last_attempts: list[Any] = []
        arrived: dict[int, Micros] = {}
        moved: list[tuple[int, int, int]] = []  # user, status before, status
        applied: list[bool] = []
        is_delivered, ok = Status.DELIVERED, Reason.OK
        for write in writes:
            delivery, attempt = write.delivery, write.attempt
            delivery_id, status = delivery.id, delivery.status
            before = statuses.get(delivery_id)
            if before is None:
                applied.append(False)
                continue
            # What has arrived has arrived, even if somebody cancelled it meanwhile.
            wanted = status is is_delivered or before == _PENDING
            applied.append(wanted)
            if wanted and before != status:
                moved.append((delivery.user_id, before, status))
                statuses[delivery_id] = status
            if status is is_delivered:
                number, at, late, part = delivery.attempt_count, delivery.last_attempt_at, delivery.late, delivery.part
                if number == part == 1 and not late:
                    at_once += (delivery_id, at)
                else:
                    delivered += (delivery_id, number, at, 1 if late else 0, part)
                if write.at > arrived.get(delivery.handler_id, 0):  # one that had to wait for the store may come late
                    arrived[delivery.handler_id] = write.at
            elif wanted:
                others += _settled_row(delivery)
            elif attempt is not None:
                counted += (delivery_id, attempt.number, attempt.at, 1 if delivery.may_have_arrived else 0, delivery.part)
            if attempt is not None:
                number, at, duration_us, outcome, reason = attempt.number, attempt.at, attempt.duration_us, attempt.outcome, attempt.reason
                code, response = attempt.status_code, attempt.response
                named, detail = attempt.provider_id, attempt.detail
                if outcome == "delivered" and reason is ok and response is not None and named is detail is None:
                    last_attempts += (delivery_id, number, at, duration_us, code, response)
                else:
                    next_at = attempt.next_at if wanted else None
                    attempts += (delivery_id, number, at, duration_us, outcome, reason._value_, code, response, next_at, named, detail)
        run(connection, SETTLE_AT_ONCE, at_once)
        run(connection, SETTLE_DELIVERED, delivered)
        run(connection, SETTLE_OTHERS, others)
        run(connection, COUNT_ATTEMPTS, counted)
        run(connection, ADD_ATTEMPTS, attempts)
        run(connection, ADD_LAST_ATTEMPTS, last_attempts)
        run(connection, HANDLERS_DELIVERED, [value for handler_id, at in arrived.items() for value in (handler_id, at - at % SECOND)])
        totals = Totals()
        for (user_id, before, status), n in Counter(moved).items():
            totals[user_id, before] -= n
            totals[user_id, int(status)] += n
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
        None if delivery.last_reason is None else delivery.last_reason._value_,
        delivery.last_error,
    )


def _statuses(connection: Connection, ids: Sequence[int]) -> dict[int, int]:
    """The status of each delivery that is there. Nearly always all are pending, and one number says so."""
    found = dict.fromkeys(ids, _PENDING)
    different = list(found)
    if sum(count for (count,) in run(connection, COUNT_PENDING, different)) == len(different):
        return found
    return dict(run(connection, STATUSES, different))


def chunks(ids: Sequence[T], size: int = 500) -> Iterable[Sequence[T]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))
