"""At the start: attempts that were in flight when the process died, and what the paces must know of the time before.

The answers of the former are lost, and the log says so.
"""

import asyncio
import random
import time
from collections.abc import Iterable

from msgspec.structs import replace

from tocsin import clock
from tocsin.channels.contract import unpaced
from tocsin.channels.registry import CHANNELS
from tocsin.clock import SECOND, Micros
from tocsin.flow.delivery.keep import Ending, Keeping
from tocsin.flow.delivery.settle import Decision, decide, ended_without_attempt, is_late
from tocsin.flow.directory import Directory, Loaded
from tocsin.flow.pace import Pacer
from tocsin.model import Attempt, Delivery, Reason, Status, Unknown
from tocsin.ports.ledger import UnderWay
from tocsin.ports.queue import Queue
from tocsin.settings import Settings

LONGEST_SECONDS = 3600.0
MAX_READ = 200_000  # deliveries
_LOST = Unknown(Reason.CUT, "The service ended during the attempt.")


class _Run:
    """Stands for the engine, which has not begun."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def came_back(self, how: int, /) -> None:
        pass

    def alone(self, is_alone: bool, /) -> None:
        pass

    def rest(self) -> None:
        pass

    async def resume(self) -> None:
        pass

    def settled(self, due_at: Micros | None) -> None:  # noqa: ARG002  # the protocol
        self.done.set_result(None)


async def recover(under_way: Iterable[UnderWay], queue: Queue, directory: Directory, keeping: Keeping, settings: Settings) -> None:
    """Keep what was `under_way` as unknown, unless its outcome had been kept.

    Also where the delivery has been cancelled, skipped or ended otherwise meanwhile, or waits again since somebody replayed it: it keeps
    its status, and its log and its replay say that it may have arrived.
    """
    lost = {(one.delivery_id, one.number): one for one in under_way}
    endings: list[Ending] = []
    runs: list[_Run] = []
    for row in await queue.named(list({delivery_id for delivery_id, _ in lost})):
        number = row.attempt_count + 1  # any other has been kept or was never made: the file alone proves nothing
        found = lost.get((row.id, number))
        if found is None or found.replays > row.replays or row.status is Status.DELIVERED:
            continue
        now = clock.now()
        at = min(max(found.at, row.created_at), now)
        delivery = replace(row, attempt_count=number, last_attempt_at=at, late=is_late(row, at), replays=found.replays)
        loaded = await directory.loaded(row.handler_id)
        decision = _decide(delivery, found.replays < row.replays, loaded, settings, now)
        reason = Reason.CUT if decision.reason is Reason.HANDLER_DELETED else decision.reason
        log_row = Attempt(row.id, number, at, 0, "unknown", reason, None, _LOST.detail, decision.due_at)
        runs.append(_Run())
        endings.append(Ending(decision, log_row, now, runs[-1], loaded))
    for ending in endings:  # only now: if a read fails, all of this is done again
        keeping.keep(ending)
    await asyncio.gather(*(run.done for run in runs))


def _decide(delivery: Delivery, is_replayed: bool, loaded: Loaded | None, settings: Settings, now: Micros) -> Decision:
    maybe = replace(delivery, may_have_arrived=True)
    if is_replayed or delivery.status is not Status.PENDING:
        return Decision(maybe, Reason.CUT)
    if loaded is None:
        return ended_without_attempt(maybe, Status.CANCELLED, Reason.HANDLER_DELETED, clock.now())
    return decide(_LOST, delivery, loaded.channel, settings, now, random.random())  # noqa: S311  # jitter


async def resume_pace(queue: Queue, directory: Directory, pacer: Pacer) -> None:
    """Without a record of starts (after an upgrade, or in a copy of the store): what the rows tell of windows and throttles.

    That is less: one start of each delivery, the newest deliveries, and the throttles of what still waits.
    """
    now = clock.now()
    types = [name for name, channel in CHANNELS.items() if channel.paces is not unpaced]
    for one in await queue.recent(now - int(LONGEST_SECONDS * SECOND), types, MAX_READ):
        loaded = await directory.loaded(one.handler_id)
        if loaded is None:
            continue
        moment = time.monotonic()
        if one.throttled_until > now:
            pacer.pause(loaded.credential, moment + (one.throttled_until - now) / SECOND, moment)
        pacer.remember(loaded.paces, one.attempts, moment)
