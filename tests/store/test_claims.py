"""Claims: what a worker notes before it sends, and what others learn from that when it dies."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, update

from conftest import run
from support.postgresql import database_of
from support.shared import Opened, holding, joined, shared, waits_for
from support.store import MESSAGE, OpenStore, attempt, delivered, settled
from tocsin.model import Delivery, Status
from tocsin.partitions import own_root, partition_of
from tocsin.ports.claims import Noted
from tocsin.ports.handlers import HandlerChange
from tocsin.ports.intake import Accept, Planned, PlannedDelivery
from tocsin.ports.ledger import UnderWay
from tocsin.ports.queue import Settlement, Wanted
from tocsin.ports.workers import Waking
from tocsin.store.sql import SqlStore
from tocsin.store.tables import handlers
from tocsin.store.workers import due_in

NOW = 1000
EVER = {"webhook": 0, "x": 0}


async def handler_in(store: SqlStore, partition: int | None, kind: str = "webhook") -> int:
    return await store.handlers.add(1, HandlerChange(type=kind, name="hook", settings=b"sealed", is_enabled=True, partition=partition), 10)


async def accepted(store: SqlStore, handler_id: int, partition: int, count: int = 1, due_at: int = 100) -> list[Delivery]:
    planned = tuple(PlannedDelivery(handler_id, Status.PENDING, due_at, None, partition) for _ in range(count))
    [kept] = await store.intake.accept(Accept(1, 99, [Planned(MESSAGE, None, None, planned)]))
    return list(kept.deliveries)


async def owning(opened: Opened, most: int) -> int:
    _, beside = opened
    worker_id = await joined(beside)
    await beside.workers.take(worker_id, most, ())
    return worker_id


def test_what_is_due_in_own_partitions_is_claimed_and_all_else_refused(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(store, one), _]:
            worker = await owning((store, one), 8)
            mine, theirs, strange = await handler_in(store, 3), await handler_in(store, 8), await handler_in(store, 4)
            good, cancelled, tried, later, again = await accepted(store, mine, 3, count=5)
            [foreign] = await accepted(store, theirs, 8)
            [moved] = await accepted(store, strange, 3)
            await store.history.cancel_delivery(1, cancelled.id)
            failed = replace(tried, attempt_count=1, step=1, last_attempt_at=200)
            assert await settled(store, Settlement(failed, attempt(tried, 1, "failed"), 200))
            assert await settled(store, Settlement(replace(later, due_at=5000), None, 200))
            some = [good, cancelled, tried, later, foreign, moved, again]
            assert await one.claims.claim(worker, NOW, some) == {good.id, again.id}
            assert await one.claims.claim(worker, NOW, [failed]) == {tried.id}, "as it is now"
            assert await one.claims.claim(worker, NOW, [good]) == {good.id}, "an own one may be claimed again: nothing had gone out"
            assert await one.claims.claim(worker, NOW, [cancelled]) == set()

    run(main())


def test_who_has_been_pruned_claims_nothing_any_more(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(store, one), (_, other)]:
            worker = await owning((store, one), 8)
            [delivery] = await accepted(store, await handler_in(store, 3), 3)
            assert await other.workers.prune(worker, 0)
            assert await one.claims.claim(worker, NOW, [delivery]) is None

    run(main())


def test_pruning_waits_for_a_claim_that_is_under_way_and_what_comes_after_it_is_refused(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(store, one), (_, other)]:
            worker, second = await owning((store, one), 8), await joined(other)
            handler_id = await handler_in(store, 3)
            first, late = await accepted(store, handler_id, 3, count=2)
            with holding(tmp_path, "SELECT id FROM workers WHERE id = %s FOR KEY SHARE", worker) as claiming:
                pruning = asyncio.create_task(other.workers.prune(worker, 0))
                await waits_for(tmp_path, claiming)
                claimed = "INSERT INTO claims (worker, at, ids, handlers, numbers, due) VALUES (%s, %s, %s, %s, %s, %s)"
                claiming.execute(claimed, (worker, NOW, [first.id], [handler_id], [1], [first.due_at]))
                claiming.commit()
                assert await pruning
            assert await one.claims.claim(worker, NOW, [late]) is None
            taken = await other.workers.take(second, 8, ())
            [found] = await other.claims.of([one.partition for one in taken], EVER)
            assert (found.delivery.id, found.number, found.at, found.is_open) == (first.id, 1, NOW, True)

    run(main())


def test_a_claim_that_meets_a_prune_is_either_before_it_or_refused(open_postgresql: OpenStore, tmp_path: Path) -> None:
    """The prune has begun, and is not committed when the claim comes."""

    async def main() -> None:
        async with shared(open_postgresql) as [(store, one), _]:
            worker = await owning((store, one), 8)
            [delivery] = await accepted(store, await handler_in(store, 3), 3)
            with holding(tmp_path, "DELETE FROM workers WHERE id = %s", worker) as pruning:
                claiming = asyncio.ensure_future(one.claims.claim(worker, NOW, [delivery]))
                await waits_for(tmp_path, pruning)
                pruning.commit()
                assert await claiming is None
            with psycopg.connect(database_of(tmp_path)) as other:
                assert other.execute("SELECT count(*) FROM claims").fetchone() == (0,)

    run(main())


def test_what_a_dead_worker_left_is_told_from_what_it_had_finished(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(store, one), (_, other)]:
            worker = await owning((store, one), 8)
            hook, tweets, elsewhere = await handler_in(store, 3), await handler_in(store, 4, "x"), await handler_in(store, 5)
            done, open_one, cancelled, retried = await accepted(store, hook, 3, count=4)
            [tweet] = await accepted(store, tweets, 4)
            [apart] = await accepted(store, elsewhere, 5)
            await one.claims.claim(worker, NOW - 1, [done, open_one])
            await one.claims.claim(worker, NOW, [open_one, done])
            await one.claims.claim(worker, NOW + 1, [cancelled, retried, tweet, apart])
            await settled(store, delivered(done))
            await store.history.cancel_delivery(1, cancelled.id)
            failed = replace(retried, attempt_count=1, step=1, last_attempt_at=200, due_at=300)
            await settled(store, Settlement(failed, attempt(retried, 1, "failed"), 200))
            alive = await other.claims.of([3, 4], EVER)
            assert [found.is_open for found in alive] == [False] * 5, "its worker lives"
            assert {one.delivery.id for one in await other.claims.of([3, 4, 5], dict.fromkeys(EVER, NOW + 1))} == {
                cancelled.id,
                retried.id,
                tweet.id,
                apart.id,
            }
            assert await other.workers.prune(worker, 0)
            rows = await other.claims.of([3, 4], EVER)
            found = {row.delivery.id: (row.number, row.at, row.is_open, row.started_at) for row in rows}
            assert found == {
                done.id: (1, NOW, False, 200),
                open_one.id: (1, NOW, True, None),
                cancelled.id: (1, NOW + 1, True, None),
                retried.id: (1, NOW + 1, False, 200),
                tweet.id: (1, NOW + 1, True, None),
            }
            later = await other.claims.of([3, 4], {})
            assert [row.delivery.id for row in later if row.is_open] == [open_one.id, cancelled.id, tweet.id], "however long ago it died"
            assert await other.claims.of([], EVER) == []

    run(main())


def test_what_was_claimed_before_a_replay_is_told_from_what_came_after(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(store, one), (_, other)]:
            worker = await owning((store, one), 8)
            earlier, again, old = await accepted(store, await handler_in(store, 3), 3, count=3)
            await one.claims.claim(worker, NOW, [earlier, again, old])
            for delivery in (earlier, again):
                await store.history.cancel_delivery(1, delivery.id)
                assert await store.history.retry(1, delivery.id, NOW, 1, None)
            [replayed] = await store.queue.named([again.id])
            assert await one.claims.claim(worker, NOW + 1, [replayed]) == {again.id}
            with psycopg.connect(database_of(tmp_path)) as before:  # of a process of the version before
                before.execute("UPDATE claims SET ids = ids[1:2] WHERE at = %s", (NOW,))
                claimed = "INSERT INTO claims (worker, at, ids, handlers, numbers, due) VALUES (%s, %s, %s, %s, %s, %s)"
                before.execute(claimed, (worker, NOW, [old.id], [old.handler_id], [1], [old.due_at]))
            assert await other.workers.prune(worker, 0)
            found = {row.delivery.id: (row.number, row.replays, row.is_open) for row in await other.claims.of([3], EVER)}
            assert found == {earlier.id: (1, 0, True), again.id: (1, 1, True), old.id: (1, 0, True)}

    run(main())


def test_a_dead_workers_claims_become_what_it_had_sent(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(store, one), (behind, other)]:
            worker, second = await owning((store, one), 8), await owning((behind, other), 8)
            mine, theirs = await handler_in(store, 3), await handler_in(store, 9)
            done, sent, unsent, alone = await accepted(store, mine, 3, count=4)
            [elsewhere] = await accepted(store, theirs, 9)
            await one.claims.claim(worker, NOW, [done, sent, unsent])
            await one.claims.claim(worker, NOW + 1, [alone])
            await other.claims.claim(second, NOW, [elsewhere])
            await settled(store, delivered(done))
            await other.claims.correct(worker, [UnderWay(sent.id, 1, 0, NOW)])
            assert await other.workers.prune(worker, 0)
            found = {row.delivery.id: (row.number, row.is_open) for row in await other.claims.of([3, 9], EVER)}
            assert found == {done.id: (1, False), sent.id: (1, True), elsewhere.id: (1, False)}
            await other.claims.correct(worker, [])
            await other.claims.correct(worker + 99, [UnderWay(alone.id, 1, 0, NOW)])
            assert [row.delivery.id for row in await other.claims.of([3], EVER)] == [done.id]

    run(main())


def test_what_a_dead_worker_had_sent_is_claimed_though_its_server_lost_the_claims(open_postgresql: OpenStore, tmp_path: Path) -> None:
    """No claim waits for the disk: those of the last moments go with a server that crashes."""

    async def main() -> None:
        async with shared(open_postgresql) as [(store, one), (_, other)]:
            worker = await owning((store, one), 8)
            mine = await handler_in(store, 3)
            kept, done, lost, replayed = await accepted(store, mine, 3, count=4)
            await one.claims.claim(worker, NOW, [kept, done, lost, replayed])
            await settled(store, delivered(done))
            with psycopg.connect(database_of(tmp_path)) as server:
                server.execute("UPDATE claims SET ids = ids[1:1], handlers = handlers[1:1], numbers = numbers[1:1], due = due[1:1]")
            garbage = [UnderWay(lost.id, 2**32 - 1, 0, NOW), UnderWay(1 << 62, 1, 0, NOW), UnderWay(replayed.id, 1, 2**32 - 1, NOW)]
            for _ in range(2):  # it may have been killed before it was through
                await other.claims.correct(worker, [UnderWay(one.id, 1, 0, NOW + 5) for one in (kept, done, lost)] + garbage)
            assert not any(row.is_open for row in await other.claims.of([3], EVER)), "it may live, as far as the store knows"
            assert await other.workers.prune(worker, 0)
            found = [(row.delivery.id, row.number, row.at, row.is_open) for row in await other.claims.of([3], EVER)]
            assert found == [(kept.id, 1, NOW, True), (lost.id, 1, NOW + 5, True)]
            await other.claims.correct(worker, [UnderWay(replayed.id, 1, 0, NOW)])  # others have taken over from it
            assert await other.claims.of([3], EVER) == []

    run(main())


def test_what_is_sent_besides_deliveries_is_noted_by_the_owner_alone(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(store, one), (_, other)]:
            worker = await owning((store, one), 8)
            assert await one.claims.note(worker, NOW, 3, b"paces")
            assert await one.claims.note(worker, NOW + 5, 4, b"others")
            assert not await one.claims.note(worker, NOW, 8, b"not its own")
            assert not await other.claims.note(worker + 1, NOW, 3, b"of nobody")
            assert await other.claims.of([3, 4], EVER) == []
            assert await other.claims.noted([3, 8], 0) == [Noted(NOW, b"paces")]
            assert await other.claims.noted([3, 4], NOW + 1) == [Noted(NOW + 5, b"others")]
            assert await other.workers.prune(worker, 0)
            assert not await one.claims.note(worker, NOW, 3, b"given up for dead")

    run(main())


def test_what_waits_follows_its_handler_to_another_partition_when_that_is_asked_for(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(store, one), (behind, other)]:
            worker, second = await owning((store, one), 4), await owning((behind, other), 8)
            handler_id = await handler_in(store, 3)
            first, more = await accepted(store, handler_id, 3, count=2)
            assert await store.handlers.change(handler_id, HandlerChange(settings=b"another", partition=5), 1)
            row = await store.handlers.get(handler_id)
            assert row is not None and row.partition == 5
            assert [brief.partition for brief in await store.handlers.briefs(1)] == [5]
            assert await one.claims.claim(worker, NOW, [first]) == await other.claims.claim(second, NOW, [first]) == set()
            [late] = await accepted(behind, handler_id, 3)  # by a process that has not heard of it
            assert await one.claims.claim(worker, NOW, [late]) == await other.claims.claim(second, NOW, [late]) == set()
            [found] = await one.workers.due_in([3], NOW)
            assert (found.partition, found.handler_id, found.user_id, found.due_at, found.home) == (3, handler_id, 1, 100, 5)
            assert await one.workers.rehome(handler_id, 3) == Waking(5, handler_id, 1)
            assert await one.workers.due_in([3], NOW) == [] and await one.workers.rehome(999, 3) is None
            assert await other.claims.claim(second, NOW, [first, late, more]) == {first.id, late.id, more.id}

    run(main())


def test_what_is_due_soon_is_told_by_handler(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(store, beside), _]:
            hook, other, far = await handler_in(store, 3), await handler_in(store, 3), await handler_in(store, 4)
            for handler_id, partition, due_at in ((hook, 3, 500), (hook, 3, 300), (other, 3, 400), (far, 4, 300), (other, 3, 2000)):
                await accepted(store, handler_id, partition, due_at=due_at)
            [gone] = await accepted(store, other, 3, due_at=350)
            await store.history.cancel_delivery(1, gone.id)
            found = {(one.partition, one.handler_id, one.due_at, one.home) for one in await beside.workers.due_in([3, 4], 1000)}
            assert found == {(3, hook, 300, 3), (3, other, 400, 3), (4, far, 300, 4)}
            assert {(one.handler_id, one.due_at) for one in await beside.workers.due_in([3], 401, since=301)} == {(other, 400)}

    run(main())


def test_the_first_of_each_partition_are_found_without_looking_at_the_others(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(store, beside), _]:
            hook, other, far = await handler_in(store, 3), await handler_in(store, 3), await handler_in(store, 4)
            await accepted(store, far, 4, due_at=10_300)
            await accepted(store, other, 3, due_at=10_400)
            await accepted(store, hook, 3, count=1, due_at=1)
            with psycopg.connect(database_of(tmp_path), autocommit=True) as connection:
                columns = "notification_id, user_id, status, is_critical, created_at, handler_id, partition"
                connection.execute(
                    f"INSERT INTO deliveries ({columns}, due_at, first_due_at)"
                    f" SELECT {columns}, n, n FROM deliveries, generate_series(2, 10000) AS n WHERE due_at = 1".encode()
                )
                connection.execute("ANALYZE deliveries")
                read = "SELECT seq_scan, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'deliveries'"

                def look(first: int | None) -> Callable[[Connection], tuple[set[tuple[int, int]], int, int]]:
                    def run(connection: Connection) -> tuple[set[tuple[int, int]], int, int]:
                        found = {(one.handler_id, one.due_at) for one in due_in(connection, [3, 4, 5], 20_000, 0, first)}
                        [(scans, rows)] = connection.exec_driver_sql(read).fetchall()
                        return found, scans, rows

                    return run

                assert await store.database.read(look(20)) == ({(hook, 1), (far, 10_300)}, 0, 21)
                found, scans, rows = await store.database.read(look(None))
                assert found == {(hook, 1), (other, 10_400), (far, 10_300)} and (scans > 0 or rows > 10_000)
            assert {one.handler_id for one in await beside.workers.due_in([3, 4], 20_000, first=1)} == {hook, far}

    run(main())


def test_only_the_index_of_partitions_is_asked_for_what_is_due(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(store, beside), _]:
            handler_id = await handler_in(store, 3)
            await accepted(store, handler_id, 3, count=1)
            with psycopg.connect(database_of(tmp_path), autocommit=True) as other:
                other.execute(
                    "INSERT INTO handlers (user_id, type, name, is_enabled, created_at, version)"
                    " SELECT 1, 'webhook', 'hook', TRUE, 1, 1 FROM generate_series(1, 3000)"
                )
                columns = "notification_id, user_id, status, is_critical, created_at"
                other.execute(
                    f"INSERT INTO deliveries ({columns}, handler_id, due_at, first_due_at, partition)"
                    f" SELECT {columns}, 2 + n % 3000, 10^15 + n, 10^15 + n, n % 1024"
                    f" FROM deliveries, generate_series(1, 50000) AS n".encode()
                )
                other.execute("ANALYZE deliveries")
                query = (
                    "EXPLAIN SELECT partition, handler_id, user_id, min(due_at) FROM deliveries WHERE status = 0 AND due_at > 0"
                    " AND partition = ANY (ARRAY(SELECT generate_series(0, 511)::smallint)) AND due_at <= 5000 GROUP BY 1, 2, 3"
                )
                plan = "\\n".join(row[0] for row in other.execute(query).fetchall())
            assert "ix_deliveries_due" in plan and "Seq Scan" not in plan, plan
            assert [one.due_at for one in await beside.workers.due_in(range(512), 5000)] == [100]

    run(main())


def without_partition(connection: Connection) -> None:
    connection.execute(update(handlers).values(partition=None))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_handlers_without_a_partition_are_given_one_once(request: pytest.FixtureRequest, kind: str) -> None:
    open_one: OpenStore = request.getfixturevalue(f"open_{kind}")

    async def main() -> None:
        async with open_one() as store:
            ids = [await handler_in(store, None) for _ in range(5)]
            assert [brief.partition for brief in await store.handlers.briefs(1)] == [partition_of(own_root(one)) for one in ids]
            await store.handlers._database.write(without_partition)  # pyright: ignore[reportPrivateUsage]  # as an upgrade leaves them
            known = await handler_in(store, 9)
            await store.handlers.delete(ids[1], 50)
            await accepted(store, ids[0], 0, count=2)
            assert [row.id for row in await store.handlers.unplaced(0, 3)] == [ids[0], ids[2], ids[3]]
            assert [row.id for row in await store.handlers.unplaced(ids[3], 3)] == [ids[4]]
            await store.handlers.place({ids[0]: 17, ids[2]: 18, known: 19})
            assert [brief.partition for brief in await store.handlers.briefs(1)] == [17, 18, 0, 0, 9]
            waiting = (await store.queue.due({ids[0]: Wanted(9)}, NOW))[ids[0]].jobs
            assert [one.delivery.partition for one in waiting] == [17, 17]
            await store.handlers.place({ids[0]: 20})
            row = await store.handlers.get(ids[0])
            assert row is not None and row.partition == 17

    run(main())


def test_ids_and_due_times_go_up_with_the_answers_whichever_process_gives_them(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(store, _), (other, _)]:
            handler_id = await handler_in(store, 3)
            found: list[Delivery] = []
            for n in range(60):  # each after the answer to the one before; both give a wrong time, which does not count
                at = 10**15 if n % 2 else 5
                planned = [Planned(MESSAGE, None, None, (PlannedDelivery(handler_id, Status.PENDING, at, None, 3),))]
                [kept] = await (other if n % 3 else store).intake.accept(Accept(1, at, planned))
                found += kept.deliveries
            assert [one.id for one in found] == sorted(one.id for one in found)
            times = [one.due_at for one in found]
            assert times == sorted(set(times))
            for one in await store.queue.named([one.id for one in found]):
                assert one.due_at == one.first_due_at == one.created_at
                assert one in found
            [later] = await accepted(store, handler_id, 3, due_at=10**15)
            assert (later.due_at, later.first_due_at, later.created_at) == (10**15, 10**15, 99), "a time that was asked for stays"

    run(main())
