"""Who owns which partition: this worker's part in that. Whatever is above its share it releases, below it takes what nobody owns."""

import asyncio
from collections.abc import Callable, Collection, Sequence

import structlog
from msgspec import Struct

from tocsin import observe
from tocsin.engine import membership
from tocsin.engine.holdings import Holdings
from tocsin.engine.local import LocalEngine
from tocsin.engine.stays import Stays
from tocsin.model import Busy
from tocsin.partitions import PARTITIONS
from tocsin.ports.workers import Member, Owners, Succession, Workers

AGAIN_SECONDS = 0.3  # until what the store could not do is asked for again
MAX_HOMES = 50_000  # handlers of which the partition is remembered, before those without work are forgotten
NOBODY = Owners(-1, (0,) * PARTITIONS)
log = structlog.get_logger(__name__)


class Seen(Struct, frozen=True):
    """What a beat has shown. `dead`: workers whose beat has stopped, each with its last beat. `may_own`: whether every other worker knows
    of this one."""

    members: Sequence[Member] = ()
    dead: Sequence[tuple[int, int]] = ()
    owners_version: int = -1
    may_own: bool = False


class Ownership:
    """`begun` is told when something of what was taken may be sent for, `changed` when there is something to arrange."""

    succession: Succession

    def __init__(
        self, workers: Workers, local: LocalEngine, holdings: Holdings, stays: Stays, begun: Callable[[], None], changed: Callable[[], None]
    ) -> None:
        self._stays = stays
        self._workers = workers
        self._local = local
        self._holdings = holdings
        self._begun = begun
        self._changed = changed
        self._states: dict[int, bytes | None] = {}  # of partitions that are to be released, until the store has them
        self._restoring: asyncio.Task[None] | None = None
        self.worker_id = 0
        self.is_leaving = False
        self.owners = NOBODY
        self.taken_over = 0

    def join(self, worker_id: int) -> None:
        """As another worker than before, if it was one; that one owns nothing any more."""
        self.worker_id, self.owners = worker_id, NOBODY

    def lost(self) -> None:
        """Others own everything."""
        self.stop_restoring()
        self._stays.end(self._holdings.live)
        self._local.drop(list(self._holdings.homes))
        self._holdings.lost()
        self._states.clear()
        self.worker_id = 0

    async def arrange(self, seen: Seen) -> None:
        """Remove the dead, release, take. Raises Busy; all of it can be done again."""
        for member_id, beat in seen.dead:
            if await self._workers.prune(member_id, beat):
                log.warning("worker.pruned", worker=member_id)
        if seen.owners_version != self.owners.version:
            self.owners = await self._workers.owners()
            self._stays.changed()
            self._lose([one for one in self._holdings.owned if self.owners.of[one] != self.worker_id])
        share = membership.share_of(self.worker_id, seen.members) if seen.may_own else 0
        owned = self._holdings.owned
        if not self.is_leaving and len(owned) > share:
            busy = set(self._holdings.homes.values())
            self.release(membership.to_release(self._holdings.live, busy, len(owned) - share))
        await self.hand_on()
        if not self.is_leaving and len(owned) < share and not all(self.owners.of):
            await self._take(share - len(owned))
        if len(self._holdings.homes) > MAX_HOMES:
            self._holdings.forget_idle(self._local.handlers_with_work())

    async def _take(self, most: int) -> None:
        worker_id = self.worker_id
        taken = await self._workers.take(worker_id, most, self._holdings.owned | self._holdings.leaving.keys())
        if not taken or worker_id != self.worker_id:
            return
        self._holdings.taken |= {one.partition: one for one in taken}
        self.taken_over += sum(one.is_crashed for one in taken)
        if self._restoring is None or self._restoring.done():
            self._restoring = asyncio.get_running_loop().create_task(self._restore())

    async def _restore(self) -> None:
        """Until all that was taken may be sent for."""
        while self._holdings.taken:
            try:
                await self.succession.take_over(list(self._holdings.taken.values()), self._begin)
            except Busy as busy:
                observe.seldom(log.error, "worker.restore_waits", why=str(busy))
                await asyncio.sleep(AGAIN_SECONDS)
            except Exception as error:  # noqa: BLE001  # whatever it was, it is in the log; nothing of them is sent meanwhile
                observe.seldom(log.error, "worker.restore_failed", exc_info=error)
                await asyncio.sleep(AGAIN_SECONDS)

    def stop_restoring(self) -> None:
        """Begin nothing more."""
        if self._restoring is not None:
            self._restoring.cancel()
            self._restoring = None

    def _begin(self, partition: int) -> None:
        """All that its past says is known."""
        self._holdings.begin(partition)
        self._stays.changed()
        self._begun()

    def _lose(self, partitions: Collection[int]) -> None:
        """They are not ours, whatever the store had answered: a fail-over may have lost that."""
        if partitions:
            log.error("worker.lost", partitions=len(partitions))
            self._stays.end(partitions)
            self._local.drop(self._holdings.handlers_of(partitions))
            self._holdings.lose(partitions)

    def release(self, partitions: Collection[int]) -> None:
        """Start nothing more of these; each goes as soon as nothing of it is under way."""
        going = self._holdings.live.intersection(partitions)
        self._stays.end(going)
        busy = self._local.drop(self._holdings.handlers_of(going))
        self._holdings.leave(going, busy)
        self._changed()

    async def hand_on(self) -> None:
        """Release what is ready for it."""
        if self._holdings.idle:
            await self.succession.kept()
        worker_id, idle = self.worker_id, [one for one in self._holdings.idle if one not in self._states]
        if idle:
            self._states |= self.succession.hand_on(idle)
        if self.is_leaving:
            self._states |= {one.partition: one.state for one in self._holdings.taken.values() if not one.is_crashed}
            self._holdings.taken.clear()  # the others are left as they were: crashed
        if self._states:
            states = dict(self._states)
            await self._workers.release(worker_id, states)
            if worker_id == self.worker_id:
                self._states = {one: state for one, state in self._states.items() if one not in states}
                self._holdings.gone(states)
