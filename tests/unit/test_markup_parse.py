"""Markdown to tree: every construct once, the promises that renderers rely on, and what must not hurt."""

import sys
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from tocsin.markup.html import html
from tocsin.markup.parse import MAX_DEPTH, MAX_SHORT, parse
from tocsin.markup.plain import plain
from tocsin.markup.tree import (
    Break,
    Code,
    CodeBlock,
    Emphasis,
    Heading,
    Image,
    Item,
    Link,
    Listing,
    Paragraph,
    Quote,
    Rule,
    Strike,
    Strong,
    Table,
    Text,
)
from wild import markdown


def line(text: str):
    (paragraph,) = parse(text)
    assert isinstance(paragraph, Paragraph)
    return paragraph.inside


def nodes(value):
    if isinstance(value, tuple):
        for part in value:
            yield from nodes(part)
    elif hasattr(value, "__struct_fields__"):
        yield value
        yield from nodes(structs.astuple(value))


def depth(value) -> int:
    if isinstance(value, tuple):
        return max(map(depth, value), default=0)
    return 1 + depth(structs.astuple(value)) if hasattr(value, "__struct_fields__") else 0


def test_words():
    assert line("a *b* **c** ~~d~~ `e`") == (
        Text("a "),
        Emphasis((Text("b"),)),
        Text(" "),
        Strong((Text("c"),)),
        Text(" "),
        Strike((Text("d"),)),
        Text(" "),
        Code("e"),
    )
    assert line("a\nb  \nc\\\nd") == (Text("a"), Break(), Text("b"), Break(hard=True), Text("c"), Break(hard=True), Text("d"))


def test_blocks():
    assert parse("# A\n\n> b\n\n---\n\n```py x\nc\n\nd\n```\n\n    e") == (
        Heading(1, (Text("A"),)),
        Quote((Paragraph((Text("b"),)),)),
        Rule(),
        CodeBlock("c\n\nd", "py"),
        CodeBlock("e"),
    )


def test_lists():
    one, two = Item((Paragraph((Text("a"),)),)), Item((Paragraph((Text("b"),)),))
    assert parse("- a\n- b") == (Listing((one, two)),)
    assert parse("- a\n\n- b") == (Listing((one, two), tight=False),)
    assert parse("3. a\n4. b") == (Listing((one, two), start=3),)
    nested = Item((Paragraph((Text("a"),)), Listing((two,), tight=True)))
    assert parse("- a\n  - b") == (Listing((nested,)),)
    inner_loose = parse("- a\n  - b\n\n  - b\n")[0]
    assert (inner_loose.tight, inner_loose.items[0].inside[1].tight) == (True, False)


@pytest.mark.parametrize("gap", ["\n", "\n\n"])
def test_tasks(gap):
    (listing,) = parse(f"- [ ] a{gap}- [x] b{gap}- c")
    assert [item.checked for item in listing.items] == [False, True, None]


def test_tables():
    assert parse("|a|b|\n|-|-|\n|*c*|\n") == (Table((((Text("a"),), (Text("b"),)), ((Emphasis((Text("c"),)),),))),)


@pytest.mark.parametrize("text", ["<div>\n*a*\n</div>", "<script>alert(1)</script>", "<!-- x\n\n y -->", "<b>", "<img src=x onerror=y>"])
def test_raw_html_is_text_as_written(text):
    assert plain(parse(text)) == text
    assert not any(isinstance(node, Emphasis | Link | Image) for node in nodes(parse(text)))


