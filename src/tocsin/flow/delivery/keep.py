"""From a decision to its committed row, and what follows then: the engine hears when it is due again, a dead handler is switched off."""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Coroutine, Mapping, Sequence

import structlog
from msgspec import Struct

from tocsin import observe
from tocsin.channels.registry import CHANNELS
from tocsin.clock import Micros
from tocsin.flow.delivery.health import Health
from tocsin.flow.delivery.settle import Decision
from tocsin.flow.delivery.tally import Tally
from tocsin.flow.directory import Loaded
from tocsin.metrics import Metrics
from tocsin.model import Attempt, Busy, Delivery, Status
from tocsin.ports.engine import Run
from tocsin.ports.errors import Damaged
from tocsin.ports.ledger import InFlightLedger
from tocsin.ports.queue import Queue, Settlement

STORE_RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 30.0  # where the fault lasts
_PENDING, _DELIVERED = Status.PENDING, Status.DELIVERED  # to ask an enum for a member takes as long as ten other look-ups
_MAIL = {name for name, channel in CHANNELS.items() if channel.wire == "mail"}
log = structlog.get_logger(__name__)


class Ending(Struct, frozen=True, eq=False, gc=False):
    """What a delivery has come to, and what follows once it is kept. The store gets a row made of it, and it itself only as a ticket.

    `attempt`: None if it ended without one. `loaded`: None if its handler is deleted. `slot`: the attempt's place in the ledger, -1 for
    none.
    """

    decision: Decision
    attempt: Attempt | None
    at: Micros
    run: Run
    loaded: Loaded | None
    slot: int = -1


