"""All ports of processes that share a store, for the composition root. Only a store on PostgreSQL is shared."""

from collections.abc import Callable

from tocsin.ports.asks import Asks
from tocsin.ports.changes import Changes
from tocsin.ports.claims import Claims
from tocsin.ports.outlooks import Outlooks
from tocsin.ports.pauses import Pauses
from tocsin.ports.workers import Overview, Workers
from tocsin.store import overview
from tocsin.store.asks import SqlAsks
from tocsin.store.changes import SqlChanges
from tocsin.store.claims import SqlClaims
from tocsin.store.outlooks import SqlOutlooks
from tocsin.store.pauses import SqlPauses
from tocsin.store.sql import SqlStore
from tocsin.store.workers import SqlWorkers


class SharedStore:
    """Beside a `SqlStore`. `changed` is called when other processes changed something that this one may remember, or may have.

    To be made on the event loop that uses it.
    """

    def __init__(self, store: SqlStore, changed: Callable[[], None]) -> None:
        workers = SqlWorkers(store.database, changed)
        self.workers: Workers = workers
        self.asks: Asks = SqlAsks(workers)
        self.outlooks: Outlooks = SqlOutlooks(workers)
        self.claims: Claims = SqlClaims(store.database)
        self.pauses: Pauses = SqlPauses(store.database, workers)
        self.changes: Changes = SqlChanges(store.database)
        self._database = store.database

    async def overview(self) -> Overview:
        """Raises Busy."""
        return await self._database.read(overview.workers)

    async def close(self) -> None:
        """Before the store itself."""
        await self.asks.close()
        await self.outlooks.close()
        await self.workers.close()
        await self.claims.close()
