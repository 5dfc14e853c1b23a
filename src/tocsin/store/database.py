"""One database for all ports of the store: writes go through the group commit of writer.py, reads run in a few threads.

Reads have connections of their own and are interrupted after `READ_SECONDS`, so that none holds up a delivery. What is read or written is a
function of an open connection, kept with the SQL of its port.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from tocsin import acting, observe
from tocsin.model import Busy
from tocsin.ports.errors import Damaged
from tocsin.store import dialects, faults
from tocsin.store.dialects import SLOT
from tocsin.store.totals import SERVICE
from tocsin.store.writer import Write, Writer

READ_SECONDS = 5.0
READ_THREADS = 2  # for the flow's own short reads
LOOK_AGAIN_SECONDS = 2.0  # between two looks whether what a reading found damaged is whole again
LIST_THREADS = 3  # for what people list and search, which may take long and must not hold up the flow
P = ParamSpec("P")
T = TypeVar("T")
Opened: TypeAlias = Callable[[], AbstractContextManager[Connection]]
log = structlog.get_logger(__name__)


class Database:
    """`changed` is called, on the event loop, when another process wrote. `probe`: a small write, which shows that writes are kept.
    `options`: of the writer's connection, for statements that ask for them.

    Use `writer` on the hot path, and to be told within a commit's answer; otherwise `read`, `look` and `write`.
    """

    def __init__(self, engine: Engine, changed: Callable[[], None], probe: Write, options: Mapping[str, Any]) -> None:
        self._dialect = dialects.of(engine)
        self.writer = Writer(partial(self._dialect.session, engine.execution_options(**{SLOT: SERVICE, **options})), changed, probe)
        self._threads = ThreadPoolExecutor(READ_THREADS, "tocsin-reader")
        self._list_threads = ThreadPoolExecutor(LIST_THREADS, "tocsin-lists")
        self._loop = asyncio.get_running_loop()
        self.engine = engine
        self._for_glances = self._dialect.for_glances(engine, READ_SECONDS)
        self._reading = partial(self._dialect.reading, engine, READ_SECONDS)
        self._glancing = partial(self._dialect.glancing, self._for_glances, READ_SECONDS)
        self._damage: str | None = None  # what a reading ran into, in a sentence
        self._damaged: Callable[[], object] = _nothing  # that reading
        self._look_at = 0.0

    async def close(self) -> None:
        await self.writer.close()
        self._threads.shutdown(wait=True)
        self._list_threads.shutdown(wait=True)
        self._for_glances.dispose()
        self.engine.dispose()

    # ------------------------------------------------------------------------------------------------- reads and writes

    async def read(self, read: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """For the flow's own short reads."""
        return await self._in_thread(self._threads, self._reading, read, *args, **kwargs)

    async def glance(self, read: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """For those of them that need not see everything at the same moment."""
        return await self._in_thread(self._threads, self._glancing, read, *args, **kwargs)

    async def look(self, read: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """For what people look at and what is measured."""
        return await self._in_thread(self._list_threads, self._reading, read, *args, **kwargs)

    def write(self, write: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> "asyncio.Future[T]":
        """In a transaction with others; done after its commit. The actor here is the actor there."""
        actor = acting.now()

        def run(connection: Connection) -> T:
            with acting.acting(actor):
                return write(connection, *args, **kwargs)

        return self.writer.submit(run)

    async def _in_thread(
        self, threads: Executor, opened: Opened, read: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        def run(connection: Connection) -> T:
            return read(connection, *args, **kwargs)

        return await self._loop.run_in_executor(threads, self._read_in_thread, opened, run, opened is self._glancing)

    def _read_in_thread(self, opened: Opened, read: Callable[[Connection], T], is_asked_again: bool = False) -> T:
        """`is_asked_again`: once, if the connection turns out to be from before a restart of the server."""
        try:
            with opened() as connection:
                return read(connection)
        except DBAPIError as error:  # of the connection itself too: there may be no descriptor left for it
            if is_asked_again and faults.is_gone(error):
                return self._read_in_thread(opened, read)
            if faults.is_damage(error):
                self._damaged = partial(self._read_in_thread, opened, read)
                sentence = self._damage = faults.sentence(error)
                raise Damaged(sentence) from error
            if not faults.is_interrupted(error):
                observe.seldom(log.error, "store.read_failed", error=faults.words_of(error))
            why = "this reading took too long: ask for less" if faults.is_interrupted(error) else "the store cannot be read now"
            raise Busy(why, 5) from error

    async def fold_log(self) -> None:
        await self._loop.run_in_executor(self._list_threads, self._dialect.fold_log, self.engine)

    async def size(self) -> int:
        return await self.look(self._dialect.size)

    async def unused(self) -> int:
        return await self.look(self._dialect.unused)

    # ----------------------------------------------------------------------------------------------------- how it fares

    @property
    def is_alive(self) -> bool:
        return self.writer.is_alive

    @property
    def writes_waiting(self) -> int:
        return self.writer.waiting

    @property
    def trouble(self) -> str | None:
        if not self.is_alive:
            return "The store does not take writes."
        if self._damage is None:
            return self.writer.trouble
        if (now := time.monotonic()) >= self._look_at:
            self._look_at = now + LOOK_AGAIN_SECONDS
            with contextlib.suppress(RuntimeError):  # it is being closed
                self._list_threads.submit(self._look_whether_it_is_whole)
        return self._damage

    def _look_whether_it_is_whole(self) -> None:
        """Others may not touch the damaged page for days, so the reading that found it says when it is whole."""
        damaged = self._damaged
        with contextlib.suppress(Busy):
            damaged()
            if self._damaged is damaged:
                self._damage = None


def _nothing() -> None:
    """No reading ran into damage."""
