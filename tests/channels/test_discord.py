"""Discord: settings, the embed and its limits in UTF-16, verdicts."""

import asyncio
import json
import re

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from receiver import Receiver
from tocsin import settings as options
from tocsin.channels.contract import fields_of
from tocsin.channels.discord import CHANNEL, COLORS, DiscordSettings
from tocsin.markup.length import WrittenOut, watched_cuts
from tocsin.model import (
    Delivered,
    Gone,
    HttpReply,
    HttpRequest,
    Later,
    Message,
    NoReply,
    Outcome,
    Reason,
    Refused,
    Severity,
    Unknown,
)
from tocsin.net.http import HttpWire
from wild import AT, SECRET_TOKEN, context, messages

SAMPLES = [
    {"discord": f"https://discord.com/api/webhooks/123456789012345678/{SECRET_TOKEN * 2}"[:121]},
    {"discord": f"https://chat.example.com/api/webhooks/1/{SECRET_TOKEN}"},
]
ID = "123456789012345678"
TOKEN = "Abc_def-" * 8 + "wxyz"
URL = f"https://discord.com/api/webhooks/{ID}/{TOKEN}"
HANDLER = DiscordSettings(URL)
FIELD = fields_of(DiscordSettings)["discord"]
FULL = Message(
    "**db-1** is full @everyone <@1>, see [graph](https://example.com/g)",
    "Disk *full*",
    Severity.CRITICAL,
    "https://example.com/a?b=c",
    (("host", "db_1"), ("", "alone"), ("name", ""), ("", "")),
    AT,
)


def fits(request: HttpRequest) -> None:
    for embed in json.loads(request.body)["embeds"]:
        texts = [text for field in embed.get("fields", []) for text in (field["name"], field["value"])]
        texts += [embed.get("title", ""), embed.get("description", ""), embed.get("footer", {}).get("text", "")]
        assert sum(map(units, texts)) <= 6000
        assert units(embed.get("description", "")) <= 4096


def message_of(request: HttpRequest) -> str:
    return json.loads(request.body)["embeds"][0]["description"]


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def embeds_of(message: Message, **changes: object) -> list[dict]:
    embeds = []
    for request in CHANNEL.render(message, HANDLER, context(**changes)):
        body = json.loads(request.body)
        assert body["allowed_mentions"] == {"parse": []}
        assert set(body) == {"embeds", "allowed_mentions"}
        embeds += body["embeds"]
        assert len(body["embeds"]) == 1
    return embeds


def embed_of(message: Message, **changes: object) -> dict:
    (embed,) = embeds_of(message, **changes)
    return embed


def check_embed(embed: dict) -> None:
    """https://docs.discord.com/developers/resources/message#embed-object-embed-limits"""
    fields = embed.get("fields", [])
    assert 0 < units(embed["title"]) <= 256
    assert units(embed.get("description", "")) <= 4096
    assert len(fields) <= 25
    for field in fields:
        assert 0 < units(field["name"]) <= 256
        assert 0 < units(field["value"]) <= 1024
        assert field["name"].strip()
        assert field["value"].strip()
    texts = [embed["title"], embed.get("description", ""), embed.get("footer", {}).get("text", "")]
    texts += [field[key] for field in fields for key in ("name", "value")]
    assert sum(map(units, texts)) <= 6000


# ---------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("url", "wire"),
    [
        (URL, f"https://discord.com/api/v10/webhooks/{ID}/{TOKEN}?wait=true"),
        (URL.replace("discord.com", "discordapp.com"), f"https://discord.com/api/v10/webhooks/{ID}/{TOKEN}?wait=true"),
        (URL.replace("discord.com/api", "ptb.discord.com/api/v9"), f"https://discord.com/api/v10/webhooks/{ID}/{TOKEN}?wait=true"),
        (URL.replace("discord.com", "canary.discord.com"), f"https://discord.com/api/v10/webhooks/{ID}/{TOKEN}?wait=true"),
        (f"{URL}?thread_id={ID}", f"https://discord.com/api/v10/webhooks/{ID}/{TOKEN}?thread_id={ID}&wait=true"),
        (f"{URL}?wait=false&thread_id={ID}", f"https://discord.com/api/v10/webhooks/{ID}/{TOKEN}?thread_id={ID}&wait=true"),
        ("https://chat.example.com/api/webhooks/1/x", "https://chat.example.com/api/webhooks/1/x?wait=true"),
        ("http://proxy:8080/d/slack?a=b&wait=false#f", "http://proxy:8080/d/slack?a=b&wait=true"),
        ("https://discord.com.example.com/x?wait=1", "https://discord.com.example.com/x?wait=true"),
    ],
)
def test_accepted_and_sent_to(url, wire):
    assert FIELD.check(url) is None
    (request,) = CHANNEL.render(FULL, DiscordSettings(url), context())
    assert request.url == wire
    assert request.guarded


