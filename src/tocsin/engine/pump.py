"""Starts what may start, lanes taking turns, and hears from each attempt when it came back and when it was settled.

A lane that may start nothing now says in its `state` what it waits for; whatever ends that wait puts it into the ring again. The worker
starts an attempt and returns at once, so what has to happen before an attempt goes out is the worker's.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from tocsin import clock
from tocsin.clock import Micros
from tocsin.engine.claiming import Claiming
from tocsin.engine.known import UNANSWERED_FOR_ONE_AT_A_TIME, Known, cautious
from tocsin.engine.lanes import (
    BUSY,
    IDLE,
    NEW,
    PACED,
    PARKED,
    QUEUED,
    READING,
    REREAD,
    SILENT,
    SLOW,
    SPILLED,
    TRUSTED,
    Lane,
    size_of,
)
from tocsin.engine.parking import Parking
from tocsin.engine.places import Places, let_go
from tocsin.engine.refill import Memory
from tocsin.engine.run import LocalRun
from tocsin.engine.window import Window
from tocsin.ports.engine import ANSWERED, STRAINED, UNANSWERED, UNKNOWN, UNTRIED, Terms, Worker
from tocsin.ports.queue import Waiting

MAX_RUNNING = 4096  # attempts that are not settled yet, except those that wait for their next part's turn
MAX_STARTS = 200  # attempts started in one go, before the event loop serves others
MAX_TURNS = 2000  # turns of lanes in one go, most of which may have to wait for a shared pace
EXPIRED_SECONDS = 1.0  # between two looks at what has expired
MAX_PACED_SECONDS = 30.0  # until a lane that waits for its pace asks again: its handler may have been edited
FORGET_SECONDS = 300.0  # without an attempt; after that, what a handler could take says little about what it can take now (RFC 7661 4.4)


class Pump:
    """`spilled` is told of a lane that has room for more of what is in the store, `wake` when a delivery of a lane is due again,
    `disowned` of one that another process sends for."""

    def __init__(
        self,
        lanes: Known,
        memory: Memory,
        wires: Mapping[str, Places],
        spilled: Callable[[Lane], None],
        wake: Callable[[Lane, Micros], None],
        disowned: Callable[[Lane], None],
    ) -> None:
        self._lanes = lanes
        self._ring = lanes.ring
        self._memory = memory
        self._wires = wires
        self._spilled = spilled
        self._wake = wake
        self._disowned = disowned
        self._parking = Parking(wires, self.go)
        self.running = 0  # attempts that are not settled yet
        self.resting = 0  # those of them that hold no place
        self._idle = asyncio.Event()  # used while stopping
        self.claiming: Claiming | None = None  # where several processes share the store
        self._is_stopped = False
        self._is_due = False
        self._is_held = False  # nothing more may start because too many attempts are not settled yet

    def start(self, worker: Worker) -> None:
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._loop.call_later(EXPIRED_SECONDS, self._look_at_expired)

    def stop(self) -> None:
        """Start nothing more."""
        self._is_stopped = True
        self._parking.stop()

    async def is_idle_within(self, seconds: float) -> bool:
        """Whether every attempt is settled by then."""
        if self.running:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), seconds)
        return self.running == 0

    # ---------------------------------------------------------------------------------------------------- taking turns

    def enqueue(self, lane: Lane) -> None:
        """The lane wants a turn."""
        lane.state = QUEUED
        assert lane.own is not None  # noqa: S101
        self._ring.put(lane.own, lane)

    def go(self, lane: Lane) -> None:
        """What the lane waited for is there."""
        self.enqueue(lane)
        self.soon()

    def soon(self) -> None:
        """Many starts in one go cost less than one after every answer, and clients waiting for their commit are told first."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self.pump)

    def pump(self) -> None:
        """Start whatever may start: one job of each lane in turn."""
        self._is_due = self._is_held = False
        starts = turns = 0
        while not self._is_stopped:
            if self.running - self.resting >= MAX_RUNNING:
                self._is_held = True
                break
            if starts == MAX_STARTS or turns == MAX_TURNS:
                self.soon()
                break
            lane = self._ring.take()
            if lane is None:
                break
            turns += 1
            if self._take_turn(lane):
                starts += 1
            elif lane.state != PARKED:
                self._parking.pass_on(lane)

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
            self._parking.park(lane, places, holding)
            return False
        if self.claiming is not None and not self._may_send(self.claiming, lane, terms):
            return False
        wait = worker.turn(handler_id)
        if wait > 0:
            self._wait_for_pace(lane, wait)
            return False
        places.take(lane, holding, size)
        job = lane.jobs.popleft()
        run = LocalRun(self, lane, job.delivery.id, places, holding, size, lane.trust, time.monotonic(), lane.sending + 1)
        if lane.jobs:
            self.enqueue(lane)
        else:
            lane.state = IDLE
        self._start(job, run)
        return True

    def _wait_for_pace(self, lane: Lane, wait: float) -> None:
        lane.state = PACED
        self._loop.call_later(min(wait, MAX_PACED_SECONDS), self.go, lane)

    def _may_send(self, claiming: Claiming, lane: Lane, terms: Terms) -> bool:
        """Whether the lane's next delivery is this process's to send."""
        if not claiming.claimer.owns(lane.handler_id):
            self._disowned(lane)
            lane.state = IDLE
        elif claiming.has(lane):
            return True
        elif (wait := self._worker.wait(lane.handler_id)) > 0:
            self._wait_for_pace(lane, wait)
        else:
            claiming.ask(lane, 1 if terms.is_paced else min(lane.window.limit, terms.in_flight) - lane.sending)
        return False

    def _start(self, job: Waiting, run: LocalRun) -> None:
        lane = run.lane
        self._memory.remove(job)
        if self.claiming is not None:
            self.claiming.began(lane, job.delivery.id)
        if lane.supply == SPILLED and self._memory.is_low(lane):
            self._spilled(lane)
        if lane.sending == 0 and run.started - lane.ended_at > FORGET_SECONDS and lane.ended_at:
            lane.window = cautious(lane)
        lane.sending += 1
        self.running += 1
        self._worker.start(job, run)

    def _look_at_expired(self) -> None:
        if not self._is_stopped:
            is_more = self._memory.expiring > 0 and self._end_expired() == MAX_STARTS
            self._loop.call_later(0.0 if is_more else EXPIRED_SECONDS, self._look_at_expired)

    def _end_expired(self) -> int:
        """What has expired is handed to the worker, which ends it: some at a time, and how many. They need neither a turn nor a place, for
        which they could wait a day; but what comes of them must be kept, as of any other."""
        now, ended = clock.now(), 0
        for lane in list(self._lanes.values()):
            most = min(MAX_STARTS - ended, MAX_RUNNING - self.running)
            if most <= 0:
                break
            expired = [job for job in lane.jobs if job.has_expired(now)][:most]
            if not expired or self._worker.holds_back(lane.handler_id):
                continue
            if self.claiming is not None and not self.claiming.claimer.owns(lane.handler_id):
                self._disowned(lane)
                continue
            self._end(lane, expired)
            ended += len(expired)
        return ended

    def _end(self, lane: Lane, expired: Sequence[Waiting]) -> None:
        gone = {job.delivery.id for job in expired}
        lane.jobs = deque(job for job in lane.jobs if job.delivery.id not in gone)
        places = self._wires[(self._worker.terms(lane.handler_id) or UNKNOWN).wire]
        holding, started = places.holding(lane.user_id), time.monotonic()
        for job in expired:
            self.resting += 1
            self._start(job, LocalRun(self, lane, job.delivery.id, places, holding, size_of(job), lane.trust, started, 1, has_place=False))

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
                let_go(lane)
                self.go(lane)

    def settled(self, lane: Lane, delivery_id: int, due_at: Micros | None) -> None:
        self.running -= 1
        lane.known.discard(delivery_id)
        if lane.supply in {READING, REREAD}:
            lane.dropped.add(delivery_id)
        if due_at is not None:
            self._wake(lane, due_at)
        if lane.is_empty:
            self._lanes.tidy(lane)
        if self._is_held:
            self.soon()
        if self.claiming is not None and len(lane.known) == len(lane.jobs):
            self.claiming.claimer.settled(lane.handler_id)
        if self.running == 0:
            self._idle.set()

    def may_go_on(self, lane: Lane) -> None:
        if lane.state == BUSY:
            self.go(lane)

    @property
    def under_way(self) -> int:
        """Attempts that have not come back."""
        return sum(places.taken for places in self._wires.values()) + self.resting

    def place_freed(self, places: Places) -> None:
        if self._is_held:
            self.soon()
        self._parking.freed(places)
