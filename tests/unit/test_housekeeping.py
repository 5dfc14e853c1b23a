"""Old rows go in steps that take turns, as fast as they may, and not at all by a clock that made a leap."""

import sys
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import func, select, text

from conftest import run
from support.store import OpenStore
from tocsin.clock import SECOND
from tocsin.flow import housekeeping
from tocsin.flow.housekeeping import DOUBT, MAX_ROWS, MIN_ROWS, STEP_SECONDS, Chore, Housekeeping, State, look_at_clock, next_rows
from tocsin.flow.people.access import Access
from tocsin.model import Message, Status
from tocsin.ports.handlers import HandlerChange
from tocsin.ports.intake import Accept, Planned, PlannedDelivery
from tocsin.ports.tidying import Swept, Tidying
from tocsin.settings import Settings, load
from tocsin.store.sql import SqlStore
from tocsin.store.tables import idempotency, notifications

DAY = 86_400 * SECOND
MINUTE = 60 * SECOND
NOW = 20_000 * DAY


def test_the_size_of_a_step_follows_from_the_time_the_last_one_took() -> None:
    assert next_rows(100, Swept(100, (), None, STEP_SECONDS / 100)) == 200  # no more than twice as many
    assert next_rows(100, Swept(100, (), None, STEP_SECONDS * 2)) == 50
    assert next_rows(100, Swept(10, (), None, STEP_SECONDS / 100)) == 100  # it had little to do: that says nothing
    assert next_rows(MAX_ROWS, Swept(MAX_ROWS, (), None, 0.0)) == MAX_ROWS
    assert next_rows(100, Swept(100, (), None, 60.0)) == MIN_ROWS


