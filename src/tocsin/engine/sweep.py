"""Finds what waits in the store although no wake-up for it has come."""

import asyncio
from collections.abc import Callable

import structlog

from tocsin import clock, observe
from tocsin.clock import SECOND, Micros
from tocsin.engine.known import Known
from tocsin.model import Busy
from tocsin.ports.queue import Queue

log = structlog.get_logger(__name__)


class Sweep:
    """`wake` is told of each handler that has something waiting; `swept` that one more sweep was tried."""

    def __init__(
        self, queue: Queue, lanes: Known, wake: Callable[[int, int, Micros], None], swept: Callable[[], None], seconds: float
    ) -> None:
        self._queue = queue
        self._lanes = lanes
        self._wake = wake
        self._swept = swept
        self._seconds = seconds
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises what the first sweep runs into."""
        await self.sweep()
        self._sweeper = asyncio.get_running_loop().create_task(self._now_and_then())

    def stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()

    @property
    def is_alive(self) -> bool:
        return self._sweeper is not None and not self._sweeper.done()

    async def sweep(self) -> None:
        """What became due since the last sweep is nearly always in its lane already; if not, the next sweep finds it."""
        since = clock.now() - int(self._seconds * SECOND)
        for handler_id, user_id, due_at in await self._queue.waiting_handlers():
            if handler_id not in self._lanes or not since < due_at <= clock.now():
                self._wake(handler_id, user_id, due_at)

    async def _now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self.sweep()
            except Busy as busy:
                observe.seldom(log.error, "engine.sweep_waits", why=str(busy))
            except Exception as error:  # noqa: BLE001  # without sweeps, lost wake-ups would wait for the next start
                observe.seldom(log.error, "engine.sweep_failed", exc_info=error)
            self._swept()
