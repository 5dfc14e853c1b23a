"""The behaviour of an engine: nothing twice, nothing lost, nobody waits for another."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from conftest import run
from support.store import OpenStore, accepting, add_handler, settled
from tocsin import clock
from tocsin.clock import SECOND
from tocsin.engine import known as known_module
from tocsin.engine import local as local_module
from tocsin.engine import pump as pump_module
from tocsin.engine import refill as refill_module
from tocsin.engine.lanes import STATES, SUPPLIES, Lane
from tocsin.engine.ledger import Ledger
from tocsin.engine.local import LocalEngine
from tocsin.engine.places import Bounds, mail_bounds
from tocsin.model import Attempt, Busy, Delivery, Reason, Status
from tocsin.ports.engine import ANSWERED, UNANSWERED, Run, Terms
from tocsin.ports.ledger import UnderWay
from tocsin.ports.queue import Settlement, Waiting, Wanted
from tocsin.store import people
from tocsin.store.sql import SqlStore


class CheckedLane(Lane):
    """Every change of its state and of its supply is one that the tables allow."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        table = {"state": STATES, "supply": SUPPLIES}.get(name)
        before = getattr(self, name, None)
        if table is not None and before is not None and value != before:
            assert value in table[before], f"{name} {before} became {value}"
        object.__setattr__(self, name, value)


@pytest.fixture(autouse=True)
def _checked_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_module, "Lane", CheckedLane)


