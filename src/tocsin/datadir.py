"""The data directory: its lock, its key file, its store, opened and checked before anything in it is changed."""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from tocsin import files, observe
from tocsin.keyfile import KEY_FILE, read_keys
from tocsin.ports.errors import StoreError
from tocsin.ports.ids import Era, Mark
from tocsin.ports.values import Values
from tocsin.settings import Settings
from tocsin.store import faults, form, ids, values
from tocsin.store.dialects.sqlite import sqlite_engine
from tocsin.store.migrating import migrate
from tocsin.store.sql import write_now
from tocsin.vault import Vault, WrongKey, fingerprint, random_base62

STORE_FILE = "tocsin.db"
LEDGER_FILE = "in-flight"
STARTS_FILE = "starts"
LOCK_FILE = "tocsin.lock"
OWN_FILES = (STORE_FILE, f"{STORE_FILE}-wal", f"{STORE_FILE}-shm", KEY_FILE, LEDGER_FILE, STARTS_FILE, LOCK_FILE)
_CANARY = "canary"
_ASKED, _ANSWERED = "key_asked", "key_in_use"  # rows in `meta`
_PURPOSES = {  # nothing may be sent without them
    LEDGER_FILE: "where attempts under way are noted",
    STARTS_FILE: "where providers' limits are noted",
    LOCK_FILE: "which keeps a second service out",
}
log = structlog.get_logger(__name__)
T = TypeVar("T")


@contextmanager
def locked(folder: Path) -> Generator[None, None, None]:
    """Hold the folder for one service. Raises StoreError if another has it, or it cannot be used."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_file(folder / LOCK_FILE)
        file = files.opened(folder / LOCK_FILE)
    except OSError as error:
        raise StoreError(f"The data directory {folder} cannot be used: {error.strerror}.") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise StoreError(
            f"Another tocsin is already serving the data directory {folder}: stop it first, or use another --data-dir."
        ) from None
    try:
        yield
    finally:
        os.close(file)


def has_store(folder: Path) -> bool:
    """Whether there is a store, or something else in its place; an empty file does not count."""
    file = folder / STORE_FILE
    return file.exists() and not _is_first_write(file) and (not file.is_file() or file.stat().st_size > 0)


def open_store(settings: Settings) -> tuple[Engine, Vault]:
    """The store, migrated to this version, and the vault that opens it.

    Raises StoreError, having changed nothing, if no given key opens it, or if this version cannot use it.
    """
    folder = settings.data_path
    file = folder / STORE_FILE
    vault = examine(settings)
    try:
        if vault is None:
            vault = Vault(read_keys(settings, make=True))
            _make_store(file, vault)
        engine = sqlite_engine(file)
        migrate(engine)
        write_now(engine, lambda connection: _mark(connection, vault))
        _notice_old_copy(folder, engine)
    except (DBAPIError, sqlite3.Error, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else faults.words_of(error)
        raise StoreError(f"The store {file} cannot be opened: {why}.") from error
    return engine, vault


def examine(settings: Settings) -> Vault | None:
    """Checks the data directory as a start would, without changing anything: raises StoreError. None: there is no store yet."""
    folder = settings.data_path
    file = folder / STORE_FILE
    _check_files(folder)
    if not file.exists() or _is_first_write(file):
        return None
    if _is_empty(file):
        beside = next((name for name in (KEY_FILE, LEDGER_FILE) if (folder / name).exists()), None)
        if beside is not None:
            raise StoreError(
                f"The store {file} is empty, though {beside} is beside it: a copy failed, or a volume is missing. Put the store back,"
                f" or restore a backup; to start over, delete {file} first."
            )
        return None
    vault = Vault(read_keys(settings))
    _check_store(file, vault)
    return vault


def open_existing(settings: Settings) -> tuple[Engine, Vault]:
    """The store of a service that runs or has run. Raises StoreError if there is none, or its key is missing."""
    folder = settings.data_path
    vault = examine(settings)
    if vault is None:
        raise StoreError(f"There is no store in {folder}: start `tocsin serve` there first, or name another --data-dir.")
    return sqlite_engine(folder / STORE_FILE), vault


def check_fits(settings: Settings, file: Path) -> None:
    """Whether the keys of this data directory open a copy of a store, and this version knows its form. Raises StoreError."""
    _check_files(settings.data_path)
    if _is_empty(file):
        raise StoreError(f"{file} is empty: it is not a copy of a store.")
    _check_store(file, Vault(read_keys(settings)))


def seal_canary(connection: Connection, vault: Vault) -> None:
    """The canary under the vault's first key."""
    values.write(connection, _CANARY, vault.seal({"tocsin": "canary"}))


