"""What goes once it is old, and how much of it in one step."""

from sqlalchemy import Connection, delete, func, insert, select, text, update

from conftest import run
from support.store import OpenStore
from tocsin import clock
from tocsin.clock import SECOND
from tocsin.model import Message, Reason, Status
from tocsin.ports.handlers import HandlerChange, HandlerEvent
from tocsin.ports.intake import Accept, Planned, PlannedDelivery
from tocsin.ports.standings import HandlerHour
from tocsin.ports.tidying import START, Swept
from tocsin.store import shared_tables, tidying
from tocsin.store.sql import SqlStore
from tocsin.store.tables import attempts, deliveries, handler_hours, idempotency, notifications, posts, totals

DAY = 86_400 * SECOND
HOUR = 3600 * SECOND


async def a_handler(store: SqlStore) -> int:
    return await store.handlers.add(1, HandlerChange(type="webhook", name="hook", settings=b"sealed", is_enabled=True), 10)


async def accept(store: SqlStore, handler: int, at: int, count: int = 1, due_at: int | None = None, status: Status = Status.SKIPPED) -> int:
    """A notification with so many deliveries; its id."""
    made = tuple(PlannedDelivery(handler, status, at if due_at is None else due_at) for _ in range(count))
    [kept] = await store.intake.accept(Accept(1, at, [Planned(Message("text", at=at), due_at, None, made)]))
    return kept.id


async def tried(store: SqlStore, *wheres: str, times: int = 1, at: int = 1) -> None:
    """Give the deliveries a past: so many attempts each, the last of them then."""

    def write(connection: Connection) -> None:
        for where in wheres:
            connection.execute(text(f"UPDATE deliveries SET attempt_count = {times}, last_attempt_at = {at} WHERE {where}"))
            for number in range(1, times + 1):
                connection.execute(
                    text(
                        "INSERT INTO attempts (delivery_id, number, at, duration_us, outcome, reason)"
                        f" SELECT id, {number}, 1, 1, 'failed', 'timeout' FROM deliveries WHERE {where}"
                    )
                )

    await store.database.write(write)


async def swept(store: SqlStore, sweep: tidying.Sweep, before: int, rows: int) -> list[Swept]:
    """All steps of a round."""
    steps: list[Swept] = []
    after = START
    while True:
        steps.append(await store.database.write(sweep, before, rows, after))
        assert len(steps) < 2000, "a round without an end"
        if steps[-1].after is None:
            return steps
        after = steps[-1].after


async def left(store: SqlStore) -> list[int]:
    return await store.database.read(lambda connection: list(connection.scalars(select(notifications.c.id).order_by(notifications.c.id))))


async def count(store: SqlStore, table) -> int:
    return await store.database.read(lambda connection: connection.scalar(select(func.count()).select_from(table)))


async def check_totals(store: SqlStore) -> None:
    kept = dict(
        await store.database.read(lambda c: [tuple(row) for row in c.execute(select(totals.c.what, totals.c.n).where(totals.c.n != 0))])
    )
    by_status = dict(
        await store.database.read(
            lambda c: [tuple(row) for row in c.execute(text("SELECT status, count(*) FROM deliveries GROUP BY status"))]
        )
    )
    assert {what: n for what, n in kept.items() if what < 100} == by_status
    assert kept.get(100, 0) == await count(store, notifications)


