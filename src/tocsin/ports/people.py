"""Users, their keys and sessions."""

from enum import Enum, auto
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from tocsin.clock import Micros

MAX_SESSIONS = 100  # of a user
MAX_KNOWN_ADDRESSES, MARK_BYTES = 10, 8  # of a user


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
    known_addresses: bytes = b""
    """Marks of MARK_BYTES each."""
    language: str | None = None


By: TypeAlias = Literal["password", "link", "openid", "header"]
"""How somebody signed in."""


class Session(Struct, frozen=True):
    """One browser in which a user is signed in; only a hash of the token that it holds is kept.

    `by`: how they signed in; None in those of older versions. `device`: browser and system. `address`: where it was last seen.
    `confirmed_at`: when they last proved in it who they are.
    """

    token_hash: bytes
    user_id: int
    created_at: Micros
    seen_at: Micros
    by: By | None = None
    device: str = ""
    address: str = ""
    confirmed_at: Micros | None = None


class Living(Struct, frozen=True):
    """Which sessions have not ended: those seen since then that were made since then."""

    seen_since: Micros
    made_since: Micros


class Invited(Enum):
    """What became of an invitation. THERE_ALREADY: somebody who has a password, or is disabled."""

    DONE = auto()
    THERE_ALREADY = auto()
    LAST_ADMINISTRATOR = auto()


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
    expires_at: Micros | None = None

    def is_valid(self, now: Micros) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now)


class KeyRow(Struct, frozen=True):
    """An API key that may be used until it expires: neither it nor its user is revoked or disabled. No scopes means all."""

    id: int
    user_id: int
    scopes: tuple[str, ...]
    is_used: bool = True
    expires_at: Micros | None = None


class Users(Protocol):
    async def person(self, email: str) -> Person | None:
        """None too if they are disabled."""
        ...

    async def all(self) -> list[UserLine]:
        """Every user, disabled ones too, in the order of their ids."""
        ...

    async def invite(self, email: str, is_admin: bool, token_hash: bytes, at: Micros, until: Micros) -> Invited:
        """A user and their one-time link, in one commit. Somebody who is there without a password gets a new link, and this role."""
        ...

    async def set_role(self, user_id: int, is_admin: bool) -> bool:
        """False, and nothing is done, if nobody else could manage users."""
        ...

    async def set_password(self, user_id: int, password_hash: str) -> None:
        """All sessions of this user end, and a link that has not been used no longer works."""
        ...

    async def renew_hash(self, user_id: int, before: str, after: str) -> None:
        """The same password with a new hash; nothing happens if it was changed meanwhile."""
        ...

    async def set_time_zone(self, user_id: int, time_zone: str | None) -> None:
        """`time_zone`: a name of the tz database; None: UTC."""
        ...

    async def set_language(self, user_id: int, language: str) -> None:
        """In which they are written to."""
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

    async def add(self, session: Session, living: Living, mark: bytes) -> None:
        """Anybody's that have ended go, and the longest unused ones of this user beyond MAX_SESSIONS. `mark`: of the address, which is
        known for this user from now on; empty: it is not."""
        ...

    async def find(self, token_hash: bytes, living: Living) -> tuple[Person, Session] | None:
        """The session, and whose it is; None too if they are disabled."""
        ...

    async def of(self, user_id: int, living: Living) -> list[Session]:
        """A user's, the last used one first."""
        ...

    async def touch(self, token_hash: bytes, at: Micros, address: str) -> None:
        """The session was used at that time, from that address."""
        ...

    async def confirm(self, token_hash: bytes, at: Micros) -> None:
        """Its user proved who they are."""
        ...

    async def end(self, token_hash: bytes) -> None:
        """Sign out: nothing happens if there is no such session."""
        ...

    async def end_others(self, user_id: int, but: bytes) -> None:
        """All sessions of a user but the one with this hash."""
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

    async def add(
        self, user_id: int, name: str, key_hash: bytes, shown: str, scopes: tuple[str, ...], at: Micros, expires_at: Micros | None = None
    ) -> int:
        """The new key's id. `expires_at`: None: it does not."""
        ...

    async def revoke(self, key_id: int, at: Micros, user_id: int) -> bool:
        """False if it is not this user's, or was revoked before."""
        ...
