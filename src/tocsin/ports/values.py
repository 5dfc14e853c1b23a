"""Single values that are kept by name."""

from typing import Protocol


class Values(Protocol):
    async def read(self, name: str) -> bytes | None:
        """None: nothing was kept by that name."""
        ...

    async def write(self, name: str, value: bytes) -> None:
        """New, or in place of the one there was."""
        ...
