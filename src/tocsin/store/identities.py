"""Who users are elsewhere, and what works once: `tocsin.ports.identities`."""

from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, text

from tocsin.clock import Micros
from tocsin.ports.audit import Act
from tocsin.ports.identities import Arrival, Arrived, Identity
from tocsin.store import people
from tocsin.store.audit import record
from tocsin.store.database import Database
from tocsin.store.statements import wait_for_turn
from tocsin.store.tables import identities, spent, users

_USE_UP = text('INSERT INTO spent (hash, "until") VALUES (:hash, :until) ON CONFLICT (hash) DO NOTHING RETURNING hash')


class SqlIdentities:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def arrive(self, identity: Identity | None, email: str | None, creates: bool, is_admin: bool | None, at: Micros) -> Arrived:
        return await self._database.write(arrive, identity, email, creates, is_admin, at)

    async def use_up(self, token_hash: bytes, at: Micros, until: Micros) -> bool:
        return await self._database.write(_use_up, token_hash, at, until)


def arrive(
    connection: Connection, identity: Identity | None, email: str | None, creates: bool, is_admin: bool | None, at: Micros
) -> Arrived:
    wait_for_turn(connection, "users")  # two at once must not both bind, or make, the same user
    how, user = _found(connection, identity, email, creates, at)
    if user is None:
        return Arrived(how)
    return Arrived(how, user, keeps_role=not _give_role(connection, user, is_admin))


def _found(connection: Connection, identity: Identity | None, email: str | None, creates: bool, at: Micros) -> tuple[Arrival, int | None]:
    if identity is not None and (bound := _bound(connection, identity)) is not None:
        return (Arrival.KNOWN, bound.id) if bound.disabled_at is None else (Arrival.DISABLED, None)
    if email is None:
        return Arrival.UNKNOWN, None
    there = connection.execute(select(users.c.id, users.c.disabled_at).where(func.lower(users.c.email) == email.lower())).first()
    if there is None:
        user = people.add_user(connection, email, False, at) if creates else None
        if user is None:
            return Arrival.UNKNOWN, None
        _bind(connection, identity, user, at)
        return Arrival.CREATED, user
    if there.disabled_at is not None:
        return Arrival.DISABLED, None
    if identity is None:
        return Arrival.KNOWN, there.id
    if _is_somebody_there(connection, identity.issuer, there.id):
        return Arrival.TAKEN, None
    _bind(connection, identity, there.id, at)
    return Arrival.BOUND, there.id


def _bound(connection: Connection, identity: Identity) -> Any:
    """The row of the user whose identity this is: `id`, `disabled_at`."""
    theirs = (identities.c.issuer == identity.issuer, identities.c.subject == identity.subject)
    found = select(users.c.id, users.c.disabled_at).join(identities, identities.c.user_id == users.c.id).where(*theirs)
    return connection.execute(found).first()


def _is_somebody_there(connection: Connection, issuer: str, user: int) -> bool:
    theirs = select(identities.c.subject).where(identities.c.issuer == issuer, identities.c.user_id == user)
    return connection.scalar(theirs.limit(1)) is not None


def _bind(connection: Connection, identity: Identity | None, user: int, at: Micros) -> None:
    if identity is not None:
        row = {"issuer": identity.issuer, "subject": identity.subject, "user_id": user, "created_at": at}
        connection.execute(insert(identities).values(row))
        record(connection, Act.USER_BOUND, user, name=identity.issuer)


def _give_role(connection: Connection, user: int, is_admin: bool | None) -> bool:
    """False if they are the last administrator, who stays one."""
    if is_admin is None or connection.scalar(select(users.c.is_admin).where(users.c.id == user)) == is_admin:
        return True
    if not is_admin and people.is_last_administrator(connection, user):
        return False
    people.set_administrator(connection, user, is_admin)
    return True


def unbind(connection: Connection, user: int) -> bool:
    """At the next sign-in they are known by their address again. False: they were nobody elsewhere."""
    if connection.execute(delete(identities).where(identities.c.user_id == user)).rowcount == 0:
        return False
    record(connection, Act.USER_UNBOUND, user)
    return True


def _use_up(connection: Connection, token_hash: bytes, at: Micros, until: Micros) -> bool:
    connection.execute(delete(spent).where(spent.c.until < at))
    return connection.scalar(_USE_UP, {"hash": token_hash, "until": until}) is not None
