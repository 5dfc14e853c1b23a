"""Telegram: settings, HTML (checked by a small parser with the Bot API's rules), limits, verdicts."""

import asyncio
import json
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver import Receiver
from tocsin import settings as options
from tocsin.channels.contract import fields_of
from tocsin.channels.telegram import CHANNEL, TelegramSettings
from tocsin.markup.length import WrittenOut, watched_cuts
from tocsin.model import (
    Delivered,
    Gone,
    HttpReply,
    HttpRequest,
    Later,
    Message,
    Moved,
    NoReply,
    Outcome,
    Reason,
    Refused,
    Severity,
    Unknown,
)
from tocsin.net.http import HttpWire
from tocsin.settings import load
from wild import AT, SECRET_TOKEN, context, messages

SAMPLES = [
    {"telegram": f"123456789:{SECRET_TOKEN}", "telegram_chat_id": "-1001234567890"},
    {"telegram": f"123456789:{SECRET_TOKEN}", "telegram_chat_id": "@channel"},
    {"telegram": f"123456789:{SECRET_TOKEN}", "telegram_chat_id": "-1001234567890", "telegram_message_thread_id": "45"},
]
SECRET = "AAbbCCddEEffGGhhIIjjKKllMMnnOOppQQr"
TOKEN = f"123456789:{SECRET}"
HANDLER = TelegramSettings(TOKEN, "-1001234567890")
FIELDS = fields_of(TelegramSettings)
FULL = Message(
    "**db-1** is `full`, see [graph](https://example.com/g?a=b&c=d) and [nas](http://nas:8080/)",
    "Disk <full>",
    Severity.CRITICAL,
    "https://example.com/a?b=c&d=e",
    (("host", "db_1"), ("", "alone"), ("name", ""), ("", "")),
    AT,
)
TAGS = {"b", "i", "s", "a", "code", "pre", "blockquote"}


def fits(request: HttpRequest) -> None:
    body = json.loads(request.body)
    assert len(body["text"].encode()) <= 32_768
    shown = re.sub("&[a-z]+;", "x", re.sub("<[^<>]*>", "", body["text"])) if "parse_mode" in body else body["text"]
    assert len(shown.encode("utf-16-le")) // 2 <= 4096


def message_of(request: HttpRequest) -> str:
    return json.loads(request.body)["text"].partition("\n\n")[2]


def bodies_of(message: Message, handler: TelegramSettings = HANDLER, **changes: object) -> list[dict]:
    return [json.loads(request.body) for request in CHANNEL.render(message, handler, context(**changes))]


def body_of(message: Message, handler: TelegramSettings = HANDLER, **changes: object) -> dict:
    (body,) = bodies_of(message, handler, **changes)
    return body


def parsed(html: str) -> str:
    """What is read of the HTML, by the rules of https://core.telegram.org/bots/api#html-style; fails where the Bot API would."""
    words: list[str] = []
    stack: list[str] = []
    for token in re.findall(r"<[^>]*>?|&[^;\s]{0,10};?|[^<&]+", html):
        if token.startswith("<"):
            match = re.fullmatch(r'<(/?)([a-z]+)(?: (href|class)="([^"<>]*)")?>', token)
            assert match, token
            closing, tag, name, value = match.groups()
            assert tag in TAGS, token
            if closing:
                assert stack.pop() == tag, token
                continue
            assert name == {"a": "href"}.get(tag) or (tag == "code" and name == "class" and stack[-1] == "pre"), token
            assert tag not in {"a", "blockquote", "pre"} or tag not in stack, f"{tag} in itself"
            assert not {"code", "pre"} & set(stack) or (tag == "code" and stack[-1] == "pre" and name), f"{token} in code"
            if name == "href":
                assert not re.search(r"&(?!(?:lt|gt|amp|quot);)", value), value
            stack.append(tag)
        elif token.startswith("&"):
            words.append({"&lt;": "<", "&gt;": ">", "&amp;": "&", "&quot;": '"'}[token])
        else:
            words.append(token)
    assert not stack
    return "".join(words)


def check_text(text: str) -> str:
    shown = parsed(text)
    assert 0 < len(shown.encode("utf-16-le")) // 2 <= 4096
    assert len(text.encode()) <= 32_768
    return shown


