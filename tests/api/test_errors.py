"""One envelope for whatever fails, and what surrounds the endpoints: routing, methods, sizes, keys, limits, probes."""

import ast
import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

import tocsin.flow
from api.support import EMAIL, Server, hook
from tocsin.api.errors import CODES
from tocsin.api.table import TABLE
from tocsin.door import refusals
from tocsin.model import Busy
from tocsin.settings import load

HANDLERS = "/api/notification-handlers"
JSON = {"Content-Type": "application/json"}
MIB = 1024 * 1024


# ---------------------------------------------------------------------------------------------------- paths and methods


@pytest.mark.parametrize(
    "path",
    [
        *("/api", "/api/", "/api/nothing", "/api/notification-handlers//", "/api/notification-handlers/1/nothing", "/api//notifications"),
        *("/api/notification-handlers/1/test/x", "/api/NOTIFICATIONS", "/api/notifications/1/retry", "/api/deliveries/1//"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PATCH", "OPTIONS"])
def test_no_such_path(client: Any, method: str, path: str) -> None:
    answer = client(method, path)
    assert (answer.status, answer.faults()) == (404, [("not_found", None)])


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", HANDLERS, "GET, POST, HEAD, OPTIONS"),
        ("PUT", f"{HANDLERS}/1/", "GET, POST, DELETE, HEAD, OPTIONS"),
        ("GET", f"{HANDLERS}/test", "POST, OPTIONS"),
        ("GET", "/api/notifications/batch", "POST, OPTIONS"),
        ("PATCH", "/api/deliveries/1/retry", "POST, OPTIONS"),
        ("POST", "/api/openapi.json", "GET, HEAD, OPTIONS"),
        ("POST", "/healthz", "GET, HEAD, OPTIONS"),
        ("get", HANDLERS, "GET, POST, HEAD, OPTIONS"),
    ],
)
def test_method_not_allowed(client: Any, method: str, path: str, allow: str) -> None:
    answer = client(method, path)
    if method.isupper():
        assert (answer.status, answer.faults(), answer.headers["allow"]) == (405, [("method_not_allowed", None)], allow)
    else:
        assert answer.status in {400, 405}


def test_head_and_options(client: Any) -> None:
    full = client.get(HANDLERS)
    head = client("HEAD", f"{HANDLERS}/")
    assert (head.status, head.content, head.headers["content-length"]) == (200, b"", full.headers["content-length"])
    options = client("OPTIONS", f"{HANDLERS}/7")
    assert (options.status, options.content, options.headers["allow"]) == (200, b"", "GET, POST, DELETE, HEAD, OPTIONS")
    missing = client("HEAD", f"{HANDLERS}/{2**60}")
    assert (missing.status, missing.content) == (404, b"")


def test_other_paths_are_not_ours(server: Any) -> None:
    for path in ("/", "/nothing", "/apiary"):
        answer = server.stranger().get(path)
        assert answer.status == 404 and answer.headers["content-type"].startswith("text/plain")


# --------------------------------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "unreadable"),
        (b"[]", "application/json", 400, "unreadable"),
        (b'{"a": "\xff"}', "application/json", 400, "unreadable"),
        (b"[" * 500_000, "application/json", 400, "unreadable"),
        (b"x", "multipart/form-data; boundary=b", 400, "unreadable"),
        (b"x", "multipart/form-data", 400, "unreadable"),
        (b"a=%FF", "application/x-www-form-urlencoded", 400, "unreadable"),
        (b"x", "text/plain", 415, "unsupported_media_type"),
        (b"x", "", 415, "unsupported_media_type"),
        (b"\x1f\x8b", "application/json", 415, "unsupported_media_type"),
    ],
)
@pytest.mark.parametrize("path", [HANDLERS, "/api/notifications", f"{HANDLERS}/test", "/api/deliveries/retry"])
def test_unreadable_bodies(client: Any, path: str, body: bytes, content_type: str, status: int, code: str) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    if body.startswith(b"\x1f"):
        headers["Content-Encoding"] = "gzip"
    answer = client("POST", path, body, headers)
    assert (answer.status, answer.faults()) == (status, [(code, None)])


