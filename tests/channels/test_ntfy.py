"""ntfy: readable text within 4,096 bytes, priorities, links, and what its answers mean."""

import asyncio
import json

import msgspec
import pytest

from receiver import Receiver
from tocsin import settings as options
from tocsin.channels.contract import fields_of
from tocsin.channels.ntfy import CHANNEL, NtfySettings
from tocsin.model import Delivered, HttpReply, HttpRequest, Later, Message, NoReply, Outcome, Reason, Refused, Severity, Unknown
from tocsin.net.http import HttpWire
from wild import AT, SECRET_TOKEN, context

TK = "tk_AgQdq7mVBoFD37zQVN29RhuMzNIz2"
SAMPLES = [
    {"ntfy": f"https://ntfy.sh/{SECRET_TOKEN}"},
    {"ntfy": f"http://:tk_{SECRET_TOKEN}@nas.example.com:8080/push/{SECRET_TOKEN}"},
]
HANDLER = NtfySettings("https://ntfy.sh/alarms-of-mine")
FIELD = fields_of(NtfySettings)["ntfy"]
FULL = Message(
    "**db-1** has `2 %` left\n\n- [the board](https://example.com/d)\n- call",
    "Disk is full",
    Severity.CRITICAL,
    "https://example.com/x",
    (("host", "db-1"), ("free", "2 %")),
    AT,
)


def fits(request: HttpRequest) -> None:
    assert len(json.loads(request.body)["message"].encode()) < 4096
    assert len(request.body) < 8192


def message_of(request: HttpRequest) -> str:
    return json.loads(request.body)["message"]


def bodies_of(message: Message, **changes: object) -> list[dict]:
    return [json.loads(request.body) for request in CHANNEL.render(message, HANDLER, context(**changes))]


def answered(status: int, body: object = b"", **headers: str) -> Outcome:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return CHANNEL.classify(HttpReply(status, headers, content), context())


# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    "value",
    [
        "https://ntfy.sh/alarms",
        "http://nas:8080/alarms/",
        "https://user:pw@ntfy.example.com/alarms",
        "https://:tk_abc@example.com/push/alarms",
    ],
)
def test_topics_of_any_server_are_taken(value: str):
    assert FIELD.check(value) is None


@pytest.mark.parametrize(
    "value",
    [
        "https://ntfy.sh",
        "https://ntfy.sh/",
        "https://ntfy.sh/a/b",
        "https://ntfy.sh/my topic",
        "https://ntfy.sh/topic?auth=x",
        "https://ntfy.sh/topic#x",
        "https://ntfy.sh/" + "t" * 65,
        "https://ntfy.sh/알림",
        "ntfy.sh/topic",
        "ftp://ntfy.sh/topic",
    ],
)
def test_what_names_no_topic_is_refused(value: str):
    assert FIELD.check(value)


def test_topic_and_credentials_are_secret():
    hidden = FIELD.hide("https://user:pass-word@ntfy.example.com/push/alarms")
    assert hidden.shown == "https://ntfy.example.com/••••"
    assert {"alarms", "pass-word"} <= set(hidden.secrets)


def test_topics_on_the_public_server_share_its_limit_unless_an_account_is_named():
    def keys(url: str) -> list[str]:
        return [pace.key for pace in CHANNEL.paces(NtfySettings(url), options.load({}))]

    assert len(keys("https://ntfy.sh/a")) == 2
    assert keys("https://ntfy.sh/a")[1] == keys("https://ntfy.sh/b")[1]
    assert keys("https://ntfy.sh/a")[0] != keys("https://ntfy.sh/b")[0]
    assert len(keys("https://:tk_x@ntfy.sh/a")) == len(keys("https://ntfy.example.com/a")) == 1


# -------------------------------------------------------------------------------------------------------------- render


def test_the_body_is_the_documented_json():
    [request] = CHANNEL.render(FULL, HANDLER, context())
    assert (request.url, request.shown_url) == ("https://ntfy.sh/", "https://ntfy.sh/••••")
    assert json.loads(request.body) == {
        "topic": "alarms-of-mine",
        "title": "Disk is full",
        "message": "db-1 has 2 % left\n\n- the board (https://example.com/d)\n- call\n\nhost: db-1\nfree: 2 %",
        "priority": 5,
        "tags": ["rotating_light"],
        "click": "https://example.com/x",
        "actions": [{"action": "view", "label": "Open", "url": "https://example.com/x"}],
    }


@pytest.mark.parametrize(("severity", "priority"), [("info", 2), ("success", 3), ("warning", 4), ("critical", 5)])
def test_the_severity_is_a_priority(severity: str, priority: int):
    assert bodies_of(msgspec.structs.replace(FULL, severity=Severity(severity)))[0]["priority"] == priority


def test_a_server_below_a_path_is_addressed_there():
    [request] = CHANNEL.render(FULL, NtfySettings("http://nas:8080/push/alarms"), context())
    assert request.url == "http://nas:8080/push/"
    assert json.loads(request.body)["topic"] == "alarms"


def test_a_late_one_says_for_when_it_was_meant():
    assert bodies_of(FULL, meant_for=AT)[0]["message"].startswith("Late: this was meant for 2026-11-24 10:00:00 UTC\n\ndb-1")


def test_a_text_of_nothing_is_not_left_to_ntfy():
    assert bodies_of(Message("&#8203; `\u200b`", at=AT))[0]["message"] == "(no text)"
    assert bodies_of(Message("\x07", at=AT))[0]["message"] == "(no text)"


