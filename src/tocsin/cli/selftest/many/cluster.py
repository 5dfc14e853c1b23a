"""Several processes of the service on one database, and what its rows say."""

import contextlib
import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection as Driver

from tocsin.admin import open_admin
from tocsin.cli.selftest.many.books import Row, Tried
from tocsin.cli.selftest.service import Down, Refused, Service
from tocsin.model import Status
from tocsin.partitions import PARTITIONS
from tocsin.settings import load
from tocsin.vault import random_base62

READY_SECONDS = 30.0
CALL_SECONDS = 8.0  # that a process has to answer before another one is asked
_FIRST_USER = "admin@localhost"
_ROWS = (
    "SELECT d.id, d.notification_id, h.name, d.status, n.text, a.number, a.at, a.outcome FROM deliveries d"
    " JOIN handlers h ON h.id = d.handler_id JOIN notifications n ON n.id = d.notification_id"
    " LEFT JOIN attempts a ON a.delivery_id = d.id ORDER BY d.id, a.number"
)
_TOTALS = "SELECT what, sum(n) FROM totals WHERE what < 100 GROUP BY what"
_COUNTED = "SELECT status, count(*) FROM deliveries GROUP BY status"
_OWNED = "SELECT owner, count(*) FROM partitions GROUP BY owner"


class Process(Service):
    """One of the processes."""

    def __init__(self, folder: Path, name: str, role: str, **environ: str) -> None:
        folder.mkdir()
        super().__init__(folder, TOCSIN_ROLE=role, **environ)
        self._key = environ["TOCSIN_BOOTSTRAP_API_KEY"]  # all of them have the first user's
        self.name = name
        self.role = role


