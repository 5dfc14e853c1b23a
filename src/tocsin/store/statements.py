"""Statements for many rows at once, made from the tables and run straight on the driver.

On SQLite the rows are one `VALUES` list, and not `executemany`: that would give up and take back Python's lock for every row, and wait
for it each time while the event loop is busy. On PostgreSQL each column is one array, so that the text is the same for any number; many
rows that are only added are copied in.

Nearly all values are plain numbers and strings. SQLite's driver asks its adapters about every other one, None and booleans included
(https://docs.python.org/3/library/sqlite3.html#sqlite3-adapters), which takes ten times as long, and every value takes its time; so
rows that are nearly always alike in some columns have a statement of their own, in which those are `fixed`.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from itertools import chain
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Connection, Dialect, Table, any_, bindparam, text

from tocsin.store.dialects import arrays, binary

T = TypeVar("T")
Names: TypeAlias = tuple[str, ...]
Rows: TypeAlias = Sequence[tuple[Any, ...]]

_WAIT_FOR_TURN = text("SELECT pg_advisory_xact_lock(hashtextextended(:what, 0))")
_COPIED_FROM = 8  # rows that are added on PostgreSQL: for fewer a prepared statement costs the driver less
_SIZES = (256, 128, 64, 32, 16, 8, 4, 2, 1)  # rows of one statement on SQLite: few sizes, so that the driver finds them prepared


class Statement:
    """What is done with each of any number of rows. `columns`: what a row brings, in its order."""

    def __init__(
        self,
        table: Table,
        columns: Names,
        key: int,
        before: str,
        fixed: str | None,
        after: str,
        *,
        returns: bool,
        copied: Mapping[str, Any] | None = None,
    ) -> None:
        """`key`: how many of the columns find the row. `fixed`: what follows the columns of a new row; None: the rows are named `v`.

        `copied`: of rows that are only added, so that they can be copied in, the columns that are alike in all of them.
        """
        self.table = table
        self.columns = columns
        self.key = key
        self.returns = returns
        self.copied = copied
        self._before = before
        self._fixed = fixed
        self._after = after

    def unasked(self) -> "Statement":
        """The same without saying which rows it was."""
        after = self._after.partition(" RETURNING ")[0]
        return Statement(self.table, self.columns, self.key, self._before, self._fixed, after, returns=False)

    def row(self, **values: Any) -> tuple[Any, ...]:
        """A row by names."""
        if values.keys() != set(self.columns):
            raise TypeError(f"a row of {self.table.name} takes {', '.join(self.columns)}; got {', '.join(values)}")
        return tuple([values[name] for name in self.columns])

    def on_sqlite(self, rows: int) -> str:
        """The SQL for that many rows; their values are bound one after the other."""
        places = ", ".join(["?"] * len(self.columns))
        values = "VALUES " + ", ".join([f"({places}{self._fixed or ''})"] * rows)
        return f"{self._before} {values if self._fixed is not None else f'({values}) AS v'} {self._after}"

    def on_postgresql(self, dialect: Dialect) -> str:
        """The SQL for any number of rows; one array is bound for each column."""
        arrays = ", ".join(f"%s::{self.table.c[name].type.compile(dialect)}[]" for name in self.columns)
        names = ", ".join(f"column{n}" for n, _ in enumerate(self.columns, 1))
        rows = f"unnest({arrays}) AS v({names})"
        source = rows if self._fixed is None else f"SELECT {names}{_doubled(self._fixed)} FROM {rows}"
        return f"{_doubled(self._before)} {source} {_doubled(self._after)}"


def insert(
    table: Table,
    given: Names,
    fixed: Mapping[str, Any] | None = None,
    unless: Names = (),
    replacing: Mapping[str, Any] | None = None,
    returning: Names = (),
) -> Statement:
    """`unless`: a key; rows that are there already are left as they are, but for those that are as `replacing` says; nothing is returned of
    them."""
    after = f"ON CONFLICT ({', '.join(unless)}) DO NOTHING" if unless else ""
    if replacing:
        sets = [f"{name} = excluded.{name}" for name in (*given, *(fixed or {})) if name not in unless]
        old = [f"{table.name}.{name} = {literal(value)}" for name, value in replacing.items()]
        after = f"ON CONFLICT ({', '.join(unless)}) DO UPDATE SET {', '.join(sets)} WHERE {' AND '.join(old)}"
    return _insert(table, given, len(unless), fixed or {}, after, returning)


def upsert(table: Table, key: Names, given: Names = (), adds: Names = (), fixed: Mapping[str, Any] | None = None) -> Statement:
    """Rows by `key`, new or in place of those there are; what they bring for `adds` is added to what is there."""
    sets = [f"{name} = excluded.{name}" for name in (*given, *(fixed or {}))]
    sets += [f"{name} = {table.name}.{name} + excluded.{name}" for name in adds]
    after = f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {', '.join(sets)}"
    return _insert(table, key + given + adds, len(key), fixed or {}, after, ())


def update(
    table: Table,
    key: Names,
    given: Names = (),
    adds: Names = (),
    raises: Names = (),
    fixed: Mapping[str, Any] | None = None,
    guard: Mapping[str, Any] | None = None,
    where: str = "",
    returning: Names = (),
) -> Statement:
    """Rows by `key`. What they bring for `adds` is added to what is there, and for `raises` only counts if it is more. Nothing happens to
    rows that are not as `guard` and `where` say; `{name}` in it is what the row brings."""
    columns = key + given + adds + raises
    places = [f"v.column{n}" for n, _ in enumerate(columns, 1)]
    place = dict(zip(columns, places, strict=True))  # of a column that is compared and changed, the new value
    conditions = [f"{table.name}.{name} = {before}" for name, before in zip(key, places, strict=False)]
    sets = [f"{name} = {place[name]}" for name in given]
    sets += [f"{name} = {table.name}.{name} + {place[name]}" for name in adds]
    sets += [f"{name} = CASE WHEN {table.name}.{name} > {place[name]} THEN {table.name}.{name} ELSE {place[name]} END" for name in raises]
    sets += [f"{name} = {literal(value)}" for name, value in (fixed or {}).items()]
    conditions += [f"{_not_by(value)}{table.name}.{name} = {literal(value)}" for name, value in (guard or {}).items()]
    if where:
        conditions.append(f"({where.format_map(place)})")
    before = f"UPDATE {table.name} SET {', '.join(sets)} FROM"
    after = f"WHERE {' AND '.join(conditions)}{_returning(returning)}"
    return Statement(table, columns, len(key), before, None, after, returns=bool(returning))


def _not_by(value: Any) -> str:
    """`+` keeps a database from looking through an index on a guard that is a number, such as all that is pending, instead of the keys."""
    return "+" if isinstance(value, int) and not isinstance(value, bool) else ""


def look(table: Table, key: Names, wanted: Names, given: Names = (), where: str = "") -> Statement:
    """The rows that have one of the keys, and are as `where` says; `{name}` in it is what the row brings."""
    return _look(table, ", ".join(f"{table.name}.{name}" for name in wanted), key, given, where)


def count(table: Table, key: Names, where: str = "") -> Statement:
    """How many rows have one of the keys, and are as `where` says: of each statement that many rows take, a row of its own."""
    return _look(table, "count(*)", key, (), where)


def _look(table: Table, what: str, key: Names, given: Names, where: str) -> Statement:
    columns = key + given
    place = {name: f"v.column{n}" for n, name in enumerate(columns, 1)}
    # CROSS JOIN: SQLite goes through the list and looks each row up (https://www.sqlite.org/optoverview.html).
    conditions = [f"{table.name}.{name} = {place[name]}" for name in key]
    if where:
        conditions.append(f"({where.format_map(place)})")
    after = f"CROSS JOIN {table.name} WHERE {' AND '.join(conditions)}"
    return Statement(table, columns, len(key), f"SELECT {what} FROM", None, after, returns=True)


def _insert(table: Table, given: Names, key: int, fixed: Mapping[str, Any], after: str, returning: Names) -> Statement:
    before = f"INSERT INTO {table.name} ({', '.join((*given, *fixed))})"
    constant = "".join(f", {literal(value)}" for value in fixed.values())
    after += _returning(returning)
    return Statement(table, given, key, before, constant, after, returns=bool(returning), copied=None if after else fixed)


def _returning(names: Names) -> str:
    return f" RETURNING {', '.join(names)}" if names else ""


def plain(value: Any) -> Any:
    """As it is in a row."""
    return value.value if isinstance(value, Enum) else value


def literal(value: Any) -> str:
    """A value of ours in SQL, the same for both dialects."""
    value = plain(value)
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def _doubled(sql: str) -> str:
    return sql.replace("%", "%%")


_on_sqlite = functools.lru_cache(maxsize=512)(Statement.on_sqlite)


@functools.lru_cache(maxsize=64)
def _on_postgresql(statement: Statement, dialect: Dialect) -> tuple[str, tuple[Callable[[Sequence[Any]], str], ...]]:
    """The SQL, and how the array of each column is written."""
    types = [statement.table.c[name].type for name in statement.columns]
    return statement.on_postgresql(dialect), tuple(map(arrays.writer_of, types))


@functools.lru_cache(maxsize=64)
def _copy(statement: Statement) -> Callable[[Rows], tuple[str, bytes]]:
    """What makes the SQL and the data that add rows."""
    fixed: Mapping[str, Any] = statement.copied or {}
    names = (*statement.columns, *fixed)
    types = [statement.table.c[name].type for name in names]
    encoders = [binary.encoder_of(type_) for type_ in types]
    always = encoders[len(statement.columns) :]
    ending = b"".join([value for encode, one in zip(always, fixed.values(), strict=True) for value in encode([plain(one)])])
    sql = f"COPY {statement.table.name} ({', '.join(names)}) FROM STDIN (FORMAT BINARY)"

    def made(rows: Rows) -> tuple[str, bytes]:
        columns = [encode(column) for encode, column in zip(encoders, zip(*rows, strict=True), strict=False)]
        return sql, binary.rows(columns, len(names), ending)

    return made


def run(connection: Connection, statement: Statement, rows: Rows) -> list[Any]:
    """Run a statement for all rows; what it returns. Straight on the driver: SQLAlchemy takes longer than the statement."""
    if not rows:
        return []
    cursor: Any = connection.connection.cursor()
    try:
        if connection.dialect.name == "sqlite":
            return _run_on_sqlite(cursor, statement, rows)
        return _run_on_postgresql(cursor, connection.dialect, statement, rows)
    finally:
        cursor.close()


def _run_on_sqlite(cursor: Any, statement: Statement, rows: Rows) -> list[Any]:
    found: list[Any] = []
    start, end = 0, len(rows)
    for size in _SIZES:
        while end - start >= size:
            some = rows if size == end else rows[start : start + size]
            cursor.execute(_on_sqlite(statement, size), list(chain.from_iterable(some)))
            if statement.returns:
                found += cursor.fetchall()
            start += size
    return found


def _run_on_postgresql(cursor: Any, dialect: Dialect, statement: Statement, rows: Rows) -> list[Any]:
    """In the order of the rows' keys, so that two writers do not wait for each other in a circle."""
    if statement.copied is not None and len(rows) >= _COPIED_FROM:
        sql, data = _copy(statement)(rows)
        with cursor.copy(sql) as out:
            out.write(data)
        return []
    sql, written = _on_postgresql(statement, dialect)
    if statement.key:
        rows = sorted(rows, key=lambda row: row[: statement.key])
    cursor.execute(sql, [write(column) for write, column in zip(written, zip(*rows, strict=True), strict=True)])
    return cursor.fetchall() if statement.returns else []


def is_alone(connection: Connection) -> bool:
    """Whether nobody else can write until this transaction has ended: what it has seen stays so."""
    driver: Any = connection.connection.driver_connection
    return connection.dialect.name == "sqlite" and driver.in_transaction


def wait_for_turn(connection: Connection, what: str) -> None:
    """Of two transactions that do the same at once, the second waits here until the first has ended; on SQLite they always do."""
    if connection.dialect.name == "postgresql":
        connection.execute(_WAIT_FOR_TURN, {"what": what})


def among(connection: Connection, column: ColumnElement[int], ids: Sequence[int]) -> ColumnElement[bool]:
    """Whether the column holds one of the ids. As one array where the database takes that: SQLAlchemy and the driver take a while for
    each value of a list."""
    if connection.dialect.name == "postgresql":
        return column == any_(bindparam(None, list(ids), ARRAY(BigInteger)))
    return column.in_(ids)


def chunks(ids: Sequence[T], size: int = 500) -> Iterable[Sequence[T]]:
    """Slices of up to `size` ids, for a statement with a bound value for each."""
    return (ids[start : start + size] for start in range(0, len(ids), size))
