"""How notifications and their deliveries are kept: those of many callers in a few statements."""

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
from msgspec import Struct
from sqlalchemy import Connection

from tocsin.clock import Micros
from tocsin.model import Message, Severity, Status, SwitchedOff
from tocsin.ports.intake import Accept, Accepted, Remembered
from tocsin.store.ids import next_ids
from tocsin.store.statements import insert, run, upsert
from tocsin.store.tables import TOTAL_NOTIFICATIONS, deliveries, idempotency, notifications
from tocsin.store.totals import Totals

_NOTIFICATION = ("id", "user_id", "created_at", "severity", "title", "text")
ADD_NOTIFICATIONS = insert(  # just a Markdown text and a title, to be sent at once
    notifications, given=_NOTIFICATION, fixed={"kind": "notification", "url": "", "fields": "[]"}
)
ADD_ANY_NOTIFICATIONS = insert(notifications, given=(*_NOTIFICATION, "kind", "url", "fields", "send_at", "expires_at", "is_text"))
_DELIVERY = ("id", "notification_id", "handler_id", "user_id", "due_at", "first_due_at", "created_at")
ADD_DELIVERIES = insert(  # to be sent; the counts begin at 0, as the table has it
    deliveries, given=_DELIVERY, fixed={"status": Status.PENDING, "is_critical": False, "last_reason": None}
)
ADD_ANY_DELIVERIES = insert(deliveries, given=(*_DELIVERY, "status", "is_critical", "last_reason"))
REMEMBER = upsert(idempotency, key=("user_id", "path", "key"), given=("content", "answer", "created_at"))

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
    run(connection, REMEMBER, [(user_id, what.path, what.key, what.content, answer, at)])


class AcceptAll:
    """Keep notifications and their deliveries. Somebody waits for the answer, so it does not linger."""

    linger_seconds: ClassVar[float] = 0.0

    @staticmethod
    def run_all(connection: Connection, writes: Sequence[Accept]) -> list[Accepted]:
        notification_id = _next_id(connection, "notifications")
        delivery_id = _next_id(connection, "deliveries")
        plain_notifications: list[Any] = []
        any_notifications: list[Any] = []
        plain_deliveries: list[Any] = []
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
                    row = (notification_id, user_id, at, severity._value_, title, text)
                    any_notifications.append((*row, kind, url, fields, *times, 1 if message.is_text else 0))
                else:
                    plain_notifications.append((notification_id, user_id, at, severity._value_, title, text))  # `value` is a call
                for one in planned.deliveries:
                    handler_id, due_at = one.handler_id, one.due_at
                    if one.status is pending and not is_critical:
                        plain_deliveries.append((delivery_id, notification_id, handler_id, user_id, due_at, due_at, at))
                    else:
                        status = one.status._value_
                        reason = None if one.reason is None else one.reason._value_
                        row = (delivery_id, notification_id, handler_id, user_id, due_at, due_at, at)
                        any_deliveries.append((*row, status, is_critical, reason))
                        totals[user_id, status] += 1
                        counted += 1
                    delivery_id += 1
                notification_id += 1
            totals[user_id, _PENDING] += delivery_id - first_delivery_id - counted
            totals[user_id, TOTAL_NOTIFICATIONS] += len(accept.planned)
        run(connection, ADD_NOTIFICATIONS, plain_notifications)
        run(connection, ADD_ANY_NOTIFICATIONS, any_notifications)
        run(connection, ADD_DELIVERIES, plain_deliveries)
        run(connection, ADD_ANY_DELIVERIES, any_deliveries)
        for accept, accepted in zip(writes, results, strict=True):
            if accept.idempotency is not None:
                first = accepted.first_notification_id
                answer = tuple(range(first, first + len(accept.planned)))
                remember(connection, accept.user_id, accept.at, msgspec.structs.replace(accept.idempotency, answer=answer))
        totals.write(connection)
        return results


def _next_id(connection: Connection, table: str) -> int:
    return next_ids(connection, table, 1)[0]
