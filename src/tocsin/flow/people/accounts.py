"""People at the pages: signing in and out, their keys, and what an administrator does with users."""

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

from email_validator import EmailNotValidError
from msgspec import Struct

from tocsin import clock, zones
from tocsin.caches import Tidied
from tocsin.clock import DAY, HOUR, Micros
from tocsin.flow import pools
from tocsin.flow.people.access import SCOPES
from tocsin.model import Busy, Fault, Invalid, Missing
from tocsin.net.addresses import normalized
from tocsin.ports.people import By, KeyLine, Keys, Person, Sessions, UserLine, Users
from tocsin.ports.second_factors import SecondFactorRows
from tocsin.vault import check_password, hash_api_key, hash_of_nothing, hash_password, is_hash_of_old, new_api_key, shown_key

IDLE: Micros = 14 * DAY  # after which a session ends
SIGN_IN_LINK_LASTS: Micros = DAY
MIN_PASSWORD, MAX_PASSWORD = 10, 1024  # characters
MAX_NAME = 100
_TOO_SHORT = "A password takes at least {least} characters."
_NAME_LENGTH = "A key's name takes at most {most} characters."
_UNKNOWN_ZONE = "There is no time zone {name}. Use a name such as Asia/Seoul or Europe/Berlin."
_UNKNOWN_ZONE_LIKE = "There is no time zone {name}. Similar names: {like}."
_NOTE_AFTER: Micros = HOUR  # a session's use is written down once an hour
_FREE_TRIES, _FREE_TRIES_OF_MANY = 5, 50
_LONGEST_WAIT_SECONDS = 900.0
_FORGOTTEN_AFTER_SECONDS = 3600.0
_MAX_REMEMBERED = 10_000
MAX_WAITING_TRIES = 16  # of an address or an account, until it is known how those before them end

P = ParamSpec("P")
T = TypeVar("T")


