"""The generic webhook: body, signature (checked by the spec's own verifier), verdicts."""

import asyncio
import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from receiver import Receiver
from tocsin import settings, vault
from tocsin.channels.contract import Context, fields_of
from tocsin.channels.webhook import CHANNEL, WebhookSettings
from tocsin.model import MASK, Delivered, Gone, HttpReply, HttpRequest, Later, Message, NoReply, Reason, Refused, Severity, Unknown
from tocsin.net.http import HttpWire
from wild import SECRET_TOKEN

SAMPLES = [
    {"webhook": f"https://user:{SECRET_TOKEN}@example.com/hooks/{SECRET_TOKEN}?key={SECRET_TOKEN}"},
    {"webhook": f"http://[::1]:8080/{SECRET_TOKEN}"},
    {"webhook": f"https://{SECRET_TOKEN}:pass-word@예시.한국/{SECRET_TOKEN}#{SECRET_TOKEN}"},
    {"webhook": "https://example.com"},
    {"webhook": "https://example.com", "webhook_headers": f"Authorization: Bearer {SECRET_TOKEN}\nX-Tenant: {SECRET_TOKEN}"},
]
SERVICE = settings.load({})
AT = 1_795_514_400_123_456  # 2026-11-24 10:00:00.123456 UTC
SECRET = vault.new_signing_secret()
OLD_SECRET = vault.new_signing_secret()
HANDLER = WebhookSettings("https://user:pw-secret@example.com:8443/hooks/abcdef?key=1")
MESSAGE = Message(
    "**db-1** is\n\x07 full ✓", 'A "title"', Severity.CRITICAL, "https://example.com/a?b=c", (("host", "db-1"), ("가", "나")), AT
)


def fits(request: HttpRequest) -> None:
    assert len(request.body) < 1_000_000


def message_of(request: HttpRequest) -> str:
    return json.loads(request.body)["data"]["message"]


def context(**changes: object) -> Context:
    given = {"key": "msg_9", "handler_id": 3, "now": time.time_ns() // 1000, "service": SERVICE}
    return Context(**(given | {"notification_id": 7, "delivery_id": 9, "signing_secrets": (SECRET,)} | changes))


def verify(secret: str, request, **headers: str) -> dict:
    return Webhook(secret).verify(request.body, dict(request.headers) | headers)


def test_the_body_is_the_contracts_to_the_byte():
    (request,) = CHANNEL.render(MESSAGE, HANDLER, context())
    assert request.body.decode() == (
        '{"type":"notification","timestamp":"2026-11-24T10:00:00.123456Z","data":{"id":7,"title":"A \\"title\\"",'
        '"message":"**db-1** is\\n\\u0007 full ✓","format":"markdown","severity":"critical","url":"https://example.com/a?b=c",'
        '"fields":{"host":"db-1","가":"나"},"datetime":"2026-11-24 10:00:00","handler_id":3,"delivery_id":9}}'
    )
    assert (request.method, request.url, request.guarded, request.timeout_seconds) == ("POST", HANDLER.webhook, True, 20.0)
    headers = dict(request.headers)
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"].startswith("tocsin/")


def test_what_is_not_given_is_null_or_empty():
    (request,) = CHANNEL.render(Message("m", kind="handler.disabled"), HANDLER, context(notification_id=None, delivery_id=None))
    body = json.loads(request.body)
    assert body["type"] == "handler.disabled"
    assert body["timestamp"] == "1970-01-01T00:00:00.000000Z"
    assert body["data"] == {
        "id": None,
        "title": "",
        "message": "m",
        "format": "markdown",
        "severity": "info",
        "url": None,
        "fields": {},
        "datetime": "1970-01-01 00:00:00",
        "handler_id": 3,
        "delivery_id": None,
    }


def test_the_late_stamp_is_left_out():
    assert (
        CHANNEL.render(MESSAGE, HANDLER, context(now=AT))[0].body == CHANNEL.render(MESSAGE, HANDLER, context(now=AT, meant_for=1))[0].body
    )


def test_the_receiver_can_verify_and_a_forgery_fails():
    (request,) = CHANNEL.render(MESSAGE, HANDLER, context())
    assert verify(SECRET, request)["data"]["message"] == MESSAGE.text
    assert dict(request.headers)["webhook-id"] == "msg_9"
    for forged in ({"webhook-id": "msg_8"}, {"webhook-timestamp": str(int(time.time()) + 1)}):
        with pytest.raises(WebhookVerificationError):
            verify(SECRET, request, **forged)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.body.replace(b"full", b"fine"), dict(request.headers))
    with pytest.raises(WebhookVerificationError):
        verify(OLD_SECRET, request)


