"""The SQLite file of a data directory, before and beside its service. It is looked at before anything in it is changed."""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from tocsin import files
from tocsin.ports.errors import Finding, StoreError
from tocsin.store import faults, form
from tocsin.store.dialects.sqlite import sqlite_engine
from tocsin.store.homes import Process
from tocsin.store.migrating import migrate
from tocsin.store.sql import MOVED_TO, check_is_here, write_now

T = TypeVar("T")


class SqliteFile:
    """See `Home`."""

    is_shared = False

    def __init__(self, file: Path) -> None:
        self.file = file
        self.name = str(file)
        self.where = str(file.parent)

    def looking(self) -> AbstractContextManager[None]:
        return nullcontext()

    def is_there(self) -> bool:
        if self.file.is_symlink() and not self.file.exists():  # a new store would take the place of the link
            raise StoreError(f"{self.file} is a link to {self.file.readlink()}, where no file is: is a volume missing?")
        return self.file.exists() and not self._is_first_write() and not self.is_empty()

    def is_left_empty(self) -> bool:
        return self.file.exists() and not self._is_first_write() and self.is_empty()

    def is_empty(self) -> bool:
        if not self.file.is_file():
            raise StoreError(f"{self.file} is not a file: the store should be there.")
        return self.file.stat().st_size == 0 or self.look(form.is_empty)

    def is_readable(self) -> bool:
        return self.is_present() and self.file.is_file() and os.access(self.file, os.R_OK)

    def _is_first_write(self) -> bool:
        """Whether the very first write was interrupted: the journal says that there were no pages before.

        See https://sqlite.org/fileformat2.html 3.
        """
        try:
            head = self.file.with_name(f"{self.file.name}-journal").read_bytes()[:20]
        except OSError:
            return False
        return head.startswith(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7") and head[16:] == bytes(4)

    def is_present(self) -> bool:
        """Whether there is a store, or something else in its place; an empty file does not count."""
        return self.file.exists() and not self._is_first_write() and (not self.file.is_file() or self.file.stat().st_size > 0)

    def check_form(self) -> None:
        check_is_here(str(self.file), self.value(MOVED_TO))
        self.look(lambda connection: form.check_form(self.file, connection))

    def version(self) -> str | None:
        row = self.first_row("SELECT version_num FROM alembic_version")
        return None if row is None else row[0]

    def value(self, name: str) -> bytes | None:
        row = self.first_row("SELECT value FROM meta WHERE name = ?", name)
        return None if row is None else row[0]

    def types(self) -> list[str]:
        return [str(name) for (name,) in self.look(form.types)]

    def sealed(self) -> bytes | None:
        row = self.first_row(form.NEWEST_SEALED)
        return None if row is None else row[0]

    def count_sealed(self, is_wanted: Callable[[bytes | None, bytes | None], bool]) -> int:
        return self.look(lambda connection: sum(is_wanted(*row) for row in connection.execute(form.EVERY_SEALED)))

    def processes(self) -> list[Process]:
        return []  # a process that serves it holds its lock

    def engine(self) -> Engine:
        return sqlite_engine(self.file)

    def make(self, begin: Callable[[Connection], object]) -> None:
        """A complete store appears at once: a start that is killed leaves neither a partial store nor an empty file."""
        new = self.file.with_name(f"{self.file.name}.new")
        for ending in ("", "-journal", "-wal", "-shm"):
            new.with_name(f"{new.name}{ending}").unlink(missing_ok=True)
            self.file.with_name(f"{self.file.name}{ending}").unlink(missing_ok=True)
        files.create(new)  # SQLite gives its other files the same owner and mode
        engine = sqlite_engine(new)
        try:
            migrate(engine)
            write_now(engine, begin)
        finally:
            engine.dispose()
        new.rename(self.file)

    @contextmanager
    def lock(self, lost: Callable[[str], None], *, alone: bool = True) -> Generator[None, None, None]:  # noqa: ARG002
        """The lock of the folder is enough."""
        yield

    def findings(self) -> Iterator[Finding]:
        found = self.first_row("PRAGMA quick_check(1)")
        if found is not None and found != ("ok",):
            yield Finding(faults.damaged(" ".join(str(found[0]).removeprefix("*** in database main ***").split())))

    def first_row(self, query: str, *values: str) -> tuple[Any, ...] | None:
        """The first row of a query; None also if there is no such table. Raises StoreError."""

        def ask(connection: sqlite3.Connection) -> tuple[Any, ...] | None:
            try:
                return connection.execute(query, values).fetchone()
            except sqlite3.OperationalError as error:
                if "no such table" not in str(error):
                    raise
                return None

        return self.look(ask)

    def look(self, ask: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `ask`, read only, so that a store that is refused stays as it was. Raises StoreError."""
        try:
            try:
                return self._read(ask, "ro")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname != "SQLITE_READONLY_ROLLBACK":
                    raise
                # The last writer died during a write: until that is undone nobody can read the store (https://sqlite.org/rescode.html).
                return self._read(ask, "rw")
        except sqlite3.DatabaseError as error:
            if faults.name_of(error) == "SQLITE_NOTADB":
                raise StoreError(f"{self.file} is not a tocsin store: {error}.") from error
            if faults.is_damage(error):
                raise StoreError(faults.damaged(f"{self.file.name}: {error}")) from error
            raise StoreError(f"The store in {self.file.parent} cannot be read: {error}.") from error

    def _read(self, ask: Callable[[sqlite3.Connection], T], mode: str) -> T:
        try:
            with closing(self._opened(mode)) as connection:
                return ask(connection)
        finally:
            self._clear_away()

    def _opened(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(f"{self.file.absolute().as_uri()}?mode={mode}", uri=True)

    def _clear_away(self) -> None:
        """A reader cannot remove the files beside the store that it made. They keep the service out if they could not be given to its
        user, as by root without the permission: the last one who may write removes them."""
        with contextlib.suppress(OSError, sqlite3.Error):
            if self.file.with_name(f"{self.file.name}-shm").stat().st_uid != self.file.stat().st_uid:
                with closing(self._opened("rw")) as connection:
                    connection.execute("SELECT 1 FROM sqlite_master")
