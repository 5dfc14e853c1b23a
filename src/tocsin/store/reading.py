"""The reads, as functions of an open connection."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, Select, Subquery, and_, func, literal_column, or_, select, text, union_all

from tocsin.model import Attempt, Delivery, Message, Micros, Notification, Reason, Severity, Status
from tocsin.store import (
    BACKLOG_AFTER,
    DeliveryFilter,
    HandlerBrief,
    HandlerEvent,
    HandlerFacts,
    HandlerFilter,
    HandlerHour,
    HandlerRow,
    KeyRow,
    Label,
    Labels,
    Page,
    Recent,
    Remembered,
    Streak,
    Waiting,
)
from tocsin.store.tables import (
    TOTAL_HANDLERS,
    TOTAL_NOTIFICATIONS,
    attempts,
    deliveries,
    handler_events,
    handlers,
    idempotency,
    keys,
    notifications,
    totals,
    users,
)
from tocsin.store.tables import handler_hours as hours

COUNT_CAP = 10_000  # filtered lists are counted no further
_FIELDS = msgspec.json.Decoder(tuple[tuple[str, str], ...])
AnySelect = Select[Any]
M = TypeVar("M")

# ---------------------------------------------------------------------------------------------------------- rows to nouns


def delivery_of(row: Row[Any]) -> Delivery:
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
    )


def notification_of(row: Any) -> Notification:
    message = Message(
        text=row.text,
        title=row.title,
        severity=Severity(row.severity),
        url=row.url,
        fields=_FIELDS.decode(row.fields),
        at=row.accepted_at,
        kind=row.kind,
    )
    return Notification(row.n_id, row.n_user_id, message, row.send_at, row.expires_at)


_NOTIFICATION = (
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
)


def _handler_of(row: Row[Any]) -> HandlerRow:
    values: dict[str, Any] = dict(row._mapping)  # pyright: ignore[reportPrivateUsage]
    values["is_enabled"] = bool(values["is_enabled"])
    return HandlerRow(**values)


_HANDLER = tuple(handlers.c[name] for name in HandlerRow.__struct_fields__)


# ------------------------------------------------------------------------------------------------------- what is due

# A loose index scan: one step per handler, not per row (https://wiki.postgresql.org/wiki/Loose_indexscan).
_WAITING_HANDLERS = text(
    "WITH RECURSIVE lane(handler_id) AS ("
    " SELECT min(handler_id) FROM deliveries WHERE status = 0"
    " UNION ALL SELECT (SELECT min(handler_id) FROM deliveries WHERE status = 0 AND handler_id > lane.handler_id)"
    " FROM lane WHERE lane.handler_id IS NOT NULL)"
    " SELECT handler_id, (SELECT min(due_at) FROM deliveries d WHERE d.status = 0 AND d.handler_id = lane.handler_id)"
    " FROM lane WHERE handler_id IS NOT NULL"
)


def waiting_handlers(connection: Connection) -> list[tuple[int, Micros]]:
    return [(row[0], row[1]) for row in connection.execute(_WAITING_HANDLERS)]


# The literal conditions let SQLite use the partial indexes: with bound values it cannot.
_PENDING = text("deliveries.status = 0")
_NOT_DELIVERED = text("deliveries.status NOT IN (0, 1)")
_WAITING = select(deliveries, *_NOTIFICATION).join(notifications, notifications.c.id == deliveries.c.notification_id)


_CRITICAL = text("deliveries.status = 0 AND deliveries.is_critical = 1")


def due(connection: Connection, handler_id: int, now: Micros, limit: int) -> tuple[list[Waiting], Micros | None]:
    ordered = _WAITING.where(deliveries.c.handler_id == handler_id).order_by(deliveries.c.due_at, deliveries.c.id).limit(limit)
    urgent = ordered.where(_CRITICAL, deliveries.c.due_at <= now - BACKLOG_AFTER)
    late = connection.execute(urgent).all()
    first = {row.id for row in late}
    rest = [row for row in connection.execute(ordered.where(_PENDING, deliveries.c.due_at <= now)) if row.id not in first]
    found = [Waiting(delivery_of(row), notification_of(row)) for row in [*late, *rest][:limit]]
    later = select(func.min(deliveries.c.due_at)).where(_PENDING, deliveries.c.handler_id == handler_id, deliveries.c.due_at > now)
    return found, connection.scalar(later)


def waiting(connection: Connection, delivery_ids: Sequence[int]) -> list[Waiting]:
    rows = connection.execute(_WAITING.where(_PENDING, deliveries.c.id.in_(delivery_ids)))
    return [Waiting(delivery_of(row), notification_of(row)) for row in rows]


def recent(connection: Connection, since: Micros, types: Sequence[str], most: int) -> list[Recent]:
    newest = select(func.coalesce(func.max(deliveries.c.id), 0)).scalar_subquery()
    of_types = select(handlers.c.id).where(handlers.c.type.in_(types))
    is_throttled = and_(_PENDING, deliveries.c.throttles > 0)
    found = connection.execute(
        select(deliveries.c.handler_id, deliveries.c.last_attempt_at, deliveries.c.status, deliveries.c.throttles, deliveries.c.due_at)
        .where(deliveries.c.id > newest - most, deliveries.c.last_attempt_at.is_not(None))
        .where(or_(and_(deliveries.c.last_attempt_at >= since, deliveries.c.handler_id.in_(of_types)), is_throttled))
    )
    rows: dict[int, Recent] = {}
    for row in found:
        one = rows.setdefault(row.handler_id, Recent(row.handler_id))
        if row.last_attempt_at >= since:
            one.attempts.append(row.last_attempt_at)
        if row.status == Status.PENDING and row.throttles:
            one.throttled_until = max(one.throttled_until, row.due_at)
    return list(rows.values())


def ahead(connection: Connection, delivery: Delivery, most: int) -> int:
    earlier = or_(deliveries.c.due_at < delivery.due_at, and_(deliveries.c.due_at == delivery.due_at, deliveries.c.id < delivery.id))
    these = select(deliveries.c.id).where(_PENDING, deliveries.c.handler_id == delivery.handler_id, earlier).limit(most).subquery()
    return connection.scalar(select(func.count()).select_from(these)) or 0


# ------------------------------------------------------------------------------------------------------ notifications


def _total(connection: Connection, user_id: int, *what: int) -> int:
    rows = connection.execute(select(totals.c.n).where(totals.c.user_id == user_id, totals.c.what.in_(what)))
    return sum(row[0] for row in rows)


def notifications_page(connection: Connection, user_id: int, page: int, size: int) -> Page[tuple[Notification, dict[Status, int]]]:
    rows = connection.execute(
        select(*_NOTIFICATION)
        .where(notifications.c.user_id == user_id)
        .order_by(notifications.c.id.desc())
        .limit(size)
        .offset((page - 1) * size)
    )
    found = [notification_of(row) for row in rows]
    counts = _counts(connection, [one.id for one in found])
    return Page([(one, counts[one.id]) for one in found], _total(connection, user_id, TOTAL_NOTIFICATIONS))


def notification(connection: Connection, user_id: int, notification_id: int) -> tuple[Notification, dict[Status, int]] | None:
    row = connection.execute(
        select(*_NOTIFICATION).where(notifications.c.id == notification_id, notifications.c.user_id == user_id)
    ).first()
    return None if row is None else (notification_of(row), _counts(connection, [notification_id])[notification_id])


def _counts(connection: Connection, ids: Sequence[int]) -> dict[int, dict[Status, int]]:
    found: dict[int, dict[Status, int]] = {one: dict.fromkeys(Status, 0) for one in ids}
    columns = deliveries.c.notification_id, deliveries.c.status
    rows = connection.execute(select(*columns, func.count()).where(deliveries.c.notification_id.in_(ids)).group_by(*columns))
    for notification_id, status, count in rows:
        found[notification_id][Status(status)] = count
    return found


# --------------------------------------------------------------------------------------------------------- deliveries


def _with_filters(chosen: AnySelect, which: DeliveryFilter) -> AnySelect:
    if which.notification_id is not None:
        chosen = chosen.where(deliveries.c.notification_id == which.notification_id)
    if which.before is not None:
        chosen = chosen.where(deliveries.c.id < which.before)
    if which.datetime_start is not None:
        chosen = chosen.where(deliveries.c.created_at >= which.datetime_start)
    if which.datetime_end is not None:
        chosen = chosen.where(deliveries.c.created_at <= which.datetime_end)
    if which.reason is not None:
        chosen = chosen.where(deliveries.c.last_reason == which.reason.value)
    if which.search or which.severity is not None:
        chosen = chosen.join(notifications, notifications.c.id == deliveries.c.notification_id)
    if which.severity is not None:
        chosen = chosen.where(notifications.c.severity == which.severity.value)
    if which.search:
        chosen = chosen.where(
            or_(
                notifications.c.title.icontains(which.search, autoescape=True),
                notifications.c.text.icontains(which.search, autoescape=True),
                deliveries.c.last_error.icontains(which.search, autoescape=True),
            )
        )
    return chosen


def _newest(user_id: int, which: DeliveryFilter, statuses: Sequence[Status], limit: int) -> Subquery:
    """Ids of the newest deliveries that fit: status by status, in index order, and merged; a handler's pending ones are sorted."""
    return _merged(user_id, which, statuses, limit, deliveries.c.id.desc())


