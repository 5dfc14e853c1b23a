"""The engine of one process: a lane per handler, users and their lanes taken round robin; retries and scheduled work come from the
store when due.

Fresh deliveries are handed over in memory after their commit; what does not fit stays in the store, and its lane is refilled from
there in due order, so a failing handler's backlog costs neither memory nor anyone else's time.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import structlog

from tocsin import clock, observe
from tocsin.clock import SECOND, Micros
from tocsin.engine.alarm import Alarm
from tocsin.engine.known import UNANSWERED_FOR_ONE_AT_A_TIME, Known, cautious
from tocsin.engine.lanes import (
    BUSY,
    COMPLETE,
    IDLE,
    NEW,
    PACED,
    PARKED,
    PREPARING,
    QUEUED,
    READING,
    REREAD,
    SILENT,
    SLOW,
    SPILLED,
    TRUSTED,
    Holding,
    Lane,
    Turns,
    size_of,
)
from tocsin.engine.places import Bounds, Places, let_go
from tocsin.engine.refill import Memory, Refill
from tocsin.engine.run import LocalRun
from tocsin.engine.window import Window
from tocsin.model import Busy
from tocsin.ports.engine import ANSWERED, STRAINED, UNANSWERED, UNKNOWN, UNTRIED, Worker
from tocsin.ports.queue import Queue, Waiting

MAX_RUNNING = 4096  # attempts that are not settled yet, except those that wait for their next part's turn
MAX_STARTS = 200  # attempts started in one go, before the event loop serves others
MAX_TURNS = 2000  # turns of lanes in one go, most of which may have to wait for a shared pace
SWEEP_SECONDS = 30.0
KEPT_SECONDS = 2.0  # for outcomes of attempts that were cut off to be stored; if the store fails, the ledger has them
FORGET_SECONDS = 300.0  # without an attempt; after that, what a handler could take says little about what it can take now (RFC 7661 4.4)
log = structlog.get_logger(__name__)

Key: TypeAlias = tuple[int, int]
"""Handler id and user id."""


class LocalEngine:
    """See `tocsin.ports.engine.Engine` for what each method promises."""

    def __init__(self, queue: Queue, wires: Mapping[str, Bounds]) -> None:
        self._rows = queue
        self._wires = {wire: Places(bounds, wire) for wire, bounds in wires.items()}
        self._ring: Turns[Lane] = Turns()
        self._lanes = Known(self._ring)
        self._memory = Memory()
        self._alarm: Alarm[Key] = Alarm(self._time_came, SWEEP_SECONDS)
        self._refill = Refill(queue, self._memory, self._add, self._wake_lane, self._filled)
        self._running = 0
        self.resting = 0  # those of them that hold no place
        self._trickles: dict[Places, asyncio.TimerHandle] = {}
        self._idle = asyncio.Event()  # used while stopping
        self._sweeper: asyncio.Task[None] | None = None
        self._stopping = False
        self._is_pump_due = False
        self._is_held = False  # nothing more may start because too many attempts are not settled yet
        self._has_begun = False

    async def start(self, worker: Worker) -> None:
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._refill.start(worker)
        self._has_begun = True
        await self._sweep()
        self._sweeper = self._loop.create_task(self._sweep_now_and_then())

    async def stop(self, grace_seconds: float) -> None:
        self._stopping = True
        self._alarm.stop()
        self._refill.stop()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for timer in self._trickles.values():
            timer.cancel()
        if not await self._is_idle_within(grace_seconds):
            self._worker.cut_off()
            await self._is_idle_within(min(grace_seconds, KEPT_SECONDS))

    async def _is_idle_within(self, seconds: float) -> bool:
        if self._running:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), seconds)
        return self._running == 0

    # --------------------------------------------------------------------------------------------------- what comes in

    def hand_over(self, jobs: Sequence[Waiting]) -> None:
        if not self._has_begun:  # `start` will find them in the store
            return
        worker, has_room = self._worker, self._memory.has_room
        for job in jobs:
            delivery = job.delivery
            lane = self._lanes.get(delivery.handler_id) or self._lanes.lane(delivery.handler_id, delivery.user_id)
            if delivery.id in lane.known:  # a refill has read it between its commit and this call
                continue
            supply = lane.supply
            if supply not in {COMPLETE, PREPARING, READING} or not has_room(lane):
                self._refill.spilled(lane)
            elif supply == COMPLETE and worker.terms(delivery.handler_id) is not None:
                self._add(lane, job)
            else:
                lane.behind.append(job)
                self._refill.prepare(lane)
        self._pump_soon()

    def wake(self, handler_id: int, user_id: int, due_at: Micros) -> None:
        if self._has_begun:
            self._alarm.set((handler_id, user_id), due_at)

    def _wake_lane(self, lane: Lane, due_at: Micros) -> None:
        self._alarm.set((lane.handler_id, lane.user_id), due_at)

    def _time_came(self, key: Key) -> None:
        if not self._stopping:
            self._refill.spilled(self._lanes.lane(*key))

    def forget(self, delivery_ids: Iterable[int]) -> None:
        gone = set(delivery_ids)
        for lane in self._lanes.values():
            if lane.supply not in {COMPLETE, SPILLED} or not gone.isdisjoint(lane.known):
                self._drop(lane, gone)

    def forget_handler(self, handler_id: int) -> None:
        lane = self._lanes.get(handler_id)
        if lane is not None:
            self._drop(lane, {*lane.known, *(job.delivery.id for job in lane.behind)})

    @property
    def in_memory(self) -> int:
        return self._memory.jobs

    @property
    def running(self) -> int:
        return self._running

    @property
    def is_alive(self) -> bool:
        return not self._stopping and self._sweeper is not None and not self._sweeper.done()

    def oldest_due(self) -> Micros | None:
        waiting = [lane.jobs[0].delivery.first_due_at for lane in self._lanes.values() if lane.jobs]
        earliest = self._alarm.earliest
        return min([*waiting, *([] if earliest is None else [earliest])], default=None)

    # ------------------------------------------------------------------------------------------------------- the lanes

    def _add(self, lane: Lane, job: Waiting) -> None:
        lane.jobs.append(job)
        lane.known.add(job.delivery.id)
        self._memory.add(job)
        if lane.state == IDLE:
            self._queue(lane)

    def _queue(self, lane: Lane) -> None:
        """The lane wants a turn."""
        lane.state = QUEUED
        assert lane.own is not None  # noqa: S101
        self._ring.put(lane.own, lane)

    def _drop(self, lane: Lane, delivery_ids: set[int]) -> None:
        kept: deque[Waiting] = deque()
        for job in lane.jobs:
            if job.delivery.id in delivery_ids:
                self._memory.remove(job)
                lane.known.discard(job.delivery.id)
            else:
                kept.append(job)
        lane.jobs = kept
        lane.behind = [job for job in lane.behind if job.delivery.id not in delivery_ids]
        if lane.supply in {READING, REREAD}:
            lane.dropped |= delivery_ids
        elif lane.supply == SPILLED:
            self._refill.spilled(lane)

    def _filled(self, lane: Lane) -> None:
        self._pump_soon()
        if lane.is_empty:
            self._lanes.tidy(lane)

    # ---------------------------------------------------------------------------------------------------- taking turns

    def _pump_soon(self) -> None:
        """Many starts in one go cost less than one after every answer, and clients waiting for their commit are told first."""
        if not self._is_pump_due:
            self._is_pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Start whatever may start: one job of each lane in turn."""
        self._is_pump_due = self._is_held = False
        starts = turns = 0
        while not self._stopping:
            if self._running - self.resting >= MAX_RUNNING:
                self._is_held = True
                break
            if starts == MAX_STARTS or turns == MAX_TURNS:
                self._pump_soon()
                break
            lane = self._ring.take()
            if lane is None:
                break
            turns += 1
            if self._take_turn(lane):
                starts += 1
            elif lane.state != PARKED:
                self._pass_on(lane)

    def _take_turn(self, lane: Lane) -> bool:
        """Whether it started a job. If not, `state` says what it waits for."""
        if not lane.jobs:
            lane.state = IDLE
            if lane.is_empty:
                self._lanes.tidy(lane)
            return False
        worker, handler_id = self._worker, lane.handler_id
        if lane.alone:
            lane.state = BUSY  # until the one that is sent alone ends
            return False
        terms = worker.terms(handler_id) or UNKNOWN
        if lane.sending and lane.sending >= min(lane.window.limit, terms.in_flight):
            lane.window.is_full = True
            lane.state = BUSY  # until one of its attempts ends
            return False
        wire, holding = terms.wire, lane.holding
        places = self._wires[wire]
        if holding is None or holding.wire != wire:
            if holding is not None:
                lane.trust, lane.window = NEW, Window()  # what was learned on the other wire does not apply here
            holding = lane.holding = places.holding(lane.user_id)
        if lane.sending and lane.trust == NEW and places.knows_slow:
            lane.state = BUSY  # until its first answer shows how long the next will take
            return False
        size = size_of(lane.jobs[0])
        if not places.admits(lane, holding, size):
            self._park(lane, places, holding)
            return False
        wait = worker.turn(handler_id)
        if wait > 0:
            lane.state = PACED
            self._loop.call_later(min(wait, SWEEP_SECONDS), self._turn_came, lane)  # meanwhile the handler may have been edited
            return False
        places.take(lane, holding, size)
        self._start(
            lane, LocalRun(self, lane, lane.jobs[0].delivery.id, places, holding, size, lane.trust, time.monotonic(), lane.sending + 1)
        )
        return True

    def _start(self, lane: Lane, run: LocalRun) -> None:
        job = lane.jobs.popleft()
        self._memory.remove(job)
        if lane.supply == SPILLED and self._memory.is_low(lane):
            self._refill.spilled(lane)
        if lane.sending == 0 and run.started - lane.ended_at > FORGET_SECONDS and lane.ended_at:
            lane.window = cautious(lane)
        lane.sending += 1
        self._running += 1
        if lane.jobs:
            self._queue(lane)
        else:
            lane.state = IDLE
        self._worker.start(job, run)

    def _turn_came(self, lane: Lane) -> None:
        self._queue(lane)
        self._pump_soon()

    # --------------------------------------------------------------------------------------------- what an attempt tells

    def came_back(self, run: LocalRun, how: int) -> None:
        lane, places, now = run.lane, run.places, time.monotonic()
        lane.sending -= 1
        lane.ended_at = now
        if run.is_alone:
            lane.alone -= 1
        if run.has_place:
            run.has_place = False
            places.give_back(run.holding, run.size, run.trust)
        else:
            self.resting -= 1
        if how == ANSWERED and run.is_measured and lane.trust == TRUSTED and not places.knows_slow:
            lane.unanswered = 0
            lane.window.answered(now - run.started, run.flying, False)
        elif how != UNTRIED:
            self._judge(lane, run, how, now - run.started)
        self.may_go_on(lane)
        if places.asking or places.first or places.returning:
            self.place_freed(places)

    def _judge(self, lane: Lane, run: LocalRun, how: int, seconds: float) -> None:
        """Learn from the attempt about its handler."""
        if how == UNANSWERED:
            lane.unanswered += 1
            trust = SILENT
            if lane.unanswered >= UNANSWERED_FOR_ONE_AT_A_TIME and lane.window.limit > 1:
                lane.window = Window(1, is_slow_start=False)
        else:
            lane.unanswered = 0
            trust = SLOW if run.is_measured and seconds > run.places.bounds.slow_seconds else TRUSTED
            if run.is_measured:
                lane.window.answered(seconds, run.flying, how == STRAINED)
        if trust != lane.trust:
            lane.trust = trust
            if lane.state == PARKED:
                self._unpark(lane)

    def settled(self, lane: Lane, delivery_id: int, due_at: Micros | None) -> None:
        self._running -= 1
        lane.known.discard(delivery_id)
        if lane.supply in {READING, REREAD}:
            lane.dropped.add(delivery_id)
        if due_at is not None:
            self._wake_lane(lane, due_at)
        if lane.is_empty:
            self._lanes.tidy(lane)
        if self._is_held:
            self._pump_soon()
        if self._running == 0:
            self._idle.set()

    def may_go_on(self, lane: Lane) -> None:
        """The lane is no longer busy."""
        if lane.state == BUSY:
            self._queue(lane)
            self._pump_soon()

    # --------------------------------------------------------------------------------------------- waiting for a place

    def _park(self, lane: Lane, places: Places, holding: Holding) -> None:
        places.park(lane, holding)
        if places not in self._trickles and not self._stopping:
            self._trickles[places] = self._loop.call_later(places.bounds.trickle_seconds, self._trickle, places)

    def _unpark(self, lane: Lane) -> None:
        let_go(lane)
        self._queue(lane)
        self._pump_soon()

    def place_freed(self, places: Places) -> None:
        if self._is_held:
            self._pump_soon()
        while places.returning:
            if places.returning.popleft()():
                return
        lane = places.next()
        if lane is not None:
            self._queue(lane)
            self._pump_soon()

    def _pass_on(self, lane: Lane) -> None:
        """The lane does not take a place now: if it was let in, the next one gets the place."""
        if lane.holding is not None:
            places = self._wires[lane.holding.wire]
            if places.asking or places.first:
                self.place_freed(places)

    def _trickle(self, places: Places) -> None:
        places.extra()
        self.place_freed(places)
        if places.asking or places.first:
            self._trickles[places] = self._loop.call_later(places.bounds.trickle_seconds, self._trickle, places)
        else:
            del self._trickles[places]

    # ------------------------------------------------------------------------------------------------------- the sweep

    async def _sweep(self) -> None:
        """Set the alarm for every handler that has something waiting, in case a wake-up was lost.

        What became due since the last sweep is nearly always in its lane already; if not, the next sweep finds it.
        """
        since = clock.now() - int(SWEEP_SECONDS * SECOND)
        for handler_id, user_id, due_at in await self._rows.waiting_handlers():
            if handler_id not in self._lanes or not since < due_at <= clock.now():
                self.wake(handler_id, user_id, due_at)

    async def _sweep_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self._sweep()
            except Busy as busy:
                observe.seldom(log.error, "engine.sweep_waits", why=str(busy))
            except Exception as error:  # noqa: BLE001  # without sweeps, lost wake-ups would wait for the next start
                observe.seldom(log.error, "engine.sweep_failed", exc_info=error)
            self._alarm.look()
