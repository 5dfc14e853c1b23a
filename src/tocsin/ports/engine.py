"""What brings due deliveries to workers. The delivery row is the truth, the engine only the alarm clock.

The sweep finds a lost wake-up; a duplicate one changes nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from msgspec import Struct

from tocsin.clock import Micros
from tocsin.ports.queue import Waiting

ANSWERED, STRAINED, UNANSWERED, UNTRIED = range(4)
"""How an attempt ended: answered; answered with a server error or a throttle; not answered; nothing went out, for a reason on our side."""


class Place(Protocol):
    """An attempt's place on the wire, which it gives back while it waits for something else."""

    def rest(self) -> None:
        """The attempt holds no place until it resumes."""
        ...

    async def resume(self) -> None:
        """Wait for a place again; does nothing for an attempt that did not rest."""
        ...

    def alone(self, is_alone: bool, /) -> None:
        """Whether nothing else of its handler may start beside it while it is in flight, or until this is called with False."""
        ...


class Run(Place, Protocol):
    """One started delivery, as the engine follows it: the worker calls `came_back`, then `settled`, once each."""

    def came_back(self, how: int, /) -> None:
        """The attempt's place on the wire is free. `how`: ANSWERED or another of these."""
        ...

    def settled(self, due_at: Micros | None) -> None:
        """The outcome is stored; `due_at`: when the delivery is due again (None: never)."""
        ...


class Terms(Struct, frozen=True):
    """On what terms a handler's attempts start. `wire`: the name of the wire whose places they take; `in_flight`: the most that it may
    have at the same time, however many its answers justify. `partition`: None if that is not known. `is_paced`: starts are counted.
    """

    wire: str
    in_flight: int
    partition: int | None = None
    is_paced: bool = False


UNKNOWN = Terms("http", 1)
"""Of a handler that was never read."""


class Worker(Protocol):
    """The flow, as the engine sees it. An attempt is kept apart from its settling, so that waiting for a commit blocks no place."""

    def terms(self, handler_id: int, /) -> Terms | None:
        """As last known. None: `prepare` must come before `turn`."""
        ...

    def turn(self, handler_id: int) -> float:
        """Takes a start from the handler's pace and returns 0, or returns the seconds until one may be free."""
        ...

    def wait(self, handler_id: int) -> float:
        """What `turn` would say; nothing is taken."""
        ...

    def holds_back(self, handler_id: int, /) -> bool:
        """Whether nothing may start for this handler now, since what came of it could not be kept."""
        ...

    async def prepare(self, handler_ids: Iterable[int]) -> None:
        """Load what `turn` needs before the handlers' work is started."""
        ...

    def start(self, job: Waiting, run: Run) -> None:
        """Send once and store the outcome. Returns at once, never raises, and always tells `run`."""
        ...

    def cut_waiting(self) -> None:
        """End the attempts that wait for something of ours, such as the turn of their next part; not those that wait for an answer."""
        ...

    def cut_off(self) -> None:
        """End the attempts that are under way, with what is known about them."""
        ...


class Engine(Protocol):
    """Brings what is due to the worker. Its methods are called on the event loop."""

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
        """The store has something for this handler that is due then."""
        ...

    def forget(self, delivery_ids: Iterable[int]) -> None:
        """Do not start these deliveries any more."""
        ...

    def forget_handler(self, handler_id: int) -> None:
        """Do not start anything of this handler that is in memory."""
        ...

    @property
    def in_memory(self) -> int:
        """Number of due deliveries in memory."""
        ...

    @property
    def running(self) -> int:
        """Number of attempts that are not settled yet."""
        ...

    @property
    def is_alive(self) -> bool: ...

    def oldest_due(self) -> Micros | None:
        """When the longest waiting delivery that the engine knows of was due."""
        ...
