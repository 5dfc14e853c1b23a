"""PostgreSQL: connections with a deadline of our own, and commits whose answer is looked up when it is lost.

Transactions are begun by hand, as on SQLite: one message begins one and sets what holds within it.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import psycopg
import structlog
from psycopg import Connection as Driver
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.types.string import StrDumperUnknown
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from tocsin.ports.errors import StoreError
from tocsin.store import migrations, noting
from tocsin.store.dialects import SLOT, Unanswered
from tocsin.store.dialects.arrays import INSTEAD, NUL

CONNECTIONS = 7  # as many as threads read, and some
CONNECT_SECONDS = 5
STATEMENT_SECONDS = 30  # that a statement of a write may take
LONG_SECONDS = 1e6  # for who makes an index, or moves a whole store
GRACE_SECONDS = 5.0  # that a server has to say that something took too long, before we hang up
MAKING = 0x6D616B65  # "make": the first half of an advisory lock's key; the other is the schema
CONNECT_AGAIN_SECONDS = 1.0  # after a server was not there
LOST_SECONDS = 2.0  # that an answer is on its way at most
PING_SECONDS = 3.0  # that a server with nothing to do has to say that it is there
_CONNECT = {  # what TOCSIN_DATABASE_URL says comes first
    "connect_timeout": CONNECT_SECONDS,
    "application_name": "tocsin",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "client_encoding": "UTF8",
}
_SESSION = (
    b"SET statement_timeout = '%ds'; SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '60s'; SET jit = off;"
    # What is acknowledged must be on the disk, whatever the server's default is.
    b" SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
) % STATEMENT_SECONDS
# The writer finds rows by their keys. A plan that is kept from when a table was small, or its statistics said so, would read all of it.
_BY_KEY = b"SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off"
_BEGIN_READING = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = %d"
_BEGIN_LONG = b"BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"
# After the commit: NOTIFY takes a lock for which the commits of all that say anything wait. Nobody waits for the disk because of it.
_TELL = f"BEGIN; SET LOCAL synchronous_commit = off; NOTIFY {noting.NEWS}; COMMIT".encode()
_BUSY = (
    b"SELECT pid FROM pg_stat_activity WHERE pid = ANY (%s)"
    b" AND (state = 'active' OR state_change > clock_timestamp() - make_interval(secs => %s))"
)
_WROTE = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL, to_regclass('changes') IS NOT NULL"
_BEGIN_WRITING = "BEGIN; SELECT pg_current_xact_id()::text"
# Whose history a server goes on with: one that takes over begins a timeline of its own, and gives the numbers of transactions again that it
# has not heard of.
_HISTORY = "SELECT system_identifier::text, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) FROM pg_control_system()"
# A session that has not noticed yet that we are gone would keep its locks until it does. One that is committing ends by itself.
_END_OLD_SESSION = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_xid = %s::xid8::xid AND state LIKE 'idle in transaction%%'"
)


def postgresql_engine(url: str) -> Engine:
    """An engine on a PostgreSQL database. Raises StoreError if the URL cannot be read; it connects to nothing yet."""
    parameters = parameters_of(url)
    return create_engine(
        "postgresql+psycopg://",  # libpq reads the URL: it may name several servers, and errors must not show its password
        creator=lambda: connect(parameters),
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_use_lifo=True,
        hide_parameters=True,
    )


def parameters_of(url: str) -> dict[str, Any]:
    """As libpq reads them."""
    with contextlib.suppress(psycopg.Error):  # its words hold parts of the password
        found = conninfo_to_dict(url)
        if not _is_cut_short(url) and _has_ports(found):
            return {**_CONNECT, **found}
    raise StoreError(
        "TOCSIN_DATABASE_URL cannot be read as a PostgreSQL URL: it should be postgresql://user:password@host/database, and special"
        " characters in user and password must be percent-encoded."
    )


def _is_cut_short(url: str) -> bool:
    """Whether libpq would end the password early, at an @ or / in it: then its rest would be shown as the host or the database."""
    authority, _, rest = url.partition("://")[2].partition("?")[0].partition("/")
    return authority.count("@") > 1 or "@" in rest


log = structlog.get_logger(__name__)


def _has_ports(parameters: Mapping[str, Any]) -> bool:
    """Whether its ports are numbers, where it names any. Without a host the password is in their place, and libpq would show it."""
    return all(not port or port.isdecimal() for port in str(parameters.get("port") or "").split(","))


def connect(parameters: dict[str, Any]) -> Driver[Any]:
    """A session that ends its transactions by itself if this process hangs, and is ended by the server if its machine vanishes."""
    driver = psycopg.connect("", autocommit=True, **parameters)
    driver.adapters.register_dumper(str, _Texts)
    try:
        with hung_up_after(driver, CONNECT_SECONDS):
            driver.execute(_SESSION)
    except psycopg.Error:
        driver.close()
        raise
    return driver


def own_driver(engine: Engine) -> Driver[Any]:
    """A new connection that is in no pool: whoever takes it closes it."""
    connection = engine.pool.recreate().connect()
    driver = connection.driver_connection
    assert isinstance(driver, Driver)  # noqa: S101
    connection.detach()
    return cast(Driver[Any], driver)


class _Texts(StrDumperUnknown):
    """What people search for, and what providers say, may hold the one character that PostgreSQL's texts cannot."""

    def dump(self, obj: str) -> Any:
        return super().dump(obj.replace(NUL, INSTEAD) if NUL in obj else obj)


