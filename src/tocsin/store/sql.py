"""The store in SQL, for both databases (`dialects`): SQLAlchemy Core, synchronous drivers.

All ports on one database, for the composition root: everybody else is given the ports that they need.
"""

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from tocsin.ports.audit import AuditLog
from tocsin.ports.consents import Consents
from tocsin.ports.errors import StoreError
from tocsin.ports.handlers import HandlerRows
from tocsin.ports.history import History
from tocsin.ports.identities import Identities
from tocsin.ports.ids import Ids
from tocsin.ports.intake import Intake
from tocsin.ports.misdated import Misdated
from tocsin.ports.notices import PendingNotices
from tocsin.ports.people import Keys, Sessions, Users
from tocsin.ports.queue import Queue
from tocsin.ports.second_factors import SecondFactorRows
from tocsin.ports.standings import Standings
from tocsin.ports.tidying import Tidying
from tocsin.ports.usage import UsageRows
from tocsin.ports.values import Values
from tocsin.ports.vitals import Vitals
from tocsin.store import dialects, faults, values
from tocsin.store.accepting import BY_SERVER_CLOCK
from tocsin.store.audit import SqlAuditLog
from tocsin.store.consents import SqlConsents
from tocsin.store.database import Database
from tocsin.store.handlers import SqlHandlers
from tocsin.store.history import SqlHistory
from tocsin.store.identities import SqlIdentities
from tocsin.store.ids import SqlIds
from tocsin.store.intake import SqlIntake
from tocsin.store.keys import SqlKeys
from tocsin.store.misdated import SqlMisdated
from tocsin.store.notices import SqlPendingNotices
from tocsin.store.people import SqlSessions, SqlUsers
from tocsin.store.queue import SqlQueue
from tocsin.store.second_factors import SqlSecondFactors
from tocsin.store.standings import SqlStandings
from tocsin.store.tidying import SqlTidying
from tocsin.store.usage import SqlUsageRows
from tocsin.store.values import SqlValues
from tocsin.store.vitals import SqlVitals, note_alive
from tocsin.store.writer import MAX_TRIES_IN_CONFLICT

MOVED_TO = "moved_to"
"""The row of `meta` that says where a store went which must not be used any more."""
T = TypeVar("T")


class SqlStore:
    """`changed` is called when another process wrote. `by_server_clock`: on PostgreSQL what is due at once is due by its server's clock, in
    the order of the commits of all processes. To be made on the event loop that uses it."""

    def __init__(self, engine: Engine, changed: Callable[[], None], *, by_server_clock: bool = True) -> None:
        self.database = Database(engine, changed, note_alive, {BY_SERVER_CLOCK: by_server_clock})
        self.intake: Intake = SqlIntake(self.database)
        self.queue: Queue = SqlQueue(self.database)
        self.history: History = SqlHistory(self.database)
        self.handlers: HandlerRows = SqlHandlers(self.database)
        self.standings: Standings = SqlStandings(self.database)
        self.notices: PendingNotices = SqlPendingNotices(self.database)
        self.consents: Consents = SqlConsents(self.database)
        self.usage: UsageRows = SqlUsageRows(self.database)
        self.users: Users = SqlUsers(self.database)
        self.sessions: Sessions = SqlSessions(self.database)
        self.keys: Keys = SqlKeys(self.database)
        self.second_factors: SecondFactorRows = SqlSecondFactors(self.database)
        self.identities: Identities = SqlIdentities(self.database)
        self.audit: AuditLog = SqlAuditLog(self.database)
        self.values: Values = SqlValues(self.database)
        self.misdated: Misdated = SqlMisdated(self.database)
        self.tidying: Tidying = SqlTidying(self.database)
        self.ids: Ids = SqlIds(self.database)
        self.vitals: Vitals = SqlVitals(self.database)

    async def close(self) -> None:
        await self.database.close()


def read_now(engine: Engine, read: Callable[[Connection], T], seconds: float = 30.0) -> T:
    """One read, for commands. Raises StoreError."""
    try:
        with dialects.of(engine).reading(engine, seconds) as connection:
            return read(connection)
    except DBAPIError as error:
        raise StoreError(faults.sentence(error)) from error


def check_is_here(name: str, moved_to: bytes | None) -> None:
    """Raises StoreError where the store of this name has `moved_to` another place: what is written there would be lost."""
    if moved_to is not None:
        raise StoreError(f"The store {name} was moved to the {moved_to.decode()}: set TOCSIN_DATABASE_URL, or use another --data-dir.")


def write_now(engine: Engine, write: Callable[[Connection], T], *, is_long: bool = False) -> T:
    """One write in a transaction of its own, for commands that run beside the service or before it.

    It is made again if it met another transaction, unless it `is_long`; so it must change nothing but the store.
    """
    tries = 0
    while True:
        tries += 1
        try:
            with dialects.of(engine).writing(engine, is_long=is_long) as connection:
                check_is_here(str(engine.url.database), values.read(connection, MOVED_TO))  # it may have gone while we waited
                return write(connection)
        except DBAPIError as error:
            if is_long or tries >= MAX_TRIES_IN_CONFLICT or not faults.is_conflict(error):
                raise StoreError(faults.sentence(error)) from error