@pytest.mark.parametrize(
    ("url", "word"),
    [
        (URL.replace("https", "http"), "https://discord.com/api/webhooks/"),
        (URL + "/slack", "/slack"),
        (URL + "/github?wait=true", "/github"),
        (f"https://discord.com/api/webhooks/{ID}", "https://discord.com/api/webhooks/"),
        (f"https://discord.com/api/webhooks/12/{TOKEN}", "https://discord.com/api/webhooks/"),
        (URL + "?thread_id=x", "thread_id"),
        (URL + "?x=1", "thread_id"),
        (URL + "#x", "https://discord.com/api/webhooks/"),
        (f"https://discord.com:8443/api/webhooks/{ID}/{TOKEN}", "https://discord.com/api/webhooks/"),
        ("https://discord.com/channels/1/2", "https://discord.com/api/webhooks/"),
        ("nonsense", "http"),
    ],
)
def test_refused_in_a_sentence_without_the_value(url, word):
    said = FIELD.check(url)
    assert word in said
    assert TOKEN not in said


def test_the_example_is_accepted():
    assert FIELD.check(FIELD.example) is None


def test_what_is_shown_hides_the_token():
    hidden = FIELD.hide(f"{URL}?thread_id={ID}")
    assert hidden.shown == f"https://discord.com/api/webhooks/{ID}/••••"
    assert hidden.secrets == (TOKEN,)
    assert FIELD.hide("https://x.y/api/webhooks/1/abcdef").shown == "https://x.y/••••"
    assert CHANNEL.target(HANDLER) == f"Discord webhook {ID}"
    assert CHANNEL.target(DiscordSettings("https://u:p@x.y/abc")) == "x.y"
    (request,) = CHANNEL.render(FULL, HANDLER, context())
    paces = CHANNEL.paces(HANDLER, options.load({}))
    assert all(TOKEN not in text for text in (repr(request), request.shown_url, repr(HANDLER), repr(paces), request.body.decode()))


def test_paces():
    first, second, whole = CHANNEL.paces(HANDLER, options.load({}))
    assert [(pace.count, pace.seconds) for pace in (first, second, whole)] == [(5, 2.0), (30, 60.0), (40, 1.0)]
    assert first.key == second.key != whole.key == "discord"
    assert CHANNEL.paces(DiscordSettings(f"{URL}?thread_id={ID}"), options.load({}))[0].key == first.key
    assert all(pace.key != "discord" for pace in CHANNEL.paces(DiscordSettings("https://x.y/z"), options.load({})))


# ------------------------------------------------------------------------------------------------------------ render


def test_the_embed():
    assert embed_of(FULL, meant_for=AT) == {
        "title": "🚨 Disk \\*full\\*",
        "url": "https://example.com/a?b=c",
        "description": "**db-1** is full \\@everyone \\<\\@1>, see [graph](https://example.com/g)",
        "color": COLORS[Severity.CRITICAL],
        "fields": [
            {"name": "host", "value": "db\\_1", "inline": True},
            {"name": "\u200b", "value": "alone", "inline": True},
            {"name": "name", "value": "\u200b", "inline": True},
        ],
        "footer": {"text": "Late: this was meant for 2026-11-24 10:00:00 UTC"},
        "timestamp": "2026-11-24T10:00:00Z",
    }


def test_a_message_of_words_alone():
    assert embed_of(Message("done")) == {"title": "ℹ️ Info", "color": COLORS[Severity.INFO], "description": "done"}