# ---------------------------------------------------------------------------------------------------------- deadlines


class _Deadlines:
    """Hangs up on a server that does not answer, whatever the network says: a proxy may acknowledge for a server that is gone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: dict[Driver[Any], float] = {}
        self._began: dict[Driver[Any], float] = {}
        self._wakes_at = 0.0
        self._thread: threading.Thread | None = None

    def begin(self, driver: Driver[Any], seconds: float) -> None:
        now = time.monotonic()
        until = now + seconds
        with self._changed:
            self._running[driver], self._began[driver] = until, now
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="tocsin-deadlines", daemon=True)
                self._thread.start()
            elif until < self._wakes_at:
                self._changed.notify()

    def end(self, driver: Driver[Any]) -> None:
        with self._changed:
            self._running.pop(driver, None)
            self._began.pop(driver, None)

    def waiting(self, seconds: float) -> dict[int, Driver[Any]]:
        """Those that have waited for so long, and still wait, by the server's number for them."""
        before = time.monotonic() - seconds
        with self._changed:
            waiting = [one for one, began in self._began.items() if began < before and not one.closed]
        return {one.info.backend_pid: one for one in waiting if one.info.transaction_status is TransactionStatus.ACTIVE}

    def _watch(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for driver in [one for one, until in self._running.items() if until <= now]:
                    del self._running[driver]
                    hang_up(driver)
                self._wakes_at = min(self._running.values(), default=now + threading.TIMEOUT_MAX)
                self._changed.wait(self._wakes_at - now)


def hang_up(driver: Driver[Any]) -> None:
    """Whoever waits for the answer is told that the connection has ended."""
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(driver.fileno())) as ours:
        ours.shutdown(socket.SHUT_RDWR)


_deadlines = _Deadlines()


@contextmanager
def hung_up_after(driver: Driver[Any], seconds: float) -> Generator[None, None, None]:
    _deadlines.begin(driver, seconds)
    try:
        yield
    finally:
        _deadlines.end(driver)


def hang_up_on_lost(driver: Driver[Any]) -> None:
    """A network that fell silent for a while has lost questions and answers on connections that nobody will ever hear of again. `driver`,
    on which the server answers, asks whether it works on what this process waits for."""
    waiting = _deadlines.waiting(LOST_SECONDS)
    if waiting:
        busy = {pid for (pid,) in driver.execute(_BUSY, (list(waiting), LOST_SECONDS)).fetchall()}
        for pid in waiting.keys() - busy:
            log.warning("store.answer_lost")
            hang_up(waiting[pid])


def connect_seconds(driver: Driver[Any]) -> AbstractContextManager[None]:
    """For a question that is answered as soon as a connection is made."""
    return hung_up_after(driver, CONNECT_SECONDS)


# ------------------------------------------------------------------------------------------------------------ writing


