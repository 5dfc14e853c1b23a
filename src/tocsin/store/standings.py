"""The state of handlers and how they have fared, told from what is kept of their deliveries: `tocsin.ports.standings`.

A handler is failing where what it was last sent did not arrive, be it tried again or given up, and nothing has arrived since. A refusal
of one message's content says nothing of the handler; a change by its owner is a fresh start.
"""

import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select, text

from tocsin.clock import SECOND, Micros
from tocsin.model import Handler, Reason, Status
from tocsin.ports.consents import Consent, is_unconfirmed
from tocsin.ports.handlers import HandlerEvent, Streak
from tocsin.ports.standings import HandlerFacts, HandlerHour, Overview, Standing, Troubled
from tocsin.store import statements
from tocsin.store.database import Database
from tocsin.store.rows import NOT_DELIVERED, PENDING
from tocsin.store.statements import run
from tocsin.store.tables import IS_NOT_DELIVERED, IS_PENDING, IS_RETRYING, deliveries, handler_events, handler_hours, handlers, users

COUNT_CAP = 10_000  # waiting deliveries of a handler are counted no further
MAX_LOOKED_AT = 1000  # deliveries of a handler, in search of the first attempt that failed
MAX_CANDIDATES = 1000  # handlers of all users that are looked at for administrators
_FAILED = (int(Status.FAILED), int(Status.EXPIRED))
_STOPS = ("paused", "switched_off", "unsubscribed")
_LATEST = 20  # of those that were given up, in search of one that says something of the handler; of those that wait, of one that is tried
_OF_THE_MESSAGE = ", ".join(f"'{one.value}'" for one in (Reason.PAYLOAD, Reason.TOO_LARGE, Reason.DUPLICATE, Reason.BUDGET))

# Conditions are literal, so that SQLite can use the partial indexes.
_RETRIED = f"SELECT id, last_attempt_at, last_reason, last_error FROM deliveries WHERE {IS_RETRYING} AND handler_id = {{id}}"
_GIVEN_UP = (
    f"SELECT id, last_attempt_at, last_reason, last_error FROM deliveries WHERE {IS_NOT_DELIVERED} AND status = {{status}}"
    " AND handler_id = {id} ORDER BY id DESC LIMIT {most}"
)
_SAYS_SOMETHING = f"last_attempt_at >= {{after}} AND last_reason NOT IN ({_OF_THE_MESSAGE})"
_FRESH_STARTS = "SELECT coalesce(max(at), 0) FROM handler_events WHERE handler_id = {id} AND what IN ('enabled', 'changed')"
# A success is kept to the second, so what began within that second may well have come before it.
_SUCCESS = f"coalesce(handlers.last_delivered_at + {SECOND}, 0)"


def _exists(select_: str) -> str:
    after = f"({_FRESH_STARTS}) AND last_attempt_at >= {_SUCCESS}".format(id="handlers.id")
    return f"EXISTS (SELECT 1 FROM ({select_}) AS chosen WHERE {_SAYS_SOMETHING.format(after=after)})"


_FAILS = [
    _exists(_RETRIED.format(id="handlers.id")),
    *(_exists(_GIVEN_UP.format(id="handlers.id", status=status, most=_LATEST)) for status in _FAILED),
]
_FAILING = and_(handlers.c.is_enabled.is_(True), or_(handlers.c.failures > 0, *map(text, _FAILS)))
_STRANGERS = select(users.c.id).where(users.c.is_admin.is_(False))
_UNCONFIRMED = or_(  # as `ports.consents.is_unconfirmed`
    handlers.c.consent == int(Consent.WITHDRAWN), and_(handlers.c.consent == int(Consent.MISSING), handlers.c.user_id.in_(_STRANGERS))
)
_ORDER = {"failing": 0, "switched_off": 1, "unconfirmed": 2, "ok": 3, "paused": 4}


def state_with(sealed: Collection[int]) -> ColumnElement[str]:
    """The state, where these handlers are known to be sealed: the store cannot tell. As `flow.handlers.states.state_of`."""
    return case(
        (and_(handlers.c.is_enabled.is_(False), handlers.c.disabled_reason.isnot(None)), "switched_off"),
        (handlers.c.is_enabled.is_(False), "paused"),
        *([(handlers.c.id.in_(sealed), "failing")] if sealed else []),
        (_UNCONFIRMED, "unconfirmed"),
        (_FAILING, "failing"),
        else_="ok",
    )


def worst_first(sealed: Collection[int]) -> ColumnElement[int]:
    return case(_ORDER, value=state_with(sealed))