def test_the_longest_message_fits_and_says_that_it_was_cut():
    message = Message("word " * 13_000, "t_" * 128, Severity.WARNING, "https://x.y", (("n_" * 128, "v_" * 512),) * 25, AT)
    embeds = embeds_of(message, meant_for=AT)
    assert len(embeds) == 5
    for embed in embeds:
        check_embed(embed)
        assert "…" in embed["title"]
    assert [embed["description"].endswith(" more characters") for embed in embeds] == [False] * 4 + [True]
    assert not any("fields" in embed for embed in embeds[:-1])
    assert len(embed["fields"]) == 25
    assert all(field["value"].endswith("…") for field in embed["fields"])
    assert units(embed["description"]) > 3000


def test_a_long_text_alone_uses_the_room():
    assert [units(embed["description"]) > 4000 for embed in embeds_of(Message("word " * 13_000))] == [True] * 5


def test_a_long_message_goes_out_in_numbered_parts():
    paragraphs = [f"{number}. " + "word " * 250 for number in range(6)]
    embeds = embeds_of(Message("\n\n".join(paragraphs), "Disk", fields=(("host", "db-1"),)))
    assert [embed["title"] for embed in embeds] == [f"ℹ️ Disk \\({number}/2\\)" for number in (1, 2)]
    assert ["fields" in embed for embed in embeds] == [False, True]
    assert sum(embed["description"].count("word") for embed in embeds) == 1500


def elements_of(description: str) -> int:
    """What Discord makes an element of: emoji, bold, italic, struck, code, links."""
    found = re.findall(r"\*\*|(?<!\*)\*(?!\*)|~~|(?<!`)`(?!`)", re.sub(r"\\.", "", description))
    return len(found) // 2 + len(re.findall(r"\]\(http|<http|[\u2600-\u27bf]", description))


def test_no_embed_has_more_elements_than_are_shown():
    """https://github.com/discord/discord-api-docs/issues/8501: of 45 such entries the last ones were not shown."""
    entries = [f"✅\t**[Link {number}](https://example.com)**\n**ID**: `{number:018d}`" for number in range(1, 46)]
    embeds = embeds_of(Message("\n\n".join(entries)))
    assert [elements_of(embed["description"]) <= 95 for embed in embeds] == [True] * len(embeds)
    assert len(embeds) > 2
    assert sum(embed["description"].count("[Link") for embed in embeds) == 45


@pytest.mark.parametrize("address", ["https://x.y/{number}", "https://x.y/{{{number}}}"])
def test_no_embed_has_more_addresses_than_are_shown(address: str):
    embeds = embeds_of(Message("\n".join(address.format(number=number) for number in range(200)), is_text=True))
    shown = [elements_of(embed["description"]) for embed in embeds]
    assert sum(shown) == 200
    assert max(shown) <= 95


@pytest.mark.parametrize("emoji", ["✅", "⏳", "ℹ️", "🆘", "▶️", "↔️", "1️⃣", "🀄"])
@pytest.mark.parametrize("is_text", [False, True])
@pytest.mark.parametrize("count", [90, 150, 350, 460])
def test_no_embed_has_more_emoji_than_are_shown(emoji: str, count: int, is_text: bool):
    embeds = embeds_of(Message("\n".join(f"{emoji} host-{number:03} ok" for number in range(count)), is_text=is_text))
    shown = [len(re.findall(rf"(?<!\\){emoji}", re.sub(r"\\[^\w\s]", "", embed["description"]))) for embed in embeds]
    assert max(shown) <= 95
    assert sum(embed["description"].count("host-") for embed in embeds) == count
    assert sum(shown) == (count if count < 330 else 0)


def test_more_elements_than_all_embeds_show_are_written_out_and_that_is_said():
    text = "\n".join(f"- ✅ [entry {number}](https://x.example.com/_{number}_) **is** `down`" for number in range(200))
    with watched_cuts() as cuts:
        embeds = embeds_of(Message(text))
    whole = "\n".join(embed["description"] for embed in embeds)
    assert elements_of(whole.replace("✅", "")) == 0
    assert all(rf"entry {number} \(https\://x.example.com/\_{number}\_\) is down" in whole for number in range(200))
    assert cuts == [WrittenOut(800)]


