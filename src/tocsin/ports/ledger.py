"""Which attempts are under way, remembered across a crash."""

from collections.abc import Sequence
from typing import Protocol

from tocsin.clock import Micros


class InFlightLedger(Protocol):
    """Attempts under way, noted in what outlives the process."""

    @property
    def found(self) -> Sequence[tuple[int, int, Micros]]:
        """Delivery id, attempt number and start of every attempt that was under way when the last process ended."""
        ...

    def clear(self) -> None:
        """What was found has been dealt with; before that it must outlive another crash."""
        ...

    def begin(self, delivery_id: int, number: int, at: Micros) -> int:
        """The slot to be settled afterwards; -1: it goes unnoted."""
        ...

    def settled(self, slot: int) -> None:
        """Its outcome is kept."""
        ...
