"""Second factors: `tocsin.ports.second_factors`. The commands beside the service use `remove` by itself."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select, text, update

from tocsin.clock import Micros
from tocsin.ports.audit import Act
from tocsin.ports.second_factors import SecondFactor
from tocsin.store.audit import record
from tocsin.store.database import Database
from tocsin.store.statements import wait_for_turn
from tocsin.store.tables import recovery_codes, second_factors

_ADD = text(
    "INSERT INTO second_factors (user_id, secret, last_step, created_at) VALUES (:user_id, :secret, :last_step, :created_at)"
    " ON CONFLICT (user_id) DO NOTHING RETURNING user_id"
)


class SqlSecondFactors:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, user_id: int) -> SecondFactor | None:
        return await self._database.read(of, user_id)

    async def add(self, user_id: int, secret: bytes, step: int, codes: Sequence[bytes], at: Micros) -> bool:
        return await self._database.write(_add, user_id, secret, step, codes, at)

    async def use_step(self, user_id: int, step: int) -> bool:
        return await self._database.write(_use_step, user_id, step)

    async def use_code(self, user_id: int, code: bytes) -> bool:
        return await self._database.write(_use_code, user_id, code)

    async def renew_codes(self, user_id: int, codes: Sequence[bytes]) -> bool:
        return await self._database.write(_renew_codes, user_id, codes)

    async def remove(self, user_id: int) -> bool:
        return await self._database.write(remove, user_id)


def of(connection: Connection, user: int) -> SecondFactor | None:
    row = connection.execute(select(second_factors).where(second_factors.c.user_id == user)).first()
    if row is None:
        return None
    codes = connection.scalars(select(recovery_codes.c.hash).where(recovery_codes.c.user_id == user))
    return SecondFactor(row.secret, row.created_at, tuple(codes))


def _add(connection: Connection, user: int, secret: bytes, step: int, codes: Sequence[bytes], at: Micros) -> bool:
    if connection.scalar(_ADD, {"user_id": user, "secret": secret, "last_step": step, "created_at": at}) is None:
        return False
    _replace_codes(connection, user, codes)
    record(connection, Act.FACTOR_SET_UP, user)
    return True


def _use_step(connection: Connection, user: int, step: int) -> bool:
    is_later = (second_factors.c.user_id == user, second_factors.c.last_step < step)
    return connection.execute(update(second_factors).where(*is_later).values(last_step=step)).rowcount == 1


def _use_code(connection: Connection, user: int, code: bytes) -> bool:
    if connection.execute(delete(recovery_codes).where(recovery_codes.c.user_id == user, recovery_codes.c.hash == code)).rowcount != 1:
        return False
    record(connection, Act.RECOVERY_CODE_USED, user, by_owner=True)
    return True


def _renew_codes(connection: Connection, user: int, codes: Sequence[bytes]) -> bool:
    wait_for_turn(connection, "second factors")
    if of(connection, user) is None:
        return False
    _replace_codes(connection, user, codes)
    record(connection, Act.CODES_RENEWED, user)
    return True


def _replace_codes(connection: Connection, user: int, codes: Sequence[bytes]) -> None:
    connection.execute(delete(recovery_codes).where(recovery_codes.c.user_id == user))
    connection.execute(insert(recovery_codes), [{"user_id": user, "hash": code} for code in codes])


def remove(connection: Connection, user: int) -> bool:
    """With its recovery codes. False if there was none."""
    connection.execute(delete(recovery_codes).where(recovery_codes.c.user_id == user))
    if connection.execute(delete(second_factors).where(second_factors.c.user_id == user)).rowcount != 1:
        return False
    record(connection, Act.FACTOR_REMOVED, user)
    return True
