"""The engine of one of several processes that share a store: the local engine for the partitions that this process owns.

Who owns what is agreed on in the store by beats: a worker whose beat stops is dead, and others take its partitions. This worker starts
nothing unless its own last beat is younger than what others wait before they call it dead. Each worker owns its share: it releases what is
above, and takes what nobody owns. What is due is rung for at its owner; a sweep finds what nobody rang for.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any

import structlog

from tocsin import clock, observe
from tocsin.clock import SECOND, Micros
from tocsin.engine import membership
from tocsin.engine.holdings import Holdings
from tocsin.engine.local import LocalEngine
from tocsin.engine.membership import BEAT_SECONDS, MARGIN_SECONDS, TTL_SECONDS, EgressShares, Watch
from tocsin.engine.moving import Moving
from tocsin.engine.ownership import AGAIN_SECONDS, NOBODY, Ownership, Seen
from tocsin.engine.places import Bounds
from tocsin.engine.server_clock import ServerClock, Times
from tocsin.engine.stays import Stays
from tocsin.model import Busy, Delivery
from tocsin.ports.claims import Claims
from tocsin.ports.engine import Worker
from tocsin.ports.queue import Queue, Waiting
from tocsin.ports.workers import Beat, Introduction, Load, Member, Succession, Waking, Workers

SWEEP_SECONDS = 2.0
AHEAD: Micros = 4 * SECOND  # a sweep looks so far ahead, so what is due later needs no ring
BEFORE: Micros = 10 * SECOND  # and so far back: lanes know of an older backlog, which may be long
ALL_SECONDS = 30.0  # until a sweep looks through all of it again
CLOSED_SECONDS = 0.1  # until somebody who may not start anything asks again
REJOIN_SECONDS = 5.0  # for requests on the wire to be answered before a worker that was given up for dead cuts them off and joins again
log = structlog.get_logger(__name__)


class SharedEngine:
    """See `tocsin.ports.engine.Engine` for what each method promises. A worker with the role api owns nothing: it only rings for others.

    `heard`: told of every beat's answer.
    """

    succession: Succession
    """Set before the start."""

    def __init__(
        self,
        queue: Queue,
        wires: Mapping[str, Bounds],
        workers: Workers,
        claims: Claims,
        who: Introduction,
        heard: Callable[[Beat], None] = lambda _: None,
        times: Times | None = None,
    ) -> None:
        self._local = LocalEngine(queue, wires, self)
        self._workers = workers
        self._claims = claims
        self._who = who
        self._heard = heard
        self._times = times or Times()
        self._clock = ServerClock(self._times.own, self._times.steady, self._times.follow)
        self._holdings = Holdings()
        self._moving = Moving(workers, self._local, self._holdings, self._wake, self._spawn)
        self._seen = Seen()
        self._epoch = 0  # grows whenever another worker is seen
        self._fenced_at = 0.0
        self._all_at = 0.0  # when the next sweep looks through everything
        self._deadline = 0.0
        self._beaten_at = 0.0
        self._is_rejoining = False
        self._joined = asyncio.Event()
        self._news = asyncio.Event()  # something to arrange
        self._sweep_now = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._stays = Stays(self._holdings)
        self._ownership = Ownership(workers, self._local, self._holdings, self._stays, self._sweep_now.set, self._news.set)
        self.times_fenced = 0
        """How often this worker was given up for dead by others."""

    # ------------------------------------------------------------------------------------------------- start and stop

    async def start(self, worker: Worker) -> None:
        """Join, and return once every other worker knows of this one. Raises Busy while the store cannot be reached."""
        if not self._loops:
            self._worker = self._moving.worker = worker
            self._ownership.succession = self.succession
            await self._local.start(worker)
            await self._join()
            loop = asyncio.get_running_loop()
            self._loops = [loop.create_task(one) for one in (self._beat_always(), self._arrange_always(), self._sweep_always())]
        await self._joined.wait()

    async def stop(self, grace_seconds: float) -> None:
        self._ownership.is_leaving = True
        self._ownership.stop_restoring()
        self._ownership.release(self._holdings.live)
        await self._local.stop(grace_seconds)
        ending = [*self._loops, *self._tasks]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        try:
            if self.worker_id:
                await self._ownership.hand_on()
                await self._workers.leave(self.worker_id)
        except Busy as busy:  # then others find that its beat has stopped
            log.warning("worker.left_behind", why=str(busy))
        self._deadline = 0.0

    async def _join(self) -> None:
        worker_id = await self._workers.join(self._who, self._rang)
        self._ownership.join(worker_id)
        self._watch, self._egress, self._seen = Watch(worker_id), EgressShares(self._who.egress, worker_id), Seen()
        self.succession.share_egress(0, (), False)
        log.info("worker.joined", worker=worker_id, roles=self._who.roles)

    # ------------------------------------------------------------------------------------------------ what others see

    def fence(self) -> float:
        """Seconds until this process may start anything, 0 if it may now."""
        return 0.0 if self._times.steady() < self._deadline else CLOSED_SECONDS

    def owner(self, partition: int) -> int:
        """The worker that sends for it, as far as is known; 0: nobody."""
        return self._ownership.owners.of[partition]

    def stay(self, partition: int, over: Callable[[], None]) -> Callable[[], None] | None:
        """See `tocsin.ports.workers.Partitions`, as for the next one."""
        return self._stays.begin(partition, over)

    async def owner_change(self, seconds: float) -> None:
        await self._stays.change(seconds)

    @property
    def is_leader(self) -> bool:
        """Whether this worker does what only one of them is to do."""
        return 0 in self._holdings.live and self.fence() == 0

    @property
    def is_alone(self) -> bool:
        return membership.is_alone(self.worker_id, self._seen.members)

    @property
    def members(self) -> Sequence[Member]:
        """All workers, as of the last beat."""
        return self._seen.members

    @property
    def worker_id(self) -> int:
        """This worker's; 0 while it is none."""
        return self._ownership.worker_id

    @property
    def taken_over(self) -> int:
        """How many partitions of dead workers were taken."""
        return self._ownership.taken_over

    @property
    def partitions(self) -> int:
        """How many it sends for."""
        return len(self._holdings.live)

    @property
    def claimed(self) -> int:
        """How many deliveries were claimed before they were sent."""
        return self._local.claimed

    @property
    def beat_age(self) -> float:
        """Seconds since the last beat that was answered was asked for."""
        return self._times.steady() - self._beaten_at

    @property
    def in_memory(self) -> int:
        return self._local.in_memory

    @property
    def running(self) -> int:
        return self._local.running

    @property
    def is_alive(self) -> bool:
        return self._local.is_alive and bool(self._loops) and not any(loop.done() for loop in self._loops)

    def oldest_due(self) -> Micros | None:
        return self._local.oldest_due()

    # --------------------------------------------------------------------------------------------------- what comes in

    def hand_over(self, jobs: Sequence[Waiting]) -> None:
        """Only a worker that is alone knows that it has read everything that was accepted before these."""
        mine: list[Waiting] = []
        wakings: dict[tuple[int, int], Waking] = {}
        for job in jobs:
            delivery = job.delivery
            partition, handler_id = delivery.partition, delivery.handler_id
            if partition in self._holdings.complete and self._holdings.homes.setdefault(handler_id, partition) == partition:
                mine.append(job)
            elif (handler_id, partition) not in wakings:
                wakings[handler_id, partition] = Waking(partition, handler_id, delivery.user_id)
        if mine:
            self._local.hand_over(mine)
        if wakings:
            self._wake(wakings.values())

    def wake(self, handler_id: int, user_id: int, due_at: Micros) -> None:
        if due_at > clock.now() + AHEAD or not self._loops:
            return
        if self._holdings.owns(handler_id):
            self._local.wake(handler_id, user_id, due_at)
        else:
            self._spawn(self._find(handler_id, user_id))

    async def _find(self, handler_id: int, user_id: int) -> None:
        """Wake a handler whose partition may not be in memory. If that fails, the sweep finds it."""
        await self._worker.prepare([handler_id])
        terms = self._worker.terms(handler_id)
        if terms is not None and terms.partition is not None:
            self._wake([Waking(terms.partition, handler_id, user_id)])

    def _wake(self, wakings: Iterable[Waking]) -> None:
        """Look into the store for what is ours, ring for what is others'."""
        others: dict[int, list[Waking]] = {}
        for waking in wakings:
            if waking.partition in self._holdings.live:
                self._look(waking)
            elif (owner := self.owner(waking.partition)) not in {0, self.worker_id}:
                others.setdefault(owner, []).append(waking)
        if others:
            self._workers.ring(others)

    def _rang(self, wakings: Sequence[Waking]) -> None:
        for waking in wakings:
            if waking.partition in self._holdings.live:
                self._look(waking)

    def _look(self, waking: Waking) -> None:
        if self._moving.is_at_home(waking.handler_id, waking.partition):
            self._local.look(waking.handler_id, waking.user_id)

    def forget(self, delivery_ids: Iterable[int]) -> None:
        self._local.forget(delivery_ids)

    def forget_handler(self, handler_id: int) -> None:
        self._local.forget_handler(handler_id)

    # -------------------------------------------------------------------------------------- what the local engine asks

    def owns(self, handler_id: int) -> bool:
        return handler_id not in self._moving.handlers and self._holdings.owns(handler_id)

    async def claim(self, deliveries: Sequence[Delivery]) -> Collection[int]:
        """See `tocsin.engine.claiming.Claimer`."""
        worker_id = self.worker_id
        mine = [one for one in deliveries if self._moving.is_at_home(one.handler_id, one.partition) and self.owns(one.handler_id)]
        if not mine or self.fence() > 0:
            return ()
        may = await self._claims.claim(worker_id, clock.now(), mine)
        if worker_id != self.worker_id:
            return ()
        if may is None:
            self._fenced()
            return ()
        return may

    def settled(self, handler_id: int) -> None:
        self._moving.settled(handler_id)
        if self._holdings.settled(handler_id):
            self._news.set()

    # ---------------------------------------------------------------------------------------------------------- beats

    async def _beat_always(self) -> None:
        while True:
            began = self._times.steady()
            await self._beat()
            await asyncio.sleep(max(0.0, began + BEAT_SECONDS - self._times.steady()))

    async def _beat(self) -> None:
        """One beat; what it shows is acted on at once, since the next one says that it was seen."""
        worker_id, asked_at = self.worker_id, self._times.steady()
        try:
            if self._is_rejoining:
                await self._rejoin()
                return
            seen = max([one.id for one in self._seen.members], default=0)
            beat = await self._workers.beat(worker_id, seen, self._load(), self._ownership.is_leaving)
        except Busy as busy:
            self._watch.lost_sight()
            observe.seldom(log.error, "worker.beat_waits", why=str(busy))
            return
        except Exception as error:  # noqa: BLE001  # without beats this worker is dead
            self._watch.lost_sight()
            observe.seldom(log.error, "worker.beat_failed", exc_info=error)
            return
        if worker_id != self.worker_id or self._is_rejoining:
            return
        if beat is None:
            self._fenced()
            return
        self._answered(beat, asked_at)

    def _answered(self, beat: Beat, asked_at: float) -> None:
        now, members = self._times.steady(), beat.members
        self._clock.heard(beat.now, now - asked_at)
        self._beaten_at = asked_at
        may_own = self._joined.is_set() or membership.knows_all_of(self.worker_id, members)
        self._seen = Seen(members, self._watch.look(members, asked_at, now), beat.owners_version, may_own)
        if not self.is_alone:
            self._epoch += 1
            self._holdings.complete.clear()
        owners = self._ownership.owners
        self.succession.share_egress(*self._egress.shares(members, owners if owners.version == beat.owners_version else NOBODY))
        if may_own:
            self._joined.set()
            self._deadline = asked_at + TTL_SECONDS - MARGIN_SECONDS
        self._news.set()
        self._heard(beat)

    def _load(self) -> Load:
        return Load(
            in_memory=self._local.in_memory,
            in_flight=self._local.running,
            oldest_due=self._local.oldest_due(),
            clock_ahead=-self._clock.behind,
            egress=self.succession.egress_used(),
            restored=0 if self._holdings.taken else self._ownership.owners.version,
        )

    # ---------------------------------------------------------------------------------------------------- being fenced

    def _fenced(self) -> None:
        """Others took this worker for dead and own what it owned. It starts nothing until nothing of its former life is under way."""
        if self._is_rejoining:
            return
        self.times_fenced += 1
        self._is_rejoining, self._deadline, self._fenced_at = True, 0.0, self._times.steady()
        self._joined = asyncio.Event()
        log.error("worker.fenced", worker=self.worker_id)
        self._ownership.lost()
        self._moving.handlers.clear()
        self._worker.cut_waiting()
        self.succession.drop()

    async def _rejoin(self) -> None:
        """Further parts of what is on the wire would go out beside the new owner's, so they must end first."""
        if self._local.under_way:
            if self._times.steady() - self._fenced_at > REJOIN_SECONDS:
                self._worker.cut_off()
            else:
                self._worker.cut_waiting()
            return
        if not self._ownership.is_leaving:
            await self._join()
            self._is_rejoining = False

    # ------------------------------------------------------------------------------------------- who owns which partition

    async def _arrange_always(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                if not self._is_rejoining:
                    await self._ownership.arrange(self._seen)
            except Busy as busy:
                observe.seldom(log.error, "worker.arrange_waits", why=str(busy))
                await asyncio.sleep(AGAIN_SECONDS)
                self._news.set()
            except Exception as error:  # noqa: BLE001  # the next beat tries again
                observe.seldom(log.error, "worker.arrange_failed", exc_info=error)

    # ---------------------------------------------------------------------------------------------------------- sweeps

    async def _sweep_always(self) -> None:
        while True:
            try:
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._sweep_now.wait()
            except TimeoutError:
                pass
            self._sweep_now.clear()
            try:
                await self._sweep()
            except Busy as busy:
                observe.seldom(log.error, "engine.sweep_waits", why=str(busy))
                await asyncio.sleep(AGAIN_SECONDS)
            except Exception as error:  # noqa: BLE001  # without sweeps, lost rings would wait for ever
                observe.seldom(log.error, "engine.sweep_failed", exc_info=error)

    async def _sweep(self) -> None:
        """Wake what is due and nobody rang for."""
        worker_id, epoch, holdings, now = self.worker_id, self._epoch, self._holdings, self._times.steady()
        is_alone = self.is_alone and self._joined.is_set()
        if now >= self._all_at or (is_alone and not holdings.live <= holdings.complete):
            holdings.unswept, self._all_at = set(holdings.live), now + ALL_SECONDS
        wholly, rest = holdings.unswept & holdings.live, holdings.live - holdings.unswept
        found = [*await self._workers.due_in(wholly, clock.now() + AHEAD)] if wholly else []
        if rest:
            found += await self._workers.due_in(rest, clock.now() + AHEAD, clock.now() - BEFORE)
        if worker_id != self.worker_id:
            return
        holdings.unswept -= wholly
        for due in found:
            if due.partition not in self._holdings.live:
                continue
            if due.home != due.partition:
                self._moving.move(due.handler_id, due.partition)
            elif not self._moving.is_at_home(due.handler_id, due.partition):
                continue
            elif due.due_at <= clock.now():
                self._local.look(due.handler_id, due.user_id)
            else:
                self._local.wake(due.handler_id, due.user_id, due.due_at)
        if is_alone and epoch == self._epoch:
            holdings.complete |= wholly & holdings.live

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Busy as busy:
            observe.seldom(log.warning, "worker.waits", why=str(busy))
        except Exception as error:  # noqa: BLE001  # the next sweep tries again
            observe.seldom(log.error, "worker.failed", exc_info=error)
