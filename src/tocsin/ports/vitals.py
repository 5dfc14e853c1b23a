"""How a store itself fares."""

from typing import Protocol


class Vitals(Protocol):
    @property
    def is_alive(self) -> bool:
        """False: it takes no writes any more."""
        ...

    @property
    def trouble(self) -> str | None:
        """What keeps the store from being read or written, in a sentence. Asking makes it check again soon."""
        ...

    @property
    def writes_waiting(self) -> int:
        """Number of writes that were asked for and are not committed yet."""
        ...

    async def backlog(self) -> int:
        """Pending deliveries of all users, due or not; a quick look."""
        ...

    async def size(self) -> int:
        """Bytes of the store and its log on the disk."""
        ...

    async def unused(self) -> int:
        """Bytes of the store that hold nothing."""
        ...
