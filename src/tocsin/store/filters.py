"""Which deliveries a filter lets through, as ids, newest first."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, Subquery, and_, literal_column, or_, select, union_all

from tocsin.model import REPLAYABLE, Status
from tocsin.ports.history import DeliveryFilter
from tocsin.store.rows import NOT_DELIVERED, PENDING
from tocsin.store.tables import deliveries, handlers, notifications


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
    merged = newest(user_id, which, wanted, 0 if nothing else limit, to_taking)
    return select(merged.c.id).order_by(merged.c.id.desc()).limit(0 if nothing else limit).subquery()


def newest(user_id: int, which: DeliveryFilter, statuses: Sequence[Status], limit: int, *only: ColumnElement[bool]) -> Subquery:
    """Ids of the newest deliveries that fit: status by status, in index order, and merged; a handler's pending ones are sorted."""
    return merged_ids(user_id, which, statuses, limit, deliveries.c.id.desc(), only=only)


def merged_ids(
    user_id: int,
    which: DeliveryFilter,
    statuses: Sequence[Status],
    limit: int,
    *order: ColumnElement[Any],
    only: Sequence[ColumnElement[bool]] = (),
) -> Subquery:
    """Up to `limit` ids of each status, ordered within it; the caller orders and limits them once more. `only`: more conditions."""
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
