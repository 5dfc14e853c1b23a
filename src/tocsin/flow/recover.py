"""At the start: attempts that were in flight when the process died, and what the paces must know of the time before.

The answers of the former are lost, and the log says so.
"""

import asyncio
import random
import time
from collections.abc import Iterable

from msgspec.structs import replace

from tocsin import observe
from tocsin.channels.contract import unpaced
from tocsin.channels.registry import CHANNELS
from tocsin.flow.directory import Directory
from tocsin.flow.keep import Ending, Keeping
from tocsin.flow.pace import Pacer
from tocsin.flow.settle import decide, is_late
from tocsin.model import SECOND, Attempt, Micros, Reason, Unknown
from tocsin.settings import Settings
from tocsin.store import Store

SHORT_SECONDS = 10.0  # windows up to this length are over, or nearly so, by the time of a start
LONGEST_SECONDS = 3600.0
MOST_READ = 200_000  # deliveries


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


async def recover(
    under_way: Iterable[tuple[int, int, Micros]], store: Store, directory: Directory, keeping: Keeping, settings: Settings
) -> None:
    """Settle what was `under_way` (delivery id, attempt number, start), unless its outcome had been kept."""
    lost = {delivery_id: (number, at) for delivery_id, number, at in under_way}
    runs: list[_Run] = []
    for job in await store.waiting(list(lost)):
        number, at = lost[job.delivery.id]
        loaded = await directory.loaded(job.delivery.handler_id)
        if loaded is None or job.delivery.attempt_count >= number:
            continue
        delivery = replace(job.delivery, attempt_count=number, last_attempt_at=at, late=is_late(job.delivery, at))
        outcome = Unknown(Reason.CUT, "the service ended while the attempt was under way")
        decision = decide(outcome, delivery, loaded.channel, settings, observe.now(), random.random())  # noqa: S311  # jitter
        run = _Run()
        runs.append(run)
        log_row = Attempt(delivery.id, number, at, 0, "unknown", decision.reason, None, outcome.detail, decision.due_at)
        keeping.keep(Ending(decision.delivery, log_row, observe.now(), decision, run, loaded))
    await asyncio.gather(*(run.done for run in runs))


async def resume_pace(store: Store, directory: Directory, pacer: Pacer) -> None:
    """What was sent shortly before the start counts in the longer windows, and a throttle goes on as long as was asked."""
    now = observe.now()
    types = [name for name, channel in CHANNELS.items() if channel.paces is not unpaced]
    for one in await store.recent(now - int(LONGEST_SECONDS * SECOND), types, MOST_READ):
        loaded = await directory.loaded(one.handler_id)
        if loaded is None:
            continue
        then = time.monotonic() - now / SECOND  # the one clock at the other's zero
        if one.throttled_until > now:
            pacer.pause(loaded.credential, then + one.throttled_until / SECOND, then + now / SECOND)
        for pace in loaded.paces:
            if pace.seconds > SHORT_SECONDS:
                pacer.remember(pace, [then + at / SECOND for at in one.attempts])
