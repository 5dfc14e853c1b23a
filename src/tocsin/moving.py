"""A store is brought to this version's form, or moved from a data directory into PostgreSQL."""

import shutil
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, delete
from sqlalchemy.exc import DBAPIError

from tocsin import __version__, acting, datadir, files
from tocsin.engine.membership import is_near
from tocsin.keyfile import KEY_FILE
from tocsin.ports.audit import Act
from tocsin.ports.errors import StoreError
from tocsin.settings import Settings
from tocsin.store import faults, ids, values
from tocsin.store.audit import record
from tocsin.store.homes import Home
from tocsin.store.homes.sqlite_file import SqliteFile
from tocsin.store.migrating import migrate
from tocsin.store.migrations import HEAD
from tocsin.store.sql import MOVED_TO, write_now
from tocsin.store.tables import meta

if TYPE_CHECKING:
    from tocsin.store.dialects import copying


def upgrade(settings: Settings, told: Callable[..., None] = datadir.log_upgrade, *, force: bool = False) -> None:
    """Make the tables, or bring them to this version's form: beside processes that share it, if need be. Raises StoreError.

    `told`: see `datadir.open_store`. `force`: also beside processes that may not be able to use that form.
    """
    home = datadir.home_of(settings)
    if not force and home.is_shared and datadir.examine(settings) is not None and (home.version() or HEAD) < HEAD:
        _check_who_serves(home)
    with nullcontext() if home.is_shared else datadir.served(settings, _nothing):
        engine, _ = datadir.open_store(settings, upgrades=True, told=told)
        engine.dispose()


def _check_who_serves(home: Home) -> None:
    far = [one for one in home.processes() if not is_near(__version__, one.version)]
    if far:
        who = ", ".join(f"{one.name} ({one.version}{f' at {one.address}' if one.address else ''})" for one in far)
        raise StoreError(
            f"The store {home.name} is served by processes more than one version away from this one, {__version__}: {who}. They may fail"
            " once its tables are upgraded. Upgrade one version at a time, or stop them first; one that was killed counts for 10 seconds."
            " `tocsin migrate --force` upgrades all the same."
        )


def move(settings: Settings, source: Path, progress: "copying.Progress") -> int:
    """Everything that the store in that folder holds, into the empty database that the settings name; how many rows.

    All or nothing. What was moved does not start any more. Its key, and what it noted of attempts under way, comes along where the data
    directory has none. Raises StoreError.
    """
    if not settings.database_url:
        raise StoreError("TOCSIN_DATABASE_URL does not say where to move the store: set it to the database in PostgreSQL.")
    from tocsin.store.dialects import copying

    home, file = datadir.home_of(settings), datadir.file_of(source)
    datadir.check_reachable(source)
    if not file.is_present():
        raise StoreError(f"There is no store in {source}.")
    with datadir.locked(source):
        file.check_form()
        with home.lock(_nothing, alone=True):
            old = file.engine()
            _migrate(old)
            old.dispose()
            _bring_files(settings.data_path, source)
            datadir.check_opens(settings, file)
            engine = home.engine()
            try:
                with _kept_as_it_is(file) as rows:

                    def run(connection: Connection) -> int:
                        if values.read(connection, ids.STORE_ID) is not None:
                            return -1
                        connection.execute(delete(meta))  # what the form says of itself, which the moved store says too
                        return copying.copy(rows, connection, progress)

                    if home.is_there():
                        home.check_form()
                    _migrate(engine)
                    moved = write_now(engine, run, is_long=True)
                    if moved < 0:  # of a move that was interrupted after its commit, or of another store
                        write_now(engine, lambda connection: _check_same(rows, connection), is_long=True)
                    rows.execute("INSERT INTO meta (name, value) VALUES (?, ?)", (MOVED_TO, home.name.encode()))
                write_now(engine, lambda connection: record(connection, Act.MOVED, by=acting.commander()))
            finally:
                engine.dispose()
    return max(0, moved)


def _migrate(engine: Engine) -> None:
    try:
        migrate(engine)
    except DBAPIError as error:
        raise StoreError(faults.sentence(error)) from error


@contextmanager
def _kept_as_it_is(file: SqliteFile) -> Generator[sqlite3.Connection, None, None]:
    """In one transaction, in which no command can write to the store what would then be missing in the other. Raises StoreError."""
    try:
        with closing(sqlite3.connect(f"{file.file.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)) as rows:
            rows.execute("PRAGMA synchronous=FULL")
            rows.execute("BEGIN IMMEDIATE")
            yield rows
            rows.execute("COMMIT")
    except sqlite3.Error as error:
        raise StoreError(faults.sentence(error)) from error


def _check_same(rows: sqlite3.Connection, connection: Connection) -> None:
    from tocsin.store.dialects import copying

    own = rows.execute("SELECT value FROM meta WHERE name = ?", (ids.STORE_ID,)).fetchone()
    if own is None or values.read(connection, ids.STORE_ID) != own[0]:
        raise StoreError("The database that TOCSIN_DATABASE_URL names holds a store already: move to an empty one.")
    copying.compare(rows, connection)


def _bring_files(folder: Path, source: Path) -> None:
    """What belongs to the store beside it. Raises StoreError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"The data directory {folder} cannot be used: {error.strerror}.") from error
    if folder.samefile(source):
        return
    for name in (KEY_FILE, datadir.LEDGER_FILE, datadir.STARTS_FILE):
        if (source / name).is_file() and not (folder / name).exists():
            try:
                with files.replaced(folder / name) as new:
                    shutil.copyfile(files.real(source / name), new)
            except OSError as error:
                raise StoreError(f"{source / name} cannot be copied to {folder}: {error.strerror}.") from error


def _nothing(_: str) -> None:
    """A process that takes the lock meanwhile finds an empty database, or a whole store."""