class _Session:
    """See `Session`. It reconnects when its connection broke: the transaction under way fails, the next one works."""

    is_full = False  # the server sees to its disk by itself, and says so

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None
        self._failed: tuple[float, Exception] | None = None
        self._heard = False
        self._slot: int | None = None  # of this process, for as long as it lives
        self._transaction_id: str | None = None  # of the last one, if nobody knows how it ended
        self._history = self._begun_in = "", ""  # of this connection's server, and of that one's when it began
        with contextlib.suppress(DBAPIError, psycopg.Error):  # the first write will say why
            self._connected()

    def _connected(self) -> tuple[Connection, Driver[Any]]:
        if self._connection is None:
            if self._failed is not None and time.monotonic() - self._failed[0] < CONNECT_AGAIN_SECONDS:
                raise self._failed[1]  # or each of many writes would wait for a server that does not answer
            try:
                connection = self._engine.connect()
            except DBAPIError as error:
                self._failed = time.monotonic(), error
                raise
            try:
                self._begin_listening(_driver(connection))
                connection = connection.execution_options(**{SLOT: self._slot})
            except psycopg.Error:  # a standby refuses it: once that is promoted nothing would be heard on this connection
                connection.invalidate()
                connection.close()
                raise
            self._failed, self._heard = None, True  # whatever was said meanwhile
            self._connection = connection
        return self._connection, _driver(self._connection)

    def _begin_listening(self, driver: Driver[Any]) -> None:
        with hung_up_after(driver, CONNECT_SECONDS):
            driver.add_notify_handler(self._hear)
            driver.execute("LISTEN tocsin_changes")
            driver.execute(_BY_KEY)
            if self._slot is None:
                self._slot = driver.execute("SELECT nextval('totals_slots')").fetchall()[0][0]
            self._history = _history_of(driver)
            if self._transaction_id is not None and self._history == self._begun_in:
                driver.execute(_END_OLD_SESSION, (self._transaction_id,))

    def _hear(self, _: object) -> None:
        self._heard = True

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()
            self._engine.dispose()  # those that read are as old, and each would be waited for

    @contextmanager
    def transaction(self) -> Generator[Connection, None, None]:
        connection, driver = self._connected()
        with hung_up_after(driver, 2 * STATEMENT_SECONDS + GRACE_SECONDS), self._dropped_if_broken(driver):
            cursor = driver.execute(_BEGIN_WRITING, prepare=False)
            cursor.nextset()
            self._transaction_id, self._begun_in = cursor.fetchall()[0][0], self._history
            noting.begin(connection)
            with _known_to_sqlalchemy(connection, driver):
                yield connection
                has_news = noting.write(connection)
                self._commit(driver)
            self._transaction_id = None
            if has_news:
                with contextlib.suppress(psycopg.Error):  # it is kept; the next beat of the others shows that there is news
                    driver.execute(_TELL)

    def _commit(self, driver: Driver[Any]) -> None:
        try:
            _commit(driver)
        except psycopg.Error as error:
            if _is_broken(driver):
                raise Unanswered(error) from error
            raise

    @contextmanager
    def _dropped_if_broken(self, driver: Driver[Any]) -> Generator[None, None, None]:
        try:
            yield
        finally:
            if _is_broken(driver):
                self._drop()

    def was_kept(self) -> bool | None:
        _, driver = self._connected()
        with hung_up_after(driver, CONNECT_SECONDS), self._dropped_if_broken(driver):
            try:
                row = driver.execute("SELECT pg_xact_status(%s::xid8)", (self._transaction_id,)).fetchone()
            except psycopg.errors.InvalidParameterValue:
                row = ("in the future",)
        status = None if row is None else row[0]
        if self._history == self._begun_in:
            return None if status == "in progress" else status == "committed"
        if status == "committed" or self._history[0] != self._begun_in[0]:  # that one, or another that has its number now
            raise Unanswered(LookupError("another server has taken over"))
        return False

    def changes(self) -> int:
        return time.monotonic_ns()

    def others_wrote(self) -> bool:
        """By NOTIFY, see `writing`. A server that is gone without a word is noticed here, also while nobody writes."""
        if self._connection is not None:
            driver = _driver(self._connection)
            with self._dropped_if_broken(driver), hung_up_after(driver, PING_SECONDS):
                driver.execute("SELECT 1", prepare=False)
        heard, self._heard = self._heard, False
        return heard

    def wait_for_others(self, seconds: float) -> None:
        """As `connect` has set it."""

    def after(self, error: BaseException) -> None:
        """The server has undone it."""

    def is_short_of_room(self) -> bool:
        return False

    def make_room(self) -> bool:
        return False

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _history_of(driver: Driver[Any]) -> tuple[str, str]:
    """Which database cluster, and which of its timelines; empty where the server does not say."""
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported):
        return driver.execute(_HISTORY).fetchall()[0]
    return "", ""


