"""API keys: `tocsin.ports.people.Keys`. The commands beside the service use the functions by themselves."""

from datetime import UTC
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from tocsin import zones
from tocsin.clock import Micros
from tocsin.ports.audit import Act
from tocsin.ports.people import KeyLine, KeyRow
from tocsin.store import statements
from tocsin.store.audit import record
from tocsin.store.database import Database
from tocsin.store.noting import note
from tocsin.store.statements import run
from tocsin.store.tables import keys, users

TOUCH_KEYS = statements.update(keys, key=("id",), given=("last_used_at",), where="last_used_at IS NULL OR last_used_at < {last_used_at}")


class SqlKeys:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, key_hash: bytes) -> KeyRow | None:
        return await self._database.read(key, key_hash)

    async def note_use(self, used: dict[int, Micros]) -> None:
        await self._database.write(touch_keys, used)

    async def of(self, user_id: int) -> list[KeyLine]:
        return await self._database.look(list_keys, user_id)

    async def add(
        self, user_id: int, name: str, key_hash: bytes, shown: str, scopes: tuple[str, ...], at: Micros, expires_at: Micros | None = None
    ) -> int:
        return await self._database.write(add_key, user_id, name, key_hash, shown, scopes, at, expires_at)

    async def revoke(self, key_id: int, at: Micros, user_id: int) -> bool:
        return await self._database.write(revoke_key, key_id, at, user_id)


def add_key(
    connection: Connection,
    user: int,
    name: str,
    key_hash: bytes,
    shown: str,
    scopes: tuple[str, ...],
    at: Micros,
    expires_at: Micros | None = None,
) -> int:
    values = {"user_id": user, "name": name, "hash": key_hash, "shown": shown, "scopes": " ".join(scopes)}
    made = insert(keys).values(**values, created_at=at, expires_at=expires_at)
    key_id: int = connection.execute(made.returning(keys.c.id)).scalar_one()
    record(connection, Act.KEY_ADDED, user, key_id, name, scopes=list(scopes) or ["all"], expires=_day(expires_at))
    return key_id


def list_keys(connection: Connection, user: int | None = None) -> list[KeyLine]:
    """All, or those of a user."""
    found = select(keys, users.c.email).join(users, users.c.id == keys.c.user_id).order_by(keys.c.id)
    rows = connection.execute(found if user is None else found.where(keys.c.user_id == user))
    return [_key_line(row) for row in rows]


def _key_line(row: Row[Any]) -> KeyLine:
    scopes = tuple(row.scopes.split())
    return KeyLine(row.id, row.email, row.name, row.shown, scopes, row.created_at, row.last_used_at, row.revoked_at, row.expires_at)


def revoke_key(connection: Connection, key_id: int, at: Micros, user: int | None = None) -> bool:
    """False if there is no such key, or it was revoked before; or it is not this user's."""
    wanted = [keys.c.id == key_id, keys.c.revoked_at.is_(None), *([] if user is None else [keys.c.user_id == user])]
    row = connection.execute(update(keys).where(*wanted).values(revoked_at=at).returning(keys.c.user_id, keys.c.name)).first()
    if row is None:
        return False
    record(connection, Act.KEY_REVOKED, row.user_id, key_id, row.name)
    note(connection, "key", key_id)
    return True


def key(connection: Connection, key_hash: bytes) -> KeyRow | None:
    row = connection.execute(
        select(keys.c.id, keys.c.user_id, keys.c.scopes, keys.c.last_used_at, keys.c.expires_at)
        .join(users, users.c.id == keys.c.user_id)
        .where(keys.c.hash == key_hash, keys.c.revoked_at.is_(None), users.c.disabled_at.is_(None))
    ).first()
    return None if row is None else KeyRow(row.id, row.user_id, tuple(row.scopes.split()), row.last_used_at is not None, row.expires_at)


def touch_keys(connection: Connection, used: dict[int, Micros]) -> None:
    run(connection, TOUCH_KEYS, sorted(used.items()))


def _day(at: Micros | None) -> str | None:
    return None if at is None else f"{zones.local(at, UTC):%Y-%m-%d %H:%M:%S}"
