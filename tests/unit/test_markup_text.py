"""Plain text and HTML for e-mail."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given

from tocsin.markup.html import html
from tocsin.markup.parse import parse
from tocsin.markup.plain import plain
from tocsin.markup.renderer import display_width
from tocsin.markup.tree import Link, Paragraph, Text
from wild import markdown

TAGS = {
    "p",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "pre",
    "code",
    "blockquote",
    "ul",
    "ol",
    "li",
    "table",
    "tr",
    "th",
    "td",
    "hr",
    "br",
    "a",
    "strong",
    "em",
    "s",
}


class Checker(HTMLParser):
    """Independent of the renderer: collects what is wrong with a fragment."""

    def __init__(self, fragment: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.faults: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(fragment)
        self.close()
        self.faults.extend(f"{tag} stays open" for tag in self.open)

    def handle_starttag(self, tag, attrs):
        if tag not in TAGS:
            self.faults.append(f"<{tag}>")
        allowed = {"style", "dir", "href", "start", "cellpadding", "cellspacing"}
        self.faults.extend(f"{tag} {name}" for name, _ in attrs if name not in allowed)
        self.links.extend(value for name, value in attrs if name == "href")
        if tag == "a" and "a" in self.open:
            self.faults.append("a in a")
        if tag not in {"br", "hr"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> out of order")

    def handle_data(self, data):
        self.words.append(data)

    def handle_comment(self, data):
        self.faults.append("comment")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# A *b*\n\nc **d** `e` ~~f~~", "A b\n\nc d e ~f~"),
        ("a\nb\\\nc", "a\nb\nc"),
        ("[l](http://x.y) <http://x.y> ![i](http://z.w) <me@x.org>", "l (http://x.y) http://x.y i (http://z.w) me@x.org"),
        ("- a\n- b\n  - c\n\n3. d\n   ```\n   e\n\n   f\n   ```", "- a\n- b\n  - c\n\n3. d\n   e\n\n   f"),
        ("- [ ] a\n- [x] b", "- ☐ a\n- ☑ b"),
        ("> a\n> > b\n>\n> c", "> a\n> \n> > b\n> \n> c"),
        ("|a|한국|\n|-|-|\n|long|x|", "a    | 한국\n-----+-----\nlong | x"),
    ],
)
def test_plain(text, expected):
    assert plain(parse(text)) == expected


def test_the_columns_of_a_table_line_up_with_wide_characters():
    head, rule, row = plain(parse("|한국어|b|\n|-|-|\n|a|c|")).split("\n")
    assert display_width(head.partition("|")[0]) == display_width(row.partition("|")[0]) == rule.index("+")


def test_one_long_cell_does_not_blow_up_the_table():
    table = "|a|b|\n|-|-|\n" + "|x|y|\n" * 1000 + f"|{'z' * 5000}|y|\n"
    assert len(plain(parse(table))) < 3 * len(table) + 50_000


def test_html_escapes_and_links():
    fragment = html(parse("a <script>alert('x')</script> \"&\" [a](http://x.y/?a=b&c=d) ![i](https://x.y/i.png) `<b>`"))
    checked = Checker(fragment)
    assert not checked.faults
    assert checked.links == ["http://x.y/?a=b&c=d", "https://x.y/i.png"]
    assert "".join(checked.words) == "a <script>alert('x')</script> \"&\" a i <b>"
    assert "<img" not in fragment


def test_html_shows_an_address_that_it_does_not_link():
    fragment = html((Paragraph((Link("javascript:x", (Text("a"),)),)),))
    assert not Checker(fragment).links
    assert "a (javascript:x)" in fragment


def test_html_structure():
    fragment = re.sub(
        ' (style|cellpadding|cellspacing|dir)="[^"]*"', "", html(parse("3. a\n4. b\n\n|a|\n|-|\n|b|\n\n```\nx < y\n```\n\n> q\n\n---"))
    )
    assert fragment == (
        '<ol start="3">\n<li>a</li>\n<li>b</li>\n</ol>\n<table>\n<tr><th>a</th></tr>\n<tr><td>b</td></tr>\n</table>\n'
        "<pre><code>x &lt; y</code></pre>\n<blockquote><p>q</p></blockquote>\n<hr>"
    )


def test_a_task_has_its_box_beside_its_words():
    assert re.sub(' (style|dir)="[^"]*"', "", html(parse("- [x] a\n\n- [ ] b"))) == "<ul>\n<li><p>☑ a</p></li>\n<li><p>☐ b</p></li>\n</ul>"


@given(markdown)
def test_html_of_anything_is_sound(text):
    checked = Checker(html(parse(text)))
    assert not checked.faults
    assert all(link.startswith(("http://", "https://", "mailto:")) for link in checked.links)


@given(markdown)
def test_plain_of_anything_has_no_control_characters(text):
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff]", plain(parse(text)))
