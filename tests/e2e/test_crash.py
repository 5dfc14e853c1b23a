"""kill -9, SIGTERM and long outages: what was accepted arrives, and what may arrive twice is counted."""

import struct
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from e2e.conftest import Starter
from e2e.load import HANDLERS, arrivals, in_flight, nothing_waits, sending
from e2e.service import Client, Service, in_an_hour, until
from e2e.stores import both_stores, both_stores_long, postgresql_only, sqlite_only
from mailserver import HANG, MailServer
from receiver import Receiver
from tocsin.clock import SECOND

pytestmark = both_stores_long


@pytest.fixture
def hook(receiver: Receiver) -> str:
    """Slow enough that attempts are always in flight."""
    receiver.answer("/hook", 200, delay=0.02)
    return receiver.url("/hook")


@both_stores
@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.long)])
def test_nothing_is_lost_over_many_kills_and_only_what_was_in_flight_repeats(
    start_service: Starter, receiver: Receiver, hook: str, kills: int
) -> None:
    sends = 200 * kills
    service = start_service(TOCSIN_RETRY_SCHEDULE="0.1s,0.2s,0.4s,1s,1s")
    client = service.first()
    assert [client.add_handler("webhook", webhook=hook) for _ in range(HANDLERS)] == list(range(1, HANDLERS + 1))
    cut_off: set[tuple[int, int]] = set()
    with sending(client, sends) as senders:
        for kill in range(1, kills + 1):
            senders.wait(kill * sends // (kills + 1))
            senders.down()
            service.kill()
            cut_off |= in_flight(service)
            senders.up(service.start().port)
    until(nothing_waits(client), 40, "deliveries still wait")

    # Nothing is lost, and a request that was sent again made nothing twice.
    notifications = {one.json()["data"]["id"]: one.json()["data"]["message"] for one in receiver.requests}
    assert len(senders.accepted) == sends
    assert notifications == {notification: str(number) for number, notification in senders.accepted.items()}
    assert client.get("/api/notifications").json["meta"]["total"] == sends
    assert client.get("/api/deliveries?status=delivered").json["meta"]["total"] == sends

    # What repeats was in flight at a kill, and has the same id for the receiver.
    arrived = arrivals(receiver)
    repeated = {delivery for delivery, count in arrived.items() if count > 1}
    print(f"in flight at the kills: {len(cut_off)}, arrived more than once: {len(repeated)}")
    assert cut_off
    assert repeated <= {delivery for delivery, _ in cut_off}
    assert sum(arrived.values()) - sends <= len(cut_off)
    ids = {(one.json()["data"]["delivery_id"], one.headers["webhook-id"]) for one in receiver.requests}
    assert len(ids) == sends

    # The log tells of each attempt that was cut off: unknown, unless its outcome was kept before the kill.
    kept = {
        (delivery, number): outcome
        for delivery, number, outcome in service.rows("SELECT delivery_id, number, outcome FROM attempts")
        if (delivery, number) in cut_off
    }
    assert set(kept) == cut_off
    assert set(kept.values()) <= {"unknown", "delivered"}
    for delivery in repeated:
        assert any(kept.get((delivery, number)) == "unknown" for number in range(1, 10)), delivery
    unknown = [delivery for (delivery, _), outcome in kept.items() if outcome == "unknown"]
    assert unknown
    shown = client.delivery(unknown[0])
    assert any(one["outcome"] == "unknown" for one in shown["attempts"])
    assert any("may have arrived" in one["text"] for one in shown["events"])
    # And the totals that the lists show still are what the rows say.
    assert dict(service.rows("SELECT what, sum(n) FROM totals WHERE what < 100 GROUP BY what HAVING sum(n) != 0")) == {1: sends}


@both_stores
def test_sigterm_under_load_ends_in_order_and_nothing_arrives_twice(start_service: Starter, receiver: Receiver) -> None:
    receiver.answer("/hook", 200, delay=0.3)
    service = start_service()
    client = service.first()
    for _ in range(HANDLERS):
        client.add_handler("webhook", webhook=receiver.url("/hook"))
    sends = 600
    with sending(client, sends) as senders:
        senders.wait(sends // 4)
        senders.down()
        code = service.terminate(14)
        arrived_before = len(receiver.requests)
        assert code == 0
        assert not in_flight(service)
        assert '"event":"stopped"' in service.log()
        told = dict(service.rows("SELECT outcome, count(*) FROM attempts GROUP BY outcome"))
        assert told == {"delivered": arrived_before}  # all that were in flight have ended, and their ends are kept
        receiver.forget("/hook")
        senders.up(service.start().port)
    until(nothing_waits(client), 40, "deliveries still wait")
    assert len(senders.accepted) == sends
    arrived = Counter(one.json()["data"]["id"] for one in receiver.requests)
    assert set(arrived) == set(senders.accepted.values())
    assert set(arrived.values()) == {1}


def test_sigterm_does_not_wait_for_ever_for_a_hanging_receiver(start_service: Starter, receiver: Receiver) -> None:
    receiver.answer("/hangs", 200, how="hang")
    service = start_service(TOCSIN_RETRY_SCHEDULE="1h")
    client = service.first()
    notification = client.send("Hello", handlers=[client.add_handler("webhook", webhook=receiver.url("/hangs"))])
    receiver.wait(1)
    assert service.terminate(14) == 0
    [(outcome, response)] = service.rows("SELECT outcome, response FROM attempts")
    assert outcome == "unknown", response
    client.port = service.start().port
    [delivery] = client.deliveries(notification)
    assert (delivery["status"], delivery["attempt_count"]) == ("pending", 1)


@both_stores
def test_what_was_cut_off_ends_where_unknown_means_stop(start_service: Starter, receiver: Receiver) -> None:
    receiver.answer("/hook", 200, hold=True)
    service = start_service(TOCSIN_UNKNOWN="stop")
    client = service.first()
    handlers = [client.add_handler("webhook", webhook=receiver.url("/hook")) for _ in range(3)]
    notification = client.send("Hello", handlers=handlers)
    receiver.wait(3)
    service.kill()
    receiver.release()
    client.port = service.start().port
    for delivery in client.settled(notification):
        assert (delivery["status"], delivery["attempt_count"]) == ("failed", 1)
        assert [(one["outcome"], one["reason"]) for one in delivery["attempts"]] == [("unknown", "unknown")]
        assert client.handler(delivery["notification_handler_id"])["is_enabled"] is True
    assert len(receiver.requests) == 3


def test_a_stop_leaves_what_had_not_gone_out_as_it_was(start_service: Starter, mail_server: MailServer) -> None:
    """Four mails hang behind their last dot; two more wait for a connection, and surely have not arrived."""
    mail_server.answer("final", *[HANG] * 4)
    before = len(mail_server.mails)  # of other tests
    service = start_service(TOCSIN_SMTP_URL=mail_server.url(), TOCSIN_EMAIL_FROM="alarm@example.com", TOCSIN_UNKNOWN="stop")
    client = service.first()
    notification = client.send("six mails", handlers=[client.add_handler("email", email=f"root{number}@nas") for number in range(6)])
    until(lambda: len(mail_server.mails) == before + 4, what="four mails did not come")
    assert service.terminate(14) == 0
    found = service.rows("SELECT status, attempt_count, (SELECT count(*) FROM attempts WHERE delivery_id = deliveries.id) FROM deliveries")
    assert sorted(found) == [(0, 0, 0)] * 2 + [(2, 1, 1)] * 4
    client.port = service.start().port
    until(lambda: len(mail_server.mails) == before + 6, what="the two others did not come")
    assert sorted(one["status"] for one in client.settled(notification)) == ["delivered"] * 2 + ["failed"] * 4


def test_a_mail_that_was_cut_off_waits_at_least_five_minutes(start_service: Starter, mail_server: MailServer) -> None:
    mail_server.answer("final", HANG)
    before = len(mail_server.mails)  # of other tests
    service = start_service(TOCSIN_SMTP_URL=mail_server.url(), TOCSIN_EMAIL_FROM="alarm@example.com", TOCSIN_RETRY_SCHEDULE="0.1s,0.1s")
    client = service.first()
    notification = client.send("cut off here", handlers=[client.add_handler("email", email="root@nas")])
    until(lambda: len(mail_server.mails) > before, what="the mail did not come")
    service.kill()
    client.port = service.start().port
    delivery = client.attempted(notification)
    assert (delivery["status"], delivery["attempts"][0]["outcome"]) == ("pending", "unknown")
    waits = datetime.fromisoformat(delivery["next_attempt_datetime"]) - datetime.now(UTC).replace(tzinfo=None)
    assert timedelta(seconds=270) < waits < timedelta(seconds=370)


@sqlite_only
@pytest.mark.parametrize("full_for", ["tocsin.db-wal", "service.log"])
def test_a_full_disk_is_said_and_survived(start_service: Starter, receiver: Receiver, full_for: str) -> None:
    """By a limit on the size of files. The service's log is shorter than the store's: where that one is full, both are."""
    receiver.answer("/held", 200, hold=True)
    service = start_service()
    client = service.first()
    hook, held = (client.add_handler("webhook", webhook=receiver.url(path)) for path in ("/hook", "/held"))
    before = client.send("before", handlers=[held])
    receiver.wait(1)
    [full] = service.folder.rglob(full_for)
    service.limit_files(full.stat().st_size)
    for _ in range(2):
        refused = client.post("/api/notifications", {"message": "while it is full", "handlers": [hook]})
        assert (refused.status, refused.codes()) == (503, [("busy", None)])
        assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/healthz").status == 200
        assert client.get("/api/notifications").json["meta"]["total"] == 1  # reading goes on
        receiver.release()  # what arrives meanwhile cannot be written down yet
    if full_for != "service.log":
        until(lambda: "settle.waits" in service.log(), what="the outcome was kept in spite of it")

    service.limit_files(-1)
    assert [one["status"] for one in client.settled(before)] == ["delivered"]
    assert [one["status"] for one in client.settled(client.send("after", handlers=[hook]))] == ["delivered"]
    assert [one.json()["data"]["message"] for one in receiver.requests] == ["before", "after"]
    assert service.terminate() == 0


def pending_over_an_outage(service: Service, client: Client, handler: int, minutes: int) -> None:
    """Kill it, and let all that waits have been due for so long."""
    service.kill()
    back = minutes * 60_000_000
    due = "UPDATE deliveries SET due_at = created_at - ?, first_due_at = created_at - ? WHERE handler_id = ? AND status = 0"
    assert service.change(due, back, back, handler)
    client.port = service.start().port


def test_late_is_said_after_an_outage_and_kept(start_service: Starter, receiver: Receiver) -> None:
    receiver.answer("/slack", 500)
    receiver.answer("/slack", 200)
    service = start_service(TOCSIN_RETRY_SCHEDULE="0.2s,0.2s")
    client = service.first()
    handler = client.add_handler("slack", slack=receiver.url("/slack"))
    notification = client.send("Hello", handlers=[handler], send_at=in_an_hour())
    pending_over_an_outage(service, client, handler, 10)
    [delivery] = client.settled(notification)
    assert delivery["status"] == "delivered"
    first, second = receiver.requests
    assert "Late: this was meant for " in first.json()["text"]
    assert first.body == second.body
    in_time = client.send("Hello", handlers=[handler])
    client.settled(in_time)
    assert "Late" not in receiver.requests[-1].json()["text"]


@both_stores
def test_after_an_outage_critical_ones_go_first_and_the_oldest_first_among_equals(start_service: Starter, receiver: Receiver) -> None:
    service = start_service()
    client = service.first()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    severities = ["info", "critical", "warning", "success"] * 10
    for number, severity in enumerate(severities):
        client.send(f"{number}", handlers=[handler], severity=severity, send_at=in_an_hour())
    receiver.answer("/hook", 200, delay=0.05)
    pending_over_an_outage(service, client, handler, 1)
    until(nothing_waits(client))
    began = dict(service.rows("SELECT delivery_id, at FROM attempts"))
    in_order = sorted(began, key=lambda delivery: (severities[delivery - 1] != "critical", delivery))
    # A process that follows the clock of a server may find that it was a little ahead, between two starts.
    correction = SECOND // 10 if "TOCSIN_DATABASE_URL" in service.environ else 0
    early = [one for n, one in enumerate(in_order) if any(began[one] + correction < began[before] for before in in_order[:n])]
    assert (len(began), early) == (len(severities), [])


def test_an_attempt_whose_outcome_was_kept_is_not_counted_again_after_a_crash(start_service: Starter, receiver: Receiver) -> None:
    """The process died between the outcome's commit and the ledger's erasure: only what was not kept became unknown."""
    receiver.answer("/hook", 500)
    service = start_service(TOCSIN_RETRY_SCHEDULE="1h")
    client = service.first()
    notification = client.send("Hello", handlers=[client.add_handler("webhook", webhook=receiver.url("/hook"))])
    before = client.attempted(notification)
    assert service.terminate(14) == 0
    with (service.data / "in-flight").open("r+b") as ledger:
        ledger.write(struct.pack("<qqq", before["id"], 1, 1))
    client.port = service.start().port
    assert client.delivery(before["id"]) == before
    assert not in_flight(service)


@postgresql_only
def test_what_was_in_flight_says_so_though_the_server_lost_its_claim(start_service: Starter, receiver: Receiver) -> None:
    """Claims do not wait for the disk: if the server is killed, too, the last ones are lost, and only the service's own file tells."""
    receiver.answer("/hook", 200, hold=True)
    service = start_service(TOCSIN_RETRY_SCHEDULE="0.1s")
    client = service.first()
    notification = client.send("Hello", handlers=[client.add_handler("webhook", webhook=receiver.url("/hook"))])
    receiver.wait(1)
    service.kill()
    receiver.release()
    assert service.change("DELETE FROM claims") == 1
    client.port = service.start().port
    [delivery] = client.settled(notification, 30)
    assert [one["outcome"] for one in client.delivery(delivery["id"])["attempts"]] == ["unknown", "delivered"]
    assert len(receiver.requests) == 2


def cancels(client: Client, notification: int, handler: int) -> None:
    assert client.delete(f"/api/notifications/{notification}").data["cancelled"] == 1


def pauses(client: Client, notification: int, handler: int) -> None:
    client.change(handler, is_enabled="false")


def deletes(client: Client, notification: int, handler: int) -> None:
    assert client.delete(f"/api/notification-handlers/{handler}").status < 300


@pytest.mark.parametrize(
    ("unknown", "ends", "status"),
    [
        ("retry", cancels, "cancelled"),
        ("stop", cancels, "cancelled"),
        ("retry", pauses, "skipped"),
        ("retry", deletes, "cancelled"),
    ],
)
def test_what_was_in_flight_is_kept_as_unknown_whatever_became_of_it_meanwhile(
    start_service: Starter, receiver: Receiver, unknown: str, ends: Callable[[Client, int, int], None], status: str
) -> None:
    receiver.answer("/hook", 200, hold=True)
    service = start_service(TOCSIN_UNKNOWN=unknown)
    client = service.first()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    notification = client.send("Hello", handlers=[handler])
    receiver.wait(1)
    ends(client, notification, handler)
    service.kill()
    receiver.release()
    client.port = service.start().port
    [row] = client.deliveries(notification)
    delivery = until(lambda: (found := client.delivery(row["id"]))["attempt_count"] and found, what="nothing was recorded")
    assert (delivery["status"], delivery["attempt_count"]) == (status, 1)
    assert [one["outcome"] for one in delivery["attempts"]] == ["unknown"]
    assert service.rows("SELECT number, next_at FROM attempts") == [(1, None)]
    assert "It may have arrived" in " ".join(one["text"] for one in delivery["events"])
    assert service.rows("SELECT may_have_arrived, last_attempt_at > 0 FROM deliveries") == [(1, 1)]
    assert service.rows("SELECT failures FROM handlers") == [(0,)]
    assert dict(service.rows("SELECT what, sum(n) FROM totals WHERE what < 100 GROUP BY what HAVING sum(n) != 0")) == {
        service.rows("SELECT status FROM deliveries")[0][0]: 1
    }
    assert not in_flight(service)

    if ends is not deletes:  # the replay is a second attempt, under the id that lets its receiver drop it
        client.change(handler, is_enabled="true")
        assert client.post(f"/api/deliveries/{row['id']}/retry").status < 300
        [delivery] = client.settled(notification)
        assert (delivery["status"], [one["outcome"] for one in delivery["attempts"]]) == ("delivered", ["unknown", "delivered"])
        first, second = receiver.requests
        assert first.headers["webhook-id"] == second.headers["webhook-id"]


@both_stores
@pytest.mark.parametrize("unknown", ["retry", "stop"])
def test_what_was_in_flight_before_a_replay_says_nothing_of_it(start_service: Starter, receiver: Receiver, unknown: str) -> None:
    """Its log has the lost attempt; what its owner asked for since goes out at once all the same."""
    receiver.answer("/hook", 200, hold=True)
    service = start_service(TOCSIN_UNKNOWN=unknown, TOCSIN_RETRY_SCHEDULE="1h")
    client = service.first()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    notification = client.send("Hello", handlers=[handler])
    receiver.wait(1)
    cancels(client, notification, handler)
    [row] = client.deliveries(notification)
    assert client.post(f"/api/deliveries/{row['id']}/retry").data == {"retried": 1}
    service.kill()
    receiver.release()
    client.port = service.start().port
    [delivery] = client.settled(notification)
    assert (delivery["status"], [one["outcome"] for one in delivery["attempts"]]) == ("delivered", ["unknown", "delivered"])
    assert not in_flight(service)


def test_what_was_in_flight_and_is_gone_from_the_store_keeps_nobody_from_starting(start_service: Starter, receiver: Receiver) -> None:
    receiver.answer("/hook", 200, hold=True)
    service = start_service()
    client = service.first()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    client.send("Hello", handlers=[handler])
    receiver.wait(1)
    service.kill()
    receiver.release()
    service.change("DELETE FROM deliveries")
    service.change("DELETE FROM notifications")
    client.port = service.start().port
    assert not in_flight(service)
    assert client.settled(client.send("again", handlers=[handler]))[0]["status"] == "delivered"


def test_an_entry_that_fits_no_row_says_nothing(start_service: Starter, receiver: Receiver) -> None:
    """A damaged file: numbers that no attempt can have, times that no clock had."""
    service = start_service()
    client = service.first()
    [delivery] = client.settled(client.send("Hello", handlers=[client.add_handler("webhook", webhook=receiver.url("/hook"))]))
    later = client.send("later", handlers=[delivery["notification_handler_id"]], send_at=in_an_hour())
    [waits] = client.deliveries(later)
    service.kill()
    entries = [(delivery["id"], 2, 5), (delivery["id"], 1, 5), (waits["id"], 7, 5), (waits["id"], -1, 5), (2**62, 1, 2**62)]
    (service.data / "in-flight").write_bytes(b"".join(struct.pack("<qqq", *entry) for entry in entries) + b"torn")
    client.port = service.start().port
    assert client.delivery(delivery["id"]) == delivery
    assert client.delivery(waits["id"])["attempts"] == []


def test_a_replay_of_a_mail_that_may_have_arrived_waits_five_minutes_too(start_service: Starter, mail_server: MailServer) -> None:
    mail_server.answer("final", HANG)
    before = len(mail_server.mails)  # of other tests
    service = start_service(TOCSIN_SMTP_URL=mail_server.url(), TOCSIN_EMAIL_FROM="alarm@example.com")
    client = service.first()
    handler = client.add_handler("email", email="root@nas")
    notification = client.send("cancelled here", handlers=[handler])
    until(lambda: len(mail_server.mails) > before, what="the mail did not come")
    cancels(client, notification, handler)
    service.kill()
    client.port = service.start().port
    [row] = client.deliveries(notification)
    assert client.post(f"/api/deliveries/{row['id']}/retry").status < 300

    def wait() -> timedelta:
        due = datetime.fromisoformat(client.delivery(row["id"])["next_attempt_datetime"])
        return due - datetime.now(UTC).replace(tzinfo=None)

    until(lambda: timedelta(seconds=200) < wait() < timedelta(seconds=301), what="it does not wait")
    assert len(mail_server.mails) == before + 1


def test_xs_duplicate_refusal_of_a_replay_after_a_kill_is_an_arrival(start_service: Starter, receiver: Receiver) -> None:
    receiver.answer("/2/tweets", 201, hold=True)
    receiver.answer("/2/tweets", 403, body=b'{"detail":"You are not allowed to create a Tweet with duplicate content.","status":403}')
    service = start_service(TOCSIN_X_API_URL=receiver.url(""))
    client = service.first()
    handler = client.add_handler("x", x_consumer_key="k", x_consumer_secret="s", x_access_token="1-t", x_access_token_secret="t")
    notification = client.send("Hello", handlers=[handler])
    receiver.wait(1)
    cancels(client, notification, handler)
    service.kill()
    receiver.release()
    client.port = service.start().port
    [row] = client.deliveries(notification)
    assert client.post(f"/api/deliveries/{row['id']}/retry").status < 300
    [delivery] = client.settled(notification)
    assert (delivery["status"], [one["outcome"] for one in delivery["attempts"]]) == ("delivered", ["unknown", "delivered"])