# ---------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("value", "fine"),
    [
        (TOKEN, True),
        ("1:" + "a" * 30, True),
        ("0" + TOKEN, False),
        ("123", False),
        (TOKEN + "/x", False),
        ("", False),
        (TOKEN + "\n", False),
        ("１" + TOKEN, False),
    ],
)
def test_tokens(value, fine):
    said = FIELDS["telegram"].check(value)
    assert (said is None) == fine
    assert SECRET not in (said or "")


@pytest.mark.parametrize(
    ("value", "fine"),
    [
        ("1", True),
        ("-1001234567890", True),
        (str(2**63 - 1), True),
        (str(-(2**63)), True),
        (str(2**63), False),
        ("0", False),
        ("+5", False),
        ("@name", True),
        ("@abcd", True),
        ("@abc", False),
        ("@" + "a" * 32, True),
        ("@" + "a" * 33, False),
        ("@a-bcd", False),
        ("name", False),
        ("", False),
        ("5\n", False),
        ("٥", False),
    ],
)
def test_chat_ids(value, fine):
    assert (FIELDS["telegram_chat_id"].check(value) is None) == fine


def test_the_examples_are_accepted():
    assert all(field.check(field.example) is None for field in FIELDS.values())


def test_what_is_shown_hides_the_token():
    hidden = FIELDS["telegram"].hide(TOKEN)
    assert (hidden.shown, hidden.secrets) == ("123456789:••••", (SECRET,))
    assert FIELDS["telegram_chat_id"].hide is None
    (request,) = CHANNEL.render(FULL, HANDLER, context())
    assert request.url == f"https://api.telegram.org/bot{TOKEN}/sendMessage"
    assert request.shown_url == "https://api.telegram.org/bot123456789:••••/sendMessage"
    paces = CHANNEL.paces(HANDLER, options.load({}))
    shown = (repr(request), request.shown_url, repr(HANDLER), repr(paces), CHANNEL.target(HANDLER), request.body.decode())
    assert all(SECRET not in text for text in shown)


@pytest.mark.parametrize(
    ("chat_id", "windows"),
    [("5", [(25, 1.0), (1, 1.0)]), ("-5", [(25, 1.0), (1, 1.0), (20, 60.0)]), ("@name", [(25, 1.0), (1, 1.0), (20, 60.0)])],
)
def test_paces(chat_id, windows):
    paces = CHANNEL.paces(TelegramSettings(TOKEN, chat_id), options.load({}))
    assert [(pace.count, pace.seconds) for pace in paces] == windows
    assert paces[0].key == CHANNEL.paces(HANDLER, options.load({}))[0].key
    assert paces[1].key != paces[0].key


def test_strangers_read_a_channel():
    assert CHANNEL.is_public(TelegramSettings(TOKEN, "@name"))
    assert not CHANNEL.is_public(HANDLER)


# ------------------------------------------------------------------------------------------------------------ render


def test_the_request():
    assert body_of(FULL, meant_for=AT) == {
        "chat_id": -1001234567890,
        "text": (
            "<b>🚨 Disk &lt;full&gt;</b>\n<i>Late: this was meant for 2026-11-24 10:00:00 UTC</i>\n\n"
            '<b>db-1</b> is <code>full</code>, see <a href="https://example.com/g?a=b&amp;c=d">graph</a> and nas (http://nas:8080/)\n\n'
            '<b>host:</b> db_1\nalone\n<b>name:</b> \n\n<a href="https://example.com/a?b=c&amp;d=e">Open</a>'
        ),
        "parse_mode": "HTML",
        "link_preview_options": {"is_disabled": True},
        "disable_notification": False,
    }
    (request,) = CHANNEL.render(FULL, HANDLER, context())
    assert (request.guarded, request.timeout_seconds, request.method) == (False, 30.0, "POST")


def test_a_message_of_words_alone():
    body = body_of(Message("done"), TelegramSettings(TOKEN, "@name"))
    assert (body["chat_id"], body["text"], body["disable_notification"]) == ("@name", "<b>ℹ️ Info</b>\n\ndone", True)


def test_a_url_without_a_dot_is_printed():
    assert body_of(Message("m", url="http://nas:8080/x"))["text"].endswith("\n\nOpen (http://nas:8080/x)")


