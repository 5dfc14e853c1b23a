"""What the process that sends for a handler knows of its next start, for those that do not send for it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct


class Outlook(Struct, frozen=True):
    """What the next start waits for: so many `seconds`, because a pace allows no more (`pace`: its place among those of the handler), or,
    without one, because the provider asked for a pause."""

    seconds: float = 0.0
    pace: int | None = None


Known: TypeAlias = Mapping[int, Outlook | None]
"""By handler; None: the process that was asked does not send for it."""


class Outlooks(Protocol):
    async def ask(self, worker_id: int, handler_ids: Sequence[int], seconds: float) -> Known:
        """What that worker knows of these handlers; those that it does not know, or of which it has said nothing
        within so long, are left out. Raises Busy."""
        ...

    def answer_with(self, answer: Callable[[Sequence[int]], Awaitable[Known]]) -> None:
        """From now on questions to this worker are put on the event loop; what the answer leaves out is said to be unknown. What is
        raised there is logged, and nothing is said."""
        ...

    async def close(self) -> None:
        """What is being answered is given up."""
        ...
