"""A PostgreSQL server for tests, from a wheel: nothing has to be installed on the machine, and nobody has to be root or not.

One server serves all workers of a test run. It is the child of a keeper (this file, run as a program), which waits for a lock that every
worker shares and the kernel lets go of when the last of them has ended, however it did. `TOCSIN_TEST_DATABASE_URL` names another server
to use instead; the user there must be allowed to create databases.
"""

import atexit
import contextlib
import fcntl
import functools
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tocsin.cli.selftest.many import postgresql
from tocsin.cli.selftest.many.postgresql import NOBODY, in_database
from tocsin.store.dialects.connecting import postgresql_engine
from tocsin.store.migrating import migrate

GIVEN_URL = "TOCSIN_TEST_DATABASE_URL"
_numbers = itertools.count(1)
TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
MEMORY = Path("/dev/shm")  # what files there cost is a fifth of what they cost on a disk
ENOUGH_MEMORY = 2 << 30  # containers have 64 MB there, unless told otherwise


@functools.cache
def _place() -> str | None:
    """Where the data of servers is, whose disks nobody pulls out: in memory if there is room."""
    if not os.access(MEMORY, os.W_OK):
        return None
    room = os.statvfs(MEMORY)
    return str(MEMORY) if room.f_bavail * room.f_frsize >= ENOUGH_MEMORY else None


class Server(postgresql.Server):
    """See there. Its data is in memory, a copy of what initdb has made once; so they all say that they are the same server."""

    def __init__(self, *, standby_of: "postgresql.Server | None" = None, options: Sequence[object] = (), **settings: object) -> None:
        super().__init__(standby_of=standby_of, options=options, place=_place(), **settings)

    def _initialize(self, options: Sequence[object]) -> None:
        subprocess.run(["cp", "-a", f"{_initialized(tuple(options))}/.", self.data], check=True)


@functools.cache
def _initialized(options: tuple[object, ...]) -> Path:
    """What initdb makes with these words, which takes half a second."""
    made = postgresql.Server(options=options, place=_place())
    atexit.register(made.remove)
    return made.data


class SmallDisk(Server):
    """A server whose data, and with `has_log` its log too, are on a disk of so many megabytes. Raises Unmountable."""

    def __init__(self, megabytes: int, *, has_log: bool, **settings: object) -> None:
        self._megabytes = megabytes
        self._is_mounted = False
        options: list[object] = ["--wal-segsize", "1"]
        super().__init__(options=options, min_wal_size="2MB", max_wal_size="4MB", **settings)
        if not has_log:
            self._move_log()

    def _prepare_disk(self) -> None:
        self.data.mkdir()
        options = f"size={self._megabytes}m,uid={NOBODY},gid={NOBODY},mode=700"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.data], capture_output=True, text=True, check=False)
        if done.returncode:
            super().remove()
            raise Unmountable(f"no disk can be mounted here: {done.stderr.strip()}")
        self._is_mounted = True

    def _move_log(self) -> None:
        log = self.folder / "log-of-writes"
        shutil.move(self.data / "pg_wal", log)
        for place in (log, *log.rglob("*")):
            os.chown(place, NOBODY, NOBODY)
        (self.data / "pg_wal").symlink_to(log)

    def fill(self) -> Path:
        """To the last byte."""
        filler = self.data / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as out:
            while out.write(bytes(4096)):
                pass
        return filler

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        if self._is_mounted:
            subprocess.run(["umount", "--lazy", self.data], check=True)
        super().remove()


class Unmountable(Exception):
    """This process may mount nothing."""


# ------------------------------------------------------------------------------------------- one server for a test run


@functools.cache
def shared_url(folder: Path) -> str:
    """Of the server that all workers share; `folder` is one that they share too. The first that asks starts it."""
    if given := os.environ.get(GIVEN_URL):
        return given
    _in_use.append(using := (folder / "postgresql.users").open("w"))
    fcntl.flock(using, fcntl.LOCK_SH)
    said = folder / "postgresql.url"
    with (folder / "postgresql.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            keeper = subprocess.Popen([sys.executable, "-P", __file__, folder], stdout=subprocess.PIPE, text=True, start_new_session=True)
            assert keeper.stdout is not None
            url = keeper.stdout.readline().strip()
            assert url, "PostgreSQL did not start"
            said.write_text(url)
        return said.read_text()


_in_use: list[Any] = []


def _keep(folder: Path) -> None:
    """Run the server until no worker is left."""
    server = Server().start()
    try:
        print(server.url(), flush=True)
        with (folder / "postgresql.users").open("w") as users:
            fcntl.flock(users, fcntl.LOCK_EX)
            (folder / "postgresql.url").unlink(missing_ok=True)
    finally:
        server.remove()


def _strategy() -> str:
    """How to copy a template: copied files must be on the disk before it goes on, which memory is at once."""
    return "file_copy" if _place() and GIVEN_URL not in os.environ else "wal_log"


@contextmanager
def database(url: str, template: str | None = None) -> Iterator[str]:
    """A database of one's own, as a URL; dropped at the end, connected or not."""
    name = f"tocsin_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(url, autocommit=True) as connection:
        like = sql.SQL("") if template is None else sql.SQL(f"TEMPLATE {{}} STRATEGY {_strategy()}").format(sql.Identifier(template))
        connection.execute(sql.SQL("CREATE DATABASE {} {}").format(sql.Identifier(name), like))
        try:
            yield in_database(url, name)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def store_database() -> AbstractContextManager[str]:
    """As `database`, with the tables of a store and nothing in them."""
    return database(shared_url(shared_folder()), _template(shared_folder()))


_databases: dict[Path, tuple[str, ExitStack]] = {}


def database_of(folder: Path) -> str:
    """The database of a test's folder, a new one with a store at first; `drop_databases` drops them all."""
    if folder not in _databases:
        stack = ExitStack()
        _databases[folder] = stack.enter_context(store_database()), stack
    return _databases[folder][0]


def drop_databases() -> None:
    while _databases:
        _, (_, stack) = _databases.popitem()
        stack.close()


def shared_folder() -> Path:
    """Of this run of tests; `tests/conftest.py` names it."""
    return _shared[0]


_shared: list[Path] = []


def share(folder: Path) -> None:
    _shared[:] = [folder]


@functools.cache
def _template(folder: Path) -> str:
    """A database with the tables of a store. Nobody is connected to it, or it could not be copied."""
    name = f"tocsin_template_{os.getpid()}"
    url = shared_url(folder)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    engine = postgresql_engine(in_database(url, name))
    migrate(engine)
    engine.dispose()
    atexit.register(_drop, url, name)
    return name


def _drop(url: str, name: str) -> None:
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


if __name__ == "__main__":
    _keep(Path(sys.argv[1]))
