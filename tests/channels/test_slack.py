"""Slack: settings, blocks (checked by Slack's own models), text, limits, verdicts."""

import asyncio
import json
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slack_sdk.models.blocks import Block

from mentions import mattermost, rocket_chat
from receiver import Receiver
from tocsin import settings as options
from tocsin.channels.contract import fields_of
from tocsin.channels.slack import CHANNEL, SlackSettings
from tocsin.markup.length import utf16
from tocsin.markup.markdown import escape, with_links_apart
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
    {"slack": f"https://hooks.slack.com/services/T0123ABCD/B0123ABCD/{re.sub(r'[^A-Za-z0-9]', '', SECRET_TOKEN)}"},
    {"slack": f"http://chat.example.com/hooks/{SECRET_TOKEN}"},
]
TOKEN = "AbCdEfGhIjKlMnOpQrStUvWx"
URL = f"https://hooks.slack.com/services/T0123/B0456/{TOKEN}"
HANDLER = SlackSettings(URL)
FIELD = fields_of(SlackSettings)["slack"]
FULL = Message(
    "**db-1** is at `99 %`, see [the *graph*](https://example.com/g?a=b&c=d)\n\n- one\n- two <!channel>",
    "Disk *full* & <hot>",
    Severity.CRITICAL,
    "https://example.com/a?b=c&d=e",
    (("host", "db_1 *x*"), ("", "alone"), ("name", ""), ("", "")),
    AT,
)


def fits(request: HttpRequest) -> None:
    body = json.loads(request.body)
    assert len(body["text"]) <= 40_000
    if not request.url.startswith("https://hooks.slack.com/"):
        assert utf16(body["text"]) <= (16_383 if request.url == MATTERMOST.slack else 5_000)
    assert len(body.get("blocks", [])) <= 50
    assert sum(map(len, strings(body.get("blocks", [])))) < 11_000


def message_of(request: HttpRequest) -> str:
    """The elements that stand for the message."""
    blocks = [block for block in json.loads(request.body)["blocks"] if block["type"] == "rich_text"]
    return "\n".join(json.dumps(element, ensure_ascii=False) for block in blocks for element in block["elements"])


def bodies_of(message: Message, **changes: object) -> list[dict]:
    return [json.loads(request.body) for request in CHANNEL.render(message, HANDLER, context(**changes))]


def body_of(message: Message, **changes: object) -> dict:
    (body,) = bodies_of(message, **changes)
    return body


