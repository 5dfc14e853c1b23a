"""The engine of one process: a lane per handler, users and their lanes taken round robin; retries and scheduled work come from the
store when due.

Fresh deliveries are handed over in memory after their commit; what does not fit stays in the store, and its lane is refilled from
there in due order, so a failing handler's backlog costs neither memory nor anyone else's time.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

from tocsin.clock import SECOND, Micros
from tocsin.engine.alarm import Alarm
from tocsin.engine.claiming import Claimer, Claiming
from tocsin.engine.known import Known
from tocsin.engine.lanes import COMPLETE, IDLE, PREPARING, READING, REREAD, SPILLED, Lane, Turns
from tocsin.engine.places import Bounds, Places
from tocsin.engine.pump import Pump
from tocsin.engine.refill import Memory, Refill
from tocsin.engine.sweep import Sweep
from tocsin.ports.engine import Worker
from tocsin.ports.queue import Queue, Waiting

SWEEP_SECONDS = 30.0
READ_AGAIN: Micros = SECOND // 4  # until a lane is read again in which something turned out not to be ours to send
KEPT_SECONDS = 2.0  # for outcomes of attempts that were cut off to be stored; if the store fails, the ledger has them

Key: TypeAlias = tuple[int, int]
"""Handler id and user id."""


class LocalEngine:
    """See `tocsin.ports.engine.Engine` for what each method promises.

    `claimer`: says what this process may send, where several share the store. Then it is also told what is due, and does not sweep.
    """

    def __init__(self, queue: Queue, wires: Mapping[str, Bounds], claimer: Claimer | None = None) -> None:
        self._lanes = Known(Turns[Lane]())
        self._memory = Memory()
        self._alarm: Alarm[Key] = Alarm(self._time_came, SWEEP_SECONDS)
        self._refill = Refill(
            queue,
            self._memory,
            self._add,
            self._wake_lane,
            self._filled,
            None if claimer is None else lambda lane: claimer.owns(lane.handler_id),
        )
        places = {wire: Places(bounds, wire) for wire, bounds in wires.items()}
        self._pump = Pump(self._lanes, self._memory, places, self._refill.spilled, self._wake_lane, self._disowned)
        self._sweep = Sweep(queue, self._lanes, self.wake, self._alarm.look, SWEEP_SECONDS) if claimer is None else None
        self._claimer = claimer
        if claimer is not None:
            self._pump.claiming = Claiming(claimer, self._pump.go, self._refused)
        self._is_stopping = False
        self._has_begun = False

    async def start(self, worker: Worker) -> None:
        self._worker = worker
        self._refill.start(worker)
        self._pump.start(worker)
        self._has_begun = True
        if self._sweep is not None:
            await self._sweep.start()

    async def stop(self, grace_seconds: float) -> None:
        self._is_stopping = True
        self._alarm.stop()
        self._refill.stop()
        if self._sweep is not None:
            self._sweep.stop()
        self._pump.stop()
        if not await self._pump.is_idle_within(grace_seconds):
            self._worker.cut_off()
            await self._pump.is_idle_within(min(grace_seconds, KEPT_SECONDS))

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
        self._pump.soon()

    def wake(self, handler_id: int, user_id: int, due_at: Micros) -> None:
        if self._has_begun:
            self._alarm.set((handler_id, user_id), due_at)

    def _wake_lane(self, lane: Lane, due_at: Micros) -> None:
        self._alarm.set((lane.handler_id, lane.user_id), due_at)

    def _time_came(self, key: Key) -> None:
        if not self._is_stopping and (self._claimer is None or self._claimer.owns(key[0])):
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

    # ------------------------------------------------------------------------------- where several processes share the store

    def look(self, handler_id: int, user_id: int) -> None:
        """The store has something for this handler that may be due now."""
        self._time_came((handler_id, user_id))

    def drop(self, handler_ids: Iterable[int]) -> set[int]:
        """Nothing of these handlers is started any more. Returns those of which something is under way, or not settled."""
        busy: set[int] = set()
        for handler_id in handler_ids:
            lane = self._lanes.get(handler_id)
            if lane is not None:
                self._disowned(lane)
                if lane.known:
                    busy.add(handler_id)
        return busy

    def _disowned(self, lane: Lane) -> None:
        self._take_out(lane, {*lane.known, *(job.delivery.id for job in lane.behind)})
        self._refill.disowned(lane)
        if self._pump.claiming is not None:
            self._pump.claiming.let_go(lane)

    def _refused(self, lane: Lane) -> None:
        """Only what was claimed stays in memory; the rest is not as the store has it."""
        kept = self._pump.claiming.kept(lane) if self._pump.claiming is not None else ()
        self._take_out(lane, {job.delivery.id for job in (*lane.jobs, *lane.behind)}.difference(kept))
        self._refill.read_later(lane, READ_AGAIN)

    def handlers_with_work(self) -> Collection[int]:
        """Those that may have something in memory."""
        return self._lanes.keys()

    @property
    def claimed(self) -> int:
        """Number of deliveries that were claimed before they were sent."""
        return 0 if self._pump.claiming is None else self._pump.claiming.claimed

    @property
    def under_way(self) -> int:
        """Number of attempts that have not come back."""
        return self._pump.under_way

    # -------------------------------------------------------------------------------------------------- how it is doing

    @property
    def in_memory(self) -> int:
        return self._memory.jobs

    @property
    def running(self) -> int:
        return self._pump.running

    @property
    def is_alive(self) -> bool:
        return not self._is_stopping and (self._has_begun if self._sweep is None else self._sweep.is_alive)

    def oldest_due(self) -> Micros | None:
        waiting = [lane.jobs[0].delivery.first_due_at for lane in self._lanes.values() if lane.jobs]
        earliest = self._alarm.earliest
        return min([*waiting, *([] if earliest is None else [earliest])], default=None)

    # --------------------------------------------------------------------------------------------- what the lanes hold

    def _add(self, lane: Lane, job: Waiting) -> None:
        lane.jobs.append(job)
        lane.known.add(job.delivery.id)
        self._memory.add(job)
        if lane.state == IDLE:
            self._pump.enqueue(lane)

    def _drop(self, lane: Lane, delivery_ids: set[int]) -> None:
        self._take_out(lane, delivery_ids)
        if lane.supply == SPILLED:
            self._refill.spilled(lane)

    def _take_out(self, lane: Lane, delivery_ids: set[int]) -> None:
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

    def _filled(self, lane: Lane) -> None:
        self._pump.soon()
        if lane.is_empty:
            self._lanes.tidy(lane)
