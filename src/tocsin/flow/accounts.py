"""People at the pages: signing in and out, their keys, and what an administrator does with users."""

import asyncio
import secrets
import time
from collections.abc import Callable

from email_validator import EmailNotValidError, validate_email
from msgspec import Struct
from sqlalchemy import Connection

from tocsin import observe
from tocsin.flow.access import SCOPES
from tocsin.model import SECOND, Fault, Invalid, Micros, Missing
from tocsin.store import Store, people
from tocsin.store.people import KeyLine, Person, UserLine
from tocsin.vault import check_password, hash_api_key, hash_password, new_api_key, shown_key

IDLE: Micros = 14 * 86_400 * SECOND  # after which a session ends
SIGN_IN_LINK_LASTS: Micros = 86_400 * SECOND
LEAST_PASSWORD, MOST_PASSWORD = 10, 1024  # characters
MOST_NAME = 100
_TOO_SHORT = "A password has at least {least} characters."
_NAME_LENGTH = "A key has a name of {most} characters at most."
_NOTE_AFTER: Micros = 3600 * SECOND  # a session's use is written down once an hour
_FREE_TRIES = 5
_LONGEST_WAIT_SECONDS = 900.0
_FORGOTTEN_AFTER_SECONDS = 3600.0
_MOST_REMEMBERED = 10_000


class Throttled(Exception):
    """Too many attempts to sign in; `seconds` until the next one is looked at."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class _Tries:
    """Failed attempts by address and by account: from the sixth on each doubles the wait, until one succeeds or none came for an hour."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[int, float]] = {}

    def check(self, *whose: str) -> None:
        """Raises Throttled."""
        now = time.monotonic()
        wait = max(self._failed.get(one, (0, 0.0))[1] - now for one in whose)
        if wait > 0:
            raise Throttled(wait)

    def failed(self, *whose: str) -> None:
        now = time.monotonic()
        if len(self._failed) >= _MOST_REMEMBERED:
            self._failed = {one: (count, until) for one, (count, until) in self._failed.items() if until > now}
        for one in whose:
            before, until = self._failed.get(one, (0, 0.0))
            count = before + 1 if now - until < _FORGOTTEN_AFTER_SECONDS else 1
            wait = min(_LONGEST_WAIT_SECONDS, 2.0 ** (count - _FREE_TRIES)) if count > _FREE_TRIES else 0.0
            self._failed[one] = (count, now + wait)

    def succeeded(self, *whose: str) -> None:
        for one in whose:
            self._failed.pop(one, None)


class Visitor(Struct, frozen=True):
    """Who is signed in."""

    id: int
    email: str
    is_admin: bool


