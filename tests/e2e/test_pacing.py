"""A provider's limits: learned from its own answers, remembered over a restart, and said to who asks."""

from typing import Any

from e2e.conftest import Starter
from e2e.service import Client, OwnedClient, until
from receiver import Receiver

TWEETS = "/2/tweets"
POSTED = b'{"data":{"id":"1","text":"t"}}'


def account(client: Client, token: str) -> int:
    return client.add_handler("x", x_consumer_key="k", x_consumer_secret="s", x_access_token=token, x_access_token_secret="t")


def told(client: Client, notification: int) -> str:
    """The last thing that the first delivery of a notification says about itself."""
    [one] = client.deliveries(notification)
    return client.delivery(one["id"])["events"][-1]["text"]


def waits(client: Client, notification: int, what: str) -> str:
    """As `told`, once it says `what`."""
    until(lambda: what in told(client, notification), what=what)
    return told(client, notification)


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
    assert "no more than 100 in 15 min go to X." in waits(client, late[0], "Waits for its turn")
    assert " before it." in waits(client, late[1], "1 before it")
    free = client.settled(client.send("other account", handlers=[account(client, "2-token")]))
    assert free[0]["status"] == "delivered"
    assert len(receiver.requests) == 101


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
