"""Where a store is, before and beside its service: a file, or a server. A process loads only the one that it uses."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from msgspec import Struct
from sqlalchemy import Connection, Engine

from tocsin.ports.errors import Finding


class Process(Struct, frozen=True):
    """One that serves a store, where several may, and the version of tocsin that it is."""

    name: str
    address: str
    version: str


class Home(Protocol):
    """Where a store is, before and beside its service. Whatever cannot be used raises StoreError, having changed nothing.

    `name` and `where` are how sentences call the store and its place, without secrets.
    """

    name: str
    where: str
    is_shared: bool
    """Several processes may serve it, so that none changes its form on the way."""

    def looking(self) -> AbstractContextManager[None]:
        """Until it ends, all questions share one connection, instead of each opening its own."""
        ...

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

    def sealed(self) -> bytes | None:
        """The settings of one handler as they are stored, those of the newest that has any."""
        ...

    def count_sealed(self, is_wanted: Callable[[bytes | None, bytes | None], bool]) -> int:
        """How many handlers have settings and a signing secret, as stored, for which `is_wanted` holds. Deleted ones do not count.

        The rows are read one by one, not held in memory.
        """
        ...

    def processes(self) -> list[Process]:
        """Those that serve it now, as far as it says so."""
        ...

    def engine(self) -> Engine:
        """For a store that is there; the caller disposes of it."""
        ...

    def make(self, begin: Callable[[Connection], object]) -> None:
        """A new store, which is there as a whole or not at all; `begin` writes the first rows."""
        ...

    def lock(self, lost: Callable[[str], None], *, alone: bool = True) -> AbstractContextManager[None]:
        """For a service, beside others where several may serve it; or `alone`, for a command. `lost` is told, from a thread, why it is
        held no longer."""
        ...

    def findings(self) -> Iterator[Finding]:
        """What `tocsin check` says of it."""
        ...