def test_links():
    assert line("[a](http://x.y/z)") == (Link("http://x.y/z", (Text("a"),)),)
    assert line("![a](http://x.y/z)") == (Image("http://x.y/z", (Text("a"),)),)
    assert line("<me@x.org>") == (Link("mailto:me@x.org", (Text("me@x.org"),)),)
    assert line("[](http://x.y)") == (Link("http://x.y", (Text("http://x.y"),)),)
    assert line("[![a](http://i.j)](http://x.y)") == (Link("http://x.y", (Text("a"),)),)
    assert line('[a b](<HTTP://x.y/a b|c">)') == (Link("http://x.y/a%20b%7Cc%22", (Text("a b"),)),)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[a](javascript:alert(1))", "a (javascript:alert(1))"),
        ("[a](JaVaScRiPt:x)", "a (JaVaScRiPt:x)"),
        ("[a](java&#10;script:x)", "a (java script:x)"),
        ("[a](/path)", "a (/path)"),
        ("[a](//x.y)", "a (//x.y)"),
        ("[a](http://)", "a (http://)"),
        ("[a](http://x:99999/)", "a (http://x:99999/)"),
        ("[a](http://[x/)", "a (http://[x/)"),
        ("[a](mailto:)", "a (mailto:)"),
        ("<foo:bar>", "foo:bar"),
        ("![a](data:image/png;base64,AAAA)", "a"),
        ("[a](http://x.y/%s)" % ("b" * 3000), "a (http://x.y/%s)" % ("b" * 3000)),
    ],
)
def test_what_is_no_link_to_open_is_words(text, shown):
    document = parse(text)
    assert plain(document) == shown
    assert not any(isinstance(node, Link | Image) for node in nodes(document))


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("see https://x.y/z.", ["https://x.y/z"]),
        ("(https://x.y/z)", ["https://x.y/z"]),
        ("https://x.y/a_(b)", ["https://x.y/a_(b)"]),
        ("https://x.y/a?b=c&d=e#f, and http://z!", ["https://x.y/a?b=c&d=e#f", "http://z"]),
        ("https://x.y에서", ["https://x.y"]),
        ("'http://x.y'", ["http://x.y"]),
        ("**http://x.y/a_b_c**", ["http://x.y/a_b_c"]),
        ("xhttp://x.y http:// ftp://x.y", []),
        ("`http://x.y`", []),
        ("[http://x.y](http://z.w)", ["http://z.w"]),
    ],
)
def test_bare_addresses_become_links(text, urls):
    assert [node.url for node in nodes(parse(text)) if isinstance(node, Link)] == urls


@pytest.mark.parametrize("text", ["#", "-", ">", "[a]: http://x.y", "[](/x)"])
def test_what_would_show_as_nothing_is_shown_as_written(text):
    assert plain(parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "[CRITICAL]: db-1\n\nhost is down",
        "[2026-11-24]: started\n[2026-11-25]: failed\nend",
        "a\n\n[오류]: 실패",
        "> [a]: b\n\nc",
        "- [a]: b\n- [c]: d",
        "[a]:\nb\n\nc",
        "a\n\n[guide]: https://x.y/a_b_c",
        "Disk check\n\n[CRITICAL]: /dev/sda1",
        "1. [a]: b\n2. [c d]: e",
    ],
)
def test_a_definition_that_nothing_refers_to_is_shown(text):
    assert plain(parse(text)) == text


def test_a_definition_that_is_referred_to_is_not_shown():
    assert plain(parse("see [A  b], `[c]: d`, [e]: f\n\n[a B]: https://x.y\n[a b]: other\n\n[path]: /x")) == (
        "see A  b (https://x.y), [c]: d, [e]: f"
    )


@pytest.mark.parametrize("text", ["", " \n\t ", "\x00\x07", "\ud800"])
def test_nothing_to_show(text):
    assert plain(parse(text)) == ""


def test_control_characters_are_gone_however_they_come():
    assert plain(parse("a\x00\x07\x0b\x1b\x7f\x85\ufeff\uffffb&#7;&#x85;&#xFEFF;c\td")) == "abc\td"
    assert plain(parse("a\r\nb\rc&#10;d")) == "a\nb\nc\nd"
    assert parse("`a\x07b`\n\n```\nc\x07\n```") == (Paragraph((Code("ab"),)), CodeBlock("c"))