def test_a_clock_that_goes_evenly_is_believed() -> None:
    state = look_at_clock(State(), NOW, None)
    for _ in range(5):
        state = look_at_clock(state, state.seen + MINUTE, MINUTE)
    state = look_at_clock(state, state.seen + DAY // 2, None)  # a stop of half a day
    state = look_at_clock(state, state.seen + 5 * DAY, 5 * DAY)  # the machine slept: the other clock knows of it
    assert state == State(NOW + 5 * MINUTE + 5 * DAY + DAY // 2)


def test_a_clock_that_leaps_is_not_believed_until_it_is_set_right() -> None:
    ahead = look_at_clock(State(NOW), NOW + 31 * DAY, MINUTE)
    assert ahead.doubted
    assert look_at_clock(ahead, NOW + 31 * DAY + MINUTE, MINUTE).doubted
    assert not look_at_clock(ahead, NOW + 2 * MINUTE, MINUTE).doubted
    assert not look_at_clock(ahead, NOW + 2 * MINUTE, None).doubted  # nor if the service was started again meanwhile
    assert look_at_clock(State(NOW), NOW + 31 * DAY, None).doubted  # it was ahead when the machine started


def test_a_leap_is_believed_in_the_end() -> None:
    state = look_at_clock(State(NOW), NOW + 31 * DAY, None)
    looks = 0
    while state.doubted:
        state, looks = look_at_clock(state, state.seen + MINUTE, MINUTE), looks + 1
    assert looks == DOUBT // MINUTE


class Clock:
    now = NOW

    def __call__(self) -> int:
        return self.now


def house_of(store: SqlStore, settings: Settings, clock: Callable[[], int], leads: Callable[[], bool] = lambda: True) -> Housekeeping:
    return Housekeeping(store.tidying, store.values, [Access(store.keys).note_use], settings, clock, leads)


async def filled(store: SqlStore, old_notifications: int, old_keys: int) -> None:
    handler = await store.handlers.add(1, HandlerChange(type="webhook", name="hook", settings=b"sealed", is_enabled=True), 10)
    at = NOW - 20 * DAY
    for _ in range(old_notifications):
        made = (PlannedDelivery(handler, Status.SKIPPED, at),)
        await store.intake.accept(Accept(1, at, [Planned(Message("text", at=at), None, None, made)]))
    keys = text("INSERT INTO idempotency VALUES (1, '/api/notifications', :key, :content, '1', 1)").bindparams(content=b"0")
    await store.database.write(lambda c: c.execute(keys, [{"key": f"{n}"} for n in range(old_keys)]))


async def count(store: SqlStore, table) -> int:
    return await store.database.read(lambda connection: connection.scalar(select(func.count()).select_from(table)))


def test_a_long_kind_does_not_keep_the_others_waiting(open_store: OpenStore, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(housekeeping, "MAX_ROWS", 20)
    monkeypatch.setattr(housekeeping, "MIN_PAUSE_SECONDS", 0.0)
    left: list[tuple[int, int]] = []
    opened: list[SqlStore] = []
    real_step = Chore.step

    async def step(chore: Chore, tidying: Tidying, now: int) -> Swept:
        chore.rows = 20
        found = await real_step(chore, tidying, now)
        left.append((await count(opened[0], notifications), await count(opened[0], idempotency)))
        return found

    monkeypatch.setattr(Chore, "step", step)

    async def main() -> None:
        async with open_store() as store:
            opened.append(store)
            await filled(store, 400, 60)
            house = house_of(store, load({"TOCSIN_RETENTION_DAYS": "10"}, tmp_path / "none"), Clock())
            await house.look()
            await house.sweep_for(600)
            assert next(old for old, keys in left if keys == 0) > 200
            assert left[-1] == (0, 0)
            assert house.behind_seconds == 0

    run(main())


def test_of_several_processes_the_leader_deletes(open_store: OpenStore, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(housekeeping, "MIN_PAUSE_SECONDS", 0.0)
    leading: list[bool] = []

    async def main() -> None:
        async with open_store() as store:
            await filled(store, 5, 5)
            house = house_of(store, load({"TOCSIN_RETENTION_DAYS": "10"}, tmp_path / "none"), Clock(), lambda: bool(leading))
            assert not await house.sweep_for(60)
            assert (await count(store, notifications), await count(store, idempotency)) == (5, 5)
            leading.append(True)
            assert await house.sweep_for(60)
            assert (await count(store, notifications), await count(store, idempotency)) == (0, 0)

    run(main())


def test_what_it_changed_is_folded_in_beside_the_writer(open_sqlite: OpenStore, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(housekeeping, "MIN_PAUSE_SECONDS", 0.0)

    def folded() -> int:
        """Frames of the log that are in their place: https://sqlite.org/walformat.html 2.1 (nBackfill)."""
        return int.from_bytes((tmp_path / "tocsin.db-shm").read_bytes()[96:100], sys.byteorder)

    async def main() -> None:
        async with open_sqlite() as store:
            await filled(store, 0, housekeeping.FOLD_ROWS)
            assert folded() == 0
            house = house_of(store, load({}), Clock())
            assert await house.sweep_for(60)
            assert await count(store, idempotency) == 0 and folded() > 0

    run(main())


def test_how_far_retention_is_behind_can_be_seen(open_store: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_store() as store:
            await filled(store, 300, 1)
            house = house_of(store, load({"TOCSIN_RETENTION_DAYS": "10"}, tmp_path / "none"), Clock())
            await house.look()
            await house._step(house._chores[0])
            assert house.behind_seconds == 10 * 86_400
            await house.look()
            kept = await store.values.read(housekeeping.STATE)
            assert kept is not None
            assert b'"behind":864000000000' in kept

    run(main())


def test_a_clock_that_is_ahead_for_a_minute_deletes_nothing(open_store: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_store() as store:
            await filled(store, 30, 3)
            clock, settings = Clock(), load({"TOCSIN_RETENTION_DAYS": "30"}, tmp_path / "none")
            house = house_of(store, settings, clock)
            await house.look()
            clock.now = NOW + 31 * DAY
            await house.sweep_for(1)
            await house.look()
            assert (await count(store, notifications), house.is_deferred) == (30, True)
            again = house_of(store, settings, clock)  # started again, the clock still ahead
            await again.look()
            await again.sweep_for(1)
            assert (await count(store, notifications), again.is_deferred) == (30, True)
            clock.now = NOW + MINUTE
            await again.look()
            await again.sweep_for(1)
            assert (await count(store, notifications), await count(store, idempotency), again.is_deferred) == (30, 0, False)

    run(main())