@pytest.mark.parametrize(
    "text",
    [
        "word " * 13_000,
        "**a** & " * 8000,
        "[a](https://example.com/%s) " % ("&" * 300) * 200,
        "한국어 " * 6000,
        "🚨" * 16_000,
        "<&>" * 20_000,
    ],
)
@pytest.mark.parametrize("url", ["https://x.y/" + "&" * 2036, "http://nas/" + "z" * 2037])
def test_the_longest_message_fits_and_says_that_it_was_cut(text, url):
    message = Message(text, "<t>" * 85, Severity.WARNING, url, (("<n>" * 85, "v&" * 512),) * 25, AT)
    parts = [check_text(body["text"]) for body in bodies_of(message, meant_for=AT)]
    assert len(parts) == 5
    assert "more characters" in parts[-1]
    assert "…:" in parts[-1]
    assert "Open" in parts[-1]
    assert all("Late: this was meant for" in part for part in parts)
    assert not any("more characters" in part or "Open" in part for part in parts[:-1])


def test_a_long_text_alone_uses_the_room():
    assert [len(check_text(body["text"])) > 4000 for body in bodies_of(Message("word " * 13_000))] == [True] * 5


def test_a_long_message_goes_out_in_numbered_parts_and_rings_once():
    paragraphs = [f"{number}. " + "word " * 250 for number in range(6)]
    message = Message("\n\n".join(paragraphs), "Disk", Severity.CRITICAL, "https://x.y/z", (("host", "db-1"),))
    bodies = bodies_of(message)
    assert [body["text"].partition("\n")[0] for body in bodies] == [f"<b>🚨 Disk ({number}/2)</b>" for number in (1, 2)]
    assert [body["disable_notification"] for body in bodies] == [False, True]
    assert ["db-1" in body["text"] for body in bodies] == [False, True]
    assert sum(body["text"].count("word") for body in bodies) == 1500


def marks_of(html: str) -> tuple[int, int]:
    """Entities, as tdjson counts them, and the bytes of their addresses."""
    addresses = [address.replace("&amp;", "&") for address in re.findall('<a href="([^"]*)"', html)]
    return len(re.findall("<[a-z]", html)), sum(len(address.encode()) for address in addresses)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("\n".join(f"- [CVE-2026-{number:04}](https://nvd.example.com/vuln/{number:04})" for number in range(130)), 2),
        ("\n".join(f"- [log {number}](https://x.example.com/{number}) in `db-{number}`" for number in range(90)), 2),
        ("\n".join(f"- [{number}](https://x.example.com/{'a' * 108}/{number:03})" for number in range(100)), 2),
        ("**a** `b` *c* ~~d~~ " * 55, 3),
    ],
)
@pytest.mark.parametrize("fields", [(), tuple((f"name {number}", "v") for number in range(25))])
def test_what_telegram_would_drop_goes_into_another_part(text, count, fields):
    bodies = bodies_of(Message(text, "Report", url="https://example.com/report", fields=fields), meant_for=AT)
    assert count <= len(bodies) <= 5
    for body in bodies:
        found, size = marks_of(body["text"])
        assert found <= 100
        assert size <= 9_000
    whole = "".join(body["text"] for body in bodies)
    links = re.findall(r"\((https://[^)]*)\)", text)
    assert all(f'<a href="{link}">' in whole for link in links)
    assert "more character" not in whole


def test_more_marks_than_all_parts_may_have_are_written_out_and_that_is_said():
    text = "\n".join(f"- [entry {number}](https://x.example.com/{number}) **is** `down`" for number in range(400))
    with watched_cuts() as cuts:
        bodies = bodies_of(Message(text, "Report"))
    whole = "\n".join(body["text"] for body in bodies)
    assert all(f"entry {number} (https://x.example.com/{number}) is down" in whole for number in range(400))
    assert not re.search("<(?!/?b>)", whole)
    assert cuts == [WrittenOut(1200)]


def test_telegram_finds_no_mention_command_or_file_in_what_is_sent():
    text = (
        "user @admin_alerts: /tmp is full, run deploy.sh or /restart@bot, see README.md, a@example.sh, https://x.yz/@me/run.sh `@code /cmd`"
    )
    expected = (
        "user @\u2060admin_alerts: /\u2060tmp is full, run deploy.\u2060sh or /\u2060restart@bot, see README.\u2060md, a@example.sh, "
    )
    body = body_of(Message(text, "@oncall check", fields=(("@who", "main.py"),)))["text"]
    assert expected + '<a href="https://x.yz/@me/run.sh">https://x.yz/@me/run.sh</a> <code>@code /cmd</code>' in body
    assert "@\u2060oncall check" in body
    assert "<b>@\u2060who:</b> main.\u2060py" in body
    plain = body_of(Message(text, "@oncall check"), plain=True)["text"]
    assert expected in plain
    assert "https://x.yz/@me/run.sh" in plain
    assert "/var/log/x and 1/2 at 10:30" in body_of(Message("/var/log/x and 1/2 at 10:30"))["text"]


