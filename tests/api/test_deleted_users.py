"""A user is deleted while requests of theirs are under way, or before a service has heard of it: they are told so."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from api.support import EMAIL, Client, Server, hook, serving
from support.store import STORES, stores_environ
from tocsin import clock
from tocsin.flow.people.access import SCOPES
from tocsin.ports.people import Living, Session
from tocsin.store import people
from tocsin.store.sql import write_now

store_environ = pytest.fixture(params=STORES)(stores_environ)


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others write is noticed an hour later."""
    monkeypatch.setattr("tocsin.store.writer.LOOK_EVERY_SECONDS", 3600.0)


def delete(server: Server, client: Client) -> None:
    user = server.user_of(client)
    write_now(server.engine, lambda connection: people.delete_user(connection, user))


MESSAGE = {"message": "too late"}


@pytest.mark.usefixtures("deaf")
@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/api/notifications", MESSAGE, {}),
        ("/api/notifications", MESSAGE, {"Idempotency-Key": "once"}),
        ("/api/notifications/batch", {"notifications": [MESSAGE]}, {}),
        ("/api/notification-handlers", EMAIL, {}),
    ],
    ids=["send", "idempotent", "batch", "handler"],
)
def test_who_is_gone_has_no_key(
    serve_with: Callable[..., Server], capfd: pytest.CaptureFixture[str], path: str, body: Any, headers: dict[str, str]
) -> None:
    server = serve_with()
    client, other = server.client(*SCOPES), server.client(*SCOPES)
    hook(client)
    hook(other)
    assert client.post("/api/notifications", {"message": "in time"}).status == 202
    delete(server, client)
    refused = client.post(path, body, headers)
    deadline = time.monotonic() + 10
    while refused.status == 422 and time.monotonic() < deadline:  # that their handlers are gone was noticed before that their key is
        refused = client.post(path, body, headers)
    assert (refused.status, refused.headers.get("www-authenticate"), refused.faults()) == (401, "Bearer", [("unauthorized", None)])
    assert other.post(path, body, headers).status < 300
    assert "Traceback" not in "".join(capfd.readouterr())


def test_who_is_gone_is_led_to_the_sign_in_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store_environ: dict[str, str]) -> None:
    with serving(tmp_path / "store", pages=True, **store_environ) as server:
        client = server.client(*SCOPES)
        hook(client)
        user, accounts = server.user_of(client), server.service.accounts
        session = Session(hashlib.sha256(b"token").digest(), user, clock.now(), clock.now())
        write_now(server.engine, lambda c: people.add_session(c, session, Living(0, 0), b""))
        visitor = accounts.visitor

        async def going(*args: Any) -> Any:
            found = await visitor(*args)
            delete(server, client)
            return found

        monkeypatch.setattr(accounts, "visitor", going)
        form = urlencode({"csrf": hashlib.sha256(b"csrf token").hexdigest(), "name": "too late", "scopes": "handlers:read"})
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": "tocsin_session=token", "Origin": server.base}
        answer = server.stranger()("POST", "/keys", form, headers)
        assert (answer.status, answer.headers["location"].partition("?")[0]) == (303, "/sign-in")
