"""What is due, on both stores, against the same said in Python."""

import random
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from conftest import run
from support.postgresql import TERMINATE, database_of
from support.store import OpenStore, accept_one, accepting, add_handler
from tocsin.cli.selftest.many.postgresql import execute
from tocsin.model import Delivery
from tocsin.ports.queue import BACKLOG_AFTER, Due, Wanted
from tocsin.store.database import READ_SECONDS
from tocsin.store.rows import delivery_of
from tocsin.store.tables import deliveries

NOW = 10 * BACKLOG_AFTER
TIMES = [0, NOW - BACKLOG_AFTER - 1, NOW - BACKLOG_AFTER, NOW - 1, NOW, NOW + 1, 2 * NOW]


def expected(rows: list[tuple[Delivery, bool]], want: Wanted) -> tuple[list[int], int | None, bool]:
    """Ids, when the next is due, whether there may be more. `rows`: of one handler, and whether each is critical."""
    rows = sorted(rows, key=lambda row: (row[0].due_at, row[0].id))
    due = [row for row in rows if row[0].due_at <= NOW]
    backlog = [row for row in due if row[1] and row[0].due_at <= NOW - BACKLOG_AFTER]
    first = (backlog + [row for row in due if row not in backlog])[: want.limit]
    later = [row[0].due_at for row in rows[: want.limit + 1] if row[0].due_at > NOW]
    return [row[0].id for row in first if row[0].id not in want.known], min(later, default=None), len(first) >= want.limit


def test_it_is_what_was_asked_for_in_due_order_and_critical_ones_of_a_backlog_first(open_store: OpenStore) -> None:
    dice = random.Random(7)

    async def main() -> None:
        async with open_store() as store:
            handlers = [await add_handler(store) for _ in range(6)]
            accepted = [await store.intake.accept(accepting()) for _ in range(3)]
            rows = [
                {
                    "notification_id": dice.choice(accepted)[0].id,
                    "handler_id": handler,
                    "user_id": 1,
                    "status": dice.choice([0, 0, 0, 1, 2]),
                    "is_critical": dice.random() < 0.3,
                    "due_at": dice.choice(TIMES),
                    "first_due_at": 0,
                    "created_at": 0,
                }
                for handler, count in zip(handlers, (0, 1, 3, 8, 20, 60), strict=True)
                for _ in range(count)
            ]
            await store.database.write(lambda connection: connection.execute(insert(deliveries), rows))
            kept = await store.database.read(lambda connection: connection.execute(select(deliveries)).all())
            for _ in range(200):
                wanted: dict[int, Wanted] = {}
                for handler in dice.sample(handlers, dice.randint(1, 6)):
                    known = frozenset(row.id for row in kept if row.handler_id == handler and dice.random() < 0.2)
                    wanted[handler] = Wanted(dice.choice([1, 2, 7, 8, 9, 100]), known if dice.random() < 0.5 else frozenset())
                found = await store.queue.due(wanted, NOW)
                assert found.keys() == wanted.keys()
                for handler, want in wanted.items():
                    mine = [(delivery_of(row), bool(row.is_critical)) for row in kept if row.handler_id == handler and row.status == 0]
                    assert summary(found[handler]) == expected(mine, want)
                    assert all(job.notification.id == job.delivery.notification_id for job in found[handler].jobs)

    run(main())


def test_a_connection_from_before_a_restart_is_replaced_and_a_slow_statement_ended(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_postgresql() as store:
            handler = await add_handler(store)
            delivery = await accept_one(store, handler)
            for _ in range(2):
                assert [one.delivery for one in await store.queue.waiting([delivery.id])] == [delivery]
                execute(database_of(tmp_path), TERMINATE)
            seconds = await store.database.glance(lambda connection: connection.exec_driver_sql("SHOW statement_timeout").scalar())
            assert seconds == f"{READ_SECONDS:.0f}s"

    run(main())


def test_who_waits_may_be_deleted_while_it_is_read(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with open_store() as store:
            delivery = await accept_one(store, await add_handler(store))
            monkeypatch.setattr("tocsin.store.due._texts", lambda *_: {})
            assert await store.queue.waiting([delivery.id]) == []

    run(main())


def summary(due: Due) -> tuple[list[int], int | None, bool]:
    return [job.delivery.id for job in due.jobs], due.next_due, due.is_more
