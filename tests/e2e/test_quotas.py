"""What users who are no administrators may use: refused with the number in the sentence, kept over a kill, and told before it bites."""

import re
import secrets

import pytest

from e2e.conftest import Shared, Starter
from e2e.service import OwnedClient, Reply, Service, until
from e2e.stores import both_stores, both_stores_long
from mailserver import MailServer
from receiver import Receiver

pytestmark = both_stores_long


@pytest.fixture
def service(shared: Shared, store: str, mail_server: MailServer) -> Service:
    return shared(
        "limited",
        store,
        from_scratch=False,
        TOCSIN_SMTP_URL=mail_server.url(),
        TOCSIN_QUOTA_HANDLERS="4",
        TOCSIN_QUOTA_NOTIFICATIONS_MINUTE="5",
        TOCSIN_QUOTA_NOTIFICATIONS_DAY="12",
        TOCSIN_QUOTA_MAILS_DAY="3",
        TOCSIN_QUOTA_MAILS_ADDRESS_DAY="2",
        TOCSIN_QUOTA_STORED_MB="1",
    )


def batch(client: OwnedClient, count: int, handler: int, text: str = "x", **headers: str) -> Reply:
    body = {"notifications": [{"message": text, "handlers": [handler]} for _ in range(count)]}
    return client.post("/api/notifications/batch", body, **headers)


def told(reply: Reply) -> dict[str, tuple[int, int]]:
    """What is left of each policy, and in how many seconds it starts over."""
    found = re.findall(r'"([\w-]+)";r=(\d+);t=(\d+)', reply.headers.get("ratelimit", ""))
    return {name: (int(left), int(reset)) for name, left, reset in found}


@both_stores
def test_notifications_a_minute_and_a_day(service: Service, client: OwnedClient, receiver: Receiver) -> None:
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    first = batch(client, 2, handler, Idempotency_Key="one")
    assert first.status == 202
    assert first.headers["ratelimit-policy"] == '"notifications-minute";q=5;w=60, "notifications-day";q=12;w=86400'
    left = told(first)
    assert (left["notifications-minute"][0], left["notifications-day"][0]) == (3, 10)
    assert 0 < left["notifications-minute"][1] <= 60
    assert 0 < left["notifications-day"][1] <= 86_400
    again = batch(client, 2, handler, Idempotency_Key="one")
    assert (again.status, again.data, told(again)["notifications-day"][0]) == (202, first.data, 10)  # the same: not counted twice
    assert client.post("/api/notifications", {"message": "x", "handlers": [0]}).status == 422  # nor what is refused
    assert batch(client, 3, handler).status == 202
    over = client.post("/api/notifications", {"message": "x"})
    assert (over.status, over.codes()) == (429, [("rate_limited", None)])
    assert "5 notifications a minute" in over.json["errors"][0]["detail"]
    assert 0 < int(over.headers["retry-after"]) <= 60
    assert told(over)["notifications-minute"][0] == 0
    assert "ratelimit" not in client.get("/api/notifications").headers
    admin = service.first()
    own = admin.add_handler("webhook", webhook=receiver.url("/admin"))
    reply = admin.post("/api/notifications/batch", {"notifications": [{"message": "x", "handlers": [own]}] * 40})
    assert (reply.status, "ratelimit" in reply.headers) == (202, False)

    another = service.client()
    other = another.add_handler("webhook", webhook=receiver.url("/other"))
    assert batch(another, 12, other).status == 202  # larger than a minute's: alone, and then there is a longer wait
    over = batch(another, 1, other)
    assert (over.status, over.codes()) == (429, [("rate_limited", None)])
    assert "12 notifications a day" in over.json["errors"][0]["detail"]
    assert int(over.headers["retry-after"]) > 0


