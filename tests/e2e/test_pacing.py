"""A provider's limits: learned from its own answers, remembered over a restart, and said to who asks."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from e2e.conftest import Starter
from e2e.service import Client, OwnedClient, Service, until
from e2e.stores import any_processes, any_processes_long, both_stores_long
from mailserver import MailServer
from receiver import Receiver

pytestmark = both_stores_long
TWEETS = "/2/tweets"
POSTED = b'{"data":{"id":"1","text":"t"}}'


def account(client: Client, token: str) -> int:
    return client.add_handler("x", x_consumer_key="k", x_consumer_secret="s", x_access_token=token, x_access_token_secret="t")


BOT = "123456:abcdefghijklmnopqrstuvwxyz012345678"
DISCORD = "/api/webhooks/1/abc"


def told(client: Client, notification: int) -> str:
    """The last thing that the first delivery of a notification says about itself."""
    [one] = client.deliveries(notification)
    return client.delivery(one["id"])["events"][-1]["text"]


def waits(client: Client, notification: int, what: str) -> str:
    """As `told`, once it says `what`."""
    until(lambda: what in told(client, notification), what=what)
    return told(client, notification)


@any_processes
def test_a_limit_that_an_answer_names_is_heeded_before_it_is_hit(client: OwnedClient, receiver: Receiver) -> None:
    used_up = {"x-ratelimit-remaining": "0", "x-ratelimit-reset-after": "1.5"}
    receiver.answer("/api/webhooks/1/abc", 200, headers=used_up)
    handler = client.add_handler("discord", discord=receiver.url("/api/webhooks/1/abc"))
    client.settled(client.send("first", handlers=[handler]))
    second = client.send("second", handlers=[handler])
    assert "Discord asked for a pause" in waits(client, second, "pause")
    client.settled(second)
    first_at, second_at = (one.at for one in receiver.wait(2))
    assert second_at - first_at >= 1.4


@any_processes
def test_a_window_of_a_quarter_of_an_hour_survives_a_kill(start_service: Starter, receiver: Receiver) -> None:
    receiver.answer(TWEETS, 201, body=POSTED)
    service = start_service(TOCSIN_X_API_URL=receiver.url(""), TOCSIN_X_DAILY_LIMIT="1000")
    client = service.first()
    handlers = [account(client, "1-token"), account(client, "1-token")]
    for number in range(100):
        client.send(f"number {number}", handlers=[handlers[number % 2]])
    until(lambda: client.get("/api/deliveries?status=delivered").json["meta"]["total"] == 100)
    service.kill()
    client = service.start().first()
    late = [client.send(f"one more {number}", handlers=[handlers[0]]) for number in range(2)]
    assert "X gets at most 100 in 15 min." in waits(client, late[0], "Waits for its turn")
    assert " Ahead of it: 1." in waits(client, late[1], "Ahead of it: 1")
    free = client.settled(client.send("other account", handlers=[account(client, "2-token")]))
    assert free[0]["status"] == "delivered"
    assert len(receiver.requests) == 101


@any_processes
def test_a_throttle_survives_a_kill_for_all_handlers_of_the_credential(start_service: Starter, receiver: Receiver) -> None:
    path = "/bot123456:abcdefghijklmnopqrstuvwxyz012345678/sendMessage"
    receiver.answer(path, 429, body=b'{"ok":false,"error_code":429,"description":"Too Many Requests","parameters":{"retry_after":300}}')
    receiver.answer(path, 200, body=b'{"ok":true,"result":{}}')
    service = start_service(TOCSIN_TELEGRAM_API_URL=receiver.url(""))
    client = service.first()
    settings: dict[str, Any] = {"telegram": "123456:abcdefghijklmnopqrstuvwxyz012345678"}
    first, second = (client.add_handler("telegram", telegram_chat_id=chat, **settings) for chat in ("1", "2"))
    client.attempted(client.send("throttled", handlers=[first]))
    service.kill()
    client = service.start().first()
    assert "Telegram asked for a pause" in waits(client, client.send("waits too", handlers=[second]), "pause")
    assert len(receiver.requests) == 1


def test_a_throttle_of_a_webhook_survives_a_kill(start_service: Starter, receiver: Receiver) -> None:
    receiver.answer("/hook", 429, headers={"Retry-After": "300"})
    receiver.answer("/hook", 200)
    service = start_service()
    client = service.first()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    client.attempted(client.send("throttled", handlers=[handler]))
    service.kill()
    client = service.start().first()
    assert "Webhook asked for a pause" in waits(client, client.send("waits too", handlers=[handler]), "pause")
    assert len(receiver.requests) == 1


# ----------------------------------------------------------------------------------- what a kill must not make forgotten


def killed(service: Service, client: Client) -> None:
    """kill -9 and a start; the client goes on with the new process."""
    service.kill()
    client.port = service.start().port


def test_every_part_of_a_message_counts_in_the_window_after_a_kill(start_service: Starter, receiver: Receiver) -> None:
    """ntfy takes ten in 50 s: two deliveries of five parts are ten starts."""
    receiver.answer("/", 200, body=b'{"id":"abcdefghijkl","event":"message"}')
    service = start_service(TOCSIN_MAX_PARTS="5")
    client = service.first()
    handler = client.add_handler("ntfy", ntfy=receiver.url("/topic"))
    for _ in range(2):
        client.settled(client.send(" ".join(f"word{number:05}" for number in range(2500)), handlers=[handler]))
    assert len(receiver.requests) == 10
    killed(service, client)
    assert "ntfy gets at most 10 in 50 s." in waits(client, client.send("waits", handlers=[handler]), "Waits for its turn")
    assert len(receiver.requests) == 10


def test_every_attempt_counts_in_the_window_after_a_kill(start_service: Starter, receiver: Receiver) -> None:
    receiver.answer("/", 500)
    service = start_service(TOCSIN_RETRY_SCHEDULE="0.01s,0.01s,0.01s,0.01s")
    client = service.first()
    handler = client.add_handler("ntfy", ntfy=receiver.url("/topic"))
    for _ in range(2):
        client.settled(client.send("fails five times", handlers=[handler]))
    assert len(receiver.requests) == 10
    killed(service, client)
    assert "ntfy gets at most 10 in 50 s." in waits(client, client.send("waits", handlers=[handler]), "Waits for its turn")
    assert len(receiver.requests) == 10


def test_a_short_window_goes_on_after_a_kill(start_service: Starter, mail_server: MailServer) -> None:
    """Of everything that shares it: one mail in five seconds."""
    service = start_service(TOCSIN_SMTP_URL=mail_server.url(), TOCSIN_EMAIL_FROM="alarm@example.com", TOCSIN_SMTP_RATE="0.2")
    client = service.first()
    first, second = (client.add_handler("email", email=f"{name}@nas") for name in ("root", "admin"))
    client.settled(client.send("first", handlers=[first]))
    killed(service, client)
    client.settled(client.send("second", handlers=[second]))
    [(first_at,), (second_at,)] = service.rows("SELECT at FROM attempts ORDER BY delivery_id")
    assert second_at - first_at >= 4_900_000


@any_processes
@pytest.mark.parametrize("end", ["kill", "terminate"], ids=["kill", "stop"])
def test_a_limit_that_x_named_holds_over_a_restart_for_all_users(start_service: Starter, receiver: Receiver, end: str) -> None:
    used_up = {"x-rate-limit-remaining": "0", "x-rate-limit-reset": str(int(time.time()) + 600)}
    receiver.answer(TWEETS, 201, body=POSTED, headers=used_up)
    service = start_service(TOCSIN_X_API_URL=receiver.url(""))
    client, other = service.first(), service.client()
    handler, same = account(client, "1-token"), account(other, "1-token")
    assert client.settled(client.send("the last one", handlers=[handler]))[0]["status"] == "delivered"
    for _ in range(2):  # the first start may not use it up
        getattr(service, end)()
        client.port = other.port = service.start().port
        assert "X asked for a pause" in waits(client, client.send("waits", handlers=[handler]), "pause")
        assert "X asked for a pause" in waits(other, other.send("waits too", handlers=[same]), "pause")
    assert len(receiver.requests) == 1


def test_a_limit_that_discord_named_holds_over_a_kill(start_service: Starter, receiver: Receiver) -> None:
    receiver.answer(DISCORD, 204, body=b"", headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset-After": "300"})
    service = start_service()
    client = service.first()
    handlers = [client.add_handler("discord", discord=receiver.url(DISCORD)) for _ in range(2)]
    assert client.settled(client.send("the last one", handlers=handlers[:1]))[0]["status"] == "delivered"
    killed(service, client)
    assert "Discord asked for a pause" in waits(client, client.send("waits", handlers=handlers[1:]), "pause")
    assert len(receiver.requests) == 1


@any_processes_long
@pytest.mark.parametrize("ends", ["cancelled", "expires"])
def test_a_throttle_outlives_the_delivery_that_met_it(start_service: Starter, receiver: Receiver, ends: str) -> None:
    path = f"/bot{BOT}/sendMessage"
    receiver.answer(path, 429, body=b'{"ok":false,"error_code":429,"description":"Too Many Requests","parameters":{"retry_after":300}}')
    receiver.answer(path, 200, body=b'{"ok":true,"result":{}}')
    service = start_service(TOCSIN_TELEGRAM_API_URL=receiver.url(""))
    client = service.first()
    settings: dict[str, Any] = {"telegram": BOT, "telegram_chat_id": "1"}
    handler = client.add_handler("telegram", **settings)
    soon = (datetime.now(UTC) + timedelta(seconds=3)).strftime("%Y-%m-%d %H:%M:%S")
    notification = client.send("throttled", handlers=[handler], expires_at=soon)
    client.attempted(notification)
    if ends == "cancelled":
        assert client.delete(f"/api/notifications/{notification}").data["cancelled"] == 1
    killed(service, client)
    assert "more: Telegram asked for a pause" in waits(client, client.send("waits", handlers=[handler]), "pause")
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("has_record", [True, False], ids=["", "of-an-older-version"])
def test_a_throttle_outlives_any_number_of_younger_deliveries(start_service: Starter, receiver: Receiver, has_record: bool) -> None:
    """Without the file of starts, as after an upgrade or in a copy of the store, the rows of what still waits tell of it."""
    receiver.answer("/hook", 429, headers={"Retry-After": "3600"})
    service = start_service()
    client = service.first()
    hook, other = (client.add_handler("webhook", webhook=receiver.url(path)) for path in ("/hook", "/other"))
    client.attempted(client.send("throttled", handlers=[hook]))
    service.kill()
    service.change(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200001)"
        " INSERT INTO deliveries (notification_id, handler_id, user_id, status, is_critical, due_at, first_due_at, created_at)"
        " SELECT notification_id, ?, user_id, 1, is_critical, due_at, first_due_at, created_at FROM deliveries, n",
        other,
    )
    if not has_record:
        (service.data / "starts").unlink()
    client.port = service.start().port
    assert "Webhook asked for a pause" in waits(client, client.send("waits", handlers=[hook]), "pause")
    assert len(receiver.requests) == 1


def test_windows_are_told_by_rows_where_there_is_no_record(start_service: Starter, receiver: Receiver) -> None:
    """After an upgrade from a version that kept none; and damage is no reason not to start."""
    receiver.answer(TWEETS, 201, body=POSTED)
    service = start_service(TOCSIN_X_API_URL=receiver.url(""), TOCSIN_X_DAILY_LIMIT="1000")
    client = service.first()
    handler = account(client, "1-token")
    for number in range(100):
        client.send(f"number {number}", handlers=[handler])
    until(lambda: client.get("/api/deliveries?status=delivered").json["meta"]["total"] == 100)
    service.kill()
    (service.data / "starts").write_bytes(b"\xff\x7f damaged" * 4000)
    for _ in range(2):  # the first start writes down what the rows told
        client.port = service.start().port
        assert "X gets at most 100 in 15 min." in waits(client, client.send("one more", handlers=[handler]), "Waits for its turn")
        service.kill()
    assert len(receiver.requests) == 100


DISCORD_SAYS: dict[str, bytes] = {
    "discord": b'{"message":"You are being rate limited.","retry_after":90000,"global":false}',
    "all of discord": b'{"message":"You are being rate limited.","retry_after":90000,"global":true}',
}


@pytest.mark.parametrize("provider", ["x", *DISCORD_SAYS])
def test_a_wait_of_more_than_a_day_pauses_the_credential_for_a_day_over_kills(
    start_service: Starter, receiver: Receiver, provider: str
) -> None:
    """The delivery that met it has failed, so nothing but the record of rests tells of it."""
    service = start_service(TOCSIN_X_API_URL=receiver.url(""))
    client = service.first()
    if provider == "x":
        receiver.answer(TWEETS, 429, body=b"{}", headers={"x-rate-limit-reset": str(int(time.time()) + 90_000)})
        other = service.client()
        handler, same = account(client, "1-token"), account(other, "1-token")  # all users of the token wait
        name = "X"
    else:
        other = client
        paths = [DISCORD, "/api/webhooks/2/def" if "all" in provider else DISCORD]
        receiver.answer(DISCORD, 429, body=DISCORD_SAYS[provider])
        handler, same = (client.add_handler("discord", discord=receiver.url(path)) for path in paths)
        name = "Discord"
    [failed] = client.settled(client.send("throttled", handlers=[handler]))
    assert (failed["status"], failed["last_error"].partition(":")[0]) == ("failed", "throttled_too_long")
    for _ in range(2):
        service.kill()
        client.port = other.port = service.start().port
        for one, waiting in ((client, handler), (other, same)):
            assert f"{name} asked for a pause" in waits(one, one.send("waits", handlers=[waiting]), "pause")
    assert len(receiver.requests) == 1
    assert client.handler(handler)["is_enabled"] is True