def test_sizes(client: Any) -> None:
    hook(client)
    start, end = b'{"message": "m", "fields": {}', b"}"
    fits = start + b" " * (MIB - len(start) - 1) + end
    assert client("POST", "/api/notifications", fits, JSON).status == 202
    for body in (fits + b" ", b" " * (15 * MIB)):
        answer = client("POST", "/api/notifications", body, JSON)
        assert (answer.status, answer.faults()) == (413, [("body_too_large", None)])
        assert "connection" not in answer.headers
    batch = b'{"notifications": [{"message": "m"}]' + b" " * (16 * MIB - 40) + b"}"
    assert client("POST", "/api/notifications/batch", batch, JSON).status == 202


def test_a_body_in_chunks(server: Any, client: Any) -> None:
    hook(client)
    head = f"POST /api/notifications HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {client.key}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as wire:
        wire.sendall(head.encode() + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        for piece in (b'{"mess', b'age": ', b'"m"}'):
            wire.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        wire.sendall(b"0\r\n\r\n")
        assert b"".join(iter(lambda: wire.recv(65536), b"")).startswith(b"HTTP/1.1 202 ")


def test_bodies_made_to_hurt(client: Any) -> None:
    """Large in number instead of size; each is answered at once, and briefly."""
    hook(client)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    part = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
    for body, headers, wanted in (
        (b'{"message": "m", "fields": [' + b"{}," * 20_000 + b"{}]}", JSON, {("unreadable", None)}),
        (b'{"message": "m"' + b',"a":1' * 150_000 + b"}", JSON, {("repeated", "a"), ("unknown", "a")}),
        (b"a&" * 500_000, form, {("unreadable", None)}),
        (part * 20_000 + b"--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}, {("unreadable", None)}),
    ):
        assert set(client("POST", "/api/notifications", body, headers).faults()) == wanted
    assert len(client.post("/api/notifications", {f"n{number}": 1 for number in range(50_000)}).json["errors"]) == 101
    items = [{"message": "", "title": 1, "url": 1, "severity": 1}] * 1000
    assert len(client.post("/api/notifications/batch", {"notifications": items}).json["errors"]) == 1000


def test_the_connection_goes_on_after_a_large_body(server: Any, client: Any) -> None:
    hook(client)
    head = f"POST /api/notifications HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {client.key}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as wire:
        wire.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % (3 * MIB) + b" " * (3 * MIB))
        wire.sendall(head.encode() + b'Content-Length: 16\r\nConnection: close\r\n\r\n{"message": "m"}')
        answers = b"".join(iter(lambda: wire.recv(65536), b""))
    assert answers.startswith(b"HTTP/1.1 413 ") and b"HTTP/1.1 202 " in answers


def test_far_too_large_ends_the_connection(server: Any, client: Any) -> None:
    head = f"POST /api/notifications HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {client.key}\r\nContent-Length: {17 * MIB}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as wire:
        wire.sendall(head.encode())
        wire.sendall(b" " * (16 * MIB + 1))  # and no more: nothing is left unread that could tear the answer down
        answer = b"".join(iter(lambda: wire.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413 ") and b"connection: close" in answer and b"body_too_large" in answer


def test_a_client_that_goes_away(server: Any, client: Any) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as wire:
        wire.sendall(
            f"POST /api/notifications HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {client.key}\r\nContent-Length: 99\r\n\r\n{{".encode()
        )
    assert client.get(HANDLERS).status == 200


# ----------------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwdw==",
        "tk_abc",
        "Bearer tk_unknownunknownunknown",
        "Bearer schlüssel",
        "Bearer " + "k" * 9999,
    ],
)
def test_unauthorized(server: Any, header: str | None) -> None:
    answer = server.stranger()("GET", HANDLERS, None, {} if header is None else {"Authorization": header})
    assert (answer.status, answer.faults(), answer.headers["www-authenticate"]) == (401, [("unauthorized", None)], "Bearer")


def test_the_scheme_in_any_case(server: Any, client: Any) -> None:
    for scheme in ("bearer", "BEARER", "Bearer "):
        assert server.stranger()("GET", HANDLERS, None, {"Authorization": f"{scheme} {client.key}"}).status == 200


def test_every_endpoint_asks_for_a_key(server: Any) -> None:
    stranger = server.stranger()
    for endpoint in TABLE:
        if endpoint.scopes is not None:
            assert stranger(endpoint.method, endpoint.path.replace("{id}", "1")).status == 401, endpoint.path


def test_failed_authentication_is_limited(server: Any, client: Any) -> None:
    stranger = server.stranger("tk_wrongwrongwrongwrong")
    statuses = [stranger.get(HANDLERS).status for _ in range(35)]
    assert statuses == [401] * 30 + [429] * 5
    answer = stranger.get(HANDLERS)
    assert answer.faults() == [("rate_limited", None)]
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert (answer.headers["ratelimit-limit"], answer.headers["ratelimit-remaining"]) == ("30", "0")
    # Neither a valid key from there nor anyone elsewhere suffers, and X-Forwarded-For of a stranger is not believed.
    client.address = stranger.address
    assert client.get(HANDLERS).status == 200
    assert stranger("GET", HANDLERS, None, {"X-Forwarded-For": "203.0.113.9"}).status == 429
    assert server.stranger("tk_wrongwrongwrongwrong").get(HANDLERS).status == 401


def test_addresses_behind_a_proxy(serve_with: Any) -> None:
    server = serve_with(TOCSIN_TRUSTED_PROXIES="127.9.0.0/16,10.0.0.0/8")
    proxy = server.stranger("tk_wrongwrongwrongwrong")

    def status(forwarded: str) -> int:
        return proxy("GET", HANDLERS, None, {"X-Forwarded-For": forwarded}).status

    # What the client itself put in front does not matter, nor do our own proxies' hops behind.
    assert [status(f"198.51.100.{number}, 203.0.113.7, 10.1.1.1") for number in range(31)] == [401] * 30 + [429]
    assert status("203.0.113.8") == 401
    assert [status(f"2001:db8::{number}") for number in range(31)] == [401] * 30 + [429]
    assert status("2001:db8:0:1::1") == 401


def test_rate_limit(serve_with: Any) -> None:
    server = serve_with(TOCSIN_RATE_LIMIT="3")
    client = server.client()
    hook_id = client.post(HANDLERS, EMAIL)
    assert (hook_id.status, hook_id.headers["ratelimit-limit"], hook_id.headers["ratelimit-remaining"]) == (201, "3", "2")
    missing = client.get(f"{HANDLERS}/999")
    assert (missing.status, missing.headers["ratelimit-remaining"]) == (404, "1")
    reset = missing.headers["ratelimit-reset"]
    assert (missing.headers["ratelimit-policy"], missing.headers["ratelimit"]) == ('"requests";q=3;w=60', f'"requests";r=1;t={reset}')
    assert 1 <= int(missing.headers["ratelimit-reset"]) <= 60
    assert client.get("/api/openapi.json").status == 200  # no key, no count
    assert client.get(HANDLERS).headers["ratelimit-remaining"] == "0"
    over = client.get(HANDLERS)
    assert (over.status, over.faults(), over.headers["ratelimit-remaining"]) == (429, [("rate_limited", None)], "0")
    assert over.headers["retry-after"] == over.headers["ratelimit-reset"]
    assert server.client().get(HANDLERS).status == 200
    assert "ratelimit-limit" not in server.stranger().get("/healthz").headers


# ------------------------------------------------------------------------------------------------------------ our fault


def test_a_crash_tells_a_reference_and_nothing_else(server: Any, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(*_: object) -> None:
        raise RuntimeError("the inside of the service")

    monkeypatch.setattr(type(server.service.handlers), "page", crash)
    with structlog.testing.capture_logs() as lines:
        answer = client.get(HANDLERS)
    assert (answer.status, answer.faults()) == (500, [("internal", None)])
    assert b"inside" not in answer.content
    (line,) = [line for line in lines if line["event"] == "request failed"]
    assert line["reference"] in answer.json["errors"][0]["detail"] and len(line["reference"]) == 16
    assert "the inside of the service" in line["exception"] and client.key not in str(line)


def test_busy(server: Any, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def busy(*_: object, **__: object) -> None:
        raise Busy("The store is behind.", 7)

    monkeypatch.setattr(type(server.service.accepting), "accept", busy)
    answer = client.post("/api/notifications", {"message": "m"})
    assert (answer.status, answer.faults(), answer.headers["retry-after"]) == (503, [("busy", None)], "7")


def test_every_code_is_listed() -> None:
    """Codes are stable and listed in one place, those of the flow's faults too."""
    found: set[str] = set()
    for file in (*Path(tocsin.flow.__file__).parent.rglob("*.py"), *Path(tocsin.api.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"Fault", "fault"} and node.args:
                found |= {one.value for one in ast.walk(node.args[0]) if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    found |= set(refusals.DETAILS) - {"two_hosts"}  # the door's, for which there is no request yet
    assert found - {""} == set(CODES)
    assert all(set(endpoint.codes) <= set(CODES) for endpoint in TABLE)


# --------------------------------------------------------------------------------------------------------------- probes


def test_probes(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = server.stranger()
    for path in ("/healthz", "/healthz/", "/readyz", "/readyz/"):
        answer = stranger.get(path)
        assert (answer.status, answer.json) == (200, {"status": "ok", "complaints": []})
    metrics = stranger.get("/metrics")
    assert metrics.status == 200 and metrics.headers["content-type"].startswith("text/plain") and b"tocsin_info" in metrics.content
    assert stranger("HEAD", "/metrics").content == b""
    assert stranger.get("/healthz?x=1").faults() == [("unknown", "x")]


@pytest.mark.parametrize(("troubles", "status"), [(["The store does not take writes."], 503), ([], 200)])
def test_unready(troubles: list[str], status: int) -> None:
    """What keeps it from working is 503; what else its operator is to know is said in any case."""
    import asyncio

    from tocsin.api.routing import Api

    said = {"unready": lambda: troubles, "complaints": lambda: ["The mail server fails."]}
    service: Any = SimpleNamespace(settings=load({}), access=None, failures=None, api_processes=lambda: 1, **said)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/readyz", "method": "GET", "headers": [], "query_string": b""}
    asyncio.run(Api(service)(scope, None, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == status
    assert json.loads(sent[1]["body"])["complaints"] == [*troubles, "The mail server fails."]


def test_metrics_token(serve_with: Any) -> None:
    server = serve_with(TOCSIN_METRICS_TOKEN="hush hush")
    for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic hush hush"}, {"Authorization": "Bearer schl\xfcssel"}):
        answer = server.stranger()("GET", "/metrics", None, header)
        assert (answer.status, answer.faults(), answer.headers["www-authenticate"]) == (401, [("unauthorized", None)], "Bearer")
    assert server.stranger()("GET", "/metrics", None, {"Authorization": "bearer hush hush"}).status == 200
    assert server.stranger().get("/healthz").status == 200


@pytest.mark.parametrize("order", [0, 1])
def test_a_key_is_found_beside_the_password_that_a_proxy_appends(server: Server, order: int) -> None:
    """In whichever order the two headers come."""
    key = server.client("handlers:read").key
    lines = [f"Authorization: Bearer {key}", "Authorization: Basic dXNlcjpwYXNzd29yZA=="]
    if order:
        lines.reverse()
    with socket.create_connection(("127.0.0.1", server.port), 10) as one:
        one.sendall("\r\n".join(["GET /api/notification-handlers HTTP/1.1", "Host: x", *lines, "Connection: close", "", ""]).encode())
        answer = one.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 200 "), answer
