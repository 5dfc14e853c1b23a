"""Users, their keys and sessions."""

from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from tocsin.clock import Micros


class UserLine(Struct, frozen=True):
    """A user in the list of users. `handlers`: how many they have, deleted ones not counted."""

    id: int
    email: str
    is_admin: bool
    created_at: Micros
    disabled_at: Micros | None
    time_zone: str | None
    handlers: int


class Person(Struct, frozen=True):
    """A user as the pages need them."""

    id: int
    email: str
    is_admin: bool
    password_hash: str | None
    time_zone: str | None


By: TypeAlias = Literal["password", "link", "openid", "header"]
"""How somebody signed in."""


class Session(Struct, frozen=True):
    """Whose session it is, when it was last seen, and how it began: None in those of older versions."""

    person: Person
    seen_at: Micros
    by: By | None


class KeyLine(Struct, frozen=True):
    """`shown` is the beginning of the key: enough to tell it from others, not to use it."""

    id: int
    email: str
    name: str
    shown: str
    scopes: tuple[str, ...]
    created_at: Micros
    last_used_at: Micros | None
    revoked_at: Micros | None


class KeyRow(Struct, frozen=True):
    """An API key that may be used: neither it nor its user is revoked or disabled. No scopes means all."""

    id: int
    user_id: int
    scopes: tuple[str, ...]
    is_used: bool = True


class Users(Protocol):
    async def person(self, email: str) -> Person | None:
        """None too if they are disabled."""
        ...

    async def all(self) -> list[UserLine]:
        """Every user, disabled ones too, in the order of their ids."""
        ...

    async def invite(self, email: str, is_admin: bool, token_hash: bytes, at: Micros, until: Micros) -> bool:
        """A user and their one-time link, in one commit; False if there is one who can sign in already, or is disabled."""
        ...

    async def set_password(self, user_id: int, password_hash: str) -> None:
        """Whoever is signed in as this user is signed out."""
        ...

    async def renew_hash(self, user_id: int, before: str, after: str) -> None:
        """The same password with a new hash; nothing happens if it was changed meanwhile."""
        ...

    async def set_time_zone(self, user_id: int, time_zone: str | None) -> None:
        """`time_zone`: a name of the tz database; None: UTC."""
        ...

    async def disable(self, user_id: int, at: Micros) -> bool:
        """Their keys and sessions end, their handlers go with their secrets, what waits is cancelled; the history stays.

        False, and nothing is done, if nobody else could manage users.
        """
        ...


class Sessions(Protocol):
    async def take_link(self, token_hash: bytes, at: Micros) -> int | None:
        """Whose one-time link this is; it is used up. None: there is none, or it is too old."""
        ...

    async def add(self, user_id: int, token_hash: bytes, at: Micros, since: Micros, by: By) -> None:
        """Those that nobody has used since then go."""
        ...

    async def find(self, token_hash: bytes, since: Micros) -> Session | None:
        """The session, if it was last seen not before `since`."""
        ...

    async def touch(self, token_hash: bytes, at: Micros) -> None:
        """The session was used at that time."""
        ...

    async def end(self, token_hash: bytes) -> None:
        """Sign out: nothing happens if there is no such session."""
        ...

    async def end_all(self, user_id: int) -> None:
        """All sessions of a user."""
        ...


class Keys(Protocol):
    async def find(self, key_hash: bytes) -> KeyRow | None:
        """None too if the key is revoked or its user disabled."""
        ...

    async def note_use(self, used: dict[int, Micros]) -> None:
        """When keys were last used, by id."""
        ...

    async def of(self, user_id: int) -> list[KeyLine]:
        """A user's keys, revoked ones too."""
        ...

    async def add(self, user_id: int, name: str, key_hash: bytes, shown: str, scopes: tuple[str, ...], at: Micros) -> int:
        """The new key's id."""
        ...

    async def revoke(self, key_id: int, at: Micros, user_id: int) -> bool:
        """False if it is not this user's, or was revoked before."""
        ...
