"""What every channel must keep, whichever it is: one suite over the registry."""

import base64
import email
import email.policy
import functools
import html
import importlib
import json
import math
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import get_args
from urllib.parse import quote, quote_plus, unquote

import markupsafe
import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tocsin import vault
from tocsin.channels.contract import AnyChannel, Context, HandlerSettings, fields_of, home_of, settings_of
from tocsin.channels.registry import CHANNELS
from tocsin.markup.parse import parse
from tocsin.model import (
    MASK,
    Gone,
    Hidden,
    HttpReply,
    HttpRequest,
    Later,
    MailReply,
    Message,
    NoReply,
    Outcome,
    Reason,
    Refused,
    Request,
    Severity,
    Unknown,
)
from tocsin.partitions import partition_of, root_of
from tocsin.settings import load
from wild import AT, SECRET_TOKEN, context, messages

TOKEN = SECRET_TOKEN
TESTS = {kind: importlib.import_module(f"channels.test_{kind}") for kind in CHANNELS}
SAMPLES: dict[str, list[dict[str, str]]] = {kind: tests.SAMPLES for kind, tests in TESTS.items()}
CASES = [pytest.param(CHANNELS[kind], values, id=f"{kind}-{number}") for kind in CHANNELS for number, values in enumerate(SAMPLES[kind])]
each_sample = pytest.mark.parametrize(("channel", "values"), CASES)
each_channel = pytest.mark.parametrize("channel", CHANNELS.values(), ids=CHANNELS)
WEB = [kind for kind, channel in CHANNELS.items() if channel.wire == "http"]  # a channel is asked about answers of its own wire alone
each_web_channel = pytest.mark.parametrize("channel", [CHANNELS[kind] for kind in WEB], ids=WEB)

FIELDS = tuple((f"name{number:02} " + "n" * 249, f"value{number:02} " + "v" * 1016) for number in range(25))
SMALL = Message("a **small** body", "A title", Severity.CRITICAL, "https://example.com/link", (("host", "db-1"),), AT)
SIGNED = {"signing_secrets": ("whsec_" + "A" * 43 + "=",)}


def made(channel: AnyChannel, values: dict[str, str], message: Message, **changes: object) -> list[Request]:
    return list(channel.render(message, settings_of(channel, values), context(**(SIGNED | changes))))


def hidden(channel: AnyChannel, values: dict[str, str]) -> dict[str, Hidden]:
    return {name: field.hide(values[name]) for name, field in fields_of(channel.settings).items() if field.hide and name in values}


def secrets_of(channel: AnyChannel, values: dict[str, str]) -> list[str]:
    return [secret for hide in hidden(channel, values).values() for secret in hide.secrets]


def strings(content: object) -> list[str]:
    match content:
        case str():
            return [content]
        case dict():
            return [text for pair in content.items() for text in [*strings(pair[1]), str(pair[0])]]
        case list():
            return [text for item in content for text in strings(item)]
        case _:
            return []


def seen(requests: list[Request]) -> str:
    """Everything that a reader may get to see, escapes left out."""
    texts: list[str] = []
    for request in requests:
        if isinstance(request, HttpRequest):
            texts += strings(json.loads(request.body))
        else:
            parsed = email.message_from_bytes(request.content, policy=email.policy.default)
            texts += [parsed["Subject"], *(part.get_content() for part in parsed.walk() if not part.is_multipart())]
    return "\n".join(texts).replace("\\", "")


# ------------------------------------------------------------------------------------------------------------- registry


def test_every_channel_is_known_by_its_type():
    assert all(kind == channel.type for kind, channel in CHANNELS.items())


@each_channel
def test_the_settings_describe_themselves(channel: AnyChannel):
    assert issubclass(channel.settings, HandlerSettings)
    assert channel.title
    for name, field in fields_of(channel.settings).items():
        assert name == channel.type or name.startswith(f"{channel.type}_")  # a field of another type is refused by name
        assert field.title
        assert field.help
        if "..." not in field.example:
            assert field.check(field.example) is None, name