class Worker:
    """Delivers by a script: settles as delivered unless `settling` says otherwise. Starts are recorded in order."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.started: list[int] = []
        self.now_running: dict[int, int] = {}
        self.most_running: dict[int, int] = {}
        self.hold: dict[int, asyncio.Event] = {}
        self.waits: dict[int, float] = {}
        self.held_back: set[int] = set()
        self.wires: dict[int, str] = {}
        self.done = asyncio.Event()
        self.expected = 0
        self.answers = True
        self.alone: set[int] = set()  # deliveries of many parts
        self.alone_now: dict[int, int] = {}  # the one of a handler that is sent now
        self.beside_alone = 0
        self.rests: dict[int, asyncio.Event] = {}
        self.is_resuming = False
        self.resumed: list[int] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.settling: Callable[[Waiting], Awaitable[int | None]] = self.delivered

    def terms(self, handler_id: int) -> Terms | None:
        return Terms(self.wires.get(handler_id, "http"), 8)

    def turn(self, handler_id: int) -> float:
        return self.waits.pop(handler_id, 0.0)

    def wait(self, handler_id: int) -> float:
        return self.waits.get(handler_id, 0.0)

    def holds_back(self, handler_id: int) -> bool:
        return handler_id in self.held_back

    async def prepare(self, handler_ids: Iterable[int]) -> None:
        pass

    def start(self, job: Waiting, run: Run) -> None:
        handler = job.delivery.handler_id
        self.beside_alone += handler in self.alone_now
        if job.delivery.id in self.alone:
            self.alone_now[handler] = job.delivery.id
            run.alone(True)
        task = asyncio.create_task(self.attempt(job, run))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def cut_waiting(self) -> None:
        self.cut_off()

    def cut_off(self) -> None:
        for task in self.tasks:
            task.cancel()

    async def attempt(self, job: Waiting, run: Run) -> None:
        handler = job.delivery.handler_id
        self.started.append(job.delivery.id)
        if len(self.started) >= self.expected:
            self.done.set()
        self.now_running[handler] = self.now_running.get(handler, 0) + 1
        self.most_running[handler] = max(self.most_running.get(handler, 0), self.now_running[handler])
        try:
            if handler in self.rests:
                run.rest()
                await self.rests[handler].wait()
                self.is_resuming = True
                await run.resume()
                self.resumed.append(handler)
            if handler in self.hold:
                await self.hold[handler].wait()
            else:
                await asyncio.sleep(0)
        finally:
            self.now_running[handler] -= 1
            if self.alone_now.get(handler) == job.delivery.id:
                del self.alone_now[handler]
            run.came_back(ANSWERED if self.answers else UNANSWERED)
        due_at: int | None = None
        try:
            due_at = await self.settling(job)
        finally:
            run.settled(due_at)

    async def delivered(self, job: Waiting) -> None:
        delivery = replace(job.delivery, status=Status.DELIVERED, attempt_count=job.delivery.attempt_count + 1)
        await settled(self.store, Settlement(delivery, Attempt(delivery.id, delivery.attempt_count, 1, 1, "delivered", Reason.OK), 1))

    async def until(self, count: int) -> None:
        self.expected = count
        self.done.clear()
        if len(self.started) < count:
            await asyncio.wait_for(self.done.wait(), 20)


async def accept(store: SqlStore, *handlers: int, due_at: int | None = None) -> list[Waiting]:
    """Accept one notification to these handlers, due now unless told; its deliveries as they would be handed over."""
    now = clock.now()
    [kept] = await store.intake.accept(accepting(*handlers, at=now, due_at=due_at or now))
    return [Waiting(delivery, kept.notification) for delivery in kept.deliveries]


PLENTY = Bounds(places=3000, size=48 << 20, untrusted=1200, silent=600)


def scenario(open_store: OpenStore, body: Callable[[SqlStore, LocalEngine, Worker], Awaitable[None]], bounds: Bounds = PLENTY) -> None:
    async def main() -> None:
        async with open_store() as store:
            engine = LocalEngine(store.queue, {"http": bounds})
            worker = Worker(store)
            try:
                await body(store, engine, worker)
            finally:
                for event in worker.hold.values():
                    event.set()
                await engine.stop(5)

    run(main())


def test_what_has_expired_is_handed_to_the_worker_though_its_handler_waits(open_store: OpenStore) -> None:
    """The worker ends it. Order, places and what is not in memory yet do not matter."""

    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handler = await add_handler(store)
        worker.waits = dict.fromkeys([handler], 3600.0)
        worker.turn = lambda handler_id: worker.waits.get(handler_id, 0.0)  # type: ignore[method-assign]
        count = refill_module.MAX_IN_LANE + 10
        now = clock.now()
        planned = [replace(plan, expires_at=now + SECOND) for plan in accepting(handler, at=now).planned for _ in range(count)]
        expiring = await store.intake.accept(replace(accepting(handler, at=now), planned=planned))
        [lasting] = await accept(store, handler)
        await engine.start(worker)
        await worker.until(count)
        assert sorted(worker.started) == [delivery.id for kept in expiring for delivery in kept.deliveries]
        assert lasting.delivery.id not in worker.started
        await asyncio.wait_for(_settled(engine), 20)
        assert engine.under_way == 0

    scenario(open_store, body)


def test_what_has_expired_is_bounded_as_what_starts_is(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be kept is held in memory."""
    monkeypatch.setattr(pump_module, "MAX_RUNNING", 30)
    monkeypatch.setattr(pump_module, "MAX_STARTS", 20)
    monkeypatch.setattr(pump_module, "EXPIRED_SECONDS", 0.01)

    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        free, held = await add_handler(store), await add_handler(store)
        worker.turn = lambda _: 3600.0  # type: ignore[method-assign]
        worker.held_back = {held}
        unkept = asyncio.Event()

        async def settling(job: Waiting) -> None:
            await unkept.wait()
            await worker.delivered(job)

        worker.settling = settling
        now = clock.now()
        for handler in (free, held):
            planned = [replace(plan, expires_at=now) for plan in accepting(handler, at=now).planned for _ in range(50)]
            await store.intake.accept(replace(accepting(handler, at=now), planned=planned))
        await engine.start(worker)
        await worker.until(30)
        await asyncio.sleep(0.1)
        assert len(worker.started) == 30
        unkept.set()
        await worker.until(50)
        await asyncio.wait_for(_settled(engine), 20)
        assert len(worker.started) == 50
        worker.held_back.clear()
        await worker.until(100)

    scenario(open_store, body)


