"""What people list, search and look at, as functions of an open connection."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, Subquery, and_, func, literal_column, or_, select, union_all

from tocsin.model import REPLAYABLE, Attempt, Delivery, Notification, Reason, Replay, Severity, Status
from tocsin.ports.handlers import HandlerEvent, HandlerFacts, HandlerFilter, HandlerHour, HandlerRow, Streak
from tocsin.ports.history import DeliveryFilter, Label, Labels, Page
from tocsin.store.rows import HANDLER, NOT_DELIVERED, NOTIFICATION, PENDING, WAITING, delivery_of, handler_of, notification_of
from tocsin.store.standing import STATE, WORST_FIRST
from tocsin.store.tables import (
    TOTAL_HANDLERS,
    TOTAL_NOTIFICATIONS,
    attempts,
    deliveries,
    handler_events,
    handlers,
    notifications,
    replays,
    totals,
)
from tocsin.store.tables import handler_hours as hours

COUNT_CAP = 10_000  # filtered lists are counted no further


# ------------------------------------------------------------------------------------------------------ notifications


def _total(connection: Connection, user_id: int, *what: int) -> int:
    rows = connection.execute(select(totals.c.n).where(totals.c.user_id == user_id, totals.c.what.in_(what)))
    return sum(row[0] for row in rows)


def notifications_page(connection: Connection, user_id: int, page: int, size: int) -> Page[tuple[Notification, dict[Status, int]]]:
    rows = connection.execute(
        select(*NOTIFICATION)
        .where(notifications.c.user_id == user_id)
        .order_by(notifications.c.id.desc())
        .limit(size)
        .offset((page - 1) * size)
    )
    found = [notification_of(row) for row in rows]
    counts = _counts(connection, [one.id for one in found])
    return Page([(one, counts[one.id]) for one in found], _total(connection, user_id, TOTAL_NOTIFICATIONS))


def notification(connection: Connection, user_id: int, notification_id: int) -> tuple[Notification, dict[Status, int]] | None:
    row = connection.execute(select(*NOTIFICATION).where(notifications.c.id == notification_id, notifications.c.user_id == user_id)).first()
    return None if row is None else (notification_of(row), _counts(connection, [notification_id])[notification_id])


def _counts(connection: Connection, ids: Sequence[int]) -> dict[int, dict[Status, int]]:
    found: dict[int, dict[Status, int]] = {one: dict.fromkeys(Status, 0) for one in ids}
    columns = deliveries.c.notification_id, deliveries.c.status
    rows = connection.execute(select(*columns, func.count()).where(deliveries.c.notification_id.in_(ids)).group_by(*columns))
    for notification_id, status, count in rows:
        found[notification_id][Status(status)] = count
    return found


# --------------------------------------------------------------------------------------------------------- deliveries


def _with_filters(chosen: Select[Any], which: DeliveryFilter) -> Select[Any]:
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


def _newest(user_id: int, which: DeliveryFilter, statuses: Sequence[Status], limit: int, *only: ColumnElement[bool]) -> Subquery:
    """Ids of the newest deliveries that fit: status by status, in index order, and merged; a handler's pending ones are sorted."""
    return _merged(user_id, which, statuses, limit, deliveries.c.id.desc(), only=only)


def _merged(
    user_id: int,
    which: DeliveryFilter,
    statuses: Sequence[Status],
    limit: int,
    *order: ColumnElement[Any],
    only: Sequence[ColumnElement[bool]] = (),
) -> Subquery:
    parts: list[Select[tuple[int]]] = []
    for status in statuses:
        chosen = select(deliveries.c.id).where(deliveries.c.user_id == user_id, deliveries.c.status == int(status))
        if which.notification_handler_id is not None:
            chosen = _of_handler(user_id, which.notification_handler_id, status)
        elif which.notification_id is not None:
            chosen = select(deliveries.c.id).where(
                literal_column("+deliveries.user_id") == user_id, literal_column("+deliveries.status") == int(status)
            )
        part = _with_filters(chosen, which).where(*only).order_by(*order).limit(limit).subquery()
        parts.append(select(part.c.id))
    return union_all(*parts).subquery()


def _of_handler(user_id: int, handler_id: int, status: Status) -> Select[tuple[int]]:
    """What has arrived is searched in the user's index; the rest, the few that people look for, has indexes of its own."""
    chosen = select(deliveries.c.id).where(deliveries.c.handler_id == handler_id)
    if status is Status.DELIVERED:
        return chosen.where(deliveries.c.user_id == user_id, deliveries.c.status == int(status))
    narrowed = PENDING if status is Status.PENDING else and_(NOT_DELIVERED, deliveries.c.status == int(status))
    # The unary plus keeps SQLite from choosing the user's index.
    return chosen.where(narrowed, literal_column("+deliveries.user_id") == user_id)


