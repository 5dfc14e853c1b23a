"""The service as a child process, as an operator runs it, and a client that speaks plain HTTP to it.

    service = Service(folder, TOCSIN_UNKNOWN="stop").start()
    client = service.client()                                  # a new user's key
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    notification = client.send("Hello", handlers=[handler])
    [delivery] = client.settled(notification)

`kill` and `terminate` end it; `start` runs it again on the same data directory.
"""

import contextlib
import http.client
import itertools
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self, TypeAlias

import psycopg

from e2e import nursery
from tocsin.admin import Admin, open_admin
from tocsin.settings import OPTIONS, load

START_SECONDS = 40.0
FIRST_KEY = "tk_FirstKeyOfTheEndToEndTests0123456789"
Process: TypeAlias = "subprocess.Popen[str] | nursery.Forked"
NO_QUOTAS = {option.variable: "0" for option in OPTIONS if option.name.startswith("quota_")}
_numbers = itertools.count(1)


def until(condition: Callable[[], Any], seconds: float = 15.0, what: str = "it did not come true") -> Any:
    """The condition's value as soon as it is true: for state that only asking again can show. It asks less often the longer it takes."""
    deadline, pause = time.monotonic() + seconds, 0.01
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} within {seconds} s"
        time.sleep(pause := min(pause * 1.3, 0.1))
    return value