def test_only_what_is_old_and_settled_goes(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await a_handler(store)
            await accept(store, handler, 100)
            waits = await accept(store, handler, 101, count=3, status=Status.PENDING)
            young = await accept(store, handler, 5000)
            await tried(store, f"notification_id = {waits} AND id % 3 = 0")
            await swept(store, tidying.old_notifications, 1000, 10)
            assert await left(store) == [waits, young]
            await check_totals(store)

    run(main())


def test_what_was_scheduled_or_tried_late_keeps_its_record_from_its_end_on(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await a_handler(store)
            scheduled = await accept(store, handler, 100, due_at=40 * DAY)
            replayed = await accept(store, handler, 100)
            old = await accept(store, handler, 100)
            await tried(store, f"notification_id = {replayed}", at=40 * DAY)
            await swept(store, tidying.old_notifications, 39 * DAY, 50)
            assert await left(store) == [scheduled, replayed]
            await swept(store, tidying.old_notifications, 40 * DAY + 1, 50)
            assert await left(store) == []
            assert old
            await check_totals(store)

    run(main())


def test_what_ended_without_an_attempt_keeps_its_record_from_its_end_on(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await a_handler(store)
            cancelled, paused = [await accept(store, handler, 100, status=Status.PENDING) for _ in range(2)]
            old = await accept(store, handler, 100)
            before = clock.now()
            assert await store.history.cancel(1, cancelled)
            assert await store.queue.end_pending(handler, Status.SKIPPED, Reason.HANDLER_PAUSED, 10) == 1
            await swept(store, tidying.old_notifications, before, 100)
            assert old not in await left(store) and await left(store) == [cancelled, paused]
            await swept(store, tidying.old_notifications, clock.now() + 1, 100)
            assert await left(store) == []
            await check_totals(store)

    run(main())


def test_what_a_clock_dated_that_was_ahead_keeps_nothing_behind_it_from_going(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await a_handler(store)
            ahead = [await accept(store, handler, clock.now() + 3650 * DAY) for _ in range(25)]
            for _ in range(5):
                await accept(store, handler, 100)
            young = [await accept(store, handler, 5000) for _ in range(25)]
            await swept(store, tidying.old_notifications, 1000, 20)
            assert await left(store) == [*ahead, *young]

    run(main())


def test_a_step_touches_no_more_rows_than_it_was_told(open_store: OpenStore) -> None:
    """However many deliveries a notification has, and attempts a delivery."""

    async def main() -> None:
        async with open_store() as store:
            handler = await a_handler(store)
            big = await accept(store, handler, 100, count=900)
            for _ in range(120):
                await accept(store, handler, 100)
            often = await accept(store, handler, 100, count=5)
            kept = await accept(store, handler, 100, count=700, status=Status.PENDING)
            await tried(store, f"notification_id IN ({big}, {kept})")
            await tried(store, f"notification_id = {often}", times=40)
            steps = await swept(store, tidying.old_notifications, 1000, 50)
            assert sum(step.rows for step in steps) == (900 * 2 + 1) + 120 * 2 + (5 * 41 + 1)
            # Beside its 50 rows a step may end one delivery with all its attempts, and the emptied notifications.
            assert max(step.rows for step in steps) <= 50 + 41 + 50
            assert await left(store) == [kept]
            assert (await count(store, deliveries), await count(store, attempts)) == (700, 700)
            await check_totals(store)

    run(main())


def test_keys_go_so_many_at_a_time(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            insert = text("INSERT INTO idempotency VALUES (1, '/api/notifications', :key, :content, '1', :at)").bindparams(content=b"0")
            await store.database.write(lambda c: c.execute(insert, [{"key": f"{n}", "at": n} for n in range(1050)]))
            steps = await swept(store, tidying.idempotency_keys, 1000, 100)
            assert [step.rows for step in steps] == [100] * 10 + [0]
            assert await count(store, idempotency) == 50

    run(main())


def test_posts_and_the_history_of_handlers_go_so_many_at_a_time(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            some = [await a_handler(store) for _ in range(30)]
            for hour in range(20):
                await store.standings.add_hours([HandlerHour(handler, hour, 1, 0, 0) for handler in some])
            for handler in some[:2]:
                await store.handlers.change(handler, HandlerChange(name="new"), event=HandlerEvent(1, "changed"))
                await store.handlers.delete(handler, 1)
            steps = await swept(store, tidying.handler_history, 15 * HOUR, 25)
            assert max(step.rows for step in steps) <= 25
            assert sum(step.rows for step in steps) == 28 * 15 + 2 * 20 + 2
            assert await count(store, handler_hours) == 28 * 5

            insert = text("INSERT INTO posts VALUES (:key, :id, :text_hash, :at)").bindparams(text_hash=b"0")
            await store.database.write(lambda c: c.execute(insert, [{"key": f"x:{n % 7}", "id": n, "at": n % 100} for n in range(1000)]))
            steps = await swept(store, tidying.old_posts, 90, 64)
            assert (max(step.rows for step in steps) <= 64, sum(step.rows for step in steps)) == (True, 900)
            assert await count(store, posts) == 100

    run(main())


def test_no_step_looks_through_a_whole_table(open_sqlite: OpenStore) -> None:
    async def main() -> None:
        async with open_sqlite() as store:
            handler = await a_handler(store)
            gone = await a_handler(store)
            await store.handlers.delete(gone, 1)
            await accept(store, handler, 100)
            await tried(store, "id > 0")
            await store.standings.add_hours([HandlerHour(handler, 1, 1, 0, 0)])
            await store.database.write(
                lambda c: c.execute(text("INSERT INTO idempotency VALUES (1, '/', 'k', :content, '1', 1)"), {"content": b"0"})
            )
            await store.database.write(lambda c: c.execute(text("INSERT INTO posts VALUES ('x', 1, :text_hash, 1)"), {"text_hash": b"0"}))

            def plans(connection: Connection) -> list[str]:
                driver = connection.connection.driver_connection
                seen: list[str] = []
                driver.set_trace_callback(seen.append)
                for sweep in (tidying.old_notifications, tidying.idempotency_keys, tidying.handler_history, tidying.old_posts):
                    sweep(connection, 2 * HOUR, 10, START)
                driver.set_trace_callback(None)
                deletes = [one for one in seen if one.startswith("DELETE")]
                assert {one.split()[2] for one in deletes} >= {"notifications", "deliveries", "attempts", "idempotency", "posts"}
                return [row[3] for one in deletes for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {one}")]

            assert [step for step in await store.database.write(plans) if step.startswith("SCAN")] == []

    run(main())


def test_what_processes_told_each_other_goes_once_it_is_old(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with open_postgresql() as store:
            s = shared_tables
            rows = [
                (s.claims, [{"worker": 1, "at": at, "ids": [1], "handlers": [1], "numbers": [1], "due": [1]} for at in (1, 2, 3, 900)]),
                (s.asks, [{"worker": 1, "asker": 1, "question": b"?", "at": at} for at in (1, 2, 3, 900)]),
                (s.changes, [{"what": "everything", "at": at} for at in (10, 2, 3)]),
            ]

            def add(connection: Connection) -> None:
                connection.execute(delete(s.changes))
                for table, values in rows:
                    connection.execute(insert(table), values)

            await store.database.write(add)
            crashed = update(s.partitions).where(s.partitions.c.partition == 5)
            await store.database.write(lambda c: c.execute(crashed.values(is_crashed=True)).rowcount)
            assert (await store.tidying.sweep("claims", 500, 2, ())).rows == 0, "its next owner must know them"
            await store.database.write(lambda c: c.execute(crashed.values(owner=1)).rowcount)
            assert [step.rows for step in await swept(store, tidying.old_claims, 500, 2)] == [2, 1]
            assert [step.rows for step in await swept(store, tidying.old_asks, 500, 2)] == [2, 1]
            assert [step.rows for step in await swept(store, tidying.old_changes, 500, 9)] == [2], "the newest stays, however old"
            assert [await count(store, table) for table in (s.claims, s.asks, s.changes)] == [1, 1, 1]

    run(main())