_SOONEST = (
    f"SELECT due_at, notification_id, replays FROM deliveries WHERE {IS_PENDING} AND handler_id = :id ORDER BY due_at LIMIT {_LATEST}"
)
_EXPIRES = "replays = 0 AND EXISTS (SELECT 1 FROM notifications WHERE id = soonest.notification_id AND expires_at <= soonest.due_at)"
_WAITING = text(
    f"SELECT (SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE {IS_PENDING} AND handler_id = :id LIMIT :most) AS chosen),"
    f" (SELECT min(due_at) FROM ({_SOONEST}) AS soonest WHERE NOT ({_EXPIRES})), ({_FRESH_STARTS.format(id=':id')})"
)
_LATEST_OF = [
    text(f"SELECT * FROM ({inner}) AS chosen WHERE {_SAYS_SOMETHING.format(after=':after')} ORDER BY last_attempt_at DESC LIMIT 1")
    for inner in (_RETRIED.format(id=":id"), *(_GIVEN_UP.format(id=":id", status=status, most=_LATEST) for status in _FAILED))
]
_FIRST_OF = [
    text(
        f"SELECT min(attempts.at) FROM (SELECT id FROM ({inner}) AS latest WHERE {_SAYS_SOMETHING.format(after=':after')}"
        f" ORDER BY last_attempt_at LIMIT {MAX_LOOKED_AT}) AS chosen JOIN attempts ON attempts.delivery_id = chosen.id"
        " WHERE attempts.at >= :after"
    )
    for inner in (_RETRIED.format(id=":id"), *(_GIVEN_UP.format(id=":id", status=status, most=MAX_LOOKED_AT) for status in _FAILED))
]

_HOUR = ("handler_id", "hour")
_COUNTS = ("delivered", "failed", "expired")
THERE = statements.look(handlers, key=("id",), wanted=("id",))
HOURS = statements.look(handler_hours, key=_HOUR, wanted=(*_HOUR, "latencies"))
NEW_HOURS = statements.insert(handler_hours, given=(*_HOUR, *_COUNTS, "latencies"), unless=_HOUR, returning=_HOUR)
ADD_HOURS = statements.update(  # where nobody has added latencies since they were read
    handler_hours,
    key=(*_HOUR, "latencies"),
    adds=_COUNTS,
    given=("latencies",),
    returning=_HOUR,
)


class SqlStandings:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, handler_ids: Sequence[int]) -> dict[int, Standing]:
        return await self._database.look(standings, handler_ids)

    async def overview(self, user_id: int, since_hour: int, sealed: Collection[int] = ()) -> Overview:
        return await self._database.look(overview, user_id, since_hour, sealed)

    async def troubled(self, limit: int, sealed: Collection[int] = ()) -> list[Troubled]:
        return await self._database.look(troubled, limit, sealed)

    async def facts(self, handler_id: int, since_hour: int) -> HandlerFacts:
        return await self._database.look(handler_facts, handler_id, since_hour)

    async def hours(self, handler_ids: Sequence[int], since_hour: int) -> list[HandlerHour]:
        return await self._database.look(hours_of, handler_ids, since_hour)

    async def add_hours(self, hours: Sequence[HandlerHour]) -> None:
        await self._database.write(add_hours, hours)


def standings(connection: Connection, handler_ids: Sequence[int]) -> dict[int, Standing]:
    columns = (handlers.c.id, handlers.c.is_enabled, handlers.c.last_delivered_at, handlers.c.failures, handlers.c.failing_since)
    asked = (handlers.c.consent, func.coalesce(handlers.c.asked_at, handlers.c.created_at).label("asked_at"), users.c.is_admin)
    chosen = select(*columns, *asked).join(users, users.c.id == handlers.c.user_id).where(handlers.c.id.in_(handler_ids))
    rows = connection.execute(chosen).all()
    return {row.id: _standing(connection, row) for row in rows}


def _standing(connection: Connection, row: Any) -> Standing:
    waiting, next_at, fresh_at = connection.execute(_WAITING, {"id": row.id, "most": COUNT_CAP}).one()
    if not row.is_enabled:
        return Standing(waiting, next_at, event=_stopped_by(connection, row.id))
    if is_unconfirmed(row.consent, row.is_admin):
        return Standing(waiting, next_at, unconfirmed_since=row.asked_at)
    after = max(fresh_at, 0 if row.last_delivered_at is None else row.last_delivered_at + SECOND)
    found = [one for statement in _LATEST_OF if (one := connection.execute(statement, {"id": row.id, "after": after}).first())]
    if not found:
        return Standing(waiting, next_at, row.failing_since)
    latest = max(found, key=lambda one: one.last_attempt_at)
    since = min(_firsts(connection, row.id, after) + ([row.failing_since] if row.failures and row.failing_since else []))
    return Standing(waiting, next_at, since, Reason(latest.last_reason), latest.last_error)


def _firsts(connection: Connection, handler_id: int, after: Micros) -> list[Micros]:
    found = (connection.scalar(statement, {"id": handler_id, "after": after}) for statement in _FIRST_OF)
    return [one for one in found if one is not None]


