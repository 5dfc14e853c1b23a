"""What a process has that shares its store with others: a row among the workers, and partitions that it sends for."""

import os
import socket
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from tocsin import __version__, clock, datadir
from tocsin.changes import Feed
from tocsin.engine.ledger import Ledger
from tocsin.engine.places import Bounds
from tocsin.engine.shared import SharedEngine
from tocsin.engine.starts import Starts
from tocsin.flow.delivery.deliver import Delivering
from tocsin.flow.delivery.health import end_stopped
from tocsin.flow.delivery.keep import Keeping
from tocsin.flow.delivery.takeover import TakeOver
from tocsin.flow.directory import Directory
from tocsin.flow.egress import Egress
from tocsin.flow.handlers.at_owner import TrialsByOwners
from tocsin.flow.handlers.placing import place_all
from tocsin.flow.handlers.trial import Tests, Trials
from tocsin.flow.handlers.waits import OwnWaits, Waits, WaitsOfOwners
from tocsin.flow.pace import Pacer
from tocsin.flow.pauses import SharedPauses
from tocsin.flow.people.access import Access
from tocsin.metrics import Metrics
from tocsin.ports.workers import Beat, Introduction, Overview
from tocsin.settings import Settings
from tocsin.store.shared import SharedStore
from tocsin.store.sql import SqlStore
from tocsin.vault import Vault

MAX_AGE_SECONDS = 2.0  # of the last beat, for a process that answers from memory
LOST_TOUCH = "This process has lost touch with the others on its store."


class Among:
    """`address`: where it can be reached."""

    def __init__(self, settings: Settings, vault: Vault, store: SqlStore, wires: Mapping[str, Bounds], address: str) -> None:
        self._settings = settings
        self._vault = vault
        self._store = store
        self._shared = SharedStore(store, self._heard)
        self._feed: Feed | None = None
        self._api_processes = 1  # processes that take requests, as of the last beat
        self._egress = Egress()
        self.ledger = Ledger(settings.data_path / datadir.LEDGER_FILE)  # tells which of what was claimed went out
        self._starts = Starts(settings.data_path / datadir.STARTS_FILE, clock.now())  # of this process before: pauses leave no claim
        self.pacer = Pacer(self._starts, egress=self._egress)
        self._pauses = SharedPauses(self._shared.pauses, self.pacer)
        name = f"{socket.gethostname()}-{os.getpid()}"
        who = Introduction(name, settings.role, address, settings.egress, __version__)
        self.engine = SharedEngine(store.queue, wires, self._shared.workers, self._shared.claims, who, self._saw)
        self.pacer.fence = self.engine.fence

    def _heard(self) -> None:
        if self._feed is not None:
            self._feed.heard()

    def _saw(self, beat: Beat) -> None:
        self._api_processes = max(1, sum(one.introduction.accepts and not one.is_leaving for one in beat.members))
        if self._feed is not None:
            self._feed.heard(beat.newest_change)

    async def follow(
        self, user_changed: Callable[[int], None], directory: Directory, access: Access, everything: Callable[[], None]
    ) -> None:
        """Until cancelled: forget what other processes change."""
        self._feed = Feed(self._shared.changes, user_changed, directory, access, everything, self._pauses.read)
        self._feed.heard()
        await self._feed.follow()

    async def begin(self, delivering: Delivering, directory: Directory, keeping: Keeping) -> None:
        """Join the others. Nothing is accepted or sent before each of them knows of this process. Raises Busy, and may be asked again.

        The process that had this data directory before is dead, since its lock is ours: nobody needs to wait for its beat.
        """
        await place_all(self._store.handlers, self._vault, self._settings)
        await end_stopped(self._store.queue, self.engine)
        store_id = (await self._store.ids.mark()).store_id
        if (dead := datadir.noted_worker(self._settings, store_id)) is not None:
            if dead.has_ledger:
                await self._shared.claims.correct(dead.worker_id, self.ledger.found)
            await self._shared.workers.leave(dead.worker_id)
            datadir.forget_worker(self._settings)
        self.ledger.clear()
        self.engine.succession = TakeOver(
            self._shared.claims, self._store.queue, directory, self.pacer, self._egress, keeping, self._pauses
        )
        await self.engine.start(delivering)
        self._starts.complete()
        datadir.note_worker(self._settings, store_id, self.engine.worker_id, self.ledger.is_kept)

    async def overview(self) -> Overview:
        """Who there is, and what waits where. Raises Busy."""
        return await self._shared.overview()

    def watch(self, metrics: Metrics) -> None:
        engine = self.engine
        metrics.watch("tocsin_partitions", "Partitions that this worker sends for.", lambda: engine.partitions)
        metrics.watch("tocsin_beat_age_seconds", "How long ago this process last saw the others.", lambda: engine.beat_age)
        metrics.watch("tocsin_workers", "Processes on this store, as this one sees them.", lambda: len(engine.members))
        metrics.watch("tocsin_partitions_taken_over", "Partitions that were taken from workers that had died.", lambda: engine.taken_over)
        metrics.watch("tocsin_fenced", "How often others took this worker for dead.", lambda: engine.times_fenced)
        metrics.watch("tocsin_claims", "Deliveries that were claimed before they were sent.", lambda: engine.claimed)

    def trials(self, trials: Trials) -> Tests:
        return TrialsByOwners(trials, self.engine, self._shared.asks, self._shared.claims, self._vault)

    def api_processes(self) -> int:
        return self._api_processes

    def waits(self, directory: Directory) -> Waits:
        return WaitsOfOwners(OwnWaits(directory, self.pacer), self.engine, self._shared.outlooks)

    def leads(self) -> bool:
        return self.engine.is_leader

    def listeners(self) -> list[tuple[str, int]]:
        found = [urlsplit(one.introduction.address) for one in self.engine.members]
        return [(one.hostname, one.port) for one in found if one.hostname and one.port]

    @property
    def trouble(self) -> str | None:
        if self.engine.refusal:
            return self.engine.refusal
        if not self.engine.is_alive:
            return "Nothing is sent: the engine does not run."
        return LOST_TOUCH if self.may_be_old() else None

    def may_be_old(self) -> bool:
        return self.engine.beat_age > MAX_AGE_SECONDS

    async def close(self) -> None:
        await self._pauses.close()
        await self._shared.close()

    def forget(self) -> None:
        """After the store was closed: nothing is noted any more."""
        self.ledger.close()
        self._starts.close()
