"""Connections to PostgreSQL, and the deadlines that they have on this process's own clock."""

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
from sqlalchemy import Engine, create_engine, event

from tocsin.ports.errors import StoreError
from tocsin.store.dialects.arrays import INSTEAD, NUL

CONNECTIONS = 7  # as many as threads read, and some
CONNECT_SECONDS = 5
CONNECT_AGAIN_SECONDS = 1.0  # after a server was not there
LOOK_SECONDS = 0.25  # between two looks whether a deadline has passed
LOST_SECONDS = 2.0  # that an answer is on its way at most
STATEMENT_SECONDS = 30  # that a statement of a write may take
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
# Rows are found by their keys. A plan that is kept from when a table was small, or its statistics said so, would read all of it.
BY_KEY = b"SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off"
# For a few short statements that always find rows alike: to plan each again takes the server longer than the statement.
PLANNED_ONCE = BY_KEY + b"; SET plan_cache_mode = force_generic_plan"
_BUSY = (
    b"SELECT pid FROM pg_stat_activity WHERE pid = ANY (%s)"
    b" AND (state = 'active' OR state_change > clock_timestamp() - make_interval(secs => %s))"
)
log = structlog.get_logger(__name__)


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


def by_key(engine: Engine, seconds: float) -> Engine:
    """Another engine on the same database, for a few statements that find rows by their keys, and take no longer."""
    found = create_engine("postgresql+psycopg://", pool=engine.pool.recreate(), hide_parameters=True)

    @event.listens_for(found, "connect")
    def connected(driver: Driver[Any], _: object) -> None:  # pyright: ignore[reportUnusedFunction]
        with hung_up_after(driver, CONNECT_SECONDS):
            driver.execute(PLANNED_ONCE + b"; SET statement_timeout = %d" % (seconds * 1000))

    return found


def own_driver(engine: Engine) -> Driver[Any]:
    """A new connection that is in no pool: the caller closes it."""
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
    """Hangs up on a server that does not answer, whatever the network says: a proxy may acknowledge for a server that is gone.

    Its thread looks every `LOOK_SECONDS` while anything is asked: to be woken for each statement would cost more than short ones do.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: dict[Driver[Any], float] = {}
        self._began: dict[Driver[Any], float] = {}
        self._sleeps = False  # until something is asked: nothing was since its last look
        self._was_asked = False
        self._thread: threading.Thread | None = None

    def begin(self, driver: Driver[Any], seconds: float) -> None:
        now = time.monotonic()
        with self._changed:
            self._running[driver], self._began[driver], self._was_asked = now + seconds, now, True
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="tocsin-deadlines", daemon=True)
                self._thread.start()
            elif self._sleeps:
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
                self._sleeps = not self._running and not self._was_asked
                self._was_asked = False
                self._changed.wait(None if self._sleeps else LOOK_SECONDS)


def hang_up(driver: Driver[Any]) -> None:
    """A thread that waits for the answer is told that the connection has ended."""
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
