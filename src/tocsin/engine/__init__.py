"""What brings due deliveries to workers. The delivery row is the truth, the engine only the alarm clock.

A lost wake-up is found by the sweep; a doubled one changes nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from msgspec import Struct

from tocsin.model import Micros
from tocsin.store import Waiting


class Tried(Struct):
    """What a worker brings back from an attempt. `answered`: the provider was there at all."""

    answered: bool


R = TypeVar("R", bound=Tried)


class Worker(Protocol[R]):
    """The flow, as the engine sees it. An attempt is kept apart from its settling, so that waiting for a commit blocks no place."""

    def is_prepared(self, handler_id: int) -> bool:
        """False: `prepare` must come before `turn`."""
        ...

    def turn(self, handler_id: int) -> float:
        """0 and a start is taken from the handler's pace, or the seconds until one may be free."""
        ...

    def in_flight(self, handler_id: int) -> int:
        """Attempts of this handler at the same time, at most."""
        ...

    async def prepare(self, handler_ids: Iterable[int]) -> None:
        """Have what `turn` needs in memory before the handlers' work is started."""
        ...

    async def attempt(self, job: Waiting) -> R:
        """Send once. Never raises."""
        ...

    async def settle(self, tried: R) -> Micros | None:
        """Keep what the attempt came to; when the delivery is due again, after the commit (None: it is settled). Never raises."""
        ...


class Engine(Protocol):
    async def start(self, worker: Worker[R]) -> None:
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
    def in_memory(self) -> int:
        """Due deliveries that are kept in memory."""
        ...

    @property
    def running(self) -> int:
        """Attempts that are not settled yet."""
        ...

    @property
    def is_alive(self) -> bool: ...

    def oldest_due(self) -> Micros | None:
        """When the longest waiting delivery that the engine knows of was due."""
        ...