async def _settled(engine: LocalEngine) -> None:
    while engine.running:
        await asyncio.sleep(0.01)


def test_what_waits_at_the_start_is_picked_up_once_and_in_order(open_store: OpenStore) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handler = await add_handler(store)
        ids = [job.delivery.id for _ in range(1000) for job in await accept(store, handler)]
        await engine.start(worker)
        await worker.until(1000)
        assert worker.started == ids
        assert worker.most_running[handler] <= 8

    scenario(open_store, body)


def test_fresh_ones_are_started_in_order_even_past_what_memory_holds(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refill_module, "MAX_IN_LANE", 16)

    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handler = await add_handler(store)
        await engine.start(worker)
        ids: list[int] = []
        for _ in range(300):
            jobs = await accept(store, handler)
            ids.extend(job.delivery.id for job in jobs)
            engine.hand_over(jobs)
            assert engine.in_memory <= 17
        await worker.until(300)
        assert worker.started == ids

    scenario(open_store, body)


def test_a_handler_that_hangs_holds_up_nobody(open_store: OpenStore) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        sick, well = await add_handler(store), await add_handler(store)
        worker.hold[sick] = asyncio.Event()
        await engine.start(worker)
        engine.hand_over([job for _ in range(50) for job in await accept(store, sick)])
        healthy = [job for _ in range(50) for job in await accept(store, well)]
        engine.hand_over(healthy)
        await worker.until(50 + 2)
        assert {job.delivery.id for job in healthy} <= set(worker.started)
        assert worker.most_running[sick] == 2

    scenario(open_store, body)


def test_where_slowness_counts_a_handler_that_is_not_known_has_one_attempt(open_store: OpenStore) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        new, other = await add_handler(store), await add_handler(store)
        worker.hold[new] = asyncio.Event()
        await engine.start(worker)
        engine.hand_over([job for _ in range(5) for job in await accept(store, new)])
        engine.hand_over(await accept(store, other))
        await worker.until(1 + 1)
        assert worker.most_running[new] == 1
        worker.hold[new].set()
        await worker.until(5 + 1)

    scenario(open_store, body, mail_bounds(8))


