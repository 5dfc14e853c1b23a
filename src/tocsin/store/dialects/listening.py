"""What PostgreSQL's NOTIFY says, heard on a connection and in a thread of its own."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psycopg
import structlog
from psycopg import Connection as Driver
from psycopg import sql
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from tocsin import observe
from tocsin.model import Busy
from tocsin.store import faults
from tocsin.store.dialects.connecting import CONNECT_AGAIN_SECONDS, CONNECT_SECONDS, hang_up, hung_up_after, own_driver

LOOK_SECONDS = 5.0  # between two looks whether the server is still there: silence says nothing
T = TypeVar("T")
log = structlog.get_logger(__name__)


class Listener:
    """To be made on the event loop, on which `heard` is told channel and payload, and `again` that something may have been missed."""

    def __init__(self, engine: Engine, heard: Callable[[str, str], None], again: Callable[[], None]) -> None:
        self._engine = engine
        self._heard = heard
        self._again = again
        self._loop = asyncio.get_running_loop()
        self._channels: Sequence[str] = ()
        self._driver: Driver[Any] | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    async def begin(self, work: Callable[[Driver[Any]], tuple[T, Sequence[str]]]) -> T:
        """Listen from the commit of some work on, to the channels that it names beside its result. Raises Busy, and nothing is heard."""
        return await asyncio.to_thread(self._begin, work)

    async def close(self) -> None:
        """Nothing is heard any more."""
        if self._thread is not None:
            self._ended.set()
            if (driver := self._driver) is not None:
                hang_up(driver)
            await asyncio.to_thread(self._thread.join)

    # ----------------------------------------------------------------------------------------------- in other threads

    def _begin(self, work: Callable[[Driver[Any]], tuple[T, Sequence[str]]]) -> T:
        try:
            driver = own_driver(self._engine)
            try:
                with hung_up_after(driver, CONNECT_SECONDS), driver.transaction():
                    driver.execute("SET LOCAL idle_in_transaction_session_timeout = '2s'")
                    result, self._channels = work(driver)
                    self._listen(driver)
            except BaseException:
                driver.close()
                raise
        except (psycopg.Error, DBAPIError) as error:
            observe.seldom(log.error, "store.not_heard", error=faults.words_of(error))
            raise Busy("the store cannot be written now", 1) from error
        self._driver = driver
        self._thread = threading.Thread(target=self._run, name="tocsin-listening", daemon=True)
        self._thread.start()
        return result

    def _listen(self, driver: Driver[Any]) -> None:
        for channel in self._channels:
            driver.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                if self._driver is None:
                    self._driver = self._connected()
                    self._tell(self._again)
                self._hear(self._driver)
            except (psycopg.Error, DBAPIError) as error:
                driver, self._driver = self._driver, None
                if driver is not None:
                    with contextlib.suppress(psycopg.Error):
                        driver.close()
                if not self._ended.is_set():
                    observe.seldom(log.error, "store.not_heard", error=faults.words_of(error))
                    self._ended.wait(CONNECT_AGAIN_SECONDS)
        if self._driver is not None:
            self._driver.close()

    def _connected(self) -> Driver[Any]:
        """Listening before anybody looks at what was missed."""
        driver = own_driver(self._engine)
        with hung_up_after(driver, CONNECT_SECONDS):
            self._listen(driver)
        return driver

    def _hear(self, driver: Driver[Any]) -> None:
        for notify in driver.notifies(timeout=LOOK_SECONDS):
            self._tell(self._heard, notify.channel, notify.payload)
        with hung_up_after(driver, CONNECT_SECONDS):
            driver.execute("SELECT 1")

    def _tell(self, who: Callable[..., None], *what: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(who, *what)