class Cluster:
    """`environ`: of every process. Each has a data directory of its own, as on machines of their own. `each`: what is of one process only,
    given its name. `make`: how one is made.
    """

    def __init__(
        self,
        folder: Path,
        url: str,
        each: Callable[[str], Mapping[str, str]] = lambda _: {},
        make: Callable[..., Process] = Process,
        **environ: str,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._each = each
        self._make = make
        self.url = url
        self._environ = {
            "TOCSIN_DATABASE_URL": url,
            "TOCSIN_SECRET_KEY": random_base62(43),
            "TOCSIN_BOOTSTRAP_API_KEY": "tk_" + random_base62(43),
            "TOCSIN_RETRY_SCHEDULE": ",".join(["0.2s", "0.5s", "1s", *["2s"] * 15]),
            "TOCSIN_DISABLE_AFTER_FAILURES": "0",
            "TOCSIN_ALLOW_PORTS": "1-65535",
            **environ,
        }
        self.processes: list[Process] = []
        self._turns = itertools.count()
        self._looking = threading.Lock()
        self._observer: Driver[Any] | None = None

    @contextmanager
    def running(self, *roles: str) -> Generator["Cluster", None, None]:
        """With a process of each of these roles; all that run at the end are killed."""
        try:
            for role in roles:
                self.launch(role)
            for one in self.processes:
                one.wait_until_ready(READY_SECONDS)
            yield self
        finally:
            for one in self.processes:
                one.kill()
            self._forget_observer()

    def launch(self, role: str, crash_at: str | None = None, **environ: str) -> Process:
        """One more, without waiting for it. With `crash_at` it dies at that point (see `points`)."""
        name = f"{role}-{len(self.processes) + 1}"
        process = self._make(self._folder / name, name, role, **{**self._environ, **self._each(name), **environ})
        self.processes.append(process)
        process.launch(crash_at)
        return process

    def join(self, role: str, **environ: str) -> Process:
        """One more, once it is ready."""
        process = self.launch(role, **environ)
        process.wait_until_ready(READY_SECONDS)
        return process

    def of_role(self, *roles: str) -> list[Process]:
        """Those that run."""
        return [one for one in self.processes if one.role in roles and one.pid is not None]

    @property
    def apis(self) -> list[Process]:
        return self.of_role("api", "all")

    @property
    def workers(self) -> list[Process]:
        return self.of_role("worker", "all")

    # -------------------------------------------------------------------------------------------------- what is asked

    def ask(self, method: str, path: str, content: dict[str, object] | None = None, key: str | None = None) -> Any:
        """Of processes in turn, until one answers. Raises Down, and Refused."""
        ends_at = time.monotonic() + READY_SECONDS
        while True:
            try:
                return self._next_api().call(method, path, content, key, seconds=CALL_SECONDS)
            except (Down, Refused) as error:
                is_in_flight = isinstance(error, Refused) and error.status == 409  # our own request, whose answer was lost
                if (isinstance(error, Refused) and not is_in_flight) or time.monotonic() > ends_at:
                    raise
                time.sleep(0.03)

    def _next_api(self) -> Process:
        apis = self.apis
        if not apis:
            raise Down
        return apis[next(self._turns) % len(apis)]

    def add(self, type: str, name: str, target: str) -> int:
        """A new handler's id."""
        return int(self.ask("POST", "/api/notification-handlers", {"type": type, "name": name, type: target})["data"]["id"])

    def add_key(self, name: str) -> str:
        """A key of the first user's, made beside the processes."""
        with open_admin(load(self._environ, self._folder / "none.env")) as admin:
            return admin.add_key(_FIRST_USER, name, ())

    def revoke_key(self, name: str) -> None:
        with open_admin(load(self._environ, self._folder / "none.env")) as admin:
            admin.revoke_key(name)

    # ------------------------------------------------------------------------------------------------ what the rows say

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Raises psycopg.Error."""
        with self._looking:
            if self._observer is None:
                self._observer = psycopg.connect(self.url, autocommit=True, connect_timeout=5)
            try:
                return self._observer.execute(statement.encode(), values or None).fetchall()
            except psycopg.Error:
                self._forget_observer()
                raise

    def _forget_observer(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            with contextlib.suppress(psycopg.Error):
                observer.close()

    def rows(self) -> list[Row]:
        tried: defaultdict[tuple[int, int, str, int, str], list[Tried]] = defaultdict(list)
        for *delivery, number, at, outcome in self.query(_ROWS):
            attempts = tried[tuple(delivery)]
            if number is not None:
                attempts.append(Tried(number, at / 1e6, outcome))
        return [Row(id, of, name, Status(status).name.lower(), text, some) for (id, of, name, status, text), some in tried.items()]

    def totals(self) -> dict[str, int]:
        """Deliveries by status, as the stored totals have it."""
        return {Status(what).name.lower(): int(n) for what, n in self.query(_TOTALS) if n}

    def counted(self) -> dict[str, int]:
        return {Status(status).name.lower(): int(n) for status, n in self.query(_COUNTED)}

    def owned(self) -> dict[int, int]:
        """How many partitions each worker owns, by its id; 0: nobody."""
        return {owner or 0: int(n) for owner, n in self.query(_OWNED)}

    def id_of(self, process: Process) -> int:
        """As the worker that it is now; 0: it has not joined, or was removed."""
        found = self.query("SELECT id FROM workers WHERE name LIKE %s ORDER BY id DESC LIMIT 1", f"%-{process.pid}")
        return found[0][0] if found else 0

    def is_shared_out(self) -> bool:
        """Whether those that send own everything, each its share."""
        owned = self.owned()
        alive = {self.id_of(one) for one in self.workers}
        if 0 in alive or owned.keys() != alive:
            return False
        return sum(owned.values()) == PARTITIONS and max(owned.values()) - min(owned.values()) <= 1

    def waiting(self) -> int:
        return int(self.query(f"SELECT count(*) FROM deliveries WHERE status = {Status.PENDING:d}")[0][0])

    def until(self, is_so: Callable[[], bool], seconds: float) -> float | None:
        """How long it took until it was so, asked every 20 ms; None: longer than that. A database that is away is no answer."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            with contextlib.suppress(psycopg.Error):
                if is_so():
                    return time.monotonic() - began
            time.sleep(0.02)
        return None