UNLINKED = [  # as tdjson shows
    *("http://nas", "http://packages:4873", "https://[::1]", "http://999.1.1.1", "http://a_b.corp", "https://x.y", "https://x.kr:99999"),
    *("ftp://nas", "sftp://x.kr", "smb://x.kr", "http://a-.kr", "http://a..kr", "#https://x.kr", "tg://https://x.kr", "x.kr/)https://x.kr"),
]
LINKED = ["https://x.kr", "http://gitlab.corp", "http://10.0.0.5", "https://x.kr:8443", "(https://x.kr", "말:https://x.kr"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://packages:4873/@babel/core", "http://packages:4873/@\u2060babel/core"),
        ("ftp://nas/@admin_x", "ftp://nas/@\u2060admin_x"),
        ("http://nas/-/start@bot", "http://nas/-/start@bot"),
        ("http://nas/x.sh?f=run.sh", "http://nas/x.sh?f=run.sh"),
        ("https://x.kr:99999/@admin_x", "https://x.kr:99999/@\u2060admin_x"),
        ("bin/run.sh Makefile.am user.name logger.info", "bin/run.sh Makefile.\u2060am user.\u2060name logger.\u2060info"),
        ("@\u202aadmin_x\u202c", "@\u2060\u202aadmin_x\u202c"),  # Telegram removes such characters first
    ],
)
def test_an_address_that_telegram_does_not_link_mentions_nobody(text: str, expected: str):
    for is_text, plain in ((False, False), (True, False), (False, True)):
        body = body_of(Message(text, text, fields=(("", text),), is_text=is_text), plain=plain)["text"]
        assert re.sub("<[^<>]*>", "", body) == f"ℹ️ {expected}\n\n{expected}\n\n{expected}"


def test_nor_where_the_name_is_marked_up():
    text = "@**admin_x** /**start**"
    assert message_of(CHANNEL.render(Message(text), HANDLER, context())[0]) == "@\u2060<b>admin_x</b> /\u2060<b>start</b>"


@given(
    address=st.builds(
        "{}{}{}".format, st.sampled_from(UNLINKED), st.sampled_from(["/", "/x/", "/a-", "?q=", "#", "/)"]), st.just("/@alice-/x:8")
    ),
    before=st.sampled_from(["", "see ", "**", "(", "<", "https://x.kr/ ", "["]),
    after=st.sampled_from(["", " now", "**", ")", ">", "/x", "](http://nas/@alice)", "](https://x.kr/)"]),
    is_text=st.booleans(),
    plain=st.booleans(),
)
def test_whatever_is_around_them(address: str, before: str, after: str, is_text: bool, plain: bool):
    text = f"{before}{address}{after}"
    message = Message(text, text, url=address, fields=((text, text), ("", address)), is_text=is_text)
    shown = re.sub("<a .*?</a>", "", body_of(message, plain=plain)["text"])
    assert "@\u2060alice" in shown
    assert "@alice" not in shown


@pytest.mark.parametrize("host", LINKED)
@pytest.mark.parametrize("path", ["/@alice", "/-/start", "?f=run.sh", "#/@alice"])
def test_an_address_that_telegram_links_stays_as_it_is(host: str, path: str):
    address = host + path
    body = body_of(Message("m", f"see {address}", fields=((address, address),)), plain=True)["text"]
    assert body == f"ℹ️ see {address}\n\nm\n\n{address}: {address}"
    assert (
        f"<b>ℹ️ see {address}</b>\n\nm\n\n<b>{address}:</b> {address}"
        == body_of(Message("m", f"see {address}", fields=((address, address),)))["text"]
    )


def test_the_operator_says_how_many_parts_at_most():
    (body,) = bodies_of(Message("word " * 13_000), service=load({"TOCSIN_MAX_PARTS": "1"}))
    assert check_text(body["text"]).endswith("more characters")
    assert "(1/" not in body["text"]


