"""Slack, Discord and Telegram: what each construct becomes, and that nothing an author wrote turns into markup."""

import re

import pytest
from hypothesis import example, given

from tocsin.markup import discord, slack, telegram
from tocsin.markup.parse import parse
from wild import markdown, short

# ------------------------------------------------------------------------------------------------------------ Discord


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a *b* **c** ~~d~~ `e`", "a *b* **c** ~~d~~ `e`"),
        ("``a`b``", "``a`b``"),
        ("`` `a ``", "`` `a ``"),
        (r"\*a\* snake_case ~x~y ||s|| \`c\`", r"\*a\* snake\_case \~x\~y \|\|s\|\| \`c\`"),
        ("[l](http://x.y/a_(b))", "[l](http://x.y/a_%28b%29)"),
        ("http://x.y/a_b_c", "<http://x.y/a_b_c>"),
        ("[http://a.b](http://x.y)", "<http://a.b> (<http://x.y>)"),
        ("[see http://a.b/c_d_e](http://x.y)", "see <http://a.b/c_d_e> (<http://x.y>)"),
        ("http://a:PORT/c_d_e http://a:99999/*b*", "<http://a:PORT/c_d_e> <http://a:99999/*b>\\*"),
        ('<a href="http://a.b/c_d_e">', '\\<a href="<http://a.b/c_d_e>">'),
        ("<me@x.org>", r"me\@x.org"),
        ("# a\n## b\n#### c", "# a\n\n## b\n\n**c**"),
        ("\\# a\n\\> b\n\\- c\n\\+ d\n1\\. e\n-# f", "\\# a\n\\> b\n\\- c\n\\+ d\n1\\. e\n\\-# f"),
        ("> a\n> > b", "> a\n> \n> b"),
        ("- a\n  - b\n\n3. c\n4. d", "- a\n  - b\n\n3. c\n4. d"),
        ("```py\na_b\n```", "```py\na_b\n```"),
        ("````\na\n```\nb\n````", "```\na\n`\u2060``\nb\n```"),
        ("@everyone <@123> <#4> <:e:5> <t:6>", r"\@everyone \<\@123> \<#4> \<\:e:5> \<t:6>"),
        ("|a|b|\n|-|-|\n|c|d|", "```\na | b\n--+--\nc | d\n```"),
        ("2a14:6f42:c::/48 at 12:30:45 :white_check_mark: a:b", r"2a14\:6f42\:c::/48 at 12\:30:45 \:white\_check\_mark: a:b"),
        ("`:c:` https://x.y:8080/:c:/", "`:c:` <https://x.y:8080/:c:/>"),
    ],
)
def test_discord(text, expected):
    assert discord.discord(parse(text)) == expected


def discord_shows(text: str) -> str:
    """What Discord leaves of words: backslashes before all but letters, digits and white space go, and brackets of addresses."""
    return re.sub(r"\\([^0-9A-Za-z\s])|<(https?://[^\s<>]+)>", lambda match: match[1] or match[2], text, flags=re.IGNORECASE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://x.y/a_b>c_d e_f", r"<https://x.y/a_b%3Ec_d> e\_f"),
        ("<https://x.y/a_b>", r"\<<https://x.y/a_b>>"),
        ("*https://x.y/a_b(c)>>> d*", r"\*<https://x.y/a_b(c)%3E%3E%3E> d\*"),
        ("www.x.y/a_b", r"www.x.y/a\_b"),
    ],
)
def test_discord_addresses_stay_whole_in_words(text, expected):
    assert discord.escape(text) == expected


@given(short)
@example("javascript:alert(1)[r]: http://x.y")  # what is between two colons is not one name
@example(":https://example.com/a_b(c)>>> ")
@example(":한국어:")
def test_discord_words_stay_words(text):
    escaped = discord.escape(text)
    assert discord_shows(escaped).replace("%3E", ">") == text.replace("%3E", ">")  # within an address
    bare = re.sub(r"\\.|<https?://[^\s<>]+>", " ", escaped, flags=re.DOTALL | re.IGNORECASE)
    assert not re.search(r":[\w+-]+:", bare, re.ASCII)  # names of emoji are ASCII
    assert not set(bare) & set("*_~|`[]()<@\\")
    assert not re.search(r"^[ \t]*([#>+-]|\d{1,9}[.)])", escaped, re.MULTILINE)


@given(markdown)
@example("@everyone <@1>")
@example("http://nas[```py\n\n    <@123>")
@example("\\\\`<@`")
@example("[0](http://1)`)<@`")
def test_discord_of_anything_pings_nobody(text):
    escaped, code, address = r"\\.", r"(`+).*?(?<!`)\1(?!`)", r"<https?://[^ <>]*>|\]\(https?://[^ <>)]*\)"  # whichever begins first
    bare = re.sub(f"{escaped}|{code}|{address}", " ", discord.discord(parse(text)), flags=re.DOTALL)
    assert not re.search("@(everyone|here)", bare)
    assert not re.search("<[@#:t]", bare)


