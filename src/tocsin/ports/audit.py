"""The audit log: who did what, to what, from where and when. Rows are only added, and go when they are old."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from tocsin.acting import Via
from tocsin.clock import HOUR, Micros


class Act(StrEnum):
    """What is written down. Sending is not: notifications have a log of their own."""

    SIGNED_IN = "sign_in"
    SIGN_IN_FAILED = "sign_in.failed"
    NOT_CONFIRMED = "confirm.failed"
    CONFIRMED = "confirm"
    SESSION_ENDED = "session.ended"
    SESSIONS_ENDED = "session.others_ended"
    PASSWORD_SET = "password.set"  # noqa: S105  # a word, no password
    FACTOR_SET_UP = "second_factor.set_up"
    FACTOR_REMOVED = "second_factor.removed"
    CODES_RENEWED = "second_factor.codes_renewed"
    RECOVERY_CODE_USED = "second_factor.recovery_code_used"
    USER_ADDED = "user.added"
    LINK_MADE = "user.link_made"
    ROLE_CHANGED = "user.role_changed"
    USER_DISABLED = "user.disabled"
    USER_DELETED = "user.deleted"
    USER_BOUND = "user.bound"
    USER_UNBOUND = "user.unbound"
    KEY_ADDED = "key.added"
    KEY_REVOKED = "key.revoked"
    KEY_REFUSED = "key.refused"
    HANDLER_ADDED = "handler.added"
    HANDLER_CHANGED = "handler.changed"
    HANDLER_PAUSED = "handler.paused"
    HANDLER_ENABLED = "handler.enabled"
    HANDLER_DELETED = "handler.deleted"
    HANDLER_SWITCHED_OFF = "handler.switched_off"
    HANDLER_MOVED = "handler.moved"
    HANDLER_CONFIRMED = "handler.confirmed"
    HANDLER_UNSUBSCRIBED = "handler.unsubscribed"
    SECRET_READ = "secret.read"  # noqa: S105
    SECRET_ROTATED = "secret.rotated"  # noqa: S105
    SETTINGS_READ = "handler.settings_read"
    RETRIED = "delivery.retried"
    CANCELLED = "delivery.cancelled"
    OPTIONS_CHANGED = "service.options_changed"
    BACKED_UP = "store.backed_up"
    RESTORED = "store.restored"
    MOVED = "store.moved"
    KEY_ROTATED = "store.key_rotated"


NEW_FOR: Micros = HOUR  # users who have not signed in yet: what is set up meanwhile is no news to them
FAILURES = (Act.SIGN_IN_FAILED, Act.NOT_CONFIRMED, Act.KEY_REFUSED)


class Entry(Struct, frozen=True):
    """One row. `who` did it: a user's address, or the name of the person who ran a command. `whose` user it concerns, if any;
    `ref` and `name`: the handler, key or delivery. `detail`: more of it, such as the names of changed fields; never a secret.

    The words are kept beside the ids, since the log outlives what it speaks of.
    """

    id: int
    at: Micros
    via: Via
    act: str
    user_id: int | None
    who: str
    key_id: int | None
    address: str
    owner_id: int | None
    whose: str
    ref: int | None
    name: str
    detail: Mapping[str, object]


class News(Struct, frozen=True):
    """An entry that its owner is to be told of, and how they are written to."""

    entry: Entry
    email: str
    language: str | None
    time_zone: str | None


class AuditFilter(Struct, frozen=True):
    """Which rows: `concerns` a user, as who did it or as whose it was. `act`: one, or all that begin with it, such as `key`.
    `user`: a part of an address or name on either side. `before`: ids below that one.
    """

    concerns: int | None = None
    act: str = ""
    via: str = ""
    user: str = ""
    address: str = ""
    start: Micros | None = None
    end: Micros | None = None
    before: int | None = None


class AuditLog(Protocol):
    """What changes rows writes its entries in the same commit by itself; this is for what changes none."""

    async def add(
        self, act: Act, owner: int | None = None, ref: int | None = None, name: str = "", detail: Mapping[str, object] | None = None
    ) -> None:
        """By the actor of this context (`tocsin.acting`). Raises Busy."""
        ...

    async def page(self, which: AuditFilter, limit: int) -> list[Entry]:
        """The newest first."""
        ...

    async def news(self, after: int, acts: Sequence[Act], limit: int) -> list[News]:
        """Entries with ids above that one, the oldest first: those of users who are not disabled, and had signed in before or were not new.
        What the service did by itself is none."""
        ...
