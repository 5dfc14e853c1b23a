"""A user's API keys, as the pages show and make them."""

from collections.abc import Callable

from tocsin import clock
from tocsin.clock import Micros
from tocsin.flow.people.access import SCOPES
from tocsin.flow.quotas import Quotas, too_many_keys
from tocsin.model import Fault, Invalid, Missing
from tocsin.ports.people import KeyLine, Keys
from tocsin.vault import hash_api_key, new_api_key, shown_key

MAX_NAME = 100
_NAME_LENGTH = "A key's name takes at most {most} characters."


class OwnKeys:
    """`user` is a user's id."""

    def __init__(self, keys: Keys, quotas: Quotas, changed: Callable[[], None]) -> None:
        """`changed` is told when what others remember of keys may be wrong."""
        self._keys = keys
        self._quotas = quotas
        self._changed = changed

    async def of(self, user: int) -> list[KeyLine]:
        return await self._keys.of(user)

    async def add(self, user: int, name: str, scopes: tuple[str, ...], expires_at: Micros | None = None) -> str:
        """The new key, which nothing can show again. `expires_at`: None: it does not. Raises Invalid."""
        name = " ".join(name.split())
        if not 0 < len(name) <= MAX_NAME:
            raise Invalid(Fault("required", "Required field", _NAME_LENGTH, "name", values={"most": str(MAX_NAME)}))
        wanted = tuple(scope for scope in SCOPES if scope in scopes)
        if not wanted:
            raise Invalid(Fault("required", "Required field", "A key needs at least one permission.", "scopes"))
        if expires_at is not None and expires_at <= clock.now():
            raise Invalid(Fault("invalid", "Not a usable value", "A key must expire in the future.", "expires"))
        most = await self._quotas.most_keys(user)
        if most and sum(one.is_valid(clock.now()) for one in await self._keys.of(user)) >= most:
            raise too_many_keys(most)
        key = new_api_key()
        kept = () if wanted == SCOPES else wanted
        await self._keys.add(user, name, hash_api_key(key), shown_key(key), kept, clock.now(), expires_at)
        return key

    async def revoke(self, user: int, key_id: int) -> None:
        """Works at once. Raises Missing."""
        if not await self._keys.revoke(key_id, clock.now(), user):
            raise Missing
        self._changed()
