"""What an operator does with the whole store: copy it, restore a copy, give it a new key."""

import contextlib
import fcntl
import functools
import itertools
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from sqlalchemy import Connection, Engine, NullPool, create_engine, or_, select, update
from sqlalchemy.exc import DBAPIError

from tocsin import acting, datadir, files
from tocsin.datadir import LEDGER_FILE, STORE_FILE
from tocsin.flow.mail_account import REFRESH_TOKEN
from tocsin.keyfile import BYTE_ORDER_MARK, KEY_FILE, given_keys, key_file, keys_in, write_keys
from tocsin.options import KEPT
from tocsin.ports.audit import Act
from tocsin.ports.errors import StoreError
from tocsin.settings import Settings
from tocsin.store import ids
from tocsin.store.audit import record
from tocsin.store.dialects.sqlite import sqlite_url
from tocsin.store.faults import words_of
from tocsin.store.sql import write_now
from tocsin.store.tables import handlers, meta, second_factors
from tocsin.vault import Vault, WrongKey, new_secret_key

ROWS_AT_ONCE = 200  # re-encrypted in one write, so that the service's writes do not wait long
T = TypeVar("T")
MAX_NOTICE_SECONDS, NOTICE_STEP_SECONDS = 30.0, 0.25  # until a running service says which key it uses


def back_up(settings: Settings, file: Path) -> int:
    """Writes a consistent copy of the store, also while the service runs; returns its size in bytes. Raises StoreError."""
    _check_is_file(settings, "copy it with pg_dump, or archive its log for recovery to a point in time")
    engine, _ = datadir.open_existing(settings, of_any_form=True)
    try:
        if os.path.lexists(file):
            raise StoreError(f"{file} already exists: name another file, or move it away.")
        with _written(file, is_service=False) as new:
            _copy(settings.data_path / STORE_FILE, new)
            _check_whole(new)
        with contextlib.suppress(StoreError):  # one that takes no writes can be copied all the same
            write_now(engine, functools.partial(_record, act=Act.BACKED_UP))
    finally:
        engine.dispose()
    return file.stat().st_size


def _record(connection: Connection, act: Act) -> None:
    record(connection, act, by=acting.commander())


def _copy(file: Path, new: Path) -> None:
    """A consistent copy of a store, including the log beside it, as one file."""
    with _opened(file, "ro") as source, _opened(new, "rw") as target:
        source.backup(target)  # in one step: in WAL mode nobody waits for it
        target.execute("PRAGMA journal_mode=DELETE")


def restore(settings: Settings, file: Path, replace: bool = False) -> Path | None:
    """Replace the store with a copy; returns where the old one went, if there was one. Raises StoreError, having changed nothing."""
    _check_is_file(settings, "load the dump with pg_restore, then run `tocsin restore --after-recovery`, which moves the ids on")
    folder = settings.data_path
    if not os.path.isfile(file) or not os.access(file, os.R_OK):  # noqa: PTH113  # which raises nothing where the folder is closed
        raise StoreError(f"There is no file {file}, or this user cannot read it.")
    _check_whole(file)
    datadir.check_fits(settings, file)
    with datadir.locked(folder):
        store = folder / STORE_FILE
        if datadir.file_of(folder).is_present() and not replace:
            raise StoreError(
                f"There is already a store in {folder}: name another --data-dir, or use --replace, which keeps the old one beside it."
            )
        moved = None
        with _written(store) as new:
            _copy(file, new)
            mark = _with_store(new, functools.partial(_moved_on, known=_known_ids(folder)))
            files.sync(new)
            if store.exists():
                moved = _set_aside(folder)
        with contextlib.suppress(OSError):
            datadir.note_ids(settings, mark)
        (folder / LEDGER_FILE).unlink(missing_ok=True)  # from another time: its attempts are not those that were under way in the copy
    return moved


def _check_is_file(settings: Settings, instead: str) -> None:
    if settings.database_url:
        raise StoreError(f"The store is in PostgreSQL: {instead}.")


def _known_ids(folder: Path) -> list[ids.Mark]:
    """The highest ids known here, from everything that can still be read."""
    noted = datadir.noted_ids(folder)
    found = [] if noted is None else [noted]
    for file in (folder / STORE_FILE, *folder.glob(f"{STORE_FILE}.before-*")):
        if file.is_file() and file.stat().st_size:
            with contextlib.suppress(sqlite3.Error, DBAPIError, StoreError):
                found.append(_with_store(file, ids.mark))
    return found


