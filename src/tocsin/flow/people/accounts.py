"""Signing in to the pages and out of them: how a session begins, whose it is, and how it ends."""

import contextlib
import secrets

from msgspec import Struct

from tocsin import clock
from tocsin.clock import DAY, HOUR, Micros
from tocsin.flow.people import passwords
from tocsin.flow.people.clients import Client, Visitor, device_of
from tocsin.flow.people.devices import Devices
from tocsin.flow.people.failures import Failures
from tocsin.flow.people.tries import Counted, Tries
from tocsin.model import Busy, Missing
from tocsin.ports.audit import Act
from tocsin.ports.people import By, Living, Person, Session, Sessions, Users
from tocsin.ports.second_factors import SecondFactorRows
from tocsin.settings import Settings
from tocsin.vault import fingerprint, hash_api_key, hash_of_nothing, hash_password, is_hash_of_old

IDLE: Micros = 14 * DAY  # after which a session ends
SIGN_IN_LINK_LASTS: Micros = DAY
MAX_EMAIL_BYTES = 320  # https://www.rfc-editor.org/rfc/rfc3696#section-3
_NOTE_AFTER: Micros = HOUR  # a session's use is written down once an hour


class Opened(Struct, frozen=True):
    """A session that has just begun: its token, and the cookie that marks this browser from now on."""

    token: str
    device: str


class SessionLine(Struct, frozen=True):
    """A session in its user's list. `id` stands for it in a form; `is_this`: the one that asks."""

    id: str
    device: str
    address: str
    created_at: Micros
    seen_at: Micros
    is_this: bool


class CodeWanted(Exception):
    """They are who they say, and have a second factor: their session begins with its code. `by`: how they have come so far. `proof`: by
    which password, as `Accounts.new_session_by_password` takes it.
    """

    def __init__(self, user: int, by: By, proof: str = "") -> None:
        super().__init__()
        self.user = user
        self.by: By = by
        self.proof = proof


