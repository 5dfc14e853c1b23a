"""Which worker has begun what: the ledger of attempts in flight for processes on several machines."""

from collections.abc import Collection, Sequence
from typing import Protocol

from msgspec import Struct

from tocsin.clock import Micros
from tocsin.model import Delivery


class Claimed(Struct, frozen=True):
    """A delivery that a dead worker had claimed, as its row is now. `at`: when the claim was made. `is_open`: no outcome of that attempt
    was kept; `number`: the attempt."""

    delivery: Delivery
    number: int
    at: Micros
    is_open: bool
    started_at: Micros | None


class Claims(Protocol):
    """Raises Busy while the store cannot answer."""

    async def claim(self, worker_id: int, at: Micros, deliveries: Sequence[Delivery]) -> Collection[int] | None:
        """Note that these are about to be sent; the ids of those that may be. None: the worker has been pruned."""
        ...

    async def of(self, partitions: Collection[int], since: Micros) -> Sequence[Claimed]:
        """What was claimed since then of these partitions."""
        ...