def _merged(user_id: int, which: DeliveryFilter, statuses: Sequence[Status], limit: int, *order: ColumnElement[Any]) -> Subquery:
    parts: list[Select[tuple[int]]] = []
    for status in statuses:
        chosen = select(deliveries.c.id).where(deliveries.c.user_id == user_id, deliveries.c.status == int(status))
        if which.notification_handler_id is not None:
            chosen = _of_handler(user_id, which.notification_handler_id, status)
        elif which.notification_id is not None:
            chosen = select(deliveries.c.id).where(
                literal_column("+deliveries.user_id") == user_id, literal_column("+deliveries.status") == int(status)
            )
        part = _with_filters(chosen, which).order_by(*order).limit(limit).subquery()
        parts.append(select(part.c.id))
    return union_all(*parts).subquery()


def _of_handler(user_id: int, handler_id: int, status: Status) -> Select[tuple[int]]:
    """What has arrived is searched in the user's index; the rest, the few that people look for, has indexes of its own."""
    chosen = select(deliveries.c.id).where(deliveries.c.handler_id == handler_id)
    if status is Status.DELIVERED:
        return chosen.where(deliveries.c.user_id == user_id, deliveries.c.status == int(status))
    narrowed = _PENDING if status is Status.PENDING else and_(_NOT_DELIVERED, deliveries.c.status == int(status))
    # The unary plus keeps SQLite from choosing the user's index.
    return chosen.where(narrowed, literal_column("+deliveries.user_id") == user_id)


