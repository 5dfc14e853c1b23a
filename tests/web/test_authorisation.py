"""Who may do what: every endpoint of the API and every page, asked by everybody there is.

The rows here say what is expected. They are compared with the tables that the service is made of, so an endpoint or page without a row
fails. Two users with the same things, and an administrator; a key for each scope, with all, and of each kind that is worth nothing.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, text

from api.support import Client, Reply, Server, moment, serving
from tocsin.api.table import TABLE
from tocsin.clock import now
from tocsin.flow.people.access import SCOPES
from tocsin.store import keys, people
from tocsin.store.sql import write_now
from tocsin.vault import hash_api_key, hash_password, new_api_key
from tocsin.web.site import ROUTES
from web.conftest import Answer, Surfer

PASSWORD = "correct horse battery"
HANDLERS, NOTIFICATIONS, DELIVERIES = "/api/notification-handlers", "/api/notifications", "/api/deliveries"
MESSAGE = {"message": "hello"}

# What each endpoint asks of a key: its scope, "all", or None: it asks for no key. With a body that it takes, where one has to be there
# before it looks whose it is.
API: dict[str, tuple[str | None, Any]] = {
    f"GET {HANDLERS}": ("handlers:read", None),
    f"GET {HANDLERS}/{{id}}": ("handlers:read", None),
    f"POST {HANDLERS}": ("handlers:write", {}),
    f"POST {HANDLERS}/{{id}}": ("handlers:write", {"name": "taken over"}),
    f"DELETE {HANDLERS}/{{id}}": ("handlers:write", None),
    f"POST {HANDLERS}/test": ("handlers:write", {}),
    f"POST {HANDLERS}/{{id}}/test": ("handlers:write", {}),
    f"POST {HANDLERS}/{{id}}/preview": ("handlers:read", MESSAGE),
    f"GET {HANDLERS}/{{id}}/stats": ("handlers:read", None),
    "GET /api/handler-states": ("handlers:read", None),
    f"GET {HANDLERS}/{{id}}/secret": ("all", None),
    f"POST {HANDLERS}/{{id}}/secret": ("all", {}),
    f"POST {NOTIFICATIONS}": ("notifications:send", {}),
    f"POST {NOTIFICATIONS}/batch": ("notifications:send", {}),
    f"GET {NOTIFICATIONS}": ("deliveries:read", None),
    f"GET {NOTIFICATIONS}/{{id}}": ("deliveries:read", None),
    f"DELETE {NOTIFICATIONS}/{{id}}": ("deliveries:write", None),
    f"GET {DELIVERIES}": ("deliveries:read", None),
    f"GET {DELIVERIES}/{{id}}": ("deliveries:read", None),
    f"POST {DELIVERIES}/retry": ("deliveries:write", {}),
    f"POST {DELIVERIES}/{{id}}/retry": ("deliveries:write", {}),
    f"POST {DELIVERIES}/{{id}}/cancel": ("deliveries:write", {}),
    "GET /api/openapi.json": (None, None),
    "GET /healthz": (None, None),
    "GET /readyz": (None, None),
    "GET /metrics": (None, None),
}

# Whom each page is for: "anybody", who is "signed in", whose things it is about ("owner"), "administrators".
PAGES: dict[str, str] = {
    "GET /sign-in": "anybody",
    "POST /sign-in": "anybody",
    "GET /sign-in/openid": "anybody",
    "GET /sign-in/openid/callback": "anybody",
    "GET /sign-out/openid": "anybody",
    "GET /sign-in/code": "anybody",
    "POST /sign-in/code": "anybody",
    "GET /sign-in/{token}": "anybody",
    "POST /sign-in/{token}": "anybody",
    "GET /docs": "anybody",
    "GET /ko/docs": "anybody",
    "GET /docs/channels/{type}": "anybody",
    "GET /confirm/{token}": "anybody",
    "POST /confirm/{token}": "anybody",
    "GET /unsubscribe/{token}": "anybody",
    "POST /unsubscribe/{token}": "anybody",
    "POST /sign-out": "signed in",
    "GET /": "signed in",
    "GET /handlers": "signed in",
    "GET /handlers/add": "signed in",
    "GET /handlers/add/{type}": "signed in",
    "POST /handlers/add/{type}": "signed in",
    "GET /handlers/{id:int}": "owner",
    "GET /handlers/{id:int}/edit": "owner",
    "POST /handlers/{id:int}/edit": "owner",
    "POST /handlers/{id:int}/test": "owner",
    "POST /handlers/{id:int}/state": "owner",
    "GET /handlers/{id:int}/secret": "owner",
    "POST /handlers/{id:int}/secret": "owner",
    "POST /handlers/many": "signed in",
    "GET /handlers/{id:int}/delete": "owner",
    "POST /handlers/{id:int}/delete": "owner",
    "GET /log": "signed in",
    "GET /log/export.{form}": "signed in",
    "GET /log/replay": "signed in",
    "POST /log/replay": "signed in",
    "GET /deliveries": "signed in",
    "GET /deliveries/{id:int}": "owner",
    "POST /deliveries/{id:int}/retry": "owner",
    "POST /deliveries/{id:int}/cancel": "owner",
    "GET /notifications": "signed in",
    "GET /notifications/{id:int}": "owner",
    "POST /notifications/{id:int}/cancel": "owner",
    "GET /send": "signed in",
    "POST /send": "signed in",
    "POST /send/preview": "signed in",
    "GET /keys": "signed in",
    "POST /keys": "signed in",
    "GET /keys/{id:int}/revoke": "owner",
    "POST /keys/{id:int}/revoke": "owner",
    "GET /account": "signed in",
    "POST /account/password": "signed in",
    "POST /account/time-zone": "signed in",
    "POST /account/sessions/end": "signed in",
    "POST /account/sessions/end-others": "signed in",
    "GET /account/audit": "signed in",
    "GET /account/audit/export.jsonl": "signed in",
    "GET /confirm": "signed in",
    "POST /confirm": "signed in",
    "GET /account/second-factor": "signed in",
    "POST /account/second-factor": "signed in",
    "POST /account/second-factor/codes": "signed in",
    "POST /account/second-factor/off": "signed in",
    "GET /users": "administrators",
    "POST /users": "administrators",
    "POST /users/{id:int}/role": "administrators",
    "POST /users/{id:int}/disable": "administrators",
    "GET /audit": "administrators",
    "GET /audit/export.jsonl": "administrators",
    "GET /workers": "administrators",
}


class Person:
    """A user with a handler, a notification, a delivery and a key for each scope."""

    def __init__(self, server: Server, name: str, *, is_admin: bool = False) -> None:
        self.server = server
        self.email = f"{name}@example.com"
        self.user = write_now(server.engine, lambda c: self._added(c, is_admin))
        self.everything = self.key()
        self.narrow = {scope: self.key(scope) for scope in SCOPES}
        made = {"name": f"of {name}", "type": "webhook", "webhook": f"http://127.0.0.1:9/{name}"}
        self.handler: int = self.everything.post(HANDLERS, made).data["id"]
        later = {"message": f"from {name}", "send_at": moment(hours=1)}
        self.notification: int = self.everything.post(NOTIFICATIONS, later).data["id"]
        self.delivery: int = self.everything.get(f"{DELIVERIES}?notification_id={self.notification}").data[0]["id"]
        self.surfer = Surfer(server.base)
        assert self.surfer.sign_in(self.email, PASSWORD).path == "/"

    def _added(self, connection: Connection, is_admin: bool) -> int:
        user = people.add_user(connection, self.email, is_admin, now())
        assert user is not None
        people.set_password(connection, user, HASHED)
        return user

    def key(self, *scopes: str, expires_at: int | None = None) -> Client:
        key = new_api_key()
        shown = key[:7]
        self.key_id = write_now(
            self.server.engine,
            lambda c: keys.add_key(c, self.user, "a key", hash_api_key(key), shown, scopes, now(), expires_at),
        )
        return self.server.stranger(key)

    def id_in(self, path: str) -> int:
        if path.startswith("/users"):
            return self.user
        if path.startswith("/keys"):
            return self.key_id
        return self.notification if "notifications" in path else self.delivery if "deliveries" in path else self.handler

    def things(self) -> list[Any]:
        """All that others might have changed."""
        client = self.everything
        found = [client.get(f"{HANDLERS}/{self.handler}"), client.get(f"{HANDLERS}/{self.handler}/secret")]
        found += [client.get(f"{NOTIFICATIONS}/{self.notification}"), client.get(f"{DELIVERIES}/{self.delivery}")]
        rows = write_now(self.server.engine, lambda c: [*map(tuple, c.execute(text(f"SELECT * FROM keys WHERE id = {self.key_id}")))])
        return [*(one.data for one in found), [row[:7] + row[8:] for row in rows]]


HASHED = hash_password(PASSWORD)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with serving(tmp_path_factory.mktemp("world"), pages=True) as server:
        found: dict[str, Any] = {name: Person(server, name, is_admin=name == "admin") for name in ("admin", "one", "two", "gone")}
        gone: Person = found["gone"]
        found["disabled"] = gone.everything
        revoked, found["expired"] = found["one"].key(), found["one"].key(expires_at=1)
        write_now(server.engine, lambda c: keys.revoke_key(c, found["one"].key_id - 1, now()))
        write_now(server.engine, lambda c: people.disable_user(c, gone.user, now()))
        found["revoked"], found["unknown"], found["no key"] = revoked, server.stranger("tk_unknownunknownunknown"), server.stranger()
        found["nobody"] = Surfer(server.base)
        found["signed out"] = Surfer(server.base)
        found["signed out"].cookies = gone.surfer.cookies
        found["server"] = server
        server.service.access.forget_all()
        yield found


def ask(client: Client, row: str, id_: int) -> Reply:
    method, path = row.replace("{id}", str(id_)).split()
    body = API[row][1]
    return client.post(path, body) if method == "POST" else client(method, path)


# ------------------------------------------------------------------------------------------------------------------ the API


def test_every_endpoint_and_every_page_has_its_row() -> None:
    assert {f"{one.method} {one.path}" for one in TABLE} == {*API}
    assert {f"{method} {path}" for method, path, *_ in ROUTES} == {*PAGES}


@pytest.mark.parametrize("row", [row for row, (scope, _) in API.items() if scope is not None])
def test_a_key_may_do_what_its_scopes_say(world: dict[str, Any], row: str) -> None:
    scope, _ = API[row]
    one: Person = world["one"]
    absent = 999_999_999
    for name in ("no key", "unknown", "revoked", "expired", "disabled"):
        answer = ask(world[name], row, absent)
        assert (answer.status, answer.headers.get("www-authenticate")) == (401, "Bearer"), (name, answer.content)
    for narrow, client in one.narrow.items():
        answer = ask(client, row, absent)
        if narrow == scope:
            assert answer.status not in (401, 403), answer.content
        else:
            assert (answer.status, answer.faults()) == (403, [("forbidden", None)]), narrow
    assert ask(one.everything, row, absent).status not in (401, 403)


@pytest.mark.parametrize("row", [row for row in API if "{id}" in row])
@pytest.mark.parametrize("who", ["two", "admin"])
def test_what_is_another_users_is_not_there(world: dict[str, Any], row: str, who: str) -> None:
    one, other = world["one"], world[who]
    before = one.things()
    theirs, absent = (ask(other.everything, row, id_) for id_ in (one.id_in(row.split()[1]), 999_999_999))
    assert theirs.status == 404 and theirs.faults() == [("not_found", None)]
    assert theirs.content == absent.content
    assert one.things() == before


@pytest.mark.parametrize("who", ["two", "admin"])
def test_lists_and_what_is_sent_name_nothing_of_another_users(world: dict[str, Any], who: str) -> None:
    one, other = world["one"], world[who]
    before = one.things()
    for row in (row for row in API if row.startswith("GET /api/n") or row.startswith("GET /api/d") or "states" in row):
        if "{id}" not in row:
            assert b"one" not in ask(other.everything, row, 0).content
    for query in (f"notification_id={one.notification}", f"notification_handler_id={one.handler}"):
        assert other.everything.get(f"{DELIVERIES}?{query}").data == []
        assert other.everything.post(f"{DELIVERIES}/retry?{query}", {}).status != 202 or one.things() == before
    sent = [other.everything.post(NOTIFICATIONS, {**MESSAGE, "handlers": [id_]}) for id_ in (one.handler, 999_999_999)]
    assert [answer.status for answer in sent] == [422, 422]
    assert sent[0].faults() == sent[1].faults()
    assert one.things() == before


@pytest.mark.parametrize("row", [row for row, (scope, _) in API.items() if scope is None])
def test_what_needs_no_key_takes_none(world: dict[str, Any], row: str) -> None:
    assert {ask(world[name], row, 0).status for name in ("no key", "unknown", "revoked")} == {200}


# ---------------------------------------------------------------------------------------------------------------- the pages


LEAD_ON = {"GET /confirm", "GET /handlers", "GET /deliveries", "GET /notifications"}  # to another page


def open_page(surfer: Surfer, row: str, id_: int, csrf: str = "") -> Answer:
    method, path = row.split()
    path = path.replace("{id:int}", str(id_)).replace("{type}", "webhook").replace("{form}", "csv").replace("{token}", "nonsense")
    if method == "GET":
        return surfer.get(path, stay=True)
    return surfer.post(path, csrf=csrf, stay=True)


def is_asked_to_sign_in(answer: Answer) -> bool:
    return answer.status == 303 and re.fullmatch(r"/sign-in(\?(to=.*|done=not_taken))?", answer.headers["location"]) is not None


@pytest.mark.parametrize("row", PAGES)
def test_a_page_is_for_whom_it_is_meant(world: dict[str, Any], row: str) -> None:
    whom, one = PAGES[row], world["one"]
    id_ = one.id_in(row.split()[1])
    for stranger in (world["nobody"], world["signed out"]):
        answer = open_page(stranger, row, id_)
        if whom == "anybody":
            assert answer.status in (200, 403, 404) or row.endswith("/sign-in/code"), answer.status  # 403: a form without its token
        else:
            assert is_asked_to_sign_in(answer), (answer.status, answer.text[:200])
    for signed_in in (one, world["admin"]):  # without the form's token nothing is done for either
        if row.startswith("POST") and whom != "anybody":
            assert open_page(signed_in.surfer, row, id_).status == 403
    token = one.surfer.token()
    if whom == "administrators":
        assert open_page(one.surfer, row, world["two"].user, token).status == 404
        assert row.startswith("POST") or open_page(world["admin"].surfer, row, 0).status == 200
    elif row.startswith("GET") and whom != "anybody":
        assert open_page(one.surfer, row, id_).status in ((200, 303) if row in LEAD_ON else (200,))


@pytest.mark.parametrize("row", [row for row, whom in PAGES.items() if whom == "owner"])
@pytest.mark.parametrize("who", ["two", "admin"])
def test_a_page_of_another_users_is_not_there(world: dict[str, Any], row: str, who: str) -> None:
    one, other = world["one"], world[who]
    before = one.things()
    token = other.surfer.token()
    theirs, absent = (open_page(other.surfer, row, id_, token) for id_ in (one.id_in(row.split()[1]), 999_999_999))
    assert theirs.status == absent.status == 404
    assert _bare(theirs.text) == _bare(absent.text)
    assert one.things() == before


@pytest.mark.parametrize("who", ["two", "admin"])
def test_pages_with_lists_name_nothing_of_another_users(world: dict[str, Any], who: str) -> None:
    one, other = world["one"], world[who]
    before = one.things()
    for row in (row for row, whom in PAGES.items() if whom == "signed in" and row.startswith("GET")):
        page = open_page(other.surfer, row, 0).text
        assert "of one" not in page and "from one" not in page, row
    for query in (f"handler={one.handler}", "search=from+one"):
        assert other.surfer.get(f"/log/export.jsonl?{query}").text == ""
    assert other.surfer.post("/handlers/many", csrf=other.surfer.token(), do="delete", ids=str(one.handler), sure="1").status == 404
    assert one.things() == before


def _bare(page: str) -> str:
    """Without what differs from request to request."""
    return re.sub(r"[0-9a-f]{64}", "", page)


def test_a_user_who_lost_a_right_has_lost_it_at_once(world: dict[str, Any]) -> None:
    server: Server = world["server"]
    late = Person(server, "late", is_admin=True)
    assert late.surfer.get("/users").status == 200
    write_now(server.engine, lambda c: people.set_administrator(c, late.user, False))
    assert late.surfer.get("/users").status == 404
    write_now(server.engine, lambda c: people.disable_user(c, late.user, now()))
    server.service.access.forget_all()  # as the change that is noticed within 2 s does
    assert is_asked_to_sign_in(late.surfer.get("/", stay=True))
    assert late.everything.get(HANDLERS).status == 401