def _moved_on(connection: Connection, known: list[ids.Mark]) -> ids.Mark:
    """Makes sure that no id given after the copy was used before. Returns the highest ids now."""
    own = ids.mark(connection)
    counters = [mark.counters for mark in known if mark.origin == own.origin]
    highest = {table: max((one.get(table, 0) for one in counters), default=0) for table in ids.STEPS}
    ids.move_on(connection, datadir.new_store_id(), highest)
    _record(connection, Act.RESTORED)
    return ids.mark(connection)


def _with_store(file: Path, work: Callable[[Connection], T]) -> T:
    engine = create_engine(sqlite_url(file), poolclass=NullPool, hide_parameters=True)
    try:
        with engine.begin() as connection:
            return work(connection)
    finally:
        engine.dispose()


def move_on(settings: Settings) -> None:
    """Move the ids of the store on, after it was restored by means other than `restore`. Raises StoreError."""
    with datadir.served(settings, lambda _: None):
        engine, _ = datadir.open_existing(settings)
        try:
            mark = write_now(engine, functools.partial(_moved_on, known=_known_ids(settings.data_path)))
            datadir.note_ids(settings, mark)
        except OSError as error:
            raise StoreError(f"The store in {settings.data_path} cannot be written: {error.strerror}.") from error
        finally:
            engine.dispose()


def compact(settings: Settings) -> tuple[int, int]:
    """Return unused space to the disk; returns the size in bytes before and afterwards. Writes of a running service wait meanwhile.

    Raises StoreError, having changed nothing.
    """
    _check_is_file(settings, "its server gives space back by itself")
    engine, _ = datadir.open_existing(settings, of_any_form=True)
    engine.dispose()
    file = settings.data_path / STORE_FILE
    before = file.stat().st_size
    free = shutil.disk_usage(settings.data_path).free
    if free < 2 * before:  # a whole copy, and the log that it passes through
        raise StoreError(f"Compacting needs {2 * before / 1e6:.0f} MB of room in {settings.data_path}, and {free / 1e6:.0f} MB are free.")
    os.environ.setdefault("SQLITE_TMPDIR", str(settings.data_path))  # where there is room, and where nobody else can read
    try:
        with _opened(file, "rw") as connection:
            connection.isolation_level = None
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise StoreError(f"The store {file} cannot be compacted: {error}.") from error
    return before, file.stat().st_size


class Rotation(NamedTuple):
    """`rows`: handlers that are under the new key now; `left`: those of which no key opens something; `old`: where the old key went."""

    rows: int
    left: int
    old: Path | None


def rotate_key(settings: Settings, wait: Callable[[float], None] = time.sleep) -> Rotation:
    """Encrypt every secret of the store under a new key, also while the service runs. What no key opens stays as it is.

    If it is interrupted, run it again and it continues: the key file holds both keys until the end. With TOCSIN_SECRET_KEY the first key of
    its list is the new one. Raises StoreError; no row has been changed if the service does not use the new key.
    """
    datadir.check_reachable(settings.data_path)
    file = key_file(settings)  # once: what root read and what it writes must be the same file until the end
    with contextlib.nullcontext() if settings.secret_key else _alone(file.parent):
        return _rotate(settings, file, wait)


@contextmanager
def _alone(folder: Path) -> Generator[None, None, None]:
    """One rotation of a key file at a time: two could encrypt under two keys, of which one is kept nowhere. Locked is the folder itself, as
    the file is replaced meanwhile, and a lock file would remain. Raises StoreError.
    """
    if not folder.exists():  # nor is there a key to rotate
        yield
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise StoreError(f"The folder {folder}, in which the key file is, cannot be read: {error.strerror}.") from error
    try:
        with contextlib.suppress(OSError):  # network file systems may not lock folders
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError(f"Another `tocsin secrets rotate` is at work in {folder}: wait until it has ended.") from None
        yield
    finally:
        os.close(descriptor)


