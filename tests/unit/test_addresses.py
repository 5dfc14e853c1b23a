"""Bare addresses: found before emphasis is, by GFM's rules for ASCII and by those of Korean, Chinese and Japanese writing beyond it.

The expected values of ASCII are what cmark-gfm 0.29.0.gfm.13 makes of the same text.
"""

import importlib
import json
import re
from functools import cache

import pytest

from corpus import MARKED_ADDRESSES
from tocsin.channels.contract import settings_of
from tocsin.channels.registry import CHANNELS
from tocsin.markup.addresses import find
from tocsin.markup.parse import parse
from tocsin.markup.plain import plain
from tocsin.markup.tree import CodeBlock, Emphasis, Image, Link, Listing, Paragraph, Strong, Table, Text
from tocsin.model import HttpRequest, Message
from unit.test_markup_parse import line, nodes
from wild import context

KIBANA = "https://kibana.example.com/#/?_a=(columns:!(_source),query:'*error*')"
GFM = [  # a text, and the addresses that cmark-gfm links in it
    (f"see {KIBANA} now", [KIBANA]),
    ("**https://x.y/a*b**", ["https://x.y/a*b"]),
    ("_https://x.y/a_b_", ["https://x.y/a_b"]),
    ("~~https://x.y/a~b~~", ["https://x.y/a~b"]),
    ("(https://x.y/a_(b)_c).", ["https://x.y/a_(b)_c"]),
    ("'https://x.y/it's_*me*'", ["https://x.y/it's_*me"]),
    ("https://x.y/*a* and *b*", ["https://x.y/*a"]),
    ("https://x.y/[a](b)*c*d", ["https://x.y/[a](b)*c*d"]),
    ("https://x.y/a`b`c", ["https://x.y/a`b`c"]),
    (r"https://x.y/a\_b\*c", [r"https://x.y/a\_b\*c"]),
    ("https://x.y/?a=1&amp;b=2&copy;", ["https://x.y/?a=1&amp;b=2"]),
    ("https://x.y/{a}|b^c", ["https://x.y/{a}|b^c"]),
    ("https://x.y/a!*!", ["https://x.y/a"]),
    ("1https://x.y/*z*a", ["https://x.y/*z*a"]),
    ("www.x.y/*a*b, www.x.y", ["www.x.y/*a*b", "www.x.y"]),
    ("`https://x.y/*a*` [t](https://x.y/*b*) <https://x.y/*c*>", []),
    ("xhttps://x.y/*a* http:// awww.x.y", []),
]
BEYOND = [
    ('{"url":"https://x.y/_a_b","b":1}', ["https://x.y/_a_b"]),  # GFM goes on to the brace, which opens something else
    ("https://ko.wikipedia.org/wiki/대한민국 보세요", ["https://ko.wikipedia.org/wiki/대한민국"]),
    ("https://ko.wikipedia.org/wiki/C언어_(프로그래밍)를", ["https://ko.wikipedia.org/wiki/C언어_(프로그래밍)"]),
    ("https://ko.wikipedia.org/wiki/특수:*최근*바뀜", ["https://ko.wikipedia.org/wiki/특수:*최근*바뀜"]),
    ("https://example.com에서 https://example.com:8080에서", ["https://example.com", "https://example.com:8080"]),
    ("(https://example.com/a)를", ["https://example.com/a"]),
    ("(https://example.com/a_(b))를", ["https://example.com/a_(b)"]),
    ("**https://example.com/a**를 '*https://example.com/b*'라고", ["https://example.com/a", "https://example.com/b"]),
    ("https://example.com/docs를 보고 https://example.com/?q=1에서는", ["https://example.com/docs", "https://example.com/?q=1"]),
    ("https://example.com/a로부터, https://example.com/b였습니다", ["https://example.com/a", "https://example.com/b"]),
    ("see \u2068https://example.com/x\u2069 now, https://example.com/y\u200b.", ["https://example.com/x", "https://example.com/y"]),
    ("https://x.y/?q=한국&p=서울-역_앞#목차", ["https://x.y/?q=한국&p=서울-역_앞#목차"]),
    ("https://도메인.한국/경로/*하나*둘", ["https://도메인.한국/경로/*하나*둘"]),
    ("「https://x.y/a」は https://x.y/b。https://x.y/cを", ["https://x.y/a", "https://x.y/b", "https://x.y/c"]),
    ("https://x.y/münchen_*süd*_straße", ["https://x.y/münchen_*süd*_straße"]),
]


def links(text: str) -> list[str]:
    return [
        node.inside[0].text for node in nodes(parse(text)) if isinstance(node, Link) and node.inside[0].text.startswith(("http", "www"))
    ]


@pytest.mark.parametrize(("text", "expected"), GFM + BEYOND)
def test_a_bare_address_stands_whole(text: str, expected: list[str]):
    assert [found for found in links(text) if found not in {"t", "https://x.y/*c*"}] == expected


