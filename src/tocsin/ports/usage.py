"""What users have used of their quotas."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol

from msgspec import Struct

ROW_BYTES = 400  # of a notification or a delivery beside its texts, with its entries in the indexes


class What(IntEnum):
    """What is counted for a day. MAILED_TO: mails to one mailbox, by its mark."""

    SENT = 1
    MAILED = 2
    MAILED_TO = 3


class Used(Struct, frozen=True):
    """So many, in a day (counted since 1970, UTC). `mark`: whose mailbox, for MAILED_TO."""

    user_id: int
    day: int
    what: int
    mark: str
    n: int


class Owned(Struct, frozen=True):
    """What a user has now: `stored_bytes` is an estimate, of texts and of rows."""

    handlers: int
    keys: int
    stored_bytes: int


class UsageRows(Protocol):
    """Raises Busy while the store cannot answer."""

    async def of(self, day: int) -> list[Used]:
        """All that was counted on that day."""
        ...

    async def add(self, used: Sequence[Used]) -> None:
        """To what was counted before. Users that are gone are left out."""
        ...

    async def owned(self, user_id: int) -> Owned: ...

    async def is_admin(self, user_id: int) -> bool: ...
