"""What one process changes, others hear of: in the order of the commits, and whether or not a message reaches them."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection

from conftest import run
from support.postgresql import database_of
from support.shared import holding, introduction, joined, shared, waits_for
from support.store import OpenStore, accept_one, add_handler
from tocsin.model import Reason
from tocsin.ports.changes import Change
from tocsin.ports.errors import WriteFailed
from tocsin.ports.handlers import HandlerChange, HandlerEvent, SwitchOff
from tocsin.ports.workers import Load
from tocsin.store import keys, values
from tocsin.store.handlers import change_handler
from tocsin.store.shared import SharedStore
from tocsin.store.sql import SqlStore, write_now


async def switched_off(store: SqlStore, handler_id: int) -> None:
    delivery = await accept_one(store, handler_id)
    what = SwitchOff(1, handler_id, 1, HandlerEvent(500, "switched_off", "gone", Reason.GONE), delivery.notification_id, 100)
    assert await store.handlers.switch_off(what)


async def revoked(store: SqlStore, _: int) -> None:
    key_id = await store.keys.add(1, "key", b"hash", "shown", (), 10)
    assert await store.keys.revoke(key_id, 20, 1)


async def placed(store: SqlStore, handler_id: int) -> None:
    """As after an upgrade, when it has none."""
    await store.database.write(lambda c: c.exec_driver_sql("UPDATE handlers SET partition = NULL").rowcount)
    await store.handlers.place({handler_id: 5})


WRITES: dict[str, tuple[Callable[[SqlStore, int], Awaitable[Any]], set[tuple[str, int | None, int | None]]]] = {
    "changed": (lambda store, one: store.handlers.change(one, HandlerChange(name="other")), {("handler", 1, 1)}),
    "deleted": (lambda store, one: store.handlers.delete(one, 20), {("handler", 1, 1)}),
    "switched off": (switched_off, {("handler", 1, 1)}),
    "added": (lambda store, _: add_handler(store), {("handler", 2, 1)}),
    "placed": (placed, {("everything", None, None)}),
    "time zone": (lambda store, _: store.users.set_time_zone(1, "Asia/Seoul"), {("user", 1, None)}),
    "revoked": (revoked, {("key", 1, None)}),
    "nothing": (lambda store, one: store.handlers.change(one, HandlerChange(name="other"), 77), set()),
    "accepted": (accept_one, set()),
}


@pytest.mark.parametrize("what", WRITES)
def test_what_others_remember_is_noted_with_the_change_and_they_are_told(open_postgresql: OpenStore, what: str) -> None:
    write, expected = WRITES[what]

    async def main() -> None:
        async with open_postgresql() as store, open_postgresql() as other:
            handler_id = await add_handler(store)
            told = asyncio.Event()
            beside = SharedStore(other, told.set)
            worker = await beside.workers.join(introduction(), lambda _: None)
            before = await beside.changes.newest()
            await write(store, handler_id)
            if expected:
                await told.wait()
            found = await beside.changes.after(before, 10)
            assert {(one.what, one.ref, one.user_id) for one in found} == expected
            shown = await beside.workers.beat(worker, worker, Load(), False)
            assert shown is not None and shown.newest_change == before + len(found) == await beside.changes.newest()
            await beside.close()

    run(main())


def test_a_disabled_users_handlers_and_keys_are_among_the_news(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(store, _), (_, other)]:
            await store.users.invite("b@b", True, b"hash", 10, 20)
            handler_id = await add_handler(store, user_id=2)
            before = await other.changes.newest()
            assert await store.users.disable(2, 50)
            found = {(one.what, one.ref, one.user_id) for one in await other.changes.after(before, 10)}
            assert found == {("user", 2, None), ("handler", handler_id, 2)}

    run(main())


def test_what_a_command_writes_is_news_too_and_what_only_reads_is_not(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with open_postgresql() as store:
            told = asyncio.Event()
            beside = SharedStore(store, told.set)
            await beside.workers.join(introduction(), lambda _: None)
            before = await beside.changes.newest()
            await asyncio.to_thread(write_now, store.database.engine, keys.list_keys)
            await asyncio.to_thread(write_now, store.database.engine, lambda c: keys.add_key(c, 1, "key", b"hash", "shown", (), 10))
            await told.wait()
            [found] = await beside.changes.after(before, 10)
            assert (found.what, found.ref) == ("everything", None)
            await beside.close()

    run(main())


def test_a_transaction_that_failed_leaves_no_note(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(store, one), _]:
            handler_id = await add_handler(store)
            before = await one.changes.newest()

            def fails(connection: Connection) -> None:
                change_handler(connection, handler_id, HandlerChange(name="other"), None, None, 0)
                connection.exec_driver_sql("SELECT 1/0")

            with pytest.raises(WriteFailed):
                await store.database.write(fails)
            await store.database.write(partial(values.write, name="any", value=b"x"))
            assert await one.changes.after(before, 10) == []

    run(main())


def test_notes_are_read_in_the_order_of_their_commits(open_postgresql: OpenStore, tmp_path: Path) -> None:
    """An id that was taken earlier and is committed later would be overlooked."""

    async def main() -> None:
        async with shared(open_postgresql) as [(store, one), _]:
            handler_id = await add_handler(store)
            before = await one.changes.newest()
            with holding(tmp_path, "SELECT pg_advisory_xact_lock(hashtextextended('changes', 0))") as slow:
                slow.execute("INSERT INTO changes (what, at) VALUES ('everything', 1)")
                changing = asyncio.ensure_future(store.handlers.change(handler_id, HandlerChange(name="other")))
                await waits_for(tmp_path, slow)
                with psycopg.connect(database_of(tmp_path)) as observer:
                    assert observer.execute("SELECT last_value FROM changes_id_seq").fetchone() == (before + 1,)
                slow.commit()
            assert await changing
            assert [change.what for change in await one.changes.after(before, 10)] == ["everything", "handler"]
            assert [change.id for change in await one.changes.after(before, 1)] == [before + 1]

    run(main())


def test_one_process_sees_what_another_changed(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(store, _), (other, beside)]:
            await joined(beside)
            handler_id = await add_handler(store)
            assert (await beside.changes.after(0, 100))[-1] == Change(await beside.changes.newest(), "handler", handler_id, 1)
            row = await other.handlers.get(handler_id)
            assert row is not None and row.id == handler_id

    run(main())


def test_on_sqlite_nothing_is_noted(open_sqlite: OpenStore) -> None:
    async def main() -> None:
        async with open_sqlite() as store:
            handler_id = await add_handler(store)
            assert await store.handlers.change(handler_id, HandlerChange(name="other"))
            tables = await store.database.read(lambda c: set(c.exec_driver_sql("SELECT name FROM sqlite_master").scalars()))
            assert "handlers" in tables and not tables & {"changes", "workers", "claims", "asks", "partitions"}

    run(main())
