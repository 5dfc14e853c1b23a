"""A database of a PostgreSQL server, before and beside its service."""

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import Connection as Driver
from psycopg.rows import TupleRow
from sqlalchemy import Connection, Engine

from tocsin.clock import SECOND
from tocsin.ports.errors import Finding, StoreError
from tocsin.store import faults, form
from tocsin.store.dialects import SERVER_NOW
from tocsin.store.dialects.connecting import connect, connect_seconds, parameters_of, postgresql_engine
from tocsin.store.homes import Process
from tocsin.store.migrating import SERVES, migrate

MIN_VERSION = 15
LOCK = 0x746F6373  # "tocs"; the other half of the key is the schema
TAKE_SECONDS = 3.0  # that a service which was killed may keep its lock
HOLD_SECONDS = 1.0  # between two looks whether the lock is held
T = TypeVar("T")

_TAKE = "SELECT pg_try_advisory_lock(%s, hashtext(current_schema()))"
_SHARE = "SELECT pg_try_advisory_lock_shared(%s, hashtext(current_schema()))"
_SESSION = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
_END = "SELECT pg_terminate_backend(pid, 3000) FROM pg_stat_activity WHERE pid = %s AND backend_start = %s"
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
_COLUMNS = (
    "SELECT c.relname, a.attname, a.attnotnull, a.attnum = ANY (coalesce(i.indkey, ''))"
    " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary"
    " WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped"
)
_VERSION = "SELECT version_num FROM alembic_version"
_VALUE = "SELECT value FROM meta WHERE name = %s"
GONE_SECONDS = 10  # without a beat: the other processes would have removed a dead one long before
_PROCESSES = f"SELECT name, address, version FROM workers WHERE beat_at > {SERVER_NOW} - {GONE_SECONDS * SECOND} ORDER BY id"
_INDEXES = "SELECT indexname FROM pg_indexes WHERE schemaname = current_schema()"


class PostgresqlServer:
    """See `Home`."""

    is_shared = True

    def __init__(self, url: str) -> None:
        self._url = url
        self._parameters = parameters_of(url)
        hosts = self._parameters.get("host") or self._parameters.get("hostaddr") or "localhost"
        self._looking: Driver[TupleRow] | None = None
        self.name = self.where = f"database {self._parameters.get('dbname') or 'of the user'} on {hosts}"

    @contextmanager
    def looking(self) -> Generator[None, None, None]:
        with contextlib.closing(self._connected()) as driver:
            self._looking = driver
            try:
                yield
            finally:
                self._looking = None

    def is_there(self) -> bool:
        return bool(self._look(lambda driver: driver.execute(_TABLES).fetchall()))

    def is_left_empty(self) -> bool:
        return False  # a new database is empty

    def is_readable(self) -> bool:
        with contextlib.suppress(StoreError):
            return self.is_there()
        return False

    def check_form(self) -> None:
        def ask(driver: Driver[TupleRow]) -> tuple[form.Shape, str | None, str | None]:
            shape, version = _shape(driver), None
            if "alembic_version" in shape:
                version = _first(driver, _VERSION)
            serves = _first(driver, _VALUE, SERVES) if "meta" in shape else None
            return shape, version, None if serves is None else serves.decode()

        form.check_shape(self.name, *self._look(ask))

    def version(self) -> str | None:
        return self._look(lambda driver: _first(driver, _VERSION))

    def value(self, name: str) -> bytes | None:
        def ask(driver: Driver[TupleRow]) -> bytes | None:
            if _first(driver, "SELECT to_regclass('meta')::text") is None:
                return None
            return _first(driver, _VALUE, name)

        return self._look(ask)

    def types(self) -> list[str]:
        return [row[0] for row in self._look(lambda driver: driver.execute("SELECT DISTINCT type FROM handlers ORDER BY type").fetchall())]

    def sealed(self) -> bytes | None:
        return self._look(lambda driver: _first(driver, form.NEWEST_SEALED))

    def count_sealed(self, is_wanted: Callable[[bytes | None, bytes | None], bool]) -> int:
        return self._look(lambda driver: sum(is_wanted(*row) for row in driver.cursor().stream(form.EVERY_SEALED)))

    def processes(self) -> list[Process]:
        def ask(driver: Driver[TupleRow]) -> list[Process]:
            if _first(driver, "SELECT to_regclass('workers')::text") is None:
                return []
            return [Process(*row) for row in driver.execute(_PROCESSES.encode()).fetchall()]

        return self._look(ask)

    def engine(self) -> Engine:
        return postgresql_engine(self._url)

    def make(self, begin: Callable[[Connection], object]) -> None:
        engine = self.engine()
        try:
            migrate(engine, begin)
        finally:
            engine.dispose()

    @contextmanager
    def lock(self, lost: Callable[[str], None], *, alone: bool = True) -> Generator[None, None, None]:
        """An advisory lock of a session of its own. It goes with the session: while the server is away nobody has it."""
        take = _TAKE if alone else _SHARE
        driver = self._locked(take)
        try:
            session = _session(driver)
        except psycopg.Error as error:
            raise StoreError(faults.sentence(error)) from error
        ended = threading.Event()
        holder = threading.Thread(target=self._hold, args=(driver, take, session, ended, lost), name="tocsin-lock", daemon=True)
        holder.start()
        try:
            yield
        finally:
            ended.set()
            holder.join()

    def _locked(self, take: str) -> Driver[TupleRow]:
        driver = self._connected()
        until = time.monotonic() + TAKE_SECONDS
        while not _first(driver, take, LOCK):
            if time.monotonic() > until:
                driver.close()
                if take is _SHARE:
                    raise StoreError(f"A tocsin command has the {self.name} for itself: start again when it is done.")
                raise StoreError(f"The {self.name} is served already: stop every tocsin process on it first.")
            time.sleep(0.1)
        return driver

    def _hold(self, driver: Driver[TupleRow], take: str, session: TupleRow, ended: threading.Event, lost: Callable[[str], None]) -> None:
        """Until the end. Where the session broke, the lock is taken again; if somebody else was faster, they have it."""
        is_held = True
        while not ended.wait(HOLD_SECONDS):
            with contextlib.suppress(psycopg.Error, StoreError):
                if driver.closed or driver.broken:
                    driver, is_held = self._connected(), False
                if not is_held:
                    _first(driver, _END, *session)  # the server may not have noticed that it broke, and still keep the lock for it
                    session = _session(driver)
                    if not _first(driver, take, LOCK):
                        driver.close()
                        lost(f"Another tocsin has taken the {self.name} while its server could not be reached.")
                        return
                    is_held = True
                with connect_seconds(driver):
                    driver.execute("SELECT 1")
        driver.close()

    def findings(self) -> Iterator[Finding]:
        def ask(driver: Driver[TupleRow]) -> list[Finding]:
            return list(_findings(driver))

        yield from self._look(ask)

    def _connected(self) -> Driver[TupleRow]:
        """Raises StoreError, also where the server is too old or a connection pooler is between us and it."""
        try:
            driver = connect(self._parameters)
        except psycopg.Error as error:
            raise StoreError(faults.sentence(error)) from error
        if (wrong := _unusable(driver)) is not None:
            driver.close()
            raise StoreError(wrong)
        return driver

    def _look(self, ask: Callable[[Driver[TupleRow]], T]) -> T:
        if self._looking is None:
            with self.looking():
                return self._look(ask)
        try:
            return ask(self._looking)
        except psycopg.Error as error:
            raise StoreError(faults.sentence(error)) from error