def replayable_deliveries(user_id: int, which: DeliveryFilter | int, limit: int) -> Subquery:
    """Ids of up to `limit` settled deliveries that did not arrive: the one named, or those that a filter lets through. Those of handlers
    that are not enabled, or were deleted, are left out: they would only end again at once.
    """
    taking = select(handlers.c.id).where(handlers.c.user_id == user_id, handlers.c.is_enabled, handlers.c.deleted_at.is_(None))
    to_taking = deliveries.c.handler_id.in_(taking)
    if isinstance(which, int):
        wanted = [int(status) for status in REPLAYABLE]
        named = select(deliveries.c.id).where(deliveries.c.id == which, deliveries.c.user_id == user_id)
        return named.where(deliveries.c.status.in_(wanted), to_taking).subquery()
    wanted = [status for status in REPLAYABLE if which.status in (None, status)] or [Status.PENDING]
    nothing = which.status is not None and which.status not in REPLAYABLE
    merged = _newest(user_id, which, wanted, 0 if nothing else limit, to_taking)
    return select(merged.c.id).order_by(merged.c.id.desc()).limit(0 if nothing else limit).subquery()


def replayable(connection: Connection, user_id: int, which: DeliveryFilter, limit: int) -> int:
    """How many of them there are, up to `limit`."""
    return connection.scalar(select(func.count()).select_from(replayable_deliveries(user_id, which, limit))) or 0


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


def delivery(connection: Connection, user_id: int, delivery_id: int) -> tuple[Delivery, Notification, list[Attempt], list[Replay]] | None:
    row = connection.execute(WAITING.where(deliveries.c.id == delivery_id, deliveries.c.user_id == user_id)).first()
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
            one.provider_id,
            one.detail,
        )
        for one in tried
    ]
    again = connection.execute(select(replays).where(replays.c.delivery_id == delivery_id).order_by(replays.c.number))
    told = [
        Replay(one.at, one.attempt_count, Status(one.status), Reason(one.reason) if one.reason else None, one.ended_at) for one in again
    ]
    return delivery_of(row), notification_of(row), log, told


def fan_out(
    connection: Connection, user_id: int, notification_id: int, limit: int
) -> tuple[Notification, dict[Status, int], Page[Delivery], Labels] | None:
    """In one transaction, so that what is counted is what is listed."""
    found = notification(connection, user_id, notification_id)
    if found is None:
        return None
    page = deliveries_page(connection, user_id, DeliveryFilter(notification_id=notification_id), 1, limit)
    return *found, page, labels(connection, user_id, [notification_id], list({row.handler_id for row in page.rows}))


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


# ----------------------------------------------------------------------------------------------------------- handlers


_HANDLER_ORDER = {
    "notification_handler_id": handlers.c.id,
    "datetime": handlers.c.created_at,
    "last_datetime": handlers.c.last_delivered_at,
    "name": func.lower(handlers.c.name),
    "state": WORST_FIRST,
}


def handlers_page(connection: Connection, user_id: int, which: HandlerFilter, page: int, size: int) -> Page[HandlerRow]:
    chosen = select(*HANDLER).where(handlers.c.user_id == user_id, handlers.c.deleted_at.is_(None))
    if which.search:
        chosen = chosen.where(handlers.c.name.icontains(which.search, autoescape=True))
    if which.is_enabled is not None:
        chosen = chosen.where(handlers.c.is_enabled.is_(which.is_enabled))
    if which.type is not None:
        chosen = chosen.where(handlers.c.type == which.type)
    if which.state is not None:
        chosen = chosen.where(which.state == STATE)
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
    return Page([handler_of(row) for row in rows], total)


def handler_facts(connection: Connection, handler_id: int, since_hour: int) -> HandlerFacts:
    streak = connection.execute(select(handlers.c.failures, handlers.c.failing_since).where(handlers.c.id == handler_id)).one()
    counts: dict[Status, int] = {}
    for status in Status:
        if status is not Status.DELIVERED:
            partly = PENDING if status is Status.PENDING else and_(NOT_DELIVERED, deliveries.c.status == int(status))
            own = select(deliveries.c.id).where(partly, deliveries.c.handler_id == handler_id).limit(COUNT_CAP)
            counts[status] = connection.scalar(select(func.count()).select_from(own.subquery())) or 0
    latest = (
        select(deliveries.c.last_reason)
        .where(NOT_DELIVERED, deliveries.c.status == int(Status.FAILED), deliveries.c.handler_id == handler_id)
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
