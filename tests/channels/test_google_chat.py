"""Google Chat: cards that fit, HTML that is only ours, and what its answers mean."""

import asyncio
import json
import re

import pytest
from hypothesis import given

from receiver import Receiver
from tocsin import settings as options
from tocsin.channels.contract import fields_of
from tocsin.channels.google_chat import CHANNEL, MAX_HEADER, GoogleChatSettings
from tocsin.model import Delivered, Gone, HttpReply, HttpRequest, Later, Message, NoReply, Outcome, Reason, Refused, Severity, Unknown
from tocsin.net.http import HttpWire
from wild import AT, SECRET_TOKEN, context, messages

SAMPLES = [
    {"google_chat": f"https://chat.googleapis.com/v1/spaces/AAAAabcdef/messages?key={SECRET_TOKEN}&token={SECRET_TOKEN}%3D"},
    {"google_chat": f"https://relay.example.com/chat/{SECRET_TOKEN}"},
]
URL = "https://chat.googleapis.com/v1/spaces/AAAAabcdef/messages?key=k-12345678&token=t-12345678%3D"
HANDLER = GoogleChatSettings(URL)
FIELD = fields_of(GoogleChatSettings)["google_chat"]
FULL = Message(
    "**db-1** has `2 %` left\n\n- [the board](https://example.com/d?a=1&b=2)\n- <b>call</b>",
    "Disk is full",
    Severity.CRITICAL,
    "https://example.com/x",
    (("host", "db-1"), ("free", "< 2 %")),
    AT,
)
TAGS = {"b", "i", "s", "a", "br"}


def fits(request: HttpRequest) -> None:
    assert len(request.body) <= 32_000
    [card] = json.loads(request.body)["cardsV2"]
    [section] = card["card"]["sections"]
    assert 1 <= len(section["widgets"]) <= 100


def message_of(request: HttpRequest) -> str:
    return widgets_of(json.loads(request.body))[0]["textParagraph"]["text"]


def widgets_of(body: dict) -> list[dict]:
    return body["cardsV2"][0]["card"]["sections"][0]["widgets"]


def bodies_of(message: Message, **changes: object) -> list[dict]:
    return [json.loads(request.body) for request in CHANNEL.render(message, HANDLER, context(**changes))]


def answered(status: int, body: object = b"", **headers: str) -> Outcome:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return CHANNEL.classify(HttpReply(status, headers, content), context())


# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("value", [URL, URL + "&threadKey=alarms", "https://relay.example.com/x", "http://10.0.0.1:8080/chat"])
def test_webhooks_and_relays_are_taken(value: str):
    assert FIELD.check(value) is None


@pytest.mark.parametrize(
    "value",
    [
        URL.replace("https", "http"),
        URL.partition("?")[0],
        URL.replace("token", "tokem"),
        "https://chat.googleapis.com/v1/spaces//messages?key=k&token=t",
        "https://chat.googleapis.com./v1/rooms/A/messages?key=k&token=t",
        "chat.googleapis.com",
    ],
)
def test_what_is_not_a_webhook_of_googles_is_refused(value: str):
    assert FIELD.check(value)


def test_the_space_is_shown_and_key_and_token_are_not():
    hidden = FIELD.hide(URL)
    assert hidden.shown == "https://chat.googleapis.com/v1/spaces/AAAAabcdef/••••"
    assert {"k-12345678", "t-12345678%3D", "t-12345678="} <= set(hidden.secrets)
    assert CHANNEL.target(HANDLER) == "Google Chat spaces/AAAAabcdef"


def test_webhooks_of_one_space_share_its_pace():
    other = GoogleChatSettings(URL.replace("12345678", "99999999"))
    (mine, space), (theirs, same_space) = (CHANNEL.paces(handler, options.load({})) for handler in (HANDLER, other))
    assert mine.key != theirs.key
    assert space == same_space


# -------------------------------------------------------------------------------------------------------------- render