@pytest.mark.parametrize("text", [text for text, _ in GFM[:3] + BEYOND[:6]])
def test_in_plain_text_the_same_addresses_are_found(text: str):
    found = [text[start:end] for start, end in find(text)]
    assert found == dict(GFM + BEYOND)[text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ftp://files.example.com/backup_*old*/db_1.tar failed", ["ftp://files.example.com/backup_*old*/db_1.tar"]),
        ("**FTP://x.y/_a_b**, (ftp://u:p@x.y:21/a_(b)_c).", ["FTP://x.y/_a_b", "ftp://u:p@x.y:21/a_(b)_c"]),
        ("ftp://x.y/_a_b에서 「ftp://x.y/*한글*_a」", ["ftp://x.y/_a_b", "ftp://x.y/*한글*_a"]),
    ],
)
def test_an_ftp_address_is_words_and_whole(text: str, expected: list[str]):
    assert [text[start:end] for start, end in find(text)] == expected
    document = parse(text)
    assert plain(document) == text.replace("**", "")
    assert not any(isinstance(node, Link | Emphasis) for node in nodes(document))


def test_other_schemes_are_no_addresses():
    for text in ("sftp://x.y/*a*", "ftps://x.y/*a*", "xftp://x.y/*a*", "javascript://x.y/*a*", "ftp:/x.y/*a*"):
        assert not list(find(text))
        assert any(isinstance(node, Emphasis) for node in nodes(parse(text)))
    for text in ("[a](ftp://x.y/b)", "<ftp://x.y/b>", "![a](ftp://x.y/b)", "[a](javascript://x.y/b)"):
        assert not any(isinstance(node, Link | Image) for node in nodes(parse(text)))


def test_what_is_around_an_address_is_markup_as_ever():
    assert line("*a* https://x.y/_b_c *d*") == (
        Emphasis((Text("a"),)),
        Text(" "),
        Link("https://x.y/_b_c", (Text("https://x.y/_b_c"),)),
        Text(" "),
        Emphasis((Text("d"),)),
    )
    assert line("**https://x.y/a*b**") == (Strong((Link("https://x.y/a*b", (Text("https://x.y/a*b"),)),)),)
    assert line("[t](https://x.y/*a*) www.x.y/*b*c")[0] == Link("https://x.y/*a*", (Text("t"),))
    assert line("www.x.y/*b*c") == (Link("http://www.x.y/*b*c", (Text("www.x.y/*b*c"),)),)
    assert parse("[a]\n\n[a]: https://x.y/*b*_c_") == (Paragraph((Link("https://x.y/*b*_c_", (Text("a"),)),)),)


def test_in_lists_tables_and_code():
    assert links("- https://x.y/*a*b\n- > https://x.y/*c*d\n\n# https://x.y/_e_f") == [
        "https://x.y/*a*b",
        "https://x.y/*c*d",
        "https://x.y/_e_f",
    ]
    (table,) = parse("|a|b|\n|-|-|\n|https://x.y/*a*b|https://x.y/c\\|_d_e|\n")
    assert isinstance(table, Table)
    assert [node.inside[0].text for node in nodes(table) if isinstance(node, Link)] == ["https://x.y/*a*b", "https://x.y/c|_d_e"]
    assert parse("```\nhttps://x.y/*a*\n```\nhttps://x.y/*b*c")[0] == CodeBlock("https://x.y/*a*")
    assert isinstance(parse("- https://x.y/*a*b")[0], Listing)


@pytest.mark.parametrize("entity", ["&#xFFFE;", "&#65534;", "&#xFFFE;0&#xFFFE;", "&#xFFFE;99&#xFFFE;", f"&#xFFFE;{'9' * 5000}&#xFFFE;"])
def test_an_entity_is_no_stand_in(entity: str):
    document = parse(f"https://x.y/*a*b {entity} `{entity}` [t](https://x.y/{entity})")
    assert "\ufffe" not in str(document)
    assert str(document).count("https://x.y") == 3  # no address where there was none


def test_an_address_too_long_to_open_is_not_torn_either():
    text = f"https://x.y/{'*a_' * 900}z"
    assert plain(parse(text)) == text


@cache
def texts(kind: str, message: Message) -> str:
    """All that is read of a notification, the backslashes that a dialect takes away again left out."""
    kind, _, elsewhere = kind.partition(" ")
    samples = importlib.import_module(f"channels.test_{kind}").SAMPLES
    settings = settings_of(CHANNELS[kind], samples[1 if elsewhere else 0])
    requests = CHANNELS[kind].render(message, settings, context())
    bodies = [json.dumps(json.loads(request.body), ensure_ascii=False) for request in requests if isinstance(request, HttpRequest)]
    return (
        "\n".join(bodies)
        .replace("\\\\", "\\")
        .replace("%28", "(")
        .replace("%29", ")")
        .replace("%27", "'")
        .replace("&amp;", "&")
        .replace("&#x27;", "'")
    )


@pytest.mark.parametrize("address", MARKED_ADDRESSES)
@pytest.mark.parametrize("kind", [*(kind for kind in CHANNELS if kind not in {"email", "webhook"}), "slack elsewhere"])
@pytest.mark.parametrize("where", ["text", "list", "table", "title", "field"])
def test_every_channel_shows_an_address_whole(kind: str, where: str, address: str):
    message = {
        "text": Message(f"see {address} now"),
        "list": Message(f"1. see {address} now"),
        "table": Message(f"|a|\n|-|\n|{address}|"),
        "title": Message("m", f"see {address} now"),
        "field": Message("m", fields=(("log", f"see {address} now"),)),
    }[where]
    shown = texts(kind, message)
    is_escaped = kind == "microsoft_teams" or (kind == "discord" and address.startswith("ftp:"))  # where it is no link
    assert address in (re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", shown) if is_escaped else shown)