def test_no_two_channels_share_a_field():
    names = [name for channel in CHANNELS.values() for name in fields_of(channel.settings)]
    assert len(names) == len(set(names))


@each_sample
def test_the_sample_is_valid_and_typed(channel: AnyChannel, values: dict[str, str]):
    fields = fields_of(channel.settings)
    assert {name: fields[name].check(value) for name, value in values.items()} == dict.fromkeys(values)
    assert msgspec.to_builtins(settings_of(channel, values)) == values
    for name in values:
        others = {key: value for key, value in values.items() if key != name}
        if fields[name].is_optional:
            assert msgspec.to_builtins(settings_of(channel, others)) == others
        else:
            with pytest.raises(msgspec.ValidationError):
                settings_of(channel, others)


@each_channel
@given(
    value=st.text(max_size=100)
    | st.text(st.characters(max_codepoint=0x7F), max_size=300)
    | st.sampled_from(["http://[", "http://a:b", "@", "a@b@c"])
)
def test_any_value_is_checked_without_being_repeated(channel: AnyChannel, value: str):
    for field in fields_of(channel.settings).values():
        wrong = field.check(value)
        assert wrong is None or (wrong and "\n" not in wrong)
        if wrong and len(value) > 12:
            assert value not in wrong
        if wrong is None and field.hide:
            check_hidden(value, field.hide(value))


# -------------------------------------------------------------------------------------------------------------- secrets


def is_basic(secret: str, value: str) -> bool:
    """The URL's user and password as they stand in an Authorization header."""
    userinfo = value.partition("://")[2].partition("/")[0].rpartition("@")[0]
    return bool(userinfo) and base64.b64decode(secret) == unquote(userinfo).encode()


def check_hidden(value: str, hide: Hidden) -> None:
    """A mask, which the API never takes for a value, wherever something is secret; the value itself where nothing is."""
    if hide.secrets:
        assert MASK in hide.shown
        assert all(secret in value or quote(secret, safe="") in value or is_basic(secret, value) for secret in hide.secrets)
    else:
        assert hide.shown in {value, f"{value}/{MASK}", MASK}


@each_sample
def test_masks_stand_where_secrets_are(channel: AnyChannel, values: dict[str, str]):
    for name, hide in hidden(channel, values).items():
        check_hidden(values[name], hide)
        assert TOKEN not in hide.shown
        assert (TOKEN in values[name] or "hooks.slack.com" in values[name]) is bool(hide.secrets)
        assert TOKEN not in repr(hide)


@each_sample
def test_no_secret_in_what_people_or_logs_may_see(channel: AnyChannel, values: dict[str, str]):
    settings, secrets = settings_of(channel, values), secrets_of(channel, values)
    shown = [channel.target(settings), repr(settings), str(settings), repr(context(**SIGNED))]
    shown += [pace.key for pace in channel.paces(settings, load({"TOCSIN_SMTP_RATE": "5"}))]
    for request in made(channel, values, SMALL):
        shown += [repr(request), str(request)] + ([request.shown_url] if isinstance(request, HttpRequest) else [])
    for text in shown:
        assert TOKEN not in text
        assert not [secret for secret in secrets if secret in text]
    assert channel.target(settings).strip()


@each_sample
def test_no_secret_in_a_shown_request(channel: AnyChannel, values: dict[str, str]):
    """A preview shows body and headers after scrubbing: nothing of the credentials may be left in an unknown form."""
    secrets = secrets_of(channel, values)
    for request in made(channel, values, SMALL):
        if isinstance(request, HttpRequest):
            for text in (request.body.decode(), "\n".join(map(": ".join, request.headers))):
                assert TOKEN not in vault.scrub(text, secrets)