# ----------------------------------------------------------------------------------------------------------- Telegram


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a *b* **c** ~~d~~ `e<f`", "a <i>b</i> <b>c</b> <s>d</s> <code>e&lt;f</code>"),
        ("# a *b*", "<b>a <i>b</i></b>"),
        ("a & b < c > d \"e\" 'f'", "a &amp; b &lt; c &gt; d \"e\" 'f'"),
        ('[l](<http://x.y/?a=b&c=">)', '<a href="http://x.y/?a=b&amp;c=%22">l</a>'),
        ("[l](http://nas:8080/x)", "l (http://nas:8080/x)"),
        ("http://localhost/x", "http://localhost/x"),
        ("[l](http://10.0.0.1/x)", '<a href="http://10.0.0.1/x">l</a>'),
        ("[l](mailto:me@x.org)", "l (me@x.org)"),
        ("```c++\na < b\n```", '<pre><code class="language-c++">a &lt; b</code></pre>'),
        ("```\na\n```", "<pre>a</pre>"),
        ("> a\n> > b", "<blockquote>a\n\nb</blockquote>"),
        ("- a\n  - b\n\n3. c", "• a\n  • b\n\n3. c"),
        ("- a\n  ```\n  b\n   c\n  ```", "• a\n  <pre>b\n c</pre>"),
        ("|a|b|\n|-|-|\n|c|<|", "<pre>a | b\n--+--\nc | &lt;</pre>"),
        ("<b>x</b>", "&lt;b&gt;x&lt;/b&gt;"),
    ],
)
def test_telegram(text, expected):
    assert telegram.telegram(parse(text)) == expected


def test_telegram_counts_what_is_left_after_parsing():
    assert telegram.visible('<b>a &lt;🚨</b> <a href="http://x.y/&amp;">l</a>') == len("a <") + 2 + len(" l")


# -------------------------------------------------------------------------------------------------------------- Slack


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a *b* **c** `d` & <e>", "a b c `d` &amp; &lt;e&gt;"),
        ("[l](http://x.y/?a=b&c=d) http://x.y [x|y](http://x.y)", "<http://x.y/?a=b&amp;c=d|l> <http://x.y> <http://x.y|x¦y>"),
        ("<me@x.org>", "me@x.org"),
        ("<!channel> <@U1>", "&lt;!channel&gt; &lt;@U1&gt;"),
        ("@all @here bob@all.com", "@\u2060all @\u2060here bob@all.com"),
        ("```\na > b\n```", "```\na &gt; b\n```"),
        ("- a\n- b", "- a\n- b"),
    ],
)
def test_slack_text(text, expected):
    assert slack.text(parse(text)) == expected


def element(text: str, **style: bool) -> dict:
    return {"type": "text", "text": text, "style": style} if style else {"type": "text", "text": text}


def line(*inside: dict) -> dict:
    return {"type": "rich_text_section", "elements": list(inside)}


def test_slack_rich_text_of_words():
    assert slack.rich_text(parse("a ***b*** ~~c~~ `d`\n[l](http://x.y)\n\n# *e*")) == [
        line(
            element("a "),
            element("b", italic=True, bold=True),
            element(" "),
            element("c", strike=True),
            element(" "),
            element("d", code=True),
            element("\n"),
            {"type": "link", "url": "http://x.y", "text": "l"},
            element("\n\n"),
            element("e", bold=True, italic=True),
        )
    ]


def test_slack_rich_text_of_blocks():
    assert slack.rich_text(parse("```\na\n```\n> b\n> - c\n\n|d|\n|-|\n|e|")) == [
        {"type": "rich_text_preformatted", "elements": [element("a")]},
        {"type": "rich_text_quote", "elements": [element("b\n\n• c")]},
        {"type": "rich_text_preformatted", "elements": [element("d\n-\ne")]},
    ]


def test_slack_lists_nest_by_indent_and_go_on_counting():
    def listing(style: str, indent: int, *lines: str, **offset: int) -> dict:
        return {"type": "rich_text_list", "style": style, "indent": indent, "elements": [line(element(text)) for text in lines], **offset}

    assert slack.rich_text(parse("1. a\n2. b\n   - c\n   - [x] d\n3. e\n   ```\n   f\n   ```\n4. g")) == [
        listing("ordered", 0, "a", "b"),
        listing("bullet", 1, "c", "☑ d"),
        listing("ordered", 0, "e", offset=2),
        {"type": "rich_text_preformatted", "elements": [element("f")]},
        listing("ordered", 0, "g", offset=3),
    ]


@pytest.mark.parametrize("text", ["word " * 3000, "**a** " * 3000, "- item\n" * 3000, f"```\n{'x' * 9000}\n```", "> " + "y " * 5000])
def test_slack_elements_stay_short(text):
    elements = slack.rich_text(parse(text))
    assert all(slack.length([element]) <= slack.MAX_TEXT for element in elements)
    assert slack.length(elements) >= len(text.replace("*", "").replace("- ", "").strip()) * 0.7