def _unusable(driver: Driver[TupleRow]) -> str | None:
    if driver.info.server_version < MIN_VERSION * 10_000:
        return f"The PostgreSQL server is of version {driver.info.parameter_status('server_version')}; tocsin needs {MIN_VERSION} or newer."
    encoding = driver.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        return f"The database that TOCSIN_DATABASE_URL names cannot hold every character ({encoding}): make one with ENCODING 'UTF8'."
    if _first(driver, "SELECT current_schema()") is None:
        path = _first(driver, "SHOW search_path")
        return f"User {driver.info.user} may use no schema of the search path ({path}) of the database {driver.info.dbname}: make one."
    if _first(driver, "SELECT pg_backend_pid()") != driver.info.backend_pid:
        return "TOCSIN_DATABASE_URL leads to a connection pooler: name the PostgreSQL server itself, as locks belong to a session."
    return None


def _session(driver: Driver[TupleRow]) -> TupleRow:
    """What identifies a session, even after a restart of the server."""
    with connect_seconds(driver):
        found = driver.execute(_SESSION).fetchall()
    return found[0]


def _first(driver: Driver[TupleRow], query: Any, *values: object) -> Any:
    with connect_seconds(driver):
        row = driver.execute(query, values or None).fetchone()
    return None if row is None else row[0]


def _shape(driver: Driver[TupleRow]) -> form.Shape:
    found: form.Shape = {row[0]: frozenset() for row in driver.execute(_INDEXES).fetchall()}
    for table, column, not_null, key in driver.execute(_COLUMNS).fetchall():
        found[table] = found.get(table, frozenset()) | {(column, not_null, key)}
    return found


def _findings(driver: Driver[TupleRow]) -> Iterator[Finding]:
    yield from _permissions(driver)
    yield from _durability(driver)
    if driver.info.host and not driver.info.host.startswith("/") and not driver.pgconn.ssl_in_use and not _is_here(driver.info.host):
        yield Finding("The connection to the PostgreSQL server is not encrypted: add ?sslmode=verify-full to TOCSIN_DATABASE_URL.")


def _permissions(driver: Driver[TupleRow]) -> Iterator[Finding]:
    """Whether the store's tables can be made, or changed by the next version. Since PostgreSQL 15 not everybody may do so in `public`."""
    if _first(driver, "SELECT has_schema_privilege(current_schema(), 'CREATE')"):
        return
    user, schema = driver.info.user, _first(driver, "SELECT current_schema()")
    is_empty = not driver.execute(_TABLES).fetchall()
    why = "so no store can be made" if is_empty else "so the next version cannot bring the store to its form"
    yield Finding(
        f"User {user} may not create tables in schema {schema} of the database {driver.info.dbname}, {why}: run"
        f" `GRANT CREATE ON SCHEMA {schema} TO {user}` there as its owner.",
        is_fault=is_empty,
    )


def _durability(driver: Driver[TupleRow]) -> Iterator[Finding]:
    """What the server's own settings promise of what has been acknowledged."""
    for setting in ("fsync", "full_page_writes"):
        if _first(driver, f"SHOW {setting}") == "off":
            yield Finding(f"The PostgreSQL server runs with {setting} off, so a crash of its machine may damage the store: switch it on.")
    standbys = _first(driver, "SELECT count(*) FROM pg_stat_replication")
    if _first(driver, "SHOW synchronous_standby_names"):
        yield Finding("The PostgreSQL server waits for a synchronous standby: a fail-over to it loses nothing.", is_fault=False)
    elif standbys:
        yield Finding(
            "The standby of the PostgreSQL server is asynchronous, so a fail-over may lose what was acknowledged last: set"
            " synchronous_standby_names, and after such a fail-over run `tocsin restore --after-recovery`.",
            is_fault=False,
        )
    else:
        yield Finding("The PostgreSQL server has no standby: if its disk is lost, the last backup is what there is.", is_fault=False)


def _is_here(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")
