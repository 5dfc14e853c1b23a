"""SQLite: one file, in WAL mode, every commit on the disk."""

import contextlib
import functools
import sqlite3
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from sqlalchemy import URL, Connection, Engine, create_engine, create_mock_engine, event, text
from sqlalchemy.exc import DBAPIError

from tocsin.store import faults, migrations
from tocsin.store.room import Room, size_on_disk
from tocsin.store.tables import metadata

CONNECTIONS = 7  # as many as threads read, and some
_STEPS_BETWEEN_LOOKS = 50_000  # virtual machine instructions, about a millisecond
_PRAGMAS = (
    "busy_timeout=10000",
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "cache_size=-2048",
    "wal_autocheckpoint=4000",  # pages; pages that change again and again are written back once
    "journal_size_limit=16777216",  # bytes, those pages: a log that had to grow while somebody read is cut again
)


def sqlite_url(path: Path) -> URL:
    """The name as it is: in the text of a URL `?` and `%` would mean something."""
    return URL.create("sqlite", database=str(path))


def sqlite_engine(path: Path) -> Engine:
    """An engine on a SQLite file: WAL, every commit on the disk, foreign keys on, transactions begun by us."""
    engine = create_engine(
        sqlite_url(path),
        connect_args={"check_same_thread": False},
        pool_size=CONNECTIONS,
        hide_parameters=True,  # its errors hold them otherwise, and go into the log: texts, names, hashes
    )

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _: object) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.isolation_level = None
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    return engine


class _Session:
    """See `Session`."""

    def __init__(self, engine: Engine) -> None:
        file = engine.url.database
        self._room = Room(None if file is None else Path(file))
        self._engine = engine
        self._connection = engine.connect()
        self._driver: sqlite3.Connection = _driver(self._connection)
        self._waits: float | None = None
        # What a statement may have to undo, SQLite would keep in a file (https://www.sqlite.org/tempfiles.html): a seventh of a write.
        self._driver.execute("PRAGMA temp_store=MEMORY")
        self._data_version = self._version()

    @contextmanager
    def transaction(self) -> Generator[Connection, None, None]:
        with self._connection.begin():
            self._driver.execute("BEGIN IMMEDIATE")  # takes the lock at once, instead of failing half-way
            yield self._connection

    def was_kept(self) -> bool | None:
        raise NotImplementedError("SQLite answers every commit")

    def changes(self) -> int:
        return self._driver.total_changes

    def others_wrote(self) -> bool:
        before, self._data_version = self._data_version, self._version()
        return before != self._data_version

    def _version(self) -> int:
        """Moves only when another connection commits: https://www.sqlite.org/pragma.html#pragma_data_version."""
        return self._driver.execute("PRAGMA data_version").fetchone()[0]

    def wait_for_others(self, seconds: float) -> None:
        if seconds != self._waits:
            self._waits = seconds
            self._driver.execute(f"PRAGMA busy_timeout={seconds * 1000:.0f}")

    def after(self, error: BaseException) -> None:
        faults.forget_pages(self._connection, error)

    @property
    def is_full(self) -> bool:
        return self._room.is_used_up

    def is_short_of_room(self) -> bool:
        return self._room.is_short(self._connection)

    def make_room(self) -> bool:
        return self._room.make(self._connection)

    def close(self) -> None:
        self._connection.close()


class _Sqlite:
    """See `Dialect`."""

    def session(self, engine: Engine) -> _Session:
        return _Session(engine)

    @contextmanager
    def reading(self, engine: Engine, seconds: float) -> Generator[Connection, None, None]:
        with engine.connect() as connection:
            driver = _driver(connection)
            deadline = time.monotonic() + seconds
            driver.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_BETWEEN_LOOKS)
            try:
                with connection.begin():
                    driver.execute("BEGIN")
                    yield connection
            except DBAPIError as error:
                faults.forget_pages(connection, error)
                raise
            except sqlite3.Error as error:
                faults.forget_pages(connection, error)
                raise _like_others(error) from error
            finally:
                driver.set_progress_handler(None, 0)

    def for_glances(self, engine: Engine, seconds: float) -> Engine:  # noqa: ARG002
        return engine

    glancing = reading

    @contextmanager
    def writing(self, engine: Engine, *, is_long: bool = False) -> Generator[Connection, None, None]:  # noqa: ARG002
        try:
            with engine.begin() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
        except sqlite3.Error as error:
            raise _like_others(error) from error

    def wait_for_makers(self, connection: Connection) -> None:
        """A transaction that writes is alone."""

    def make(self, connection: Connection) -> None:
        for statement in _making():
            connection.exec_driver_sql(statement)
        migrations.note_newest(connection)

    def counters(self, connection: Connection) -> dict[str, int]:
        return {row[0]: int(row[1]) for row in connection.execute(text("SELECT name, seq FROM sqlite_sequence"))}

    def set_counter(self, connection: Connection, table: str, at: int) -> None:
        counter = {"name": table, "seq": at}
        if connection.execute(text("UPDATE sqlite_sequence SET seq = :seq WHERE name = :name"), counter).rowcount == 0:
            connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :seq)"), counter)

    def fold_log(self, engine: Engine) -> None:
        with contextlib.suppress(DBAPIError, sqlite3.Error), engine.connect() as connection:
            _driver(connection).execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # neither readers nor the writer wait for it

    def size(self, connection: Connection) -> int:
        return size_on_disk(connection)

    def unused(self, connection: Connection) -> int:
        driver = _driver(connection)
        (pages,), (page,) = driver.execute("PRAGMA freelist_count").fetchone(), driver.execute("PRAGMA page_size").fetchone()
        return pages * page


@functools.cache
def _making() -> Sequence[str]:
    """What makes the tables. A start needs them twice where the store is new: for its file, and to compare its form."""
    found: list[str] = []

    def note(statement: Any, *_: object) -> None:
        found.append(str(statement.compile(dialect=engine.dialect)))

    engine = create_mock_engine("sqlite://", note)
    metadata.create_all(engine, checkfirst=False)
    return found


def _like_others(error: sqlite3.Error) -> DBAPIError:
    """Of statements that are run on the driver itself."""
    return cast(DBAPIError, DBAPIError.instance(None, None, error, sqlite3.Error))


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection


SQLITE = _Sqlite()