def test_a_slow_mailbox_that_becomes_a_webhook_goes_on_sending(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            engine, worker = LocalEngine(store.queue, {"mail": replace(mail_bounds(8), slow_seconds=-1.0), "http": PLENTY}), Worker(store)
            handler = await add_handler(store)
            worker.wires[handler] = "mail"
            await engine.start(worker)
            for wire in ("mail", "http"):
                worker.wires[handler] = wire
                engine.hand_over(await accept(store, handler))
                await worker.until(1 if wire == "mail" else 2)
                while engine.running:
                    await asyncio.sleep(0)
            await engine.stop(5)

    run(main())


def test_the_handlers_that_waited_first_get_their_turns_while_others_come(open_store: OpenStore) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handlers = [await add_handler(store) for _ in range(80)]
        for handler in handlers:
            worker.hold[handler] = asyncio.Event()
        await engine.start(worker)
        jobs = [job for handler in handlers for job in await accept(store, handler)]
        first = {job.delivery.id for job in jobs[:30]}
        engine.hand_over(jobs[:30])
        await worker.until(1)
        inside, places = len(worker.started), engine._pump._wires["http"]
        for step in range(20):
            engine.hand_over(jobs[30 + 2 * step : 32 + 2 * step])
            engine._pump.pump()
            places.extra()
            engine._pump.place_freed(places)
            await worker.until(inside + step + 1)
        assert len(first.intersection(worker.started[inside:])) == 10

    scenario(open_store, body, Bounds(places=60, size=48 << 20, untrusted=6, silent=3, trickle_seconds=1e6))


def test_what_does_not_answer_is_remembered_without_its_lane(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_module, "MAX_IDLE", 0)
    monkeypatch.setattr(known_module, "MAX_REMEMBERED", 3)

    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handlers = [await add_handler(store) for _ in range(6)]
        worker.answers = False
        await engine.start(worker)
        for count in range(1, 4):
            engine.hand_over([job for handler in handlers for job in await accept(store, handler)])
            await worker.until(6 * count)
            while engine.running:
                await asyncio.sleep(0)
        assert not engine._lanes
        assert len(engine._lanes.remembered) == 3
        worker.hold[handlers[-1]] = asyncio.Event()
        engine.hand_over([job for _ in range(5) for job in await accept(store, handlers[-1])])
        engine.hand_over(await accept(store, handlers[0]))
        await worker.until(18 + 2)
        assert worker.most_running[handlers[-1]] == 1

    scenario(open_store, body)


@pytest.fixture(params=[0, 1000], ids=["gone", "kept"])
def empty_lanes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What becomes of a lane that is empty: it goes, or it stays for the next delivery; nobody may tell the difference."""
    monkeypatch.setattr(known_module, "MAX_IDLE", request.param)


@pytest.mark.usefixtures("empty_lanes")
def test_a_handler_that_answered_long_ago_and_hangs_now_takes_few_places(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "FORGET_SECONDS", -1.0)

    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handler, other = await add_handler(store), await add_handler(store)
        await engine.start(worker)
        engine.hand_over([job for _ in range(20) for job in await accept(store, handler)])
        await worker.until(20)
        while engine.running:
            await asyncio.sleep(0)
        worker.most_running.clear()
        worker.hold[handler] = asyncio.Event()
        engine.hand_over([job for _ in range(20) for job in await accept(store, handler)])
        engine.hand_over(await accept(store, other))
        await worker.until(20 + 2 + 1)
        assert worker.most_running[handler] == 2

    scenario(open_store, body)


@pytest.mark.usefixtures("empty_lanes")
def test_more_hanging_handlers_than_places_hold_up_nobody_who_answers(open_store: OpenStore) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        well, new = await add_handler(store), await add_handler(store)
        sick = [await add_handler(store) for _ in range(40)]
        await engine.start(worker)
        engine.hand_over(await accept(store, well))
        await worker.until(1)
        while engine.running:
            await asyncio.sleep(0)
        worker.hold.update({handler: asyncio.Event() for handler in sick})
        engine.hand_over([job for handler in sick for _ in range(3) for job in await accept(store, handler)])
        await worker.until(12)
        assert engine.running == 11  # twice what was left for others
        fine = [job for _ in range(10) for job in await accept(store, well)]
        engine.hand_over(fine)
        await worker.until(22)
        assert worker.started[12:] == [job.delivery.id for job in fine]
        # A handler that nobody knows yet waits for a place, and gets one as soon as one is free.
        engine.hand_over(await accept(store, new))
        for handler in sick:
            worker.hold[handler].set()
        await worker.until(1 + 10 + 1 + 40 * 3)
        while engine.running:
            await asyncio.sleep(0)
        assert len(set(worker.started)) == len(worker.started) == 1 + 10 + 1 + 120

    scenario(open_store, body, Bounds(places=20, size=48 << 20, untrusted=15, silent=8, trickle_seconds=3600))


def test_users_take_turns_however_many_handlers_one_has(open_store: OpenStore) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        many, few = [await add_handler(store) for _ in range(300)], await add_handler(store)
        flood = [job for handler in many for job in await accept(store, handler)]
        others = [job for _ in range(2) for job in await accept(store, few)]
        others = [Waiting(replace(job.delivery, user_id=2), job.notification) for job in others]
        await engine.start(worker)
        worker.started.clear()
        engine.forget([job.delivery.id for job in [*flood, *others]])
        engine.hand_over([*flood, *others])
        await worker.until(302)
        assert [worker.started.index(job.delivery.id) for job in others] == [1, 3]

    scenario(open_store, body)


def test_users_take_turns_in_being_read_from_the_store(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a restart: one user has hundreds of handlers with something waiting, another has one."""
    monkeypatch.setattr(refill_module, "LANES_AT_ONCE", 4)
    monkeypatch.setattr(refill_module, "READS_AT_ONCE", 1)

    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        many = [await add_handler(store) for _ in range(100)]
        for handler in many:
            await accept(store, handler)
        await store.database.write(people.add_user, "b@c", False, 1)
        few = await add_handler(store, user_id=2)
        await store.intake.accept(replace(accepting(few, at=clock.now(), due_at=clock.now()), user_id=2))
        reads: list[list[int]] = []
        due = store.queue.due

        async def noted(limits: Mapping[int, int], now: int) -> dict[int, tuple[list[Waiting], int | None]]:
            reads.append(list(limits))
            return await due(limits, now)

        monkeypatch.setattr(store.queue, "due", noted)
        await engine.start(worker)
        await worker.until(101)
        assert few in reads[0]
        assert len(reads) == 26

    scenario(open_store, body)


def test_a_message_of_many_parts_is_sent_whole_before_the_next_begins(open_store: OpenStore) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handler, other = await add_handler(store), await add_handler(store)
        jobs = [job for _ in range(6) for job in await accept(store, handler)]
        worker.alone = {jobs[2].delivery.id, jobs[3].delivery.id}
        worker.hold[handler] = asyncio.Event()
        await engine.start(worker)
        await worker.until(2)  # no more, until they are answered
        worker.hold.pop(handler).set()
        worker.hold[handler] = held = asyncio.Event()
        await worker.until(3)
        engine.hand_over(await accept(store, other))
        await worker.until(4)
        assert worker.started[:3] == [job.delivery.id for job in jobs[:3]]
        assert worker.now_running[handler] == 1
        worker.hold.pop(handler)
        held.set()
        await worker.until(7)
        assert [one for one in worker.started if one != worker.started[3]] == [job.delivery.id for job in jobs]
        assert worker.beside_alone == 0

    scenario(open_store, body)


def test_what_waits_for_its_next_turn_holds_no_place(open_store: OpenStore) -> None:
    """One place, and an attempt that gives it back: the other handler's goes out, and the first one goes on after it."""

    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        resting, other = await add_handler(store), await add_handler(store)
        worker.rests[resting] = may_go_on = asyncio.Event()
        worker.hold[other] = asyncio.Event()
        await engine.start(worker)
        engine.hand_over(await accept(store, resting))
        await worker.until(1)
        engine.hand_over(await accept(store, other))
        await worker.until(2)
        may_go_on.set()
        while not worker.is_resuming:
            await asyncio.sleep(0)
        assert worker.resumed == []  # its place is taken
        worker.hold.pop(other).set()
        while engine.running:
            await asyncio.sleep(0)
        assert worker.resumed == [resting]

    scenario(open_store, body, Bounds(places=1, size=48 << 20, untrusted=1, silent=1, trickle_seconds=3600))


def test_a_new_handler_starts_though_its_user_has_hundreds_that_hang(open_store: OpenStore) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        sick = [await add_handler(store) for _ in range(100)]
        new = await add_handler(store)
        worker.hold.update({handler: asyncio.Event() for handler in sick})
        await engine.start(worker)
        engine.hand_over([job for handler in sick for job in await accept(store, handler)])
        await worker.until(21)
        assert engine.running == 21  # twice what is left of the thirty, and no more
        fresh = await accept(store, new)
        engine.hand_over(fresh)
        for places in engine._pump._wires.values():
            engine._pump._parking.trickle(places)  # the clock has gone on
        await worker.until(22)
        assert worker.started[21] == fresh[0].delivery.id

    scenario(open_store, body, Bounds(places=100, size=48 << 20, untrusted=30, silent=15, trickle_seconds=3600))


def test_one_that_never_answers_is_tried_one_at_a_time(open_store: OpenStore) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handler = await add_handler(store)

        worker.answers = False
        await engine.start(worker)
        engine.hand_over([job for _ in range(10) for job in await accept(store, handler)])
        await worker.until(10)
        worker.most_running.clear()
        engine.hand_over([job for _ in range(10) for job in await accept(store, handler)])
        await worker.until(20)
        assert worker.most_running[handler] == 1

    scenario(open_store, body)


def test_a_retry_comes_back_when_it_is_due_and_holds_up_nobody(open_store: OpenStore) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handler = await add_handler(store)
        first, second = (await accept(store, handler))[0], (await accept(store, handler))[0]

        async def later_once(job: Waiting) -> int | None:
            if job.delivery.id != first.delivery.id or job.delivery.attempt_count:
                return await worker.delivered(job)
            due_at = clock.now() + SECOND // 5
            again = replace(job.delivery, attempt_count=1, due_at=due_at)
            await settled(store, Settlement(again, Attempt(again.id, 1, 1, 1, "later", Reason.SERVER_ERROR), 1))
            return due_at

        worker.settling = later_once
        await engine.start(worker)
        await worker.until(3)
        assert worker.started == [first.delivery.id, second.delivery.id, first.delivery.id]

    scenario(open_store, body)


def test_scheduled_ones_wait_in_the_store_until_they_are_due(open_store: OpenStore) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handler = await add_handler(store)
        await engine.start(worker)
        due_at = clock.now() + SECOND // 4
        await accept(store, *[handler] * 40, due_at=due_at)
        engine.wake(handler, 1, due_at)
        assert engine.in_memory == 0
        await worker.until(40)
        assert clock.now() >= due_at

    scenario(open_store, body)


@pytest.mark.parametrize("hours", [1, -1])
def test_when_the_clock_steps_by_an_hour_fresh_ones_go_at_once_and_others_when_it_says(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    monkeypatch.setattr(local_module, "SWEEP_SECONDS", 0.05)  # the clock is looked at so often, at least

    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handler = await add_handler(store)
        await engine.start(worker)
        real = clock.now
        later = await accept(store, handler, due_at=real() + 1800 * SECOND)
        engine.wake(handler, 1, later[0].delivery.due_at)
        monkeypatch.setattr(clock, "now", lambda: real() + hours * 3600 * SECOND)
        fresh = await accept(store, handler)
        engine.hand_over(fresh)
        if hours > 0:
            await worker.until(2)
            assert sorted(worker.started) == [later[0].delivery.id, fresh[0].delivery.id]
            return
        await worker.until(1)
        assert worker.started == [fresh[0].delivery.id]
        monkeypatch.setattr(clock, "now", lambda: real() + 1801 * SECOND)
        await worker.until(2)

    scenario(open_store, body)


def test_what_is_forgotten_is_not_started(open_store: OpenStore) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handler = await add_handler(store)
        worker.hold[handler] = asyncio.Event()
        await engine.start(worker)
        jobs = [job for _ in range(10) for job in await accept(store, handler)]
        engine.hand_over(jobs)
        await worker.until(2)
        for job in jobs[2:9]:
            await store.history.cancel(1, job.notification.id)
        engine.forget([job.delivery.id for job in jobs[2:9]])
        worker.hold.pop(handler).set()
        await worker.until(3)
        assert worker.started == [jobs[0].delivery.id, jobs[1].delivery.id, jobs[9].delivery.id]

    scenario(open_store, body)


def test_a_doubled_wake_up_changes_nothing(open_store: OpenStore) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handler = await add_handler(store)
        worker.hold[handler] = asyncio.Event()
        await engine.start(worker)
        jobs = [job for _ in range(5) for job in await accept(store, handler)]
        engine.hand_over(jobs)
        for _ in range(5):
            engine.wake(handler, 1, clock.now())
            await asyncio.sleep(0.01)
        worker.hold.pop(handler).set()
        marker = await accept(store, handler)
        engine.hand_over(marker)
        await worker.until(6)
        assert worker.started == [job.delivery.id for job in [*jobs, *marker]]

    scenario(open_store, body)


def test_a_lost_wake_up_is_found_by_the_sweep(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "SWEEP_SECONDS", 0.1)

    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handler = await add_handler(store)
        await engine.start(worker)
        jobs = await accept(store, handler)
        await worker.until(1)
        assert worker.started == [jobs[0].delivery.id]

    scenario(open_store, body)


class Gate:
    """Holds back what a refill has read until it is opened."""

    def __init__(self, store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self._due = store.queue.due
        self.reads = 0
        self.has_read = asyncio.Event()
        self.open = asyncio.Event()
        monkeypatch.setattr(store.queue, "due", self.due)

    async def due(self, limits: Mapping[int, int], now: int) -> dict[int, tuple[list[Waiting], int | None]]:
        found = await self._due(limits, now)
        self.reads += 1
        self.has_read.set()
        await self.open.wait()
        return found


async def around_a_read(store: SqlStore, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> tuple[Gate, list[Waiting]]:
    """Three deliveries that a refill has read and not yet brought, and three that came since."""
    handler = await add_handler(store)
    gate = Gate(store, monkeypatch)
    jobs = [job for _ in range(3) for job in await accept(store, handler)]
    engine.wake(handler, 1, clock.now())
    await asyncio.wait_for(gate.has_read.wait(), 20)
    return gate, [*jobs, *[job for _ in range(3) for job in await accept(store, handler)]]


def test_what_comes_during_a_refill_follows_it_without_another(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        await engine.start(worker)
        gate, jobs = await around_a_read(store, engine, monkeypatch)
        engine.hand_over(jobs[2:])  # one of them was read as well
        gate.open.set()
        await worker.until(6)
        assert worker.started == [job.delivery.id for job in jobs]
        assert gate.reads == 1

    scenario(open_store, body)


def test_what_is_forgotten_during_a_refill_is_not_started(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        await engine.start(worker)
        gate, jobs = await around_a_read(store, engine, monkeypatch)
        engine.hand_over(jobs[3:])
        for job in (jobs[1], jobs[4]):
            await store.history.cancel(1, job.notification.id)
            engine.forget([job.delivery.id])
        gate.open.set()
        await worker.until(4)
        assert worker.started == [jobs[index].delivery.id for index in (0, 2, 3, 5)]

    scenario(open_store, body)


def test_a_reading_that_fails_is_made_again_and_nothing_overtakes_it(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that cannot be read for a moment, then a fault of ours for one of the lanes that are read together."""
    monkeypatch.setattr(refill_module, "FAULT_SECONDS", 0.2)

    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handlers = [await add_handler(store) for _ in range(3)]
        waiting = [job for handler in handlers for job in await accept(store, handler)]
        failures: list[Exception] = [Busy("not now"), ValueError("of all"), ValueError("of the first alone")]
        due = store.queue.due

        async def failing(limits: Mapping[int, int], now: int) -> dict[int, tuple[list[Waiting], int | None]]:
            if failures and (len(failures) > 1 or list(limits) == handlers[:1]):
                raise failures.pop(0)
            return await due(limits, now)

        monkeypatch.setattr(store.queue, "due", failing)
        await engine.start(worker)
        while len(failures) == 3:
            await asyncio.sleep(0)
        fresh = [job for handler in handlers for job in await accept(store, handler)]
        engine.hand_over(fresh)
        await worker.until(6)
        assert failures == []
        for old, new in zip(waiting, fresh, strict=True):
            assert worker.started.index(old.delivery.id) < worker.started.index(new.delivery.id)

    scenario(open_store, body)


def test_the_sweep_leaves_lanes_at_work_alone(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        busy, idle = await add_handler(store), await add_handler(store)
        worker.hold[busy] = asyncio.Event()
        await engine.start(worker)
        gate = Gate(store, monkeypatch)
        gate.open.set()
        jobs = [job for _ in range(5) for job in await accept(store, busy)]
        engine.hand_over(jobs)
        await worker.until(2)
        lost = await accept(store, idle)
        await engine._sweep.sweep()
        await worker.until(3)
        assert worker.started[2] == lost[0].delivery.id
        assert gate.reads == 1  # the idle one's
        worker.hold.pop(busy).set()
        await worker.until(6)

    scenario(open_store, body)


def test_pacing_holds_up_its_own_handler_only(open_store: OpenStore) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        slow, quick = await add_handler(store), await add_handler(store)
        worker.waits[slow] = 0.3
        await engine.start(worker)
        first, second = (await accept(store, slow))[0], (await accept(store, quick))[0]
        engine.hand_over([first, second])
        await worker.until(2)
        assert worker.started == [second.delivery.id, first.delivery.id]

    scenario(open_store, body)


def test_stopping_lets_attempts_end_and_starts_no_more(open_store: OpenStore) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handler = await add_handler(store)
        worker.hold[handler] = asyncio.Event()
        await engine.start(worker)
        jobs = [job for _ in range(6) for job in await accept(store, handler)]
        engine.hand_over(jobs)
        await worker.until(2)
        asyncio.get_running_loop().call_later(0.1, worker.hold[handler].set)
        await engine.stop(5)
        assert worker.started == [job.delivery.id for job in jobs[:2]]
        assert (await store.queue.due({handler: Wanted(10)}, clock.now()))[handler].jobs[0].delivery.id == jobs[2].delivery.id

    scenario(open_store, body)


def test_lanes_that_wait_leave_room_for_others_when_memory_is_full(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refill_module, "MAX_IN_MEMORY", 20)

    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        throttled, well = await add_handler(store), await add_handler(store)
        worker.waits[throttled] = 3600.0
        await engine.start(worker)
        for _ in range(40):
            engine.hand_over(await accept(store, throttled))
        jobs = [job for _ in range(10) for job in await accept(store, well)]
        engine.hand_over(jobs)
        await worker.until(10)
        assert worker.started == [job.delivery.id for job in jobs]

    scenario(open_store, body)


def test_a_handler_that_is_not_prepared_is_prepared_before_its_turn(open_store: OpenStore) -> None:
    async def body(store: SqlStore, engine: LocalEngine, worker: Worker) -> None:
        handler = await add_handler(store)
        prepared: list[int] = []

        async def prepare(handler_ids: Iterable[int]) -> None:
            prepared.extend(handler_ids)

        def turn(handler_id: int) -> float:
            assert handler_id in prepared
            return 0.0

        def terms(handler_id: int) -> Terms | None:
            return Terms("http", 8) if handler_id in prepared else None

        monkey = {"prepare": prepare, "turn": turn, "terms": terms}
        for name, method in monkey.items():
            setattr(worker, name, method)
        await engine.start(worker)
        jobs = await accept(store, handler)
        engine.hand_over(jobs)
        await worker.until(1)
        assert worker.started == [jobs[0].delivery.id]

    scenario(open_store, body)


def pending(delivery_id: int, replays: int = 0) -> Delivery:
    return Delivery(delivery_id, 1, 1, 1, Status.PENDING, 1, 1, 1, replays=replays)


def test_what_was_under_way_is_known_until_it_is_dealt_with(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "in-flight")
    gone = ledger.begin(pending(7), 1, 100)
    ledger.begin(pending(8, replays=3), 2, 200)
    ledger.settled(gone)
    ledger.close()
    for _ in range(2):  # a second crash, before anything was dealt with
        again = Ledger(tmp_path / "in-flight")
        assert again.found == [UnderWay(8, 2, 3, 200)]
        again.close()
    again = Ledger(tmp_path / "in-flight")
    again.clear()
    again.close()
    assert Ledger(tmp_path / "in-flight").found == []