@given(messages, st.booleans())
def test_anything_makes_sound_html(message, late):
    for body in bodies_of(message, meant_for=AT if late else None):
        check_text(body["text"])


# ---------------------------------------------------------------------------------------------------------- classify


def verdict(status: int, body: object = b"", **headers: str) -> Outcome:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return CHANNEL.classify(HttpReply(status, {name.replace("_", "-"): value for name, value in headers.items()}, content), context())


def refusal(status: int, description: str, **more: object) -> dict:
    return {"ok": False, "error_code": status, "description": description, **more}


def test_success():
    assert verdict(200, {"ok": True, "result": {"message_id": 42}}) == Delivered("42")
    assert verdict(200, {"ok": True}) == Delivered()
    for body in (b"", b"ok", {"ok": False}, {"ok": 1}, {"ok": "true"}):
        assert verdict(200, body).reason is Reason.BAD_ANSWER


@pytest.mark.parametrize(
    ("status", "description"),
    [
        (401, "Unauthorized"),
        (404, "Not Found"),
        (403, "Forbidden: bot was blocked by the user"),
        (403, "Forbidden: user is deactivated"),
        (403, "Forbidden: bot was kicked from the supergroup chat"),
        (403, "Forbidden: bot was kicked from the channel chat"),
        (403, "Forbidden: bot is not a member of the channel chat"),
        (403, "Forbidden: the group chat was deleted"),
        (403, "Forbidden: bot can't initiate conversation with a user"),
    ],
)
def test_gone(status, description):
    assert isinstance(verdict(status, refusal(status, description)), Gone)


@pytest.mark.parametrize(
    ("status", "description", "reason", "ours"),
    [
        (400, "Bad Request: chat not found", Reason.NOT_FOUND, False),
        (400, "Bad Request: chat_id is empty", Reason.NOT_FOUND, False),
        (400, "Bad Request: message thread not found", Reason.NOT_FOUND, False),
        (400, "Bad Request: have no rights to send a message", Reason.FORBIDDEN, False),
        (400, "Bad Request: not enough rights to send text messages to the chat", Reason.FORBIDDEN, False),
        (403, "Forbidden: something new", Reason.FORBIDDEN, False),
        (400, 'Bad Request: can\'t parse entities: Unsupported start tag "x" at byte offset 0', Reason.PAYLOAD, True),
        (400, "Bad Request: message is too long", Reason.PAYLOAD, True),
        (400, "Bad Request: text must be non-empty", Reason.PAYLOAD, True),
        (400, "Bad Request: message text is empty", Reason.PAYLOAD, True),
        (413, "Request Entity Too Large", Reason.TOO_LARGE, True),
        (400, "Bad Request: ENTITIES_TOO_LONG", Reason.PAYLOAD, True),
        (400, "Bad Request: something new", Reason.PAYLOAD, True),
    ],
)
def test_refused(status, description, reason, ours):
    outcome = verdict(status, refusal(status, description))
    assert isinstance(outcome, Refused)
    assert (outcome.reason, outcome.ours) == (reason, ours)


@pytest.mark.parametrize("description", ["Bad Request: MESSAGE_TOO_LONG", "Bad Request: message is too long", "Bad Request: MESSAGE_EMPTY"])
def test_a_refusal_of_the_plain_form_is_no_fault_of_the_handler(description):
    outcome = CHANNEL.classify(HttpReply(400, {}, json.dumps(refusal(400, description)).encode()), context(plain=True))
    assert (outcome.reason, outcome.ours) == (Reason.PAYLOAD, True)


def test_a_group_that_became_a_supergroup_has_moved():
    body = refusal(400, "Bad Request: group chat was upgraded to a supergroup chat", parameters={"migrate_to_chat_id": -1009876543210})
    outcome = verdict(400, body)
    assert isinstance(outcome, Moved)
    assert outcome.settings == {"telegram_chat_id": "-1009876543210"}


@pytest.mark.parametrize(
    ("parameters", "header", "wait"),
    [
        ({"retry_after": 17}, "17", 17.0),
        ({"retry_after": 5}, "9", 9.0),
        ({"retry_after": 12}, None, 12.0),
        ({}, "3", 3.0),
        (None, None, None),
        ([1], None, None),
        ({"retry_after": "x"}, None, None),
    ],
)
def test_a_throttle_waits_for_the_longer_of_both(parameters, header, wait):
    body = refusal(429, "Too Many Requests: retry after 17", parameters=parameters)
    outcome = verdict(429, body, **({"retry_after": header} if header else {}))
    assert isinstance(outcome, Later)
    assert (outcome.reason, outcome.wait_seconds, outcome.counts) == (Reason.THROTTLED, wait, False)


