"""What was reckoned from a clock that was ahead, and that is right by now: `tocsin.ports.misdated`."""

from collections.abc import Sequence

from sqlalchemy import BigInteger, ColumnElement, Connection, and_, case, exists, func, literal, or_, select, update

from tocsin.clock import SECOND, Micros
from tocsin.ports.misdated import TOLERANCE
from tocsin.store.database import Database
from tocsin.store.rows import PENDING, STILL_PENDING
from tocsin.store.tables import deliveries, handler_events, handlers, notifications

_SHORT: Micros = 600 * SECOND  # whatever is not a step of the schedule or a provider's wait takes less
_LONG: Micros = 26 * 3600 * SECOND  # a provider's wait is a day at most, and its jitter comes on top


class SqlMisdated:
    """Nearly always there is nothing to do: so it is looked for outside of the writer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def set_right(self, now: Micros) -> None:
        if await self._database.read(is_ahead, now):
            await self._database.write(set_right, now)

    async def bring_forward(self, now: Micros, waits: Sequence[Micros], limit: int) -> list[tuple[int, int]]:
        found = await self._database.read(find, now, waits, limit)
        if found:
            await self._database.write(bring_forward, [delivery for delivery, _, _ in found], now)
        return [(handler, user) for _, handler, user in found]


def find(connection: Connection, now: Micros, waits: Sequence[Micros], limit: int) -> list[tuple[int, int, int]]:
    """(id, handler, user) of those that are due later than what made them wait allows. `waits`: of the schedule's steps, with jitter.

    What a user scheduled stays as it is. An attempt in the future is proof that the clock was ahead: then any wait would be too long.
    """
    too_far = deliveries.c.due_at > _micros(now) + _allowed(waits)
    scheduled = and_(notifications.c.send_at.is_not(None), notifications.c.send_at == deliveries.c.due_at)
    found = (
        select(deliveries.c.id, deliveries.c.handler_id, deliveries.c.user_id)
        .join(notifications, notifications.c.id == deliveries.c.notification_id)
        .where(PENDING, deliveries.c.due_at > now + TOLERANCE)
        .where(or_(too_far, deliveries.c.last_attempt_at > now + TOLERANCE), ~scheduled)
        .limit(limit)
    )
    return [(row[0], row[1], row[2]) for row in connection.execute(found)]


def bring_forward(connection: Connection, delivery_ids: Sequence[int], now: Micros) -> None:
    """They are due now, where they still wait."""
    these = and_(deliveries.c.id.in_(delivery_ids), STILL_PENDING, deliveries.c.due_at > now)
    first = func.min(deliveries.c.first_due_at, now) if connection.dialect.name == "sqlite" else func.least(deliveries.c.first_due_at, now)
    last = case((deliveries.c.last_attempt_at > now, now), else_=deliveries.c.last_attempt_at)
    connection.execute(update(deliveries).where(these).values(due_at=now, first_due_at=first, last_attempt_at=last))


_MOMENTS = (handlers.c.last_delivered_at, handlers.c.failing_since, handler_events.c.at)


def is_ahead(connection: Connection, now: Micros) -> bool:
    """Whether handlers keep times that have not come yet."""
    return any(connection.scalar(select(exists().where(moment > now + TOLERANCE))) for moment in _MOMENTS)


def set_right(connection: Connection, now: Micros) -> None:
    """What handlers keep of times that have not come yet was now.

    A success in the future would let no later one end a row of failures, so that a handler that is well would be switched off.
    """
    second = now // SECOND * SECOND  # as successes are kept
    for moment in _MOMENTS:
        right = second if moment is handlers.c.last_delivered_at else now
        connection.execute(update(moment.table).where(moment > now + TOLERANCE).values({moment: right}))


def _allowed(waits: Sequence[Micros]) -> ColumnElement[int]:
    cases = [(deliveries.c.throttles > 0, _micros(_LONG))]
    cases += [(deliveries.c.step == step, _micros(wait + _SHORT)) for step, wait in enumerate(waits, 1)]
    return case(*cases, (deliveries.c.step == 0, _micros(_SHORT)), else_=_micros(max(waits, default=0) + _SHORT))


def _micros(span: Micros) -> ColumnElement[int]:
    """As wide as the columns: PostgreSQL reckons in the type that a number is given."""
    return literal(span, BigInteger)
