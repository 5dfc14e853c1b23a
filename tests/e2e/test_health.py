"""A handler that stops working: when it is switched off, what its owner is told, what its history says, how it comes back."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest

from api.support import serving
from e2e.conftest import Shared, Starter
from e2e.service import OwnedClient, Service, in_an_hour, until
from e2e.stores import any_processes, any_processes_long, both_stores_long
from mailserver import DROP, MailServer
from proxy import Proxy
from receiver import Receiver
from tocsin.cli import check
from tocsin.flow import mail_health

pytestmark = any_processes_long
QUICKLY_OFF = {
    "TOCSIN_EMAIL_FROM": "t@example.com",
    "TOCSIN_RETRY_SCHEDULE": "0s",
    "TOCSIN_DISABLE_AFTER_FAILURES": "2",
    "TOCSIN_DISABLE_AFTER": "0s",
}
"""An e-mail handler is switched off after two failures, if they count."""


@pytest.fixture
def quick(shared: Shared, store: str) -> Service:
    """Three failures within no time are enough."""
    environ = {"TOCSIN_RETRY_SCHEDULE": "0s", "TOCSIN_DISABLE_AFTER_FAILURES": "3", "TOCSIN_DISABLE_AFTER": "0s"}
    return shared("quick", store, from_scratch=False, **environ)


@pytest.fixture
def owner(quick: Service) -> OwnedClient:
    return quick.client()


def stats(client: OwnedClient, handler: int) -> Any:
    reply = client.get(f"/api/notification-handlers/{handler}/stats")
    assert reply.status == 200, reply.content
    return reply.data


def told(receiver: Receiver, path: str) -> list[Any]:
    return [one.json() for one in receiver.requests if one.path == path and one.json()["type"] == "handler.disabled"]


def fail(client: OwnedClient, handler: int, times: int) -> None:
    for number in range(times):
        [delivery] = client.settled(client.send(f"failure {number}", handlers=[handler]))
        assert delivery["status"] == "failed"


@any_processes
def test_failures_in_a_row_switch_a_handler_off_and_its_owner_is_told_once(owner: OwnedClient, receiver: Receiver) -> None:
    broken = owner.add_handler("webhook", "Broken", webhook=receiver.url("/broken"))
    owner.add_handler("webhook", "Witness", webhook=receiver.url("/witness"))
    later = owner.send("meant for tomorrow", handlers=[broken], send_at=in_an_hour())
    receiver.answer("/broken", 500)
    fail(owner, broken, 2)
    assert owner.handler(broken)["is_enabled"]
    assert stats(owner, broken)["health"]["state"] == "failing"
    fail(owner, broken, 1)
    until(lambda: not owner.handler(broken)["is_enabled"])
    [waiting] = owner.settled(later)
    assert (waiting["status"], waiting["attempts"]) == ("failed", [])
    [notice] = until(lambda: told(receiver, "/witness"))
    assert notice["data"]["title"] == "Handler switched off: Broken"
    assert "3 deliveries in a row failed" in notice["data"]["message"]
    found = stats(owner, broken)
    assert (found["health"]["state"], found["health"]["failures"]) == ("switched_off", 3)
    assert "3 deliveries in a row failed" in found["health"]["disabled_reason"]
    assert [one["event"] for one in found["history"]] == ["switched_off"]
    assert found["history"][0]["reason"] == "server_error"
    [skipped] = owner.settled(owner.send("to nobody", handlers=[broken]))
    assert skipped["status"] == "skipped"
    assert len(told(receiver, "/witness")) == 1


def test_switching_it_on_again_begins_afresh(owner: OwnedClient, receiver: Receiver) -> None:
    broken = owner.add_handler("webhook", "Broken", webhook=receiver.url("/again"))
    receiver.answer("/again", 500)
    fail(owner, broken, 3)
    until(lambda: not owner.handler(broken)["is_enabled"])
    owner.change(broken, is_enabled="1")
    found = stats(owner, broken)
    assert (found["health"]["state"], found["health"]["failures"], found["health"]["disabled_reason"]) == ("ok", 0, None)
    assert [one["event"] for one in found["history"]] == ["enabled", "switched_off"]
    fail(owner, broken, 2)
    assert owner.handler(broken)["is_enabled"]


@any_processes
def test_a_success_ends_the_streak(owner: OwnedClient, receiver: Receiver) -> None:
    shaky = owner.add_handler("webhook", "Shaky", webhook=receiver.url("/shaky"))
    for _ in range(2):
        receiver.answer("/shaky", 500)
        fail(owner, shaky, 2)
        receiver.forget("/shaky")
        [fine] = owner.settled(owner.send("fine", handlers=[shaky]))
        assert fine["status"] == "delivered"
        assert stats(owner, shaky)["health"] == {
            "state": "ok",
            "failures": 0,
            "failing_since": None,
            "disabled_reason": None,
            "hint": None,
            "reason": None,
            "detail": None,
            "waiting": 0,
            "next_attempt_datetime": None,
        }
    assert owner.handler(shaky)["is_enabled"]


@pytest.mark.parametrize(
    ("type", "settings"),
    [
        ("email", {"email": "nobody@example.com"}),  # no mail server is configured
        ("webhook", {"webhook": "http://10.9.8.7/hook"}),  # the egress guard
        ("webhook", {"webhook": "http://127.0.0.1:9/hook"}),  # nobody else has answered meanwhile: our own network may be gone
    ],
    ids=["no mail server", "egress guard", "no network"],
)
def test_failures_of_ours_never_count(owner: OwnedClient, type: str, settings: dict[str, str]) -> None:
    handler = owner.add_handler(type, **settings)
    fail(owner, handler, 4)
    assert owner.handler(handler)["is_enabled"]
    assert stats(owner, handler)["health"]["failures"] == 0


def test_a_mail_server_that_fails_counts_against_nobody(start_service: Starter, receiver: Receiver) -> None:
    """Another handler delivers meanwhile, so it is not the network either."""
    with MailServer() as server:
        client = start_service(TOCSIN_SMTP_URL=server.url(), **QUICKLY_OFF).first()
        handler, alive = client.add_handler("email", email="me@example.com"), client.add_handler("webhook", webhook=receiver.url("/alive"))

        def fails(what: str, reason: str) -> None:
            for _ in range(3):
                mailed = next(one for one in client.settled(client.send(what, handlers=[alive, handler])) if one["last_error"])
                assert (mailed["status"], {one["reason"] for one in mailed["attempts"]}) == ("failed", {reason}), (what, mailed)
            assert client.handler(handler)["is_enabled"], what
            assert stats(client, handler)["health"]["failures"] == 0, what

        for stage, answer, reason in (
            ("connect", DROP, "mail_server"),
            ("connect", "421 4.3.2 too many connections", "mail_server"),
            ("connect", "554 5.7.1 go away", "mail_account"),
            ("hello", DROP, "mail_server"),
            ("mail", "451 4.3.0 queue file write error", "mail_server"),
            ("hello", "421 4.3.2 shutting down", "mail_server"),
            ("rcpt", "451 4.3.5 server configuration problem", "mail_server"),
            ("rcpt", "554 5.7.1 <me@example.com>: Relay access denied", "mail_account"),
            ("final", "452 4.3.1 insufficient system storage", "mail_server"),
        ):
            server.close_connections()
            server.answer(stage, *[answer] * 50)
            fails(f"{stage}: {answer}", reason)
            server.forget()
        server.close_connections()
    fails("nobody listens", "mail_server")


@both_stores_long
@pytest.mark.parametrize("status", [403, 407, 503])
def test_a_proxy_that_refuses_counts_against_nobody(start_service: Starter, receiver: Receiver, status: int) -> None:
    with Proxy() as proxy:
        client = start_service(TOCSIN_PROXY=proxy.url.replace("//", "//user:sesame@"), **QUICKLY_OFF).first()
        targets = [receiver.url("/plain"), receiver.url("/tls").replace("http", "https")]
        handlers = [client.add_handler("webhook", webhook=target) for target in targets]
        proxy.status = status
        for _ in range(3):
            for failed in client.settled(client.send("through the proxy", handlers=handlers)):
                assert (failed["status"], {one["reason"] for one in failed["attempts"]}) == ("failed", {"proxy"}), failed
                assert str(status) in failed["last_error"] and "sesame" not in str(failed)
        assert [client.handler(one)["is_enabled"] for one in handlers] == [True, True]
        assert [stats(client, one)["health"]["failures"] for one in handlers] == [0, 0]
        assert client.get("/readyz").status == (503 if status == 407 else 200)
        proxy.status = 200
        assert client.settled(client.send("again", handlers=handlers[:1]))[0]["status"] == "delivered"
        assert client.get("/readyz").status == 200


@both_stores_long
def test_the_operator_is_told_of_a_mail_server_that_takes_nothing(
    monkeypatch: pytest.MonkeyPatch, made_service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `/readyz`, which stays 200, by the log and by `tocsin check`; no more once a mail was taken, be it a test."""
    monkeypatch.setattr(mail_health, "FAILS_AFTER", 0)
    monkeypatch.setattr(mail_health, "LOOK_SECONDS", 0.01)
    data = made_service.data
    store = {name: value for name, value in made_service.environ.items() if name == "TOCSIN_DATABASE_URL"}
    for name, value in store.items():
        monkeypatch.setenv(name, value)

    def complaints() -> list[str]:
        ready = api.get("/readyz")
        assert ready.status == 200
        return ready.json["complaints"]

    def checked() -> str:
        check.check(data_dir=str(data))
        return capsys.readouterr().out

    with (
        MailServer() as server,
        serving(data, TOCSIN_SMTP_URL=server.url(), TOCSIN_RETRY_SCHEDULE="1h", TOCSIN_EMAIL_TRUSTED_DOMAINS="*", **store) as running,
    ):
        monkeypatch.setenv("TOCSIN_SMTP_URL", server.url())
        api = running.client()
        made = api.post("/api/notification-handlers", {"name": "Mail", "type": "email", "email": "me@example.com"}).data["id"]
        assert complaints() == []
        server.answer("mail", *["451 4.3.0 queue file write error"] * 3)
        assert api.post("/api/notifications", {"message": "Hello"}).status == 202
        until(complaints, what="nothing is said")
        assert complaints()[0].startswith("The mail server has taken no e-mail since 20")
        until(lambda: "The mail server has taken no e-mail since" in checked(), what="`tocsin check` does not say it")
        server.forget()
        assert api.post(f"/api/notification-handlers/{made}/test").data["status"] == "delivered"
        assert complaints() == []
        until(lambda: "The mail server has taken no e-mail" not in checked(), what="`tocsin check` goes on saying it")


