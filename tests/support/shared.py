"""Two processes' stores on one PostgreSQL database, in one event loop."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import psycopg

from support.postgresql import database_of
from support.store import OpenStore
from tocsin.ports.workers import Introduction
from tocsin.store.dialects import SERVER_NOW
from tocsin.store.shared import SharedStore
from tocsin.store.sql import SqlStore

_JOIN = (
    "INSERT INTO workers (name, roles, address, egress, version, beat, beat_at, seen, is_leaving, started_at, load)"
    f" VALUES (%s, 'worker', '', '', %s, 0, {SERVER_NOW}, 10 ^ 15, FALSE, 0, '{{}}') RETURNING id"
)
_BEAT = f"UPDATE workers SET beat = beat + 1, beat_at = {SERVER_NOW} WHERE id = %s"
Opened: TypeAlias = tuple[SqlStore, SharedStore]


@asynccontextmanager
async def shared(open_postgresql: OpenStore, count: int = 2) -> AsyncIterator[list[Opened]]:
    async with AsyncExitStack() as stack:
        found: list[Opened] = []
        for _ in range(count):
            store = await stack.enter_async_context(open_postgresql(by_server_clock=True))
            beside = SharedStore(store, lambda: None)
            stack.push_async_callback(beside.close)
            found.append((store, beside))
        yield found


def introduction(name: str = "one", roles: str = "all") -> Introduction:
    return Introduction(name, roles, f"http://{name}", "", "1.0")


async def joined(beside: SharedStore, name: str = "one") -> int:
    return await beside.workers.join(introduction(name), lambda _: None)


@contextmanager
def holding(tmp_path: Path, statement: str, *values: Any) -> Iterator[psycopg.Connection[Any]]:
    """A transaction of another session that has run a statement, until the end."""
    with psycopg.connect(database_of(tmp_path)) as other:
        other.execute(statement.encode(), values)
        yield other
        other.rollback()


async def waits_for(tmp_path: Path, other: psycopg.Connection[Any]) -> None:
    """Until somebody waits for that session's locks."""
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
    with psycopg.connect(database_of(tmp_path), autocommit=True) as observer:
        while observer.execute(blocked, (other.info.backend_pid,)).fetchone() == (0,):
            await asyncio.sleep(0.01)


@contextmanager
def beside(url: str, version: str, name: str = "other-1") -> Iterator[int]:
    """Another process of that version, which beats and does nothing else; its id."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.2):
            connection.execute(_BEAT.encode(), (worker_id,))

    with psycopg.connect(url, autocommit=True) as connection:
        [(worker_id,)] = connection.execute(_JOIN.encode(), (name, version)).fetchall()
        thread = threading.Thread(target=beat)
        thread.start()
        try:
            yield worker_id
        finally:
            ended.set()
            thread.join()