@pytest.mark.parametrize("letter", ["x", "가", "👍"])
def test_the_limit_is_in_bytes(letter: str):
    room = 4091 // len(letter.encode())
    assert len(bodies_of(Message(letter * room, at=AT))) == 1
    parts = bodies_of(Message(letter * (room + 2), "T", at=AT))
    assert [part["title"] for part in parts] == ["T (1/2)", "T (2/2)"]
    assert "".join(part["message"] for part in parts) == letter * (room + 2)


@pytest.mark.parametrize("is_plain", [False, True])
@pytest.mark.parametrize("text", ['"' * 3000, "\\\\" * 9000, 'say "no"\n' * 2000, "가" * 4000, "word " * 1500])
@pytest.mark.parametrize("url", ["", "https://example.com/" + "a" * 1969, "https://example.com/" + "가" * 2000])
def test_a_request_is_never_larger_than_the_server_takes(text: str, url: str, is_plain: bool):
    fields = (("quoted", '"x" ' * 200), ("host", "db-1"))
    requests = CHANNEL.render(Message(text, '"' * 256, url=url, fields=fields, at=AT), HANDLER, context(plain=is_plain, meant_for=AT))
    for request in requests:
        fits(request)
    assert len(requests) > 1
    assert "db-1" in message_of(requests[-1])


def test_an_address_that_is_too_long_for_a_button_is_still_a_tap_away():
    long, longer = "https://example.com/" + "a" * 2020, "https://example.com/" + "가" * 2000
    assert (set(bodies_of(Message("m", url=long))[0]) & {"click", "actions"}) == {"click"}
    [body] = bodies_of(Message("m", url=longer))
    assert not set(body) & {"click", "actions"}
    assert "https://example.com/가가" in body["message"]


def test_far_over_the_limit_the_last_part_says_what_is_missing():
    parts = bodies_of(Message("word " * 13_000, "T", fields=(("host", "v" * 1024),) * 25, at=AT))
    assert len(parts) == 5
    assert "more characters" in parts[-1]["message"]
    assert "host: vvv" in parts[-1]["message"]
    assert "host:" not in parts[0]["message"]


def test_the_plainest_form_is_the_message_alone():
    [body] = bodies_of(FULL, plain=True)
    assert set(body) == {"topic", "message"}
    assert "https://example.com/x" in body["message"]


# ------------------------------------------------------------------------------------------------------------ classify


def test_a_message_id_means_delivered():
    assert answered(200, {"id": "sPs71M8A2T", "event": "message"}) == Delivered("sPs71M8A2T")
    assert isinstance(answered(200, b"<html>welcome</html>"), Later)


@pytest.mark.parametrize(
    ("status", "code", "reason", "ours"),
    [
        (401, 40101, Reason.UNAUTHORIZED, False),
        (403, 40301, Reason.FORBIDDEN, False),
        (400, 40009, Reason.NOT_FOUND, False),
        (400, 40018, Reason.PAYLOAD, True),
        (413, 41303, Reason.TOO_LARGE, True),
    ],
)
def test_refusals(status: int, code: int, reason: Reason, ours: bool):
    outcome = answered(status, {"code": code, "http": status, "error": "no"})
    assert isinstance(outcome, Refused)
    assert (outcome.reason, outcome.ours) == (reason, ours)


@pytest.mark.parametrize("user", [f":{TK}", TK, f"{TK}:"])
def test_a_token_is_taken_wherever_it_was_put(user: str):
    (request,) = CHANNEL.render(Message("m"), NtfySettings(f"https://{user}@ntfy.example.com/t"), context())
    assert request.url == f"https://:{TK}@ntfy.example.com/"
    assert TK not in request.shown_url
    assert TK in "".join(fields_of(NtfySettings)["ntfy"].hide(f"https://{user}@ntfy.example.com/t").secrets)


def test_throttles_wait_as_asked_and_a_days_quota_until_midnight():
    assert answered(429, {"code": 42901}, **{"retry-after": "7"}) == Later(Reason.THROTTLED, 7.0, False, '429 {"code": 42901}')
    assert answered(429, {"code": 42901}).wait_seconds is None
    assert answered(429, {"code": 42908}).wait_seconds == 14 * 3600  # it is 10:00 UTC


def test_errors_of_the_server_are_tried_again():
    for status in (500, 502, 507):
        assert isinstance(answered(status, {"code": 50701}), Later)
    assert isinstance(CHANNEL.no_reply(NoReply(Reason.TIMEOUT, sent=True)), Unknown)


def test_it_arrives_with_the_credentials_in_the_header():
    with Receiver() as receiver:
        receiver.answer("/push/", 200, body=b'{"id": "abc"}')
        handler = NtfySettings(receiver.url("/push/alarms").replace("://", "://:tk_secret@"))
        service = options.load({"TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8"})

        async def send() -> Outcome:
            wire = HttpWire(service, list)
            try:
                [request] = CHANNEL.render(FULL, handler, context(service=service))
                return CHANNEL.classify(await wire.send(request), context())
            finally:
                await wire.close()

        assert asyncio.run(send()) == Delivered("abc")
        [request] = receiver.requests
        assert request.path == "/push/"
        assert request.headers["authorization"] == "Basic OnRrX3NlY3JldA=="
        assert request.json()["topic"] == "alarms"