def test_while_rotating_both_secrets_verify():
    (request,) = CHANNEL.render(MESSAGE, HANDLER, context(signing_secrets=(SECRET, OLD_SECRET)))
    signatures = dict(request.headers)["webhook-signature"].split(" ")
    assert len(signatures) == 2
    assert all(signature.startswith("v1,") for signature in signatures)
    assert verify(SECRET, request) == verify(OLD_SECRET, request) == json.loads(request.body)
    with pytest.raises(WebhookVerificationError):
        verify(vault.new_signing_secret(), request)


def test_each_attempt_has_its_own_timestamp_and_the_same_id():
    first, second = (dict(CHANNEL.render(MESSAGE, HANDLER, context(now=now))[0].headers) for now in (1_999_999, 2_000_000))
    assert (first["webhook-timestamp"], second["webhook-timestamp"]) == ("1", "2")
    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-signature"] != second["webhook-signature"]


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200),
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True, max_size=5),
    at=st.integers(0, 4_000_000_000_000_000),
)
def test_any_text_arrives_as_it_was_and_verifies(text: str, names: list[str], at: int):
    message = Message(text, fields=tuple((name, text) for name in names), at=at)
    body = verify(SECRET, CHANNEL.render(message, HANDLER, context())[0])
    assert body["data"]["message"] == text
    assert list(body["data"]["fields"].items()) == [(name, text) for name in names]
    assert len(body["timestamp"]) == 27


@pytest.mark.parametrize(
    ("status", "headers", "outcome"),
    [
        (200, {}, Delivered()),
        (299, {}, Delivered()),
        (301, {}, Later(Reason.REDIRECTED, detail="301 so")),
        (400, {}, Later(Reason.REJECTED, detail="400 so")),
        (401, {}, Later(Reason.UNAUTHORIZED, detail="401 so")),
        (403, {}, Later(Reason.UNAUTHORIZED, detail="403 so")),
        (404, {}, Later(Reason.NOT_FOUND, detail="404 so")),
        (408, {}, Later(Reason.SERVER_ERROR, detail="408 so")),
        (413, {"retry-after": "9"}, Later(Reason.REJECTED, detail="413 so")),
        (429, {}, Later(Reason.THROTTLED, None, counts=False, detail="429 so")),
        (429, {"retry-after": "7.5"}, Later(Reason.THROTTLED, 7.5, counts=False, detail="429 so")),
        (503, {"retry-after": "Tue, 24 Nov 2026 10:01:00 GMT"}, Later(Reason.THROTTLED, 60.0, counts=False, detail="503 so")),
        (503, {}, Later(Reason.SERVER_ERROR, detail="503 so")),
        (502, {}, Later(Reason.SERVER_ERROR, detail="502 so")),
        (504, {}, Later(Reason.SERVER_ERROR, detail="504 so")),
        (100, {}, Later(Reason.BAD_ANSWER, detail="100 so")),
    ],
)
def test_what_an_answer_means(status, headers, outcome):
    assert CHANNEL.classify(HttpReply(status, headers, b"so"), context(now=AT - 123_456)) == outcome


def test_only_410_ends_the_handler():
    gone = [status for status in range(100, 600) if isinstance(CHANNEL.classify(HttpReply(status, {}, b""), context()), Gone)]
    assert gone == [410]


def test_without_an_answer():
    assert CHANNEL.no_reply(NoReply(Reason.TIMEOUT, sent=True)) == Unknown(Reason.TIMEOUT)
    assert CHANNEL.no_reply(NoReply(Reason.CONNECT, sent=False)) == Later(Reason.CONNECT)
    assert CHANNEL.no_reply(NoReply(Reason.BLOCKED, sent=False)) == Refused(Reason.BLOCKED, ours=True)


def test_the_target_and_the_shown_url_hold_no_secret():
    (request,) = CHANNEL.render(MESSAGE, HANDLER, context())
    assert CHANNEL.target(HANDLER) == "example.com:8443"
    assert request.shown_url == "https://example.com:8443/••••"
    assert CHANNEL.paces(HANDLER, SERVICE) == ()


