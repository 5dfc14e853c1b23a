"""Idempotency keys where two processes answer at once: one of them accepts, the other says so or repeats its answer."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from conftest import run
from support.shared import holding, shared
from support.store import OpenStore, accept_one, accepting, add_handler
from tocsin.clock import DAY
from tocsin.model import InFlight, Status
from tocsin.ports.intake import Accepted, Answered, Idempotency
from tocsin.store import tables
from tocsin.store.sql import SqlStore

KEY = Idempotency("/notifications", "key", b"content")
HELD = "SELECT pg_try_advisory_xact_lock(hashtextextended('1 /notifications key', 1))"


t = tables.totals
slots = t.select().where(t.c.what == int(Status.PENDING)).order_by(t.c.slot)


async def count(store: SqlStore, table: Any = tables.notifications) -> int:
    return await store.database.read(lambda c: len(c.execute(table.select()).all()))


def outcome(result: list[Accepted] | BaseException) -> object:
    if isinstance(result, Answered):
        return result.remembered.answer
    return type(result) if isinstance(result, BaseException) else tuple(one.id for one in result)


def test_of_two_at_once_one_is_accepted_and_the_other_knows_it(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql, 3) as stores:
            handler_id = await add_handler(stores[0][0])
            for n in range(30):
                what = Idempotency("/notifications", f"key {n}", b"content")
                told: list[list[Accepted]] = []
                asked = [store.intake.accept(accepting(handler_id, idempotency=what), told.append) for store, _ in stores]
                results = await asyncio.gather(*asked, return_exceptions=True)
                accepted = {one for one in map(outcome, results) if isinstance(one, tuple)}
                assert len(accepted) == 1 and len(told) == 1, results
                assert {outcome(one) for one in results} <= accepted | {InFlight}, results
                assert await count(stores[0][0]) == n + 1
                again = await asyncio.gather(stores[1][0].intake.accept(accepting(handler_id, idempotency=what)), return_exceptions=True)
                assert outcome(again[0]) in accepted, "a later one is answered as the first"

    run(main())


def test_only_the_request_with_that_key_is_refused_while_another_process_has_it(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_postgresql() as store:
            handler_id = await add_handler(store)
            with holding(tmp_path, HELD) as other:
                asked = [accepting(handler_id), accepting(handler_id, idempotency=KEY), accepting(handler_id)]
                asked.append(accepting(handler_id, idempotency=Idempotency("/notifications", "other", b"content")))
                results = await asyncio.gather(*map(store.intake.accept, asked), return_exceptions=True)
                assert [type(one) for one in results] == [list, InFlight, list, list]
                assert await count(store) == 3 and await count(store, tables.idempotency) == 1
                other.rollback()
            [kept] = await store.intake.accept(accepting(handler_id, idempotency=KEY))
            with pytest.raises(Answered) as answered:
                await store.intake.accept(accepting(handler_id, idempotency=KEY))
            assert (answered.value.remembered.answer, answered.value.remembered.content) == ((kept.id,), b"content")
            [late] = await store.intake.accept(accepting(handler_id, at=100 + DAY + 1, idempotency=KEY))
            assert late.id > kept.id, "a day later it is forgotten"

    run(main())


def test_a_replay_that_two_answer_is_done_once(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(store, _), (other, _)]:
            delivery = await accept_one(store, await add_handler(store), status=Status.FAILED)
            with holding(tmp_path, HELD), pytest.raises(InFlight):
                await store.history.retry(1, delivery.id, 500, 10, KEY)
            results = await asyncio.gather(
                *(one.history.retry(1, delivery.id, 500, 10, KEY) for one in (store, other)), return_exceptions=True
            )
            assert sum(isinstance(one, list) for one in results) == 1
            assert {one.remembered.answer if isinstance(one, Answered) else type(one) for one in results} <= {list, InFlight, (1,)}
            with pytest.raises(Answered):
                await other.history.retry(1, delivery.id, 500, 10, KEY)
            found = await store.history.delivery(1, delivery.id)
            assert found is not None and (found[0].replays, found[0].status) == (1, Status.PENDING)

    run(main())


def test_each_process_counts_in_a_slot_of_its_own(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(store, _), (other, _)]:
            handler_id = await add_handler(store)
            for one in (store, other, store):
                await accept_one(one, handler_id)
            rows = await store.database.read(lambda c: c.execute(slots).all())
            assert [row.n for row in rows] == [1, 2] or [row.n for row in rows] == [2, 1]
            assert await store.vitals.backlog() == 3
        async with open_postgresql() as again:
            await accept_one(again, handler_id)
            rows = await again.database.read(lambda c: c.execute(slots).all())
            assert len(rows) == 3 and min(row.slot for row in rows) >= 10
            await again.tidying.sweep("totals", 0, 100, ())
            rows = await again.database.read(lambda c: c.execute(slots).all())
            assert [(row.slot, row.n) for row in rows] == [(0, 4)]

    run(main())
