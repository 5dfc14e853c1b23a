"""For how long providers have asked to wait, kept for other processes: what concerns all of them, and what the next owner must know."""

from collections.abc import Collection, Sequence
from typing import Protocol

from msgspec import Struct

from tocsin.clock import Micros


class Pause(Struct, frozen=True):
    """`key`: a credential's, whose owner has its `partition`, or that of a realm (None), in which several processes may send."""

    key: str
    until: Micros
    partition: int | None


class Pauses(Protocol):
    """Raises Busy while the store cannot answer."""

    async def begin(self, pauses: Sequence[Pause], now: Micros) -> None:
        """Keep them; of the same key the longer one counts. Other processes are told of those of realms."""
        ...

    async def of(self, partitions: Collection[int], now: Micros) -> Sequence[Pause]:
        """Those that are not over, of these partitions and of all realms."""
        ...
