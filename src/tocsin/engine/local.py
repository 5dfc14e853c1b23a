"""The engine of one process: a lane per handler, users and their lanes taken round robin; retries and scheduled work come from the
store when due.

Fresh deliveries are handed over in memory after their commit; what does not fit stays in the store, and its lane is refilled from
there in due order, so a sick handler's backlog costs neither memory nor anyone else's time.
"""

import asyncio
import contextlib
import heapq
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence

import structlog
from msgspec import Struct

from tocsin import observe
from tocsin.engine import Worker
from tocsin.engine.lanes import FIRST_LIMIT, Lane, Turns
from tocsin.model import SECOND, Busy, Micros
from tocsin.store import Store, Waiting

MOST_RUNNING = 2000  # attempts that are not settled yet
MOST_UNPROVEN = 1500  # of them to handlers that did not answer the last time, or never yet: however many hang, others have places left
MOST_REMEMBERED = 50_000  # handlers that answered
MOST_IDLE = 1000  # lanes that are kept though nothing is in them: making one anew for every delivery costs more
MANY_SENDING = 64  # attempts on the wire; from here on a handler has one at a time: more costs memory and gains nothing
MOST_STARTS = 200  # attempts begun in one go, before the event loop sees to others
MOST_IN_LANE = 256  # deliveries of one handler in memory
ALWAYS_IN_LANE = 4  # deliveries that a handler may have in memory however much others hold: theirs may wait for hours
MOST_IN_MEMORY = 10_000  # deliveries in memory
MOST_BYTES = 32 << 20  # of message text in memory
REFILLS_AT_ONCE = 2  # reads of the store at the same time
SWEEP_SECONDS = 30.0
UNANSWERED_FOR_ONE_AT_A_TIME = 3  # attempts without any answer in a row
log = structlog.get_logger(__name__)


class _Run(Struct, gc=False):
    """See `tocsin.engine.Run`."""

    engine: "LocalEngine"
    lane: Lane
    delivery_id: int

    def came_back(self, answered: bool) -> None:
        self.engine.came_back(self.lane, answered)

    def settled(self, due_at: Micros | None) -> None:
        self.engine.settled(self.lane, self.delivery_id, due_at)


