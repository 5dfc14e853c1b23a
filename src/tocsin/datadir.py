"""The data directory: its lock, its key file, its store, opened and checked before anything in it is changed."""

import contextlib
import fcntl
import functools
import os
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from tocsin import __version__, files, observe
from tocsin.keyfile import KEY_FILE, read_keys, source_of
from tocsin.ports.errors import StoreError
from tocsin.ports.ids import Era, Mark
from tocsin.ports.values import Values
from tocsin.settings import Settings
from tocsin.store import faults, ids, values
from tocsin.store.homes import Home
from tocsin.store.homes.sqlite_file import SqliteFile
from tocsin.store.migrating import migrate
from tocsin.store.migrations import HEAD
from tocsin.store.sql import write_now
from tocsin.vault import Vault, fingerprint, random_base62

STORE_FILE = "tocsin.db"
LEDGER_FILE = "in-flight"
STARTS_FILE = "starts"
LOCK_FILE = "tocsin.lock"
WORKER_FILE = "worker"
OWN_FILES = (STORE_FILE, f"{STORE_FILE}-wal", f"{STORE_FILE}-shm", KEY_FILE, LEDGER_FILE, STARTS_FILE, LOCK_FILE, WORKER_FILE)
_CANARY = "canary"
_VERSION, _FIRST_VERSION = "program_version", "0.1.0"  # a row in `meta`, and the version that did not write it
_SERVED_AT = "served_at"
_ASKED, _ANSWERED = "key_asked", "key_in_use"  # rows in `meta`
_PURPOSES = {  # nothing may be sent without them
    LEDGER_FILE: "where attempts under way are noted",
    STARTS_FILE: "where providers' limits are noted",
    LOCK_FILE: "which keeps a second service out",
}
log = structlog.get_logger(__name__)


def check_reachable(folder: Path) -> None:
    """Whether it can be seen which files are in it: what is not there yet is no fault. Raises StoreError."""
    try:
        if not folder.is_dir() and (folder.is_symlink() or folder.exists()):
            raise StoreError(f"The data directory {folder} is not a folder.")
        (folder / LOCK_FILE).lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StoreError(f"The data directory {folder} cannot be used: {error.strerror}.") from error
    for file in (folder / name for name in OWN_FILES):
        try:
            file.stat()
        except FileNotFoundError:
            pass
        except OSError as error:  # of a link
            raise StoreError(f"{file} cannot be used: {error.strerror}.") from error


@contextmanager
def locked(folder: Path) -> Generator[None, None, None]:
    """Hold the folder for one service. Raises StoreError if another has it, or it cannot be used."""
    check_reachable(folder)
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


def home_of(settings: Settings) -> Home:
    """Where the store is. Raises StoreError where that, or the data directory, cannot be read."""
    check_reachable(settings.data_path)
    if not settings.database_url:
        return file_of(settings.data_path)
    try:
        from tocsin.store.homes.postgresql_server import PostgresqlServer
    except ImportError as error:
        raise StoreError("TOCSIN_DATABASE_URL needs a driver: install it with `pip install 'tocsin[postgresql]'`.") from error
    return PostgresqlServer(settings.database_url)


def file_of(folder: Path) -> SqliteFile:
    return SqliteFile(folder / STORE_FILE)


@contextmanager
def served(settings: Settings, lost: Callable[[str], None], *, alone: bool = True) -> Generator[None, None, None]:
    """Hold the folder, and the store: `alone`, or as one of several services where it may be shared. `lost` is told, from a thread, if
    another has taken the store. Raises StoreError."""
    with locked(settings.data_path), home_of(settings).lock(lost, alone=alone):
        yield


def log_upgrade(event: str, **values: Any) -> None:
    log.info(event, **values)


