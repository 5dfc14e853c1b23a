"""What a process has that serves its store alone: files that outlive it, which note what is under way and what paces count."""

from collections.abc import Mapping

from tocsin import clock
from tocsin.datadir import LEDGER_FILE, STARTS_FILE
from tocsin.engine.ledger import Ledger
from tocsin.engine.local import LocalEngine
from tocsin.engine.places import Bounds
from tocsin.engine.starts import Starts
from tocsin.flow.delivery.deliver import Delivering
from tocsin.flow.delivery.health import end_stopped
from tocsin.flow.delivery.keep import Keeping
from tocsin.flow.delivery.recover import recover, resume_pace
from tocsin.flow.directory import Directory
from tocsin.flow.handlers.trial import Tests, Trials
from tocsin.flow.handlers.waits import OwnWaits, Waits
from tocsin.flow.pace import Pacer
from tocsin.metrics import Metrics
from tocsin.settings import Settings
from tocsin.store.sql import SqlStore


class Alone:
    """Raises StoreError where its files cannot be used."""

    overview = None
    """There are no others to look at."""

    def __init__(self, settings: Settings, store: SqlStore, wires: Mapping[str, Bounds]) -> None:
        self._settings = settings
        self._store = store
        self._starts = Starts(settings.data_path / STARTS_FILE, clock.now())
        self.ledger = Ledger(settings.data_path / LEDGER_FILE)
        self.pacer = Pacer(self._starts)
        self.engine = LocalEngine(store.queue, wires)

    async def begin(self, delivering: Delivering, directory: Directory, keeping: Keeping) -> None:
        """Send nothing before the attempts that the last process left under way are recorded. Raises Busy, and may be asked again."""
        queue = self._store.queue
        await recover(self.ledger.found, queue, directory, keeping, self._settings)
        self.ledger.clear()
        await end_stopped(queue, self.engine)
        if self._starts.is_new:
            await resume_pace(queue, directory, self.pacer)
            self._starts.complete()
        await self.engine.start(delivering)

    async def follow(self, *_: object) -> None:
        """The writer notices what commands write beside the service."""

    def watch(self, metrics: Metrics) -> None:
        """Numbers of what it has besides its engine."""

    def trials(self, trials: Trials) -> Tests:
        """Who sends tests."""
        return trials

    def api_processes(self) -> int:
        """How many processes take requests."""
        return 1

    def waits(self, directory: Directory) -> Waits:
        """Who knows what a handler's next start waits for."""
        return OwnWaits(directory, self.pacer)

    def leads(self) -> bool:
        """Whether it does what one process is to do for all."""
        return True

    @property
    def trouble(self) -> str | None:
        """What keeps it from sending, in a sentence."""
        return None if self.engine.is_alive else "Nothing is sent: the engine does not run."

    def listeners(self) -> list[tuple[str, int]]:
        """Where other processes of this service listen: no handler's URL may lead there either."""
        return []

    def may_be_old(self) -> bool:
        """Whether what is in memory may not be what the store holds."""
        return False

    async def close(self) -> None:
        """Before the store is closed."""

    def forget(self) -> None:
        """After the store was closed: nothing is noted any more."""
        self.ledger.close()
        self._starts.close()
