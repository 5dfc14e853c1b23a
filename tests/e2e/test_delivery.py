"""What becomes of a delivery: retries, refusals, lost answers, times, changes underneath. Against real receivers."""

import itertools
import json
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from e2e.conftest import Starter
from e2e.service import Client, OwnedClient, Service, in_an_hour, until
from e2e.stores import any_processes, both_stores
from mailserver import MailServer
from receiver import Receiver

pytestmark = any_processes
_numbers = itertools.count(1)
TWEETS = "/2/tweets"


def in_seconds(seconds: float) -> str:
    """A moment from now, in RFC 3339 with an offset that is not UTC's."""
    return (datetime.now(UTC) + timedelta(seconds=seconds, hours=9)).isoformat(timespec="milliseconds").replace("+00:00", "+09:00")


def outcomes(delivery: Any) -> list[tuple[str, str, int | None]]:
    return [(one["outcome"], one["reason"], one["status_code"]) for one in delivery["attempts"]]


def webhook(client: Client, receiver: Receiver, path: str = "/hook", name: str = "Example") -> int:
    return client.add_handler("webhook", name, webhook=receiver.url(path))


def bot() -> str:
    return f"{next(_numbers)}:AAbbCCddEEffGGhhIIjjKKllMMnnOOppQQr"


def bot_path(token: str) -> str:
    return f"/bot{token}/sendMessage"


def account(client: Client) -> tuple[int, str]:
    """An X handler and its access token."""
    token = f"{next(_numbers)}-t0kenOfTheAccount"
    keys = {"x_consumer_key": "k3yOfTheApp", "x_consumer_secret": "s3cretOfTheApp", "x_access_token_secret": "s3cretOfTheToken"}
    return client.add_handler("x", x_access_token=token, **keys), token


def posts(providers: Receiver, token: str) -> list[str]:
    """The texts that an X account posted."""
    return [one.json()["text"] for one in providers.requests if f'oauth_token="{token}"' in one.headers.get("authorization", "")]


# ---------------------------------------------------------------------------------------------------------- retries


@both_stores
def test_one_that_waits_for_its_retry_ends_when_it_expires(start_service: Starter, receiver: Receiver) -> None:
    client = start_service(TOCSIN_RETRY_SCHEDULE="1h").first()
    receiver.answer("/hook", 500)
    [delivery] = client.settled(client.send("Hello", handlers=[webhook(client, receiver)], expires_at=in_seconds(1.5)))
    assert delivery["status"] == "expired"
    assert len(receiver.requests) == 1


@both_stores
def test_what_waits_behind_a_pause_of_its_handler_ends_when_it_expires(start_service: Starter, receiver: Receiver) -> None:
    client = start_service().first()
    receiver.answer("/hook", 429, headers={"Retry-After": "3600"})
    handler = webhook(client, receiver)
    first = client.send("asked to wait an hour", handlers=[handler], expires_at=in_seconds(2))
    until(lambda: client.deliveries(first)[0]["attempt_count"])
    behind = [client.send(f"never tried {number}", handlers=[handler], expires_at=in_seconds(2)) for number in range(3)]
    lasting = client.send("waits on", handlers=[handler], expires_at=in_seconds(7200))
    for one in (first, *behind):
        [delivery] = client.settled(one)
        assert delivery["status"] == "expired"
    [delivery] = client.deliveries(lasting)
    assert (delivery["status"], delivery["attempt_count"]) == ("pending", 0)
    assert len(receiver.requests) == 1


@both_stores
def test_what_waits_behind_attempts_that_hang_ends_when_it_expires(start_service: Starter, receiver: Receiver) -> None:
    client = start_service().first()
    for _ in range(20):
        receiver.answer("/hook", hold=True)
    handler = webhook(client, receiver)
    hanging = [client.send(f"no answer {number}", handlers=[handler]) for number in range(20)]
    receiver.wait(1)
    [delivery] = client.settled(client.send("behind them", handlers=[handler], expires_at=in_seconds(1)))
    assert (delivery["status"], delivery["attempt_count"]) == ("expired", 0)
    receiver.release()
    assert {client.settled(one)[0]["status"] for one in hanging} == {"delivered"}


def test_a_long_message_goes_on_with_the_part_that_is_missing(client: OwnedClient, providers: Receiver) -> None:
    token = bot()
    yes = b'{"ok": true, "result": {"message_id": 1}}'
    providers.answer(bot_path(token), 200, body=yes)
    providers.answer(bot_path(token), 500)
    providers.answer(bot_path(token), 200, body=yes)
    handler = client.add_handler("telegram", telegram=token, telegram_chat_id="42")
    [delivery] = client.settled(client.send("word " * 2000, title="Log", handlers=[handler]))

    texts = [one.json()["text"] for one in providers.requests if one.path == bot_path(token)]
    assert [text.partition("\n")[0] for text in texts] == [f"<b>ℹ️ Log ({part}/3)</b>" for part in (1, 2, 2, 3)]
    assert texts[1] == texts[2]
    assert sum(text.count("word") for text in (texts[0], *texts[2:])) == 2000
    assert outcomes(delivery) == [("later", "server_error", 500), ("delivered", "ok", 200)]


PAYLOAD_REFUSALS = {
    "telegram": (400, b'{"ok": false, "error_code": 400, "description": "Bad Request: can\'t parse entities: byte offset 7"}'),
    "slack": (400, b"invalid_blocks"),
    "discord": (400, b'{"code": 50035, "message": "Invalid Form Body"}'),
    "microsoft_teams": (413, b"too large"),
    "google_chat": (400, b"<html>something new</html>"),
}
YES = b'{"ok": true, "result": {"message_id": 1}}'