@pytest.mark.parametrize("url", ["http://nas:8080/x", "http://localhost/", "http://[::1]:8080/_a_", "http://nas./x", "HTTP://NAS/x"])
def test_an_address_that_discord_refuses_stands_in_the_description(url: str):
    embed = embeds_of(Message("disk full", "nas", url=url))[0]
    assert "url" not in embed
    assert embed["description"] == f"disk full\n\n<{url}>"
    last = embeds_of(Message("word " * 13_000, url=url))[-1]
    assert last["description"].endswith(f" more characters\n\n<{url}>")
    check_embed(last)


@pytest.mark.parametrize("url", ["https://example.com/x", "http://10.0.0.1:8080/", "http://nas.local/x"])
def test_an_address_that_discord_takes_is_the_titles(url: str):
    embed = embeds_of(Message("disk full", "nas", url=url))[0]
    assert (embed["url"], embed["description"]) == (url, "disk full")


def test_short_fields_stay_whole_beside_a_long_text():
    embed = embeds_of(Message("word " * 13_000, fields=(("host", "db-1"), ("note", "n" * 1000))))[-1]
    assert [field["value"] for field in embed["fields"]] == ["db-1", "n" * 1000]
    assert units(embed["description"]) > 4000


@given(messages, st.booleans())
@example(Message("", "[x](http://a.b/c)@everyone"), False)
def test_anything_makes_a_sound_embed(message, late):
    embeds = embeds_of(message, meant_for=AT if late else None)
    for embed in embeds:
        check_embed(embed)
    embed = embeds[-1]
    for text in (embed["title"], *(field[key] for field in embed.get("fields", []) for key in ("name", "value"))):
        assert not re.search(r"(?<!\\)@", re.sub(r"<https?://[^<>\s]+>", "", text))  # an address is left whole, and wakes nobody


# ---------------------------------------------------------------------------------------------------------- classify


def verdict(status: int, body: object = b"", **headers: str) -> Outcome:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return CHANNEL.classify(HttpReply(status, {name.replace("_", "-"): value for name, value in headers.items()}, content), context())


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, {"id": "987"}, Delivered("987")),
        (200, {"id": 987}, Delivered()),
        (204, b"", Delivered()),
        (404, {"code": 10015, "message": "Unknown Webhook"}, Reason.GONE),
        (401, {"code": 50027, "message": "Invalid Webhook Token"}, Reason.GONE),
        (403, {"code": 50027}, Reason.GONE),
        (404, {"code": 10003}, Reason.GONE),
        (400, {"code": 220001}, Reason.SETTINGS),
        (400, {"code": 220003}, Reason.SETTINGS),
        (400, {"code": 240000}, Reason.PAYLOAD),
        (403, {"code": 50013, "message": "Missing Permissions"}, Reason.FORBIDDEN),
        (401, {"message": "401: Unauthorized", "code": 0}, Reason.UNAUTHORIZED),
        (404, {"message": "404: Not Found", "code": 0}, Reason.REJECTED),
        (410, b"", Reason.GONE),
        (502, b"<html>", Reason.SERVER_ERROR),
    ],
)
def test_verdicts(status, body, expected):
    outcome = verdict(status, body)
    assert outcome == expected if isinstance(expected, Delivered) else outcome.reason is expected
    if expected is Reason.GONE:
        assert isinstance(outcome, Gone)


@pytest.mark.parametrize(("status", "code"), [(400, 50035), (400, 50006), (413, 40005)])
def test_what_is_wrong_with_the_content_is_ours(status, code):
    outcome = verdict(status, {"code": code, "errors": {"embeds": {}}})
    assert isinstance(outcome, Refused)
    assert (outcome.reason, outcome.ours) == (Reason.PAYLOAD, True)


def test_the_forum_answer_tells_what_to_do():
    assert "thread_id" in verdict(400, {"code": 220001}).detail


@pytest.mark.parametrize(
    ("body", "header", "wait"),
    [
        ({"retry_after": 1.5, "global": False}, "1", 1.5),
        ({"retry_after": 0.3}, "4", 4.0),
        ({"retry_after": 7}, None, 7.0),
        ({"message": "x"}, "2", 2.0),
        ({"message": "x"}, None, None),
        ({"retry_after": True}, None, None),
        ({"retry_after": "9"}, None, None),
        ({"retry_after": -1}, None, None),
        (b'{"retry_after": 1e400}', None, None),
        (b"<html>", None, 900.0),
        (b"<html>", "60", 60.0),
    ],
)
def test_a_throttle_waits_for_the_longer_of_both(body, header, wait):
    outcome = verdict(429, body, **({"retry_after": header} if header else {}))
    assert isinstance(outcome, Later)
    assert (outcome.reason, outcome.counts) == (Reason.THROTTLED, False)
    if body != b'{"retry_after": 1e400}':  # the decoder may refuse such a body as a whole
        assert outcome.wait_seconds == wait


