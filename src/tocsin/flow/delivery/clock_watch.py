"""A clock that was ahead and is set right must not silence what was scheduled meanwhile."""

import asyncio
from collections.abc import Callable

import structlog

from tocsin import clock, observe
from tocsin.clock import SECOND, Micros
from tocsin.flow.delivery.settle import JITTER
from tocsin.model import Busy
from tocsin.ports.engine import Engine
from tocsin.ports.misdated import TOLERANCE, Misdated
from tocsin.settings import Settings

LOOK_SECONDS = 5.0
ROWS_AT_ONCE = 500
log = structlog.get_logger(__name__)


class ClockWatch:
    """Notices that the wall clock was set back. `steady` is a clock that nobody sets, in seconds; `leads`: whether what it left in the
    store is this process's business."""

    def __init__(
        self,
        misdated: Misdated,
        engine: Engine,
        settings: Settings,
        wall: Callable[[], Micros] = clock.now,
        steady: Callable[[], float] = clock.steady,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._misdated = misdated
        self._engine = engine
        self._waits = [int(seconds * (1 + JITTER) * SECOND) for seconds in settings.retry_schedule]
        self._wall = wall
        self._steady = steady
        self._leads = leads
        self._ahead = self._difference()

    def _difference(self) -> Micros:
        return self._wall() - int(self._steady() * SECOND)

    def was_set_back(self) -> bool:
        """Since it was asked last, by more than is lost between two looks at two clocks."""
        before, self._ahead = self._ahead, self._difference()
        return self._ahead < before - TOLERANCE

    async def bring_forward(self) -> int:
        """What is due later than it can have been meant is due now; how many. No handler has met anything later than now. Raises Busy."""
        await self._misdated.set_right(self._wall())
        count = 0
        while found := await self._misdated.bring_forward(self._wall(), self._waits, ROWS_AT_ONCE):
            for handler, user in set(found):
                self._engine.wake(handler, user, self._wall())
            count += len(found)
        if count:
            log.warning("clock.was_ahead", brought_forward=count)
        return count

    async def run(self) -> None:
        """Until cancelled. First it looks at what an earlier process left, while the service begins."""
        is_due = True
        while True:
            if is_due and self._leads():
                try:
                    await self.bring_forward()
                    is_due = False
                except Busy as busy:
                    observe.seldom(log.warning, "clock.waits", why=str(busy))
            await asyncio.sleep(LOOK_SECONDS)
            is_due = self.was_set_back() or is_due
