"""The data directory: its lock, its key file, its store, opened and checked before anything in it is changed."""

import fcntl
import os
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection, Engine

from tocsin.settings import Settings
from tocsin.store import StoreError, migrations
from tocsin.store.sql import migrate, read_meta, replace_meta, sqlite_engine, write_meta, write_now
from tocsin.vault import Vault, WrongKey, new_secret_key, random_base62

STORE_FILE = "tocsin.db"
KEY_FILE = "secret.key"
LEDGER_FILE = "in-flight"
STARTS_FILE = "starts"
_LOCK_FILE = "tocsin.lock"
_CANARY = "canary"
_STORE_ID = "store_id"
log = structlog.get_logger(__name__)


@contextmanager
def locked(folder: Path) -> Generator[None, None, None]:
    """Hold the folder for one service. Raises StoreError if another has it, or it cannot be used."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreError(f"The data directory {folder} cannot be used: {error.strerror}.") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise StoreError(f"Another tocsin serves the data directory {folder} already: stop it first, or use another --data-dir.") from None
    try:
        yield
    finally:
        os.close(file)


def has_store(folder: Path) -> bool:
    file = folder / STORE_FILE
    return file.exists() and file.stat().st_size > 0


def open_store(settings: Settings) -> tuple[Engine, Vault]:
    """The store, brought to this version's form, and the vault that opens it.

    Raises StoreError, having changed nothing, if no key that was given opens it.
    """
    folder = settings.data_path
    is_new = not has_store(folder)
    vault = Vault(_keys(settings, folder, make=is_new))
    if is_new:
        (folder / STORE_FILE).touch(mode=0o600)  # SQLite gives its other files the same mode
    else:
        _check_canary(folder / STORE_FILE, vault)
        _check_form(folder / STORE_FILE)
    engine = sqlite_engine(folder / STORE_FILE)
    migrate(engine)
    write_now(engine, lambda connection: _mark(connection, vault))
    return engine, vault


def open_existing(settings: Settings) -> tuple[Engine, Vault]:
    """The store of a service that runs or ran. Raises StoreError where there is none, or its key is missing."""
    folder = settings.data_path
    if not has_store(folder):
        raise StoreError(f"There is no store in {folder}: start `tocsin serve` there first, or name another --data-dir.")
    vault = Vault(_keys(settings, folder, make=False))
    _check_canary(folder / STORE_FILE, vault)
    return sqlite_engine(folder / STORE_FILE), vault


def check_fits(settings: Settings, file: Path) -> None:
    """Whether the keys of this data directory open a copy of a store, and this version knows its form. Raises StoreError."""
    _check_canary(file, Vault(_keys(settings, settings.data_path, make=False)))
    _check_form(file)


def seal_canary(connection: Connection, vault: Vault) -> None:
    """The canary under the vault's first key."""
    replace_meta(connection, _CANARY, vault.seal({"tocsin": "canary"}))


def use_present_keys(settings: Settings, vault: Vault) -> None:
    """After another process wrote to the store: it may have given it a new key."""
    try:
        vault.use(_keys(settings, settings.data_path, make=False))
    except StoreError as error:
        log.error("keys.unreadable", why=str(error))  # those in use go on


def store_id(engine: Engine) -> str:
    """Random letters and digits that tell this store's deliveries from another's."""
    with engine.connect() as connection:
        return (read_meta(connection, _STORE_ID) or b"").decode()


def _mark(connection: Connection, vault: Vault) -> None:
    if read_meta(connection, _CANARY) is None:
        write_meta(connection, _CANARY, vault.seal({"tocsin": "canary"}))
        write_meta(connection, _STORE_ID, random_base62(10).encode())


def _keys(settings: Settings, folder: Path, make: bool) -> list[str]:
    if settings.secret_key:
        return [key.strip() for key in settings.secret_key.split(",") if key.strip()]
    file = folder / KEY_FILE
    try:
        if file.exists():
            return [key for key in file.read_text(encoding="ascii").split() if key] or [""]
        if make:
            return [_make_key_file(file)]
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"The key file {file} cannot be read: {error}.") from error
    raise StoreError(f"The store in {folder} cannot be opened: its key file {KEY_FILE} is missing. Put it back, or set TOCSIN_SECRET_KEY.")


def _make_key_file(file: Path) -> str:
    key = new_secret_key()
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as out:
        out.write(key + "\n")
        out.flush()
        os.fsync(out.fileno())
    return key


def _check_form(file: Path) -> None:
    """A store of a newer version than this one is left alone."""
    row = first_row(file, "SELECT version_num FROM alembic_version")
    if row is not None and row[0] > migrations.HEAD:
        raise StoreError(
            f"The store {file} was made by a newer version of tocsin (its form is {row[0]}, this version knows {migrations.HEAD})."
        )


def _check_canary(file: Path, vault: Vault) -> None:
    row = first_row(file, f"SELECT value FROM meta WHERE name = '{_CANARY}'")
    if row is None:  # made, but never marked: nothing is in it yet
        return
    try:
        vault.open(row[0])
    except WrongKey:
        where = "TOCSIN_SECRET_KEY" if not (file.parent / KEY_FILE).exists() else f"{KEY_FILE} or TOCSIN_SECRET_KEY"
        raise StoreError(f"The store in {file.parent} was made with another key: no key in {where} opens it.") from None


def first_row(file: Path, query: str) -> tuple[Any, ...] | None:
    """What a store answers, read only, so that one that is refused is left as it was; None also if there is no such table.

    Raises StoreError.
    """
    try:
        try:
            return _read(file, query, "ro")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_READONLY_ROLLBACK":
                raise
            # Whoever wrote to it last died half-way: until that is undone nobody can read it (https://sqlite.org/rescode.html).
            return _read(file, query, "rw")
    except sqlite3.DatabaseError as error:
        if "no such table" in str(error):
            return None
        raise StoreError(f"The store in {file.parent} cannot be read: {error}.") from error


def _read(file: Path, query: str, mode: str) -> tuple[Any, ...] | None:
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode={mode}", uri=True)) as connection:
        return connection.execute(query).fetchone()
