"""Which worker has begun what: the ledger of attempts in flight for processes on several machines."""

from collections.abc import Collection, Sequence
from typing import Protocol

from msgspec import Struct

from tocsin.clock import Micros
from tocsin.model import Delivery


class Claimed(Struct, frozen=True):
    """A delivery that was claimed, as its row is now. `at`: when the claim was made. `is_open`: its worker is dead, and no outcome of that
    attempt was kept; `number`: the attempt; `started_at`: when it began, if its outcome was kept."""

    delivery: Delivery
    number: int
    at: Micros
    is_open: bool
    started_at: Micros | None


class Claims(Protocol):
    """Raises Busy while the store cannot answer."""

    async def claim(self, worker_id: int, at: Micros, deliveries: Sequence[Delivery]) -> Collection[int] | None:
        """Note that these are about to be sent; the ids of those that may be. None: the worker has been pruned.

        Refused is what is not pending any more, has another attempt or due time than it has here, or is in a partition that is not the
        worker's, or not its handler's: such a row is to be moved first (`Queue.rehome`).
        """
        ...

    async def of(self, partitions: Collection[int], since: Micros, types: Collection[str] | None = None) -> Sequence[Claimed]:
        """What was claimed since then of these partitions' handlers, oldest first; only of handlers of those types, if they are named."""
        ...

    async def close(self) -> None: ...