def chosen_deliveries(user_id: int, which: DeliveryFilter | int, statuses: Sequence[Status], limit: int) -> Subquery:
    """Ids of up to `limit` deliveries in one of the statuses: the one named, or those that a filter lets through."""
    if isinstance(which, int):
        wanted = [int(status) for status in statuses]
        return (
            select(deliveries.c.id)
            .where(deliveries.c.id == which, deliveries.c.user_id == user_id, deliveries.c.status.in_(wanted))
            .subquery()
        )
    wanted = [status for status in statuses if which.status in (None, status)] or [Status.PENDING]
    nothing = which.status is not None and which.status not in statuses
    merged = _newest(user_id, which, wanted, 0 if nothing else limit)
    return select(merged.c.id).order_by(merged.c.id.desc()).limit(0 if nothing else limit).subquery()


def deliveries_page(connection: Connection, user_id: int, which: DeliveryFilter, page: int, size: int) -> Page[Delivery]:
    statuses = [status for status in Status if which.status in (None, status)]
    if which.reason is not None:  # what has arrived, nearly all there is, did so for one reason, and nothing else did
        statuses = [status for status in statuses if (status is Status.DELIVERED) is (which.reason is Reason.OK)]
        if not statuses:
            return Page([], 0)
    total, exact = _deliveries_total(connection, user_id, which, statuses)
    if (page - 1) * size >= total and exact:
        return Page([], total)
    merged = _newest(user_id, which, statuses, page * size)
    ids = select(merged.c.id).order_by(merged.c.id.desc()).limit(size).offset((page - 1) * size)
    rows = connection.execute(select(deliveries).where(deliveries.c.id.in_(ids)).order_by(deliveries.c.id.desc()))
    return Page([delivery_of(row) for row in rows], total, exact)


