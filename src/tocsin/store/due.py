"""What is due, for the lanes of the engine: read straight on the driver, since a lone delivery waits for it.

SQLite is asked for one handler after the other; PostgreSQL, where each statement is a round trip, for all handlers at once.
"""

import itertools
import math
from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Connection

from tocsin.clock import Micros
from tocsin.model import Delivery, Notification
from tocsin.ports.queue import BACKLOG_AFTER, Due, Waiting, Wanted
from tocsin.store.dialects.arrays import numbers
from tocsin.store.rows import NOTIFICATION, delivery_of, notification_of
from tocsin.store.statements import look, run
from tocsin.store.tables import IS_PENDING, deliveries, notifications

MAX_CHARACTERS = 4 << 20  # of texts in one read, beyond the first of each handler
_TEXTS_AT_ONCE = 100  # each of 64 KB at most
_COLUMNS = (*Delivery.__struct_fields__, "is_critical")
_Row: Any = namedtuple("_Row", _COLUMNS)  # pyright: ignore[reportUntypedNamedTuple]
_Text: Any = namedtuple("_Text", [column.name for column in NOTIFICATION])  # pyright: ignore
Rows: TypeAlias = dict[int, list[Any]]
"""By handler."""

_WHICH, _FIRST = f"SELECT {', '.join(_COLUMNS)} FROM deliveries WHERE {IS_PENDING} AND handler_id = ", " ORDER BY due_at, id LIMIT "
_ON_SQLITE = {  # critical ones only, and no later ones: or all of them
    True: f"{_WHICH}:handler_id AND is_critical = 1 AND due_at <= :until{_FIRST}:most",
    False: f"{_WHICH}:handler_id{_FIRST}:most",
}
_LANES = "SELECT first.* FROM unnest(%s::bigint[], %s::bigint[], %s::int[]) AS lane(handler_id, until, most) CROSS JOIN LATERAL"
_IN_ORDER = "ORDER BY first.handler_id, first.due_at, first.id"  # a join promises no order, whatever its parts have
_ON_POSTGRESQL = {
    True: f"{_LANES} ({_WHICH}lane.handler_id AND is_critical AND due_at <= lane.until{_FIRST}lane.most) AS first {_IN_ORDER}",
    False: f"{_LANES} ({_WHICH}lane.handler_id{_FIRST}lane.most) AS first {_IN_ORDER}",
}
_BY_ID = look(deliveries, key=("id",), wanted=_COLUMNS)
_PENDING_BY_ID = look(deliveries, key=("id",), wanted=_COLUMNS, where=f"+deliveries.{IS_PENDING}")
_TEXTS = look(notifications, key=("id",), wanted=tuple(getattr(column, "element", column).name for column in NOTIFICATION))


def due(connection: Connection, wanted: Mapping[int, Wanted], now: Micros) -> dict[int, Due]:
    """See `tocsin.ports.queue.Queue`."""
    lanes, later = first(connection, {handler_id: want.limit for handler_id, want in wanted.items()}, now)
    full = {handler_id for handler_id, rows in lanes.items() if len(rows) >= wanted[handler_id].limit}
    urgent_until = now - BACKLOG_AFTER
    for handler_id, rows in lanes.items():
        rows[:] = [row for row in rows if row.id not in wanted[handler_id].known]
        rows.sort(key=lambda row: not (row.is_critical and row.due_at <= urgent_until))
    firsts = [rows[0].notification_id for rows in lanes.values() if rows]
    texts = _texts(connection, firsts, [row.notification_id for rows in lanes.values() for row in rows], MAX_CHARACTERS)
    result: dict[int, Due] = {}
    for handler_id, rows in lanes.items():
        read = list(itertools.takewhile(lambda row: row.notification_id in texts, rows))
        jobs = [Waiting(delivery_of(row), texts[row.notification_id]) for row in read]
        result[handler_id] = Due(jobs, later.get(handler_id), handler_id in full or len(read) < len(rows))
    return result


def first(connection: Connection, limits: Mapping[int, int], now: Micros) -> tuple[Rows, dict[int, Micros]]:
    """What is due, critical ones of a backlog among them first where there are more than the limit; and when the next is due."""
    lanes: Rows = {}
    later: dict[int, Micros] = {}
    for handler_id, rows in _read(connection, {handler_id: limit + 1 for handler_id, limit in limits.items()}).items():
        lanes[handler_id] = [row for row in rows if row.due_at <= now]
        if len(lanes[handler_id]) < len(rows):
            later[handler_id] = rows[len(lanes[handler_id])].due_at
    crowded = {handler_id: limits[handler_id] for handler_id, rows in lanes.items() if len(rows) > limits[handler_id]}
    for handler_id, urgent in _read(connection, crowded, until=now - BACKLOG_AFTER).items():
        both = {row.id: row for row in [*urgent, *lanes[handler_id]]}
        lanes[handler_id] = list(both.values())[: limits[handler_id]]
    return lanes, later


def _read(connection: Connection, limits: Mapping[int, int], until: Micros | None = None) -> Rows:
    """The first of each handler by due time, at most so many. `until`: critical ones only, and no later ones."""
    if not limits:
        return {}
    found: Rows = {handler_id: [] for handler_id in limits}
    cursor: Any = connection.connection.cursor()
    try:
        if connection.dialect.name == "sqlite":
            for handler_id, limit in limits.items():
                cursor.execute(_ON_SQLITE[until is not None], {"handler_id": handler_id, "until": until, "most": limit})
                found[handler_id] = list(map(_Row._make, cursor.fetchall()))
        else:
            lanes = (list(limits), [until] * len(limits), list(limits.values()))
            cursor.execute(_ON_POSTGRESQL[until is not None], [numbers(column) for column in lanes])
            for row in map(_Row._make, cursor.fetchall()):
                found[row.handler_id].append(row)
    finally:
        cursor.close()
    return found


def waiting(connection: Connection, delivery_ids: Sequence[int]) -> list[Waiting]:
    rows = [_Row._make(row) for row in run(connection, _PENDING_BY_ID, [(one,) for one in delivery_ids])]
    texts = _texts(connection, (), [row.notification_id for row in rows], math.inf)
    return [Waiting(delivery_of(row), texts[row.notification_id]) for row in rows if row.notification_id in texts]  # else deleted since


def named(connection: Connection, delivery_ids: Sequence[int]) -> list[Delivery]:
    return [delivery_of(_Row._make(row)) for row in run(connection, _BY_ID, [(one,) for one in delivery_ids])]


def _texts(connection: Connection, firsts: Sequence[int], others: Sequence[int], most: float) -> dict[int, Notification]:
    """Notifications by id, each in memory once however many deliveries it has: `firsts`, and of the others what `most` characters hold."""
    found: dict[int, Notification] = {}
    size = 0
    wanted = list(dict.fromkeys([*firsts, *others]))
    for start in range(0, len(wanted), _TEXTS_AT_ONCE):
        if size > most and start >= len(firsts):
            break
        some = wanted[start : start + _TEXTS_AT_ONCE]
        for row in map(_Text._make, run(connection, _TEXTS, [(one,) for one in some])):
            found[row.n_id] = notification_of(row)
            size += len(row.text)
    return found
