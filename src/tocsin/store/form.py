"""Whether a SQLite file is a store of ours, whole enough to begin with, and of a form that this version knows.

Everything here only reads, so that a file that is refused is left as it was.
"""

import functools
import sqlite3
from pathlib import Path
from typing import TypeAlias

from sqlalchemy import create_engine

from tocsin.ports.errors import StoreError
from tocsin.store import migrations
from tocsin.store.migrating import migrate, migrate_to
from tocsin.store.tables import IS_PENDING

Shape: TypeAlias = dict[str, frozenset[tuple[str, bool, bool]]]
"""Of each table its columns (name, not null, part of the key); of an index only that it is there."""

NEWEST_SEALED = "SELECT settings FROM handlers WHERE settings IS NOT NULL ORDER BY id DESC LIMIT 1"
EVERY_SEALED = "SELECT settings, secret FROM handlers WHERE deleted_at IS NULL"
_BEGINNING = (  # what a start reads; a damaged page of it would end the service later, and in many words
    "SELECT 1 FROM meta NOT INDEXED LIMIT 1",
    "SELECT 1 FROM users NOT INDEXED LIMIT 1",
    "SELECT 1 FROM handlers NOT INDEXED LIMIT 1",
    "SELECT 1 FROM deliveries NOT INDEXED LIMIT 1",
    f"SELECT 1 FROM deliveries INDEXED BY ix_deliveries_pending WHERE {IS_PENDING} LIMIT 1",
)


def is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def check_form(file: Path, connection: sqlite3.Connection) -> None:
    """Raises StoreError, in a sentence that names the file."""
    found = shape(connection)
    check_shape(str(file), found, _version(connection) if "alembic_version" in found else None)
    for query in _BEGINNING:
        connection.execute(query).fetchone()


def check_shape(name: str, found: Shape, version: str | None, serves: str | None = None) -> None:
    """The same of any database, told what is in it. `serves`: the oldest form whose processes may use it, where it is newer than ours."""
    if "deliveries" not in found or "meta" not in found:
        raise StoreError(f"{name} is not a tocsin store: it holds other tables.")
    if version is None:
        raise StoreError(f"The store {name} does not say which version it has: it is damaged, or was made while tocsin was developed.")
    if serves is not None and serves <= migrations.HEAD < version:
        return
    if not ("0001" <= version <= migrations.HEAD and version.isdigit() and len(version) == len(migrations.HEAD)):
        what, forms = (
            "a newer" if version.isdigit() and version > migrations.HEAD else "an unknown",
            f"its form is {version}, this version knows {migrations.HEAD}",
        )
        raise StoreError(f"The store {name} was made by {what} version of tocsin ({forms}).")
    if different := _differences(found, expected(version)):
        why = "it was changed by hand, or made while tocsin was developed"
        raise StoreError(f"The store {name} does not match its version {version} ({different}): {why}.")


def types(connection: sqlite3.Connection) -> list[tuple[str]]:
    """Of all handlers that there are or were."""
    return connection.execute("SELECT DISTINCT type FROM handlers ORDER BY type").fetchall()


def shape(connection: sqlite3.Connection) -> Shape:
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'").fetchall()
    found: Shape = {name: frozenset() for kind, name, _ in rows if kind == "index"}
    for kind, name, _ in rows:
        if kind == "table":
            columns = connection.execute('SELECT name, "notnull", pk FROM pragma_table_info(?)', (name,))
            found[name] = frozenset((column, bool(not_null), bool(key)) for column, not_null, key in columns)
    return found


@functools.cache
def expected(version: str) -> Shape:
    """What a store of that version looks like."""
    engine = create_engine("sqlite://")
    try:
        if version == migrations.HEAD:
            migrate(engine)
        else:
            migrate_to(engine, version)
        with engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)  # noqa: S101
            return shape(driver)
    finally:
        engine.dispose()


def _version(connection: sqlite3.Connection) -> str | None:
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def _differences(found: Shape, wanted: Shape) -> str:
    """The first few, in words; empty if there are none. What an operator added beside our tables is theirs."""
    said: list[str] = []
    for name, columns in sorted(wanted.items()):
        if name not in found:
            said.append(f"{name} is missing")
        elif found[name] != columns:
            names = sorted({column for column, *_ in found[name] ^ columns})
            said.append(f"{name} differs in {', '.join(names[:3])}")
    return "; ".join(said[:2])
