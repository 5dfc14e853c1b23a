"""What the client commands ask again by themselves."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tocsin.cli import client
from tocsin.cli.client import Client, Made
from tocsin.cli.failure import NoConnection


@contextmanager
def gateway(statuses: list[int]) -> Iterator[tuple[str, list[str]]]:
    """Answers as told, the last again and again; its URL, and the idempotency keys that came."""
    keys: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            keys.append(self.headers["Idempotency-Key"] or "")
            body = b'{"data": {"id": 7}}'
            self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", keys
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_LOST_PAUSE_SECONDS", 0.0)


def test_what_has_an_idempotency_key_is_asked_again_where_a_gateway_lost_the_answer() -> None:
    with gateway([502, 502, 202]) as (url, keys):
        assert Client(url, "key").post("/api/notifications", Made, {}, idempotency_key="once").raw == {"id": 7}
        assert keys == ["once"] * 3


def test_what_has_none_is_not_and_nothing_is_asked_for_ever() -> None:
    with gateway([502]) as (url, keys):
        with pytest.raises(NoConnection):
            Client(url, "key").post("/api/notification-handlers", Made, {})
        assert keys == [""]
        with pytest.raises(NoConnection):
            Client(url, "key").post("/api/notifications", Made, {}, idempotency_key="once")
        assert keys == ["", *["once"] * 4]
