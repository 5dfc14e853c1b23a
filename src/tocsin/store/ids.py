"""Ids that are never handed out twice, whatever copy of the store is put back.

A copy cannot know how far the store that it replaces had come. So after a restore every counter moves far ahead, and the store has a
new identity, which is part of what receivers know a message by. What existed in the copy keeps the identity it had: an *era* is an
identity and the first delivery that has it.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from sqlalchemy import Connection

from tocsin.clock import Micros
from tocsin.ports.errors import OwnerGone, StoreError
from tocsin.ports.ids import Era, Mark
from tocsin.store import dialects, values
from tocsin.store.database import Database
from tocsin.store.dialects import SERVER_NOW
from tocsin.store.faults import damaged

STORE_ID = "store_id"
ERAS = "eras"
STEPS: Final = {"users": 10**6, "keys": 10**6, "handlers": 10**6, "notifications": 2**32, "deliveries": 2**32}
"""How far each counter moves on with a restore; the contract names them."""
MAX_ID = 2**53 - 1  # what every reader of JSON takes as it is (RFC 8259 6)


class SqlIds:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def mark(self) -> Mark:
        return await self._database.read(mark)


def eras(connection: Connection) -> list[Era]:
    """Oldest first; the last one is the present. Raises StoreError."""
    return read_eras(values.read(connection, ERAS), values.read(connection, STORE_ID))


def read_eras(past: bytes | None, store_id: bytes | None) -> list[Era]:
    """The same from what the store keeps. Raises StoreError where it means nothing: then no message has an identity."""
    try:
        found = [Era(1, (store_id or b"").decode())] if past is None else msgspec.json.decode(past, type=list[Era])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        found = []
    if not found:
        raise StoreError(damaged("its identity cannot be read"))
    return found


class NewIds(Struct, frozen=True):
    """Of new rows. `now`: the server's clock, where several processes must agree on one."""

    notifications: Sequence[int]
    deliveries: Sequence[int]
    now: Micros | None = None


# No row that refers to them is written for a user who is being deleted meanwhile. Each value as a `SELECT`, so that the server makes one
# plan for all values: it would take longer to make a better one for each time.
_TAKE = (
    "SELECT array(SELECT nextval('notifications_id_seq') FROM generate_series(1, (SELECT %s::int))),"
    " array(SELECT nextval('deliveries_id_seq') FROM generate_series(1, (SELECT %s::int))),"
    " (SELECT count(*) FROM (SELECT 1 FROM users WHERE id = ANY((SELECT %s::bigint[])::bigint[]) FOR KEY SHARE) AS held),"
    f" {SERVER_NOW}"
)


def take(connection: Connection, users: Collection[int], notifications: int, deliveries: int) -> NewIds:
    """So many ids for new rows of these users, none of them ever used before; in ascending order, so of two transactions that follow
    each other the later has the higher ones. Raises OwnerGone if one of the users is gone."""
    driver: Any = connection.connection
    cursor = driver.cursor()
    try:
        if connection.dialect.name == "sqlite":  # nobody else takes them: this transaction is the only one that writes
            return NewIds(_after(cursor, "notifications", notifications), _after(cursor, "deliveries", deliveries))
        cursor.execute(_TAKE, (notifications, deliveries, f"{{{','.join(map(str, users))}}}"))
        of_notifications, of_deliveries, held, now = cursor.fetchone()
    finally:
        cursor.close()
    if held < len(users):
        raise OwnerGone("its user was deleted")
    return NewIds(of_notifications, of_deliveries, now)


def _after(cursor: Any, table: str, n: int) -> range:
    cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,))
    found = cursor.fetchone()
    first = found[0] + 1 if found else 1
    return range(first, first + n)


def counters(connection: Connection) -> dict[str, int]:
    """The highest id that was ever handed out, by table."""
    found = dialects.of(connection.engine).counters(connection)
    return {table: found.get(table, 0) for table in STEPS}


def move_on(connection: Connection, new_store_id: str, known: Mapping[str, int]) -> None:
    """A new era: no id that comes after was handed out before.

    `known`: ids that are known to have been handed out since the copy was made. Each counter moves by as many steps as it takes to pass
    them, and by one at least. Raises StoreError where an id would be too large for readers of JSON.
    """
    past = eras(connection)
    moved: dict[str, int] = {}
    for table, at in counters(connection).items():
        step = STEPS[table]
        moved[table] = at + step * (max(0, known.get(table, 0) - at) // step + 1)
        if moved[table] > MAX_ID - step:
            raise StoreError(f"The ids of {table} cannot move any further: JSON could not carry larger ones.")
    for table, at in moved.items():
        dialects.of(connection.engine).set_counter(connection, table, at)
    values.write(connection, STORE_ID, new_store_id.encode())
    values.write(connection, ERAS, msgspec.json.encode([*past, Era(moved["deliveries"] + 1, new_store_id)]))


def mark(connection: Connection) -> Mark:
    known = eras(connection)
    return Mark(known[0].store_id, known[-1].store_id, counters(connection))


def is_behind(connection: Connection, other: Mark) -> bool:
    """Whether this store is an older state of the one that the mark speaks of: a copy of it was put back by hand."""
    own = mark(connection)
    if own.origin != other.origin:
        return False
    if other.store_id not in {era.store_id for era in eras(connection)}:
        return True
    return any(at < other.counters.get(table, 0) for table, at in own.counters.items())