def test_the_whole_message_is_a_card():
    [body] = bodies_of(FULL)
    assert body["fallbackText"] == "🚨 Disk is full: db-1 has 2 % left - the board (https://example.com/d?a=1&b=2) - <b>call</b>"
    [card] = body["cardsV2"]
    assert card["card"]["header"] == {"title": "🚨 Disk is full"}
    assert widgets_of(body) == [
        {
            "textParagraph": {
                "text": "<b>db-1</b> has 2 % left<br><br>"
                '• <a href="https://example.com/d?a=1&amp;b=2">the board</a><br>• &lt;b&gt;call&lt;/b&gt;'
            }
        },
        {"decoratedText": {"topLabel": "host", "text": "db-1", "wrapText": True}},
        {"decoratedText": {"topLabel": "free", "text": "&lt; 2 %", "wrapText": True}},
        {"buttonList": {"buttons": [{"text": "Open", "onClick": {"openLink": {"url": "https://example.com/x"}}}]}},
    ]


def test_a_long_title_stands_whole_in_the_card():
    short, long = bodies_of(Message("x", "T" * (MAX_HEADER - 3), at=AT))[0], bodies_of(Message("x", "T" * MAX_HEADER, at=AT))[0]
    assert "header" in short["cardsV2"][0]["card"]
    assert "header" not in long["cardsV2"][0]["card"]
    assert widgets_of(long)[0]["textParagraph"]["text"] == f"<b>ℹ️ {'T' * MAX_HEADER}</b>"


def test_code_keeps_its_spaces():
    [body] = bodies_of(Message("```\nif a:\n    b  = 1\n```", at=AT))
    assert widgets_of(body)[0]["textParagraph"]["text"] == "if a:<br>\u00a0\u00a0\u00a0\u00a0b\u00a0\u00a0= 1"


def test_a_late_one_says_for_when_it_was_meant():
    assert (
        widgets_of(bodies_of(FULL, meant_for=AT)[0])[0]["textParagraph"]["text"]
        == "<i>Late: this was meant for 2026-11-24 10:00:00 UTC</i>"
    )


def test_long_messages_go_out_in_numbered_cards():
    bodies = bodies_of(Message("word " * 10_000, "T", url="https://example.com/x", at=AT))
    titles = [body["cardsV2"][0]["card"]["header"]["title"] for body in bodies]
    assert titles == [f"ℹ️ T ({index + 1}/{len(bodies)})" for index in range(len(bodies))]
    assert len(bodies) >= 2
    assert sum(widgets_of(body)[0]["textParagraph"]["text"].count("word") for body in bodies) == 10_000
    assert ["buttonList" in widgets_of(body)[-1] for body in bodies] == [False] * (len(bodies) - 1) + [True]


@given(message=messages)
def test_anything_makes_sound_html(message: Message):
    for body in bodies_of(message, meant_for=AT):
        for widget in widgets_of(body):
            text = widget.get("textParagraph", widget.get("decoratedText", {})).get("text", "")
            open_tags: list[str] = []
            for closing, tag in re.findall(r"<(/?)([a-z]+)", text):
                assert tag in TAGS
                if closing:
                    assert open_tags.pop() == tag
                elif tag != "br":
                    open_tags.append(tag)
            assert not open_tags
            assert not re.search(r"&(?!(?:amp|lt|gt|quot|#x27);)", text)


# ------------------------------------------------------------------------------------------------------------ classify


def test_the_name_of_the_message_is_kept():
    assert answered(200, {"name": "spaces/AAAA/messages/b.c"}) == Delivered("spaces/AAAA/messages/b.c")
    assert answered(200, b"ok") == Delivered()


@pytest.mark.parametrize(
    ("body", "is_official", "expected"),
    [
        (b"<!doctype html><title>Sign in to this network</title>", True, Later),
        (b"", True, Unknown),
        (b"ok", True, Unknown),
        (b"<html>", False, Delivered),
        (b'{"error": {"code": 503, "status": "UNAVAILABLE"}}', True, Later),
        (b'{"error": {"code": 503, "status": "UNAVAILABLE"}}', False, Later),
    ],
)
def test_a_2xx_without_a_message(body: bytes, is_official: bool, expected: type):
    outcome = CHANNEL.classify(HttpReply(200, {}, body), context(is_official=is_official))
    assert isinstance(outcome, expected)
    assert isinstance(outcome, Delivered) or outcome.reason is Reason.BAD_ANSWER