class Keys:
    """The keys of a running service, read again when another process may have changed them."""

    def __init__(self, settings: Settings, vault: Vault) -> None:
        self._settings = settings
        self._vault = vault
        self._newest = ""
        self.trouble: str | None = None
        """Why they cannot be read, in a sentence. The old ones stay in use, and may no longer open anything."""
        self.refresh()

    def refresh(self) -> None:
        try:
            keys = read_keys(self._settings)
        except StoreError as error:
            self.trouble = str(error)
            observe.seldom(log.error, "keys.unreadable", why=str(error))
        else:
            self._vault.use(keys)
            self._newest, self.trouble = fingerprint(keys[0]), None

    async def answer(self, kept: Values) -> None:
        """Answer a process that asks which key the service encrypts with: see `ask_for_key`."""
        asked = await kept.read(_ASKED)
        if asked is not None and not (await kept.read(_ANSWERED) or b"").startswith(asked):
            await kept.write(_ANSWERED, asked + b" " + self._newest.encode())


def ask_for_key(connection: Connection) -> bytes:
    """Ask a running service which key it encrypts with; returns the beginning of its answer. See `is_key_in_use`."""
    question = random_base62(12).encode()
    values.write(connection, _ASKED, question)
    return question


def is_key_in_use(connection: Connection, question: bytes, key: str) -> bool | None:
    """Whether the running service encrypts with this key; None: it has not answered yet."""
    answer = values.read(connection, _ANSWERED) or b""
    return answer == question + b" " + fingerprint(key).encode() if answer.startswith(question) else None


def is_served(folder: Path) -> bool:
    """Whether a service runs on this data directory."""
    try:
        with locked(folder):
            return False
    except StoreError:
        return True


def eras(engine: Engine) -> list[Era]:
    """The identities under which the store's deliveries were made."""
    with engine.connect() as connection:
        return ids.eras(connection)


def new_store_id() -> str:
    """Random letters and digits that tell this store's deliveries from another's."""
    return random_base62(10)


def note_ids(settings: Settings, mark: Mark) -> None:
    """Record the highest ids outside the store. Raises OSError."""
    file = settings.data_path / LOCK_FILE  # not part of a backup, but moved together with the folder
    with file.open("r+b") as out:
        out.write(msgspec.json.encode(mark) + b"\n")
        out.truncate()


def noted_ids(folder: Path) -> Mark | None:
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        line, _, _ = (folder / LOCK_FILE).read_bytes().partition(b"\n")  # a kill may leave the end of a longer line after it
        return msgspec.json.decode(line, type=Mark)
    return None


def _notice_old_copy(folder: Path, engine: Engine) -> None:
    """A copy was restored by hand, without `tocsin restore`: move the ids on all the same."""
    noted = noted_ids(folder)
    if noted is None:
        return

    def move_on(connection: Connection) -> bool:
        if not ids.is_behind(connection, noted):
            return False
        ids.move_on(connection, new_store_id(), noted.counters)
        return True

    if write_now(engine, move_on):
        log.warning("store.is_older", what="The store is older than what was sent last: a copy was put back. New ids move on.")


def _make_store(file: Path, vault: Vault) -> None:
    """A complete store appears at once: a start that is killed leaves neither a partial store nor an empty file."""
    new = file.with_name(f"{file.name}.new")
    for ending in ("", "-journal", "-wal", "-shm"):
        new.with_name(f"{new.name}{ending}").unlink(missing_ok=True)
        file.with_name(f"{file.name}{ending}").unlink(missing_ok=True)
    files.create(new)  # SQLite gives its other files the same owner and mode
    engine = sqlite_engine(new)
    try:
        migrate(engine)
        write_now(engine, lambda connection: _mark(connection, vault))
    finally:
        engine.dispose()
    new.rename(file)