def test_an_answer_that_is_not_telegrams_never_ends_a_handler():
    for status in (401, 403, 404):
        assert verdict(status, b"<html>nginx</html>").reason is Reason.BAD_ANSWER
    assert verdict(500, refusal(500, "Internal Server Error: restart")).reason is Reason.SERVER_ERROR
    assert verdict(502, b"").reason is Reason.SERVER_ERROR


def test_lost_answers():
    assert isinstance(CHANNEL.no_reply(NoReply(Reason.CUT, True)), Unknown)
    assert isinstance(CHANNEL.no_reply(NoReply(Reason.CONNECT, False)), Later)


BROKEN = [
    b"",
    b"ok",
    b"<html>",
    b"x" * 100_000,
    b"[" * 100_000,
    b'{"ok": true}',
    b"[1]",
    b"null",
    b'{"ok": false}',
    b"\xff\xfe",
    b'{"ok": false, "description": 5, "parameters": 5}',
    b'{"ok": false, "parameters": {"migrate_to_chat_id": "x"}}',
    b'{"ok": true, "result": []}',
]


@pytest.mark.parametrize("body", BROKEN)
def test_total_over_every_status(body):
    for status in range(100, 600):
        outcome = verdict(status, body)
        assert isinstance(outcome, Outcome)
        assert isinstance(outcome, Delivered) <= (200 <= status < 300)
        assert not isinstance(outcome, Moved)


# ---------------------------------------------------------------------------------------------------------- the wire


def test_over_the_wire():
    async def send() -> None:
        with Receiver() as server:
            service = options.load({"TOCSIN_TELEGRAM_API_URL": server.url("")})
            server.answer(f"/bot{TOKEN}/sendMessage", 200, body=b'{"ok":true,"result":{"message_id":7}}')
            wire = HttpWire(service)
            (request,) = CHANNEL.render(FULL, HANDLER, context(service=service))
            reply = await wire.send(request)
            await wire.close()
            assert CHANNEL.classify(reply, context()) == Delivered("7")
            (received,) = server.requests
            assert received.target == f"/bot{TOKEN}/sendMessage"
            assert received.json() == msgspec.json.decode(request.body)

    asyncio.run(send())


# ------------------------------------------------------------------------------------------------------------- topics


def test_a_topic_is_named_in_every_part_and_in_the_plain_form():
    message = Message("line\n\n" * 2000)
    settings = TelegramSettings(TOKEN, "-1001234567890", "45")
    for plain in (False, True):
        bodies = [json.loads(request.body) for request in CHANNEL.render(message, settings, context(plain=plain))]
        assert len(bodies) > 1
        assert [body["message_thread_id"] for body in bodies] == [45] * len(bodies)
    assert "message_thread_id" not in json.loads(CHANNEL.render(message, HANDLER, context())[0].body)
    assert CHANNEL.target(settings) == "chat -1001234567890, topic 45"


@pytest.mark.parametrize("value", ["-1001234567890:45", "-1001234567890/45", "-1001234567890_45", "@group:45"])
def test_a_topic_behind_the_chat_id_gets_a_sentence_that_names_its_field(value: str):
    assert "telegram_message_thread_id" in (FIELDS["telegram_chat_id"].check(value) or "")


@pytest.mark.parametrize(
    "value",
    ["https://t.me/c/1234567890/45", "t.me/c/1234567890/45", "http://t.me/c/1234567890/45/678", "https://telegram.me/group/45?thread=1"],
)
def test_a_link_to_a_topic_gets_a_sentence_that_names_both_fields(value: str):
    complaint = FIELDS["telegram_chat_id"].check(value) or ""
    assert "-100" in complaint and "telegram_message_thread_id" in complaint


@pytest.mark.parametrize(("value", "is_topic"), [("1", True), ("2147483647", True), ("2147483648", False), ("0", False), ("-1", False)])
def test_a_topic_is_a_whole_number(value: str, is_topic: bool):
    assert (FIELDS["telegram_message_thread_id"].check(value) is None) is is_topic
    assert FIELDS["telegram_message_thread_id"].check("x") is not None
