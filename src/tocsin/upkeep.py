"""What an operator does to the store as a whole: copy it, put a copy in its place, give it a new key."""

import contextlib
import functools
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
from sqlalchemy import Connection, Engine, NullPool, create_engine, select, update
from sqlalchemy.exc import DBAPIError

from tocsin import datadir
from tocsin.datadir import KEY_FILE, LEDGER_FILE, STORE_FILE
from tocsin.flow.mail_account import REFRESH_TOKEN
from tocsin.settings import Settings
from tocsin.store import StoreError, ids, values
from tocsin.store.faults import words_of
from tocsin.store.sql import write_now
from tocsin.store.tables import handlers
from tocsin.vault import Vault, WrongKey, new_secret_key

ROWS_AT_ONCE = 200  # that get their new encryption in one write, so that none of the service's waits for long
T = TypeVar("T")
NOTICED_SECONDS = 2.0  # within which a running service sees a new key


def back_up(settings: Settings, file: Path) -> int:
    """A copy of the store as it is at one moment, also while the service runs; its size in bytes. Raises StoreError."""
    engine, _ = datadir.open_existing(settings)
    engine.dispose()
    if file.exists():
        raise StoreError(f"{file} is there already: name another file, or move it away.")
    with _written(file) as new, _opened(settings.data_path / STORE_FILE, "ro") as source:
        target = sqlite3.connect(new)
        try:
            source.backup(target)  # in one step: one moment of the store, and in WAL mode nobody waits for it
            target.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
        finally:
            target.close()
        _check_whole(new)
    return file.stat().st_size


def restore(settings: Settings, file: Path, replace: bool = False) -> Path | None:
    """Put a copy in the place of the store; where the old one went, if there was one. Raises StoreError, having changed nothing."""
    folder = settings.data_path
    if not file.is_file():
        raise StoreError(f"There is no file {file}.")
    _check_whole(file)
    datadir.check_fits(settings, file)
    with datadir.locked(folder):
        store = folder / STORE_FILE
        if datadir.has_store(folder) and not replace:
            raise StoreError(f"There is a store in {folder} already: name another --data-dir, or use --replace, which keeps it beside.")
        moved = None
        with _written(store) as new:
            shutil.copyfile(file, new)
            mark = _move_ids_on(new, _known_ids(folder))
            _sync(new)
            if store.exists():
                moved = _move_away(folder)
        with contextlib.suppress(OSError):
            datadir.note_ids(settings, mark)
        (folder / LEDGER_FILE).unlink(missing_ok=True)  # of another time: what it names is not what was under way in the copy
    return moved


def _known_ids(folder: Path) -> list[ids.Mark]:
    """How far ids are known to have come here, whatever can still be read."""
    noted = datadir.noted_ids(folder)
    found = [] if noted is None else [noted]
    for file in (folder / STORE_FILE, *folder.glob(f"{STORE_FILE}.before-*")):
        if file.is_file() and file.stat().st_size:
            with contextlib.suppress(sqlite3.Error, DBAPIError, msgspec.MsgspecError, UnicodeDecodeError):
                found.append(_with_store(file, ids.mark))
    return found


def _move_ids_on(file: Path, known: list[ids.Mark]) -> ids.Mark:
    """No id that comes after the copy means anything that it meant before. Returns how far ids have come now."""

    def move(connection: Connection) -> ids.Mark:
        own = ids.mark(connection)
        counters = [mark.counters for mark in known if mark.origin == own.origin]
        highest = {table: max((one.get(table, 0) for one in counters), default=0) for table in ids.STEPS}
        ids.move_on(connection, datadir.new_store_id(), highest)
        return ids.mark(connection)

    return _with_store(file, move)


def _with_store(file: Path, work: Callable[[Connection], T]) -> T:
    engine = create_engine(f"sqlite:///{file}", poolclass=NullPool)
    try:
        with engine.begin() as connection:
            return work(connection)
    finally:
        engine.dispose()


def move_on(settings: Settings) -> None:
    """Move the ids of the store on, after it was put back by other means than `restore`. Raises StoreError."""
    folder = settings.data_path
    with datadir.locked(folder):
        engine, _ = datadir.open_existing(settings)
        engine.dispose()
        try:
            mark = _move_ids_on(folder / STORE_FILE, _known_ids(folder))
            datadir.note_ids(settings, mark)
        except (DBAPIError, OSError) as error:
            raise StoreError(f"The store in {folder} cannot be written: {words_of(error)}.") from error


