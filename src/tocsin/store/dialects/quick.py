"""A connection to PostgreSQL with a thread of its own, for short statements that must not wait behind others.

Its commits do not wait for the disk: what they say is about the present, and worth nothing after a crash of the server. Statements for
which that is not so name `DURABLE` within their transaction.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

import psycopg
import structlog
from psycopg import ClientCursor
from psycopg import Connection as Driver
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from tocsin import observe
from tocsin.model import Busy
from tocsin.store import faults
from tocsin.store.dialects.connecting import CONNECT_AGAIN_SECONDS, CONNECT_SECONDS, PLANNED_ONCE, hung_up_after, own_driver

STATEMENT_SECONDS = 2.0
GRACE_SECONDS = 0.5  # that the server has to say that it took too long, before we hang up
_SESSION = b"SET statement_timeout = '%dms'; SET lock_timeout = '1s'; SET idle_in_transaction_session_timeout = '2s'" % (
    STATEMENT_SECONDS * 1000
)
T = TypeVar("T")
Work: TypeAlias = Callable[["Session"], T]
log = structlog.get_logger(__name__)


class Session:
    """One connection, as work in the thread has it. `durable`: how commits wait for the disk if they are to be kept."""

    def __init__(self, driver: Driver[Any]) -> None:
        self.driver = driver
        (durable,) = driver.execute("SELECT current_setting('synchronous_commit')").fetchall()[0]
        self._durable: str = durable
        driver.execute(b"; ".join([_SESSION, PLANNED_ONCE, b"SET synchronous_commit = off"]))

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Of one statement, committed by itself."""
        return self.driver.execute(statement.encode(), values).fetchall()

    def durably(self, *statements: tuple[str, Sequence[Any]]) -> list[list[Any]]:
        """What each returns, in one transaction and one message: if this process stops meanwhile, no lock stays."""
        cursor = ClientCursor(self.driver)
        before = f"BEGIN; SET LOCAL synchronous_commit = {self._durable}"
        bound = [cursor.mogrify(statement.encode(), values) for statement, values in statements]
        try:
            cursor.execute("; ".join([before, *bound, "COMMIT"]).encode())
        except psycopg.Error:
            if not self.driver.broken:
                self.driver.rollback()
            raise
        results: list[list[Any]] = []
        while cursor.nextset():
            results.append(cursor.fetchall() if cursor.description else [])
        return results[1:-1]


class Quick:
    """Runs work in its thread, one after the other. Whatever fails because of the server or the network raises Busy."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._session: Session | None = None
        self._failed: tuple[float, Exception] | None = None
        self._thread = ThreadPoolExecutor(1, f"tocsin-{name}")

    async def run(self, work: Work[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._done, work)

    async def close(self) -> None:
        """What has been asked for is done first."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._drop)
        self._thread.shutdown()

    # ------------------------------------------------------------------------------------------------ in the thread

    def _done(self, work: Work[T]) -> T:
        try:
            session = self._connected()
            with hung_up_after(session.driver, STATEMENT_SECONDS + GRACE_SECONDS):
                return work(session)
        except (psycopg.Error, DBAPIError) as error:
            if self._session is not None and (self._session.driver.closed or faults.is_gone(error)):
                self._drop()
            if not faults.is_passing(error):
                raise
            observe.seldom(log.error, "store.quick_failed", error=faults.words_of(error))
            raise Busy("the store cannot be written now", 1) from error

    def _connected(self) -> Session:
        if self._session is None:
            if self._failed is not None and time.monotonic() - self._failed[0] < CONNECT_AGAIN_SECONDS:
                raise self._failed[1]
            try:
                driver = own_driver(self._engine)
                with hung_up_after(driver, CONNECT_SECONDS):
                    self._session = Session(driver)
            except (psycopg.Error, DBAPIError) as error:
                self._failed = time.monotonic(), error
                raise
            self._failed = None
        return self._session

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(psycopg.Error):
                session.driver.close()
