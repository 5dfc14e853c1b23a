"""What SQLite and PostgreSQL do differently, behind one seam. A process loads only the one that it uses."""

from contextlib import AbstractContextManager
from typing import Final, Protocol

from sqlalchemy import Connection, Engine

SERVER_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""The clock of a PostgreSQL server, in SQL, in microseconds since 1970."""
SLOT: Final = "totals_slot"
"""The option of an engine or a connection that says which slot of `totals` is its own; without it, it is a command's."""


class Unanswered(Exception):
    """The connection broke while a transaction was being committed: it may have been kept. `Session.was_kept` knows."""

    def __init__(self, why: Exception) -> None:
        super().__init__("nobody knows whether the transaction was committed")
        self.why = why


class Session(Protocol):
    """The connection of the service's only writer, for the thread that opened it."""

    def transaction(self) -> AbstractContextManager[Connection]:
        """Committed at its end. Raises Unanswered if nobody knows whether it was."""
        ...

    def was_kept(self) -> bool | None:
        """Whether the last transaction, which was Unanswered, was committed; None: it has not ended. Raises while the database is away,
        and Unanswered where nobody will ever know: another server has taken over."""
        ...

    def changes(self) -> int:
        """How many rows were changed so far; where the database does not say, every transaction counts as one."""
        ...

    def others_wrote(self) -> bool:
        """Whether another process has written since this was asked last, or may have. Raises if the database is away."""
        ...

    def wait_for_others(self, seconds: float) -> None:
        """How long a transaction waits for another process's."""
        ...

    def after(self, error: BaseException) -> None:
        """Nothing of what failed is left in memory."""
        ...

    @property
    def is_full(self) -> bool:
        """A quick look, from any thread, whether nothing at all can be written for want of room."""
        ...

    def is_short_of_room(self) -> bool:
        """Whether the next write could use up the room that is needed to go on."""
        ...

    def make_room(self) -> bool:
        """Whether it helped to try."""
        ...

    def close(self) -> None: ...


class Dialect(Protocol):
    """What statements and transactions need of a database."""

    def session(self, engine: Engine) -> Session:
        """The writer's own connection."""
        ...

    def reading(self, engine: Engine, seconds: float) -> AbstractContextManager[Connection]:
        """A transaction that sees the store as it is at one moment, and is interrupted after so many seconds."""
        ...

    def for_glances(self, engine: Engine, seconds: float) -> Engine:
        """What `glancing` needs: its connections are for statements that find rows by their keys, and take no longer."""
        ...

    def glancing(self, engine: Engine, seconds: float) -> AbstractContextManager[Connection]:
        """For statements of which each may see another moment: nothing is asked before the first of them where that can be saved."""
        ...

    def writing(self, engine: Engine, *, is_long: bool = False) -> AbstractContextManager[Connection]:
        """A transaction beside the service, which notices it. `is_long`: it may take as long as it takes."""
        ...

    def wait_for_makers(self, connection: Connection) -> None:
        """Other processes make or change tables before this transaction, or after it."""
        ...

    def make(self, connection: Connection) -> None:
        """The tables of this version, in a database without any."""
        ...

    def counters(self, connection: Connection) -> dict[str, int]:
        """The highest id that was ever handed out, by table, where there is one."""
        ...

    def set_counter(self, connection: Connection, table: str, at: int) -> None:
        """From now on ids of that table are higher than `at`."""
        ...

    def fold_log(self, engine: Engine) -> None:
        """Bring what has been committed to its place, so that no commit has to."""
        ...

    def size(self, connection: Connection) -> int:
        """Bytes of the store on the disk."""
        ...

    def unused(self, connection: Connection) -> int:
        """Bytes of it that hold nothing."""
        ...


def of(engine: Engine) -> Dialect:
    """The dialect of an engine's database."""
    if engine.dialect.name == "sqlite":
        from tocsin.store.dialects.sqlite import SQLITE

        return SQLITE
    from tocsin.store.dialects.postgresql import POSTGRESQL

    return POSTGRESQL
