"""Users, their keys and sessions."""

from msgspec import Struct

from tocsin.clock import Micros


class UserLine(Struct, frozen=True):
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