def refusing(client: OwnedClient, providers: Receiver, receiver: Receiver, kind: str) -> tuple[int, Receiver, str]:
    """A handler of that type with the receiver behind it and its path there."""
    if kind == "telegram":
        token = bot()
        return client.add_handler("telegram", telegram=token, telegram_chat_id="42"), providers, bot_path(token)
    return client.add_handler(kind, **{kind: receiver.url("/hook")}), receiver, "/hook"


@both_stores
@pytest.mark.parametrize("kind", PAYLOAD_REFUSALS)
def test_a_refused_payload_arrives_as_plain_text(
    client: OwnedClient, service: Service, providers: Receiver, receiver: Receiver, kind: str
) -> None:
    handler, there, path = refusing(client, providers, receiver, kind)
    status, refusal = PAYLOAD_REFUSALS[kind]
    there.answer(path, status, body=refusal)
    there.answer(path, 200, body=YES)
    [delivery] = client.settled(client.send("**Bold** & [a link](https://example.com/x)", title="Disk", handlers=[handler]))

    native, plain = (one.body.decode() for one in there.requests if one.path == path)
    assert native != plain
    assert all(word in plain for word in ("Disk", "Bold", "https://example.com/x"))
    assert not any(mark in plain for mark in ("<b>", "parse_mode", "blocks", "**Bold**"))
    assert delivery["status"] == "delivered"
    assert outcomes(delivery) == [("delivered", "plain", 200)]
    assert refusal.decode() in delivery["attempts"][0]["response"]
    assert any("as plain text, because the provider refused its native form" in one["text"] for one in delivery["events"])
    assert f'tocsin_attempts_total{{outcome="delivered",reason="plain",type="{kind}"}}' in client.get("/metrics").content.decode()
    until(lambda: "payload.refused" in service.log(), what="it was not logged")


def test_only_the_refused_part_and_those_behind_it_go_out_as_plain_text(client: OwnedClient, providers: Receiver) -> None:
    token = bot()
    providers.answer(bot_path(token), 200, body=YES)
    status, refusal = PAYLOAD_REFUSALS["telegram"]
    providers.answer(bot_path(token), status, body=refusal)
    providers.answer(bot_path(token), 200, body=YES)
    handler = client.add_handler("telegram", telegram=token, telegram_chat_id="42")
    [delivery] = client.settled(client.send("**word** " * 2000, title="Log", handlers=[handler]))

    bodies = [one.json() for one in providers.requests if one.path == bot_path(token)]
    assert ["parse_mode" in body for body in bodies] == [True, True, False, False]
    assert [body["text"].partition("\n")[0].strip("<b>/") for body in bodies] == [f"ℹ️ Log ({part}/3)" for part in (1, 2, 2, 3)]
    assert sum(bodies[index]["text"].count("word") for index in (0, 2, 3)) == 2000
    assert outcomes(delivery) == [("delivered", "plain", 200)]


def test_what_is_refused_as_plain_text_too_has_failed_and_harms_no_handler(client: OwnedClient, receiver: Receiver) -> None:
    receiver.answer("/hook", 400, body=b"invalid_blocks")
    handler = client.add_handler("slack", slack=receiver.url("/hook"))
    [delivery] = client.settled(client.send("**Bold**", handlers=[handler]))
    assert (delivery["status"], len(receiver.requests)) == ("failed", 2)
    assert outcomes(delivery) == [("refused", "payload", 400)]
    assert client.handler(handler)["is_enabled"] is True