class Throttled(Exception):
    """Too many attempts to sign in; `seconds` until the next one is looked at."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class _Try:
    """One attempt under way. `is_right` is set once that is known; an attempt that ends before counts neither way."""

    is_right: bool | None = None


class _Tries:
    """Failed attempts by address and by account: from the sixth on each doubles the wait, until one succeeds or none came for an hour.

    An attempt is counted before its password is looked at, as if it were to fail, so no more are looked at at once than may fail.
    """

    def __init__(self) -> None:
        self._failed: Tidied[str, tuple[int, float]] = Tidied(_MAX_REMEMBERED)
        self._under_way: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._one_ended = asyncio.Event()

    @asynccontextmanager
    async def one(self, *whose: str) -> AsyncGenerator[_Try, None]:
        """One attempt; where those under way may use up what is free, it waits until it is known whether they do. Raises Throttled."""
        self.check(*whose)
        if not self._may_begin(whose):
            await self._turn(whose)
        self._under_way.update(whose)
        attempt = _Try()
        try:
            yield attempt
        finally:
            self._take_off(self._under_way, whose)
            if attempt.is_right is not None:
                (self.succeeded if attempt.is_right else self.failed)(*whose)
            self._one_ended.set()
            self._one_ended = asyncio.Event()

    def _may_begin(self, whose: Iterable[str]) -> bool:
        """One at a time is always looked at, once its wait is over."""
        return all(not self._under_way[one] or self._under_way[one] + self._count(one) <= _free(one) for one in whose)

    async def _turn(self, whose: Sequence[str]) -> None:
        if any(self._waiting[one] >= MAX_WAITING_TRIES for one in whose):
            raise Throttled(1.0)
        self._waiting.update(whose)
        try:
            while not self._may_begin(whose):
                await self._one_ended.wait()
                self.check(*whose)
        finally:
            self._take_off(self._waiting, whose)

    @staticmethod
    def _take_off(counts: Counter[str], whose: Iterable[str]) -> None:
        for one in whose:
            counts[one] -= 1
            if counts[one] <= 0:
                del counts[one]

    def _count(self, one: str) -> int:
        count, until = self._failed.get(one, (0, 0.0))
        return count if time.monotonic() - until < _FORGOTTEN_AFTER_SECONDS else 0

    def check(self, *whose: str) -> None:
        """Raises Throttled."""
        now = time.monotonic()
        wait = max(self._failed.get(one, (0, 0.0))[1] - now for one in whose)
        if wait > 0:
            raise Throttled(wait)

    def failed(self, *whose: str) -> None:
        now = time.monotonic()
        for one in whose:
            count = self._count(one) + 1
            wait = min(_LONGEST_WAIT_SECONDS, 2.0 ** min(count - _free(one), 20)) if count > _free(one) else 0.0
            self._failed.add(one, (count, now + wait), lambda _, failed: failed[1] <= now)

    def succeeded(self, *whose: str) -> None:
        for one in whose:
            self._failed.pop(one, None)


def _free(one: str) -> int:
    """How many may fail before the next has to wait. What many people share locks them all out, so it takes more."""
    return _FREE_TRIES_OF_MANY if one.startswith("address shared ") else _FREE_TRIES


class Visitor(Struct, frozen=True):
    """Who is signed in. `time_zone`: the one they chose."""

    id: int
    email: str
    is_admin: bool
    time_zone: str | None = None
    by: By | None = None
    """How they signed in."""


class CodeWanted(Exception):
    """They are who they say, and have a second factor: their session begins with its code. `by`: how they have come so far."""

    def __init__(self, user: int, by: By) -> None:
        super().__init__()
        self.user, self.by = user, by


class Accounts:
    """Who may use the pages: signing in, sessions, passwords, keys and users. `user` is a user's id."""

    def __init__(
        self,
        users: Users,
        sessions: Sessions,
        keys: Keys,
        second_factors: SecondFactorRows,
        changed: Callable[[], None],
        user_changed: Callable[[int], None],
    ) -> None:
        """`changed` is told when what others remember of keys and handlers may be wrong, `user_changed` when it is of one user only."""
        self._users = users
        self._sessions = sessions
        self._keys = keys
        self._second_factors = second_factors
        self._changed = changed
        self._user_changed = user_changed
        self._tries = _Tries()
        self._nobodys = hash_of_nothing()  # is checked for accounts that are not there, so that they take as long

    # ------------------------------------------------------------------------------------------------------- signing in

    async def sign_in(self, email: str, password: str, address: str) -> str | None:
        """A new session's token; None if that is nobody. Takes as long whether there is such a user or not.

        Raises CodeWanted, Throttled, Busy.
        """
        async with self._tries.one(f"address {address}", f"account {email.strip().lower()}") as attempt:
            person = await self._users.person(email.strip())
            hashed = person.password_hash if person is not None else None
            fits = await _in_turn(address, check_password, hashed or self._nobodys, password[:MAX_PASSWORD])
            attempt.is_right = fits and hashed is not None
            if person is not None and hashed is not None and fits and is_hash_of_old(hashed):
                with contextlib.suppress(Busy):  # the next time is soon enough
                    renewed = await _in_turn(address, hash_password, password[:MAX_PASSWORD])
                    await self._users.renew_hash(person.id, hashed, renewed)
        return await self.begin(person.id, "password") if person is not None and attempt.is_right else None

    async def sign_in_by_link(self, token: str, address: str) -> str | None:
        """As `sign_in`, by the link that an administrator handed out; it works once."""
        self._tries.check(f"address {address}")
        user = await self._sessions.take_link(hash_api_key(token), clock.now())
        if user is None:
            self._tries.failed(f"address {address}")
            return None
        return await self.begin(user, "link")

    async def begin(self, user: int, by: By) -> str:
        """The token of a new session of who has shown who they are, but for a second factor. Raises CodeWanted, Busy."""
        if await self._second_factors.of(user) is not None:
            raise CodeWanted(user, by)
        return await self.new_session(user, by)

    async def new_session(self, user: int, by: By) -> str:
        """The token of a new session, for whom nothing more is asked."""
        token = secrets.token_urlsafe(32)
        now = clock.now()
        await self._sessions.add(user, hash_api_key(token), now, now - IDLE, by)
        return token

    async def visitor(self, token: str) -> Visitor | None:
        """Whose session this is, if it has not ended."""
        now, token_hash = clock.now(), hash_api_key(token)
        found = await self._sessions.find(token_hash, now - IDLE)
        if found is None:
            return None
        if now - found.seen_at > _NOTE_AFTER:
            await self._sessions.touch(token_hash, now)
        return _visitor(found.person, found.by)

    async def sign_out(self, token: str) -> None:
        """End the session with this token."""
        await self._sessions.end(hash_api_key(token))

    async def sign_out_everywhere(self, user: int) -> None:
        """End all sessions of this user, the current one too."""
        await self._sessions.end_all(user)

    async def change_password(self, visitor: Visitor, old: str, new: str, address: str) -> str:
        """The token of a new session; all others have ended. Without a password until now, `old` is not asked for.

        Raises Invalid, Throttled, Busy.
        """
        person = await self._users.person(visitor.email)
        hashed = person.password_hash if person is not None else None
        faults: list[Fault] = []
        if hashed is not None and not await self._is_present_password(visitor, hashed, old, address):
            faults.append(Fault("invalid", "Wrong password", "This is not the current password.", "old"))
        if not MIN_PASSWORD <= len(new) <= MAX_PASSWORD:
            faults.append(Fault("invalid", "Not a usable value", _TOO_SHORT, "new", values={"least": str(MIN_PASSWORD)}))
        if faults:
            raise Invalid(*faults)
        await self._users.set_password(visitor.id, await _in_turn(address, hash_password, new))
        return await self.new_session(visitor.id, visitor.by or "password")

    async def _is_present_password(self, visitor: Visitor, hashed: str, password: str, address: str) -> bool:
        """Counted like a sign-in where it is wrong."""
        async with self._tries.one(f"address {address}", f"account {visitor.email.lower()}") as attempt:
            is_right = await _in_turn(address, check_password, hashed, password[:MAX_PASSWORD])
            attempt.is_right = None if is_right else False
        return is_right

    async def has_password(self, visitor: Visitor) -> bool:
        person = await self._users.person(visitor.email)
        return person is not None and person.password_hash is not None

    async def set_time_zone(self, user: int, name: str) -> None:
        """Of their pages and messages, from now on; none where the name is empty. Raises Invalid, Busy."""
        zone = await pools.here().pages.run(user, zone_named, name) if name.strip() else None
        await self._users.set_time_zone(user, zone)
        self._user_changed(user)

    # ------------------------------------------------------------------------------------------------------------- keys

    async def keys(self, user: int) -> list[KeyLine]:
        return await self._keys.of(user)

    async def add_key(self, user: int, name: str, scopes: tuple[str, ...]) -> str:
        """The new key, which nothing can show again. Raises Invalid."""
        name = " ".join(name.split())
        if not 0 < len(name) <= MAX_NAME:
            raise Invalid(Fault("required", "Required field", _NAME_LENGTH, "name", values={"most": str(MAX_NAME)}))
        wanted = tuple(scope for scope in SCOPES if scope in scopes)
        if not wanted:
            raise Invalid(Fault("required", "Required field", "A key needs at least one permission.", "scopes"))
        key = new_api_key()
        kept = () if wanted == SCOPES else wanted
        await self._keys.add(user, name, hash_api_key(key), shown_key(key), kept, clock.now())
        return key

    async def revoke_key(self, user: int, key_id: int) -> None:
        """Works at once. Raises Missing."""
        if not await self._keys.revoke(key_id, clock.now(), user):
            raise Missing
        self._changed()

    # ------------------------------------------------------------------------------------------------------------ users

    async def users(self) -> list[UserLine]:
        return await self._users.all()

    async def invite(self, email: str, is_admin: bool) -> tuple[str, str]:
        """Address and one-time sign-in token of a new user, or a new token of one that has never signed in. Raises Invalid."""
        try:
            address = address_of(email)
        except EmailNotValidError:
            raise Invalid(Fault("invalid", "Not a usable value", "This is not an e-mail address.", "email")) from None
        token = secrets.token_urlsafe(32)
        now = clock.now()
        if not await self._users.invite(address, is_admin, hash_api_key(token), now, now + SIGN_IN_LINK_LASTS):
            raise Invalid(Fault("invalid", "Not a usable value", "There is already a user with this address.", "email"))
        return address, token

    async def disable(self, by: Visitor, user: int) -> None:
        """As `tocsin users disable`. Raises Missing, and Invalid for oneself and for the last administrator."""
        if user == by.id:
            raise Invalid(Fault("invalid", "Not possible", "You cannot disable yourself.", "user"))
        if all(one.id != user for one in await self.users()):
            raise Missing
        if not await self._users.disable(user, clock.now()):
            raise Invalid(Fault("invalid", "Not possible", "This is the last administrator.", "user"))
        self._changed()


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


async def _in_turn(address: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What takes 19 MiB and a core for a moment, one after the other, addresses in turn. Raises Busy."""
    return await pools.here().passwords.run(address, call, *args, **kwargs)


def _visitor(person: Person, by: By | None) -> Visitor:
    return Visitor(person.id, person.email, person.is_admin, person.time_zone, by)
