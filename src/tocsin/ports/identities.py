"""Who a user is elsewhere: at an OpenID provider, or for a proxy that has signed them in."""

from enum import Enum, auto
from typing import Protocol

from msgspec import Struct

from tocsin.clock import Micros


class Arrival(Enum):
    """What became of somebody who arrived from elsewhere."""

    KNOWN = auto()
    BOUND = auto()
    """A user who was there before is now known by this identity."""
    CREATED = auto()
    UNKNOWN = auto()
    """No user is theirs, and none is to be made."""
    DISABLED = auto()
    TAKEN = auto()
    """A user has this address who is somebody else at the same provider."""


class Arrived(Struct, frozen=True):
    """`user`: their id, where they may come in. `keeps_role`: they should no longer be an administrator, and are the last one."""

    how: Arrival
    user: int | None = None
    keeps_role: bool = False


class Identity(Struct, frozen=True):
    issuer: str
    subject: str


class Identities(Protocol):
    async def arrive(self, identity: Identity | None, email: str | None, creates: bool, is_admin: bool | None, at: Micros) -> Arrived:
        """By the identity if it is bound to a user; else by the address, to whose user it is bound from now on.

        `identity` None: by the address alone. `email` None: it cannot be relied on. `creates`: whether there is to be a user with this
        address where there is none. `is_admin`: whether they are an administrator from now on; None: as it is.
        """
        ...

    async def use_up(self, token_hash: bytes, at: Micros, until: Micros) -> bool:
        """False if this was used up before. It is remembered until then."""
        ...
