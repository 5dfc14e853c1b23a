"""Two writers of one store, each on a connection of its own, and what one does between two statements of the other.

On PostgreSQL both have a transaction open. On SQLite only one could, so there each statement is committed by itself: that is what
another transaction sees on PostgreSQL, too, at each moment (READ COMMITTED), so whatever is not guarded shows.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event

from tocsin.store.dialects.sqlite import sqlite_url

LOOK_SECONDS = 0.01


def _before(driver: Any) -> None:
    before: Callable[[], None] | None = getattr(driver, "before", None)
    if before is not None:
        before()


class _SqliteCursor(sqlite3.Cursor):
    def execute(self, *args: Any) -> Any:
        _before(self.connection)
        return super().execute(*args)

    def executemany(self, *args: Any) -> Any:
        _before(self.connection)
        return super().executemany(*args)


class _Sqlite(sqlite3.Connection):
    before: Callable[[], None] | None = None

    def cursor(self, factory: type[sqlite3.Cursor] = _SqliteCursor) -> Any:
        return super().cursor(factory)


class _PostgresqlCursor(psycopg.Cursor[Any]):
    def execute(self, *args: Any, **options: Any) -> Any:
        _before(self.connection)
        return super().execute(*args, **options)

    def executemany(self, *args: Any, **options: Any) -> None:
        _before(self.connection)
        super().executemany(*args, **options)


class Writers:
    """`is_locking`: a writer waits for the rows that the other has changed."""

    def __init__(self, engine: Engine, *, is_locking: bool) -> None:
        self.engine = engine
        self.is_locking = is_locking

    def alone(self, work: Callable[[Connection], Any]) -> Any:
        with self.engine.begin() as connection:
            return work(connection)

    def both(self, first: Callable[[Connection], Any], second: Callable[[Connection], Any], at: int) -> tuple[Any, Any] | None:
        """What they return, with `second` done, or waiting, before statement number `at` of `first`; None if that has fewer."""
        done: list[Any] = []
        threads: list[threading.Thread] = []
        statements = 0

        def before() -> None:
            nonlocal statements
            statements += 1
            if statements == at:
                if self.is_locking:
                    threads.append(self._begun(second, done))
                else:
                    done.append(self.alone(second))

        with self.engine.begin() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.before = before
            try:
                result = first(connection)
            finally:
                driver.before = None
        for thread in threads:
            thread.join()
        if statements < at:
            return None
        if isinstance(done[0], Exception):
            raise done[0]
        return result, done[0]

    def _begun(self, work: Callable[[Connection], Any], done: list[Any]) -> threading.Thread:
        """Returns once it has been done or waits for somebody."""
        pids: list[int] = []

        def run() -> None:
            try:
                with self.engine.begin() as connection:
                    pids.append(connection.connection.driver_connection.info.backend_pid)  # pyright: ignore[reportOptionalMemberAccess]
                    result = work(connection)
            except Exception as error:  # noqa: BLE001  # for who looks at the result
                result = error
            done.append(result)

        thread = threading.Thread(target=run)
        thread.start()
        with self.engine.connect() as observer:
            while thread.is_alive():
                thread.join(LOOK_SECONDS)
                if pids and observer.exec_driver_sql("SELECT pg_blocking_pids(%s)", (pids[0],)).scalar():
                    break
        return thread


@contextmanager
def on_sqlite(file: Path) -> Iterator[Writers]:
    engine = create_engine(sqlite_url(file), connect_args={"factory": _Sqlite, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def connected(driver: sqlite3.Connection, _: object) -> None:
        driver.isolation_level = None  # each statement is committed by itself
        driver.execute("PRAGMA foreign_keys=ON")
        driver.execute("PRAGMA journal_mode=WAL")

    try:
        yield Writers(engine, is_locking=False)
    finally:
        engine.dispose()


@contextmanager
def on_postgresql(url: str) -> Iterator[Writers]:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url, cursor_factory=_PostgresqlCursor))
    try:
        yield Writers(engine, is_locking=True)
    finally:
        engine.dispose()