@pytest.mark.parametrize(
    "text",
    [
        "> " * 1000 + "end",
        "- " * 1000 + "end",
        "1. " * 1000 + "end",
        "> - " * 1000 + "end",
        "*a **b " * 500 + "end" + "** *" * 500,
        "~~a **b " * 500 + "end" + "** ~~" * 500,
        "![" * 1000 + "end" + "](http://x.y)" * 1000,
        "[" * 5000 + "end",
        "".join(f"{'  ' * level}- a\n" for level in range(180)) + "  " * 180 + "- end",
    ],
)
def test_deep_nesting_is_flattened_and_loses_nothing(text):
    document = parse(text)
    assert depth(document) <= MAX_DEPTH + 6
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(300 + len_of_stack())
    try:
        assert "end" in plain(document)
        assert "end" in html(document)
    finally:
        sys.setrecursionlimit(limit)


def len_of_stack() -> int:
    frame, count = sys._getframe(), 0
    while frame:
        frame, count = frame.f_back, count + 1
    return count


@pytest.mark.parametrize(
    "text",
    [
        "|a" * 5000 + "|\n" + "|-" * 5000 + "|\n" + "|b\n" * 13000,
        "|a" * 90 + "|\n" + "|-" * 90 + "|\n" + "|b\n" * 20000,
        "- a\n" * 16000,
        "http://a.b " * 6000,
        "http://a" * 8000,
        "http://" * 9000,
        "http://a_" * 7000,
        "https://a.b에_" * 4000,
        "https://a/b를*" * 3500,
        "https://a/_?b=한" * 3000,
        "https://:한_" * 4000,
        "`http://a_`" * 6000,
        "[a](http://b_)" * 4500,
        "|" + "http://a_|" * 3000 + "\n" + "|-" * 3000 + "|",
        "가)**을" * 8000,
        "https://x.y/" + "(" * 30000 + ")" * 30000,
        "*a_" * 20000,
        "&a" * 32000,
        "[a](b " * 10000,
        "[a]: b\n" * 9000,
        "[a]: b\n\n[a]\n" * 5000,
        "[a" * 30000 + "]: b",
        "x " + "\\[" * 32000 + "]:",
        "[" + "\\]" * 32000 + "]: b",
        "[\n" * 32000 + "]: b",
    ],
)
def test_nothing_takes_long(text):
    started = time.process_time()
    document = parse(text)
    plain(document)
    html(document)
    assert time.process_time() - started < 2.0


@given(markdown | st.text(st.characters(codec=None), max_size=60))
def test_the_promises_hold_for_anything(text):
    document = parse(text)
    assert depth(document) <= MAX_DEPTH + 6
    for node in nodes(document):
        match node:
            case Text():
                assert node.text
                assert all(unicodedata.category(character) not in {"Cc", "Cs"} or character == "\t" for character in node.text)
            case Link() | Image():
                assert node.url.startswith(("http://", "https://", "mailto:"))
                assert node.url.isprintable()
                assert not set(node.url) & set(' "<>\\^`{|}')
                assert node.inside
                assert not any(isinstance(inner, Link | Image) for inner in nodes(node.inside))
            case Table():
                assert all(isinstance(cell, tuple) for row in node.rows for cell in row)
            case _:
                pass


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
def test_parse_is_the_same_twice(text):
    assert parse(text) is parse(text)
    assert parse.__wrapped__(text) == parse(text)


@pytest.mark.parametrize(("length", "is_kept"), [(MAX_SHORT, True), (MAX_SHORT + 1, False)])
def test_few_trees_of_long_texts_are_kept(length: int, is_kept: bool):
    def text(number: int) -> str:
        return f"{number:03}".ljust(length, "a")

    first = parse(text(0))
    assert parse(text(0)) is first
    for number in range(1, 20):
        parse(text(number))
    assert (parse(text(0)) is first) == is_kept
