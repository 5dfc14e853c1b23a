"""A clock that was ahead and is set right: what was scheduled meanwhile is due at once, but for what a user scheduled."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import Connection, event, func, insert, select, update

from engine.test_local import Worker, scenario
from support.store import MESSAGE, OpenStore, add_handler
from tocsin import clock
from tocsin.clock import SECOND, Micros
from tocsin.engine.local import LocalEngine
from tocsin.flow.delivery.clock_watch import ClockWatch
from tocsin.flow.pace import Pacer
from tocsin.model import Status
from tocsin.ports.intake import Accept, Planned, PlannedDelivery
from tocsin.settings import load
from tocsin.store import misdated
from tocsin.store.sql import SqlStore
from tocsin.store.tables import deliveries, handler_events, handlers

MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND
SETTINGS = load({})
Body = Callable[[SqlStore, LocalEngine, Worker], Awaitable[None]]


async def pending(store: SqlStore, handler: int, due_at: Micros, send_at: Micros | None = None, **row: int) -> int:
    """A delivery that waits until then, with these values in its row."""
    one = (PlannedDelivery(handler, Status.PENDING, due_at),)
    [kept] = await store.intake.accept(Accept(1, row.pop("accepted_at", due_at), [Planned(MESSAGE, send_at, None, one)], None))
    if row:
        these = deliveries.c.id == kept.deliveries[0].id
        await store.database.write(lambda connection: connection.execute(update(deliveries).where(these).values(row)))
    return kept.deliveries[0].id


async def due(store: SqlStore) -> dict[int, Micros]:
    rows = await store.database.read(lambda connection: connection.execute(select(deliveries.c.id, deliveries.c.due_at)).all())
    return {row[0]: row[1] for row in rows}


# What waits though the clock that it was reckoned from was ahead: by how much, and how the row looks.
MISDATED = {
    "accepted under the wrong clock": (10 * DAY, {}),
    "by nine hours: a clock in local time": (9 * HOUR, {}),
    "a retry of 5 s": (10 * DAY + 5 * SECOND, {"step": 1, "attempt_count": 1, "last_attempt_at": 10 * DAY}),
    "a retry of 12 h, by nine hours": (21 * HOUR, {"step": 7, "attempt_count": 7, "last_attempt_at": 9 * HOUR}),
    "a throttle of 20 s, by nine hours": (9 * HOUR + 20 * SECOND, {"throttles": 1, "attempt_count": 1, "last_attempt_at": 9 * HOUR}),
    "a throttle, by ten days": (10 * DAY + 20 * SECOND, {"throttles": 3, "attempt_count": 3, "last_attempt_at": 10 * DAY}),
    "put off without an attempt, long after it was accepted": (10 * DAY, {"accepted_at": -HOUR, "first_due_at": -HOUR}),
    "tried before, put off under the wrong clock": (10 * DAY, {"step": 2, "attempt_count": 2, "last_attempt_at": -HOUR}),
    "a step that the schedule has no more": (10 * DAY, {"step": 99, "attempt_count": 99, "last_attempt_at": -HOUR}),
}
# What waits as it is meant to.
RIGHT = {
    "a retry in 5 s": (5 * SECOND, {"step": 1, "attempt_count": 1, "last_attempt_at": -SECOND}),
    "a retry in 12 h, with its jitter": (14 * HOUR, {"step": 7, "attempt_count": 7, "last_attempt_at": -MINUTE}),
    "a throttle of a day": (25 * HOUR, {"throttles": 1, "attempt_count": 1, "last_attempt_at": -SECOND}),
    "a mail that may have arrived": (6 * MINUTE, {"step": 1, "attempt_count": 1, "last_attempt_at": -SECOND}),
    "an attempt of this moment, after a step of a second": (5 * SECOND, {"step": 1, "attempt_count": 1, "last_attempt_at": SECOND}),
}
MOMENTS = {"accepted_at", "first_due_at", "last_attempt_at"}


def reckoned(now: Micros, row: dict[str, int]) -> dict[str, int]:
    return {name: now + value if name in MOMENTS else value for name, value in row.items()}


@pytest.mark.parametrize("what", MISDATED)
def test_what_was_reckoned_from_a_clock_that_was_ahead_is_due_now(open_store: OpenStore, what: str) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handler = await add_handler(store)
        await engine.start(worker)
        ahead, row = MISDATED[what]
        now = clock.now()
        delivery = await pending(store, handler, now + ahead, **reckoned(now, row))
        assert await ClockWatch(store.misdated, engine, SETTINGS).bring_forward() == 1
        await worker.until(1)  # the engine was woken
        assert worker.started == [delivery]

    scenario(open_store, body)


@pytest.mark.parametrize("what", RIGHT)
def test_what_waits_as_it_should_goes_on_waiting(open_store: OpenStore, what: str) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handler = await add_handler(store)
        ahead, row = RIGHT[what]
        now = clock.now()
        delivery = await pending(store, handler, now + ahead, **reckoned(now, {"accepted_at": -DAY, **row}))
        assert await ClockWatch(store.misdated, engine, SETTINGS).bring_forward() == 0
        assert await due(store) == {delivery: now + ahead}

    scenario(open_store, body)


def test_what_a_user_scheduled_stays_where_it_is_whatever_the_clock_was(open_store: OpenStore) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handler = await add_handler(store)
        now = clock.now()
        at = now + 300 * DAY
        scheduled = await pending(store, handler, at, send_at=at, accepted_at=now)
        retried = await pending(store, handler, at + 5 * SECOND, send_at=at, accepted_at=now, step=1, last_attempt_at=at)
        assert await ClockWatch(store.misdated, engine, SETTINGS).bring_forward() == 1
        found = await due(store)
        assert found[scheduled] == at
        assert found[retried] < now + MINUTE

    scenario(open_store, body)


def test_a_success_under_the_wrong_clock_lets_later_ones_end_a_row_of_failures(open_store: OpenStore) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handler, other = await add_handler(store), await add_handler(store)
        now = clock.now() // SECOND * SECOND
        ahead = {"last_delivered_at": now + 10 * DAY, "failing_since": now + 10 * DAY, "failures": 4}
        right = {"last_delivered_at": now - DAY, "failing_since": now - HOUR, "failures": 1}
        for one, values in ((handler, ahead), (other, right)):
            await store.database.write(
                lambda connection, one=one, values=values: connection.execute(update(handlers).where(handlers.c.id == one).values(values))
            )
        changed = {"handler_id": handler, "at": now + 10 * DAY, "what": "changed", "detail": ""}
        await store.database.write(lambda connection: connection.execute(insert(handler_events).values(changed)))
        await ClockWatch(store.misdated, engine, SETTINGS, lambda: now).bring_forward()
        columns = (handlers.c.last_delivered_at, handlers.c.failing_since, handlers.c.failures)
        kept = await store.database.read(lambda c: [tuple(row) for row in c.execute(select(*columns).order_by(handlers.c.id))])
        assert kept == [(now, now, 4), (now - DAY, now - HOUR, 1)]
        assert await store.database.read(lambda connection: connection.scalar(select(func.max(handler_events.c.at)))) <= now

    scenario(open_store, body)


def test_more_than_fit_in_one_go_are_all_brought_forward(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.flow.delivery.clock_watch.ROWS_AT_ONCE", 3)

    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handler = await add_handler(store)
        now = clock.now()
        for _ in range(8):
            await pending(store, handler, now + 10 * DAY)
        assert await ClockWatch(store.misdated, engine, SETTINGS).bring_forward() == 8
        assert max((await due(store)).values()) < now + MINUTE

    scenario(open_store, body)


def test_a_clock_that_is_set_back_while_the_service_runs_is_noticed(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.flow.delivery.clock_watch.LOOK_SECONDS", 0.01)
    real = clock.now
    ahead = 10 * DAY
    monkeypatch.setattr(clock, "now", lambda: real() + ahead)

    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        nonlocal ahead
        handler = await add_handler(store)
        await engine.start(worker)
        watch = ClockWatch(store.misdated, engine, SETTINGS, wall=lambda: clock.now())
        watching = asyncio.create_task(watch.run())
        delivery = await pending(store, handler, clock.now() + 5 * SECOND, step=1, attempt_count=1, last_attempt_at=clock.now())
        engine.wake(handler, 1, clock.now() + 5 * SECOND)
        ahead = 0
        await worker.until(1)
        assert worker.started == [delivery]
        watching.cancel()

    scenario(open_store, body)


def test_only_a_step_back_counts() -> None:
    wall, steady = 1000 * DAY, 0.0
    watch = ClockWatch(None, None, SETTINGS, lambda: wall, lambda: steady)  # type: ignore[arg-type]  # neither is asked
    moves = ((MINUTE, 60.0), (DAY, 1.0), (0, 1.0), (-HOUR, 5.0), (MINUTE, 60.0))
    seen: list[bool] = []
    for passed, seconds in moves:
        wall, steady = wall + passed, steady + seconds
        seen.append(watch.was_set_back())
    assert seen == [False, False, False, True, False]


class Rests:
    """A record of one rest that an earlier process was asked for."""

    def __init__(self, until: Micros) -> None:
        self.rests_until = until

    def begin(self, key: str, at: Micros, seconds: float) -> None: ...
    def rest(self, key: str, at: Micros, until: Micros) -> None: ...
    def starts_since(self, key: str, at: Micros) -> list[Micros]:
        return []

    def rest_until(self, key: str) -> Micros:
        return self.rests_until if key == "bot" else 0

    def forget_before(self, at: Micros) -> None: ...


def test_a_pause_of_an_earlier_process_grows_by_no_step_of_the_clock() -> None:
    wall = 1000 * DAY
    pacer = Pacer(Rests(wall + 20 * SECOND), lambda: wall)
    assert pacer.pause_left("other", 100.0) == 0
    wall -= 10 * DAY
    assert pacer.pause_left("bot", 105.0) == 15


def test_the_look_is_at_what_is_pending_only(open_sqlite: OpenStore) -> None:
    """Not at millions of rows that are settled."""

    async def body(store: SqlStore, _engine: LocalEngine, _worker: Worker) -> None:
        def plans(connection: Connection) -> list[str]:
            seen: list[tuple[str, Any]] = []

            def noted(_conn: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
                seen.append((statement, parameters))

            event.listen(connection, "before_cursor_execute", noted)
            misdated.find(connection, clock.now(), [5 * SECOND], 10)
            event.remove(connection, "before_cursor_execute", noted)
            driver: Any = connection.connection.driver_connection
            [(statement, parameters)] = seen
            return [row[3] for row in driver.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]

        assert "ix_deliveries_pending" in (await store.database.read(plans))[0]

    scenario(open_sqlite, body)
