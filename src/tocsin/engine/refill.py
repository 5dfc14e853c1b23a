"""Brings work from the store into lanes: many lanes at once, users taking turns, as much as memory allows."""

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

import structlog

from tocsin import clock, observe
from tocsin.clock import SECOND, Micros
from tocsin.engine.lanes import ASKED, COMPLETE, PREPARING, READING, REREAD, SPILLED, Lane, Turns
from tocsin.model import Busy
from tocsin.ports.engine import Worker
from tocsin.ports.queue import Due, Queue, Waiting, Wanted

MAX_IN_LANE = 256  # deliveries of one handler in memory
ALWAYS_IN_LANE = 4  # deliveries that a handler may have in memory even if memory is full of others', which may wait for hours
ALWAYS_IN_LANE_OF_BYTES = 1  # the same when memory is full of text
MAX_IN_MEMORY = 10_000  # deliveries in memory
MAX_BYTES = 32 << 20  # of message text in memory
READS_AT_ONCE = 2  # of the store
# After a read, where other processes ring: a lone ring does not wait, and the busier the worker, the more rings share a read.
LINGER_SECONDS = 0.005
LANES_AT_ONCE = 64  # in one read
ROWS_AT_ONCE = 1024  # in one read, roughly
FAULT_SECONDS = 30.0  # until a lane whose reading failed is read again
log = structlog.get_logger(__name__)


