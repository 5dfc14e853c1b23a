"""Pauses that providers asked for, where several processes share the store.

A realm's pause concerns every process that sends there, so they hear of it. A credential's concerns its owner, who hands it on with the
partition; the longer ones are kept besides, for the process that takes over from an owner that has died.
"""

import asyncio
import time

import structlog

from tocsin import clock, observe
from tocsin.clock import SECOND, Micros
from tocsin.flow.pace import Pacer, is_realm
from tocsin.model import Busy
from tocsin.partitions import partition_of, root_of
from tocsin.ports.pauses import Pause, Pauses

LEAST_SECONDS = 3.0  # of a credential: shorter ones are over before others notice that a process is dead
AGAIN_SECONDS = 0.5
log = structlog.get_logger(__name__)


class SharedPauses:
    def __init__(self, rows: Pauses, pacer: Pacer) -> None:
        self._rows = rows
        self._pacer = pacer
        self._unkept: dict[str, Micros] = {}
        self._one_writes = asyncio.Lock()
        self._keeping: asyncio.Task[None] | None = None
        pacer.began_pause = self._began

    def _began(self, key: str, until: Micros) -> None:
        if not is_realm(key) and until - clock.now() < LEAST_SECONDS * SECOND:
            return
        self._unkept[key] = until
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        while self._unkept:
            try:
                await self.kept()
            except Busy as busy:
                observe.seldom(log.warning, "pauses.not_kept", why=str(busy))
                await asyncio.sleep(AGAIN_SECONDS)

    async def kept(self) -> None:
        """Whatever was paused here can be read by others. Raises Busy."""
        async with self._one_writes:
            while self._unkept:
                some, now = dict(self._unkept), clock.now()
                await self._rows.begin([Pause(key, until, _home(key)) for key, until in some.items()], now)
                self._unkept = {key: until for key, until in self._unkept.items() if some.get(key) != until}

    async def read(self, partitions: "frozenset[int]" = frozenset()) -> None:
        """What others were asked for: in all realms, and by earlier owners of these partitions. Raises Busy."""
        found, now = await self._rows.of(partitions, clock.now()), time.monotonic()
        for one in found:
            self._pacer.hear_of_pause(one.key, one.until, now)

    async def close(self) -> None:
        """What is not kept yet stays so."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)


def _home(key: str) -> int | None:
    return None if is_realm(key) else partition_of(root_of(key))
