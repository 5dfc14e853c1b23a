"""Second factors and their recovery codes."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from tocsin.clock import Micros


class SecondFactor(Struct, frozen=True):
    """`secret` is sealed by the vault; `codes` are the hashes of the recovery codes that are left."""

    secret: bytes
    created_at: Micros
    codes: tuple[bytes, ...]


class SecondFactorRows(Protocol):
    async def of(self, user_id: int) -> SecondFactor | None:
        """None: they have none."""
        ...

    async def add(self, user_id: int, secret: bytes, step: int, codes: Sequence[bytes], at: Micros) -> bool:
        """A new one, whose code of that time step is used. False, and nothing is done, if there is one already."""
        ...

    async def use_step(self, user_id: int, step: int) -> bool:
        """False if a code of this time step, or of a later one, was used before."""
        ...

    async def use_code(self, user_id: int, code: bytes) -> bool:
        """The recovery code with this hash is used up. False if there is none."""
        ...

    async def renew_codes(self, user_id: int, codes: Sequence[bytes]) -> bool:
        """These in place of all that were left. False if they have no second factor."""
        ...

    async def remove(self, user_id: int) -> bool:
        """With its recovery codes. False if there was none."""
        ...