class Garbled(asyncio.Protocol):
    """Offers STARTTLS and then speaks no TLS."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(b"220 mail.test\r\n")

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"EHLO"):
            self._transport.write(b"250-mail.test\r\n250 STARTTLS\r\n")
        else:
            self._transport.write(b"220 go ahead\r\n" + b"no TLS at all\r\n" * 3)


@contextmanager
def garbled() -> Iterator[str]:
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(Garbled, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"smtp://me:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()


@contextmanager
def untrusted() -> Iterator[str]:
    with MailServer(tls=True, user="me", password="secret") as server:
        yield server.url()


@pytest.mark.parametrize(
    "kind",
    [lambda: nullcontext("smtp://127.0.0.1:9"), lambda: nullcontext("smtp://mail.invalid:25"), untrusted, garbled],
    ids=["port closed", "no such host", "certificate not trusted", "no TLS after STARTTLS"],
)
def test_a_mail_server_that_cannot_be_reached_counts_against_nobody(
    start_service: Starter, receiver: Receiver, kind: Callable[[], AbstractContextManager[str]]
) -> None:
    with kind() as url:
        client = start_service(TOCSIN_SMTP_URL=url, **QUICKLY_OFF).first()
        handler, alive = client.add_handler("email", email="me@example.com"), client.add_handler("webhook", webhook=receiver.url("/alive"))
        for _ in range(3):
            mailed = next(one for one in client.settled(client.send("Hello", handlers=[alive, handler])) if one["last_error"])
            assert (mailed["status"], {one["reason"] for one in mailed["attempts"]}) == ("failed", {"mail_server"}), mailed
        assert client.handler(handler)["is_enabled"]
        health = stats(client, handler)["health"]
        assert health["failures"] == 0


def test_a_dead_address_counts_while_others_answer(owner: OwnedClient, receiver: Receiver) -> None:
    dead = owner.add_handler("webhook", "Dead", webhook="http://127.0.0.1:9/hook")
    alive = owner.add_handler("webhook", "Alive", webhook=receiver.url("/alive"))
    for number in range(3):
        notification = owner.send(f"{number}", handlers=[dead, alive])
        receiver.wait(number + 1)
        owner.settled(notification)
    # The answer of the living one may have come after the failure of the dead one: then the next counts.
    until(lambda: owner.settled(owner.send("more", handlers=[alive, dead])) and not owner.handler(dead)["is_enabled"])


def test_the_history_tells_what_its_owner_did(owner: OwnedClient, receiver: Receiver) -> None:
    handler = owner.add_handler("webhook", webhook=receiver.url("/first"))
    owner.change(handler, is_enabled="0")
    assert stats(owner, handler)["health"]["state"] == "paused"
    owner.change(handler, is_enabled="1")
    owner.change(handler, webhook=receiver.url("/second"))
    owner.change(handler, name="A new name is no event")
    assert [one["event"] for one in stats(owner, handler)["history"]] == ["changed", "enabled", "paused"]


@any_processes
def test_the_numbers_of_a_handler(owner: OwnedClient, receiver: Receiver) -> None:
    handler = owner.add_handler("webhook", webhook=receiver.url("/numbers"))
    assert stats(owner, handler) == {
        "id": handler,
        "since": None,
        "deliveries": {"pending": 0, "delivered": 0, "failed": 0, "expired": 0, "cancelled": 0, "skipped": 0},
        "success_rate": None,
        "reasons": [],
        "latency_ms": {"p50": None, "p95": None},
        "health": {
            **{"state": "ok", "failures": 0, "failing_since": None, "disabled_reason": None, "hint": None},
            **{"reason": None, "detail": None, "waiting": 0, "next_attempt_datetime": None},
        },
        "history": [],
    }
    for number in range(3):
        owner.settled(owner.send(f"fine {number}", handlers=[handler]))
    receiver.answer("/numbers", 413)
    fail(owner, handler, 1)
    owner.send("later", handlers=[handler], send_at=in_an_hour())
    found = until(lambda: (now := stats(owner, handler))["success_rate"] == 0.75 and now)
    assert found["deliveries"] == {"pending": 1, "delivered": 3, "failed": 1, "expired": 0, "cancelled": 0, "skipped": 0}
    assert found["success_rate"] == 0.75
    assert [(one["reason"], one["count"]) for one in found["reasons"]] == [("rejected", 1)]
    assert 0 <= found["latency_ms"]["p50"] <= found["latency_ms"]["p95"]
    assert found["since"].endswith(":00:00")


def test_another_users_numbers_are_missing(quick: Service, owner: OwnedClient, receiver: Receiver) -> None:
    handler = owner.add_handler("webhook", webhook=receiver.url())
    assert quick.client().get(f"/api/notification-handlers/{handler}/stats").status == 404
    assert quick.narrowed(owner, "deliveries:read").get(f"/api/notification-handlers/{handler}/stats").status == 403


def test_handlers_that_die_together_make_one_notice(owner: OwnedClient, receiver: Receiver) -> None:
    """And not one to each of the others: N handlers made N times N deliveries."""
    alive = owner.add_handler("webhook", "Alive", webhook=receiver.url("/survivor"))
    dead = [owner.add_handler("webhook", f"Dead {number}", webhook=receiver.url("/retired")) for number in range(60)]
    receiver.answer("/retired", 410)
    owner.settled(owner.send("hello", handlers=[*dead, alive]), 60)
    until(lambda: told(receiver, "/survivor"), 60)
    until(lambda: not any(owner.handler(one)["is_enabled"] for one in dead), 60)
    notices = told(receiver, "/survivor")
    listed = [one for notice in notices for one in notice["data"]["handlers"]]
    assert {one["id"] for one in listed} <= set(dead)
    assert listed[0].keys() == {"id", "name", "type", "reason"}
    assert len(notices) <= 2  # a slow machine may not have switched off all within the time that is waited
    assert sum(int(one["data"]["title"].split()[0]) for one in notices if "handlers" in one["data"]["title"]) >= 50
    assert owner.get("/api/deliveries").json["meta"]["total"] <= 61 + 3 * len(notices)


def test_a_notice_that_is_due_outlives_a_kill(start_service: Starter, receiver: Receiver) -> None:
    service = start_service()
    client = service.first()
    client.add_handler("webhook", "Witness", webhook=receiver.url("/told-later"))
    gone = client.add_handler("webhook", "Gone", webhook=receiver.url("/is-gone"))
    receiver.answer("/is-gone", 410)
    client.settled(client.send("hello", handlers=[gone]))
    until(lambda: not client.handler(gone)["is_enabled"])
    service.kill()  # the notice is still being gathered
    assert told(receiver, "/told-later") == []
    service.start()
    [notice] = until(lambda: told(receiver, "/told-later"), 30)
    assert notice["data"]["title"] == "Handler switched off: Gone"
    assert service.rows("SELECT name FROM meta WHERE name LIKE 'untold%'") == []
