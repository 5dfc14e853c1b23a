"""Statements for many rows at once, straight on the driver.

A statement takes many rows as one `VALUES` list, and not as `executemany`: that would give up and take back Python's lock for every
row, and wait for it each time while the event loop is busy.

Nearly all values are plain numbers and strings. The driver asks its adapters about every other one, None and booleans included
(https://docs.python.org/3/library/sqlite3.html#sqlite3-adapters), which takes ten times as long, and every value takes its time; so
rows that are nearly always alike in some columns have a statement of their own, in which those are written out.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from msgspec import Struct
from sqlalchemy import Connection

T = TypeVar("T")


class Statement(Struct, frozen=True):
    """SQL for any number of rows: `{}` stands for them, and each is written as `row`, with a `?` for every value that differs."""

    sql: str
    row: str


ADD_TOTALS = Statement(
    "INSERT INTO totals (user_id, what, n) VALUES {} ON CONFLICT (user_id, what) DO UPDATE SET n = totals.n + excluded.n", "(?, ?, ?)"
)

_ROWS = (256, 128, 64, 32, 16, 8, 4, 2, 1)  # of one statement: few sizes, so that the driver finds them prepared


def run(connection: Connection, statement: Statement, values: Sequence[Any]) -> list[Any]:
    """Run a statement for all rows, whose values stand one after the other; what it gives back, row by row.

    Straight on the driver: SQLAlchemy takes longer than the statement.
    """
    found: list[Any] = []
    if not values:
        return found
    cursor: Any = connection.connection.cursor()
    start, end, width = 0, len(values), statement.row.count("?")
    for rows in _ROWS:
        step = rows * width
        while end - start >= step:
            cursor.execute(_with_rows(statement, rows), values[start : start + step])
            if cursor.description is not None:
                found.extend(cursor.fetchall())
            start += step
    cursor.close()
    return found


@functools.lru_cache(maxsize=256)
def _with_rows(statement: Statement, rows: int) -> str:
    return statement.sql.format(", ".join([statement.row] * rows))


class Totals(Counter[tuple[int, int]]):
    """Changes of totals within one transaction, by user and what is counted; written once at its end."""

    def write(self, connection: Connection) -> None:
        values = [value for (user_id, what), n in self.items() if n for value in (user_id, what, n)]
        run(connection, ADD_TOTALS, values)


def chunks(ids: Sequence[T], size: int = 500) -> Iterable[Sequence[T]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))