def _rotate(settings: Settings, file: Path, wait: Callable[[float], None]) -> Rotation:
    engine, _ = datadir.open_existing(settings)
    try:
        keys = given_keys(settings) or keys_in(file, files.itself)
        with contextlib.nullcontext() if settings.secret_key else _put_back(file, engine):
            if not settings.secret_key:
                is_first = len({key.removeprefix(BYTE_ORDER_MARK) for key in keys}) == 1
                keys = [new_secret_key(), *keys] if is_first else keys
                write_keys(file, keys)  # those of an interrupted run as well: where that cannot be done, nothing is begun
            _see_in_use(engine, settings, keys[0], wait)
        vault, newest = Vault(keys), Vault(keys[:1])
        write_now(engine, lambda connection: datadir.seal_canary(connection, vault))
        rotated, (found, left) = 0, _rotate_all(engine, vault, newest, wait)
        while found:  # again, for rows that the service wrote meanwhile
            rotated += found
            found, left = _rotate_all(engine, vault, newest, wait)
        write_now(engine, functools.partial(_record, act=Act.KEY_ROTATED))
    finally:
        engine.dispose()
    if settings.secret_key:
        return Rotation(rotated, left, None)
    old = _free_name(settings.data_path / KEY_FILE)
    write_keys(old, keys[1:])
    write_keys(file, keys[:1])
    return Rotation(rotated, left, old)


@contextmanager
def _put_back(file: Path, engine: Engine) -> Generator[None, None, None]:
    """If the service does not take the new key, the very file that was there is there again: no copy has all that may let the service read
    it. After an interruption both keys stay, as it may use the new one already.
    """
    aside = file.with_name(f"{file.name}.aside")
    with contextlib.suppress(OSError):
        aside.unlink(missing_ok=True)
    before = _content(file)
    is_linked = _is_linked(file, aside)
    try:
        yield
    except StoreError:
        is_changed = _is_changed(file, before)
        if is_linked:
            aside.rename(file)
        elif is_changed:
            with _written(file) as new, open(new, "wb", opener=files.itself) as out:
                out.write(before)
        if is_changed:
            with contextlib.suppress(StoreError):  # a service that took the new key after all must not go on with what nobody keeps
                write_now(engine, datadir.ask_for_key)
        raise
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def _content(file: Path) -> bytes:
    with open(file, "rb", opener=files.itself) as source:
        return source.read()


def _is_changed(file: Path, before: bytes) -> bool:
    try:
        return _content(file) != before
    except OSError:
        return True


def _see_in_use(engine: Engine, settings: Settings, key: str, wait: Callable[[float], None]) -> None:
    """Waits until a running service encrypts with this key; a write of ours makes it read its keys again. Raises StoreError."""
    question = write_now(engine, datadir.ask_for_key)
    if not datadir.is_served(settings):
        return
    for _ in range(int(MAX_NOTICE_SECONDS / NOTICE_STEP_SECONDS)):
        if (is_in_use := write_now(engine, lambda connection: datadir.is_key_in_use(connection, question, key))) is not None:
            if is_in_use:
                return
            break
        wait(NOTICE_STEP_SECONDS)
    if not datadir.is_served(settings):  # it has ended meanwhile
        return
    raise StoreError(
        "The running service does not use the new key, so nothing was encrypted with it: the log says `keys.unreadable` if it cannot read"
        " it; with TOCSIN_SECRET_KEY restart the service with the new key in front of the list first."
    )


def _rotate_all(engine: Engine, vault: Vault, newest: Vault, wait: Callable[[float], None]) -> tuple[int, int]:
    """How many handlers were not under the newest key, and of how many no key opens something."""
    write_now(engine, functools.partial(_rotate_values, vault=vault, newest=newest))
    write_now(engine, functools.partial(_rotate_second_factors, vault=vault, newest=newest))
    done, left, after = 0, 0, 0
    while after is not None:
        found, lost, after = write_now(engine, functools.partial(_rotate_some, vault=vault, newest=newest, after=after))
        done, left = done + found, left + lost
        wait(0.01)
    return done, left


