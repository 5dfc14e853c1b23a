"""Workers that share a store on PostgreSQL: who is there, who owns what, and that a worker that was removed does nothing any more."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest

from conftest import run
from support.postgresql import database_of
from support.shared import holding, introduction, joined, shared, waits_for
from support.store import OpenStore
from tocsin import clock
from tocsin.clock import SECOND
from tocsin.model import Busy
from tocsin.partitions import PARTITIONS
from tocsin.ports.workers import Load, Waking
from tocsin.store.shared import SharedStore
from tocsin.store.workers import payloads, wakings_of


def test_ids_go_up_and_a_beat_shows_who_is_there(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), (_, other)]:
            first = await one.workers.join(introduction("one", "api"), lambda _: None)
            second = await other.workers.join(introduction("other", "worker"), lambda _: None)
            assert second > first
            load = Load(in_memory=3, in_flight=2, oldest_due=7, clock_ahead=-1)
            assert await one.workers.beat(first, second, load, False) is not None
            assert await one.workers.beat(first, first, load, True) is not None
            shown = await other.workers.beat(second, first, Load(), False)
            assert shown is not None
            mine, theirs = shown.members
            assert (mine.introduction, mine.beat, mine.seen, mine.is_leaving, mine.load) == (
                introduction("one", "api"),
                2,
                second,
                True,
                load,
            )
            assert (theirs.introduction.roles, theirs.beat, theirs.load) == ("worker", 0, Load())
            again = await one.workers.beat(first, second, load, True)
            assert again is not None and [member.id for member in again.members] == [first, second]
            assert abs(shown.now - clock.now()) < 60 * SECOND, "both clocks are this machine's"

    run(main())


def test_who_is_seen_by_its_id_is_seen_with_all_below_it(open_postgresql: OpenStore, tmp_path: Path) -> None:
    """Ids come in the order of the commits: one that was taken first and is committed last would be overlooked."""

    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), (_, other)]:
            await joined(one)
            with holding(tmp_path, "SELECT pg_advisory_xact_lock(%s)", 0x746A6F69) as slow:
                slow.execute("SELECT nextval('workers_id_seq')")
                joining = asyncio.create_task(joined(other))
                await waits_for(tmp_path, slow)
                with psycopg.connect(database_of(tmp_path)) as observer:
                    taken = observer.execute("SELECT last_value FROM workers_id_seq").fetchone()
                assert taken == (2,), "who waits for its turn has taken no id yet"
            assert await joining == 3

    run(main())


def test_partitions_are_shared_out_and_what_they_were_released_with_goes_to_the_next(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), (_, other)]:
            first, second = await joined(one), await joined(other, "other")
            before = await one.workers.owners()
            assert set(before.of) == {0} and len(before.of) == PARTITIONS
            mine = await one.workers.take(first, 600, ())
            assert [one.partition for one in mine] == list(range(600)) and not any(one.is_crashed or one.state for one in mine)
            theirs = await other.workers.take(second, 600, ())
            assert [one.partition for one in theirs] == list(range(600, PARTITIONS))
            owners = await other.workers.owners()
            assert owners.version > before.version and list(owners.of) == [first] * 600 + [second] * 424
            await one.workers.release(first, {3: b"\x00what is known", 700: b"not mine", 5: None})
            again = await other.workers.take(second, 600, [one.partition for one in theirs])
            assert [(one.partition, one.is_crashed, one.state) for one in again] == [(3, False, b"\x00what is known"), (5, False, None)]
            assert (await one.workers.owners()).version > owners.version
            version = (await one.workers.owners()).version
            assert await one.workers.take(first, 10, range(1024)) == []
            await one.workers.release(first, {3: b"late"})
            assert (await one.workers.owners()).version == version, "nothing has changed hands"

    run(main())


def test_two_that_take_at_once_take_different_ones(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql, 3) as stores:
            ids = [await joined(beside, str(n)) for n, (_, beside) in enumerate(stores)]
            for _ in range(40):
                await asyncio.gather(*(beside.workers.take(one, 9, range(1024)) for one, (_, beside) in zip(ids, stores, strict=True)))
            taken = [await beside.workers.take(one, 2000, ()) for one, (_, beside) in zip(ids, stores, strict=True)]
            every = [one.partition for some in taken for one in some]
            assert sorted(every) == list(range(PARTITIONS)) and len(every) == len(set(every))
            owners = await stores[0][1].workers.owners()
            assert all(owners.of[one.partition] == owner for owner, some in zip(ids, taken, strict=True) for one in some)

    run(main())


def test_who_asks_again_after_a_lost_answer_is_told_the_same(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), (_, other)]:
            first, second = await joined(one), await joined(other, "other")
            await one.workers.take(first, 2, ())
            await one.workers.release(first, {0: b"windows"})
            await other.workers.take(second, 1, ())  # nobody was told
            [again, more] = await other.workers.take(second, 2, ())
            assert (again.partition, again.state) == (0, b"windows") and more.partition == 2

    run(main())


def test_a_dead_worker_is_pruned_once_and_its_partitions_say_so(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), (_, other)]:
            first, second = await joined(one), await joined(other, "other")
            await one.workers.take(first, 2, ())
            await one.workers.release(first, {1: b"windows"})
            await one.workers.take(first, 1, {0})
            shown = await other.workers.beat(second, first, Load(), False)
            assert shown is not None
            await one.workers.beat(first, second, Load(), False)
            assert not await other.workers.prune(first, shown.members[0].beat), "it has beaten meanwhile"
            assert await other.workers.prune(first, shown.members[0].beat + 1)
            assert not await other.workers.prune(first, shown.members[0].beat + 1)
            assert await one.workers.beat(first, second, Load(), False) is None
            assert await one.workers.take(first, 5, ()) == []
            await one.workers.release(first, {0: b"late"})
            assert set((await one.workers.owners()).of) == {0}
            taken = await other.workers.take(second, 2, ())
            assert [(one.partition, one.is_crashed, one.state) for one in taken] == [(0, True, None), (1, True, b"windows")]

    run(main())


def test_what_a_worker_was_taking_while_it_was_pruned_is_not_left_behind(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), (_, other)]:
            first, second = await joined(one), await joined(other, "other")
            # As `take` does it, not committed yet.
            with holding(tmp_path, "SELECT id FROM workers WHERE id = %s FOR KEY SHARE", first) as taking:
                taking.execute("UPDATE partitions SET owner = %s WHERE partition < 100", (first,))
                pruning = asyncio.create_task(other.workers.prune(first, 0))
                await waits_for(tmp_path, taking)
                taking.commit()
                assert await pruning
            assert set((await other.workers.owners()).of) == {0}
            assert {one.is_crashed for one in await other.workers.take(second, 100, ())} == {True}

    run(main())


def test_who_leaves_without_having_released_all_leaves_the_rest_as_crashed(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), (_, other)]:
            first, second = await joined(one), await joined(other, "other")
            await one.workers.take(first, 2, ())
            await one.workers.release(first, {1: None})
            await one.workers.leave(first)
            beat = await other.workers.beat(second, second, Load(), False)
            assert beat is not None and [member.id for member in beat.members] == [second]
            assert [(one.partition, one.is_crashed) for one in await other.workers.take(second, 2, ())] == [(0, True), (1, False)]

    run(main())


def test_owners_are_on_the_disk_before_anybody_acts_on_them_and_beats_wait_for_nothing(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), _]:
            log = "CREATE TABLE seen (what text); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            log += " INSERT INTO seen VALUES (TG_TABLE_NAME || ' ' || current_setting('synchronous_commit')); RETURN NULL; END $$;"
            for table in ("workers", "ownership"):
                log += f"CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION note();"
            with psycopg.connect(database_of(tmp_path), autocommit=True) as other:
                other.execute(log.encode())
                first = await joined(one)
                await one.workers.take(first, 1, ())
                await one.workers.beat(first, 0, Load(), False)
                await one.workers.release(first, {0: None})
                await one.workers.leave(first)
                found = [row[0] for row in other.execute("SELECT what FROM seen").fetchall()]
            assert found == ["workers on", "ownership on", "workers off", "ownership on", "workers on", "ownership on"]

    run(main())


def test_a_connection_that_was_ended_is_made_again(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), _]:
            first = await joined(one)
            assert await one.workers.beat(first, 0, Load(), False) is not None
            with psycopg.connect(database_of(tmp_path), autocommit=True) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            with pytest.raises(Busy):
                await one.workers.beat(first, 0, Load(), False)
            assert await one.workers.beat(first, 0, Load(), False) is not None

    run(main())


def test_a_server_that_holds_a_beat_up_is_not_waited_for(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), _]:
            first = await joined(one)
            with holding(tmp_path, "UPDATE workers SET beat = 7 WHERE id = %s", first), pytest.raises(Busy):
                await one.workers.beat(first, 0, Load(), False)
            assert await one.workers.beat(first, 0, Load(), False) is not None

    run(main())


def test_no_beat_waits_behind_a_commit_that_is_slow(open_postgresql: OpenStore, tmp_path: Path) -> None:
    """As behind that of a synchronous standby that is away: whose beats stop is dead."""

    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), _]:
            worker_id = await joined(one)
            await one.workers.take(worker_id, 5, ())
            with holding(tmp_path, "SELECT FROM partitions WHERE owner = %s FOR UPDATE", worker_id) as slow:
                releasing = asyncio.create_task(one.workers.release(worker_id, {0: None}))
                await waits_for(tmp_path, slow)
                assert await one.workers.beat(worker_id, 0, Load(), False) is not None
                assert not releasing.done()
            await releasing

    run(main())


def test_wakings_reach_the_worker_they_are_for_each_once(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), (_, other)]:
            wakings = [Waking(n % PARTITIONS, 2**53 - n, 2**53 - 2 * n) for n in range(1000)]
            last = Waking(0, 0, 0)
            heard: list[Waking] = []
            is_over = asyncio.Event()

            def rang(some: Sequence[Waking]) -> None:
                heard.extend(some)
                if last in some:
                    is_over.set()

            worker = await other.workers.join(introduction(), rang)
            one.workers.ring({worker: wakings, worker + 1: wakings[:1]})
            one.workers.ring({worker: wakings})
            one.workers.ring({worker: [last]})
            await is_over.wait()
            assert heard == [*wakings, last]
            heard.clear()
            is_over.clear()
            again = await other.workers.join(introduction(), rang)
            one.workers.ring({worker: wakings[:1]})
            one.workers.ring({again: [last]})
            await is_over.wait()
            assert heard == [last], "a worker joined before is heard no more"

    run(main())


def test_who_listens_hears_again_after_the_connection_was_ended_and_knows_that_something_may_be_missed(
    open_postgresql: OpenStore, tmp_path: Path
) -> None:
    async def main() -> None:
        async with open_postgresql() as store:
            missed, rang = asyncio.Event(), asyncio.Event()
            beside = SharedStore(store, missed.set)
            worker = await beside.workers.join(introduction(), lambda _: rang.set())
            with psycopg.connect(database_of(tmp_path), autocommit=True) as other:
                listening = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query = 'COMMIT'"
                [(pid,)] = other.execute(listening).fetchall()
                other.execute("SELECT pg_terminate_backend(%s)", (pid,))
            await missed.wait()
            beside.workers.ring({worker: [Waking(1, 2, 3)]})
            await rang.wait()
            await beside.close()

    run(main())


@pytest.mark.parametrize("garbled", ["1 2", "1 2 x", "1 2 3 4"])
def test_what_is_no_waking_is_refused(garbled: str) -> None:
    assert wakings_of(payloads([Waking(1, 2, 3)])[0]) == [Waking(1, 2, 3)]
    with pytest.raises(ValueError):  # of int or of zip
        wakings_of(garbled)
