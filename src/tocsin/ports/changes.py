"""What other processes have changed in the store that this one may remember."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct


class Change(Struct, frozen=True):
    """Something of which what is remembered may be wrong. `what`: a "handler" (`ref`: its id, `user_id`: whose), a "user" (`ref`: the id;
    what all of their handlers are loaded with, or whether they may do anything at all), a "key" (`ref`: its id), "everything", or
    a "pause": of a realm, in which somebody was asked to wait; nothing is wrong then, but there is more to know."""

    id: int
    what: str
    ref: int | None
    user_id: int | None


class Changes(Protocol):
    """In the order of their commits: who has read one has read all before it. Old ones are deleted, so who has not looked for as long as
    that (`KEPT_SECONDS`) must forget everything. Raises Busy while the store cannot answer."""

    async def newest(self) -> int:
        """The id of the newest one, 0 without any."""
        ...

    async def after(self, change_id: int, limit: int) -> Sequence[Change]:
        """Those that came after, oldest first; its own too."""
        ...


KEPT_SECONDS = 3600.0