def open_store(settings: Settings, *, upgrades: bool = False, told: Callable[..., None] = log_upgrade) -> tuple[Engine, Vault]:
    """The store, in this version's form, and the vault that opens it. One that several processes may serve is upgraded only if `upgrades`.

    `told`: the event and its values, `store.migrating` (form, seconds) now and then, and at the end `upgraded` (before, after, seconds).
    Raises StoreError, having changed nothing, if no given key opens it, or if this version cannot use it.
    """
    home = home_of(settings)
    vault = examine(settings)
    try:
        if vault is None:
            vault = Vault(read_keys(settings, make=True))
            home.make(functools.partial(_mark, vault=vault))
            check_opens(settings, home)  # another process may have made it meanwhile
        if home.is_shared and not upgrades:
            _check_is_upgraded(home)
        engine = home.engine()
        began = time.monotonic()
        is_migrated = migrate(engine, told=lambda form, seconds: told("store.migrating", form=form, seconds=round(seconds, 1)))
        before = write_now(engine, functools.partial(_mark, vault=vault))
        if is_migrated or before != __version__:
            told("upgraded", before=before, after=__version__, seconds=round(time.monotonic() - began, 3))
        _notice_old_copy(settings.data_path, engine)
    except (DBAPIError, sqlite3.Error, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else faults.words_of(error)
        raise StoreError(f"The store {home.name} cannot be opened: {why}.") from error
    return engine, vault


def _check_is_upgraded(home: Home) -> None:
    version = home.version()
    if version is not None and version < HEAD:
        first = (
            "run `tocsin migrate` first. Processes of that version go on meanwhile."
            if home.is_shared
            else "start `tocsin serve` of this version first, which upgrades the store."
        )
        raise StoreError(f"The store {home.name} has the form of an older version ({version}; this one needs {HEAD}): {first}")


def examine(settings: Settings) -> Vault | None:
    """Checks the data directory as a start would, without changing anything: raises StoreError. None: there is no store yet."""
    folder, home = settings.data_path, home_of(settings)
    _check_files(folder)
    with home.looking():
        if not home.is_there():
            beside = next((name for name in (KEY_FILE, LEDGER_FILE) if (folder / name).exists()), None)
            if beside is not None and home.is_left_empty():
                raise StoreError(
                    f"The store {home.name} is empty, though {beside} is beside it: a copy failed, or a volume is missing. Put the store"
                    f" back, or restore a backup; to start over, delete {home.name} first."
                )
            return None
        vault = Vault(read_keys(settings))
        _check_store(home, f"The store in {home.where}", vault, settings)
    return vault


def open_existing(settings: Settings, *, of_any_form: bool = False) -> tuple[Engine, Vault]:
    """The store of a service that runs or has run. Raises StoreError if there is none, its key is missing, or, unless it may be
    `of_any_form`, an older version made it."""
    home, vault = home_of(settings), examine(settings)
    if vault is None:
        raise StoreError(f"There is no store in {home.where}: start `tocsin serve` there first, or name another --data-dir.")
    if not of_any_form:
        _check_is_upgraded(home)
    return home.engine(), vault


def note_address(engine: Engine, address: str) -> None:
    """Where the service listens, for links that commands beside it print. A store that cannot be written is no reason not to serve."""

    def note(connection: Connection) -> None:
        if served_at(connection) != address:
            values.write(connection, _SERVED_AT, address.encode())

    with contextlib.suppress(StoreError):
        write_now(engine, note)


def served_at(connection: Connection) -> str | None:
    """Where the service of this store last listened; None: that was never noted."""
    found = values.read(connection, _SERVED_AT)
    return None if found is None else found.decode()


def check_fits(settings: Settings, file: Path) -> None:
    """Whether the keys of this data directory open a copy of a store, and this version knows its form. Raises StoreError."""
    check_reachable(settings.data_path)
    _check_files(settings.data_path)
    copy = SqliteFile(file)
    if copy.is_empty():
        raise StoreError(f"{file} is empty: it is not a copy of a store.")
    _check_store(copy, f"The copy {file}", Vault(read_keys(settings)), settings)


def check_opens(settings: Settings, home: Home) -> None:
    """Whether the keys of these settings open that store. Raises StoreError."""
    _check_key(home, f"The store in {home.where}", Vault(read_keys(settings)), settings)


def seal_canary(connection: Connection, vault: Vault) -> None:
    """The canary under the vault's first key."""
    values.write(connection, _CANARY, vault.seal({"tocsin": "canary"}))


class Keys:
    """The keys of a running service, read again when another process may have changed them."""

    def __init__(self, settings: Settings, vault: Vault) -> None:
        self._settings = settings
        self._vault = vault
        self._newest = self._all = ""  # fingerprints
        self.trouble: str | None = None
        """Why they cannot be read, in a sentence. The old ones stay in use, and may no longer open anything."""
        self.refresh()

    def refresh(self) -> bool:
        """Whether there are others than before."""
        try:
            keys = read_keys(self._settings)
        except StoreError as error:
            self.trouble = str(error)
            observe.seldom(log.error, "keys.unreadable", why=str(error))
            return False
        before, self._all = self._all, fingerprint("\n".join(keys))
        self._vault.use(keys)
        self._newest, self.trouble = fingerprint(keys[0]), None
        return self._all != before

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


def is_served(settings: Settings) -> bool:
    """Whether a service runs on this data directory, or this store."""
    try:
        with served(settings, lambda _: None):
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
    with os.fdopen(files.existing(file), "r+b") as out:
        out.write(msgspec.json.encode(mark) + b"\n")
        out.truncate()


def noted_ids(folder: Path) -> Mark | None:
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        line, _, _ = (folder / LOCK_FILE).read_bytes().partition(b"\n")  # a kill may leave the end of a longer line after it
        return msgspec.json.decode(line, type=Mark)
    return None


class NotedWorker(msgspec.Struct, frozen=True):
    """The worker of a shared store that held a folder. `boot`: what identifies the machine's uptime then, if its ledger outlives a kill: it
    does not outlive a power cut."""

    store_id: str
    worker_id: int
    boot: str = ""

    @property
    def has_ledger(self) -> bool:
        """Whether the ledger in the folder has all that this worker had sent."""
        return bool(self.boot) and self.boot == _boot()


def note_worker(settings: Settings, store_id: str, worker_id: int, has_ledger: bool) -> None:
    """Record which worker of a shared store this folder is held by. If it cannot be recorded, a kill is noticed later."""
    with contextlib.suppress(OSError), files.replaced(settings.data_path / WORKER_FILE) as new:
        new.write_bytes(msgspec.json.encode(NotedWorker(store_id, worker_id, _boot() if has_ledger else "")))


def noted_worker(settings: Settings, store_id: str) -> NotedWorker | None:
    """The worker of that store that held this folder before."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        noted = msgspec.json.decode((settings.data_path / WORKER_FILE).read_bytes(), type=NotedWorker)
        return noted if noted.store_id == store_id else None
    return None


def forget_worker(settings: Settings) -> None:
    """What it left has been dealt with. Raises OSError."""
    (settings.data_path / WORKER_FILE).unlink(missing_ok=True)


def _boot() -> str:
    """Empty where the system does not say."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


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


def _mark(connection: Connection, vault: Vault) -> str:
    """Returns the version that marked the store before."""
    noted = values.read(connection, _VERSION)
    if values.read(connection, _CANARY) is None:
        values.write(connection, _CANARY, vault.seal({"tocsin": "canary"}))
        values.write(connection, ids.STORE_ID, new_store_id().encode())
    if noted != __version__.encode():
        values.write(connection, _VERSION, __version__.encode())
    return _FIRST_VERSION if noted is None else noted.decode()


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


def _check_store(home: Home, what: str, vault: Vault, settings: Settings) -> None:
    """`what`: the store, as sentences begin."""
    home.check_form()
    _check_key(home, what, vault, settings)
    ids.read_eras(*(home.value(name) for name in (ids.ERAS, ids.STORE_ID)))
    _check_types(home)


def _check_types(home: Home) -> None:
    """A newer version may have written handlers of types that this one cannot send to, in a store of the same form."""
    from tocsin.channels.registry import CHANNELS  # most commands do not need it

    unknown = [name for name in home.types() if name not in CHANNELS]
    if unknown:
        raise StoreError(
            f"The store {home.name} holds handlers of types that this version does not know ({', '.join(unknown[:3])}): use the newer"
            " version that made them."
        )


def _check_key(home: Home, what: str, vault: Vault, settings: Settings) -> None:
    """A store whose canary has gone is judged by one of its handlers; without either it holds no secret yet."""
    sealed = home.value(_CANARY) or home.sealed()
    if sealed is not None and not vault.opens(sealed):
        raise StoreError(f"{what} was made with another key: no key in {source_of(settings)} opens it.")
