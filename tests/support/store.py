"""Stores for tests: each kind that there is, opened on a folder, and what to put into them."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
from msgspec.structs import replace
from sqlalchemy import CompoundSelect, Connection, func, literal_column, select, union_all

from support.postgresql import database_of, drop_databases
from tocsin import datadir
from tocsin.model import Attempt, Delivery, Message, Reason, Status
from tocsin.ports.handlers import HandlerChange
from tocsin.ports.intake import Accept, Planned, PlannedDelivery
from tocsin.ports.queue import Settlement
from tocsin.settings import load
from tocsin.store import people
from tocsin.store.sql import SqlStore, write_now
from tocsin.store.tables import metadata

OpenStore: TypeAlias = Callable[..., AbstractAsyncContextManager[SqlStore]]
"""`open_store(changed=...)`: the test's own store with one user (id 1) in it. Opened again, it is the same store."""


@asynccontextmanager
async def sqlite_store(folder: Path, changed: Callable[[], None] = lambda: None) -> AsyncIterator[SqlStore]:
    """For what only SQLite does; every other test takes the fixture `open_store`."""
    folder.mkdir(parents=True, exist_ok=True)
    async with _opened({"TOCSIN_DATA_DIR": str(folder)}, changed) as store:
        yield store


@asynccontextmanager
async def postgresql_store(
    folder: Path, changed: Callable[[], None] = lambda: None, url: str = "", by_server_clock: bool = False
) -> AsyncIterator[SqlStore]:
    """In the database named, or one of the folder's own, which `conftest.open_store` drops."""
    folder.mkdir(parents=True, exist_ok=True)
    environ = {
        "TOCSIN_DATA_DIR": str(folder),
        "TOCSIN_DATABASE_URL": url or database_of(folder),
        "TOCSIN_SECRET_KEY": "a-key-for-tests-only",
    }
    async with _opened(environ, changed, by_server_clock) as store:
        yield store


@asynccontextmanager
async def _opened(environ: dict[str, str], changed: Callable[[], None], by_server_clock: bool = False) -> AsyncIterator[SqlStore]:
    """`by_server_clock`: as the service has it; most tests choose their times."""
    engine, _ = datadir.open_store(load(environ, dotenv=Path(environ["TOCSIN_DATA_DIR"]) / "none.env"))
    write_now(engine, _first_user)
    store = SqlStore(engine, changed, by_server_clock=by_server_clock)
    try:
        yield store
    finally:
        await store.close()


def _first_user(connection: Connection) -> None:
    if not people.has_users(connection):
        people.add_user(connection, "a@b", True, 1)


STORES: dict[str, OpenStore] = {"sqlite": sqlite_store, "postgresql": postgresql_store}
"""What `open_store` goes through."""


def stores_environ(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """For a fixture with `params=STORES`: each kind of store."""
    if request.param == "postgresql":
        request.getfixturevalue("postgresql_server")
        yield {"TOCSIN_DATABASE_URL": database_of(tmp_path), "TOCSIN_SECRET_KEY": "a-key-for-tests-only"}
        drop_databases()
    else:
        yield {}


MESSAGE = Message(text="the **text**", title="a title", fields=(("host", "db-1"),), at=100)


async def add_handler(store: SqlStore, name: str = "hook", user_id: int = 1) -> int:
    return await store.handlers.add(user_id, HandlerChange(type="webhook", name=name, settings=b"sealed", is_enabled=True), 10)


def accepting(*handler_ids: int, at: int = 100, status: Status = Status.PENDING, **more) -> Accept:
    deliveries = tuple(PlannedDelivery(handler_id, status, more.get("due_at", at)) for handler_id in handler_ids)
    return Accept(1, at, [Planned(MESSAGE, None, None, deliveries)], more.get("idempotency"))


async def accept_one(store: SqlStore, handler_id: int, **more) -> Delivery:
    [kept] = await store.intake.accept(accepting(handler_id, **more))
    [delivery] = kept.deliveries
    return delivery


async def settled(store: SqlStore, settlement: Settlement) -> bool:
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def told(tickets: Sequence[str], results: Sequence[bool | Exception]) -> None:
        assert tickets == ["mine"]
        (result,) = results
        done.set_exception(result) if isinstance(result, Exception) else done.set_result(result)

    store.queue.settle(settlement, "mine", told)
    return await done


async def untroubled(store: SqlStore) -> None:
    """Until nothing is wrong any more."""
    while store.vitals.trouble is not None:
        await asyncio.sleep(0.05)


def attempt(delivery: Delivery, number: int = 1, outcome: str = "delivered", reason: Reason = Reason.OK) -> Attempt:
    return Attempt(delivery.id, number, 200, 1500, outcome, reason, 200, "ok")


def orphans(connection: Connection) -> dict[str, int]:
    """Rows that refer to one that is not there, by column: PostgreSQL does not look at all of them by itself."""
    return {name: count for name, count in connection.execute(_orphans()) if count}


@functools.cache
def _orphans() -> CompoundSelect[tuple[str, int]]:
    counts = [
        select(literal_column(f"'{key.parent}'"), func.count())
        .select_from(table)
        .where(~select(1).where(key.column == key.parent).exists())
        for table in metadata.sorted_tables
        for key in table.foreign_keys
    ]
    return union_all(*counts)


def delivered(delivery: Delivery) -> Settlement:
    return Settlement(replace(delivery, status=Status.DELIVERED, attempt_count=1, last_attempt_at=200), attempt(delivery), 200)
