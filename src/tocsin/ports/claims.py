"""Which worker has begun what: the ledger of attempts in flight for processes on several machines."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from tocsin.clock import HOUR, Micros
from tocsin.model import Delivery
from tocsin.ports.ledger import UnderWay

KEPT: Micros = HOUR
"""How long claims are kept: longer than any window of a pace lasts."""


class Claimed(Struct, frozen=True):
    """A delivery that was claimed, as its row is now; one for each attempt. `number`: the attempt. `at`: when it was last claimed.
    `is_open`: its worker is dead, and nothing is known of that attempt: the row has one attempt less, and if it is pending, it is due as it
    was claimed, or has been replayed since. `started_at`: when the attempt began, if it was kept. `replays`: how often the delivery
    had been replayed when it was claimed."""

    delivery: Delivery
    number: int
    at: Micros
    is_open: bool
    started_at: Micros | None
    replays: int


class Noted(Struct, frozen=True):
    """A start that is no delivery's: a test that goes out before `until`. `paces`: see `tocsin.flow.pace.paces_to_note`."""

    until: Micros
    paces: bytes


class Claims(Protocol):
    """Raises Busy while the store cannot answer."""

    async def claim(self, worker_id: int, at: Micros, deliveries: Sequence[Delivery]) -> Collection[int] | None:
        """Note that these are about to be sent; the ids of those that may be: pending, in a partition of this worker that is also
        their handler's, and as given (with the same `attempt_count`, `due_at` and `replays`). None: the worker has been pruned."""
        ...

    async def correct(self, worker_id: int, sent: Collection[UnderWay]) -> None:
        """A dead worker has sent `sent`, even if the store has lost its claims of that, and nothing else of what it had claimed last but
        what has an outcome."""
        ...

    async def note(self, worker_id: int, until: Micros, partition: int, paces: bytes) -> bool:
        """Note that something besides deliveries is about to be sent. False: that partition is not this worker's."""
        ...

    async def noted(self, partitions: Collection[int], since: Micros) -> Sequence[Noted]:
        """What was noted for these partitions and may have been sent since then."""
        ...

    async def of(self, partitions: Collection[int], since: Mapping[str, Micros]) -> Sequence[Claimed]:
        """What any worker claimed of deliveries whose handlers are in these partitions now, in the order of claims: since a time for
        each type of handler, and of dead workers whatever is open, of all types: nobody may have been there since."""
        ...

    async def close(self) -> None: ...
