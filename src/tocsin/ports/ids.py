"""How far ids have come, and whose they are."""

from typing import Protocol

from msgspec import Struct


class Era(Struct, frozen=True, array_like=True):
    """An identity of the store, and the first delivery that has it."""

    first_delivery_id: int
    store_id: str


class Mark(Struct, frozen=True):
    """How far a store's ids had come, kept apart from it. `origin`: its first identity, which all copies of it share."""

    origin: str
    store_id: str
    counters: dict[str, int]


class Ids(Protocol):
    async def mark(self) -> Mark:
        """How far the ids have come now."""
        ...
