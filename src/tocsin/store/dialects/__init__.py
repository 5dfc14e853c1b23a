"""What SQLite and PostgreSQL do differently, behind one seam. A process loads only the one that it uses."""

from contextlib import AbstractContextManager
from typing import Protocol

from sqlalchemy import Connection, Engine


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
        """Whether the last transaction, which was Unanswered, was committed; None: it has not ended. Raises while the database is away."""
        ...

    def changes(self) -> int:
        """How many rows were changed so far; where the database does not say, every transaction counts as one."""
        ...

    def others_wrote(self) -> bool:
        """Whether another process has written since this was asked last, or may have."""
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

    def writing(self, engine: Engine, *, is_long: bool = False) -> AbstractContextManager[Connection]:
        """A transaction beside the service, which notices it. `is_long`: it may take as long as it takes."""
        ...

    def wait_for_makers(self, connection: Connection) -> None:
        """Whoever else makes or changes tables does that before this transaction, or after it."""
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


<<<<<<< HEAD
class Home(Protocol):
    """Where a store is, before and beside its service. Whatever cannot be used raises StoreError, having changed nothing.

    `name` and `where` are how sentences call the store and its place, without secrets.
    """

    name: str
    where: str
    is_shared: bool
    """Several processes may serve it, so that none changes its form on the way."""

    def is_there(self) -> bool:
        """Whether there is a store, or something else in its place."""
        ...

    def is_left_empty(self) -> bool:
        """Whether nothing is in the place of a store, as a copy that failed would leave it."""
        ...

    def is_readable(self) -> bool:
        """Whether it is there and this process may read it."""
        ...

    def check_form(self) -> None:
        """Whether it is a store of a form that this version knows."""
        ...

    def version(self) -> str | None:
        """The version of its form."""
        ...

    def value(self, name: str) -> bytes | None:
        """What the store keeps by that name."""
        ...

    def types(self) -> list[str]:
        """Of all handlers that there are or were."""
        ...

    def engine(self) -> Engine:
        """For a store that is there; the caller disposes of it."""
        ...

    def make(self, begin: Callable[[Connection], None]) -> None:
        """A new store, which is there as a whole or not at all; `begin` writes the first rows."""
        ...

    def lock(self, lost: Callable[[str], None]) -> AbstractContextManager[None]:
        """For one service. `lost` is told, from a thread, why it is held no longer."""
        ...

    def findings(self) -> Iterator[Finding]:
        """What `tocsin check` says of it."""
        ...


=======
>>>>>>> main
def of(engine: Engine) -> Dialect:
    """The dialect of an engine's database."""
    if engine.dialect.name == "sqlite":
        from tocsin.store.dialects.sqlite import SQLITE

        return SQLITE
    from tocsin.store.dialects.postgresql import POSTGRESQL

    return POSTGRESQL
