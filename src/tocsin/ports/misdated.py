"""What was reckoned from a clock that was ahead, and that is right by now."""

from collections.abc import Sequence
from typing import Protocol

from tocsin.clock import SECOND, Micros

TOLERANCE: Micros = 2 * SECOND  # what is no further ahead is due now


class Misdated(Protocol):
    async def set_right(self, now: Micros) -> None:
        """What handlers keep of times that have not come yet was now."""
        ...

    async def bring_forward(self, now: Micros, waits: Sequence[Micros], limit: int) -> list[tuple[int, int]]:
        """Up to `limit` deliveries that are due later than what made them wait allows are due now; handler and user of each.

        `waits`: of the schedule's steps, with jitter. What a user scheduled stays as it is.
        """
        ...
