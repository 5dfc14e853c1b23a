"""Rows and the nouns they become, for all reads."""

from typing import Any

import msgspec
from sqlalchemy import Connection, Row, select, text

from tocsin.model import Delivery, Message, Notification, Reason, Severity, Status
from tocsin.ports.handlers import HandlerRow
from tocsin.store.accepting import Fields
from tocsin.store.tables import IS_NOT_DELIVERED, IS_PENDING, deliveries, handlers, notifications, totals, users

_FIELDS = msgspec.json.Decoder(tuple[tuple[str, str], ...] | Fields)

# The literal conditions let SQLite use the partial indexes: with bound values it cannot.
PENDING = text(f"deliveries.{IS_PENDING}")
STILL_PENDING = text(f"+deliveries.{IS_PENDING}")  # of rows that are found otherwise: `+` keeps a database from looking through all that is
NOT_DELIVERED = text(f"deliveries.{IS_NOT_DELIVERED}")

NOTIFICATION = (
    notifications.c.id.label("n_id"),
    notifications.c.user_id.label("n_user_id"),
    notifications.c.created_at.label("accepted_at"),
    notifications.c.send_at,
    notifications.c.expires_at,
    notifications.c.kind,
    notifications.c.severity,
    notifications.c.title,
    notifications.c.text,
    notifications.c.url,
    notifications.c.fields,
    notifications.c.is_text,
)
WAITING = select(deliveries, *NOTIFICATION).join(notifications, notifications.c.id == deliveries.c.notification_id)
_TIME_ZONE = select(users.c.time_zone).where(users.c.id == handlers.c.user_id).scalar_subquery().label("time_zone")
_IS_ADMIN = select(users.c.is_admin).where(users.c.id == handlers.c.user_id).scalar_subquery().label("owner_is_admin")
HANDLER = (*(handlers.c[name] for name in HandlerRow.__struct_fields__ if name in handlers.c), _TIME_ZONE, _IS_ADMIN)


def delivery_of(row: Any) -> Delivery:
    return Delivery(
        id=row.id,
        notification_id=row.notification_id,
        handler_id=row.handler_id,
        user_id=row.user_id,
        status=Status(row.status),
        due_at=row.due_at,
        first_due_at=row.first_due_at,
        created_at=row.created_at,
        attempt_count=row.attempt_count,
        step=row.step,
        throttles=row.throttles,
        last_attempt_at=row.last_attempt_at,
        late=None if row.late is None else bool(row.late),
        may_have_arrived=bool(row.may_have_arrived),
        part=row.part,
        replays=row.replays,
        last_reason=Reason(row.last_reason) if row.last_reason else None,
        last_error=row.last_error,
        partition=row.partition,
    )


def notification_of(row: Any) -> Notification:
    kept = _FIELDS.decode(row.fields)
    fields, handlers = (kept.fields, kept.handlers) if isinstance(kept, Fields) else (kept, ())
    message = Message(
        text=row.text,
        title=row.title,
        severity=Severity(row.severity),
        url=row.url,
        fields=fields,
        at=row.accepted_at,
        kind=row.kind,
        handlers=handlers,
        is_text=bool(row.is_text),
    )
    return Notification(row.n_id, row.n_user_id, message, row.send_at, row.expires_at)


def handler_of(row: Row[Any]) -> HandlerRow:
    values: dict[str, Any] = dict(row._mapping)  # pyright: ignore[reportPrivateUsage]
    values["is_enabled"], values["owner_is_admin"] = bool(values["is_enabled"]), bool(values["owner_is_admin"])
    return HandlerRow(**values)


def total_of(connection: Connection, user_id: int, *what: int) -> int:
    """The kept total of a user's rows in these statuses, or of what else is counted."""
    rows = connection.execute(select(totals.c.n).where(totals.c.user_id == user_id, totals.c.what.in_(what)))
    return sum(row[0] for row in rows)