def _rotate_values(connection: Connection, vault: Vault, newest: Vault) -> None:
    """The refresh token of the mail account and what stands for the options, where they are kept. What no key opens stays: it is not used.
    What the service has put in its place meanwhile stays too: it is under the new key.
    """
    is_sealed = or_(meta.c.name == REFRESH_TOKEN, meta.c.name.startswith(KEPT, autoescape=True))
    for name, sealed in connection.execute(select(meta.c.name, meta.c.value).where(is_sealed)).all():
        if not newest.opens(sealed):
            with contextlib.suppress(WrongKey):
                rotated = vault.rotate(sealed)
                connection.execute(update(meta).where(meta.c.name == name, meta.c.value == sealed).values(value=rotated))


def _rotate_second_factors(connection: Connection, vault: Vault, newest: Vault) -> None:
    """Few and small, so all in one write. One that no key opens stays: its user signs in with a recovery code."""
    for user, sealed in connection.execute(select(second_factors.c.user_id, second_factors.c.secret)).all():
        if not newest.opens(sealed):
            with contextlib.suppress(WrongKey):
                connection.execute(update(second_factors).where(second_factors.c.user_id == user).values(secret=vault.rotate(sealed)))


def _rotate_some(connection: Connection, vault: Vault, newest: Vault, after: int) -> tuple[int, int, int | None]:
    """The next rows after that id: how many had to be changed, of how many no key opens something, and the id to go on after."""
    columns = (handlers.c.id, handlers.c.version, handlers.c.settings, handlers.c.secret)
    rows = connection.execute(select(*columns).where(handlers.c.id > after).order_by(handlers.c.id).limit(ROWS_AT_ONCE)).all()
    done, left = 0, 0
    for row in rows:
        old = {name: value for name, value in (("settings", row.settings), ("secret", row.secret)) if value and not newest.opens(value)}
        fresh = {name: vault.rotate(value) for name, value in old.items() if vault.opens(value)}
        if fresh:
            as_read = (handlers.c.id == row.id, handlers.c.version == row.version)  # what was changed since is looked at again
            connection.execute(update(handlers).where(*as_read).values(fresh))
            done += 1
        left += len(fresh) < len(old)
    return done, left, rows[-1].id if len(rows) == ROWS_AT_ONCE else None


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
    if not file.stat().st_size:  # which SQLite finds whole
        raise StoreError(f"{file} is empty: it is not a store.")
    if found != "ok":
        raise StoreError(f"{file} is damaged: {' '.join(str(found).split())}.")


@contextmanager
def _written(file: Path, is_service: bool = True) -> Generator[Path, None, None]:
    """See `files.replaced`. `is_service` False: the file belongs to the user who runs the command. Raises StoreError."""
    try:
        with files.replaced(file, is_service) as new:
            yield new
    except (OSError, sqlite3.Error, DBAPIError) as error:
        raise StoreError(f"{file} cannot be written: {error.strerror if isinstance(error, OSError) else words_of(error)}.") from error


def _set_aside(folder: Path) -> Path:
    """Give the current store another name, which is returned. If it is intact it also keeps its own until the copy takes that,
    so that there is a store at every moment, whatever dies."""
    store = folder / STORE_FILE
    moved = _free_name(store)
    beside = [folder / f"{STORE_FILE}{ending}" for ending in ("-journal", "-wal")]
    with contextlib.suppress(sqlite3.Error), _opened(store, "rw") as connection:  # damaged: it is moved as it is
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    try:
        if any(file.exists() and file.stat().st_size for file in beside) or not _is_linked(store, moved):
            for file in (*beside, store):
                with contextlib.suppress(FileNotFoundError):
                    file.rename(f"{moved}{file.name.removeprefix(STORE_FILE)}")
        for file in (*beside, folder / f"{STORE_FILE}-shm"):
            file.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"The store in {folder} cannot be moved away: {error.strerror}.") from error
    return moved


def _is_linked(file: Path, other: Path) -> bool:
    """Whether the file now has that name as well; not every file system can do this."""
    try:
        other.hardlink_to(file)
    except OSError:
        return False
    return True


def _free_name(file: Path) -> Path:
    """A name for keeping a file that is replaced, so that nothing kept earlier is overwritten."""
    name = file.with_name(f"{file.name}.before-{time.strftime('%Y-%m-%d-%H%M%S')}")
    names = itertools.chain([name], (name.with_name(f"{name.name}-{number}") for number in itertools.count(2)))
    return next(one for one in names if not one.exists())
