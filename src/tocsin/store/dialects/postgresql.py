"""PostgreSQL: transactions, each with a deadline of our own, and commits whose answer is looked up when it is lost.

Transactions are begun by hand, as on SQLite: one message begins one and sets what holds within it.
"""

import contextlib
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from psycopg import Connection as Driver
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from tocsin.store import faults, migrations, noting
from tocsin.store.dialects import SLOT, Unanswered
from tocsin.store.dialects.connecting import BY_KEY, CONNECT_AGAIN_SECONDS, CONNECT_SECONDS, STATEMENT_SECONDS, by_key, hung_up_after

LONG_SECONDS = 1e6  # for who makes an index, or moves a whole store
GRACE_SECONDS = 5.0  # that a server has to say that something took too long, before we hang up
MAKING = 0x6D616B65  # "make": the first half of an advisory lock's key; the other is the schema
PING_SECONDS = 3.0  # that a server with nothing to do has to say that it is there
_BEGIN_READING = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = %d"
_BEGIN_LONG = b"BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"
# After the commit: NOTIFY takes a lock for which the commits of all that say anything wait. Nobody waits for the disk because of it.
_TELL = f"BEGIN; SET LOCAL synchronous_commit = off; NOTIFY {noting.NEWS}; COMMIT".encode()
_WROTE = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL, to_regclass('changes') IS NOT NULL"
_BEGIN_WRITING = "BEGIN; SELECT pg_current_xact_id()::text"
# Whose history a server goes on with: one that takes over begins a timeline of its own, and gives the numbers of transactions again that it
# has not heard of.
# And one that recovers from a crash gives those again of which it had written nothing; its statistics start over then, and only then.
_HISTORY = (
    "SELECT system_identifier::text, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), coalesce(stats_reset::text, '')"
    " FROM pg_control_system(), pg_stat_bgwriter"
)
# Nearly every write of this process changes rows of its slot, and nobody else does but a fold now and then.
_MARKED = "SELECT EXISTS (SELECT FROM totals WHERE slot = %s AND xmin::text::bigint = %s)"
# A session that has not noticed yet that we are gone would keep its locks until it does. One that is committing ends by itself.
_END_OLD_SESSION = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_xid = %s::xid8::xid AND state LIKE 'idle in transaction%%'"
)


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
        self._history = self._begun_in = "", "", ""  # of this connection's server, and of that one's when it began
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
            driver.execute(BY_KEY)
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
            if self._has_marked(driver):
                return True
        if status == "committed" or self._history[0] != self._begun_in[0]:  # that one, or another that has its number now
            raise Unanswered(LookupError("another server has taken over, or this one has recovered from a crash"))
        return False

    def _has_marked(self, driver: Driver[Any]) -> bool:
        number = int(self._transaction_id or 0) % (1 << 32)  # as rows have it
        with contextlib.suppress(psycopg.errors.UndefinedTable):  # a standby may be behind by that much
            return driver.execute(_MARKED, (self._slot, number)).fetchall() == [(True,)]
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


def _history_of(driver: Driver[Any]) -> tuple[str, str, str]:
    """Which database cluster, which of its timelines, and since which crash; empty where the server does not say."""
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported):
        return driver.execute(_HISTORY).fetchall()[0]
    return "", "", ""


class _Postgresql:
    """See `Dialect`."""

    def session(self, engine: Engine) -> _Session:
        return _Session(engine)

    @contextmanager
    def reading(self, engine: Engine, seconds: float) -> Generator[Connection, None, None]:
        with _begun(engine, _BEGIN_READING % (seconds * 1000), seconds + GRACE_SECONDS) as connection:
            yield connection

    def for_glances(self, engine: Engine, seconds: float) -> Engine:
        return by_key(engine, seconds)

    @contextmanager
    def glancing(self, engine: Engine, seconds: float) -> Generator[Connection, None, None]:
        try:
            with _of_pool(engine) as connection, hung_up_after(_driver(connection), seconds + GRACE_SECONDS):
                yield connection
        except DBAPIError as error:
            if faults.is_gone(error):
                engine.dispose()  # the others are as old
            raise

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
    with _of_pool(engine) as connection:
        driver = _begin(connection, begin, seconds)
        with hung_up_after(driver, seconds), _known_to_sqlalchemy(connection, driver):
            yield connection
            _commit(driver)


@contextmanager
def _of_pool(engine: Engine) -> Generator[Connection, None, None]:
    """Errors of the driver are told as SQLAlchemy's, and a connection that broke does not come back."""
    with engine.connect() as connection:
        try:
            yield connection
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
