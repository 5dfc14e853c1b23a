"""Whether the person at an open session is its user: asked before what would let somebody else keep what an open session gives.

Each way to prove it is a `Way`; a password is the first.
"""

from collections.abc import Sequence
from typing import Protocol

from tocsin import clock
from tocsin.clock import MINUTE, Micros
from tocsin.flow.people.clients import Client, Visitor
from tocsin.flow.people.passwords import Passwords
from tocsin.flow.people.second_factor import SecondFactors
from tocsin.ports.people import Sessions

CONFIRMED_FOR: Micros = 10 * MINUTE


class Way(Protocol):
    """A way to prove who one is by something that is typed in. `name` is that of the form's field, without its beginning."""

    name: str

    async def is_open_to(self, visitor: Visitor) -> bool:
        """Whether they have what it takes."""
        ...

    async def is_right(self, visitor: Visitor, given: str, client: Client) -> bool:
        """Raises Throttled, Busy."""
        ...


class ByPassword:
    name = "password"

    def __init__(self, passwords: Passwords) -> None:
        self._passwords = passwords

    async def is_open_to(self, visitor: Visitor) -> bool:
        return await self._passwords.has_one(visitor)

    async def is_right(self, visitor: Visitor, given: str, client: Client) -> bool:
        return await self._passwords.is_right(visitor, given, client)


class ByCode:
    name = "code"

    def __init__(self, second_factors: SecondFactors) -> None:
        self._second_factors = second_factors

    async def is_open_to(self, visitor: Visitor) -> bool:
        return await self._second_factors.standing(visitor.id) is not None

    async def is_right(self, visitor: Visitor, given: str, client: Client) -> bool:
        return await self._second_factors.is_right(visitor, given, client)


class Confirming:
    def __init__(self, sessions: Sessions, ways: Sequence[Way]) -> None:
        self._sessions = sessions
        self._ways = ways

    def is_recent(self, visitor: Visitor) -> bool:
        """Whether they have proved it within the last minutes; signing in does so too."""
        return visitor.confirmed_at is not None and 0 <= clock.now() - visitor.confirmed_at < CONFIRMED_FOR

    async def ways(self, visitor: Visitor) -> list[str]:
        """The names of the ways that are open to them. Empty: by signing in again, as they did."""
        return [way.name for way in self._ways if await way.is_open_to(visitor)]

    async def confirm(self, visitor: Visitor, name: str, given: str, client: Client) -> bool:
        """Whether what was given for the way of this name proves it; if so, that is noted. Raises Throttled, Busy."""
        for way in self._ways:
            if way.name == name and await way.is_open_to(visitor) and await way.is_right(visitor, given, client):
                await self.note(visitor)
                return True
        return False

    async def note(self, visitor: Visitor) -> None:
        """They have proved it by other means, such as their provider's. Raises Busy."""
        await self._sessions.confirm(visitor.session, clock.now())