UNKNOWN = {
    "telegram": b'{"ok": false, "error_code": 400, "description": "Bad Request: SOMETHING_NEW"}',
    "discord": b'{"embeds": ["0"]}',
    "slack": b"something_new",
    "microsoft_teams": b"",
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_refusal_that_nobody_knows_gets_one_try_in_the_plainest_form(
    client: OwnedClient, providers: Receiver, receiver: Receiver, kind: str
) -> None:
    handler, there, path = refusing(client, providers, receiver, kind)
    there.answer(path, 400, body=UNKNOWN[kind])
    there.answer(path, 200, body=YES)
    [delivery] = client.settled(client.send("**Bold**", handlers=[handler]))
    assert outcomes(delivery) == [("delivered", "plain", 200)]
    assert len([one for one in there.requests if one.path == path]) == 2


def test_what_is_refused_in_every_form_for_an_unknown_reason_counts_against_the_handler(client: OwnedClient, receiver: Receiver) -> None:
    receiver.answer("/hook", 400, body=b"something_new")
    handler = client.add_handler("slack", slack=receiver.url("/hook"))
    [delivery] = client.settled(client.send("**Bold**", handlers=[handler]))
    assert (delivery["status"], len(receiver.requests)) == ("failed", 2)
    assert outcomes(delivery) == [("refused", "rejected", 400)]
    assert client.get(f"/api/notification-handlers/{handler}/stats").json["data"]["health"]["failures"] == 1


def test_a_plain_text_that_has_to_wait_is_tried_again(client: OwnedClient, receiver: Receiver) -> None:
    """The next attempt begins with the native form again: by then it may be taken."""
    receiver.answer("/hook", 400, body=b"invalid_blocks")
    receiver.answer("/hook", 500)
    receiver.answer("/hook", 200, body=b"ok")
    [delivery] = client.settled(client.send("**Bold**", handlers=[client.add_handler("slack", slack=receiver.url("/hook"))]))
    assert outcomes(delivery) == [("later", "server_error", 500), ("delivered", "ok", 200)]
    assert ["blocks" in one.json() for one in receiver.requests] == [True, False, True]


def test_a_mail_whose_form_is_refused_goes_out_without_html(client: OwnedClient, mail_server: MailServer) -> None:
    mail_server.answer("final", "554 5.6.0 no HTML here")
    [delivery] = client.settled(client.send("**Bold**", title="Disk", handlers=[client.add_handler("email", email="me@example.com")]))
    assert outcomes(delivery)[0][:2] == ("delivered", "plain")
    assert b"text/html" not in mail_server.mails[-1].content


def test_a_preview_is_what_is_sent_and_sends_nothing(client: OwnedClient, providers: Receiver, receiver: Receiver) -> None:
    token = bot()
    telegram = client.add_handler("telegram", telegram=token, telegram_chat_id="42")
    slack = client.add_handler("slack", slack=receiver.url("/hook"))
    body = {"message": "# Head\n" + "**word** " * 2000, "title": "Log", "severity": "critical", "fields": {"host": "db-1"}}
    seen = {handler: client.post(f"/api/notification-handlers/{handler}/preview", body).data for handler in (telegram, slack)}
    assert not [one for one in providers.requests if one.path == bot_path(token)]
    assert not receiver.requests

    receiver.answer("/hook", 200, body=b"ok")
    providers.answer(bot_path(token), 200, body=YES)
    client.settled(client.send(body.pop("message"), **body, handlers=[telegram, slack]))
    sent = [one.body.decode() for one in providers.requests if one.path == bot_path(token)]
    assert [part["request"].partition("\n\n")[2] for part in seen[telegram]["parts"]] == sent
    assert len(sent) == 3
    assert [part["request"].partition("\n\n")[2] for part in seen[slack]["parts"]] == [one.body.decode() for one in receiver.requests]
    assert seen[telegram]["changes"] == [
        "The message goes out in 3 parts.",
        "There are 2,001 links and other marks, more than can be shown here: the links are written out, the other marks left out.",
        "Heading becomes bold text.",
    ]
    assert all(size["size"] <= size["limit"] for part in seen[telegram]["parts"] for size in part["sizes"])
    assert token.partition(":")[2] not in str(seen)


def test_a_server_error_is_retried_on_the_schedule_with_the_same_id(client: OwnedClient, receiver: Receiver) -> None:
    receiver.answer("/hook", 500, body=b"oops")
    receiver.answer("/hook", 502)
    receiver.answer("/hook", 204, body=b"")
    [delivery] = client.settled(client.send("Hello", handlers=[webhook(client, receiver)]))

    assert (delivery["status"], delivery["attempt_count"], delivery["last_error"]) == ("delivered", 3, None)
    assert outcomes(delivery) == [("later", "server_error", 500), ("later", "server_error", 502), ("delivered", "ok", 204)]
    assert [one["number"] for one in delivery["attempts"]] == [1, 2, 3]
    assert delivery["attempts"][0]["response"] == "oops"
    first, second, third = receiver.requests
    assert len({one.headers["webhook-id"] for one in receiver.requests}) == 1
    assert second.at - first.at >= 0.2 and third.at - second.at >= 0.4
    assert client.handler(delivery["notification_handler_id"])["last_datetime"] is not None


def test_when_the_schedule_has_run_out_it_failed_and_can_be_sent_again(client: OwnedClient, receiver: Receiver) -> None:
    receiver.answer("/hook", 500)
    notification = client.send("Hello", handlers=[webhook(client, receiver)])
    [delivery] = client.settled(notification)
    assert (delivery["status"], delivery["attempt_count"]) == ("failed", 3)
    assert delivery["last_error"].startswith("server_error")
    assert client.handler(delivery["notification_handler_id"])["is_enabled"] is True

    receiver.forget("/hook")
    assert client.post(f"/api/deliveries/{delivery['id']}/retry").data == {"retried": 1}
    [delivery] = client.settled(notification)
    assert (delivery["status"], delivery["attempt_count"]) == ("delivered", 4)
    assert len({one.headers["webhook-id"] for one in receiver.requests}) == 1
    assert client.post(f"/api/deliveries/{delivery['id']}/retry").data == {"retried": 0}


def test_a_throttle_waits_as_long_as_asked_and_uses_up_no_step(client: OwnedClient, receiver: Receiver) -> None:
    for status, headers in ((429, {"Retry-After": "1"}), (500, {}), (503, {"Retry-After": "1"}), (500, {}), (200, {})):
        receiver.answer("/hook", status, headers=headers)
    [delivery] = client.settled(client.send("Hello", handlers=[webhook(client, receiver)]))
    assert delivery["status"] == "delivered"  # with two steps in the schedule: the throttles took none
    assert [one["reason"] for one in delivery["attempts"]] == ["throttled", "server_error", "throttled", "server_error", "ok"]
    at = [one.at for one in receiver.requests]
    assert at[1] - at[0] >= 1.0 and at[3] - at[2] >= 1.0


def test_a_throttle_pauses_the_whole_handler_and_no_other(client: OwnedClient, receiver: Receiver) -> None:
    receiver.answer("/busy", 429, headers={"Retry-After": "1"})
    receiver.answer("/busy", 200)
    busy, free = webhook(client, receiver, "/busy"), webhook(client, receiver, "/free")
    first = client.send("1", handlers=[busy])
    client.attempted(first)
    others = [client.send("2", handlers=[busy, free]) for _ in range(3)]
    for one in (first, *others):
        assert {delivery["status"] for delivery in client.settled(one)} == {"delivered"}
    throttled, *later = [one.at for one in receiver.requests if one.path == "/busy"]
    assert min(later) - throttled >= 1.0
    assert max(one.at for one in receiver.requests if one.path == "/free") < min(later)


def test_a_throttle_of_more_than_a_day_is_a_failure(client: OwnedClient, receiver: Receiver) -> None:
    receiver.answer("/hook", 429, headers={"Retry-After": "90000"})
    [delivery] = client.settled(client.send("Hello", handlers=[webhook(client, receiver)]))
    assert (delivery["status"], delivery["attempt_count"]) == ("failed", 1)
    assert delivery["last_error"].startswith("throttled_too_long")


def test_a_wait_of_more_than_a_day_holds_back_what_waits_behind_it(client: OwnedClient, receiver: Receiver) -> None:
    receiver.answer("/hook", 429, headers={"Retry-After": "90000"})
    handler = webhook(client, receiver)
    [first] = client.settled(client.send("first", handlers=[handler]))
    assert first["last_error"].startswith("throttled_too_long")
    others = [client.send(f"message {number}", handlers=[handler]) for number in range(20)]
    client.settled(client.send("beside it", handlers=[webhook(client, receiver, "/free")]))
    for [delivery] in map(client.deliveries, others):
        assert (delivery["status"], delivery["attempt_count"]) == ("pending", 0)
    [last] = client.deliveries(others[-1])
    assert "asked for a pause" in client.delivery(last["id"])["events"][-1]["text"]
    assert [one.path for one in receiver.requests].count("/hook") == 1


def test_a_permanent_refusal_is_not_retried_and_leaves_the_handler_on(client: OwnedClient, receiver: Receiver) -> None:
    receiver.answer(
        "/api/webhooks/1/t", 400, body=b'{"code": 220001, "message": "Webhooks posted to forum channels must have a thread_name"}'
    )
    handler = client.add_handler("discord", discord=receiver.url("/api/webhooks/1/t"))
    [delivery] = client.settled(client.send("Hello", handlers=[handler]))
    assert (delivery["status"], outcomes(delivery)) == ("failed", [("refused", "settings", 400)])
    assert client.handler(handler)["is_enabled"] is True
    assert len(receiver.requests) == 1


# ------------------------------------------------------------------------------------------------ a handler that is gone


def test_gone_switches_the_handler_off_ends_what_waits_and_tells_the_owner(client: OwnedClient, receiver: Receiver) -> None:
    receiver.answer("/dead", 410)
    dead, witness = webhook(client, receiver, "/dead", "The dead one"), webhook(client, receiver, "/witness")
    waiting = client.send("later", handlers=[dead], send_at=in_an_hour())
    gone = client.send("now", handlers=[dead])

    [delivery] = client.settled(gone)
    assert (delivery["status"], outcomes(delivery)) == ("failed", [("gone", "gone", 410)])
    [ended] = client.settled(waiting)
    assert (ended["status"], ended["attempts"]) == ("failed", [])
    assert any("switched off" in event["text"] for event in ended["events"])
    assert ended["last_error"].startswith("handler_disabled: The target is gone.")
    found = client.get(f"/api/deliveries?search=handler_disabled&notification_handler_id={dead}").data
    assert [one["id"] for one in found] == [ended["id"]]
    assert client.handler(dead)["is_enabled"] is False

    told = [one for one in receiver.wait(2) if one.path == "/witness"]
    assert [one.json()["type"] for one in told] == ["handler.disabled"]
    assert "The dead one" in told[0].json()["data"]["title"]
    [listed] = client.get(f"/api/deliveries?notification_handler_id={witness}").data
    assert listed["status"] == "delivered" or client.settled(listed["notification_id"])[0]["status"] == "delivered"

    named = client.send("for a handler that is off", handlers=[dead, witness])
    assert {one["notification_handler_id"]: one["status"] for one in client.settled(named)} == {dead: "skipped", witness: "delivered"}

    receiver.forget("/dead")
    client.change(dead, is_enabled="1")
    reply = client.post(f"/api/deliveries/retry?notification_handler_id={dead}&status=failed")
    assert (reply.status, reply.data) == (202, {"retried": 2})
    assert [client.settled(one)[0]["status"] for one in (gone, waiting)] == ["delivered", "delivered"]
    assert sum(one.path == "/dead" for one in receiver.requests) == 3
    assert [one.json()["type"] for one in receiver.requests if one.path == "/witness"] == ["handler.disabled", "notification"]


def test_many_attempts_that_find_the_handler_gone_tell_the_owner_once(client: OwnedClient, receiver: Receiver) -> None:
    receiver.answer("/dead", 410, hold=True)
    dead = webhook(client, receiver, "/dead")
    webhook(client, receiver, "/witness")
    sent = [client.send(str(number), handlers=[dead]) for number in range(12)]
    receiver.wait(2)  # at the same time
    receiver.release()
    assert {client.settled(one)[0]["status"] for one in sent} == {"failed"}
    until(lambda: any(one.path == "/witness" for one in receiver.requests), what="the owner was not told")
    last = client.send("after all that")
    client.settled(last)
    assert [one.json()["type"] for one in receiver.requests if one.path == "/witness"] == ["handler.disabled", "notification"]


def test_nothing_more_goes_to_a_handler_that_is_being_switched_off(client: OwnedClient, receiver: Receiver) -> None:
    receiver.answer("/dead", 410)
    dead = webhook(client, receiver, "/dead")
    reply = client.post(
        "/api/notifications/batch", {"notifications": [{"message": str(number), "handlers": [dead]} for number in range(50)]}
    )
    assert {client.settled(one["id"])[0]["status"] for one in reply.data} == {"failed"}
    assert len(receiver.requests) <= 2, "more than were on their way when the first answer came"


def test_strangers_are_not_told_of_a_dead_handler(client: OwnedClient, receiver: Receiver, providers: Receiver) -> None:
    providers.forget(TWEETS)
    receiver.answer("/dead", 410)
    private, public = bot(), bot()
    for token in (private, public):
        providers.answer(bot_path(token), 200, body=b'{"ok":true,"result":{"message_id":5}}')
    client.add_handler("telegram", telegram=public, telegram_chat_id="@everybody")
    _, x_token = account(client)
    paused = webhook(client, receiver, "/paused")
    client.change(paused, is_enabled="0")
    client.add_handler("telegram", telegram=private, telegram_chat_id="4711")
    client.settled(client.send("now", handlers=[webhook(client, receiver, "/dead")]))
    told = until(lambda: [one for one in providers.requests if one.path == bot_path(private)], what="the owner was not told")
    assert "Handler switched off" in told[0].json()["text"]
    [newest] = client.get("/api/notifications?results_per_page=10").data[:1]
    assert newest["title"].startswith("Handler switched off")
    assert [one["status"] for one in client.settled(newest["id"])] == ["delivered"]
    assert not [one for one in providers.requests if one.path == bot_path(public)] and not posts(providers, x_token)


# ---------------------------------------------------------------------------------------------------- lost answers


@pytest.mark.parametrize("how", ["close", "reset", "cut_headers"])
def test_a_lost_answer_is_unknown_and_retried_with_the_same_id(client: OwnedClient, receiver: Receiver, how: str) -> None:
    receiver.answer("/hook", 200, how=how)
    receiver.answer("/hook", 200)
    [delivery] = client.settled(client.send("Hello", handlers=[webhook(client, receiver)]))
    assert delivery["status"] == "delivered"
    assert [one[0] for one in outcomes(delivery)] == ["unknown", "delivered"]
    assert len(receiver.requests) == 2
    assert len({one.headers["webhook-id"] for one in receiver.requests}) == 1
    assert receiver.requests[0].body == receiver.requests[1].body


def test_unknown_ends_it_where_the_operator_wants_so(strict_service: Service, providers: Receiver) -> None:
    client, token = strict_service.client(), bot()
    providers.answer(bot_path(token), 200, how="close")
    handler = client.add_handler("telegram", telegram=token, telegram_chat_id="7")
    [delivery] = client.settled(client.send("Hello", handlers=[handler]))
    assert (delivery["status"], [one["outcome"] for one in delivery["attempts"]]) == ("failed", ["unknown"])
    assert delivery["last_error"].startswith("unknown")
    assert client.handler(handler)["is_enabled"] is True


# ------------------------------------------------------------------------------------------------------------ times


def test_what_has_expired_is_not_tried_again(client: OwnedClient, receiver: Receiver) -> None:
    receiver.answer("/hook", 429, headers={"Retry-After": "2"})
    [delivery] = client.settled(client.send("Hello", handlers=[webhook(client, receiver)], expires_at=in_seconds(1)))
    assert delivery["status"] == "expired"
    assert len(receiver.requests) <= 1

    receiver.forget("/hook")
    assert client.post(f"/api/deliveries/{delivery['id']}/retry").data == {"retried": 1}
    assert client.settled(delivery["notification_id"])[0]["status"] == "delivered"


def test_what_expired_while_nothing_ran_keeps_its_record_from_then_on(start_service: Starter, receiver: Receiver) -> None:
    """However long ago it was due: retention counts from its end."""
    service = start_service()
    client = service.first()
    notification = client.send("Hello", handlers=[webhook(client, receiver)], send_at=in_seconds(3600), expires_at=in_seconds(7200))
    service.kill()
    service.change("UPDATE deliveries SET due_at = 1, first_due_at = 1")
    service.change("UPDATE notifications SET expires_at = 2")
    started = time.time()
    client.port = service.start().port
    assert client.settled(notification)[0]["status"] == "expired"
    assert service.rows("SELECT due_at >= ? FROM deliveries", int(started * 1e6)) == [(1,)]


def test_send_at_is_waited_for(client: OwnedClient, receiver: Receiver) -> None:
    before = time.time()
    notification = client.send("Hello", handlers=[webhook(client, receiver)], send_at=in_seconds(1.5))
    [waiting] = client.deliveries(notification)
    assert (waiting["status"], waiting["attempt_count"]) == ("pending", 0)
    assert waiting["next_attempt_datetime"] is not None
    [request] = receiver.wait(1)
    assert int(request.headers["webhook-timestamp"]) >= int(before + 1.4)
    assert client.settled(notification)[0]["status"] == "delivered"


def test_cancelling_ends_what_waits(client: OwnedClient, receiver: Receiver) -> None:
    handlers = [webhook(client, receiver, "/a"), webhook(client, receiver, "/b")]
    notification = client.send("never", handlers=handlers, send_at=in_seconds(1))
    assert client.delete(f"/api/notifications/{notification}").data == {"id": notification, "cancelled": 2}
    assert client.delete(f"/api/notifications/{notification}").data == {"id": notification, "cancelled": 0}
    assert {one["status"] for one in client.settled(notification)} == {"cancelled"}
    client.settled(client.send("after it would have been due", handlers=handlers, send_at=in_seconds(1.2)))
    assert {one.json()["data"]["message"] for one in receiver.requests} == {"after it would have been due"}


def test_what_is_in_memory_is_cancelled_too(client: OwnedClient, receiver: Receiver) -> None:
    receiver.answer("/hook", 200, hold=True)
    handler = webhook(client, receiver)
    first = client.send("1", handlers=[handler])
    receiver.wait(1)
    sent = [client.send("2", handlers=[handler]) for _ in range(20)]
    cancelled = sum(client.delete(f"/api/notifications/{one}").data["cancelled"] for one in sent)
    receiver.release()
    statuses = [client.settled(one)[0]["status"] for one in (first, *sent)]
    assert cancelled == 20
    # What was in flight when it was cancelled has arrived all the same, and is said to have.
    assert statuses.count("delivered") == len(receiver.requests) <= 8
    assert statuses.count("cancelled") == 21 - len(receiver.requests)


# ------------------------------------------------------------------------------------------------ changes underneath


def test_pausing_skips_what_waits_and_it_can_be_replayed(client: OwnedClient, receiver: Receiver) -> None:
    handler = webhook(client, receiver)
    notification = client.send("Hello", handlers=[handler], send_at=in_an_hour())
    client.change(handler, is_enabled="off")
    assert client.settled(notification)[0]["status"] == "skipped"
    named = client.send("while paused", handlers=[handler])
    assert client.settled(named)[0]["status"] == "skipped"
    assert client.post("/api/notifications", {"message": "to all"}).codes() == [("no_handlers", "handlers")]

    client.change(handler, is_enabled="yes")
    assert client.post(f"/api/deliveries/retry?notification_handler_id={handler}&status=skipped").data == {"retried": 2}
    assert {client.settled(one)[0]["status"] for one in (notification, named)} == {"delivered"}


def test_deleting_cancels_what_waits_and_keeps_the_history(client: OwnedClient, receiver: Receiver, service: Service) -> None:
    handler = webhook(client, receiver)
    arrived = client.send("1", handlers=[handler])
    client.settled(arrived)
    waiting = client.send("2", handlers=[handler], send_at=in_an_hour())
    reply = client.delete(f"/api/notification-handlers/{handler}")
    assert (reply.status, reply.content) == (200, b"")
    assert client.settled(waiting)[0]["status"] == "cancelled"
    assert client.settled(arrived)[0]["status"] == "delivered"
    assert client.get(f"/api/notification-handlers/{handler}").status == 404
    assert service.rows("SELECT settings, secret FROM handlers WHERE id = ?", handler) == [(None, None)]
    assert client.post(f"/api/deliveries/retry?notification_handler_id={handler}").data == {"retried": 0}


def test_a_retry_uses_the_settings_of_its_own_time(client: OwnedClient, receiver: Receiver) -> None:
    receiver.answer("/old", 429, headers={"Retry-After": "1"})
    handler = webhook(client, receiver, "/old")
    notification = client.send("Hello", handlers=[handler])
    client.attempted(notification)
    client.change(handler, webhook=receiver.url("/new"))
    assert client.settled(notification)[0]["status"] == "delivered"
    assert [one.path for one in receiver.requests] == ["/old", "/new"]


def test_a_moved_telegram_group_is_followed(client: OwnedClient, providers: Receiver) -> None:
    token = bot()
    moved = {"ok": False, "error_code": 400, "description": "Bad Request: group chat was upgraded to a supergroup chat"}
    providers.answer(bot_path(token), 400, body=json.dumps({**moved, "parameters": {"migrate_to_chat_id": -1001234567890}}).encode())
    providers.answer(bot_path(token), 200, body=b'{"ok":true,"result":{"message_id":5}}')
    handler = client.add_handler("telegram", telegram=token, telegram_chat_id="-4711")
    [delivery] = client.settled(client.send("Hello", handlers=[handler]))
    assert (delivery["status"], [one["outcome"] for one in delivery["attempts"]]) == ("delivered", ["moved", "delivered"])
    assert client.handler(handler)["settings"] == {"telegram": token, "telegram_chat_id": "-1001234567890"}
    sent = [one.json()["chat_id"] for one in providers.requests if one.path == bot_path(token)]
    assert sent == [-4711, -1001234567890]


def test_more_than_one_goes_out_at_a_time_right_after_another_process_changed_something(
    client: OwnedClient, receiver: Receiver, service: Service
) -> None:
    handler = webhook(client, receiver)
    client.settled(client.send("it answers", handlers=[handler]))
    with service.admin() as admin:
        key = admin.add_key(client.email, "short-lived", ("deliveries:read",))
        other = OwnedClient(service.port, key, client.email)
        assert other.get("/api/notifications").status == 200
        keys = admin.keys()
        admin.revoke_key(next(str(one.id) for one in keys if (one.email, one.name) == (client.email, "short-lived")))
    until(lambda: other.get("/api/notifications").status == 401, what="the revoked key is still taken")

    receiver.answer("/hook", hold=True)
    receiver.answer("/hook", hold=True)
    both = client.post("/api/notifications/batch", {"notifications": [{"message": text, "handlers": [handler]} for text in ("1", "2")]})
    receiver.wait(3)  # the second before the first is answered
    receiver.release()
    assert [client.settled(one["id"])[0]["status"] for one in both.data] == ["delivered", "delivered"]


# ----------------------------------------------------------------------------------------------- accepting, order


def test_a_batch_is_accepted_wholly_or_not_at_all(client: OwnedClient, receiver: Receiver) -> None:
    handler = webhook(client, receiver)
    good = [{"message": f"number {number}", "handlers": [handler]} for number in range(50)]
    refused = client.post("/api/notifications/batch", {"notifications": [*good, {"message": "bad", "handlers": [handler, 10**9]}]})
    assert (refused.status, refused.codes()) == (422, [("unknown_handler", "notifications[50].handlers")])
    assert client.get("/api/notifications").json["meta"]["total"] == 0
    accepted = client.post("/api/notifications/batch", {"notifications": good})
    assert accepted.status == 202
    ids = [one["id"] for one in accepted.data]
    received = {one.json()["data"]["id"]: one.json()["data"]["message"] for one in receiver.wait(50)}
    assert received == {number: good[index]["message"] for index, number in enumerate(ids)}
    assert len(receiver.requests) == 50


def test_a_repeated_request_is_answered_as_before_although_it_has_expired(start_service: Starter, receiver: Receiver) -> None:
    client = start_service().first()
    one = {"message": "once", "handlers": [webhook(client, receiver)], "expires_at": in_seconds(0.5)}
    for path, content in (("/api/notifications", one), ("/api/notifications/batch", {"notifications": [one]})):
        content = json.loads(json.dumps(content).replace(one["expires_at"], in_seconds(0.5)))
        first = client.post(path, content, Idempotency_Key="the same")
        assert first.status == 202
        until(lambda content=content, path=path: client.post(path, content).status == 422)
        assert client.post(path, content, Idempotency_Key="the same").json == first.json
        assert client.post(path, content, Idempotency_Key="another").status == 422


def test_an_idempotency_key_holds_over_a_kill(start_service: Starter, receiver: Receiver) -> None:
    service = start_service()
    client = service.client()
    handler = webhook(client, receiver)
    content = {"message": "once", "handlers": [handler]}
    first = client.post("/api/notifications", content, Idempotency_Key="the same")
    client.settled(first.data["id"])
    service.kill()

    client.port = service.start().port
    assert client.post("/api/notifications", content, Idempotency_Key="the same").json == first.json
    form = {"message": "once", "handlers": str(handler)}
    by_form = client("POST", "/api/notifications", form=form, headers={"Idempotency-Key": "the same"})
    assert (by_form.status, by_form.json) == (202, first.json)
    other = client.post("/api/notifications", {**content, "message": "twice"}, Idempotency_Key="the same")
    assert (other.status, [code for code, _ in other.codes()]) == (422, ["idempotency_mismatch"])
    client.settled(client.send("after", handlers=[handler]))
    assert [one.json()["data"]["message"] for one in receiver.requests] == ["once", "after"]


def test_first_attempts_start_in_accepted_order(client: OwnedClient, receiver: Receiver, service: Service) -> None:
    receiver.answer("/hook", 200, delay=0.002)
    handler = webhook(client, receiver)
    sent = [client.send(f"{number}", handlers=[handler]) for number in range(200)]
    arrived = [one.json()["data"]["id"] for one in receiver.wait(200, 20)]
    assert sorted(arrived) == sent
    until(lambda: client.get(f"/api/deliveries?notification_handler_id={handler}&status=pending").json["meta"]["total"] == 0)
    rows = service.rows("SELECT d.id, a.at FROM deliveries d JOIN attempts a ON a.delivery_id = d.id WHERE handler_id = ?", handler)
    assert [at for _, at in sorted(rows)] == sorted(at for _, at in rows)


@pytest.mark.parametrize(("words", "bells"), [(500, "\U0001f514" * 3), (1800, "")], ids=["two-parts", "rendered-apart"])
def test_long_messages_to_one_handler_are_not_shuffled(client: OwnedClient, receiver: Receiver, words: int, bells: str) -> None:
    """Each is sent whole before the next begins, however long its rendering takes, and a short one does not overtake them."""
    handler = client.add_handler("discord", discord=receiver.url("/api/webhooks/1/long"))
    receiver.answer("/api/webhooks/1/long", 204, body=b"", delay=0.05)
    texts = [" ".join([f"{letter}{number:03}{bells}" for number in range(words)]) for letter in "ABC"]
    batch = [{"message": text, "handlers": [handler]} for text in [*texts, "D000"]]
    assert client.post("/api/notifications/batch", {"notifications": batch}).status == 202
    until(lambda: client.get(f"/api/deliveries?notification_handler_id={handler}&status=delivered").json["meta"]["total"] == 4, 60)
    arrived = [re.findall(r"([A-D])\d{3}", one.json()["embeds"][0]["description"]) for one in receiver.requests]
    assert all(len(set(letters)) == 1 for letters in arrived)
    order = "".join(letters[0] for letters in arrived)
    assert re.fullmatch("A{2,}B{2,}C{2,}D", order), order


def test_a_hanging_handler_holds_up_no_other(client: OwnedClient, receiver: Receiver) -> None:
    receiver.answer("/hangs", 200, hold=True)
    hangs, works = webhook(client, receiver, "/hangs"), webhook(client, receiver, "/works")
    sent = [client.send(str(number)) for number in range(40)]

    def arrived(handler: int) -> int:
        return client.get(f"/api/deliveries?notification_handler_id={handler}&status=delivered").json["meta"]["total"]

    until(lambda: arrived(works) == 40)
    assert arrived(hangs) == 0
    receiver.release()
    assert {one["status"] for each in sent for one in client.settled(each)} == {"delivered"}


# -------------------------------------------------------------------------------------------------------- test sends


def test_a_test_send_leaves_no_trace(client: OwnedClient, receiver: Receiver) -> None:
    handler = webhook(client, receiver, "/saved/s3cret-path")
    saved = client.post(f"/api/notification-handlers/{handler}/test")
    assert saved.status == 200
    assert list(saved.data) == ["status", "reason", "duration_ms", "request", "response", "hint"]
    assert (saved.data["status"], saved.data["reason"], saved.data["response"]) == ("delivered", "ok", "ok")
    draft = {"name": "Draft", "type": "webhook", "webhook": receiver.url("/draft/s3cret-path")}
    drafted = client("POST", "/api/notification-handlers/test", form=draft)
    assert (drafted.status, drafted.data["status"]) == (200, "delivered")
    assert b"s3cret-path" not in saved.content + drafted.content

    assert [one.path for one in receiver.requests] == ["/saved/s3cret-path", "/draft/s3cret-path"]
    assert {one.json()["type"] for one in receiver.requests} == {"test"}
    assert client.get("/api/notifications").data == client.get("/api/deliveries").data == []
    listed = client.get("/api/notification-handlers").data
    assert [(one["id"], one["last_datetime"]) for one in listed] == [(handler, None)]


def test_a_test_send_that_fails_says_why_and_harms_nothing(client: OwnedClient, receiver: Receiver) -> None:
    receiver.answer("/hook", 410, body=b"no more")
    handler = webhook(client, receiver)
    trial = client.post(f"/api/notification-handlers/{handler}/test").data
    assert (trial["status"], trial["reason"], trial["response"]) == ("failed", "gone", "no more")
    assert trial["hint"]
    assert client.handler(handler)["is_enabled"] is True
    receiver.forget("/hook")
    receiver.answer("/hook", 200, how="close")
    assert client.post(f"/api/notification-handlers/{handler}/test").data["status"] == "unknown"


# --------------------------------------------------------------------------------------------------------- our side


def test_a_private_address_is_blocked_and_the_handler_stays_on(strict_service: Service, receiver: Receiver) -> None:
    client = strict_service.client()
    handler = webhook(client, receiver)
    [delivery] = client.settled(client.send("Hello", handlers=[handler]))
    assert (delivery["status"], outcomes(delivery)) == ("failed", [("refused", "blocked", None)])
    assert client.handler(handler)["is_enabled"] is True
    trial = client.post(f"/api/notification-handlers/{handler}/test").data
    assert (trial["status"], trial["reason"]) == ("failed", "blocked")
    assert "TOCSIN_ALLOW_NETWORKS" in trial["hint"]
    assert receiver.connections == 0


def test_the_services_own_address_stays_closed(service: Service, client: OwnedClient) -> None:
    handler = client.add_handler("webhook", webhook=f"http://127.0.0.1:{service.port}/api/notifications")
    [delivery] = client.settled(client.send("Hello", handlers=[handler]))
    assert (delivery["status"], outcomes(delivery)) == ("failed", [("refused", "blocked", None)])


def test_the_daily_budget_of_an_x_account_is_kept(strict_service: Service, providers: Receiver) -> None:
    providers.forget(TWEETS)
    providers.answer(TWEETS, 201, body=b'{"data":{"id":"1","text":"t"}}')
    client = strict_service.client()
    handler, token = account(client)
    deliveries = [client.settled(client.send(f"number {number}", handlers=[handler]))[0] for number in range(3)]
    assert [one["status"] for one in deliveries] == ["delivered", "delivered", "failed"]
    assert deliveries[2]["last_error"].startswith("budget")
    assert posts(providers, token) == ["number 0", "number 1"]
    assert client.handler(handler)["is_enabled"] is True


def test_a_repeated_text_gets_a_suffix_that_its_retries_keep(client: OwnedClient, providers: Receiver) -> None:
    providers.forget(TWEETS)
    for status in (201, 500, 500, 201):
        providers.answer(TWEETS, status, body=b'{"data":{"id":"1","text":"t"}}')
    handler, token = account(client)
    for _ in range(2):
        [delivery] = client.settled(client.send("the same", handlers=[handler]))
        assert delivery["status"] == "delivered"
    first, *repeats = posts(providers, token)
    assert first == "the same"
    assert len(repeats) == 3 and len(set(repeats)) == 1
    assert re.fullmatch(r"the same \(\d\d:\d\d:\d\d\)", repeats[0])


def test_xs_duplicate_refusal_after_a_lost_answer_is_an_arrival(client: OwnedClient, providers: Receiver) -> None:
    providers.forget(TWEETS)
    providers.answer(TWEETS, 201, how="close")
    providers.answer(TWEETS, 403, body=b'{"detail":"You are not allowed to create a Tweet with duplicate content.","status":403}')
    handler, token = account(client)
    [delivery] = client.settled(client.send("Hello", handlers=[handler]))
    assert (delivery["status"], [one["outcome"] for one in delivery["attempts"]]) == ("delivered", ["unknown", "delivered"])
    assert len(posts(providers, token)) == 2 and len(set(posts(providers, token))) == 1


@both_stores
def test_mail_waits_for_a_mail_server(start_service: Starter, mail_server: MailServer) -> None:
    service = start_service(TOCSIN_RETRY_SCHEDULE="3s,3s,3s")
    until(lambda: "TOCSIN_SMTP_URL" in service.log(), what="it was not logged")
    client = service.client()
    handler = client.add_handler("email", email="root@nas")
    notification = client.send("Hello after all", handlers=[handler])
    delivery = client.attempted(notification)
    assert delivery["status"] == "pending"
    assert delivery["last_error"].startswith("mail_not_configured")
    trial = client.post(f"/api/notification-handlers/{handler}/test").data
    assert (trial["status"], trial["reason"]) == ("failed", "mail_not_configured")
    assert "TOCSIN_SMTP_URL" in trial["hint"]

    assert service.terminate() == 0
    service.environ |= {"TOCSIN_SMTP_URL": mail_server.url(), "TOCSIN_EMAIL_FROM": "alarm@example.com"}
    before = len(mail_server.mails)  # of the run before, on the other store
    client.port = service.start().port
    [delivery] = client.settled(notification)
    assert delivery["status"] == "delivered"
    assert sum(b"Hello after all" in one.content for one in mail_server.mails[before:]) == 1


def test_another_user_sees_and_reaches_nothing(client: OwnedClient, service: Service, receiver: Receiver) -> None:
    handler = webhook(client, receiver)
    notification = client.send("mine", handlers=[handler])
    [delivery] = client.settled(notification)
    stranger = service.client()
    assert [stranger.get(path).data for path in ("/api/notification-handlers", "/api/notifications", "/api/deliveries")] == [[], [], []]
    paths = [f"/api/notification-handlers/{handler}", f"/api/notifications/{notification}", f"/api/deliveries/{delivery['id']}"]
    assert {stranger.get(path).status for path in paths} == {404}
    refused = stranger.post("/api/notifications", {"message": "to a stranger's", "handlers": [handler]})
    assert (refused.status, refused.codes()) == (422, [("unknown_handler", "handlers")])
    assert {stranger.delete(path).status for path in paths[:2]} == {404}
    assert [stranger.post(f"{path}/{verb}").status for path, verb in ((paths[0], "test"), (paths[2], "retry"))] == [404, 404]
    assert stranger.post(f"/api/deliveries/retry?notification_handler_id={handler}").data == {"retried": 0}
    assert len(receiver.requests) == 1
