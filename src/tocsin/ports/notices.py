"""What owners are still to be told of handlers that the service switched off."""

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from tocsin.clock import Micros
from tocsin.model import Reason
from tocsin.ports.intake import Accept, Accepted

MAX_READ = 10_000  # handlers, told by one notice


class Untold(Struct, frozen=True):
    """A handler that was switched off, and why, in words. `by_notice`: it refused a notice. `is_unsubscribed`: its recipient did it."""

    user_id: int
    handler_id: int
    at: Micros
    reason: Reason
    why: str
    by_notice: bool
    is_unsubscribed: bool = False


class Telling(Struct, frozen=True):
    """A notice to be stored (None: no handler can deliver it), what it reports, and when the latest ones were sent, including this one.
    `told_before`: the same without it, as it was read."""

    user_id: int
    notice: Accept | None
    handler_ids: tuple[int, ...]
    told_at: tuple[Micros, ...]
    told_before: tuple[Micros, ...] = ()


class PendingNotices(Protocol):
    async def users(self) -> list[int]:
        """Those with something to be told."""
        ...

    async def untold(self, user_id: int) -> tuple[list[Untold], list[Micros]]:
        """The handlers that the owner does not know of, oldest first, and when the latest notices went."""
        ...

    async def language(self, user_id: int) -> str | None:
        """In which they are written to; None: not known."""
        ...

    async def candidates(self, user_id: int) -> list[tuple[int, Micros | None]]:
        """Enabled handlers that a notice may go through, and when they last took something: likely ones first."""
        ...

    async def tell(self, telling: Telling, committed: Callable[[list[Accepted]], None]) -> bool:
        """Keep a notice, and that its handlers have been told of. `committed` is told what it became, as by `Intake.accept`. False: another
        process has told this owner of something meanwhile, so nothing was done; look again."""
        ...