@both_stores
def test_over_a_mail_quota_only_the_mails_are_skipped(
    service: Service, client: OwnedClient, mail_server: MailServer, receiver: Receiver
) -> None:
    address = f"x{secrets.token_hex(6)}@example.net"
    first = client.add_handler("email", email=address)
    tagged = client.add_handler("email", email=address.replace("@", "+tag@"))
    other = client.add_handler("email", email=f"y{address}")
    hook = client.add_handler("webhook", webhook=receiver.url("/hook"))

    def outcome(*handlers: int) -> dict[int, str]:
        return {one["notification_handler_id"]: one["status"] for one in client.settled(client.send("x", handlers=list(handlers)))}

    assert outcome(first, tagged, hook) == {first: "delivered", tagged: "delivered", hook: "delivered"}
    notification = client.send("x", handlers=[first, hook])
    mail, web = sorted(client.settled(notification), key=lambda one: one["notification_handler_id"])
    assert (mail["status"], mail["attempts"], web["status"]) == ("skipped", [], "delivered")
    assert mail["events"][-1]["text"] == "Skipped: The quota of mails is used up."
    assert outcome(other) == {other: "delivered"}  # the third of the day
    assert outcome(other, hook) == {other: "skipped", hook: "delivered"}
    trial = client.post(f"/api/notification-handlers/{other}/test").data
    assert (trial["status"], trial["reason"]) == ("failed", "quota")
    stats = client.get(f"/api/notification-handlers/{first}/stats").data
    assert (stats["deliveries"]["skipped"], stats["health"]["state"]) == (1, "ok")
    assert len([one for one in mail_server.mails if any("example.net" in to and address[:8] in to for to in one.recipients)]) == 3


def test_handlers_keys_and_what_is_stored(start_service: Starter, receiver: Receiver) -> None:
    service = start_service(TOCSIN_QUOTA_HANDLERS="2", TOCSIN_QUOTA_KEYS="3", TOCSIN_QUOTA_STORED_MB="1")
    client = service.client()
    handlers = [client.add_handler("webhook", webhook=receiver.url(f"/{n}")) for n in range(2)]
    over = client("POST", "/api/notification-handlers", form={"name": "x", "type": "webhook", "webhook": receiver.url("/x")})
    assert (over.status, over.codes()) == (422, [("quota", None)])
    assert "2 handlers" in over.json["errors"][0]["detail"]
    client.delete(f"/api/notification-handlers/{handlers[1]}")
    client.add_handler("webhook", webhook=receiver.url("/again"))
    statuses: list[int] = []
    for _ in range(20):
        reply = client.post("/api/notifications", {"message": "x" * 60_000, "handlers": [handlers[0]]})
        statuses.append(reply.status)
    assert statuses[:16] == [202] * 16
    assert statuses[17:] == [422] * 3
    assert reply.codes() == [("quota", None)]
    assert "You may store 1 MB" in reply.json["errors"][0]["detail"]
    assert all(service.first().add_handler("webhook", webhook=receiver.url("/x")) for _ in range(3))


def test_a_kill_does_not_begin_the_day_anew(start_service: Starter, receiver: Receiver) -> None:
    service = start_service(TOCSIN_QUOTA_NOTIFICATIONS_DAY="4", TOCSIN_QUOTA_NOTIFICATIONS_MINUTE="0")
    client = service.client()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    assert batch(client, 3, handler).status == 202
    until(lambda: service.rows("SELECT n FROM usage WHERE what = 1") == [(3,)])
    service.kill()
    client.port = service.start().port
    reply = client.post("/api/notifications", {"message": "x"})
    assert (reply.status, told(reply)["notifications-day"][0]) == (202, 0)
    assert client.post("/api/notifications", {"message": "x"}).status == 429
    service.terminate()
    assert service.rows("SELECT n FROM usage WHERE what = 1") == [(4,)]


def test_replays_count(start_service: Starter, receiver: Receiver) -> None:
    service = start_service(TOCSIN_QUOTA_NOTIFICATIONS_DAY="5", TOCSIN_RETRY_SCHEDULE="0.1s")
    client = service.client()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    client.change(handler, is_enabled="0")
    notifications = [client.send("x", handlers=[handler]) for _ in range(3)]
    assert [client.settled(one)[0]["status"] for one in notifications] == ["skipped"] * 3
    client.change(handler, is_enabled="1")
    assert client.post("/api/deliveries/retry", {"status": "skipped"}).data == {"retried": 3}
    over = client.post("/api/deliveries/retry", {"status": "skipped"})
    assert (over.status, over.codes()) == (429, [("rate_limited", None)])
    assert client.post("/api/notifications", {"message": "x"}).status == 429
    with service.admin() as admin:
        admin.set_user(client.email, None, is_admin=True)
    until(lambda: client.post("/api/notifications", {"message": "x"}).status == 202)
