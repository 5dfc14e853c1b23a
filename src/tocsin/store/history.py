"""What people list, search, look at, cancel and send again: `tocsin.ports.history`."""

from collections.abc import Sequence

from msgspec import structs
from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from tocsin.clock import Micros
from tocsin.model import Attempt, Delivery, Notification, Reason, Replay, Severity, Status
from tocsin.ports.audit import Act
from tocsin.ports.history import DeliveryFilter, Label, Labels, Page
from tocsin.ports.intake import Idempotency
from tocsin.store import statements
from tocsin.store.accepting import Asked, let_in, remember
from tocsin.store.audit import record
from tocsin.store.database import Database
from tocsin.store.filters import merged_ids, newest, replayable_deliveries
from tocsin.store.queue import end
from tocsin.store.rows import NOTIFICATION, PENDING, WAITING, delivery_of, notification_of, total_of
from tocsin.store.statements import run
from tocsin.store.tables import TOTAL_NOTIFICATIONS, attempts, deliveries, handlers, notifications, replays
from tocsin.store.totals import Totals

COUNT_CAP = 10_000  # filtered lists are counted no further
MAX_DUE = 10_000  # of a user are counted
RETRY = statements.update(  # under the status that each was seen to have
    deliveries,
    key=("id", "status"),
    given=("due_at",),
    adds=("replays",),
    fixed={"status": Status.PENDING, "step": 0, "throttles": 0, "last_reason": None, "last_error": None},
    returning=("id",),
)
ADD_REPLAYS = statements.insert(replays, given=("delivery_id", "number", "at", "attempt_count", "status", "reason", "ended_at"))


class SqlHistory:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def notifications(self, user_id: int, page: int, size: int) -> Page[tuple[Notification, dict[Status, int]]]:
        return await self._database.look(notifications_page, user_id, page, size)

    async def notification(self, user_id: int, notification_id: int) -> tuple[Notification, dict[Status, int]] | None:
        return await self._database.look(notification, user_id, notification_id)

    async def deliveries(self, user_id: int, which: DeliveryFilter, page: int, size: int) -> Page[Delivery]:
        return await self._database.look(deliveries_page, user_id, which, page, size)

    async def delivery(self, user_id: int, delivery_id: int) -> tuple[Delivery, Notification, list[Attempt], list[Replay]] | None:
        return await self._database.look(delivery, user_id, delivery_id)

    async def fan_out(
        self, user_id: int, notification_id: int, limit: int
    ) -> tuple[Notification, dict[Status, int], Page[Delivery], Labels] | None:
        return await self._database.look(fan_out, user_id, notification_id, limit)

    async def replayable(self, user_id: int, which: DeliveryFilter, limit: int) -> int:
        return await self._database.look(replayable, user_id, which, limit)

    async def labels(self, user_id: int, notification_ids: Sequence[int], handler_ids: Sequence[int]) -> Labels:
        return await self._database.look(labels, user_id, notification_ids, handler_ids)

    async def due_of(self, user_id: int, now: Micros) -> tuple[int, Micros | None]:
        return await self._database.look(due_of, user_id, now)

    async def ahead(self, delivery: Delivery, most: int) -> int:
        return await self._database.look(ahead, delivery, most)

    async def cancel(self, user_id: int, notification_id: int) -> list[int]:
        return await self._database.write(cancel, user_id, notification_id)

    async def cancel_delivery(self, user_id: int, delivery_id: int) -> list[int]:
        return await self._database.write(cancel_delivery, user_id, delivery_id)

    async def retry(
        self, user_id: int, which: DeliveryFilter | int, at: Micros, limit: int, idempotency: Idempotency | None
    ) -> list[tuple[int, int]]:
        retried = await self._database.write(retry, user_id, which, at, limit, idempotency)
        if isinstance(retried, Exception):
            raise retried
        return retried


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
    return Page([(one, counts[one.id]) for one in found], total_of(connection, user_id, TOTAL_NOTIFICATIONS))


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


def deliveries_page(connection: Connection, user_id: int, which: DeliveryFilter, page: int, size: int) -> Page[Delivery]:
    statuses = [status for status in Status if which.status in (None, status)]
    if which.reason is not None:  # what has arrived, nearly all there is, did so for one reason, and nothing else did
        statuses = [status for status in statuses if (status is Status.DELIVERED) is (which.reason is Reason.OK)]
        if not statuses:
            return Page([], 0)
    total, exact = _deliveries_total(connection, user_id, which, statuses)
    if (page - 1) * size >= total and exact:
        return Page([], total)
    merged = newest(user_id, which, statuses, page * size)
    ids = select(merged.c.id).order_by(merged.c.id.desc()).limit(size).offset((page - 1) * size)
    rows = connection.execute(select(deliveries).where(deliveries.c.id.in_(ids)).order_by(deliveries.c.id.desc()))
    return Page([delivery_of(row) for row in rows], total, exact)


