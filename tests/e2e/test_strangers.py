"""Mail to strangers: nothing but a link is mailed before its reader agrees, and one click ends it. Against a real mail server."""

import email
import email.policy
import http.client
import re
import secrets
from email.message import EmailMessage
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from e2e.conftest import Shared, Starter
from e2e.service import Client, OwnedClient, Reply, Service, in_an_hour, until
from e2e.stores import both_stores, both_stores_long, postgresql_only, sqlite_only
from mailserver import MailServer, Received
from receiver import Receiver
from tocsin import datadir
from tocsin.settings import load
from tocsin.store import dialects
from tocsin.store.migrating import migrate_to
from tocsin.vault import Vault

pytestmark = both_stores_long

BASE = "https://alerts.example.com"


@pytest.fixture
def service(shared: Shared, store: str, mail_server: MailServer) -> Service:
    return shared(
        "strangers",
        store,
        from_scratch=False,
        TOCSIN_SMTP_URL=mail_server.url(),
        TOCSIN_BASE_URL=BASE,
        TOCSIN_EMAIL_TRUSTED_DOMAINS="ours.example",
        TOCSIN_RETRY_SCHEDULE="0.2s,1h",
        TOCSIN_LOG_LEVEL="debug",
    )


def somebody() -> str:
    return f"x{secrets.token_hex(6)}@example.net"


def mails_to(server: MailServer, address: str) -> list[Received]:
    return [one for one in server.mails if address in one.recipients]


