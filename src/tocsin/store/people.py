"""Users, their keys and sessions: `tocsin.ports.people`. The commands beside the service use the functions by themselves."""

from collections.abc import Mapping
from typing import Any

from msgspec import structs
from sqlalchemy import ColumnElement, Connection, Row, delete, exists, func, insert, or_, select, text, update

from tocsin.clock import Micros
from tocsin.model import Reason, Status
from tocsin.ports.audit import Act
from tocsin.ports.people import (
    MARK_BYTES,
    MAX_KNOWN_ADDRESSES,
    MAX_SESSIONS,
    Invited,
    Living,
    Person,
    Session,
    UserLine,
)
from tocsin.store import notices
from tocsin.store.audit import record
from tocsin.store.database import Database
from tocsin.store.handlers import erase_handlers
from tocsin.store.noting import note
from tocsin.store.queue import end_of_handler
from tocsin.store.statements import wait_for_turn
from tocsin.store.tables import (
    attempts,
    consent_asks,
    deliveries,
    handler_events,
    handler_hours,
    handlers,
    idempotency,
    identities,
    keys,
    mail_consents,
    notifications,
    recovery_codes,
    replays,
    second_factors,
    sessions,
    totals,
    usage,
    users,
)
from tocsin.store.totals import Totals

_THEIRS = (second_factors, recovery_codes, identities, mail_consents, consent_asks, usage)
_ROWS_AT_ONCE = 100_000
_ADD_USER = text(
    "INSERT INTO users (email, is_admin, created_at) SELECT :email, :is_admin, :created_at"
    " WHERE NOT EXISTS (SELECT 1 FROM users WHERE lower(email) = lower(:email)) RETURNING id"
)


class SqlUsers:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def person(self, email: str) -> Person | None:
        return await self._database.read(person, email)

    async def all(self) -> list[UserLine]:
        return await self._database.look(list_users)

    async def invite(self, email: str, is_admin: bool, token_hash: bytes, at: Micros, until: Micros) -> Invited:
        return await self._database.write(invite, email, is_admin, token_hash, at, until)

    async def set_role(self, user_id: int, is_admin: bool) -> bool:
        return await self._database.write(set_role, user_id, is_admin)

    async def set_password(self, user_id: int, password_hash: str) -> None:
        await self._database.write(set_password, user_id, password_hash)

    async def renew_hash(self, user_id: int, before: str, after: str) -> None:
        await self._database.write(renew_hash, user_id, before, after)

    async def set_time_zone(self, user_id: int, time_zone: str | None) -> None:
        await self._database.write(set_time_zone, user_id, time_zone)

    async def set_language(self, user_id: int, language: str) -> None:
        await self._database.write(set_language, user_id, language)

    async def disable(self, user_id: int, at: Micros) -> bool:
        def run(connection: Connection) -> bool:
            if is_last_administrator(connection, user_id):
                return False
            disable_user(connection, user_id, at)
            return True

        return await self._database.write(run)


class SqlSessions:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def take_link(self, token_hash: bytes, at: Micros) -> int | None:
        return await self._database.write(take_sign_in, token_hash, at)

    async def add(self, session: Session, living: Living, mark: bytes) -> None:
        await self._database.write(add_session, session, living, mark)

    async def find(self, token_hash: bytes, living: Living) -> tuple[Person, Session] | None:
        return await self._database.read(session, token_hash, living)

    async def of(self, user_id: int, living: Living) -> list[Session]:
        return await self._database.read(list_sessions, user_id, living)

    async def touch(self, token_hash: bytes, at: Micros, address: str) -> None:
        await self._database.write(change_session, token_hash, {"seen_at": at, "address": address})

    async def confirm(self, token_hash: bytes, at: Micros) -> None:
        await self._database.write(confirm_session, token_hash, at)

    async def end(self, token_hash: bytes) -> None:
        await self._database.write(end_session, token_hash)

    async def end_others(self, user_id: int, but: bytes) -> None:
        await self._database.write(end_other_sessions, user_id, but)


# --------------------------------------------------------------------------------------------------------------- users


def has_users(connection: Connection) -> bool:
    return connection.scalar(select(users.c.id).limit(1)) is not None


def add_user(connection: Connection, email: str, is_admin: bool, at: Micros) -> int | None:
    """The new id; None if there is one with this address already."""
    wait_for_turn(connection, "users")
    user = connection.scalar(_ADD_USER, {"email": email, "is_admin": is_admin, "created_at": at})
    if user is not None:
        record(connection, Act.USER_ADDED, user, role=_role(is_admin))
    return user


def _role(is_admin: bool) -> str:
    return "administrator" if is_admin else "user"


def user_id(connection: Connection, email: str) -> int | None:
    return connection.scalar(select(users.c.id).where(func.lower(users.c.email) == email.lower()))


