"""Who is calling: API keys, their scopes, and when they were last used."""

import contextlib
from collections.abc import Callable

from msgspec import Struct

from tocsin import clock
from tocsin.clock import Micros
from tocsin.model import Busy
from tocsin.ports.people import Keys
from tocsin.vault import hash_api_key

SEND = "notifications:send"
SCOPES = ("handlers:read", "handlers:write", SEND, "deliveries:read", "deliveries:write")
MAX_IN_MEMORY = 10_000  # keys


class Caller(Struct, frozen=True):
    """Whose key a request came with, and what it may do: `scopes`, all of them named."""

    user_id: int
    key_id: int
    scopes: frozenset[str]
    expires_at: Micros | None = None

    @property
    def sees_secrets(self) -> bool:
        """Only a key with every scope reads secrets in the clear."""
        return self.scopes.issuperset(SCOPES)


def _is_over(expires_at: Micros | None) -> bool:
    return expires_at is not None and expires_at <= clock.now()


class Access:
    """Known keys are kept in memory and dropped as soon as anything about keys or users changes.

    `may_be_old`: whether a change by another process may have gone unnoticed; the store is asked about every key then.
    """

    def __init__(self, keys: Keys, may_be_old: Callable[[], bool] = lambda: False) -> None:
        self._keys = keys
        self._may_be_old = may_be_old
        self._callers: dict[bytes, Caller] = {}
        self._used: dict[int, Micros] = {}
        self._changes = 0

    async def caller(self, api_key: str) -> Caller | None:
        """Whose key this is; None: unknown, revoked, expired, or its user is disabled. Raises Busy."""
        key_hash, may_be_old = hash_api_key(api_key), self._may_be_old()
        caller = None if may_be_old else self._callers.get(key_hash)
        if caller is None:
            changes = self._changes
            row = await self._keys.find(key_hash)
            if row is None or _is_over(row.expires_at):
                return None
            caller = Caller(row.user_id, row.id, frozenset(row.scopes or SCOPES), row.expires_at)
            if changes == self._changes and not may_be_old:
                if len(self._callers) >= MAX_IN_MEMORY:
                    self._callers.clear()
                self._callers[key_hash] = caller
            if not row.is_used:  # written down at once: "never" would be wrong
                with contextlib.suppress(Busy):
                    await self._keys.note_use({row.id: clock.now()})
        elif _is_over(caller.expires_at):
            del self._callers[key_hash]
            return None
        self._used[caller.key_id] = clock.now()
        return caller

    def forget_all(self) -> None:
        """Every key is read again when it is next used."""
        self._changes += 1
        self._callers.clear()

    async def note_use(self) -> None:
        """Write down when keys were last used; called once a minute."""
        used, self._used = self._used, {}
        if used:
            await self._keys.note_use(used)