def echoes(value: str) -> list[str]:
    """How an answer may repeat a secret, or a URL with one in it."""
    tail = value.partition("://")[2].partition("/")[2]
    return [value, quote(value, safe=""), value.upper(), f"/{tail}", f"/{tail.partition('?')[0]}", *re.split("[/?=&#]", tail)]


def remains(text: str) -> set[str]:
    """Pieces of the token, of eight characters, that are still in a text."""
    tokens = (TOKEN, re.sub("[^A-Za-z0-9]", "", TOKEN))
    return {token[at : at + 8] for token in tokens for at in range(len(token) - 7) if token[at : at + 8].lower() in text.lower()}


@each_sample
@pytest.mark.parametrize("status", [200, 201, 302, 400, 401, 402, 403, 404, 410, 413, 429, 500, 503])
def test_no_secret_in_a_verdict_after_scrubbing(channel: AnyChannel, values: dict[str, str], status: int):
    """Not even a piece of one, wherever the answer's text may have been cut."""
    secrets = secrets_of(channel, values)
    reply = functools.partial(HttpReply, status, {}) if channel.wire == "http" else lambda said: MailReply(status, said.decode(), "rcpt")
    for echo in [echo for value in values.values() for echo in echoes(value)]:
        for before in range(0, 230, 9):
            words = f"{'.' * before} no such {echo} here"
            answer = json.dumps({"ok": False, "description": words, "message": words, "detail": words, "code": 1})
            for body in (words, answer, answer.replace("/", "\\/")):
                outcome = channel.classify(reply(body.encode()), context())
                assert not remains(vault.scrub(outcome.detail, secrets))
                assert TOKEN not in repr(msgspec.structs.replace(outcome, detail=""))


@each_sample
def test_what_is_scrubbed_holds_no_secret(channel: AnyChannel, values: dict[str, str]):
    for value in values.values():
        for echo in echoes(value):
            assert not remains(vault.scrub(f"before {echo} after", secrets_of(channel, values)))


PATHS = st.lists(st.text("ABCDEFGHJK0123456789", min_size=12, max_size=20), min_size=1, max_size=3).map("/".join)
URL_TYPES = [kind for kind, channel in CHANNELS.items() if list(fields_of(channel.settings)) == [kind] and kind != "email"]


@pytest.mark.parametrize("kind", URL_TYPES)
@given(
    path=PATHS,
    query=st.just("") | PATHS.map("?k={}".format),
    user=st.just("") | PATHS.map(lambda text: text.replace("/", ":", 1).replace("/", "") + "@"),
)
def test_of_any_url_elsewhere_only_the_host_is_shown(kind: str, path: str, query: str, user: str):
    value = f"https://{user}relay.example.com:8443/{path}{query}"
    field = fields_of(CHANNELS[kind].settings)[kind]
    assume(field.check(value) is None)
    hide = field.hide(value)
    assert hide.shown == f"https://relay.example.com:8443/{MASK}"
    said = vault.scrub(f"no {value} here: /{path} {query} {user}", hide.secrets)
    assert not re.search("[ABCDEFGHJK0-9]{12}", said.replace("8443", ""))