def _deliveries_total(connection: Connection, user_id: int, which: DeliveryFilter, statuses: Sequence[Status]) -> tuple[int, bool]:
    if which.only_status:
        return total_of(connection, user_id, *(int(status) for status in statuses)), True
    merged = merged_ids(user_id, which, statuses, COUNT_CAP + 1)
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


def replayable(connection: Connection, user_id: int, which: DeliveryFilter, limit: int) -> int:
    """How many of them there are, up to `limit`."""
    return connection.scalar(select(func.count()).select_from(replayable_deliveries(user_id, which, limit))) or 0


def labels(connection: Connection, user_id: int, notification_ids: Sequence[int], handler_ids: Sequence[int]) -> Labels:
    beginning = func.substr(notifications.c.text, 1, 120).label("text")
    about = select(notifications.c.id, notifications.c.title, beginning, notifications.c.severity, notifications.c.expires_at)
    of_user = about.where(notifications.c.user_id == user_id, notifications.c.id.in_(notification_ids))
    named = select(handlers.c.id, handlers.c.type, handlers.c.name).where(handlers.c.user_id == user_id, handlers.c.id.in_(handler_ids))
    return (
        {row.id: Label(row.title, row.text, Severity(row.severity), row.expires_at) for row in connection.execute(of_user)},
        {row.id: (row.type, row.name) for row in connection.execute(named)},
    )


def due_of(connection: Connection, user_id: int, now: Micros) -> tuple[int, Micros | None]:
    """How many of a user's deliveries are due, counted to 10,000, and since when the oldest of them is."""
    own = (handlers.c.user_id == user_id, handlers.c.deleted_at.is_(None), PENDING, deliveries.c.due_at <= now)
    some = select(deliveries.c.due_at).join(handlers, handlers.c.id == deliveries.c.handler_id).where(*own).limit(MAX_DUE).subquery()
    count, oldest = connection.execute(select(func.count(), func.min(some.c.due_at))).one()
    return count, oldest


def ahead(connection: Connection, delivery: Delivery, most: int) -> int:
    earlier = or_(deliveries.c.due_at < delivery.due_at, and_(deliveries.c.due_at == delivery.due_at, deliveries.c.id < delivery.id))
    these = select(deliveries.c.id).where(PENDING, deliveries.c.handler_id == delivery.handler_id, earlier).limit(most).subquery()
    return connection.scalar(select(func.count()).select_from(these)) or 0


def cancel(connection: Connection, user_id: int, notification_id: int) -> list[int]:
    cancelled = _cancel(connection, user_id, deliveries.c.notification_id == notification_id)
    if len(cancelled) > 1:
        record(connection, Act.CANCELLED, user_id, notification_id, count=len(cancelled))
    return cancelled


def cancel_delivery(connection: Connection, user_id: int, delivery_id: int) -> list[int]:
    return _cancel(connection, user_id, deliveries.c.id == delivery_id)


def _cancel(connection: Connection, user_id: int, which: ColumnElement[bool]) -> list[int]:
    totals = Totals()
    cancelled = end(connection, totals, and_(which, deliveries.c.user_id == user_id), Status.CANCELLED, Reason.CANCELLED)
    totals.write(connection)
    return cancelled


def retry(
    connection: Connection, user_id: int, which: DeliveryFilter | int, at: Micros, limit: int, idempotency: Idempotency | None
) -> list[tuple[int, int]] | Exception:
    """Settled but not delivered ones wait again: a new schedule, the same delivery. How they had ended is kept.

    Why it may not be done now is returned, not raised: it is one write among others.
    """
    if idempotency is not None:
        [kept_out] = let_in(connection, [Asked(user_id, idempotency, at)])
        if kept_out is not None:
            return kept_out
    chosen = replayable_deliveries(user_id, which, limit)
    rows = connection.execute(
        select(
            deliveries.c.id,
            deliveries.c.handler_id,
            deliveries.c.status,
            deliveries.c.attempt_count,
            deliveries.c.last_reason,
            deliveries.c.due_at,
            deliveries.c.replays,
        ).where(deliveries.c.id.in_(select(chosen.c.id)))
    ).all()
    again = {delivery_id for (delivery_id,) in run(connection, RETRY, [(row.id, row.status, at, 1) for row in rows])}
    retried = [row for row in rows if row.id in again]
    ended = [(row.id, row.replays + 1, at, row.attempt_count, row.status, row.last_reason, row.due_at) for row in retried]
    run(connection, ADD_REPLAYS, ended)
    totals = Totals()
    for row in retried:
        totals[user_id, row.status] -= 1
        totals[user_id, Status.PENDING] += 1
    totals.write(connection)
    if retried:
        one, filters = (which, None) if isinstance(which, int) else (None, _given(which))
        record(connection, Act.RETRIED, user_id, one, count=len(retried), filters=filters)
    if idempotency is not None:
        remember(connection, user_id, at, idempotency, [len(retried)])
    return [(row.id, row.handler_id) for row in retried]


def _given(which: DeliveryFilter) -> list[str]:
    """The names of the filters in use; their values may be anything."""
    return [name for name, value in structs.asdict(which).items() if value not in (None, "")]