class Accounts:
    def __init__(self, store: Store, changed: Callable[[], None]) -> None:
        """`changed` is told when what others remember of keys and handlers may be wrong."""
        self._store = store
        self._changed = changed
        self._tries = _Tries()
        self._nobodys = ""  # a hash that is checked for accounts that are not there, so that they take as long

    # ------------------------------------------------------------------------------------------------------- signing in

    async def sign_in(self, email: str, password: str, address: str) -> str | None:
        """A new session's token; None if that is nobody. Takes as long whether there is such a user or not. Raises Throttled."""
        whose = (f"address {address}", f"account {email.strip().lower()}")
        self._tries.check(*whose)
        if not self._nobodys:  # for whoever comes first, so that it tells nothing; at the start it would hold up everything else
            self._nobodys = await asyncio.to_thread(hash_password, secrets.token_urlsafe(16))
        person = await self._store.ask(people.person, email.strip())
        hashed = person.password_hash if person is not None else None
        is_right = await asyncio.to_thread(check_password, hashed or self._nobodys, password[:MOST_PASSWORD])
        if person is None or hashed is None or not is_right:
            self._tries.failed(*whose)
            return None
        self._tries.succeeded(*whose)
        return await self._new_session(person.id)

    async def sign_in_by_link(self, token: str, address: str) -> str | None:
        """As `sign_in`, by the link that an administrator handed out; it works once."""
        self._tries.check(f"address {address}")
        user = await self._store.tell(people.take_sign_in, hash_api_key(token), observe.now())
        if user is None:
            self._tries.failed(f"address {address}")
            return None
        return await self._new_session(user)

    async def _new_session(self, user: int) -> str:
        token = secrets.token_urlsafe(32)
        now = observe.now()
        await self._store.tell(people.tidy_sessions, now - IDLE)
        await self._store.tell(people.add_session, user, hash_api_key(token), now)
        return token

    async def visitor(self, token: str) -> Visitor | None:
        """Whose session this is, if it has not ended."""
        now, token_hash = observe.now(), hash_api_key(token)
        found = await self._store.ask(people.session, token_hash, now - IDLE)
        if found is None:
            return None
        person, seen_at = found
        if now - seen_at > _NOTE_AFTER:
            await self._store.tell(people.touch_session, token_hash, now)
        return _visitor(person)

    async def sign_out(self, token: str) -> None:
        await self._store.tell(people.end_session, hash_api_key(token))

    async def sign_out_everywhere(self, user: int) -> None:
        await self._store.tell(people.end_sessions, user)

    async def change_password(self, visitor: Visitor, old: str, new: str, address: str) -> str:
        """The token of a new session; all others have ended. Without a password until now, `old` is not asked for.

        Raises Invalid, Throttled.
        """
        whose = (f"address {address}", f"account {visitor.email.lower()}")
        self._tries.check(*whose)
        person = await self._store.ask(people.person, visitor.email)
        faults: list[Fault] = []
        hashed = person.password_hash if person is not None else None
        if hashed is not None and not await asyncio.to_thread(check_password, hashed, old[:MOST_PASSWORD]):
            self._tries.failed(*whose)
            faults.append(Fault("invalid", "Wrong password", "This is not the present password.", "old"))
        if not LEAST_PASSWORD <= len(new) <= MOST_PASSWORD:
            faults.append(
                Fault(
                    "invalid",
                    "Not a usable value",
                    "A password has at least {least} characters.",
                    "new",
                    values={"least": str(LEAST_PASSWORD)},
                )
            )
        if faults:
            raise Invalid(*faults)
        await self._store.tell(people.set_password, visitor.id, await asyncio.to_thread(hash_password, new))
        return await self._new_session(visitor.id)

    async def has_password(self, visitor: Visitor) -> bool:
        person = await self._store.ask(people.person, visitor.email)
        return person is not None and person.password_hash is not None

    # ------------------------------------------------------------------------------------------------------------- keys

    async def keys(self, user: int) -> list[KeyLine]:
        return await self._store.ask(people.list_keys, user)

    async def add_key(self, user: int, name: str, scopes: tuple[str, ...]) -> str:
        """The new key, which nothing can show again. Raises Invalid."""
        name = " ".join(name.split())
        if not 0 < len(name) <= MOST_NAME:
            raise Invalid(Fault("required", "Required field", _NAME_LENGTH, "name", values={"most": str(MOST_NAME)}))
        wanted = tuple(scope for scope in SCOPES if scope in scopes)
        if not wanted:
            raise Invalid(Fault("required", "Required field", "A key must be allowed something.", "scopes"))
        key = new_api_key()
        kept = () if wanted == SCOPES else wanted
        await self._store.tell(people.add_key, user, name, hash_api_key(key), shown_key(key), kept, observe.now())
        return key

    async def revoke_key(self, user: int, key_id: int) -> None:
        """Works at once. Raises Missing."""
        if not await self._store.tell(people.revoke_key, key_id, observe.now(), user):
            raise Missing
        self._changed()

    # ------------------------------------------------------------------------------------------------------------ users

    async def users(self) -> list[UserLine]:
        return await self._store.ask(people.list_users)

    async def invite(self, email: str, is_admin: bool) -> tuple[str, str]:
        """Address and one-time sign-in token of a new user, or a new token of one that has never signed in. Raises Invalid."""
        try:
            address = address_of(email)
        except EmailNotValidError:
            raise Invalid(Fault("invalid", "Not a usable value", "This is not an e-mail address.", "email")) from None
        token = secrets.token_urlsafe(32)
        if not await self._store.tell(_invite, address, is_admin, hash_api_key(token), observe.now()):
            raise Invalid(Fault("invalid", "Not a usable value", "There is a user with this address already.", "email"))
        return address, token

    async def disable(self, by: Visitor, user: int) -> None:
        """As `tocsin users disable`. Raises Missing, and Invalid for oneself."""
        if user == by.id:
            raise Invalid(Fault("invalid", "Not possible", "You cannot disable yourself.", "user"))
        if all(one.id != user for one in await self.users()):
            raise Missing
        await self._store.tell(people.disable_user, user, observe.now())
        self._changed()


def address_of(email: str) -> str:
    """A user's address as it is kept. Raises EmailNotValidError."""
    return validate_email(email, check_deliverability=False, globally_deliverable=False).normalized


def _invite(connection: Connection, email: str, is_admin: bool, token_hash: bytes, now: Micros) -> bool:
    """A user and their link in one commit; False if there is one who can sign in already, or is disabled."""
    user = people.add_user(connection, email, is_admin, now)
    if user is None:
        person = people.person(connection, email)
        if person is None or person.password_hash is not None:
            return False
        user = person.id
    people.set_sign_in(connection, user, token_hash, now + SIGN_IN_LINK_LASTS)
    return True


def _visitor(person: Person) -> Visitor:
    return Visitor(person.id, person.email, person.is_admin)