def _stopped_by(connection: Connection, handler_id: int) -> HandlerEvent | None:
    own = select(handler_events).where(handler_events.c.handler_id == handler_id, handler_events.c.what.in_(_STOPS))
    row = connection.execute(own.order_by(handler_events.c.id.desc()).limit(1)).first()
    return None if row is None else HandlerEvent(row.at, row.what, row.detail, Reason(row.reason) if row.reason else None)


def overview(connection: Connection, user_id: int, since_hour: int, sealed: Collection[int] = ()) -> Overview:
    own = (handlers.c.user_id == user_id, handlers.c.deleted_at.is_(None))
    states = connection.execute(select(state_with(sealed).label("state"), func.count()).where(*own).group_by("state"))
    sums = (func.sum(handler_hours.c.delivered), func.sum(handler_hours.c.failed + handler_hours.c.expired))
    hours = connection.execute(
        select(handler_hours.c.hour, *sums)
        .join(handlers, handlers.c.id == handler_hours.c.handler_id)
        .where(*own, handler_hours.c.hour >= since_hour)
        .group_by(handler_hours.c.hour)
        .order_by(handler_hours.c.hour)
    )
    return Overview({row[0]: row[1] for row in states}, tuple([(row[0], int(row[1]), int(row[2])) for row in hours]))


def troubled(connection: Connection, limit: int, sealed: Collection[int] = ()) -> list[Troubled]:
    columns = (users.c.email, handlers.c.id, handlers.c.user_id, handlers.c.type, handlers.c.name, handlers.c.is_enabled)
    rows = connection.execute(
        select(*columns, handlers.c.created_at, handlers.c.disabled_reason)
        .join(users, users.c.id == handlers.c.user_id)
        .where(handlers.c.id.in_(_candidates(connection, sealed)), state_with(sealed).in_(("failing", "switched_off")))
        .order_by(worst_first(sealed), handlers.c.id)
        .limit(limit)
    ).all()
    found = standings(connection, [row.id for row in rows])
    return [Troubled(row.email, _bare(row, row.id in sealed), found[row.id]) for row in rows]


def _candidates(connection: Connection, sealed: Collection[int]) -> list[int]:
    """Few of all handlers, so that the state need not be computed for all: those that are tried again, are off, have failed in a row,
    or are sealed."""
    retried = text(f"handlers.id IN (SELECT handler_id FROM deliveries WHERE {IS_RETRYING})")
    wanted = or_(handlers.c.failures > 0, handlers.c.disabled_reason.isnot(None), retried, *([handlers.c.id.in_(sealed)] if sealed else []))
    return list(connection.scalars(select(handlers.c.id).where(handlers.c.deleted_at.is_(None), wanted).limit(MAX_CANDIDATES)))


def _bare(row: Any, is_sealed: bool) -> Handler:
    disabled = row.disabled_reason
    return Handler(
        row.id, row.user_id, row.type, row.name, {}, bool(row.is_enabled), row.created_at, disabled_reason=disabled, is_sealed=is_sealed
    )


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
        tuple(hours_of(connection, [handler_id], since_hour)),
    )


def hours_of(connection: Connection, handler_ids: Sequence[int], since_hour: int) -> list[HandlerHour]:
    own = handler_hours
    rows = connection.execute(
        select(own).where(own.c.handler_id.in_(handler_ids), own.c.hour >= since_hour).order_by(own.c.handler_id, own.c.hour)
    )
    return [
        HandlerHour(
            row.handler_id, row.hour, row.delivered, row.failed, row.expired, msgspec.json.decode(row.latencies, type=tuple[int, ...])
        )
        for row in rows
    ]


def add_hours(connection: Connection, hours: Sequence[HandlerHour]) -> None:
    """If another writer adds to an hour between the look and the write, it is looked at again. Handlers that went with their user have
    no hours, and must not keep those of the others from being kept.
    """
    there = {handler_id for (handler_id,) in run(connection, THERE, [(one.handler_id,) for one in hours])}
    rest = {(one.handler_id, one.hour): one for one in hours if one.handler_id in there}
    while rest:
        kept = {(row[0], row[1]): row[2] for row in run(connection, HOURS, list(rest))}
        new: list[Any] = []
        more: list[Any] = []
        for key, one in rest.items():
            counts, before = (one.delivered, one.failed, one.expired), kept.get(key)
            if before is None:
                new.append((*key, *counts, _summed("[]", one.latencies)))
            else:
                more.append((*key, before, _summed(before, one.latencies), *counts))
        for handler_id, hour in run(connection, NEW_HOURS, new) + run(connection, ADD_HOURS, more):
            del rest[handler_id, hour]


def _summed(kept: str, latencies: Sequence[int]) -> str:
    before = msgspec.json.decode(kept, type=tuple[int, ...])
    return msgspec.json.encode([sum(pair) for pair in itertools.zip_longest(before, latencies, fillvalue=0)]).decode()