def in_an_hour() -> str:
    """As the API writes times."""
    return (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%d %H:%M:%S")


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def data(self) -> Any:
        body = self.json
        assert "data" in body, body
        return body["data"]

    def codes(self) -> list[tuple[str, str | None]]:
        return [(one["code"], one.get("source", {}).get("parameter")) for one in self.json["errors"]]


class Client:
    def __init__(self, port: int, key: str | None) -> None:
        self.port = port
        self.key = key

    def __call__(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        form: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """`form`: sent as `curl --form` does; `json`: as JSON."""
        sent = dict(headers or {})
        body = None
        if self.key is not None:
            sent["Authorization"] = f"Bearer {self.key}"
        if form is not None:
            sent["Content-Type"] = "multipart/form-data; boundary=------------------------d74496d66958873e"
            body = _multipart(form)
        elif json is not None:
            sent["Content-Type"] = "application/json"
            body = _encode(json)
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=40)) as connection:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def get(self, path: str) -> Reply:
        return self("GET", path)

    def post(self, path: str, json: object = None, **headers: str) -> Reply:
        return self("POST", path, json=json, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def delete(self, path: str) -> Reply:
        return self("DELETE", path)

    # --------------------------------------------------------------------------------------------------- what tests do

    def add_handler(self, type: str, name: str = "Example", **settings: str) -> int:
        reply = self("POST", "/api/notification-handlers", form={"name": name, "type": type, **settings})
        assert reply.status == 201, reply.content
        return reply.data["id"]

    def handler(self, handler: int) -> Any:
        return self.get(f"/api/notification-handlers/{handler}").data

    def change(self, handler: int, **fields: str) -> None:
        reply = self("POST", f"/api/notification-handlers/{handler}", form=fields)
        assert reply.status == 200, reply.content

    def send(self, message: str, **fields: object) -> int:
        reply = self.post("/api/notifications", {"message": message, **fields})
        assert reply.status == 202, reply.content
        return reply.data["id"]

    def deliveries(self, notification: int) -> list[Any]:
        """Oldest first."""
        return self.get(f"/api/deliveries?notification_id={notification}&results_per_page=1000").data[::-1]

    def delivery(self, delivery: int) -> Any:
        """With its attempts and events."""
        return self.get(f"/api/deliveries/{delivery}").data

    def settled(self, notification: int, seconds: float = 15.0) -> list[Any]:
        """The notification's deliveries with attempts and events, once none of them waits any more."""

        def counts() -> bool:
            return not self.get(f"/api/notifications/{notification}").data["deliveries"]["pending"]

        until(counts, seconds, "a delivery still waits")
        return [self.delivery(one["id"]) for one in self.deliveries(notification)]

    def attempted(self, notification: int, times: int = 1) -> Any:
        """The notification's only delivery, once that many attempts are in its log."""

        def found() -> Any:
            [delivery] = self.deliveries(notification)
            detail = self.delivery(delivery["id"])
            return detail if len(detail["attempts"]) >= times else None

        return until(found, what=f"fewer than {times} attempts came")


def _encode(value: object) -> bytes:
    return json.dumps(value).encode()


def _multipart(form: Mapping[str, object]) -> bytes:
    part = '--------------------------d74496d66958873e\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    return ("".join(part % pair for pair in form.items()) + "--------------------------d74496d66958873e--\r\n").encode()


class Service:
    """One child process after the other on the same data directory. `printed`: what the present one wrote to standard output.

    `from_scratch`: started by a new interpreter, instead of as a copy of the nursery.
    """

    def __init__(self, folder: Path, *, from_scratch: bool = False, **environ: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.data = folder / "data"
        self.log_file = folder / "service.log"
        self.environ = {
            "TOCSIN_DATA_DIR": str(self.data),
            "TOCSIN_PORT": "0",
            "TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8",
            "TOCSIN_ALLOW_PORTS": "1-65535",
            "TOCSIN_BOOTSTRAP_API_KEY": FIRST_KEY,
            "TOCSIN_EMAIL_TRUSTED_DOMAINS": "*",  # most tests are about other things than confirming addresses
            **NO_QUOTAS,
            **environ,
        }
        self.environ = {name: value for name, value in self.environ.items() if value}
        self.port = 0
        self.crash_at: str | None = None
        """A point of `tocsin.cli.selftest.points` at which the next one that is started dies."""
        self.user: int | None = None
        """Whom it runs as, where the tests run as root; the commands beside it are root's then."""
        self.printed: list[str] = []
        self.from_scratch = from_scratch or not nursery.CAN_FORK
        self.process: Process | None = None
        self._reading: threading.Thread | None = None

    def start(self) -> Self:
        """Run it; returns once it says where it serves."""
        self.launch()
        assert self.process and self.process.stdout
        self.printed = []
        serves = threading.Event()

        def read(out: Any) -> None:
            for line in out:
                self.printed.append(line.rstrip("\n"))
                if line.startswith("tocsin serves http://"):
                    serves.set()
            serves.set()

        self._reading = threading.Thread(target=read, args=(self.process.stdout,), daemon=True)
        self._reading.start()
        assert serves.wait(START_SECONDS), f"it did not start: {self.log()}"
        assert self.printed and self.printed[-1].startswith("tocsin serves "), f"it ended: {self.log()}"
        self.port = int(self.printed[-1].rpartition(":")[2])
        return self

    def launch(self) -> Process:
        """Run it without waiting for it to serve."""
        module = ["tocsin"] if self.crash_at is None else ["tocsin.cli.selftest.points", self.crash_at]
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "PYTHONUNBUFFERED": "1", **self.environ}
        if self.user is not None:
            module, environ["PYTHONPATH"] = ["e2e.as_user", str(self.user)], str(Path(__file__).parents[1])
        with self.log_file.open("ab") as log:
            if self.from_scratch:
                command = [sys.executable, "-m", *module, "serve"]
                self.process = subprocess.Popen(command, cwd=self.folder, env=environ, stdout=subprocess.PIPE, stderr=log, text=True)
            else:
                self.process = nursery.launch([*module, "serve"], self.folder, environ, log.fileno())
        self.crash_at = None
        return self.process

    def run(self, module: str, *words: str, **changes: str) -> "subprocess.CompletedProcess[str]":
        """Another command on the same data directory, beside the running service."""
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.environ, **changes}
        if not self.from_scratch:
            return nursery.run([module, *words], self.folder, environ, 60)
        command = [sys.executable, "-m", module, *words]
        return subprocess.run(command, cwd=self.folder, env=environ, capture_output=True, text=True, timeout=60, check=False)

    def refused(self) -> str:
        """Run it where it must not start: what it said, all of it, having ended with 1."""
        said_before = len(self.log())
        process = self.launch()
        assert process.stdout
        out = process.stdout.read()
        process.wait(START_SECONDS)
        assert process.returncode == 1, (process.returncode, out, self.log()[said_before:])
        assert out == ""
        return self.log()[said_before:].strip()

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self._ended()

    def dies(self, seconds: float = 20.0) -> None:
        """Wait until it has killed itself."""
        assert self._ended(seconds) == -signal.SIGKILL

    def terminate(self, seconds: float = 20.0) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self._ended(seconds)

    def limit_files(self, most_bytes: int) -> None:
        """No file of the running service may grow beyond this: to it, the disk is full. -1 lifts the limit."""
        assert self.process is not None
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))

    def limit_descriptors(self, more: int) -> None:
        """The running service cannot open more than so many beyond the highest one that it has."""
        assert self.process is not None
        highest = max(int(one.name) for one in Path(f"/proc/{self.process.pid}/fd").iterdir())
        _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (min(hard, highest + 1 + more), hard))

    def _ended(self, seconds: float = 20.0) -> int:
        assert self.process is not None
        process, self.process = self.process, None
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        if self._reading is not None:
            self._reading.join(5)
        return code

    def log(self) -> str:
        """All that was ever written to standard error."""
        return self.log_file.read_text(encoding="utf-8") if self.log_file.exists() else ""

    # ------------------------------------------------------------------------------------------------------------ users

    def first(self) -> Client:
        """The client of the first user."""
        return Client(self.port, FIRST_KEY)

    @contextmanager
    def admin(self) -> Iterator[Admin]:
        """The commands' way in, beside the running service."""
        with open_admin(load(self.environ, self.folder / "none.env")) as admin:
            yield admin

    def client(self, *scopes: str) -> Client:
        """A new user's key."""
        email = f"user{next(_numbers)}@example.com"
        with self.admin() as admin:
            admin.add_user(email, is_admin=False)
            return OwnedClient(self.port, admin.add_key(email, "test", scopes), email)

    def narrowed(self, client: "OwnedClient", *scopes: str) -> Client:
        """Another key of the same user, with these scopes only."""
        with self.admin() as admin:
            return OwnedClient(self.port, admin.add_key(client.email, "narrow", scopes), client.email)

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """A look into the store, beside the running service."""
        if url := self.environ.get("TOCSIN_DATABASE_URL"):
            with psycopg.connect(url) as connection:
                return connection.execute(_as_psycopg(sql, values), values or None).fetchall()
        with contextlib.closing(sqlite3.connect(f"file:{self.data}/tocsin.db?mode=ro", uri=True, timeout=10)) as connection:
            return connection.execute(sql, values).fetchall()

    def change(self, sql: str, *values: object) -> int:
        """A change of the store, beside the running service or while none runs; how many rows were changed."""
        if url := self.environ.get("TOCSIN_DATABASE_URL"):
            with psycopg.connect(url) as connection:
                return connection.execute(_as_psycopg(sql, values), values or None).rowcount
        with contextlib.closing(sqlite3.connect(self.data / "tocsin.db", timeout=10)) as connection, connection:
            return connection.execute(sql, values).rowcount

    def contents(self) -> bytes:
        """All that the store holds, to look for something in it or to compare it with later."""
        if "TOCSIN_DATABASE_URL" not in self.environ:
            return (self.data / "tocsin.db").read_bytes()
        tables = self.rows("SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1")
        return repr([(table, sorted(map(repr, self.rows(f"SELECT * FROM {table}")))) for (table,) in tables]).encode()


def _as_psycopg(sql: str, values: Sequence[object]) -> bytes:
    return (sql.replace("%", "%%").replace("?", "%s") if values else sql).encode()


class OwnedClient(Client):
    def __init__(self, port: int, key: str | None, email: str) -> None:
        super().__init__(port, key)
        self.email = email