class _Postgresql:
    """See `Dialect`."""

    def session(self, engine: Engine) -> _Session:
        return _Session(engine)

    @contextmanager
    def reading(self, engine: Engine, seconds: float) -> Generator[Connection, None, None]:
        with _begun(engine, _BEGIN_READING % (seconds * 1000), seconds + GRACE_SECONDS) as connection:
            yield connection

    @contextmanager
    def writing(self, engine: Engine, *, is_long: bool = False) -> Generator[Connection, None, None]:
        begin, seconds = (_BEGIN_LONG, LONG_SECONDS) if is_long else (b"BEGIN", 2 * STATEMENT_SECONDS + GRACE_SECONDS)
        with _begun(engine, begin, seconds) as connection:
            noting.begin(connection)
            yield connection
            wrote, has_changes = connection.exec_driver_sql(_WROTE).one()
            if wrote:
                noting.begin(connection)
                if has_changes:  # else the tables are of an earlier form
                    noting.note(connection, "everything")
                    noting.write(connection)
                connection.exec_driver_sql(f"NOTIFY tocsin_changes; NOTIFY {noting.NEWS}")

    def wait_for_makers(self, connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(:made, hashtext(current_schema()))"), {"made": MAKING})

    def make(self, connection: Connection) -> None:
        migrations.upgrade(connection, "head")  # the tables as they are known here lack the conditions of PostgreSQL's indexes

    def counters(self, connection: Connection) -> dict[str, int]:
        rows = connection.execute(
            text(
                "SELECT replace(sequencename, '_id_seq', ''), coalesce(last_value, start_value - 1) FROM pg_sequences"
                " WHERE schemaname = current_schema()"
            )
        )
        return {row[0]: int(row[1]) for row in rows}

    def set_counter(self, connection: Connection, table: str, at: int) -> None:
        connection.execute(text("SELECT setval(CAST(:sequence AS regclass), :at)"), {"sequence": f"{table}_id_seq", "at": at})

    def fold_log(self, engine: Engine) -> None:
        """The server does that by itself."""

    def size(self, connection: Connection) -> int:
        return int(connection.scalar(text("SELECT pg_database_size(current_database())")) or 0)

    def unused(self, connection: Connection) -> int:  # noqa: ARG002
        """The server does not say."""
        return 0


@contextmanager
def _begun(engine: Engine, begin: bytes, seconds: float) -> Generator[Connection, None, None]:
    with engine.connect() as connection:
        try:
            driver = _begin(connection, begin, seconds)
            with hung_up_after(driver, seconds), _known_to_sqlalchemy(connection, driver):
                yield connection
                _commit(driver)
        except psycopg.Error as error:  # of statements that are run on the driver itself
            raise DBAPIError.instance(None, None, error, psycopg.Error) from error
        finally:
            if not connection.invalidated and _is_broken(_driver(connection)):
                connection.invalidate()


def _begin(connection: Connection, begin: bytes, seconds: float) -> Driver[Any]:
    """On a connection of the pool. One from before a restart of the server fails at once; then it takes another."""
    driver = _driver(connection)
    try:
        with hung_up_after(driver, seconds):
            driver.execute(begin, prepare=False)
    except psycopg.OperationalError:
        connection.invalidate()
        connection.engine.dispose()  # the others are as old
        driver = _driver(connection)
        with hung_up_after(driver, seconds):
            driver.execute(begin, prepare=False)
    return driver


@contextmanager
def _known_to_sqlalchemy(connection: Connection, driver: Driver[Any]) -> Generator[None, None, None]:
    """SQLAlchemy wants a transaction of its own; what it tells the driver has been told already. A rollback at an exception."""
    transaction = connection.begin()
    try:
        yield
    except BaseException:
        if not _is_broken(driver):
            driver.rollback()
            transaction.rollback()
        raise
    transaction.commit()


def _commit(driver: Driver[Any]) -> None:
    """The server takes the commit of a transaction in which a statement failed for a rollback, and says nothing."""
    if driver.pgconn.transaction_status == TransactionStatus.INERROR:
        raise psycopg.errors.InFailedSqlTransaction("a statement failed, so nothing was kept")
    driver.commit()


def _is_broken(driver: Driver[Any]) -> bool:
    return driver.broken or driver.closed


def _driver(connection: Connection) -> Driver[Any]:
    driver = connection.connection.driver_connection
    assert isinstance(driver, Driver)  # noqa: S101
    return cast(Driver[Any], driver)


POSTGRESQL = _Postgresql()