OPTION = "messageReplyOption=REPLY_MESSAGE_FALLBACK_TO_NEW_THREAD"
OFFICIAL_URL = "https://chat.googleapis.com/v1/spaces/AAAA/messages?key=abcdefgh&token=ijklmnop"

OWN_OPTION = f"{OFFICIAL_URL}&messageReplyOption=REPLY_MESSAGE_OR_FAIL&threadKey=ops"


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        (OFFICIAL_URL, OFFICIAL_URL),
        (f"{OFFICIAL_URL}&threadKey=ops", f"{OFFICIAL_URL}&threadKey=ops&{OPTION}"),
        (f"{OFFICIAL_URL}&threadKey=ops&{OPTION}", f"{OFFICIAL_URL}&threadKey=ops&{OPTION}"),
        (OWN_OPTION, OWN_OPTION),
        ("https://proxy.example.com/x?threadKey=ops", "https://proxy.example.com/x?threadKey=ops"),
    ],
)
def test_a_thread_key_goes_with_the_option_that_makes_it_count(url: str, sent: str):
    (request,) = CHANNEL.render(Message("m"), GoogleChatSettings(url), context())
    assert request.url == sent


def error(code: int, status: str, message: str) -> dict:
    return {"error": {"code": code, "status": status, "message": message}}


@pytest.mark.parametrize(
    ("status", "body", "reason", "ours"),
    [
        (400, error(400, "INVALID_ARGUMENT", "Invalid JSON payload received."), Reason.PAYLOAD, True),
        (400, error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."), Reason.UNAUTHORIZED, False),
        (400, b"<html>", Reason.PAYLOAD, True),
        (401, error(401, "UNAUTHENTICATED", "no"), Reason.UNAUTHORIZED, False),
        (403, error(403, "PERMISSION_DENIED", "no"), Reason.FORBIDDEN, False),
        (404, b"<html>", Reason.REJECTED, False),
        (413, b"", Reason.TOO_LARGE, True),
    ],
)
def test_refusals(status: int, body: object, reason: Reason, ours: bool):
    outcome = answered(status, body)
    assert isinstance(outcome, Refused)
    assert (outcome.reason, outcome.ours) == (reason, ours)


def test_a_space_that_is_gone_switches_the_handler_off():
    assert isinstance(answered(404, error(404, "NOT_FOUND", "Space not found")), Gone)


def test_throttles_and_errors_of_the_server_wait():
    throttled = answered(429, error(429, "RESOURCE_EXHAUSTED", "Quota exceeded"), **{"retry-after": "9"})
    assert isinstance(throttled, Later)
    assert (throttled.reason, throttled.wait_seconds, throttled.counts) == (Reason.THROTTLED, 9.0, False)
    assert isinstance(answered(503, error(503, "UNAVAILABLE", "later")), Later)
    assert isinstance(CHANNEL.no_reply(NoReply(Reason.CUT, sent=True)), Unknown)


def test_it_arrives():
    with Receiver() as receiver:
        receiver.answer("/v1/spaces/AAAA/messages", 200, body=b'{"name": "spaces/AAAA/messages/x"}')
        handler = GoogleChatSettings(receiver.url("/v1/spaces/AAAA/messages?key=k&token=t%3D"))
        service = options.load({"TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8"})

        async def send() -> Outcome:
            wire = HttpWire(service, list)
            try:
                [request] = CHANNEL.render(FULL, handler, context(service=service))
                return CHANNEL.classify(await wire.send(request), context())
            finally:
                await wire.close()

        assert asyncio.run(send()) == Delivered("spaces/AAAA/messages/x")
        [request] = receiver.requests
        assert request.query == "key=k&token=t%3D"
        assert request.headers["content-type"] == "application/json; charset=utf-8"
        assert request.json() == bodies_of(FULL)[0]