class Memory:
    """How much work is in memory."""

    def __init__(self) -> None:
        self.jobs = 0
        self.expiring = 0  # those of them that expire
        self._size = 0

    def add(self, job: Waiting) -> None:
        self.jobs += 1
        self._size += len(job.notification.message.text)
        if job.notification.expires_at is not None:
            self.expiring += 1

    def remove(self, job: Waiting) -> None:
        self.jobs -= 1
        self._size -= len(job.notification.message.text)
        if job.notification.expires_at is not None:
            self.expiring -= 1

    @property
    def is_full(self) -> bool:
        """Whether lanes get only the few deliveries that each may always have."""
        return self.jobs >= MAX_IN_MEMORY or self._size >= MAX_BYTES

    @property
    def least(self) -> int:
        """How many deliveries every lane may have, however full memory is."""
        return ALWAYS_IN_LANE if self._size < MAX_BYTES else ALWAYS_IN_LANE_OF_BYTES

    def has_room(self, lane: Lane) -> bool:
        """Whether the lane may take one more delivery into memory."""
        waiting = len(lane.jobs) + len(lane.behind)
        return waiting < (self.least if self.is_full else MAX_IN_LANE)

    def is_low(self, lane: Lane) -> bool:
        """The lane has so little left that it should be read again."""
        return len(lane.jobs) <= (0 if self.is_full else MAX_IN_LANE // 4)


class Refill:
    """`add` takes a job into its lane, `wake` is told when the store has more for one, `filled` that a lane may start something.
    `is_ours`: whether this process sends for it; None: nobody else could."""

    def __init__(
        self,
        queue: Queue,
        memory: Memory,
        add: Callable[[Lane, Waiting], None],
        wake: Callable[[Lane, Micros], None],
        filled: Callable[[Lane], None],
        is_ours: Callable[[Lane], bool] | None = None,
    ) -> None:
        self._queue = queue
        self._memory = memory
        self._add = add
        self._wake = wake
        self._filled = filled
        self._is_ours = is_ours
        self._lingering = 0  # readers that wait for more rings before they read again
        self._turns: Turns[Lane] = Turns()
        self._readers: set[asyncio.Task[None]] = set()
        self._outdated: set[Lane] = set()  # of the lanes that are being read, those that have to be read again before anything is taken
        self._is_stopped = False

    def start(self, worker: Worker) -> None:
        self._worker = worker

    def stop(self) -> None:
        self._is_stopped = True
        for reader in self._readers:
            reader.cancel()

    def prepare(self, lane: Lane) -> None:
        """Have the handler read; the deliveries in `behind` follow after that."""
        if lane.supply == COMPLETE:
            lane.supply = PREPARING
            self._put(lane)

    def spilled(self, lane: Lane) -> None:
        """The store has due work for this lane that is not in memory."""
        if lane.supply == READING:
            lane.supply = REREAD
        elif lane.supply == PREPARING:
            lane.supply = ASKED
        elif lane.supply in {COMPLETE, SPILLED}:
            self._ask(lane)

    def read_later(self, lane: Lane, wait: Micros) -> None:
        """What was in memory is out of date and has been dropped: the store is asked again, after so long if nothing asks sooner."""
        if lane.supply in {COMPLETE, SPILLED}:
            lane.supply = SPILLED
            self._wake(lane, clock.now() + wait)
            return
        if lane.supply in {READING, REREAD}:
            self._outdated.add(lane)
        self.spilled(lane)

    def disowned(self, lane: Lane) -> None:
        """Another process sends for it: what is being read for it is not taken, nor anything more read."""
        if lane.supply in {READING, REREAD}:
            self._outdated.add(lane)
        elif lane.supply == SPILLED:
            lane.supply = COMPLETE  # the next one to own it looks into the store first

    def _ask(self, lane: Lane) -> None:
        if not self._memory.is_low(lane):
            lane.supply = SPILLED
        elif not self._is_stopped:
            lane.supply = ASKED
            self._put(lane)

    def _put(self, lane: Lane) -> None:
        self._turns.put(self._turns.own(lane.user_id), lane)
        if len(self._readers) < READS_AT_ONCE and not self._lingering:
            self._readers.add(asyncio.get_running_loop().create_task(self._read_all()))

    async def _read_all(self) -> None:
        """Read until no lane asks."""
        try:
            while self._turns:
                lanes: list[Lane] = []
                while len(lanes) < LANES_AT_ONCE and (lane := self._turns.take()) is not None:
                    lanes.append(lane)
                if not await self._read(lanes) and len(lanes) > 1:
                    for lane in lanes:  # the faulty one must not keep the others waiting
                        await self._read([lane])
                if self._is_ours is not None:
                    await self._linger()
        finally:
            # Not in a callback, which comes a turn of the loop later: a lane that asks in between would never be read.
            self._readers.discard(cast(asyncio.Task[None], asyncio.current_task()))

    async def _linger(self) -> None:
        self._lingering += 1
        try:
            await asyncio.sleep(LINGER_SECONDS)
        finally:
            self._lingering -= 1

    async def _read(self, lanes: Sequence[Lane]) -> bool:
        """False: an error on our side, and these lanes were not read."""
        try:
            await self._fill(lanes)
        except Busy as busy:
            observe.seldom(log.error, "engine.refill_waits", why=str(busy))
            self._give_up(lanes, SECOND)
        except Exception:
            log.exception("engine.refill_failed", handlers=[lane.handler_id for lane in lanes])
            if len(lanes) > 1:
                for lane in lanes:
                    lane.supply = ASKED
                return False
            self._give_up(lanes, int(FAULT_SECONDS * SECOND))
        return True

    def _give_up(self, lanes: Sequence[Lane], wait: Micros) -> None:
        """The store still has everything and will be asked again. Until then nothing newer may overtake it."""
        for lane in lanes:
            self._end(lane, SPILLED)
            self._wake(lane, clock.now() + wait)

    async def _fill(self, lanes: Sequence[Lane]) -> None:
        await self._worker.prepare([lane.handler_id for lane in lanes])
        asked: list[Lane] = []
        for lane in lanes:
            if lane.supply == PREPARING:
                self._take(lane, lane.behind)
                self._end(lane, COMPLETE)
            elif not self._memory.is_low(lane):
                self._end(lane, COMPLETE)
                self._ask(lane)
            else:
                lane.supply = READING
                asked.append(lane)
        if asked:
            await self._read_due(asked)

    async def _read_due(self, lanes: Sequence[Lane]) -> None:
        most = self._memory.least if self._memory.is_full else max(ALWAYS_IN_LANE, min(MAX_IN_LANE, ROWS_AT_ONCE // len(lanes)))
        wanted = {lane.handler_id: Wanted(max(1, most - len(lane.jobs)) + len(lane.known), frozenset(lane.known)) for lane in lanes}
        found = await self._queue.due(wanted, clock.now())
        for lane in lanes:
            due = found[lane.handler_id]
            is_more = due.is_more or lane.supply == REREAD
            is_ours = self._is_ours is None or self._is_ours(lane)
            if lane in self._outdated or not is_ours:
                self._outdated.discard(lane)
                due, is_more = Due([], due.next_due if is_ours else None), is_ours
            # Once some are left in the store, later ones must not overtake them.
            self._take(lane, due.jobs if is_more else [*due.jobs, *lane.behind])
            self._end(lane, SPILLED if is_more else COMPLETE)
            if due.next_due is not None:
                self._wake(lane, due.next_due)
            if is_more:
                self._ask(lane)

    def _take(self, lane: Lane, jobs: Sequence[Waiting]) -> None:
        for job in jobs:
            if job.delivery.id not in lane.known and job.delivery.id not in lane.dropped:
                self._add(lane, job)

    def _end(self, lane: Lane, supply: int) -> None:
        lane.supply = supply
        lane.behind.clear()
        lane.dropped.clear()
        self._filled(lane)