def is_last_administrator(connection: Connection, user: int) -> bool:
    """Whether nobody else could manage users on the pages; those who are disabled cannot. Until the commit nobody can change that."""
    found = select(users.c.id).where(users.c.is_admin, users.c.disabled_at.is_(None)).order_by(users.c.id).with_for_update()
    return list(connection.scalars(found)) == [user]


def set_administrator(connection: Connection, user: int, is_admin: bool) -> None:
    if connection.execute(update(users).where(users.c.id == user, users.c.is_admin != is_admin).values(is_admin=is_admin)).rowcount:
        record(connection, Act.ROLE_CHANGED, user, role=_role(is_admin))
        note(connection, "user", user)


def set_time_zone(connection: Connection, user: int, time_zone: str | None) -> None:
    connection.execute(update(users).where(users.c.id == user).values(time_zone=time_zone))
    note(connection, "user", user)


def set_language(connection: Connection, user: int, language: str) -> None:
    connection.execute(update(users).where(users.c.id == user).values(language=language))


def person(connection: Connection, email: str) -> Person | None:
    """None too if they are disabled."""
    found = connection.execute(select(users).where(func.lower(users.c.email) == email.lower(), users.c.disabled_at.is_(None))).first()
    return None if found is None else _person(found)


def take_sign_in(connection: Connection, token_hash: bytes, at: Micros) -> int | None:
    """Whose one-time link this is; it is used up. None: there is none, or it is too old."""
    theirs = (users.c.sign_in_hash == token_hash, users.c.sign_in_until > at, users.c.disabled_at.is_(None))
    return connection.scalar(update(users).where(*theirs).values(sign_in_hash=None, sign_in_until=None).returning(users.c.id))


def add_session(connection: Connection, new: Session, living: Living, mark: bytes) -> None:
    """Anybody's that have ended go, and the longest unused ones of this user beyond MAX_SESSIONS."""
    whose = users.c.id == new.user_id
    known = connection.scalar(select(users.c.known_addresses).where(whose).with_for_update()) or b""  # first, as a new password does
    connection.execute(delete(sessions).where(or_(sessions.c.seen_at < living.seen_since, sessions.c.created_at < living.made_since)))
    theirs = select(sessions.c.token_hash).where(sessions.c.user_id == new.user_id).order_by(sessions.c.seen_at.desc())
    too_many = list(connection.scalars(theirs.offset(MAX_SESSIONS - 1)))
    connection.execute(delete(sessions).where(sessions.c.token_hash.in_(too_many)))
    connection.execute(insert(sessions).values(structs.asdict(new)))
    if mark:
        connection.execute(update(users).where(whose).values(known_addresses=_with_mark(known, mark)))
    has_factor = connection.scalar(select(exists().where(second_factors.c.user_id == new.user_id)))
    record(connection, Act.SIGNED_IN, new.user_id, by_owner=True, how=new.by, device=new.device, second_factor=True if has_factor else None)


def _with_mark(known: bytes, mark: bytes) -> bytes:
    """The latest first, so that the oldest is the one to go."""
    others = (known[start : start + MARK_BYTES] for start in range(0, len(known), MARK_BYTES))
    return b"".join([mark, *(one for one in others if one != mark)][:MAX_KNOWN_ADDRESSES])


def session(connection: Connection, token_hash: bytes, living: Living) -> tuple[Person, Session] | None:
    """The session, and whose it is."""
    found = connection.execute(select(sessions).where(sessions.c.token_hash == token_hash, *_are(living))).first()
    if found is None:
        return None
    whose = connection.execute(select(users).where(users.c.id == found.user_id, users.c.disabled_at.is_(None))).first()
    return None if whose is None else (_person(whose), _session(found))


def list_sessions(connection: Connection, user: int, living: Living) -> list[Session]:
    """A user's, the last used one first."""
    found = select(sessions).where(sessions.c.user_id == user, *_are(living)).order_by(sessions.c.seen_at.desc(), sessions.c.token_hash)
    return [_session(row) for row in connection.execute(found)]


def _are(living: Living) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return sessions.c.seen_at >= living.seen_since, sessions.c.created_at >= living.made_since


def _session(row: Row[Any]) -> Session:
    times = (row.created_at, row.seen_at)
    return Session(bytes(row.token_hash), row.user_id, *times, row.by, row.device or "", row.address or "", row.confirmed_at)


def _person(row: Row[Any]) -> Person:
    return Person(row.id, row.email, bool(row.is_admin), row.password_hash, row.time_zone, bytes(row.known_addresses or b""), row.language)


def change_session(connection: Connection, token_hash: bytes, values: Mapping[str, object]) -> None:
    connection.execute(update(sessions).where(sessions.c.token_hash == token_hash).values(dict(values)))


def confirm_session(connection: Connection, token_hash: bytes, at: Micros) -> None:
    proved = update(sessions).where(sessions.c.token_hash == token_hash).values(confirmed_at=at).returning(sessions.c.user_id)
    if (user := connection.scalar(proved)) is not None:
        record(connection, Act.CONFIRMED, user)