def mail_to(server: MailServer, address: str, count: int = 1) -> EmailMessage:
    """The latest of so many."""
    until(lambda: len(mails_to(server, address)) >= count, what=f"fewer than {count} mails came")
    found = mails_to(server, address)
    assert len(found) == count
    message = email.message_from_bytes(found[-1].content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def text_of(message: EmailMessage) -> str:
    part = message.get_body(("plain",))
    assert part is not None
    return part.get_content()


def link_in(message: EmailMessage) -> str:
    """The path of the link to confirm."""
    [link] = re.findall(rf"{BASE}(/confirm/\S+)", text_of(message))
    return link


def way_out_of(message: EmailMessage) -> str:
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    link = str(message["List-Unsubscribe"])
    assert link.startswith(f"<{BASE}/unsubscribe/"), link
    return urlsplit(link.strip("<>")).path


def click(service: Service, path: str, method: str = "GET", body: bytes | None = None) -> Reply:
    """As a mail program or a scanner does it: no cookie, no token of a form, from nowhere."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
    headers = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
    connection.request(method, path, body, {**headers, "Host": "alerts.example.com", "Cookie": "tocsin_session=nobody"})
    answer = connection.getresponse()
    reply = Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    connection.close()
    return reply


def one_click(service: Service, path: str) -> Reply:
    return click(service, path, "POST", b"List-Unsubscribe=One-Click")


def state(client: Client, handler: int) -> Any:
    [found] = [one for one in client.get("/api/handler-states").data if one["id"] == handler]
    return found


def ended(client: Client, handler: int, message: str = "Hello") -> tuple[str, str | None]:
    notification = client.send(message, handlers=[handler])
    [delivery] = client.settled(notification)
    return delivery["status"], delivery["last_error"]


@both_stores
def test_nothing_else_is_mailed_before_somebody_agrees(service: Service, client: OwnedClient, mail_server: MailServer) -> None:
    address = somebody()
    handler = client.add_handler("email", name="Buy now! https://spam.example", email=address)
    assert client.handler(handler) == {
        **{"id": handler, "type": "email", "name": "Buy now! https://spam.example", "settings": {"email": address}},
        **{"is_enabled": True, "last_datetime": None, "datetime": client.handler(handler)["datetime"]},
    }
    question = mail_to(mail_server, address)
    assert question["Subject"] == "Please confirm this e-mail address"
    assert client.email in text_of(question)
    assert "spam" not in question.as_string()  # nothing of what the user chose
    for _ in range(2):
        notification = client.send("Hello", handlers=[handler])
        [delivery] = client.settled(notification)
        assert (delivery["status"], delivery["attempts"]) == ("skipped", [])
        assert delivery["events"][-1]["text"] == "Skipped: The address has not been confirmed."
    assert client.get("/api/handler-states?state=unconfirmed").data == [state(client, handler)]
    assert client.get("/api/notification-handlers?state=unconfirmed").data == [client.handler(handler)]
    assert (state(client, handler)["state"], state(client, handler)["reason"]) == ("unconfirmed", "unconfirmed")
    stats = client.get(f"/api/notification-handlers/{handler}/stats").data
    assert (stats["health"]["state"], stats["deliveries"]["skipped"]) == ("unconfirmed", 2)

    link = link_in(question)
    for method in ("GET", "HEAD", "GET"):
        opened = click(service, link, method)
        assert (opened.status, opened.headers["referrer-policy"], opened.headers["cache-control"]) == (200, "no-referrer", "no-store")
    assert click(service, link, "OPTIONS").status == 405
    assert state(client, handler)["state"] == "unconfirmed"
    assert click(service, link, "POST").status == 200
    assert state(client, handler)["state"] == "ok"
    assert client.post(f"/api/deliveries/{delivery['id']}/retry").data == {"retried": 1}
    assert mail_to(mail_server, address, 2)["Subject"] == "Hello"
    assert ended(client, handler, "More") == ("delivered", None)
    assert click(service, link, "POST").status == 200  # again: the same
    _no_link_is_told(service, client, link)


def _no_link_is_told(service: Service, client: Client, link: str) -> None:
    """Neither the log nor anything that the owner can read has the link, or its owner could agree in another's name."""
    token = link.rpartition("/")[2]
    assert token not in service.log()
    for path in ("/api/notifications", "/api/deliveries"):
        for one in client.get(path).data:
            assert token not in client.get(f"{path}/{one['id']}").content.decode()
    assert all(token not in str(row) for row in service.rows("SELECT * FROM notifications"))


def test_who_needs_not_be_asked(service: Service, client: OwnedClient, mail_server: MailServer) -> None:
    own = client.add_handler("email", email=client.email.upper())
    trusted = client.add_handler("email", email=f"a{secrets.token_hex(4)}@OURS.example")
    by_admin = service.first().add_handler("email", email=somebody())
    assert {state(client, own)["state"], state(client, trusted)["state"]} == {"ok"}
    assert state(service.first(), by_admin)["state"] == "ok"
    address = service.first().handler(by_admin)["settings"]["email"]
    assert ended(service.first(), by_admin) == ("delivered", None)
    assert way_out_of(mail_to(mail_server, address))
    other = client.add_handler("email", email=client.email.replace("@", "+alerts@"))  # perhaps somebody else's mailbox
    below = client.add_handler("email", email=f"a@x{secrets.token_hex(4)}.ours.example")
    assert {state(client, other)["state"], state(client, below)["state"]} == {"unconfirmed"}


def test_a_test_asks_again_but_only_a_few_times(service: Service, client: OwnedClient, mail_server: MailServer) -> None:
    address = somebody()
    handler = client.add_handler("email", email=address)
    mail_to(mail_server, address)
    for number in range(2, 5):
        trial = client.post(f"/api/notification-handlers/{handler}/test").data
        assert (trial["status"], trial["reason"], trial["request"], trial["response"]) == ("failed", "unconfirmed", None, None)
        assert "was mailed there" in trial["hint"]
        link_in(mail_to(mail_server, address, number))
    for path, body in ((f"/{handler}/test", None), ("/test", {"name": "x", "type": "email", "email": address.replace("@", "+tag@")})):
        trial = client.post(f"/api/notification-handlers{path}", body).data
        assert (trial["status"], trial["reason"]) == ("failed", "unconfirmed")
        assert "several times today" in trial["hint"]
    client.change(handler, is_enabled="0")
    client.change(handler, is_enabled="1")
    assert client.settled(client.send("x", handlers=[handler]))[0]["status"] == "skipped"
    assert len(mails_to(mail_server, address)) == 4
    assert click(service, link_in(mail_to(mail_server, address, 4)), "POST").status == 200
    assert client.post(f"/api/notification-handlers/{handler}/test").data["status"] == "delivered"


def test_what_is_not_registered_yet_is_asked_for_too(service: Service, client: OwnedClient, mail_server: MailServer) -> None:
    address = somebody()
    body = {"name": "Mine", "type": "email", "email": address}
    trial = client.post("/api/notification-handlers/test", body).data
    assert (trial["status"], trial["reason"], trial["request"]) == ("failed", "unconfirmed", None)
    assert "List-Unsubscribe" not in mail_to(mail_server, address)
    assert click(service, link_in(mail_to(mail_server, address)), "POST").status == 200
    assert client.post("/api/notification-handlers/test", body).data["status"] == "delivered"
    handler = client.add_handler("email", email=address.replace("example.net", "EXAMPLE.net"))
    assert state(client, handler)["state"] == "ok"
    other = service.client()  # another user is asked by themselves
    assert state(other, other.add_handler("email", email=address))["state"] == "unconfirmed"


def test_a_link_is_void_once_the_address_is_another(service: Service, client: OwnedClient, mail_server: MailServer) -> None:
    first, second = somebody(), somebody()
    handler = client.add_handler("email", email=first)
    link = link_in(mail_to(mail_server, first))
    client.change(handler, email=first.upper())
    assert click(service, link).status == 200  # the same in another form
    client.change(handler, email=second)
    assert [click(service, link, method).status for method in ("GET", "POST")] == [404, 404]
    newer = link_in(mail_to(mail_server, second))
    assert click(service, newer, "POST").status == 200
    assert ended(client, handler) == ("delivered", None)
    assert "List-Unsubscribe" in mail_to(mail_server, second, 2)
    way_out = way_out_of(mail_to(mail_server, second, 2))
    client.change(handler, email=first)
    assert state(client, handler)["state"] == "unconfirmed"
    assert one_click(service, way_out).status == 200  # it has ended already
    assert client.handler(handler)["is_enabled"] is True
    client.delete(f"/api/notification-handlers/{handler}")
    assert click(service, newer).status == 404
    assert one_click(service, way_out).status == 200
    for path in ("/confirm/x", "/unsubscribe/x", "/unsubscribe/" + "A" * 43, newer[:-4] + "AAAA", way_out[:-2] + "AA"):
        assert [click(service, path, method).status for method in ("GET", "POST")] == [404, 404], path


@both_stores
def test_one_click_pauses_and_tells_the_owner(service: Service, client: OwnedClient, mail_server: MailServer, receiver: Receiver) -> None:
    address = somebody()
    handler = client.add_handler("email", name="Mine", email=address)
    assert ended(client, client.add_handler("webhook", webhook=receiver.url("/told")))[0] == "delivered"
    twin = client.add_handler("email", name="Twin", email=address)
    click(service, link_in(mail_to(mail_server, address, 2)), "POST")
    assert {state(client, one)["state"] for one in (handler, twin)} == {"ok"}  # the address has agreed
    waiting = client.send("Later", handlers=[handler], send_at=in_an_hour())
    assert ended(client, handler) == ("delivered", None)
    way_out = way_out_of(mail_to(mail_server, address, 3))
    opened = click(service, way_out)
    assert (opened.status, address in opened.content.decode()) == (200, True)
    assert click(service, way_out, "HEAD").status == 200
    assert client.handler(handler)["is_enabled"] is True
    assert [one_click(service, way_out).status for _ in range(3)] == [200] * 3
    assert client.handler(handler)["is_enabled"] is False
    found = state(client, handler)
    assert (found["state"], found["reason"]) == ("paused", "unconfirmed")
    assert [one["status"] for one in client.settled(waiting)] == ["skipped"]
    history = client.get(f"/api/notification-handlers/{handler}/stats").data["history"]
    assert [one["event"] for one in history] == ["unsubscribed"]
    assert state(client, twin)["state"] == "ok"
    _, told = receiver.wait(2, timeout=20)
    body = told.json()
    assert (body["type"], body["data"]["title"]) == ("handler.disabled", "Unsubscribed: Mine")
    assert body["data"]["handlers"] == [{"id": handler, "name": "Mine", "type": "email", "reason": "unconfirmed"}]

    client.change(handler, is_enabled="1")
    assert state(client, handler)["state"] == "unconfirmed"
    assert client.settled(client.send("x", handlers=[handler]))[0]["status"] == "skipped"
    again = link_in(mail_to(mail_server, address, 4 + 1))  # beside the notice, which the twin has taken
    assert click(service, again, "POST").status == 200
    assert ended(client, handler) == ("delivered", None)
    assert way_out.rpartition("/")[2] not in service.log()
    preview = client.post(f"/api/notification-handlers/{handler}/preview", {"message": "x"}).content.decode()
    assert "List-Unsubscribe" in preview
    assert way_out.rpartition("/")[2] not in preview


def test_an_administrators_reader_has_the_same_right(service: Service, mail_server: MailServer) -> None:
    first, address = service.first(), somebody()
    handler = first.add_handler("email", email=address)
    assert ended(first, handler) == ("delivered", None)
    assert one_click(service, way_out_of(mail_to(mail_server, address))).status == 200
    first.change(handler, is_enabled="1")
    assert state(first, handler)["state"] == "unconfirmed"
    assert click(service, link_in(mail_to(mail_server, address, 2)), "POST").status == 200
    assert state(first, handler)["state"] == "ok"


def test_who_becomes_or_stays_no_administrator(service: Service, client: OwnedClient, mail_server: MailServer) -> None:
    address = somebody()
    handler = client.add_handler("email", email=address)
    mail_to(mail_server, address)
    with service.admin() as admin:
        admin.set_user(client.email, None, is_admin=True)
    until(lambda: state(client, handler)["state"] == "ok")
    until(lambda: ended(client, handler)[0] == "delivered")
    with service.admin() as admin:
        admin.set_user(client.email, None, is_admin=False)
    until(lambda: ended(client, handler)[0] == "skipped")
    assert state(client, handler)["state"] == "unconfirmed"


def test_links_outlive_a_restart_and_hold_without_it_being_tried_too_often(start_service: Starter, mail_server: MailServer) -> None:
    environ = {"TOCSIN_SMTP_URL": mail_server.url(), "TOCSIN_BASE_URL": BASE, "TOCSIN_EMAIL_TRUSTED_DOMAINS": ""}
    service = start_service(**environ)
    client, address = service.client(), somebody()
    handler = client.add_handler("email", email=address)
    link = link_in(mail_to(mail_server, address))
    service.terminate()
    service.environ["TOCSIN_EMAIL_TRUSTED_DOMAINS"] = "example.net"
    client.port = service.start().port
    assert state(client, handler)["state"] == "ok"  # the operator trusts them now
    service.terminate()
    service.environ["TOCSIN_EMAIL_TRUSTED_DOMAINS"] = ""
    client.port = service.start().port
    assert state(client, handler)["state"] == "unconfirmed"
    assert click(service, link, "POST").status == 200
    assert ended(client, handler) == ("delivered", None)
    statuses = [click(service, "/unsubscribe/AAAA").status for _ in range(31)]
    assert (statuses[:30], statuses[30]) == ([404] * 30, 429)
    assert click(service, "/confirm/AAAA").headers["retry-after"]
    assert click(service, link).status == 200  # who has a real one is not kept from it
    assert len(mails_to(mail_server, address)) == 2


def test_without_a_base_url_it_says_what_to_do(start_service: Starter, mail_server: MailServer) -> None:
    service = start_service(TOCSIN_SMTP_URL=mail_server.url(), TOCSIN_EMAIL_TRUSTED_DOMAINS="")
    client, address = service.client(), somebody()
    handler = client.add_handler("email", email=address)
    assert ended(client, handler) == ("skipped", "unconfirmed")
    trial = client.post(f"/api/notification-handlers/{handler}/test").data
    assert (trial["status"], trial["reason"]) == ("failed", "unconfirmed")
    assert "TOCSIN_BASE_URL" in trial["hint"]
    checked = service.run("tocsin", "check")
    assert checked.returncode == 1
    assert "Set TOCSIN_BASE_URL" in checked.stdout
    assert mails_to(mail_server, address) == []
    service.environ["TOCSIN_BASE_URL"] = BASE
    service.terminate()
    client.port = service.start().port
    assert "Set TOCSIN_BASE_URL" not in service.run("tocsin", "check").stdout
    assert ended(client, handler) == ("skipped", "unconfirmed")  # which asks, since that could not be done before
    link_in(mail_to(mail_server, address))


@sqlite_only
def test_what_is_registered_at_the_upgrade_counts_as_confirmed(made_service: Service, mail_server: MailServer) -> None:
    service, address = made_service, somebody()
    service.environ |= {"TOCSIN_SMTP_URL": mail_server.url(), "TOCSIN_BASE_URL": BASE, "TOCSIN_EMAIL_TRUSTED_DOMAINS": ""}
    service.environ["TOCSIN_SECRET_KEY"] = "the key of a store that is upgraded"
    settings, vault = load(service.environ, service.folder / "none.env"), Vault([service.environ["TOCSIN_SECRET_KEY"]])
    service.data.mkdir(mode=0o700)
    engine = datadir.home_of(settings).engine()
    migrate_to(engine, "0012")
    user = {"id": 1, "email": "old@example.com", "is_admin": False, "created_at": 1}
    handler = {"id": 1, "user_id": 1, "type": "email", "name": "Old", "settings": vault.seal({"email": address})}
    totals = {"user_id": 1, "what": 101, "slot": 0, "n": 1}
    with dialects.of(engine).writing(engine) as connection:
        connection.execute(text("INSERT INTO users (id, email, is_admin, created_at) VALUES (:id, :email, :is_admin, :created_at)"), user)
        connection.execute(
            text(
                "INSERT INTO handlers (id, user_id, type, name, settings, is_enabled, created_at, version)"
                " VALUES (:id, :user_id, :type, :name, :settings, TRUE, 1, 1)"
            ),
            handler,
        )
        connection.execute(text("INSERT INTO totals (user_id, what, slot, n) VALUES (:user_id, :what, :slot, :n)"), totals)
        datadir.seal_canary(connection, vault)
    engine.dispose()
    service.start()
    with service.admin() as admin:
        client = OwnedClient(service.port, admin.add_key("old@example.com", "test", ()), "old@example.com")
    assert state(client, 1)["state"] == "ok"
    assert ended(client, 1) == ("delivered", None)
    twin = client.add_handler("email", email=address.upper())  # the same address, which nobody needs to be asked about
    assert ended(client, twin) == ("delivered", None)
    client.change(1, email=somebody())
    assert state(client, 1)["state"] == "unconfirmed"


@postgresql_only
def test_an_answer_at_one_process_holds_at_the_others(start_service: Starter, mail_server: MailServer) -> None:
    environ = {
        "TOCSIN_SMTP_URL": mail_server.url(),
        "TOCSIN_BASE_URL": BASE,
        "TOCSIN_EMAIL_TRUSTED_DOMAINS": "",
    }
    api = start_service(TOCSIN_ROLE="api", **environ)
    shared = {"TOCSIN_DATABASE_URL": api.environ["TOCSIN_DATABASE_URL"]}
    _ = start_service(**environ, **shared, TOCSIN_ROLE="worker")
    other = start_service(**environ, **shared, TOCSIN_ROLE="api")
    client, address = api.client(), somebody()
    handler = client.add_handler("email", email=address)
    link = link_in(mail_to(mail_server, address))
    assert ended(client, handler) == ("skipped", "unconfirmed")
    assert click(other, link, "POST").status == 200
    until(lambda: ended(client, handler) == ("delivered", None))
    way_out = way_out_of(mail_to(mail_server, address, len(mails_to(mail_server, address))))
    assert one_click(other, way_out).status == 200
    until(lambda: client.settled(client.send("x", handlers=[handler]))[0]["status"] == "skipped")
    assert client.handler(handler)["is_enabled"] is False
    with api.admin() as admin:
        client.port = other.port
        second = client.add_handler("email", email=somebody())
        assert state(client, second)["state"] == "unconfirmed"
        admin.set_user(client.email, None, is_admin=True)
    until(lambda: client.settled(client.send("x", handlers=[second]))[0]["status"] == "delivered")