def _deliveries_total(connection: Connection, user_id: int, which: DeliveryFilter, statuses: Sequence[Status]) -> tuple[int, bool]:
    if which.only_status:
        return _total(connection, user_id, *(int(status) for status in statuses)), True
    merged = _merged(user_id, which, statuses, COUNT_CAP + 1)
    count = connection.scalar(select(func.count()).select_from(select(merged.c.id).limit(COUNT_CAP + 1).subquery())) or 0
    return (COUNT_CAP, False) if count > COUNT_CAP else (count, True)


def delivery(connection: Connection, user_id: int, delivery_id: int) -> tuple[Delivery, Notification, list[Attempt]] | None:
    row = connection.execute(_WAITING.where(deliveries.c.id == delivery_id, deliveries.c.user_id == user_id)).first()
    if row is None:
        return None
    tried = connection.execute(select(attempts).where(attempts.c.delivery_id == delivery_id).order_by(attempts.c.number))
    log = [
        Attempt(
            one.delivery_id,
            one.number,
            one.at,
            one.duration_us,
            one.outcome,
            Reason(one.reason),
            one.status_code,
            one.response,
            one.next_at,
        )
        for one in tried
    ]
    return delivery_of(row), notification_of(row), log


def labels(connection: Connection, user_id: int, notification_ids: Sequence[int], handler_ids: Sequence[int]) -> Labels:
    about = select(
        notifications.c.id, notifications.c.title, func.substr(notifications.c.text, 1, 120).label("text"), notifications.c.severity
    )
    of_user = about.where(notifications.c.user_id == user_id, notifications.c.id.in_(notification_ids))
    named = select(handlers.c.id, handlers.c.type, handlers.c.name).where(handlers.c.user_id == user_id, handlers.c.id.in_(handler_ids))
    return (
        {row.id: Label(row.title, row.text, Severity(row.severity)) for row in connection.execute(of_user)},
        {row.id: (row.type, row.name) for row in connection.execute(named)},
    )


def remembered(connection: Connection, user_id: int, path: str, key: str, since: Micros) -> Remembered | None:
    row = connection.execute(
        select(idempotency).where(
            idempotency.c.user_id == user_id, idempotency.c.path == path, idempotency.c.key == key, idempotency.c.created_at >= since
        )
    ).first()
    if row is None:
        return None
    return Remembered(path, key, row.content, tuple(int(part) for part in row.answer.split(",") if part))


# ----------------------------------------------------------------------------------------------------------- handlers


def handler_briefs(connection: Connection, user_id: int) -> list[HandlerBrief]:
    rows = connection.execute(
        select(handlers.c.id, handlers.c.is_enabled, handlers.c.disabled_reason)
        .where(handlers.c.user_id == user_id, handlers.c.deleted_at.is_(None))
        .order_by(handlers.c.id)
    )
    return [HandlerBrief(row[0], bool(row[1]), row[2]) for row in rows]


_HANDLER_ORDER = {
    "notification_handler_id": handlers.c.id,
    "datetime": handlers.c.created_at,
    "last_datetime": handlers.c.last_delivered_at,
    "name": func.lower(handlers.c.name),
}


def handlers_page(connection: Connection, user_id: int, which: HandlerFilter, page: int, size: int) -> Page[HandlerRow]:
    chosen = select(*_HANDLER).where(handlers.c.user_id == user_id, handlers.c.deleted_at.is_(None))
    if which.search:
        chosen = chosen.where(handlers.c.name.icontains(which.search, autoescape=True))
    if which.is_enabled is not None:
        chosen = chosen.where(handlers.c.is_enabled.is_(which.is_enabled))
    if which.type is not None:
        chosen = chosen.where(handlers.c.type == which.type)
    moment = handlers.c.last_delivered_at if which.datetime_field == "last_datetime" else handlers.c.created_at
    if which.datetime_start is not None:
        chosen = chosen.where(moment >= which.datetime_start)
    if which.datetime_end is not None:
        chosen = chosen.where(moment <= which.datetime_end)
    if which == HandlerFilter(order_by=which.order_by, descending=which.descending):
        total = _total(connection, user_id, TOTAL_HANDLERS)
    else:
        total = connection.scalar(select(func.count()).select_from(chosen.subquery())) or 0
    order = _HANDLER_ORDER[which.order_by]
    ordered = chosen.order_by(*((order.desc(), handlers.c.id.desc()) if which.descending else (order, handlers.c.id)))
    rows = connection.execute(ordered.limit(size).offset((page - 1) * size))
    return Page([_handler_of(row) for row in rows], total)


