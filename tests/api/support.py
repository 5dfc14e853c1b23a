"""A real server on a free port with a store of its own, and small clients that speak plain HTTP to it."""

import http.client
import itertools
import json
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvloop
from sqlalchemy import select

from tocsin import datadir
from tocsin.api import make_app
from tocsin.app import running
from tocsin.clock import now
from tocsin.door import Door, listen
from tocsin.door.register import rules_within
from tocsin.limits import measure
from tocsin.settings import OPTIONS, load
from tocsin.store import people
from tocsin.store.keys import add_key
from tocsin.store.sql import write_now
from tocsin.store.tables import keys
from tocsin.vault import hash_api_key, new_api_key
from tocsin.web import make_pages

_numbers = itertools.count(1)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def data(self) -> Any:
        return self.json["data"]

    def faults(self) -> list[tuple[str, str | None]]:
        """(code, parameter) of every error object, the envelope's form checked on the way."""
        body = self.json
        assert list(body) == ["errors"] and body["errors"]
        for one in body["errors"]:
            assert list(one) in (["status", "code", "title", "detail"], ["status", "code", "title", "detail", "source"])
            assert all(isinstance(one[name], str) and one[name] for name in ("status", "code", "title", "detail"))
            assert "source" not in one or list(one["source"]) == ["parameter"]
        assert str(self.status) == min(one["status"] for one in body["errors"])
        assert self.headers["content-type"] == "application/json"
        return [(one["code"], one.get("source", {}).get("parameter")) for one in body["errors"]]


@dataclass
class Client:
    """One user's key, from an address of its own (all of 127.0.0.0/8 is loopback)."""

    port: int
    key: str | None
    address: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def __call__(self, method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30, source_address=(self.address, 0))
        sent = dict(self.headers)
        if self.key is not None:
            sent["Authorization"] = f"Bearer {self.key}"
        sent.update(headers or {})
        try:
            connection.request(method, path, body.encode() if isinstance(body, str) else body, sent)
            answer = connection.getresponse()
            return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str) -> Reply:
        return self("GET", path)

    def delete(self, path: str) -> Reply:
        return self("DELETE", path)

    def post(self, path: str, value: object = None, headers: dict[str, str] | None = None) -> Reply:
        body = None if value is None else json.dumps(value)
        return self("POST", path, body, {"Content-Type": "application/json", **(headers or {})})

    def form(self, path: str, *pairs: tuple[str, str], headers: dict[str, str] | None = None) -> Reply:
        """As `curl --form` sends it."""
        body = b"".join(b'--XyZ\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (n.encode(), v.encode()) for n, v in pairs)
        return self("POST", path, body + b"--XyZ--\r\n", {"Content-Type": "multipart/form-data; boundary=XyZ", **(headers or {})})


class Server:
    """A running service. `client` makes a new user with a key; `key` another key for a user."""

    def __init__(self, service: Any, engine: Any, port: int) -> None:
        self.service = service
        self.engine = engine
        self.port = port

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, *scopes: str, user: int | None = None) -> Client:
        number = next(_numbers)
        key = new_api_key()

        def add(connection: Any) -> None:
            owner = people.add_user(connection, f"user{number}@example.com", False, now()) if user is None else user
            add_key(connection, owner, "test", hash_api_key(key), key[:7], scopes, now())

        write_now(self.engine, add)
        return self.stranger(key)

    def stranger(self, key: str | None = None) -> Client:
        number = next(_numbers)
        return Client(self.port, key, f"127.9.{number // 250}.{number % 250 + 1}")

    def user_of(self, client: Client) -> int:
        with self.engine.connect() as connection:
            return connection.execute(select(keys.c.user_id).where(keys.c.hash == hash_api_key(client.key))).scalar_one()

    def narrowed(self, client: Client, *scopes: str) -> Client:
        """Another key of the same user, with these scopes only."""
        return self.client(*scopes, user=self.user_of(client))


_NO_QUOTAS = {option.variable: "0" for option in OPTIONS if option.name.startswith("quota_")}  # most tests are about other limits


@contextmanager
def serving(folder: Path, *, pages: bool = False, **environ: str) -> Iterator[Server]:
    usual = {"TOCSIN_PORT": "0", "TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8", "TOCSIN_ALLOW_PORTS": "1-65535"}
    environ = {"TOCSIN_DATA_DIR": str(folder), **usual, **environ}
    settings = load({**_NO_QUOTAS, **environ}, folder / "no.env")
    started: queue.Queue[Any] = queue.Queue()

    async def serve() -> None:
        engine, vault = datadir.open_store(settings)
        listener = listen(settings)
        port = listener.getsockname()[1]
        async with running(settings, engine, vault, lambda: [("127.0.0.1", port)]) as service:
            pages_app = make_pages(service) if pages else None
            server = Door(make_app(service, pages_app), settings, rules_within(measure()), 10.0)
            started.put((Server(service, engine, port), server))
            await server.serve(sockets=[listener])

    def run() -> None:
        try:
            with datadir.locked(settings.data_path):
                uvloop.run(serve())
        except BaseException as error:  # noqa: BLE001 - raised again where the test waits
            started.put(error)

    thread = threading.Thread(target=run, name="tocsin server")
    thread.start()
    found = started.get(timeout=30)
    if isinstance(found, BaseException):
        raise found
    server, process = found
    try:
        yield server
    finally:
        process.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


EMAIL = {"name": "Example", "type": "email", "email": "hello@example.com"}


def hook(client: Any, url: str = "http://127.0.0.1:9/", **more: Any) -> int:
    return client.post("/api/notification-handlers", {"name": "W", "type": "webhook", "webhook": url, **more}).data["id"]


def until(read: Any, wanted: Any) -> Any:
    """Ask again until the answer is the one wanted: delivery goes on beside the API."""
    deadline = time.monotonic() + 20
    while True:
        found = read()
        if found == wanted or time.monotonic() > deadline:
            assert found == wanted
            return found
        threading.Event().wait(0.01)


def moment(**ahead: int) -> str:
    return (datetime.now(UTC) + timedelta(**ahead)).strftime("%Y-%m-%d %H:%M:%S")
