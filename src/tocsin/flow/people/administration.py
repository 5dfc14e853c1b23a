"""Users, as they change themselves and as administrators do."""

import secrets
from collections.abc import Callable

from email_validator import EmailNotValidError

from tocsin import clock, zones
from tocsin.flow import pools
from tocsin.flow.people.accounts import SIGN_IN_LINK_LASTS
from tocsin.flow.people.clients import Visitor
from tocsin.model import Fault, Invalid, Missing
from tocsin.net.addresses import normalized
from tocsin.ports.people import Invited, UserLine, Users
from tocsin.vault import hash_api_key

MAX_NAME = 100
_UNKNOWN_ZONE = "There is no time zone {name}. Use a name such as Asia/Seoul or Europe/Berlin."
_UNKNOWN_ZONE_LIKE = "There is no time zone {name}. Similar names: {like}."
_LAST = Fault("invalid", "Not possible", "This is the last administrator.", "user")


class Administration:
    """`user` is a user's id."""

    def __init__(self, users: Users, changed: Callable[[], None], user_changed: Callable[[int], None]) -> None:
        """`changed` is told when what others remember of keys and handlers may be wrong, `user_changed` when it is of one user only."""
        self._users = users
        self._changed = changed
        self._user_changed = user_changed

    async def set_time_zone(self, user: int, name: str) -> None:
        """Of their pages and messages, from now on; none where the name is empty. Raises Invalid, Busy."""
        zone = await pools.here().pages.run(user, zone_named, name) if name.strip() else None
        await self._users.set_time_zone(user, zone)
        self._user_changed(user)

    async def set_language(self, user: int, language: str) -> None:
        """Of what the service itself writes to them. Raises Busy."""
        await self._users.set_language(user, language)

    async def users(self) -> list[UserLine]:
        return await self._users.all()

    async def invite(self, email: str, is_admin: bool) -> tuple[str, str]:
        """Address and one-time sign-in token of a new user, or a new token and this role of one who has no password. Raises Invalid."""
        try:
            address = address_of(email)
        except EmailNotValidError:
            raise Invalid(Fault("invalid", "Not a usable value", "This is not an e-mail address.", "email")) from None
        token = secrets.token_urlsafe(32)
        now = clock.now()
        done = await self._users.invite(address, is_admin, hash_api_key(token), now, now + SIGN_IN_LINK_LASTS)
        if done is Invited.THERE_ALREADY:
            raise Invalid(Fault("invalid", "Not a usable value", "There is already a user with this address.", "email"))
        if done is Invited.LAST_ADMINISTRATOR:
            raise Invalid(Fault("invalid", "Not possible", "This is the last administrator.", "email"))
        self._changed()  # of somebody who was invited before the role may be another
        return address, token

    async def set_role(self, by: Visitor, user: int, is_admin: bool) -> None:
        """As `tocsin users set --admin` and `--no-admin`. Raises Missing, and Invalid for oneself and for the last administrator."""
        if user == by.id:
            raise Invalid(Fault("invalid", "Not possible", "You cannot change your own role.", "user"))
        await self._there(user)
        if not await self._users.set_role(user, is_admin):
            raise Invalid(_LAST)
        self._user_changed(user)

    async def disable(self, by: Visitor, user: int) -> None:
        """As `tocsin users disable`. Raises Missing, and Invalid for oneself and for the last administrator."""
        if user == by.id:
            raise Invalid(Fault("invalid", "Not possible", "You cannot disable yourself.", "user"))
        await self._there(user)
        if not await self._users.disable(user, clock.now()):
            raise Invalid(_LAST)
        self._changed()

    async def _there(self, user: int) -> None:
        if all(one.id != user or one.disabled_at is not None for one in await self.users()):
            raise Missing


def address_of(email: str) -> str:
    """A user's address as it is kept. Raises EmailNotValidError."""
    return normalized(email)


def zone_named(name: str) -> str:
    """The zone as the tz database has it. Raises Invalid."""
    found = zones.canonical(name)
    if found is not None:
        return found
    name = name.strip()[:MAX_NAME] or '""'
    template, like = _UNKNOWN_ZONE, zones.like(name)
    if like:
        template = _UNKNOWN_ZONE_LIKE
    raise Invalid(Fault("invalid", "Not a usable value", template, "time_zone", values={"name": name, "like": ", ".join(like)}))