def rotate_key(settings: Settings, wait: Callable[[float], None] = time.sleep) -> tuple[int, Path | None]:
    """Encrypt every secret of the store under a new key, also while the service runs; how many rows, and where the old key went.

    Stopped half-way it goes on when it is run again: the key file holds both keys until the end. With TOCSIN_SECRET_KEY the first key of
    its list is the new one. Raises StoreError.
    """
    file = settings.data_path / KEY_FILE
    engine, _ = datadir.open_existing(settings)
    try:
        if not settings.secret_key:
            keys = file.read_text(encoding="ascii").split()
            if len(keys) == 1:
                keys.insert(0, new_secret_key())
                _write_keys(file, keys)
        else:
            keys = [key.strip() for key in settings.secret_key.split(",") if key.strip()]
        vault, newest = Vault(keys), Vault(keys[:1])
        write_now(engine, lambda connection: datadir.seal_canary(connection, vault))
        wait(NOTICED_SECONDS)  # the service sees that write, and from then on encrypts with the new key itself
        rotated = 0
        while found := _rotate_all(engine, vault, newest, wait):  # again, for what the service wrote meanwhile
            rotated += found
    finally:
        engine.dispose()
    if settings.secret_key:
        return rotated, None
    old = file.with_name(f"{KEY_FILE}.before-{time.strftime('%Y-%m-%d-%H%M%S')}")
    _write_keys(old, keys[1:])
    _write_keys(file, keys[:1])
    return rotated, old


def _rotate_all(engine: Engine, vault: Vault, newest: Vault, wait: Callable[[float], None]) -> int:
    """How many rows the newest key did not open."""
    write_now(engine, functools.partial(_rotate_token, vault=vault, newest=newest))
    done, after = 0, 0
    while after is not None:
        found, after = write_now(engine, functools.partial(_rotate_some, vault=vault, newest=newest, after=after))
        done += found
        wait(0.01)
    return done


def _rotate_token(connection: Connection, vault: Vault, newest: Vault) -> None:
    """The refresh token of the mail account, where there is one. One that nobody can open stays: that of the settings is used."""
    sealed = values.read(connection, REFRESH_TOKEN)
    if sealed is not None and not newest.opens(sealed):
        with contextlib.suppress(WrongKey):
            values.write(connection, REFRESH_TOKEN, vault.rotate(sealed))


def _rotate_some(connection: Connection, vault: Vault, newest: Vault, after: int) -> tuple[int, int | None]:
    """The next rows after that id: how many had to be changed, and the id to go on after."""
    columns = (handlers.c.id, handlers.c.settings, handlers.c.secret)
    rows = connection.execute(select(*columns).where(handlers.c.id > after).order_by(handlers.c.id).limit(ROWS_AT_ONCE)).all()
    done = 0
    for row in rows:
        old = {name: value for name, value in (("settings", row.settings), ("secret", row.secret)) if value and not newest.opens(value)}
        if old:
            fresh = {name: vault.rotate(value) for name, value in old.items()}
            connection.execute(update(handlers).where(handlers.c.id == row.id).values(fresh))
            done += 1
    return done, rows[-1].id if len(rows) == ROWS_AT_ONCE else None


# ------------------------------------------------------------------------------------------------------------- files


@contextmanager
def _opened(file: Path, mode: str) -> Generator[sqlite3.Connection, None, None]:
    with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode={mode}", uri=True, timeout=10)) as connection:
        yield connection


def _check_whole(file: Path) -> None:
    try:
        with _opened(file, "ro") as connection:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{file} is not a store, or it is damaged: {error}.") from error
    if found != "ok":
        raise StoreError(f"{file} is damaged: {' '.join(str(found).split())}.")


@contextmanager
def _written(file: Path) -> Generator[Path, None, None]:
    """A new file beside, which takes the place of `file` once it is whole and on the disk. Raises StoreError."""
    new = file.with_name(f"{file.name}.new")
    try:
        new.unlink(missing_ok=True)
        new.touch(mode=0o600)
        yield new
        _sync(new)
        new.rename(file)
        _sync(file.absolute().parent)
    except (OSError, sqlite3.Error, DBAPIError) as error:
        raise StoreError(f"{file} cannot be written: {error.strerror if isinstance(error, OSError) else words_of(error)}.") from error
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def _write_keys(file: Path, keys: list[str]) -> None:
    with _written(file) as new:
        new.write_text("\n".join([*keys, ""]), encoding="ascii")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_away(folder: Path) -> Path:
    """The present store, its log included, under another name."""
    moved = folder / f"{STORE_FILE}.before-{time.strftime('%Y-%m-%d-%H%M%S')}"
    with contextlib.suppress(sqlite3.Error), _opened(folder / STORE_FILE, "rw") as connection:  # damaged: it is moved as it is
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    try:
        for ending in ("-journal", "-wal", ""):
            with contextlib.suppress(FileNotFoundError):
                (folder / f"{STORE_FILE}{ending}").rename(f"{moved}{ending}")
        (folder / f"{STORE_FILE}-shm").unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"The store in {folder} cannot be moved away: {error.strerror}.") from error
    return moved
