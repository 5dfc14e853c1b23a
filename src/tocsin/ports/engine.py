"""What brings due deliveries to workers. The delivery row is the truth, the engine only the alarm clock.

A lost wake-up is found by the sweep; a doubled one changes nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from tocsin.clock import Micros
from tocsin.ports.queue import Waiting

ANSWERED, STRAINED, UNANSWERED, UNTRIED = range(4)
"""How an attempt came back: answered; answered with a server error or a throttle; not answered; nothing went out, for a reason of ours."""


class Place(Protocol):
    """An attempt's place on the wire, which it gives back while it waits for something else."""

    def rest(self) -> None:
        """The attempt holds no place until it resumes."""
        ...

    async def resume(self) -> None:
        """Wait for a place again; nothing happens to an attempt that did not rest."""
        ...

    def alone(self, is_alone: bool, /) -> None:
        """Nothing else of its handler is to start beside it, as long as it is in flight or until it says otherwise."""
        ...


class Run(Place, Protocol):
    """One started delivery, as the engine follows it: the worker calls `came_back`, then `settled`, once each."""

    def came_back(self, how: int, /) -> None:
        """The attempt's place on the wire is free. `how`: ANSWERED or another of these."""
        ...

    def settled(self, due_at: Micros | None) -> None:
        """The outcome is kept; when the delivery is due again (None: never)."""
        ...


class Worker(Protocol):
    """The flow, as the engine sees it. An attempt is kept apart from its settling, so that waiting for a commit blocks no place."""

    def is_prepared(self, handler_id: int, /) -> bool:
        """False: `prepare` must come before `turn`."""
        ...

    def turn(self, handler_id: int) -> float:
        """0 and a start is taken from the handler's pace, or the seconds until one may be free."""
        ...

    def in_flight(self, handler_id: int) -> int:
        """The most attempts this handler may have in flight, however many its answers earn."""
        ...

    def wire(self, handler_id: int) -> str:
        """The name of the wire whose places its attempts take."""
        ...

    async def prepare(self, handler_ids: Iterable[int]) -> None:
        """Have what `turn` needs in memory before the handlers' work is started."""
        ...

    def start(self, job: Waiting, run: Run) -> None:
        """Send once and keep what came of it. Returns at once, never raises, and always tells `run`."""
        ...

    def cut_off(self) -> None:
        """End the attempts that are under way, with what is known of them."""
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

    def wake(self, handler_id: int, user_id: int, due_at: Micros) -> None:
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
