"""Which attempts are under way, remembered across a crash."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from tocsin.clock import Micros
from tocsin.model import Delivery


class UnderWay(Struct, frozen=True):
    """An attempt that was under way when the last process ended. `replays`: how often its delivery had been sent again by hand when
    it began."""

    delivery_id: int
    number: int
    replays: int
    at: Micros


class InFlightLedger(Protocol):
    """Attempts under way, noted in what outlives the process."""

    @property
    def found(self) -> Sequence[UnderWay]:
        """What the last process left."""
        ...

    def clear(self) -> None:
        """What was found has been dealt with; before that it must outlive another crash."""
        ...

    def begin(self, delivery: Delivery, number: int, at: Micros) -> int:
        """The slot to be settled afterwards; -1: it goes unnoted. `delivery`: as it was when the attempt began."""
        ...

    def settled(self, slot: int) -> None:
        """Its outcome is kept."""
        ...