def test_over_the_wire_the_receiver_verifies_what_arrived():
    async def send() -> None:
        with Receiver() as server:
            server.answer("/hook", 204, body=b"")
            wire = HttpWire(settings.load({"TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8"}))
            (request,) = CHANNEL.render(MESSAGE, WebhookSettings(server.url("/hook?a=%2Fb")), context())
            reply = await wire.send(request)
            await wire.close()
            assert CHANNEL.classify(reply, context()) == Delivered()
            (received,) = server.requests
            assert received.query == "a=%2Fb"
            assert received.headers["content-type"] == "application/json"
            assert Webhook(SECRET).verify(received.body, received.headers)["data"]["title"] == MESSAGE.title

    asyncio.run(send())


# -------------------------------------------------------------------------------------------------------------- headers

HEADERS = fields_of(WebhookSettings)["webhook_headers"]


def test_headers_go_out_beside_ours():
    settings = WebhookSettings(HANDLER.webhook, "Authorization: Bearer a:b\nX-Empty-not:   padded  \nuser-agent: mine")
    (plain,), (request,) = (CHANNEL.render(Message("m"), one, context()) for one in (HANDLER, settings))
    own = (("Authorization", "Bearer a:b"), ("X-Empty-not", "padded"), ("user-agent", "mine"))
    assert request.headers == (plain.headers[0], *own, *plain.headers[2:])
    assert plain.headers[1][0] == "user-agent"
    assert (request.body, request.url) == (plain.body, plain.url)


@pytest.mark.parametrize(
    "name",
    [
        *("Host", "host", "Content-Length", "Content-Type", "content-encoding", "Connection", "keep-alive", "TE", "Trailer", "Upgrade"),
        *("Transfer-Encoding", "Proxy-Authorization", "proxy-connection", "Expect", "webhook-id", "Webhook-Signature", "WEBHOOK-X"),
    ],
)
def test_headers_of_the_connection_the_content_and_the_signature_are_refused(name: str):
    assert "sets Host, Content-…, webhook-…" in (HEADERS.check(f"X-Ok: 1\n{name}: 1") or "")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("just-a-token", "Each line reads"),
        ("Name:", "Each line reads"),
        (": value", "Each line reads"),
        ("Na me: v", "Each line reads"),
        ("Name : v", "Each line reads"),
        ("Name: v\n\nOther: v", "Each line reads"),
        ("Name: v\r\nOther: v", "Each line reads"),
        ("Name: 가", "Each line reads"),
        ("이름: v", "Each line reads"),
        ("Name: a\0b", "Each line reads"),
        ("A: 1\na: 2", "Each header may be given once"),
        ("\n".join(f"X-{number}: v" for number in range(11)), "At most 10 headers"),
        ("X: " + "v" * 4097, "4,096 characters"),
    ],
)
def test_headers_that_cannot_be_sent_are_refused(text: str, sentence: str):
    complaint = HEADERS.check(text)
    assert sentence in str(complaint)
    assert "just-a-token" not in str(complaint)


def test_as_many_headers_as_there_may_be():
    assert HEADERS.check("\n".join(f"X-{number}: {'v' * 4096}" for number in range(10))) is None


def test_of_headers_only_the_names_are_shown():
    basic = base64.b64encode(b"somebody:a password").decode()
    hidden = HEADERS.hide(f"Authorization: Basic {basic}\nX-Key: k3y")
    assert hidden.shown == f"Authorization: {MASK}\nX-Key: {MASK}"
    said = vault.scrub(f"no {basic}, no somebody:a password, no 'a password' of Basic {basic}", hidden.secrets)
    assert basic not in said and "a password" not in said


def test_masked_lines_become_what_is_stored():
    stored = "Authorization: Bearer t\nX-Key: k"
    assert HEADERS.restore is not None
    assert HEADERS.restore(f"x-key: {MASK}\nX-New: n\nAuthorization: {MASK}", stored) == "x-key: k\nX-New: n\nAuthorization: Bearer t"
    assert MASK in HEADERS.restore(f"X-Other: {MASK}", stored)


def test_what_is_within_a_headers_value_is_as_secret():
    hidden = HEADERS.hide('Authorization: Token token="abcd/1234efgh"\nCookie: session=s3ss10nvalue; a=b')
    said = vault.scrub(r'{"no": "abcd/1234efgh", "nor": "s3ss10nvalue", "sent": "Token token=\"abcd\/1234efgh\""}', hidden.secrets)
    assert said == '{"no": "••••", "nor": "••••", "sent": "••••"}'


def test_a_secret_is_scrubbed_as_php_writes_json_too():
    assert vault.scrub(r'{"key": "two\"quotes\/1"}', ['two"quotes/1']) == '{"key": "••••"}'
