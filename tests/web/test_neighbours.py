"""What one user's large messages hold up for another: nothing, and of the other's large ones one turn."""

import threading
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from api.support import hook, serving, until
from receiver import Receiver
from tocsin.channels.registry import CHANNELS
from tocsin.flow import pools
from tocsin.flow.people import passwords
from tocsin.flow.people.access import SCOPES
from tocsin.store import people
from tocsin.store.sql import write_now
from tocsin.vault import hash_password
from web.conftest import PASSWORD, Surfer

GREEDY, OTHER = "- greedy\n" * 7000, "- other\n" * 4000
HANDLERS = 8


def test_another_users_page_sign_in_preview_and_messages_come_while_renderings_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in renderings: the greedy user's do not go on but one by one, as the test lets them."""
    may_go, begun, order = threading.Semaphore(0), threading.Event(), list[str]()
    native = CHANNELS["slack"]

    def gated(message: Any, settings: Any, context: Any) -> Any:
        if threading.current_thread().name == "tocsin-rendering":
            begun.set()
            assert may_go.acquire(timeout=60)
            order.append(message.text[2:8].strip())
            message = replace(message, text="short")
        return native.render(message, settings, context)

    monkeypatch.setitem(CHANNELS, "slack", replace(native, render=gated))
    with Receiver() as receiver, serving(tmp_path / "store", pages=True) as server:
        greedy, other = server.client(*SCOPES), server.client(*SCOPES)
        hooks = [_slack(greedy, receiver.url(f"/greedy/{number}")) for number in range(HANDLERS)]
        assert greedy.post("/api/notifications", {"message": GREEDY, "handlers": hooks}).status == 202
        assert begun.wait(20)

        surfer = _signed_in(server, other)
        assert surfer.get("/").status == 200
        slack, webhook = _slack(other, receiver.url("/other")), hook(other, receiver.url("/hook"))
        preview = other.post(f"/api/notification-handlers/{slack}/preview", {"message": OTHER}).data
        assert "other" in preview["parts"][0]["request"]
        other.post("/api/notifications", {"message": "short", "handlers": [webhook]})
        other.post("/api/notifications", {"message": OTHER, "handlers": [webhook]})
        assert [one.path for one in receiver.wait(2)] == ["/hook", "/hook"]
        assert order == []

        other.post("/api/notifications", {"message": OTHER, "handlers": [slack]})
        until(lambda: sum(one.rendering.waiting for one in list(pools._of_loops.values())), HANDLERS)
        for _ in range(HANDLERS + 1):
            may_go.release()
        receiver.wait(2 + HANDLERS + 1)
    assert order.count("greedy") == HANDLERS
    assert order.index("other") <= 2


class Held:
    """Holds up whatever calls it."""

    def __init__(self) -> None:
        self.begun, self.may_go = threading.Event(), threading.Event()

    def __call__(self, *_: object) -> Any:
        self.begun.set()
        assert self.may_go.wait(60)
        return False


def test_where_too_many_pages_wait_pages_and_api_say_when_to_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held()
    monkeypatch.setattr(pools, "MAX_PAGES_WAITING", 0)
    monkeypatch.setitem(CHANNELS, "slack", replace(CHANNELS["slack"], render=held))
    with serving(tmp_path / "store", pages=True) as server:
        client, surfer = server.client(*SCOPES), Surfer(server.base)
        slack = _slack(client, "http://127.0.0.1:9/x")
        path = f"/api/notification-handlers/{slack}/preview"
        first = threading.Thread(target=client.post, args=(path, {"message": "first"}))
        first.start()
        assert held.begun.wait(20)
        refused = client.post(path, {"message": "second"})
        assert (refused.status, refused.headers["retry-after"], refused.faults()) == (503, "1", [("busy", None)])
        page = surfer.get("/sign-in", accept_language="ko")
        assert (page.status, page.headers["retry-after"]) == (503, "1")
        assert "서비스가 지금은 받을 수 없습니다" in page.text
        held.may_go.set()
        first.join(20)
        assert surfer.get("/sign-in").status == 200


def test_where_too_many_sign_in_the_page_says_when_to_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held()
    monkeypatch.setattr(pools, "MAX_PASSWORDS_WAITING", 0)
    monkeypatch.setattr(passwords, "check_password", held)
    with serving(tmp_path / "store", pages=True) as server:
        first, second = Surfer(server.base), Surfer(server.base)
        signing_in = threading.Thread(target=first.sign_in)
        signing_in.start()
        assert held.begun.wait(20)
        answer = second.sign_in("second@example.com")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "Many people are signing in" in answer.text and "second@example.com" in answer.text
        held.may_go.set()
        signing_in.join(20)
        assert second.sign_in("second@example.com").status == 422


def _slack(client: Any, url: str) -> int:
    return client.post("/api/notification-handlers", {"name": "S", "type": "slack", "slack": url}).data["id"]


def _signed_in(server: Any, client: Any) -> Surfer:
    user = server.user_of(client)
    write_now(server.engine, lambda connection: people.set_password(connection, user, hash_password(PASSWORD)))
    with server.engine.connect() as connection:
        email = connection.exec_driver_sql("SELECT email FROM users WHERE id = ?", (user,)).scalar_one()
    surfer = Surfer(server.base)
    assert surfer.sign_in(email).path == "/"
    return surfer
