"""Partitions that come from another process or go to one: what paces must count, and attempts whose end nobody knows."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

from tocsin import clock
from tocsin.channels.contract import unpaced
from tocsin.channels.registry import CHANNELS
from tocsin.clock import SECOND, Micros
from tocsin.flow import pools
from tocsin.flow.delivery.keep import Keeping
from tocsin.flow.delivery.recover import LONGEST_SECONDS, recover
from tocsin.flow.delivery.rendering import context_of, render_now, within_budget
from tocsin.flow.directory import Directory, Loaded
from tocsin.flow.egress import Egress
from tocsin.flow.pace import Pacer, handed_at, noted_paces
from tocsin.flow.pauses import SharedPauses
from tocsin.model import Refused, Status
from tocsin.ports.claims import Claimed, Claims
from tocsin.ports.ledger import UnderWay
from tocsin.ports.queue import Queue
from tocsin.ports.workers import Taken
from tocsin.settings import Settings

_LONGEST: Micros = int(LONGEST_SECONDS * SECOND)
_WINDOWS = {name: int(channel.window_seconds * SECOND) for name, channel in CHANNELS.items() if channel.paces is not unpaced}
_STARTS_OF_A_TEST = 2  # at the most: its provider may refuse the native form, and is then sent the plainest


class TakeOver:
    """See `tocsin.ports.workers.Succession`."""

    def __init__(
        self,
        claims: Claims,
        queue: Queue,
        directory: Directory,
        pacer: Pacer,
        egress: Egress,
        keeping: Keeping,
        pauses: SharedPauses,
    ) -> None:
        self._claims = claims
        self._queue = queue
        self._directory = directory
        self._pacer = pacer
        self._egress = egress
        self._keeping = keeping
        self._pauses = pauses

    async def take_over(self, taken: Sequence[Taken], ready: Callable[[int], None]) -> None:
        await self._pauses.read(frozenset(one.partition for one in taken))
        for one in taken:
            if not one.is_crashed:
                self._restore(one)
                ready(one.partition)
        crashed = {one.partition: one for one in taken if one.is_crashed}
        if not crashed:
            return
        claims = await self._claims.of(crashed.keys(), {one: clock.now() - longest for one, longest in _WINDOWS.items()})
        tests = await self._claims.noted(crashed.keys(), clock.now() - _LONGEST)
        await self._directory.prepare({claim.delivery.handler_id for claim in claims})
        claimed: dict[int, list[Claimed]] = defaultdict(list)
        for claim in claims:
            loaded = await self._directory.loaded(claim.delivery.handler_id)
            home = claim.delivery.partition if loaded is None else loaded.partition
            claimed[home if home in crashed else next(iter(crashed))].append(claim)
        for test in tests:
            self._pacer.remember(noted_paces(test.paces), [min(test.until, clock.now())] * _STARTS_OF_A_TEST, time.monotonic())

        async def of_one(partition: int) -> None:
            await self._recover(crashed[partition], claimed.get(partition, ()))
            ready(partition)

        ended = await asyncio.gather(*map(of_one, crashed), return_exceptions=True)  # one that waits keeps no other waiting
        for error in ended:
            if isinstance(error, BaseException):
                raise error

    async def kept(self) -> None:
        await self._pauses.kept()

    def hand_on(self, partitions: Collection[int]) -> Mapping[int, bytes]:
        return self._pacer.hand_on(partitions, time.monotonic())

    def drop(self) -> None:
        self._pacer.forget()

    def egress_used(self) -> Mapping[str, int]:
        return self._egress.used(time.monotonic())

    def share_egress(self, workers: int, used: Sequence[Mapping[str, int]], is_settled: bool) -> None:
        self._egress.share(workers, used, is_settled)

    def _restore(self, taken: Taken) -> None:
        if taken.state is not None:
            self._pacer.restore(taken.partition, taken.state, time.monotonic())

    async def _recover(self, taken: Taken, claimed: Sequence[Claimed]) -> None:
        """Windows first: attempts that are recorded as lost are due again at once."""
        released_at = 0 if taken.state is None else handed_at(taken.state)
        lost = [claim for claim in claimed if claim.is_open and claim.at >= released_at]  # earlier ones were let go before they began
        starts: dict[int, list[Micros]] = defaultdict(list)
        for claim in claimed:
            starts[claim.delivery.handler_id] += await self._starts_of(claim)
        for handler_id, times in starts.items():
            loaded = await self._directory.loaded(handler_id)
            if loaded is not None and loaded.paces:
                self._pacer.remember(loaded.paces, times, time.monotonic())
        under_way = [UnderWay(claim.delivery.id, claim.number, claim.replays, claim.at) for claim in lost]
        await recover(under_way, self._queue, self._directory, self._keeping, self._settings)

    async def _starts_of(self, claim: Claimed) -> list[Micros]:
        """When the parts of an attempt may have begun: what is not known counts as now. Which of them had arrived is kept only with the
        outcome, so where that is missing, any part may have gone out."""
        now, delivery = clock.now(), claim.delivery
        loaded = await self._directory.loaded(delivery.handler_id)
        if loaded is None or not loaded.paces:
            return []
        if claim.started_at is not None:
            further = delivery.part - 1 if delivery.status is Status.DELIVERED else delivery.part
            return [claim.started_at, *[now] * further]
        if not claim.is_open:
            return []
        return [now] * max(1, await self._parts_of(claim, loaded) - delivery.part)

    async def _parts_of(self, claim: Claimed, loaded: Loaded) -> int:
        for job in await self._queue.waiting([claim.delivery.id]):
            context = context_of(loaded, self._settings, clock.now(), "", delivery=job.delivery)
            requests = await within_budget(pools.here().rendering, render_now, loaded, job.notification.message, context)
            return 1 if isinstance(requests, Refused) else len(requests)
        return 1

    @property
    def _settings(self) -> Settings:
        return self._directory.service
