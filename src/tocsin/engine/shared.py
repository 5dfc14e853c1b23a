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
from tocsin.clock import Micros
from tocsin.engine import membership
from tocsin.engine.beating import Beating
from tocsin.engine.holdings import Holdings
from tocsin.engine.local import LocalEngine
from tocsin.engine.membership import EgressShares
from tocsin.engine.moving import Moving
from tocsin.engine.ownership import AGAIN_SECONDS, NOBODY, Ownership
from tocsin.engine.places import Bounds
from tocsin.engine.server_clock import Times
from tocsin.engine.stays import Stays
from tocsin.engine.sweeping import AHEAD, Sweeping
from tocsin.model import Busy, Delivery
from tocsin.ports.claims import Claims
from tocsin.ports.engine import Worker
from tocsin.ports.errors import StoreError
from tocsin.ports.queue import Queue, Waiting
from tocsin.ports.workers import Beat, Introduction, Load, Member, Succession, Waking, Workers

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
        times = times or Times()
        self._holdings = Holdings()
        self._stays = Stays(self._holdings)
        self._moving = Moving(workers, self._local, self._holdings, self._wake, self._spawn)
        self._sweeping = Sweeping(workers, self._local, self._holdings, self._moving, self._alone, times.steady)
        self._news = asyncio.Event()  # something to arrange
        self._ownership = Ownership(workers, self._local, self._holdings, self._stays, self._sweeping.soon, self._news.set)
        self._beating = Beating(workers, who, times, self._ownership, self, self._rang)
        self._epoch = 0  # grows whenever another worker is seen
        self._loops: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------------------------------------- start and stop

    async def start(self, worker: Worker) -> None:
        """Join, and return once every other worker knows of this one. Raises Busy while the store cannot be reached, and StoreError where
        others are of a version that differs too much."""
        if not self._loops:
            self._worker = self._moving.worker = worker
            self._ownership.succession = self.succession
            await self._local.start(worker)
            await self._beating.join()
            loop = asyncio.get_running_loop()
            self._loops = [loop.create_task(one) for one in (self._beating.always(), self._arrange_always(), self._sweeping.always())]
        await self._beating.has_joined()
        if (refusal := self._beating.refusal) is not None:
            await self.stop(0.0)
            raise StoreError(refusal)

    async def stop(self, grace_seconds: float) -> None:
        self._ownership.is_leaving = True
        self._beating.soon()  # others take what is released once they know that this worker leaves
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
        self._beating.close()

    # ------------------------------------------------------------------------------------------------ what others see

    def fence(self) -> float:
        """Seconds until this process may start anything, 0 if it may now."""
        return self._beating.fence()

    def owner(self, partition: int) -> int:
        """The worker that sends for it, as far as is known; 0: nobody."""
        return self._ownership.owners.of[partition]

    def sends_for(self, partition: int) -> bool:
        """See `tocsin.ports.workers.Partitions`, as for the next ones."""
        return partition in self._holdings.live

    def stay(self, partition: int, over: Callable[[], None]) -> Callable[[], None] | None:
        return self._stays.begin(partition, over)

    async def owner_change(self, seconds: float) -> None:
        await self._stays.change(seconds)

    @property
    def is_leader(self) -> bool:
        """Whether this worker does what only one of them is to do."""
        return 0 in self._holdings.live and self.fence() == 0

    @property
    def is_alone(self) -> bool:
        return membership.is_alone(self.worker_id, self._beating.seen.members)

    @property
    def members(self) -> Sequence[Member]:
        """All workers, as of the last beat."""
        return self._beating.seen.members

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
        return self._beating.age

    @property
    def times_fenced(self) -> int:
        """How often this worker was given up for dead by others."""
        return self._beating.times_fenced

    @property
    def refusal(self) -> str | None:
        """Why it may not be one of the workers any more, in a sentence."""
        return self._beating.refusal

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
            self._beating.fenced()
            return ()
        return may

    def settled(self, handler_id: int) -> None:
        self._moving.settled(handler_id)
        if self._holdings.settled(handler_id):
            self._news.set()

    # ------------------------------------------------------------------------------------- what beats tell: see `Living`

    def load(self) -> Load:
        return Load(
            in_memory=self._local.in_memory,
            in_flight=self._local.running,
            oldest_due=self._local.oldest_due(),
            clock_ahead=self._beating.clock_ahead,
            egress=self.succession.egress_used(),
            restored=0 if self._holdings.taken else self._ownership.owners.version,
        )

    def joined(self) -> None:
        self._egress = EgressShares(self._who.egress, self.worker_id)
        self.succession.share_egress(0, (), False)

    def saw(self, beat: Beat) -> None:
        if not self.is_alone:
            self._epoch += 1
            self._holdings.complete.clear()
        owners = self._ownership.owners
        self.succession.share_egress(*self._egress.shares(beat.members, owners if owners.version == beat.owners_version else NOBODY))
        self._news.set()
        self._heard(beat)

    def _alone(self) -> int | None:
        """While no other worker is seen, the same number; None otherwise."""
        return self._epoch if self._beating.is_in and self.is_alone else None

    def fenced(self) -> None:
        self._moving.handlers.clear()
        self._worker.cut_waiting()
        self.succession.drop()

    def is_still(self, seconds: float) -> bool:
        if not self._local.under_way:
            return True
        if seconds > REJOIN_SECONDS:
            self._worker.cut_off()
        else:
            self._worker.cut_waiting()
        return False

    # ------------------------------------------------------------------------------------------- who owns which partition

    async def _arrange_always(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                if not self._beating.is_rejoining:
                    await self._ownership.arrange(self._beating.seen)
            except Busy as busy:
                observe.seldom(log.error, "worker.arrange_waits", why=str(busy))
                await asyncio.sleep(AGAIN_SECONDS)
                self._news.set()
            except Exception as error:  # noqa: BLE001  # the next beat tries again
                observe.seldom(log.error, "worker.arrange_failed", exc_info=error)

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
