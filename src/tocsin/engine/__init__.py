"""What brings due deliveries to workers. The delivery row is the truth, the engine only the alarm clock.

A lost wake-up is found by the sweep; a doubled one changes nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from msgspec import Struct

from tocsin.model import Micros
from tocsin.store import Waiting


class Done(Struct, frozen=True):
    """What a worker reports: when the delivery is due again (None: it is settled), and whether the provider was there at all."""

    due_at: Micros | None
    answered: bool = True


class Worker(Protocol):
    """The flow, as the engine sees it."""

    def turn(self, handler_id: int) -> float:
        """0 and a start is taken from the handler's pace, or the seconds until one may be free."""
        ...

    def in_flight(self, handler_id: int) -> int:
        """Attempts of this handler at the same time, at most."""
        ...

    async def prepare(self, handler_ids: Iterable[int]) -> None:
        """Have what `turn` needs in memory before the handlers' work is started."""
        ...

    async def deliver(self, job: Waiting) -> Done:
        """One attempt, settled and committed. Never raises."""
        ...


class Engine(Protocol):
    async def start(self, worker: Worker) -> None:
        """Pick up everything unsettled, then run until stopped."""
        ...

    async def stop(self, grace_seconds: float) -> None:
        """Start nothing more, let attempts in flight end within the grace, then cut them off."""
        ...

    def hand_over(self, jobs: Sequence[Waiting]) -> None:
        """Fresh deliveries that are due now, after their commit. What does not fit in memory stays in the store."""
        ...

    def wake(self, handler_id: int, due_at: Micros) -> None:
        """The store holds something of this handler that is due then."""
        ...

    def forget(self, delivery_ids: Iterable[int]) -> None:
        """These are no longer to be started."""
        ...

    def forget_handler(self, handler_id: int) -> None:
        """Nothing of this handler that is in memory is to be started."""
        ...

    @property
    def in_memory(self) -> int: ...

    @property
    def running(self) -> int: ...

    @property
    def is_alive(self) -> bool: ...

    def oldest_due(self) -> Micros | None:
        """When the longest waiting delivery that the engine knows of was due."""
        ...