class LocalEngine:
    """See `tocsin.engine.Engine` for what each method promises."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lanes: dict[int, Lane] = {}
        self._ring = Turns()
        self._running = 0
        self._unproven = 0
        self._parked: deque[Lane] = deque()
        self._answered: set[int] = set()  # handlers without a lane whose last attempt was answered
        self._idle = asyncio.Event()  # of use while stopping
        self._background: set[asyncio.Task[None]] = set()
        self._due: list[tuple[Micros, int]] = []
        self._earliest: dict[int, Micros] = {}  # the entry of `_due` that counts, per handler
        self._timer: asyncio.TimerHandle | None = None
        self._to_fill: deque[int] = deque()
        self._fillers = 0
        self._sending = 0
        self._jobs = 0
        self._bytes = 0
        self._stopping = False
        self._is_pump_due = False

    async def start(self, worker: Worker) -> None:
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        await self._sweep()
        self._spawn(self._sweep_now_and_then())

    async def stop(self, grace_seconds: float) -> None:
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._background:
            task.cancel()
        if not await self._is_idle_within(grace_seconds):
            self._worker.cut_off()
            await self._is_idle_within(grace_seconds)

    async def _is_idle_within(self, seconds: float) -> bool:
        if self._running:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), seconds)
        return self._running == 0

    # --------------------------------------------------------------------------------------------------- what comes in

    def hand_over(self, jobs: Sequence[Waiting]) -> None:
        for job in jobs:
            delivery = job.delivery
            handler_id = delivery.handler_id
            lane = self._lanes.get(handler_id) or self._lane(handler_id)
            if delivery.id in lane.known:  # a refill has read it between its commit and this call
                continue
            # Once some are left in the store, later ones must not overtake them.
            waiting = len(lane.jobs) + len(lane.behind)
            has_room = waiting < ALWAYS_IN_LANE or (waiting < MOST_IN_LANE and not self._is_full)
            if lane.spilled or not has_room or not self._worker.is_prepared(handler_id):
                lane.spilled = True
                self._ask_to_fill(lane)
            elif lane.filling:
                lane.behind.append(job)
            else:
                self._add(lane, job)
        self._pump_soon()

    def wake(self, handler_id: int, due_at: Micros) -> None:
        known = self._earliest.get(handler_id)
        if known is not None and known <= due_at:
            return
        self._earliest[handler_id] = due_at
        heapq.heappush(self._due, (due_at, handler_id))
        if self._due[0] == (due_at, handler_id):
            self._set_timer()

    def forget(self, delivery_ids: Iterable[int]) -> None:
        gone = set(delivery_ids)
        for lane in self._lanes.values():
            if lane.filling or not gone.isdisjoint(lane.known):
                self._drop(lane, gone)

    def forget_handler(self, handler_id: int) -> None:
        lane = self._lanes.get(handler_id)
        if lane is not None:
            self._drop(lane, set(lane.known))

    @property
    def _is_full(self) -> bool:
        return self._jobs >= MOST_IN_MEMORY or self._bytes >= MOST_BYTES

    @property
    def _low_water(self) -> int:
        """Jobs in a lane below which it is refilled."""
        return 0 if self._is_full else MOST_IN_LANE // 4

    @property
    def in_memory(self) -> int:
        return self._jobs

    @property
    def running(self) -> int:
        return self._running

    @property
    def is_alive(self) -> bool:
        return not self._stopping and any(not task.done() for task in self._background)

    def oldest_due(self) -> Micros | None:
        waiting = [lane.jobs[0].delivery.first_due_at for lane in self._lanes.values() if lane.jobs]
        return min([*waiting, *([self._due[0][0]] if self._due else [])], default=None)

    # ------------------------------------------------------------------------------------------------------- the lanes

    def _lane(self, handler_id: int) -> Lane:
        lane = self._lanes.get(handler_id)
        if lane is None:
            lane = self._lanes[handler_id] = Lane(handler_id, handler_id in self._answered)
        return lane

    def _add(self, lane: Lane, job: Waiting) -> None:
        if lane.own is None:
            lane.own = self._ring.own(job.delivery.user_id)
        lane.jobs.append(job)
        lane.known.add(job.delivery.id)
        self._jobs += 1
        self._bytes += len(job.notification.message.text)
        self._ring.put(lane)

    def _drop(self, lane: Lane, delivery_ids: set[int]) -> None:
        kept: deque[Waiting] = deque()
        for job in lane.jobs:
            if job.delivery.id in delivery_ids:
                self._left(lane, job)
                lane.known.discard(job.delivery.id)
            else:
                kept.append(job)
        lane.jobs = kept
        if lane.filling:
            lane.dropped |= delivery_ids

    def _left(self, lane: Lane, job: Waiting) -> None:
        self._jobs -= 1
        self._bytes -= len(job.notification.message.text)
        if lane.spilled and len(lane.jobs) <= self._low_water:
            self._ask_to_fill(lane)

    def _tidy(self, lane: Lane) -> None:
        is_kept = lane.known or lane.in_ring or lane.parked or lane.waits or lane.filling or lane.spilled
        if is_kept or lane.unanswered >= UNANSWERED_FOR_ONE_AT_A_TIME:
            return
        if len(self._lanes) <= MOST_IDLE:
            lane.limit = FIRST_LIMIT
        else:
            self._lanes.pop(lane.handler_id, None)
            if not lane.proven:
                self._answered.discard(lane.handler_id)
            elif len(self._answered) < MOST_REMEMBERED:
                self._answered.add(lane.handler_id)

    # ---------------------------------------------------------------------------------------------------- taking turns

    def _pump_soon(self) -> None:
        """Many starts in one go cost less than one after every answer; and those who wait for their commit are told first."""
        if not self._is_pump_due:
            self._is_pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Start whatever may start: one job of each lane in turn."""
        self._is_pump_due = False
        worker, starts = self._worker, 0
        while self._running < MOST_RUNNING and not self._stopping:
            if starts == MOST_STARTS:
                self._pump_soon()
                break
            lane = self._ring.take()
            if lane is None:
                break
            if not lane.jobs or (lane.sending and lane.sending >= self._limit(lane)):
                continue  # it comes back when one of its attempts ends
            if not lane.proven and self._unproven >= MOST_UNPROVEN:
                lane.parked = True
                self._parked.append(lane)
                continue
            wait = worker.turn(lane.handler_id)
            if wait > 0:
                lane.waits = True
                self._loop.call_later(wait, self._turn_came, lane)
                continue
            job = lane.jobs.popleft()
            self._left(lane, job)
            lane.sending += 1
            if not lane.proven:
                lane.unproven += 1
                self._unproven += 1
            self._sending += 1
            self._running += 1
            starts += 1
            if lane.jobs:
                self._ring.put(lane)
            worker.start(job, _Run(self, lane, job.delivery.id))

    def _limit(self, lane: Lane) -> int:
        """A handler that keeps not answering is tried one delivery at a time."""
        if self._sending >= MANY_SENDING:
            return 1
        return min(lane.limit, self._worker.in_flight(lane.handler_id))

    def _turn_came(self, lane: Lane) -> None:
        lane.waits = False
        self._ring.put(lane)
        self._pump_soon()

    def came_back(self, lane: Lane, answered: bool) -> None:
        lane.sending -= 1
        self._sending -= 1
        lane.proven = answered
        if answered:
            lane.unanswered = 0
            if lane.parked:
                self._unpark(lane)
            if lane.limit < MOST_IN_LANE:
                lane.limit *= 2
        else:
            lane.unanswered += 1
            if lane.unanswered >= UNANSWERED_FOR_ONE_AT_A_TIME:
                lane.limit = 1
        if lane.jobs:
            self._ring.put(lane)
            self._pump_soon()

    def _unpark(self, lane: Lane) -> None:
        lane.parked = False
        self._ring.put(lane)
        self._pump_soon()

    def _free_place(self, lane: Lane) -> None:
        """An attempt to a handler that had not answered has ended."""
        lane.unproven -= 1
        self._unproven -= 1
        while self._parked:
            first = self._parked.popleft()
            if first.parked:  # else it was let go meanwhile
                self._unpark(first)
                return

    def settled(self, lane: Lane, delivery_id: int, due_at: Micros | None) -> None:
        self._running -= 1
        if lane.unproven:
            self._free_place(lane)
        lane.known.discard(delivery_id)
        if lane.filling:
            lane.dropped.add(delivery_id)
        if due_at is not None:
            self.wake(lane.handler_id, due_at)
        if not lane.known:
            self._tidy(lane)
        if self._running == MOST_RUNNING - 1:
            self._pump_soon()
        elif self._running == 0:
            self._idle.set()

    # ------------------------------------------------------------------------------------------------- from the store

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due and not self._stopping:
            delay = max(0.0, (self._due[0][0] - observe.now()) / SECOND)
            self._timer = self._loop.call_later(min(delay, SWEEP_SECONDS), self._time_came)

    def _time_came(self) -> None:
        now = observe.now()
        while self._due and self._due[0][0] <= now:
            due_at, handler_id = heapq.heappop(self._due)
            if self._earliest.get(handler_id) == due_at:
                del self._earliest[handler_id]
                lane = self._lane(handler_id)
                lane.spilled = True
                self._ask_to_fill(lane)
        self._set_timer()

    def _ask_to_fill(self, lane: Lane) -> None:
        if lane.filling or self._stopping:
            return
        lane.filling = True
        self._to_fill.append(lane.handler_id)
        if self._fillers < REFILLS_AT_ONCE:
            self._fillers += 1
            self._spawn(self._fill())

    async def _fill(self) -> None:
        """Refill lanes, one after the other, until none asks."""
        try:
            while self._to_fill:
                lane = self._lanes[self._to_fill.popleft()]
                try:
                    await self._fill_lane(lane)
                except Busy as busy:
                    log.error("engine.refill_waits", why=str(busy))
                    self.wake(lane.handler_id, observe.now() + SECOND)
                except Exception:  # a fault of ours; the next handler's must not wait for it
                    log.exception("engine.refill_failed", handler=lane.handler_id)
                    self.wake(lane.handler_id, observe.now() + int(SWEEP_SECONDS * SECOND))
                finally:
                    lane.filling = False
                    lane.behind.clear()
                    lane.dropped.clear()
                if lane.spilled and len(lane.jobs) <= self._low_water:
                    self._ask_to_fill(lane)  # more came while this was read
                self._tidy(lane)
        finally:
            self._fillers -= 1

    async def _fill_lane(self, lane: Lane) -> None:
        if len(lane.jobs) > self._low_water:
            return
        lane.spilled = False
        limit = (ALWAYS_IN_LANE if self._is_full else MOST_IN_LANE) - len(lane.jobs) + len(lane.known)
        await self._worker.prepare([lane.handler_id])
        found, next_due = await self._store.due(lane.handler_id, observe.now(), limit)
        lane.spilled = lane.spilled or len(found) >= limit
        for job in found if lane.spilled else [*found, *lane.behind]:
            if job.delivery.id not in lane.known and job.delivery.id not in lane.dropped:
                self._add(lane, job)
        if next_due is not None:
            self.wake(lane.handler_id, next_due)
        self._pump_soon()

    async def _sweep(self) -> None:
        """Every handler that has something waiting is known to the clock, whatever went by unheard.

        What came due since the last sweep is nearly always in its lane already; if it is not, the next sweep still finds it.
        """
        since = observe.now() - int(SWEEP_SECONDS * SECOND)
        for handler_id, due_at in await self._store.waiting_handlers():
            if handler_id not in self._lanes or not since < due_at <= observe.now():
                self.wake(handler_id, due_at)

    async def _sweep_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self._sweep()
            except Busy as busy:
                log.error("engine.sweep_waits", why=str(busy))
            except Exception:  # without sweeps, whatever went by unheard would wait for the next start
                log.exception("engine.sweep_failed")
            self._set_timer()

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("engine.task_failed", exc_info=task.exception())
