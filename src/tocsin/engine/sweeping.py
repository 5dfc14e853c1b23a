"""Sweeps: what is due in the partitions of this worker and nobody rang for."""

import asyncio
from collections.abc import Callable, Collection

import structlog

from tocsin import clock, observe
from tocsin.clock import SECOND, Micros
from tocsin.engine.holdings import Holdings
from tocsin.engine.local import LocalEngine
from tocsin.engine.moving import Moving
from tocsin.engine.ownership import AGAIN_SECONDS
from tocsin.model import Busy
from tocsin.ports.workers import DueIn, Workers

SWEEP_SECONDS = 2.0
AHEAD: Micros = 4 * SECOND  # a sweep looks so far ahead, so what is due later needs no ring
BEFORE: Micros = 10 * SECOND  # and so far back: lanes know of an older backlog, which may be long
ALL_SECONDS = 30.0  # until a sweep looks through all of it again
FIRST = 20  # deliveries of each partition that was taken: they begin before a long backlog has been looked through
log = structlog.get_logger(__name__)


class Sweeping:
    """`alone`: which spell of being alone this is, None where others may accept what only a sweep finds. `steady`: a clock, in seconds."""

    def __init__(
        self,
        workers: Workers,
        local: LocalEngine,
        holdings: Holdings,
        moving: Moving,
        alone: Callable[[], int | None],
        steady: Callable[[], float],
    ) -> None:
        self._workers = workers
        self._local = local
        self._holdings = holdings
        self._moving = moving
        self._alone = alone
        self._steady = steady
        self._all_at = 0.0  # when the next sweep looks through everything
        self._now = asyncio.Event()

    def soon(self) -> None:
        """Without waiting for the usual time."""
        self._now.set()

    async def always(self) -> None:
        while True:
            try:
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._now.wait()
            except TimeoutError:
                pass
            self._now.clear()
            try:
                await self._sweep()
            except Busy as busy:
                observe.seldom(log.error, "engine.sweep_waits", why=str(busy))
                await asyncio.sleep(AGAIN_SECONDS)
            except Exception as error:  # noqa: BLE001  # without sweeps, lost rings would wait for ever
                observe.seldom(log.error, "engine.sweep_failed", exc_info=error)

    async def _sweep(self) -> None:
        life, spell, holdings, now = self._holdings.life, self._alone(), self._holdings, self._steady()
        if taken := holdings.unswept & holdings.live:
            await self._look(taken, first=FIRST)
        if now >= self._all_at or (spell is not None and not holdings.live <= holdings.complete):
            holdings.unswept, self._all_at = set(holdings.live), now + ALL_SECONDS
        wholly, rest = holdings.unswept & holdings.live, holdings.live - holdings.unswept
        if wholly:
            await self._look(wholly)
        if rest:
            await self._look(rest, since=clock.now() - BEFORE)
        if life != holdings.life:
            return
        holdings.unswept -= wholly
        if spell is not None and spell == self._alone():
            holdings.complete |= wholly & holdings.live

    async def _look(self, partitions: Collection[int], since: Micros = 0, first: int | None = None) -> None:
        life = self._holdings.life
        found = await self._workers.due_in(partitions, clock.now() + AHEAD, since, first)
        if life == self._holdings.life:
            for due in found:
                self._found(due)

    def _found(self, due: DueIn) -> None:
        if due.partition not in self._holdings.live:
            return
        if due.home != due.partition:
            self._moving.move(due.handler_id, due.partition)
        elif not self._moving.is_at_home(due.handler_id, due.partition):
            return
        elif due.due_at <= clock.now():
            self._local.look(due.handler_id, due.user_id)
        else:
            self._local.wake(due.handler_id, due.user_id, due.due_at)
