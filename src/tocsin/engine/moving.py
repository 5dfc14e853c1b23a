"""Handlers that belong to another partition than their waiting deliveries: these follow once nothing of the handler is under way here."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from tocsin.engine.holdings import Holdings
from tocsin.engine.local import LocalEngine
from tocsin.ports.engine import Worker
from tocsin.ports.workers import Waking, Workers

STALE_SECONDS = 0.3  # until a handler is looked at again of which this process does not know yet that it has moved


class Moving:
    """`wake` is told whom to wake where they are now; `spawn` does what takes longer."""

    worker: Worker

    def __init__(
        self,
        workers: Workers,
        local: LocalEngine,
        holdings: Holdings,
        wake: Callable[[Sequence[Waking]], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._workers = workers
        self._local = local
        self._holdings = holdings
        self._wake = wake
        self._spawn = spawn
        self.handlers: dict[int, int] = {}
        """Those that are on their way, each with the partition that it comes from. Nothing of them is started."""

    def is_at_home(self, handler_id: int, partition: int) -> bool:
        """Whether a row of this handler with this partition can be sent. If the handler has another one now, its rows follow it."""
        terms = self.worker.terms(handler_id)
        home = self._holdings.homes.setdefault(handler_id, partition)
        if home != partition or (terms is not None and terms.partition not in {None, partition}):
            self.move(handler_id, partition)
            return False
        return True

    def move(self, handler_id: int, partition: int) -> None:
        """Rows of this partition belong to a handler that has another."""
        if handler_id in self.handlers:
            return
        self.handlers[handler_id] = partition
        if not self._local.drop([handler_id]):
            self._spawn(self._rehome(handler_id))

    def settled(self, handler_id: int) -> None:
        """Nothing of this handler is under way any more."""
        if handler_id in self.handlers:
            self._spawn(self._rehome(handler_id))

    async def _rehome(self, handler_id: int) -> None:
        partition = self.handlers.get(handler_id, -1)
        if partition not in self._holdings.live:  # its next owner finds them
            self.handlers.pop(handler_id, None)
            return
        try:
            await self.worker.prepare([handler_id])
            waking = await self._workers.rehome(handler_id, partition)
        finally:
            self.handlers.pop(handler_id, None)
            self._holdings.homes.pop(handler_id, None)
        if waking is None:
            return
        terms = self.worker.terms(handler_id)
        is_known = terms is None or terms.partition == waking.partition
        asyncio.get_running_loop().call_later(0 if is_known else STALE_SECONDS, self._wake, [waking])
