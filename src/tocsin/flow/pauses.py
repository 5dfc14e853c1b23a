"""Pauses that providers asked for, where several processes share the store.

A realm's pause concerns every process that sends there, so they hear of it. A credential's concerns its owner, who hands it on with the
partition. It is kept in the store too, for the process that takes over if the owner dies.
"""

import asyncio
import time
from collections.abc import Sequence

import structlog

from tocsin import clock, observe
from tocsin.clock import SECOND, Micros
from tocsin.flow.pace import Pacer, is_realm
from tocsin.model import Busy
from tocsin.partitions import partition_of, root_of
from tocsin.ports.pauses import Pause, Pauses

LEAST_SECONDS = 0.5  # of a credential: shorter ones are over before a killed process has started again, or others take it for dead
AGAIN_SECONDS = 0.5
PATIENCE_SECONDS = 5.0  # that partitions stay with a process because the store does not take its pauses
log = structlog.get_logger(__name__)


class SharedPauses:
    def __init__(self, rows: Pauses, pacer: Pacer) -> None:
        self._rows = rows
        self._pacer = pacer
        self._unkept: dict[str, Micros] = {}
        self._failing_since: float | None = None
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
                await self._write()
            except Busy as busy:
                observe.seldom(log.warning, "pauses.not_kept", why=str(busy))
                await asyncio.sleep(AGAIN_SECONDS)
            except Exception as error:  # noqa: BLE001  # whatever it was, it is in the log, and the next pauses may be taken
                observe.seldom(log.error, "pauses.failed", exc_info=error)
                await asyncio.sleep(AGAIN_SECONDS)

    async def kept(self) -> None:
        """Before partitions go to others: all pauses that began here can be read there, or the store refuses them and the log says so.
        (What is handed on holds those of credentials too.) Raises Busy, for `PATIENCE_SECONDS` at most: others wait for the partitions."""
        try:
            await self._write()
        except Busy as busy:
            if self._failing_since is None or time.monotonic() - self._failing_since < PATIENCE_SECONDS:
                raise
            observe.seldom(log.error, "pauses.not_handed_on", why=str(busy))
        except Exception as error:  # noqa: BLE001  # the same
            observe.seldom(log.error, "pauses.not_handed_on", exc_info=error)

    async def _write(self) -> None:
        async with self._one_writes:
            while self._unkept:
                now = clock.now()
                some = {key: until for key, until in self._unkept.items() if until > now}
                if some:
                    await self._begin([Pause(key, until, _home(key)) for key, until in some.items()], now)
                self._unkept = {key: until for key, until in self._unkept.items() if until > now and some.get(key) != until}

    async def _begin(self, pauses: Sequence[Pause], now: Micros) -> None:
        try:
            await self._rows.begin(pauses, now)
        except Exception:
            self._failing_since = time.monotonic() if self._failing_since is None else self._failing_since
            raise
        self._failing_since = None

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
