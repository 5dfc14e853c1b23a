"""Mails by OAuth through the whole service: the token's way, what is kept of it, and that nobody else gets to see it."""

import json
import re

from e2e.conftest import Starter
from e2e.service import Service, until
from e2e.stores import both_stores, both_stores_long
from mailserver import MailServer
from receiver import Receiver

pytestmark = both_stores_long
USER, SECRET, FIRST = "alarms@example.com", "client-s3cret-value", "refresh-t0ken-0"


def granted(server: Receiver, access: str, refresh: str) -> None:
    answer = {"access_token": access, "refresh_token": refresh, "expires_in": 3600}
    server.answer("/token", 200, body=json.dumps(answer).encode(), headers={"Content-Type": "application/json"})


def settings_for(tokens: Receiver, mails: MailServer) -> dict[str, str]:
    return {
        "TOCSIN_SMTP_URL": f"smtp://{USER.replace('@', '%40')}@127.0.0.1:{mails.port}?tls=optional",
        "TOCSIN_EMAIL_FROM": USER,
        "TOCSIN_SMTP_OAUTH_TOKEN_URL": tokens.url("/token"),
        "TOCSIN_SMTP_OAUTH_CLIENT_ID": "the-client",
        "TOCSIN_SMTP_OAUTH_CLIENT_SECRET": SECRET,
        "TOCSIN_SMTP_OAUTH_REFRESH_TOKEN": FIRST,
        "TOCSIN_LOG_LEVEL": "debug",
        "TOCSIN_RETRY_SCHEDULE": "1h",
    }


def refresh_tokens(server: Receiver) -> list[str]:
    return [found[1] for one in server.requests if (found := re.search(r"refresh_token=([^&]+)", one.body.decode()))]


def test_a_refresh_token_outlives_restart_and_a_new_key(start_service: Starter) -> None:
    accepted = {f"access-t0ken-{number}" for number in range(3)}
    with Receiver() as tokens, MailServer(user=USER, methods=("XOAUTH2",), tokens=accepted) as mails:
        for number in range(3):
            granted(tokens, f"access-t0ken-{number}", f"refresh-t0ken-{number + 1}")
        service = start_service(**settings_for(tokens, mails))
        client = service.first()
        handler = client.add_handler("email", email="me@example.com")
        [delivery] = client.settled(client.send("one", handlers=[handler]))
        [attempt] = delivery["attempts"]
        assert (delivery["status"], attempt["provider_id"]) == ("delivered", "4F2A1")
        assert attempt["detail"].startswith("250 ")
        service = restarted(service)
        client.port = service.port
        client.settled(client.send("two", handlers=[handler]))
        rotated = service.run("tocsin", "secrets", "rotate")
        assert rotated.returncode == 0, rotated.stderr
        service = restarted(service)
        client.port = service.port
        client.settled(client.send("three", handlers=[handler]))
        assert refresh_tokens(tokens) == [FIRST, "refresh-t0ken-1", "refresh-t0ken-2"]
        assert [mail.user for mail in mails.mails] == [USER] * 3
        assert_unseen(service, client.delivery(delivery["id"]))


def restarted(service: Service) -> Service:
    assert service.terminate() == 0
    return service.start()


def assert_unseen(service: Service, *more: object) -> None:
    text = service.log() + "".join(map(json.dumps, more))
    assert "access-t0ken" not in text and "refresh-t0ken" not in text and SECRET not in text
    store = service.contents()
    assert b"canary" in store and b"refresh-t0ken" not in store and b"access-t0ken" not in store


@both_stores
def test_a_refused_token_waits_and_is_no_fault_of_the_handler(start_service: Starter) -> None:
    with Receiver() as tokens, MailServer(user=USER, methods=("XOAUTH2",)) as mails:
        said = json.dumps({"error": "invalid_grant", "error_description": f"{FIRST} of {SECRET} has expired"}).encode()
        tokens.answer("/token", 400, body=said)
        service = start_service(**settings_for(tokens, mails))
        client = service.first()
        handler = client.add_handler("email", email="me@example.com")
        notification = client.send("one", handlers=[handler])
        until(lambda: client.deliveries(notification)[0]["attempt_count"] == 1)
        [delivery] = client.deliveries(notification)
        assert delivery["status"] == "pending" and delivery["last_error"].startswith("mail_account: No access token")
        assert "invalid_grant" in delivery["last_error"]
        trial = client.post(f"/api/notification-handlers/{handler}/test").data
        assert (trial["status"], trial["reason"]) == ("failed", "mail_account")
        assert client.get(f"/api/notification-handlers/{handler}/stats").data["health"]["failures"] == 0
        assert client.handler(handler)["is_enabled"]
        assert "mail.no_token" in service.log()
        assert_unseen(service, client.delivery(delivery["id"]), trial)