def test_a_ban_of_our_address_is_not_the_webhooks_end():
    outcome = verdict(403, b"<html>error code: 1015</html>")
    assert isinstance(outcome, Later)
    assert outcome.wait_seconds >= 600


def test_lost_answers():
    assert isinstance(CHANNEL.no_reply(NoReply(Reason.TIMEOUT, True)), Unknown)
    assert isinstance(CHANNEL.no_reply(NoReply(Reason.TLS, False)), Later)


@pytest.mark.parametrize(
    ("status", "body", "cut", "expected"),
    [
        (200, b'{"id": "987"}', None, Delivered("987")),
        (204, b"", None, Delivered()),
        (200, b'{"id": "98', Reason.CUT, Delivered()),
    ],
)
def test_on_discord_s_own_host_its_message_is_a_yes(status, body, cut, expected):
    assert CHANNEL.classify(HttpReply(status, {}, body, cut), context(is_official=True)) == expected


@pytest.mark.parametrize(
    ("body", "cut", "expected"),
    [
        (b"\r\n<!DOCTYPE html><title>Sign in to this network</title>", None, Later),
        (b"<html", Reason.CUT, Unknown),
        (b"", None, Unknown),
        (b'{"ok": true}', None, Unknown),
    ],
)
def test_on_discord_s_own_host_anything_else_is_no_yes(body, cut, expected):
    outcome = CHANNEL.classify(HttpReply(200, {}, body, cut), context(is_official=True))
    assert isinstance(outcome, expected)
    assert outcome.reason is (cut or Reason.BAD_ANSWER)


BROKEN = [
    b"",
    b"ok",
    b"<html>",
    b"x" * 100_000,
    b"[" * 100_000,
    b'{"ok": true}',
    b"[1]",
    b"null",
    b'{"code": [1], "id": {}}',
    b"\xff\xfe",
    b'{"code": "10015"}',
    b'{"code": 1e99, "retry_after": {}}',
]


@pytest.mark.parametrize("body", BROKEN)
def test_total_over_every_status(body):
    for status in range(100, 600):
        outcome = verdict(status, body)
        assert isinstance(outcome, Outcome)
        assert isinstance(outcome, Delivered) == (200 <= status < 300)
        assert not isinstance(outcome, Gone) or status == 410


# ---------------------------------------------------------------------------------------------------------- the wire


def test_over_the_wire():
    async def send() -> None:
        with Receiver() as server:
            server.answer("/api/webhooks/1/x", 200, body=b'{"id": "42"}')
            wire = HttpWire(options.load({"TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8"}))
            (request,) = CHANNEL.render(FULL, DiscordSettings(server.url("/api/webhooks/1/x")), context())
            reply = await wire.send(request)
            await wire.close()
            assert CHANNEL.classify(reply, context()) == Delivered("42")
            (received,) = server.requests
            assert received.query == "wait=true"
            assert received.headers["content-type"].startswith("application/json")
            assert received.json() == msgspec.json.decode(request.body)

    asyncio.run(send())


@pytest.mark.parametrize(
    "headers, rest",
    [
        ({}, 0.0),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset-after": "2"}, 0.0),
        ({"x-ratelimit-remaining": "0"}, 0.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset-after": "1.25"}, 1.25),
        ({"x-ratelimit-remaining": " 0 ", "x-ratelimit-reset-after": "999999"}, 3600.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset-after": "-1"}, 0.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset-after": "soon"}, 0.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset-after": "nan"}, 0.0),
    ],
)
def test_a_limit_that_is_used_up_is_learned_from_the_headers(headers, rest):
    assert CHANNEL.rest_seconds is not None
    assert CHANNEL.rest_seconds(HttpReply(200, headers, b""), 0) == rest