def escapes(secret: str) -> set[str]:
    """How an answer may write it: plain, percent-encoded, within JSON or HTML, or as JSON within HTML and the other way round."""
    pages = {html.escape(secret), html.escape(secret, quote=False), html.escape(html.escape(secret)), str(markupsafe.escape(secret))}
    pages.add(secret.translate({ord('"'): "&quot;", ord("'"): "&#039;", ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"}))
    for number in (str, "x{:x}".format, "X{:04X}".format):
        pages.add("".join(one if one.isalnum() else f"&#{number(ord(one))};" for one in secret))
    encoded = {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    found = {secret, *pages, *encoded, *(re.sub("%..", lambda found: found[0].lower(), one) for one in encoded)}
    for text in (secret, *pages):
        dumped = {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
        dumped |= {one.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e") for one in dumped}
        found |= dumped | {one.replace("/", "\\/") for one in dumped} | {html.escape(one) for one in dumped}
    return found


def left(secret: str, hidden: Iterable[str]) -> list[str]:
    """The forms of a secret that are not scrubbed from a sentence."""
    return [form for form in escapes(secret) if form in vault.scrub(f"no «{form}» here", (*hidden,))]


@pytest.mark.parametrize("kind", URL_TYPES)
@pytest.mark.parametrize(
    "secret", ["sh0rtTok9", "aB3d", "t0k-en", "swordfish", "ünlocked9", "a'b&c<d>e9", 'q"uo\\te9', "100200300", "pl+us=9"]
)
def test_short_parts_of_a_url_are_scrubbed_in_every_form(kind: str, secret: str):
    """The end of the path, and the user and the password by themselves."""
    every, few = quote(secret, safe=""), quote(secret, safe="!$&'()*+,;:@-._~")
    urls = [f"https://{every}:x@relay.example.com/hooks/a", f"https://x:{every}@relay.example.com/hooks/a"]
    if kind != "ntfy" or re.fullmatch("[-_A-Za-z0-9]+", secret):  # others are no topic
        urls += [f"https://relay.example.com/hooks/{written}" for written in (every, few)]
    if kind != "ntfy":
        urls.append(f"https://relay.example.com/hooks/a?v=1.0&key={every}")
    field = fields_of(CHANNELS[kind].settings)[kind]
    for value in urls:
        assert field.check(value) is None
        assert left(secret, field.hide(value).secrets) == [], value


@pytest.mark.parametrize("secret", ["cs1", 'a"&<>b', "c's/1+2=3", "at-1"])
def test_secrets_of_x_are_scrubbed_in_every_form(secret: str):
    assert left(secret, fields_of(CHANNELS["x"].settings)["x_consumer_secret"].hide(secret).secrets) == []


@pytest.mark.parametrize("secret", ["sh0rtT9", 'a"&<>b9'])
def test_short_values_of_headers_are_scrubbed_in_every_form(secret: str):
    hide = fields_of(CHANNELS["webhook"].settings)["webhook_headers"].hide
    basic = base64.b64encode(f"{secret}:pw".encode()).decode()
    for line in (f"X-Key: {secret}", f"Authorization: Bearer {secret}", f"Authorization: Basic {basic}"):
        assert left(secret, hide(line).secrets) == [], line


@pytest.mark.parametrize("kind", URL_TYPES)
def test_ordinary_words_of_an_answer_stay(kind: str):
    """Those that are also in the URL, and short ones: an answer that is all masks helps nobody."""
    field = fields_of(CHANNELS[kind].settings)[kind]
    said = (
        "The api for ops has no hook v2: 404 not found, 12 of 100 tries; user may not post to this webhook. Opsgenie: production is down."
    )
    for path in ("api/v2/ops/hooks/webhook", "404/not/found/12/100/hook", "production/for/the/api"):
        value = f"https://user:pass-w0rd@relay.example.com/{path}"
        assert field.check(value) is None
        hidden = field.hide(value).secrets
        if kind != "ntfy":  # the topic is a secret, whatever it is
            assert vault.scrub(said, hidden) == said, value
        assert vault.scrub(f"no {path} here", hidden) == f"no {MASK} here"


# --------------------------------------------------------------------------------------------------------------- render


@each_sample
def test_rendering_twice_gives_the_same(channel: AnyChannel, values: dict[str, str]):
    first, second = (made(channel, values, SMALL, meant_for=AT - 1) for _ in range(2))
    assert [msgspec.structs.astuple(request) for request in first] == [msgspec.structs.astuple(request) for request in second]


@each_sample
def test_all_that_was_said_is_seen(channel: AnyChannel, values: dict[str, str]):
    text = seen(made(channel, values, SMALL))
    for word in ("A title", "small", "https://example.com/link", "host", "db-1"):
        assert word in text
    assert re.search("critical|🚨|rotating_light", text, re.IGNORECASE)


@each_sample
def test_late_is_said_but_by_webhook_and_x(channel: AnyChannel, values: dict[str, str]):
    stamp = "2026-11-23 10:00:00"
    late = seen(made(channel, values, SMALL, meant_for=AT - 86_400_000_000))
    assert (stamp in late) is (channel.type not in {"webhook", "x"})
    assert stamp not in seen(made(channel, values, SMALL))


@each_channel
def test_the_suffix_is_used_where_repeats_are_refused(channel: AnyChannel):
    values = SAMPLES[channel.type][0]
    texts = {seen(made(channel, values, SMALL, suffix=suffix)) for suffix in ("", "10:42:05", "10:42:06")}
    assert len(texts) == (3 if channel.refuses_repeats else 1)


def fits(channel: AnyChannel, requests: list[Request]) -> None:
    """The provider's own limits, by its tests, and what a preview would say of them."""
    for request in requests:
        TESTS[channel.type].fits(request)
        for size in channel.measure(request):
            assert size.limit is None or size.size <= size.limit, size


LONGEST = {
    "words": "lorem ipsum dolor " * 3640 + " the end!",
    "one word": "x" * 65_520 + " the end!",
    "Korean": "가나다 " * 6550 + " the end!",
    "markup": "**[a](https://example.com/b)** `c` _d_ " * 1680 + " the end!",
    "list": "- an item of a list\n" * 3270 + "\n the end!",
    "code": "```\n" + "if a < b & c:\n" * 4670 + "the end!\n```",
    "escapes": '<&>"*_[]()\\\\' * 5450 + " the end!",
}


@each_sample
@pytest.mark.parametrize("shape", LONGEST)
def test_the_longest_message_fits_and_says_that_it_was_cut(channel: AnyChannel, values: dict[str, str], shape: str):
    text = LONGEST[shape]
    assert 65_000 < len(text.encode()) <= 65_536
    message = Message(text, "T" * 256, Severity.WARNING, "https://example.com/" + "u" * 2000, FIELDS, AT)
    requests = made(channel, values, message, meant_for=1)
    assert requests
    fits(channel, requests)
    words = seen(requests)
    whole = "the end!" in words and all(field[1] in words for field in FIELDS)
    assert whole or re.search(r"more characters|…", words)


@each_channel
@given(message=messages)
def test_any_message_renders_within_limits(channel: AnyChannel, message: Message):
    """Where the native form is refused the same parts go out as words alone; what has no markup stays as it was."""
    values = SAMPLES[channel.type][0]
    native, plainest = (made(channel, values, message, meant_for=1, suffix="10:42:05", plain=plain) for plain in (False, True))
    assert 0 < len(native) == len(plainest)
    fits(channel, native + plainest)
    for request in native:
        if isinstance(request, HttpRequest):
            assert all("\n" not in name + value and "\r" not in name + value for name, value in request.headers)
            assert request.timeout_seconds > 0
    if channel.type == "webhook":
        assert native == plainest
    else:
        assert all(one != other for one, other in zip(native, plainest, strict=True))


@each_sample
def test_the_plainest_form_says_everything(channel: AnyChannel, values: dict[str, str]):
    text = seen(made(channel, values, SMALL, meant_for=AT - 86_400_000_000, plain=True))
    for word in (
        "A title",
        "small",
        "example[.]com/link" if channel.type == "x" else "https://example.com/link",  # X may have refused the address
        "host",
        "db-1",
        *(() if channel.type in {"webhook", "x"} else ("2026-11-23",)),
    ):
        assert word in text
    assert "<b>" not in text


@each_channel
def test_a_notification_to_many_handlers_is_parsed_and_rendered_once(channel: AnyChannel, monkeypatch: pytest.MonkeyPatch):
    module = importlib.import_module(f"tocsin.channels.{channel.type}")
    parsed: list[str] = []
    if hasattr(module, "parse"):
        monkeypatch.setattr(module, "parse", lambda text: (parsed.append(text), parse(text))[1])
    message = msgspec.structs.replace(SMALL, text=f"only here: {channel.type}", at=AT + 1)
    requests = [made(channel, values, message)[0] for values in SAMPLES[channel.type] * 100]
    assert len(requests) >= 100
    most = {"webhook": 0, "email": 3}  # a mail has two parts, and may take its subject from the text
    assert len(parsed) <= most.get(channel.type, 1)


@each_sample
def test_a_request_is_measured(channel: AnyChannel, values: dict[str, str]):
    for plain in (False, True):
        for request in made(channel, values, SMALL, plain=plain):
            sizes = channel.measure(request)
            assert sizes
            assert all(size.size >= 0 and size.what and size.unit for size in sizes)


@each_sample
def test_only_addresses_of_the_operator_are_unguarded(channel: AnyChannel, values: dict[str, str]):
    for request in made(channel, values, SMALL):
        if isinstance(request, HttpRequest):
            assert request.guarded is (channel.type not in {"telegram", "x"})
            assert request.guarded is any("://" in value for value in values.values())


# ------------------------------------------------------------------------------------------------------------- classify

BODIES = [
    b"",
    b"ok",
    b"<!doctype html><title>502 Bad Gateway</title>",
    b"null",
    b"[]",
    b'[{"ok": true}]',
    b'"ok"',
    b"17",
    b"{}",
    b'{"ok": true}',
    b'{"ok": true, "result": null, "data": null, "errors": null, "id": null}',
    b'{"ok": "no", "error_code": "x", "parameters": [], "description": 5, "result": 7, "data": [1], "errors": 7, "code": "50027"}',
    b'{"ok": false, "parameters": {"retry_after": -5, "migrate_to_chat_id": true}, "retry_after": "soon", "global": 1, "id": {}}',
    b'{"ok": false, "parameters": {"retry_after": 1e308, "migrate_to_chat_id": 1.5}, "retry_after": 1e308, "errors": [null, 1, {}]}',
    b'{"retry_after": NaN, "message": "rate"}',
    b'{"code": 99999999999999999999999999999999, "title": [], "detail": {}}',
    b"\xff\xfe{\x00}",
    b'{"description": "\xed\xa0\x80"}',
    b"[" * 5000,
    b'{"a":' * 5000,
]
HEADERS = [
    {},
    {"retry-after": "soon", "x-ratelimit-reset-after": "x", "x-ratelimit-scope": "", "x-rate-limit-reset": "-1", "content-type": ""},
    {"retry-after": "3", "x-ratelimit-reset-after": "1.5", "x-rate-limit-reset": "99999999999", "x-rate-limit-remaining": "0"},
    {"retry-after": "Tue, 24 Nov 2026 10:01:00 GMT"},
    {"retry-after": "Sun, 06 Nov 0994 08:49:37 GMT", "x-ratelimit-reset-after": "inf"},
    {"retry-after": "9" * 400},
]


def check_outcome(outcome: Outcome) -> Outcome:
    assert isinstance(outcome, get_args(Outcome))
    assert isinstance(getattr(outcome, "reason", Reason.OK), Reason)
    assert isinstance(outcome.detail, str)
    assert len(outcome.detail) < 2_000
    if isinstance(outcome, Later):
        assert outcome.wait_seconds is None or (outcome.wait_seconds >= 0 and math.isfinite(outcome.wait_seconds))
        assert outcome.counts is (outcome.reason is not Reason.THROTTLED)
    return outcome


UNKNOWN_REFUSALS = [
    b"",
    b"new_word",
    b"<html>no</html>",
    b'{"embeds": ["0"]}',
    b'{"ok": false, "description": "Bad Request: SOMETHING_NEW"}',
    b'{"error": {"code": "NewCode", "message": "no"}}',
    b'{"message": "no", "code": 0}',
    b'{"title": "Invalid Request", "errors": [{"message": "no"}]}',
    b'{"error": "new"}',
]


@each_web_channel
@pytest.mark.parametrize("body", UNKNOWN_REFUSALS)
@pytest.mark.parametrize("status", [400, 422])
def test_a_refusal_that_nobody_knows_is_first_taken_for_our_payloads_fault(channel: AnyChannel, status: int, body: bytes):
    """So the plainest form goes out; what is refused even then is the handler's, but where the answer names our payload."""
    if channel.type == "webhook" or (channel.type == "telegram" and b'"ok": false' not in body):
        assert isinstance(channel.classify(HttpReply(status, {}, body), context()), Later)
        return
    first = channel.classify(HttpReply(status, {}, body), context())
    assert isinstance(first, Refused)
    assert (first.reason, first.ours) == (Reason.PAYLOAD, True)
    then = channel.classify(HttpReply(status, {}, body), context(plain=True))
    assert isinstance(then, Refused)
    known = {"x": b"", "discord": (b'{"embeds"', b'{"title"'), "google_chat": b'{"error": {'}
    is_known = channel.type in known and body.startswith(known[channel.type])
    assert (then.reason, then.ours) == ((Reason.PAYLOAD, True) if is_known and status == 400 else (Reason.REJECTED, False))


# The end of each class is a code that nobody has registered.
REGISTERED = sorted({*map(int, HTTPStatus), 199, 299, 399, 499, 599})


@each_web_channel
@pytest.mark.parametrize("statuses", [REGISTERED, pytest.param(range(100, 600), marks=pytest.mark.long)], ids=["registered", "all"])
def test_every_answer_means_something(channel: AnyChannel, statuses: Iterable[int]):
    for status in statuses:
        for body in BODIES:
            for headers in HEADERS:
                check_outcome(channel.classify(HttpReply(status, headers, body), context()))
                check_outcome(channel.classify(HttpReply(status, headers, body), context(may_have_arrived=True)))


@each_web_channel
@pytest.mark.parametrize("body", [b"x" * 10_000_000, b"[" * 10_000_000, b'{"description": "' + b"\xea\xb0\x80" * 3_000_000 + b'"}'])
def test_a_huge_answer_means_something(channel: AnyChannel, body: bytes):
    for status in (100, 200, 201, 302, 400, 401, 403, 404, 413, 429, 500, 503):
        check_outcome(channel.classify(HttpReply(status, {}, body), context()))


@each_web_channel
@given(
    status=st.integers(100, 599),
    body=st.binary(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "ok",
                        "code",
                        "retry_after",
                        "parameters",
                        "migrate_to_chat_id",
                        "description",
                        "data",
                        "id",
                        "errors",
                        "result",
                        "message",
                        "detail",
                    ]
                ),
                inner,
            )
        ),
        max_leaves=12,
    ).map(lambda content: json.dumps(content).encode()),
    headers=st.dictionaries(
        st.sampled_from(["retry-after", "x-ratelimit-reset-after", "x-rate-limit-reset", "x-ratelimit-scope"]), st.text(max_size=30)
    ),
)
def test_any_answer_means_something(channel: AnyChannel, status: int, body: bytes, headers: dict[str, str]):
    check_outcome(channel.classify(HttpReply(status, headers, body), context()))


@each_channel
def test_no_answer_means_something_and_never_ends_a_handler(channel: AnyChannel):
    for reason in set(Reason) - {Reason.THROTTLED}:  # that one is a provider's word, never the wire's
        for sent in (True, False):
            outcome = check_outcome(channel.no_reply(NoReply(reason, sent, "why")))
            assert not isinstance(outcome, Gone)
            if reason in {Reason.BLOCKED, Reason.SETTINGS}:
                assert outcome == Refused(reason, "why", ours=reason is Reason.BLOCKED)
            else:
                assert isinstance(outcome, Unknown if sent else Later)


def test_any_answer_of_a_mail_server_means_something():
    for code in (0, 200, 220, 250, 354, 421, 450, 452, 500, 535, 550, 552, 554, 599, 999):
        for stage in ("connect", "hello", "starttls", "auth", "mail", "rcpt", "data", "final", "?"):
            for enhanced in ("", "2.0.0", "4.7.1", "5.1.1", "5.7.1", "5.7.8", "9.9.9", "x"):
                check_outcome(CHANNELS["email"].classify(MailReply(code, "words \x00 \ufffd" * 3, stage, enhanced), context()))


@pytest.mark.parametrize("kind", WEB)
def test_throttles_use_up_no_step_and_errors_of_the_server_end_nothing(kind: str):
    for body in BODIES:
        throttled = CHANNELS[kind].classify(HttpReply(429, {"retry-after": "3"}, body), context())
        assert isinstance(throttled, Later)
        assert (throttled.reason, throttled.counts) == (Reason.THROTTLED, False)
        busy = CHANNELS[kind].classify(HttpReply(503, {"retry-after": "3"}, body), context())
        assert (busy.reason, busy.counts, busy.wait_seconds) == (Reason.THROTTLED, False, 3.0)
        for status in (500, 502, 504):
            assert isinstance(CHANNELS[kind].classify(HttpReply(status, {}, body), context()), Later)


@pytest.mark.parametrize("kind", WEB)
def test_a_redirect_is_a_failure(kind: str):
    for status in (300, 301, 302, 303, 307, 308):
        outcome = CHANNELS[kind].classify(HttpReply(status, {"location": "https://example.com/"}, b""), context())
        assert outcome.reason is Reason.REDIRECTED


# --------------------------------------------------------------------------------------------------------------- paces


@each_sample
def test_paces_are_usable_and_differ_by_credential(channel: AnyChannel, values: dict[str, str]):
    service = load({"TOCSIN_SMTP_RATE": "0.5"})
    paces = channel.paces(settings_of(channel, values), service)
    for pace in paces:
        assert pace.count >= 1
        assert 0 < pace.seconds <= channel.window_seconds
    if paces and channel.type != "email":
        other = settings_of(channel, {name: f"{value}9" for name, value in values.items()})
        assert channel.paces(other, service)[0].key != paces[0].key


@each_sample
def test_whatever_a_pace_counts_together_has_one_root(channel: AnyChannel, values: dict[str, str]):
    """So one process sends all of it. The key alone tells the root, and no setting of the service changes it."""
    services = [load({}), load({"TOCSIN_SMTP_RATE": "0.5"}), load({"TOCSIN_SMTP_RATE": "25"})]
    variants = [values, *({**values, name: f"{value}9"} for name, value in values.items())]
    for settings in [settings_of(channel, one) for one in variants]:
        assert len({home_of(channel, settings, service) for service in services}) == 1
        for service in services:
            paces = channel.paces(settings, service)
            for pace in paces:
                if pace.scope != "egress":
                    assert partition_of(root_of(pace.key)) == home_of(channel, settings, service), pace.key
            assert paces == () or paces[0].scope != "egress"  # a throttle pauses the first one's key


def test_only_what_an_address_shares_is_shared_out_and_only_mail_goes_through_one_server():
    service = load({"TOCSIN_SMTP_RATE": "5"})
    scopes = {
        (pace.key, pace.scope)
        for kind, channel in CHANNELS.items()
        for values in SAMPLES[kind]
        for pace in channel.paces(settings_of(channel, values), service)
        if ":" not in pace.key
    }
    assert scopes == {("discord", "egress"), ("ntfy", "egress"), ("smtp", "service")}


@each_channel
def test_the_numbers_of_a_channel_make_sense(channel: AnyChannel):
    assert channel.in_flight >= 1
    assert channel.unknown_wait_seconds >= 0
    assert channel.max_attempts is None or channel.max_attempts >= 1
    budget = channel.daily_budget(load({}))
    assert budget is None or budget > 0
    assert isinstance(context(), Context)