class Keeping:
    """Keeps outcomes, however long the store needs: an attempt cannot be undone.

    What cannot be kept is held in memory, and nothing more starts for its handler, or for any while the store takes no writes at all; so
    what is held is bounded by what the engine lets be in flight. One of them is tried now and then, and the others once it was kept.
    """

    def __init__(self, queue: Queue, health: Health, ledger: InFlightLedger, metrics: Metrics, tally: Tally) -> None:
        self._queue = queue
        self._health = health
        self.ledger = ledger
        self._metrics = metrics
        self._tally = tally
        self._tasks: set[asyncio.Task[None]] = set()
        self._unkept: set[Ending] = set()
        self._held: deque[Ending] = deque()  # of them, those that are not being tried
        self._tried: Ending | None = None
        self._held_of: Counter[int] = Counter()  # by handler
        self._is_store_away = False
        self._wait_seconds = STORE_RETRY_SECONDS
        self._timer: asyncio.TimerHandle | None = None
        self.trouble: str | None = None  # why outcomes cannot be kept, in a sentence
        self.began_to_hold = asyncio.Event()

    def holds_back(self, handler_id: int) -> bool:
        """Whether nothing may start for this handler now, since what came of it could not be kept."""
        return bool(self._unkept) and (self._is_store_away or handler_id in self._held_of)

    def keep(self, ending: Ending) -> None:
        """Store it and then tell the engine. Returns at once; what cannot be stored is held and tried again."""
        new_settings = ending.decision.new_settings
        if new_settings is None or ending.loaded is None:
            self._write(ending)
        else:
            self._spawn(self._move(ending, ending.loaded, new_settings))

    def _kept(self, endings: Sequence[Ending], results: Sequence[bool | Exception]) -> None:
        """After their commit, or after what kept it from happening. True: the row is as decided; False: it was settled before."""
        kept: list[tuple[Ending, bool]] = []
        settled = self.ledger.settled
        for ending, result in zip(endings, results, strict=True):
            if isinstance(result, Exception):
                self._hold(ending, result)
                continue
            if self._unkept and ending in self._unkept:
                self._let_go(ending)
            kept.append((ending, result))
            settled(ending.slot)  # not before: what was sent and is not kept must be known after a restart
            if ending.decision.delivery.status is _DELIVERED:
                ending.run.settled(None)
            else:
                self._settled_otherwise(ending, result)
        self._observe(kept)

    def _settled_otherwise(self, ending: Ending, applied: bool) -> None:
        decision, loaded = ending.decision, ending.loaded
        due_at = decision.due_at if applied else ending.at  # it may wait again already: somebody has replayed it
        if loaded is None or (decision.switch_off is None and not decision.blames):
            ending.run.settled(due_at)
        else:
            self._spawn(self._blame(ending.run, loaded, decision, due_at))

    def _write(self, ending: Ending) -> None:
        try:
            self._queue.settle(Settlement(ending.decision.delivery, ending.attempt, ending.at), ending, self._kept)
        except Busy as busy:
            self._hold(ending, busy)

    # ------------------------------------------------------------------------------------------ what cannot be kept now

    def _hold(self, ending: Ending, error: Exception) -> None:
        """It is in the ledger all the while, so after a kill it is `unknown`."""
        observe.seldom(log.error, "settle.waits", delivery=ending.decision.delivery.id, why=str(error))
        self._is_store_away = isinstance(error, Busy) and not isinstance(error, Damaged)
        self.trouble = _sentence(error)
        if ending not in self._unkept:
            self._unkept.add(ending)
            self._held_of[ending.decision.delivery.handler_id] += 1
        if ending is self._tried:
            self._tried = None
            self._wait_seconds = STORE_RETRY_SECONDS if self._is_store_away else min(self._wait_seconds * 2, MAX_RETRY_SECONDS)
        self._held.append(ending)  # at the end, so that the next one is tried next
        if self._timer is None and self._tried is None:
            self._timer = asyncio.get_running_loop().call_later(self._wait_seconds, self._try_one)
        self.began_to_hold.set()

    def _try_one(self) -> None:
        self._timer = None
        self._tried = self._held.popleft()
        self.keep(self._tried)

    def _let_go(self, ending: Ending) -> None:
        """It was held, and is kept now. If it was the one that was tried, the others may be kept too."""
        self._unkept.remove(ending)
        handler_id = ending.decision.delivery.handler_id
        self._held_of[handler_id] -= 1
        if not self._held_of[handler_id]:
            del self._held_of[handler_id]
        if not self._unkept:
            self.trouble = None
        if ending is self._tried:
            self._tried = None
            self._wait_seconds = STORE_RETRY_SECONDS
            self._is_store_away = False
            held, self._held = self._held, deque()
            for one in held:
                self.keep(one)

    async def _move(self, ending: Ending, loaded: Loaded, new_settings: Mapping[str, str]) -> None:
        """The new address first: the next attempt may follow at once."""
        try:
            await self._health.move(loaded, new_settings)
        except Exception as error:  # noqa: BLE001  # the provider has said that it would be refused again
            self._hold(ending, error)
        else:
            self._write(ending)

    async def _blame(self, run: Run, loaded: Loaded, decision: Decision, due_at: Micros | None) -> None:
        delivery = decision.delivery
        try:
            if decision.switch_off is not None:
                await self._health.switch_off(loaded, decision.reason, decision.switch_off, delivery)
            else:
                await self._health.failed(loaded, decision.reason, delivery.last_error or "", delivery)
        except Busy as busy:
            observe.seldom(log.warning, "blame.not_kept", handler=loaded.handler.id, why=str(busy))
        except Exception as error:  # noqa: BLE001  # whatever it was, it is in the log
            observe.seldom(log.error, "blame.failed", handler=loaded.handler.id, exc_info=error)
        finally:
            run.settled(due_at)

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _observe(self, kept: list[tuple[Ending, bool]]) -> None:
        """Many in one go: that costs half of what one after the other does."""
        tried: defaultdict[str, list[tuple[Delivery, Attempt]]] = defaultdict(list)
        arrived: defaultdict[str, list[tuple[int, Micros]]] = defaultdict(list)
        for ending, applied in kept:
            delivery, attempt, loaded = ending.decision.delivery, ending.attempt, ending.loaded
            channel = loaded.channel.type if loaded else "deleted"
            if attempt is not None:
                tried[channel].append((delivery, attempt))
                if attempt.status_code is not None:
                    self._health.answered_at = attempt.at
            if not applied:
                continue
            if delivery.status is _DELIVERED:
                arrived[channel].append((delivery.handler_id, max(0, ending.at - delivery.first_due_at)))
            elif delivery.status is not _PENDING and delivery.last_reason is not None:
                self._metrics.failed(channel, delivery.last_reason)
                self._tally.ended(delivery.handler_id, delivery.status)
        for latencies in arrived.values():
            self._tally.delivered(latencies)
        for channel, latencies in arrived.items():
            self._metrics.delivered(channel, latencies)
        for channel, attempts in tried.items():
            self._metrics.attempted(channel, attempts)
            if channel in _MAIL:
                for _, attempt in attempts:
                    self._health.mail.heard(attempt.reason, attempt.status_code, attempt.at)
            observe.log_attempts(channel, attempts)


def _sentence(error: Exception) -> str:
    if isinstance(error, Damaged):
        return error.sentence
    if isinstance(error, Busy):
        return f"What became of deliveries cannot be kept: {error}."
    return f"What became of a delivery cannot be kept ({error}): its handler waits; run `tocsin check`."