def end_session(connection: Connection, token_hash: bytes) -> None:
    ended = delete(sessions).where(sessions.c.token_hash == token_hash).returning(sessions.c.user_id, sessions.c.device)
    if (row := connection.execute(ended).first()) is not None:
        record(connection, Act.SESSION_ENDED, row.user_id, device=row.device or "")


def end_other_sessions(connection: Connection, user: int, but: bytes) -> None:
    if count := end_sessions(connection, user, but):
        record(connection, Act.SESSIONS_ENDED, user, count=count)


def end_sessions(connection: Connection, user: int, but: bytes = b"") -> int:
    """How many."""
    return connection.execute(delete(sessions).where(sessions.c.user_id == user, sessions.c.token_hash != but)).rowcount


def renew_hash(connection: Connection, user: int, before: str, after: str) -> None:
    """The same password with a new hash; nothing happens if it was changed meanwhile."""
    connection.execute(update(users).where(users.c.id == user, users.c.password_hash == before).values(password_hash=after))


def set_password(connection: Connection, user: int, password_hash: str) -> None:
    """All sessions of this user end, and a link that has not been used no longer works."""
    values = {"password_hash": password_hash, "sign_in_hash": None, "sign_in_until": None}
    connection.execute(update(users).where(users.c.id == user).values(values))
    record(connection, Act.PASSWORD_SET, user, sessions_ended=end_sessions(connection, user))


def set_sign_in(connection: Connection, user: int, token_hash: bytes, until: Micros) -> None:
    connection.execute(update(users).where(users.c.id == user).values(sign_in_hash=token_hash, sign_in_until=until))
    record(connection, Act.LINK_MADE, user)


def invite(connection: Connection, email: str, is_admin: bool, token_hash: bytes, at: Micros, until: Micros) -> Invited:
    """A user and their link. Somebody who is there without a password gets a new link, and this role."""
    user = add_user(connection, email, is_admin, at)
    if user is None:
        there = person(connection, email)
        if there is None or there.password_hash is not None:
            return Invited.THERE_ALREADY
        user = there.id
        if not set_role(connection, user, is_admin):
            return Invited.LAST_ADMINISTRATOR
    set_sign_in(connection, user, token_hash, until)
    return Invited.DONE


def set_role(connection: Connection, user: int, is_admin: bool) -> bool:
    """False, and nothing is done, if nobody else could manage users."""
    if not is_admin and is_last_administrator(connection, user):
        return False
    set_administrator(connection, user, is_admin)
    return True


def disable_user(connection: Connection, user: int, at: Micros) -> None:
    """Their keys and sessions end, their handlers go with their secrets, what waits is cancelled; the history stays until retention."""
    connection.execute(update(users).where(users.c.id == user, users.c.disabled_at.is_(None)).values(disabled_at=at, sign_in_hash=None))
    connection.execute(update(keys).where(keys.c.user_id == user, keys.c.revoked_at.is_(None)).values(revoked_at=at))
    note(connection, "user", user)
    record(connection, Act.USER_DISABLED, user)
    end_sessions(connection, user)
    changes = Totals()
    for handler_id in erase_handlers(connection, changes, handlers.c.user_id == user, at):
        while end_of_handler(connection, changes, handler_id, Status.CANCELLED, Reason.HANDLER_DELETED, _ROWS_AT_ONCE):
            pass
    changes.write(connection)


def delete_user(connection: Connection, user: int) -> None:
    """The user and everything of theirs. First the locks, in the order in which others take them: a writer of something of theirs
    meanwhile waits, and is told that they are gone.
    """
    own = select(handlers.c.id).where(handlers.c.user_id == user)
    theirs = select(deliveries.c.id).where(deliveries.c.user_id == user)
    for table, owner in ((users, "id"), (handlers, "user_id"), (deliveries, "user_id"), (totals, "user_id")):
        rows = select(1).where(table.c[owner] == user).order_by(*table.primary_key.columns).with_for_update().subquery()
        connection.execute(select(func.count()).select_from(rows))
    for table in (attempts, replays):
        connection.execute(delete(table).where(table.c.delivery_id.in_(theirs)))
    for table in (handler_events, handler_hours):
        connection.execute(delete(table).where(table.c.handler_id.in_(own)))
    for table in (deliveries, notifications, handlers, keys, sessions, totals, idempotency, *_THEIRS):
        connection.execute(delete(table).where(table.c.user_id == user))
    notices.forget(connection, user)
    record(connection, Act.USER_DELETED, user)
    connection.execute(delete(users).where(users.c.id == user))


def list_users(connection: Connection) -> list[UserLine]:
    count = (
        select(func.count())
        .select_from(handlers)
        .where(handlers.c.user_id == users.c.id, handlers.c.deleted_at.is_(None))
        .scalar_subquery()
    )
    rows = connection.execute(select(users, count.label("handler_count")).order_by(users.c.id))
    return [
        UserLine(row.id, row.email, bool(row.is_admin), row.created_at, row.disabled_at, row.time_zone, row.handler_count) for row in rows
    ]