class Accounts:
    """`user` is a user's id."""

    def __init__(
        self,
        users: Users,
        sessions: Sessions,
        second_factors: SecondFactorRows,
        devices: Devices,
        tries: Tries,
        settings: Settings,
        failures: Failures,
    ) -> None:
        self._users = users
        self._sessions = sessions
        self._second_factors = second_factors
        self._devices = devices
        self._tries = tries
        self._failures = failures
        self._longest: Micros = settings.session_days * DAY
        self._nobodys = hash_of_nothing()  # is checked for accounts that are not there, so that they take as long

    # ------------------------------------------------------------------------------------------------------- signing in

    async def sign_in(self, email: str, password: str, client: Client) -> Opened | None:
        """None if that is nobody. Takes as long whether there is such a user or not. Raises CodeWanted, Throttled, Busy."""
        person = await self._checked(email, password, client)
        if person is None:
            return None
        if await self._second_factors.of(person.id) is not None:
            raise CodeWanted(person.id, "password", _proof(person))
        return await self.new_session_by_password(person.id, _proof(person), client)

    async def _checked(self, email: str, password: str, client: Client) -> Person | None:
        """Whose address and password these are."""
        email = email.strip()
        if len(email.encode("utf-8", "replace")) > MAX_EMAIL_BYTES:
            await self._failed(None, client, "password")
            return None
        person = await self._users.person(email)
        counted = self._devices.counted(person, email, client)
        async with self._tries.one(counted) as one:
            hashed = person.password_hash if person is not None else None
            fits = await passwords.fits(hashed or self._nobodys, password, counted, client)
            one.is_right = fits and hashed is not None
            if person is not None and hashed is not None and fits and is_hash_of_old(hashed):
                with contextlib.suppress(Busy):  # the next time is soon enough
                    renewed = await passwords.in_turn(counted, client, hash_password, password)
                    await self._users.renew_hash(person.id, hashed, renewed)
                    person = await self._users.person(person.email)  # another sign-in may have been first
        if not one.is_right:
            await self._failed(person.id if person is not None else None, client, "password")
            return None
        return person

    async def _failed(self, user: int | None, client: Client, how: By) -> None:
        await self._failures.note(Act.SIGN_IN_FAILED, client.address, client.counted_as, user, by=how)

    async def sign_in_by_link(self, token: str, client: Client) -> Opened | None:
        """As `sign_in`, by the link that an administrator handed out; it works once."""
        counted = Counted(f"address {client.counted_as}")
        self._tries.check(counted)
        user = await self._sessions.take_link(hash_api_key(token), clock.now())
        if user is None:
            self._tries.failed(counted)
            await self._failed(None, client, "link")
            return None
        return await self.begin(user, "link", client)

    async def begin(self, user: int, by: By, client: Client) -> Opened:
        """A new session of who has shown who they are, but for a second factor. Raises CodeWanted, Busy."""
        if await self._second_factors.of(user) is not None:
            raise CodeWanted(user, by)
        return await self.new_session(user, by, client)

    async def new_session_by_password(self, user: int, proof: str, client: Client) -> Opened | None:
        """None if the password that `proof` stands for is not theirs any more. A new one ends all sessions, but none that is about to
        begin, so this looks once the session is there. Raises Busy.
        """
        opened = await self.new_session(user, "password", client)
        found = await self._sessions.find(hash_api_key(opened.token), self._living(clock.now()))
        if found is not None and _proof(found[0]) == proof:
            return opened
        await self.sign_out(opened.token)
        return None

    async def new_session(self, user: int, by: By, client: Client) -> Opened:
        """A session of who has just proved who they are, and from whom nothing more is asked. Raises Busy."""
        token = secrets.token_urlsafe(32)
        now = clock.now()
        session = Session(hash_api_key(token), user, now, now, by, device_of(client.agent), client.address, now)
        await self._sessions.add(session, self._living(now), self._devices.mark(client))
        return Opened(token, self._devices.cookie(user, client))

    # -------------------------------------------------------------------------------------------------------- signed in

    def _living(self, now: Micros) -> Living:
        return Living(now - IDLE, now - self._longest)

    async def visitor(self, token: str, client: Client) -> Visitor | None:
        """Whose session this is, if it has not ended."""
        now = clock.now()
        found = await self._sessions.find(hash_api_key(token), self._living(now))
        if found is None:
            return None
        person, session = found
        if now - session.seen_at > _NOTE_AFTER:
            await self._sessions.touch(session.token_hash, now, client.address)
        return Visitor(
            person.id,
            person.email,
            person.is_admin,
            person.time_zone,
            session.by,
            session.token_hash,
            session.confirmed_at,
            person.language,
        )

    async def sessions(self, visitor: Visitor) -> list[SessionLine]:
        """The visitor's own, the last used one first."""
        return [
            SessionLine(_shown_id(one), one.device, one.address, one.created_at, one.seen_at, one.token_hash == visitor.session)
            for one in await self._sessions.of(visitor.id, self._living(clock.now()))
        ]

    # ------------------------------------------------------------------------------------------------------- signing out

    async def sign_out(self, token: str) -> None:
        """End the session with this token."""
        await self._sessions.end(hash_api_key(token))

    async def end_session(self, visitor: Visitor, session_id: str) -> None:
        """End one of the visitor's own. Raises Missing."""
        for one in await self._sessions.of(visitor.id, self._living(clock.now())):
            if _shown_id(one) == session_id:
                await self._sessions.end(one.token_hash)
                return
        raise Missing

    async def end_other_sessions(self, visitor: Visitor) -> None:
        """End all of the visitor's but this one."""
        await self._sessions.end_others(visitor.id, visitor.session)


def _proof(person: Person) -> str:
    """Stands for the password that they have now."""
    return fingerprint(f"password {person.password_hash}")


def _shown_id(session: Session) -> str:
    return fingerprint(f"session {session.token_hash.hex()}")