def handler(connection: Connection, handler_id: int) -> HandlerRow | None:
    row = connection.execute(select(*_HANDLER).where(handlers.c.id == handler_id)).first()
    return None if row is None else _handler_of(row)


def stopped_handlers(connection: Connection) -> list[tuple[int, Status, Reason]]:
    waiting = [row[0] for row in connection.execute(_WAITING_HANDLERS)]
    found: list[tuple[int, Status, Reason]] = []
    for start in range(0, len(waiting), 500):
        rows = connection.execute(
            select(handlers.c.id, handlers.c.deleted_at, handlers.c.disabled_reason).where(
                handlers.c.id.in_(waiting[start : start + 500]), handlers.c.is_enabled.is_(False)
            )
        )
        for handler_id, deleted_at, disabled_reason in rows:
            if deleted_at is not None:
                found.append((handler_id, Status.CANCELLED, Reason.HANDLER_DELETED))
            elif disabled_reason is not None:
                found.append((handler_id, Status.FAILED, Reason.HANDLER_DISABLED))
            else:
                found.append((handler_id, Status.SKIPPED, Reason.HANDLER_PAUSED))
    return found


def handler_facts(connection: Connection, handler_id: int, since_hour: int) -> HandlerFacts:
    streak = connection.execute(select(handlers.c.failures, handlers.c.failing_since).where(handlers.c.id == handler_id)).one()
    counts: dict[Status, int] = {}
    for status in Status:
        if status is not Status.DELIVERED:
            partly = _PENDING if status is Status.PENDING else and_(_NOT_DELIVERED, deliveries.c.status == int(status))
            own = select(deliveries.c.id).where(partly, deliveries.c.handler_id == handler_id).limit(COUNT_CAP)
            counts[status] = connection.scalar(select(func.count()).select_from(own.subquery())) or 0
    latest = (
        select(deliveries.c.last_reason)
        .where(_NOT_DELIVERED, deliveries.c.status == int(Status.FAILED), deliveries.c.handler_id == handler_id)
        .order_by(deliveries.c.id.desc())
        .limit(1000)
    )
    reasons = Counter(Reason(row[0]) for row in connection.execute(latest) if row[0])
    events = connection.execute(
        select(handler_events).where(handler_events.c.handler_id == handler_id).order_by(handler_events.c.id.desc())
    )
    return HandlerFacts(
        Streak(*streak),
        counts,
        tuple(reasons.most_common()),
        tuple([HandlerEvent(row.at, row.what, row.detail, Reason(row.reason) if row.reason else None) for row in events]),
        tuple(handler_hours(connection, [handler_id], since_hour)),
    )


def handler_hours(connection: Connection, handler_ids: Sequence[int], since_hour: int) -> list[HandlerHour]:
    rows = connection.execute(
        select(hours).where(hours.c.handler_id.in_(handler_ids), hours.c.hour >= since_hour).order_by(hours.c.handler_id, hours.c.hour)
    )
    return [
        HandlerHour(
            row.handler_id, row.hour, row.delivered, row.failed, row.expired, msgspec.json.decode(row.latencies, type=tuple[int, ...])
        )
        for row in rows
    ]


def key(connection: Connection, key_hash: bytes) -> KeyRow | None:
    row = connection.execute(
        select(keys.c.id, keys.c.user_id, keys.c.scopes)
        .join(users, users.c.id == keys.c.user_id)
        .where(keys.c.hash == key_hash, keys.c.revoked_at.is_(None), users.c.disabled_at.is_(None))
    ).first()
    return None if row is None else KeyRow(row.id, row.user_id, tuple(row.scopes.split()))


def backlog(connection: Connection) -> int:
    return int(connection.scalar(select(func.coalesce(func.sum(totals.c.n), 0)).where(totals.c.what == int(Status.PENDING))) or 0)
