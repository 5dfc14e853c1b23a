"""All rows of a store, from a SQLite file into PostgreSQL, and compared there."""

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from psycopg import Connection as Driver
from psycopg import sql
from sqlalchemy import Boolean, Connection, Table, Text

from tocsin.ports.errors import StoreError
from tocsin.store import dialects
from tocsin.store.dialects.arrays import INSTEAD, NUL
from tocsin.store.tables import audit, metadata

Row: TypeAlias = tuple[Any, ...]
Progress: TypeAlias = Callable[[str, str, int, int], None]
"""What is done, with which table, and how many rows of how many."""

ROWS_AT_ONCE = 1000


def copy(source: sqlite3.Connection, target: Connection, progress: Progress) -> int:
    """Into tables without rows, within the target's transaction; how many there are. Raises StoreError if any row differs afterwards."""
    driver = _driver(target)
    total = 0
    for table in metadata.sorted_tables:
        count = source.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0]
        total += count
        _copy_table(source, driver, table, lambda done, name=table.name, count=count: progress("Copied", name, done, count))
        _compare(source, driver, table, lambda done, name=table.name, count=count: progress("Compared", name, done, count))
    for name, at in source.execute("SELECT name, seq FROM sqlite_sequence"):
        if at and name in metadata.tables:
            dialects.of(target.engine).set_counter(target, name, at)
    last = source.execute("SELECT coalesce(max(id), 0) FROM handler_events").fetchone()[0]  # whose ids have no counter there
    if last:
        dialects.of(target.engine).set_counter(target, "handler_events", last)
    return total


def compare(source: sqlite3.Connection, target: Connection) -> None:
    """Raises StoreError if any row differs."""
    for table in metadata.sorted_tables:
        _compare(source, _driver(target), table, lambda _: None)


def _copy_table(source: sqlite3.Connection, driver: Driver[Any], table: Table, done: Callable[[int], None]) -> None:
    columns = [column.name for column in table.columns]
    into = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(table.name), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with driver.cursor() as cursor, cursor.copy(into) as out:
        out.set_types([column.type.compile().lower().replace("blob", "bytea") for column in table.columns])
        for number, row in enumerate(_rows(source, table), 1):
            out.write_row(row)
            if number % ROWS_AT_ONCE == 0:
                done(number)


def _compare(source: sqlite3.Connection, driver: Driver[Any], table: Table, done: Callable[[int], None]) -> None:
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns)
    key = sql.SQL(", ").join(
        sql.SQL('{} COLLATE "C"' if isinstance(column.type, Text) else "{}").format(sql.Identifier(column.name))
        for column in table.primary_key
    )
    query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(columns, sql.Identifier(table.name), key)
    with driver.cursor(name="compared") as copied:
        copied.itersize = ROWS_AT_ONCE
        copied.execute(query)
        for number, (row, other) in enumerate(itertools.zip_longest(_rows(source, table), copied), 1):
            if row is None and table is audit:  # the target's says that the store was moved
                break
            if row != other:
                raise StoreError(f"Row {number} of {table.name} is not what it was: nothing was moved.")
            if number % ROWS_AT_ONCE == 0:
                done(number)


def _rows(source: sqlite3.Connection, table: Table) -> Iterator[Row]:
    """By their primary key."""
    names, key = (", ".join(column.name for column in some) for some in (table.columns, table.primary_key))
    booleans = [n for n, column in enumerate(table.columns) if isinstance(column.type, Boolean)]
    texts = [n for n, column in enumerate(table.columns) if isinstance(column.type, Text)]
    for found in source.execute(f"SELECT {names} FROM {table.name} ORDER BY {key}"):
        row = list(found)
        for n in booleans:
            row[n] = None if row[n] is None else bool(row[n])
        for n in texts:
            if row[n] is not None and NUL in row[n]:
                row[n] = row[n].replace(NUL, INSTEAD)
        yield tuple(row)


def _driver(connection: Connection) -> Driver[Any]:
    driver: Any = connection.connection.driver_connection
    return driver
