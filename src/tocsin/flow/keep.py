"""From a decision to its committed row, and what follows then: the engine hears when it is due again, a dead handler is switched off."""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Mapping, Sequence
from typing import Protocol

import structlog

from tocsin import observe
from tocsin.engine import Run
from tocsin.flow.directory import Loaded
from tocsin.flow.health import Health
from tocsin.flow.settle import Decision
from tocsin.flow.tally import Tally
from tocsin.model import SECOND, Attempt, Busy, Delivery, Micros, Status
from tocsin.store import Settlement, Store

STORE_RETRY_SECONDS = 1.0
LOOK_AGAIN: Micros = 30 * SECOND
_PENDING, _DELIVERED = Status.PENDING, Status.DELIVERED  # to ask an enum for a member takes as long as ten other look-ups
log = structlog.get_logger(__name__)


class InFlightLedger(Protocol):
    """Remembers over a crash which attempts were under way."""

    def begin(self, delivery_id: int, number: int, at: Micros) -> int: ...
    def settled(self, slot: int) -> None: ...


class Ending(Settlement, frozen=True, eq=False):
    """What a delivery has come to, on its way to the store and back.

    `decision.delivery` is `delivery`. `loaded`: None if its handler is deleted. `slot`: the attempt's place in the ledger, -1 for none.
    """

    decision: Decision
    run: Run
    loaded: Loaded | None
    slot: int = -1


class Keeping:
    """Keeps outcomes, however long the store needs: an attempt cannot be undone."""

    def __init__(self, store: Store, health: Health, ledger: InFlightLedger, metrics: observe.Metrics, tally: Tally) -> None:
        self._store = store
        self._health = health
        self._ledger = ledger
        self._metrics = metrics
        self._tally = tally
        self._tasks: set[asyncio.Task[None]] = set()

    def keep(self, ending: Ending) -> None:
        new_settings = ending.decision.new_settings
        if new_settings is None or ending.loaded is None:
            self._write(ending)
        else:
            self._spawn(self._move(ending, ending.loaded, new_settings))

    def _kept(self, endings: Sequence[Ending], results: Sequence[bool | Exception]) -> None:
        """After their commit, or after what kept it from happening. True: the row is as decided; False: it was settled before."""
        kept: list[tuple[Ending, bool]] = []
        settled = self._ledger.settled
        for ending, result in zip(endings, results, strict=True):
            if isinstance(result, Exception):
                self._not_kept(ending, result)
                continue
            kept.append((ending, result))
            settled(ending.slot)  # not before: what was sent and is not kept must be known after a restart
            if ending.delivery.status is _DELIVERED:
                ending.run.settled(None)
            else:
                self._settled_otherwise(ending, result)
        self._observe(kept)

    def _settled_otherwise(self, ending: Ending, applied: bool) -> None:
        decision, loaded = ending.decision, ending.loaded
        due_at = decision.due_at if applied else None
        if loaded is None or (decision.switch_off is None and not decision.blames):
            ending.run.settled(due_at)
        else:
            self._spawn(self._blame(ending.run, loaded, decision, due_at))

    def _not_kept(self, ending: Ending, error: Exception) -> None:
        if isinstance(error, Busy):
            self._write_later(ending, error)
        else:
            log.error("settle.failed", delivery=ending.delivery.id, exc_info=error)
            _look_again(ending)

    def _write(self, ending: Ending) -> None:
        try:
            self._store.settle(ending, self._kept)
        except Busy as busy:
            self._write_later(ending, busy)

    def _write_later(self, ending: Ending, busy: Busy) -> None:
        log.error("settle.waits", delivery=ending.delivery.id, why=str(busy))
        asyncio.get_running_loop().call_later(STORE_RETRY_SECONDS, self._write, ending)

    async def _move(self, ending: Ending, loaded: Loaded, new_settings: Mapping[str, str]) -> None:
        """The new address first: the next attempt may follow at once."""
        try:
            await self._health.move(loaded, new_settings)
        except Exception:
            log.exception("move.failed", handler=loaded.handler.id)
            _look_again(ending)
        else:
            self._write(ending)

    async def _blame(self, run: Run, loaded: Loaded, decision: Decision, due_at: Micros | None) -> None:
        delivery = decision.delivery
        try:
            if decision.switch_off is not None:
                await self._health.switch_off(loaded, decision.reason, decision.switch_off)
            else:
                await self._health.failed(loaded, decision.reason, delivery.last_error or "", delivery.first_due_at)
        except Exception:
            log.exception("blame.failed", handler=loaded.handler.id)
        finally:
            run.settled(due_at)

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _observe(self, kept: list[tuple[Ending, bool]]) -> None:
        """Many in one go: that costs half of what one after the other does."""
        now = observe.now()
        tried: defaultdict[str, list[tuple[Delivery, Attempt]]] = defaultdict(list)
        arrived: defaultdict[str, list[tuple[int, Micros]]] = defaultdict(list)
        for ending, applied in kept:
            delivery, attempt, loaded = ending.delivery, ending.attempt, ending.loaded
            channel = loaded.channel.type if loaded else "deleted"
            if attempt is not None:
                tried[channel].append((delivery, attempt))
                if attempt.status_code is not None:
                    self._health.answered_at = attempt.at
            if not applied:
                continue
            if delivery.status is _DELIVERED:
                arrived[channel].append((delivery.handler_id, max(0, now - delivery.first_due_at)))
            elif delivery.status is not _PENDING and delivery.last_reason is not None:
                self._metrics.failed(channel, delivery.last_reason)
                self._tally.ended(delivery.handler_id, delivery.status)
        for channel, attempts in tried.items():
            self._metrics.attempted(channel, [attempt for _, attempt in attempts])
            observe.log_attempts(channel, attempts)
        for channel, latencies in arrived.items():
            self._metrics.delivered(channel, [latency for _, latency in latencies])
            self._tally.delivered(latencies)


def _look_again(ending: Ending) -> None:
    """The row stays pending and the engine finds it again, so nothing is lost."""
    ending.run.settled(observe.now() + LOOK_AGAIN)
