"""How notifications and their deliveries are kept: those of many callers in a few statements."""

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
from msgspec import Struct
from sqlalchemy import Connection

from tocsin.clock import Micros
from tocsin.model import Message, Severity, Status, SwitchedOff
from tocsin.ports.intake import Accept, Accepted, Remembered
from tocsin.store.statements import Statement, Totals, run
from tocsin.store.tables import TOTAL_NOTIFICATIONS

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
REMEMBER = Statement(
    "INSERT INTO idempotency (user_id, path, key, content, answer, created_at) VALUES {}"
    " ON CONFLICT (user_id, path, key) DO UPDATE SET"
    " content = excluded.content, answer = excluded.answer, created_at = excluded.created_at",
    "(?, ?, ?, ?, ?, ?)",
)
LAST_ID = Statement("SELECT seq FROM sqlite_sequence WHERE name = (VALUES {})", "(?)")


_PENDING = int(Status.PENDING)
_NO_TIMES = (None, None)


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