def strings(value: object, key: str = "text"):
    """Every text in blocks."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key and isinstance(inner, str):
                yield inner
            else:
                yield from strings(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner, key)


def check_blocks(blocks: list[dict]) -> None:
    parsed = Block.parse_all(blocks)
    assert len(parsed) == len(blocks) <= 50
    for block, source in zip(parsed, blocks, strict=True):
        assert block is not None
        block.validate_json()
        assert type(block) is not Block
        assert block.to_dict()["type"] == source["type"]
    assert all(strings(blocks))
    assert sum(map(len, strings(blocks))) < 11_000
    for block in blocks:
        match block["type"]:
            case "header":
                assert len(block["text"]["text"].encode("utf-16-le")) // 2 <= 150
            case "section":
                assert 1 <= len(block["fields"]) <= 10
                assert all(len(field["text"]) <= 2000 for field in block["fields"])
            case "rich_text":
                assert block["elements"]
                assert all(len(text) <= 3000 for text in strings(block))
            case _:
                pass


# ---------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "url",
    [
        URL,
        URL.replace("slack.com", "slack-gov.com"),
        "https://mattermost.example.com/hooks/xyz",
        "http://10.0.0.5:8065/hooks/xyz?a=b",
        "https://example.com/services/T/B/x",
    ],
)
def test_accepted(url):
    assert FIELD.check(url) is None


@pytest.mark.parametrize(
    ("url", "word"),
    [
        (URL.replace("https", "http"), "https://hooks.slack.com/services/"),
        (URL.replace("services", "workflows"), "workflow"),
        ("https://hooks.slack.com/triggers/T0123/456/abc", "workflow"),
        ("https://hooks.slack.com/services/T0123/B0456", "https://hooks.slack.com/services/"),
        ("https://hooks.slack.com./services/T0123/B0456/x", "https://hooks.slack.com/services/"),
        (URL + "?x=1", "https://hooks.slack.com/services/"),
        (URL.replace("hooks.", "u:p@hooks."), "https://hooks.slack.com/services/"),
        ("ftp://x.y", "http"),
        ("", "http"),
    ],
)
def test_refused_in_a_sentence_without_the_value(url, word):
    said = FIELD.check(url)
    assert word in said
    assert TOKEN not in said


def test_the_example_is_accepted():
    assert FIELD.check(FIELD.example) is None


def test_what_is_shown_hides_the_token():
    assert FIELD.hide(URL).shown == "https://hooks.slack.com/services/T0123/B0456/••••"
    assert FIELD.hide(URL).secrets == (TOKEN,)
    assert FIELD.hide("https://u:p@mm.example.com/hooks/abc").shown == "https://mm.example.com/••••"
    assert CHANNEL.target(HANDLER) == "Slack workspace T0123"
    assert CHANNEL.target(SlackSettings("https://u:p@mm.example.com:8443/hooks/abc")) == "mm.example.com:8443"
    (request,) = CHANNEL.render(FULL, HANDLER, context())
    (pace,) = CHANNEL.paces(HANDLER, options.load({}))
    assert (pace.count, pace.seconds) == (3, 3.0)
    assert all(TOKEN not in text for text in (repr(request), request.shown_url, repr(HANDLER), repr(pace), request.body.decode()))


# ------------------------------------------------------------------------------------------------------------ render


def test_the_whole_message_is_in_text():
    assert body_of(FULL, meant_for=AT)["text"] == (
        "🚨 Disk *full* &amp; &lt;hot&gt;\nLate: this was meant for 2026-11-24 10:00:00 UTC\n\n"
        "db-1 is at `99 %`, see <https://example.com/g?a=b&amp;c=d|the graph>\n\n- one\n- two &lt;!channel&gt;\n\n"
        "host: db_1 *x*\nalone\nname: \n\n<https://example.com/a?b=c&amp;d=e>"
    )


def test_slack_reads_no_markup_in_the_plainest_form():
    (plain,) = CHANNEL.render(Message("a*b*c = 5", at=AT, is_text=True), HANDLER, context(plain=True))
    assert json.loads(plain.body) == {"text": "ℹ️ Info\n\na*b*c = 5", "mrkdwn": False}


def test_the_blocks():
    blocks = body_of(FULL, meant_for=AT)["blocks"]
    check_blocks(blocks)
    assert [block["type"] for block in blocks] == ["header", "rich_text", "section", "rich_text", "context"]
    assert blocks[0]["text"] == {"type": "plain_text", "text": "🚨 Disk *full* & <hot>", "emoji": False}
    assert [field["text"] for field in blocks[2]["fields"]] == ["host\ndb_1 *x*", "alone", "name"]
    assert blocks[3]["elements"][0]["elements"] == [{"type": "link", "url": FULL.url, "text": "Open"}]
    assert blocks[4]["elements"][0]["text"] == "Late: this was meant for 2026-11-24 10:00:00 UTC"


def test_a_message_of_words_alone():
    blocks = body_of(Message("done"))["blocks"]
    assert [block["type"] for block in blocks] == ["header", "rich_text"]
    assert blocks[0]["text"]["text"] == "ℹ️ Info"


def test_a_title_too_long_for_a_header_is_not_cut():
    blocks = body_of(Message("m", "t" * 256))["blocks"]
    check_blocks(blocks)
    assert blocks[0]["elements"][0]["elements"][0]["text"] == "ℹ️ " + "t" * 256


def test_the_longest_message_fits_and_says_that_it_was_cut():
    message = Message("word " * 13_000, "t" * 256, Severity.WARNING, "https://x.y/" + "z" * 2036, (("n" * 256, "v" * 1024),) * 25, AT)
    bodies = bodies_of(message, meant_for=AT)
    assert len(bodies) == 5
    for body in bodies:
        check_blocks(body["blocks"])
        assert len(body["text"]) < 40_000
    for text in (bodies[-1]["text"], "".join(strings(bodies[-1]["blocks"]))):
        assert "more characters" in text
    assert [sum(len(block.get("fields", ())) for block in body["blocks"]) for body in bodies] == [0, 0, 0, 0, 25]


def test_a_long_message_goes_out_in_numbered_parts():
    paragraphs = [f"{number}. " + "word " * 250 for number in range(12)]
    bodies = bodies_of(Message("\n\n".join(paragraphs), "Disk", url="https://x.y/z", fields=(("host", "db-1"),)))
    assert [body["blocks"][0]["text"]["text"] for body in bodies] == [f"ℹ️ Disk ({number}/2)" for number in (1, 2)]
    assert [[block["type"] for block in body["blocks"]][-1] for body in bodies] == ["rich_text", "rich_text"]
    for shown in ([body["text"] for body in bodies], ["".join(strings(body["blocks"])) for body in bodies]):
        assert sum(text.count("word") for text in shown) == 3000


@given(messages, st.booleans())
def test_anything_makes_sound_blocks(message, late):
    for body in bodies_of(message, meant_for=AT if late else None):
        check_blocks(body["blocks"])
        assert 0 < len(body["text"]) < 40_000
        assert "<!" not in body["text"]
        assert "<@" not in body["text"]


ELSEWHERE = SlackSettings("https://mattermost.example.com/hooks/xyz")
MATTERMOST = SlackSettings("https://example.com/chat/hooks/bywsw8zt5jgpte3nm65qjiru6h")


def elsewhere(message: Message, **changes: object) -> str:
    """The text for a server that reads Markdown."""
    (request,) = CHANNEL.render(message, ELSEWHERE, context(**changes))
    return json.loads(request.body)["text"].partition("\n\n")[2]


def test_at_another_host_text_is_markdown_without_entities():
    (request,) = CHANNEL.render(FULL, ELSEWHERE, context(meant_for=AT))
    assert json.loads(request.body)["text"] == (
        "🚨 Disk \\*full\\* & <\u2060hot>\nLate: this was meant for 2026-11-24 10:00:00 UTC\n\n"
        "**db-1** is at `99 %`, see [the _graph_](https://example.com/g?a=b&c=d)\n\n- one\n- two <\u2060!channel>\n\n"
        "host: db_1 \\*x\\*\nalone\nname: \n\nhttps://example.com/a?b=c&d=e"
    )
    (plain,) = CHANNEL.render(FULL, ELSEWHERE, context(plain=True))
    assert "Disk \\*full\\* & <\u2060hot>" in json.loads(plain.body)["text"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # as Mattermost's own marked and Rocket.Chat's message-parser read it
        ("```c\nif (a < b && c > d) x;\n```", "```c\nif (a < b && c > d) x;\n```"),
        ("`a<b && c` &amp;lt; &lt;", "`a<b && c` &\u2060lt; <"),
        ("*italic* *i* **b(c)**을 ~~x~~ *기울임*은 a*b*c", "_italic_ *i* **b(c)**을 ~~x~~ *기울임*은 a*b*c"),
        ('*가나다*。 *가나다*🚨 *가나다*, *"인용"*은', '*가나다*。 *가나다*🚨 _가나다_, *\u2060"인용"*은'),
        ("a*b*`c` *abc*`d`", "a*b*`c` *abc*`d`"),
        ("**중요 *기울임*은 ~~*가*나~~** *b*", "**중요 기울임은 ~~가나~~** *b*"),
        ("**a [*기*은](https://x.y) *abc***", "**a [기은](https://x.y) _abc_**"),
        ("***abc***은 **abc***def*은", "**abc**은 **abc**\u2060*def*은"),
        (r"\# a \* b \_\_x\_\_ \~\~y\~\~ \`z\`", r"\# a \* b \_\_x\_\_ \~\~y\~\~ \`z\`"),
        (r"\- a", "\u2060- a"),
        (r"\> a", "\u2060> a"),
        (r"1\. a", r"1\. a"),
        (r"\!\[x\](https://example.com/x.png)", "![x]\u2060(<https://example.com/x.png|https://example.com/x.png>)"),
        ("![x](https://example.com/x.png)", "[x](https://example.com/x.png)"),
        ("`a || b` || c **d|**||", "`a || b` |\u2060| c **d|**|\u2060|"),
        ("@all, @bob, me@example.com, :c: 12:30:45", "@\u2060all, @\u2060bob, me@example.com, :\u2060c: 12:\u206030:45"),
        ("`<!channel> <a|b>` \\<https://x.y|l>", "`<\u2060!channel> <a¦b>` <\u2060[https://x.y%7Cl](https://x.y%7Cl) >"),
        ("\\<https://x.y/a_b\\> \\<me@x.y\\>", "<\u2060https://x.y/a_b > <\u2060me@x.y >"),
        ("**`rm /var/**/tmp`** ~~`a~~b`~~ **`a*b`**", "`rm /var/**/tmp` `a~~b` **`a*b`**"),
        ("**``a`*`b``** **``a*`b``**", "``a`*`b`` **``a*`b``**"),
        ("**https://x.y/**/z**, ~~https://x.y/~z~~", "https://x.y/**/z, https://x.y/~z"),
        (r"**5 \* 3** ~~a\~~~ *a\_b\*c*", r"5 \* 3 a\~ a_b\*c"),
        ("**https://x.y/**/z**은", "https://x.y/**/z 은"),
        ("http://host:PORT/x_y_z, http://host:99999/*a", "http://host:PORT/x_y_z, http://host:99999/*a"),
        ("[see https://x.y/a_b_](https://x.y/c_d)", "[see https://x.y/a_b\\_](https://x.y/c_d)"),
        ("x.y/a_b a_b@x.y _a_", "x.y/a_b a_b@x.y *a*"),
        ("\\|a|b|\\\n|---|:--|\\\n|c|d|", "|a|b|\n\u2060|---|:--|\n|c|d|"),
        ("\u00a0\u00a0\u00a0\u00a0a_b\n\u00a0- c", "\u2060\u00a0\u00a0\u00a0\u00a0a_b\n\u00a0\u2060- c"),
        ("1234567890\\. a", "1234567890\\. a"),
        ("# C#", "# C#\u2060"),
        ("Done\\![log](https://x.y) \\\\`c`", "Done!\u2060[log](https://x.y) \\\u2060`c`"),
        (r"\\\\nas\share\_x\_\*.bak", "\\\u2060\\nas\\share_x\\_\\*.bak"),
        (
            "https://example.com/a_b/*d, (https://example.com/a_b). https://example.com에서 (https://example.com/a_b)를 <me@example.com>",
            "https://example.com/a_b/*d, (https://example.com/a_b ). [https://example.com](https://example.com)에서 "
            "(https://example.com/a_b )를 me@example.com",
        ),
        ("# One\n\n##### Five\n\n> q\n> r\n\n1. a\n2. b\n\n- [x] t", "# One\n\n**Five**\n\n> q\n> r\n\n1. a\n2. b\n\n- ☑ t"),
        ("|a|b|\n|-|-|\n|*c*|d|", "```\na | b\n--+--\nc | d\n```"),
    ],
)
def test_markdown_for_those_who_read_it(text: str, expected: str):
    assert elsewhere(Message(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see <https://x.io/path> now", "see <\u2060[https://x.io/path](https://x.io/path) > now"),
        ("<https://x.io/a_b>, <me@x.io>", "<\u2060https://x.io/a_b >, <\u2060me@x.io >"),
        ("   three\n    four a_b __c__", "\u00a0\u00a0\u00a0three\n\u2060\u00a0\u00a0\u00a0\u00a0four a_b \\_\\_c\\_\\_"),
        ("|a_b|free|\n|---|---|\n|c|2 %|", "|a_b|free|\n\u2060|---|---|\n|c|2 %|"),
        ("a | b\n :--|--\nc | d", "a | b\n\u2060\u00a0:--|--\nc | d"),
        ("&lt; &#60; R&D", "&\u2060lt; &\u2060#60; R&D"),
        ('http://p:9/g?e=up{job="node_exporter"}&g0_tab=1 x', 'http://p:9/g?e=up{job="node_exporter"}&g0_tab=1 x'),
        ("http://p/a|b^c_*d `http://p/{a_b}`", "http://p/a|b^c_*d \\`http://p/{a_b} \\`"),
        ("1https://x.io/_a", "1\u2060https://x.io/_a"),
        ("cmd1 || exit 1 || true", "cmd1 |\u2060| exit 1 |\u2060| true"),
        ("||\nif (a || b || c)\n|||", "|\u2060|\nif (a |\u2060| b |\u2060| c)\n|\u2060|\u2060|"),
        ("D: is full (99 %), C: (98 %)\n8) of 8)", "D\u2060: is full (99 %), C: (98 %\u2060)\n8\u2060) of 8\u2060)"),
        ("http://k/?_g=(a:!((q:(m:(x:y)))))&b_c=1 x", "http://k/?_g=%28a:!%28%28q:%28m:%28x:y%29%29%29%29%29&b_c=1 x"),
    ],
)
def test_plain_text_is_read_as_it_was_sent_elsewhere(text: str, expected: str):
    assert elsewhere(Message(text, is_text=True)) == expected
    assert with_links_apart(escape(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[FIRING:1] see\n\n- [graph](https://x.y/z), (https://x.y)",
            "[FIRING:1] see\n\n- <https://x.y/z|graph>, (<https://x.y|https://x.y>)",
        ),
        ("[a](https://x.y) [b] **[`c` *def*](https://x.y/e_f)**", "[a](https://x.y) [b] **<https://x.y/e_f|`c` _def_>**"),
        ("`[a](https://x.y)` [b](https://x.y)", "`[a](https://x.y)` <https://x.y|b>"),
        ("[x] a < b [c](https://x.y)", "[x] a < b <https://x.y|c>"),
        (
            "[x] [a](https://x.y) b < c < d | e < f [g](https://x.y)",
            "[x] <https://x.y|a> b ‹ c ‹ d | e < f <https://x.y|g>",
        ),
        ("[x] [[b]](https://x.y) [a\\] b](https://x.y)", "[x] <https://x.y|[b]> <https://x.y|a] b>"),
        ("[x] [a > b|`c < d`](https://x.y/e_(f)) [g](https://x.y)", "[x] <https://x.y/e_%28f%29|a › b¦`c ‹ d`> <https://x.y|g>"),
    ],
)
def test_a_bracket_is_no_part_of_the_next_link(text: str, expected: str):
    assert elsewhere(Message(text)) == expected


def test_nor_is_one_in_the_title():
    (request,) = CHANNEL.render(Message("see [graph](https://x.y/z)", "[FIRING:1] Disk"), ELSEWHERE, context())
    assert json.loads(request.body)["text"] == "ℹ️ [FIRING:1] Disk\n\nsee <https://x.y/z|graph>"


def test_an_address_keeps_its_end():
    assert elsewhere(Message("see https://example.com/a_(b) now")) == "see https://example.com/a_%28b%29 now"


# What stands before and after names, and what makes servers read it in another way.
_naming = st.lists(
    st.sampled_from(
        [
            *("@all", "@here", "@alice", "@channel", "@", "all", "svc", "9", "한", "를", "é", "w", "http", " ", "\n", "\n\n"),
            *"_*~`\\[](){}<>|!#&;:.,-+/'\"",
            *("**", "~~", "```", "![", "](", "||", "<!", "<@", "&#64;", "&commat;", "> ", "- ", "    ", ":x:", "\u2068", "mailto:"),
            *(
                "https://m.example/",
                "http://a_b/",
                "www.x.example/",
                "https://u:p@x.y/",
                "ftp://x/",
                "<https://x.y/",
                "[l](https://x.y/@all)",
            ),
        ]
    ),
    max_size=14,
).map("".join)
_namings = st.builds(
    Message,
    text=_naming,
    title=_naming,
    url=_naming.map(lambda path: "https://m.example/" + "".join(path.split())) | st.just(""),
    fields=st.lists(st.tuples(_naming, _naming), max_size=2).map(tuple),
    is_text=st.booleans(),
)


OUR_LINK = re.compile(r"<(?:(?:https?|ftp)://|www\.|mailto:)[^\s<|>]+\|[^\n<|>]+>", re.IGNORECASE)


@given(messages | _namings, st.sampled_from([ELSEWHERE, MATTERMOST]), st.booleans())
def test_nothing_wakes_anybody_elsewhere(message, handler, plain):
    for request in CHANNEL.render(message, handler, context(plain=plain)):
        text = json.loads(request.body)["text"]
        assert not re.search(r"<[!@]|<[^\n<|>]+\|[^\n>]+>", OUR_LINK.sub("", text))
        assert not mattermost(text)
        assert not rocket_chat(text)
        assert text
        fits(request)


@pytest.mark.parametrize("plain", [False, True])
def test_a_message_is_split_for_servers_that_take_less_than_slack(plain: bool):
    lines = [f"2026-11-24 10:{number:02} web-1 nginx: 🚨 upstream timed out (110) while reading response header" for number in range(80)]
    requests = CHANNEL.render(Message("\n".join(lines), "Log", is_text=True), ELSEWHERE, context(plain=plain))
    texts = [json.loads(request.body)["text"] for request in requests]
    assert [text.split("\n")[0] for text in texts] == ["ℹ️ Log (1/2)", "ℹ️ Log (2/2)"]
    assert all(utf16(text) < 5_000 for text in texts)
    assert [line for text in texts for line in text.split("\n") if "nginx" in line] == lines


@pytest.mark.parametrize(
    ("url", "limit"),
    [
        (MATTERMOST.slack, 10_900),
        ("https://example.com/hooks/bywsw8zt5jgpte3nm65qjiru6h?a=b", 10_900),
        ("https://example.com/hooks/bywsw8zt5jgpte3nm65qjiru6", 4_900),
        ("https://example.com/chat/hooks/jhvWvpMZhXwvcdrvW/bywsw8zt5jgpte3nm65qjiru6h", 4_900),
        ("https://example.com/hooks/68a1f0c2b7d34e5f60718293/bywsw8zt5jgpte3nm65qjiru6h", 4_900),
    ],
)
@pytest.mark.parametrize("plain", [False, True])
def test_only_mattermost_gets_more_in_a_part_than_rocket_chat_takes(url: str, limit: int, plain: bool):
    requests = CHANNEL.render(Message("word " * 10_000), SlackSettings(url), context(plain=plain))
    texts = [json.loads(request.body)["text"] for request in requests]
    assert limit - 100 < max(map(utf16, texts)) <= limit
    assert (sum(text.count("word") for text in texts) == 10_000) == (limit == 10_900)


@pytest.mark.parametrize("url", ["https://x.y/" + "(" * 2036, "https://x.y/" + "@a" * 1018])
def test_an_address_that_leaves_a_message_no_room_is_left_out(url: str):
    for plain in (False, True):
        (request,) = CHANNEL.render(Message("word", url=url, fields=(("n" * 256, "v" * 1024),) * 25), ELSEWHERE, context(plain=plain))
        fits(request)
        assert "word" in json.loads(request.body)["text"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("_@channel_ DB down", "\\_@\u2060channel\\_ DB down"),
        ("svc_@all db.@all 한@all a@b.example", "svc\\_@\u2060all db.@\u2060all 한@\u2060all a@b.example"),
        ("@@all @.all @ all", "@@\u2060all @\u2060.all @ all"),
        ("by A (https://m.example/@alice)", "by A ([https://m.example/@\u2060alice](https://m.example/@alice))"),
        ("https://x.y/@bob를", "[https://x.y/@\u2060bob](https://x.y/@bob)를"),
        ("[ see https://x.y/@bob", "[ see <https://x.y/@bob|https://x.y/@\u2060bob>"),
        ("http://a_b/@bob", "http://a_b/%40bob"),
        ("https://x.y/a>@bob", "[https://x.y/a>@\u2060bob](https://x.y/a%3E@bob)"),
        ("https://u:p@x.y/", "https://u:p@x.y/"),
    ],
)
def test_no_name_is_mentioned(text: str, expected: str):
    assert elsewhere(Message(text, is_text=True)) == expected
    assert with_links_apart(escape(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<!@here>", "!@\u2060here"),
        ("@**a\\*b**", "@\u2060a\\*b"),
        ("`a @all @` `@all`", "`a @\u2060all @` `@all`"),
        ("```\n@all\nme@x.y $@\n```", "```\n@\u2060all\nme@x.y $@\n```"),
        ("|a|\n|-|\n|@all|", "```\na\n----\n@\u2060all\n```"),
    ],
)
def test_nor_is_one_in_markdown(text: str, expected: str):
    assert elsewhere(Message(text)) == expected


# ---------------------------------------------------------------------------------------------------------- classify


def verdict(status: int, body: bytes = b"", **headers: str) -> Outcome:
    return CHANNEL.classify(HttpReply(status, {name.replace("_", "-"): value for name, value in headers.items()}, body), context())


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b"ok", Delivered),
        (200, b"ok\n", Delivered),
        (200, b"no_service", Later),
        (200, b"invalid_payload", Later),
        (201, b"", Delivered),
        (200, b'{"success":true}', Delivered),
        (204, b"", Delivered),
        (404, b"no_service", Gone),
        (404, b"no_service_id", Gone),
        (404, b"no_team", Gone),
        (404, b"no_active_hooks", Gone),
        (403, b"invalid_token", Gone),
        (403, b"team_disabled", Gone),
        (410, b"channel_is_archived", Gone),
        (410, b"whatever", Gone),
        (403, b"action_prohibited", Refused),
        (404, b"channel_not_found", Refused),
        (403, b"posting_to_general_channel_denied", Refused),
        (400, b"user_not_found", Refused),
        (404, b"<html>not found</html>", Refused),
        (500, b"rollup_error", Later),
        (503, b"", Later),
        (302, b"", Later),
    ],
)
def test_verdicts(status, body, expected):
    assert isinstance(verdict(status, body), expected)


@pytest.mark.parametrize(
    "word", ["invalid_payload", "no_text", "invalid_blocks", "invalid_blocks_format", "too_many_attachments", "msg_blocks_too_long"]
)
def test_what_is_wrong_with_the_content_is_ours(word):
    for body in (word.encode(), b'{"ok":false,"error":"%b"}' % word.encode()):
        outcome = verdict(400, body)
        assert isinstance(outcome, Refused)
        assert (outcome.reason, outcome.ours) == (Reason.PAYLOAD, True)


@pytest.mark.parametrize("plain", [False, True])
def test_rocket_chat_refuses_what_is_longer_than_its_administrator_allows(plain: bool):
    reply = HttpReply(400, {}, b'{"success":false,"error":"error-message-size-exceeded"}')
    assert CHANNEL.classify(reply, context(plain=plain)) == Refused(Reason.PAYLOAD, f"400 {reply.body.decode()}", ours=True)


def test_slack_itself_must_say_ok():
    assert verdict(200, b"<html>login</html>", x_slack_req_id="1").reason is Reason.BAD_ANSWER
    assert verdict(200, b"", x_slack_backend="r").reason is Reason.BAD_ANSWER


@pytest.mark.parametrize("body", [b"<!DOCTYPE html><title>Blocked by your company</title>", b"", b'{"success":true}', b"OK"])
def test_on_slack_s_own_host_only_ok_is_a_yes(body):
    def answered(body: bytes, is_official: bool) -> Outcome:
        return CHANNEL.classify(HttpReply(200, {}, body), context(is_official=is_official))

    assert isinstance(answered(body, is_official=True), Later)
    assert answered(body, is_official=True).reason is Reason.BAD_ANSWER
    assert isinstance(answered(body, is_official=False), Delivered)
    assert isinstance(answered(b"ok", is_official=True), Delivered)


def test_a_throttle_waits_as_long_as_it_says():
    assert verdict(429, b"rate_limited", retry_after="30") == Later(Reason.THROTTLED, 30.0, False, "429 rate_limited")
    assert verdict(429, b"") == Later(Reason.THROTTLED, None, False, "429")


def test_lost_answers():
    assert isinstance(CHANNEL.no_reply(NoReply(Reason.TIMEOUT, True)), Unknown)
    assert isinstance(CHANNEL.no_reply(NoReply(Reason.DNS, False)), Later)
    assert isinstance(CHANNEL.no_reply(NoReply(Reason.BLOCKED, False)), Refused)


BROKEN = [
    b"",
    b"ok",
    b"<html>",
    b"x" * 100_000,
    b"[" * 100_000,
    b'{"ok": true}',
    b"[1]",
    b"null",
    b'"ok"',
    b'{"error": 5}',
    b"\xff\xfe",
    b'{"error":["no_service"]}',
]


@pytest.mark.parametrize("body", BROKEN)
def test_total_over_every_status(body):
    for status in range(100, 600):
        outcome = verdict(status, body)
        assert isinstance(outcome, Outcome)
        assert isinstance(outcome, Delivered) <= (200 <= status < 300)


# ---------------------------------------------------------------------------------------------------------- the wire


def test_over_the_wire():
    async def send() -> None:
        with Receiver() as server:
            server.answer("/hooks/x", 200, body=b"ok")
            wire = HttpWire(options.load({"TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8"}))
            (request,) = CHANNEL.render(FULL, SlackSettings(server.url("/hooks/x")), context())
            reply = await wire.send(request)
            await wire.close()
            assert CHANNEL.classify(reply, context()) == Delivered()
            (received,) = server.requests
            assert received.headers["content-type"].startswith("application/json")
            assert received.headers["user-agent"].startswith("tocsin/")
            assert received.json() == msgspec.json.decode(request.body)

    asyncio.run(send())
