"""This worker among the others: it joins them, beats, and starts nothing once they may have given it up for dead.

A worker of another version than its neighbours' leaves the others to their work.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from tocsin import observe
from tocsin.engine import membership
from tocsin.engine.membership import BEAT_SECONDS, MARGIN_SECONDS, TTL_SECONDS, Watch
from tocsin.engine.ownership import Ownership, Seen
from tocsin.engine.server_clock import ServerClock, Times
from tocsin.model import Busy
from tocsin.ports.workers import Beat, Introduction, Load, Waking, Workers

CLOSED_SECONDS = 0.1  # until somebody who may not start anything asks again
log = structlog.get_logger(__name__)


class Living(Protocol):
    """What beats keep alive: the engine."""

    def load(self) -> Load: ...

    def joined(self) -> None:
        """As another worker than before, if it was one."""
        ...

    def saw(self, beat: Beat) -> None:
        """Another look at the others; what follows is to be arranged at once, since the next beat says that it was seen."""
        ...

    def fenced(self) -> None:
        """Others took this worker for dead and own what it owned."""
        ...

    def is_still(self, seconds: float) -> bool:
        """Whether nothing of its former life is under way any more, so long after it was fenced."""
        ...


class Beating:
    """`rang`: told of what others ring for."""

    def __init__(
        self,
        workers: Workers,
        who: Introduction,
        times: Times,
        ownership: Ownership,
        living: Living,
        rang: Callable[[Sequence[Waking]], None],
    ) -> None:
        self._workers = workers
        self._who = who
        self._times = times
        self._clock = ServerClock(times.own, times.steady, times.follow)
        self._ownership = ownership
        self._living = living
        self._rang = rang
        self._deadline = 0.0
        self._beaten_at = 0.0
        self._fenced_at = 0.0
        self._is_rejoining = False
        self._joined = asyncio.Event()
        self._asked = asyncio.Event()
        self.seen = Seen()
        self.times_fenced = 0
        """How often this worker was given up for dead by others."""
        self.refusal: str | None = None
        """Why it may not join, in a sentence."""

    async def join(self) -> None:
        """Raises Busy."""
        worker_id = await self._workers.join(self._who, self._rang)
        self._ownership.join(worker_id)
        self._watch, self.seen = Watch(worker_id), Seen()
        self._living.joined()
        log.info("worker.joined", worker=worker_id, roles=self._who.roles)

    async def has_joined(self) -> None:
        """Returns once every other worker knows of this one, or it is not to join them."""
        await self._joined.wait()

    @property
    def is_in(self) -> bool:
        """Whether every other worker knows of this one, which is one of them."""
        return self._joined.is_set() and self.refusal is None

    @property
    def is_rejoining(self) -> bool:
        return self._is_rejoining

    def fence(self) -> float:
        """Seconds until this process may start anything, 0 if it may now."""
        return 0.0 if self._times.steady() < self._deadline else CLOSED_SECONDS

    def close(self) -> None:
        """Nothing may be started any more."""
        self._deadline = 0.0

    @property
    def age(self) -> float:
        """Seconds since the last beat that was answered was asked for."""
        return self._times.steady() - self._beaten_at

    @property
    def clock_ahead(self) -> int:
        return -self._clock.behind

    # ---------------------------------------------------------------------------------------------------------- beats

    async def always(self) -> None:
        while True:
            began = self._times.steady()
            await self._beat()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, began + BEAT_SECONDS - self._times.steady())):
                    await self._asked.wait()
            self._asked.clear()

    def soon(self) -> None:
        """There is something to tell the others, so the next beat does not wait."""
        self._asked.set()

    async def _beat(self) -> None:
        worker_id, asked_at = self._ownership.worker_id, self._times.steady()
        try:
            if self._is_rejoining:
                await self._rejoin()
                return
            seen = max([one.id for one in self.seen.members], default=0)
            beat = await self._workers.beat(worker_id, seen, self._living.load(), self._ownership.is_leaving)
        except Busy as busy:
            self._watch.lost_sight()
            observe.seldom(log.error, "worker.beat_waits", why=str(busy))
            return
        except Exception as error:  # noqa: BLE001  # without beats this worker is dead
            self._watch.lost_sight()
            observe.seldom(log.error, "worker.beat_failed", exc_info=error)
            return
        if worker_id != self._ownership.worker_id or self._is_rejoining:
            return
        if beat is None:
            self.fenced()
        else:
            self._answered(beat, asked_at)

    def _answered(self, beat: Beat, asked_at: float) -> None:
        now, members, me = self._times.steady(), beat.members, self._ownership.worker_id
        self._clock.heard(beat.now, now - asked_at)
        self._beaten_at = asked_at
        may_own = self._joined.is_set() or membership.knows_all_of(me, members)
        if may_own and not self._joined.is_set():  # those that are dead have been removed by now
            self.refusal = membership.refusal(me, self._who.version, members)
            self._joined.set()
        may_own = may_own and self.refusal is None
        self.seen = Seen(members, self._watch.look(members, asked_at, now), beat.owners_version, may_own)
        if may_own:
            self._deadline = asked_at + TTL_SECONDS - MARGIN_SECONDS
        self._living.saw(beat)

    # ---------------------------------------------------------------------------------------------------- being fenced

    def fenced(self) -> None:
        """It starts nothing until nothing of its former life is under way."""
        if self._is_rejoining:
            return
        self.times_fenced += 1
        self._is_rejoining, self._deadline, self._fenced_at = True, 0.0, self._times.steady()
        self._joined.clear()  # not a new one: a start may be waiting for it
        log.error("worker.fenced", worker=self._ownership.worker_id)
        self._ownership.lost()
        self._living.fenced()

    async def _rejoin(self) -> None:
        """Further parts of what is on the wire would go out beside the new owner's, so they must end first."""
        if self._living.is_still(self._times.steady() - self._fenced_at) and not self._ownership.is_leaving:
            await self.join()
            self._is_rejoining = False