def _mark(connection: Connection, vault: Vault) -> None:
    if values.read(connection, _CANARY) is None:
        values.write(connection, _CANARY, vault.seal({"tocsin": "canary"}))
        values.write(connection, ids.STORE_ID, new_store_id().encode())


def _check_files(folder: Path) -> None:
    """Checks the files that the service needs besides the store. Raises StoreError."""
    for name in _PURPOSES:
        _check_file(folder / name)


def _check_file(file: Path) -> None:
    what = f"{file}, {_PURPOSES[file.name]},"
    if file.exists() and not file.is_file():
        raise StoreError(f"{what} is not a file: move it away.")
    try:
        if file.exists():
            os.close(os.open(file, os.O_RDWR))
    except OSError as error:
        raise StoreError(f"{what} cannot be written: {error.strerror}.") from error


def _is_first_write(file: Path) -> bool:
    """Whether the very first write was interrupted: the journal says that there were no pages before (sqlite.org/fileformat2.html 3)."""
    try:
        head = file.with_name(f"{file.name}-journal").read_bytes()[:20]
    except OSError:
        return False
    return head.startswith(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7") and head[16:] == bytes(4)


def _is_empty(file: Path) -> bool:
    if not file.is_file():
        raise StoreError(f"{file} is not a file: the store should be there.")
    return file.stat().st_size == 0 or _look(file, form.is_empty)


def _check_store(file: Path, vault: Vault) -> None:
    _look(file, lambda connection: form.check_form(file, connection))
    _check_canary(file, vault)
    ids.read_eras(*(_value(file, name) for name in (ids.ERAS, ids.STORE_ID)))
    _check_types(file)


def _check_types(file: Path) -> None:
    """A newer version may have written handlers of types that this one cannot send to, in a store of the same form."""
    from tocsin.channels.registry import CHANNELS  # most commands do not need it

    unknown = [str(name) for (name,) in _look(file, form.types) if name not in CHANNELS]
    if unknown:
        raise StoreError(
            f"The store {file} holds handlers of types that this version does not know ({', '.join(unknown[:3])}): use the newer version"
            " that made them."
        )


def _check_canary(file: Path, vault: Vault) -> None:
    sealed = _value(file, _CANARY)
    if sealed is None:  # created, but never marked: it is still empty
        return
    try:
        vault.open(sealed)
    except WrongKey:
        where = "TOCSIN_SECRET_KEY" if not (file.parent / KEY_FILE).exists() else f"{KEY_FILE} or TOCSIN_SECRET_KEY"
        raise StoreError(f"The store in {file.parent} was made with another key: no key in {where} opens it.") from None


def _value(file: Path, name: str) -> bytes | None:
    row = first_row(file, f"SELECT value FROM meta WHERE name = '{name}'")
    return None if row is None else row[0]


def first_row(file: Path, query: str) -> tuple[Any, ...] | None:
    """The first row of a query; None also if there is no such table. Raises StoreError."""

    def ask(connection: sqlite3.Connection) -> tuple[Any, ...] | None:
        try:
            return connection.execute(query).fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            return None

    return _look(file, ask)


def _look(file: Path, ask: Callable[[sqlite3.Connection], T]) -> T:
    """The result of `ask`, read only, so that a store that is refused stays as it was. Raises StoreError."""
    try:
        try:
            return _read(file, ask, "ro")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_READONLY_ROLLBACK":
                raise
            # The last writer died during a write: until that is undone nobody can read the store (https://sqlite.org/rescode.html).
            return _read(file, ask, "rw")
    except sqlite3.DatabaseError as error:
        if faults.name_of(error) == "SQLITE_NOTADB":
            raise StoreError(f"{file} is not a tocsin store: {error}.") from error
        if faults.is_damage(error):
            raise StoreError(faults.damaged(f"{file.name}: {error}")) from error
        raise StoreError(f"The store in {file.parent} cannot be read: {error}.") from error


def _read(file: Path, ask: Callable[[sqlite3.Connection], T], mode: str) -> T:
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode={mode}", uri=True)) as connection:
        return ask(connection)
