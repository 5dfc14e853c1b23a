"""`format: text`: every character is shown as it was sent, on every channel and after every cut."""

import importlib
import json
from email import message_from_bytes
from email.policy import default

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readers import DIALECTS, HtmlReader, same_form
from tocsin.channels.chat import document_of
from tocsin.channels.contract import settings_of
from tocsin.channels.registry import CHANNELS
from tocsin.markup import tree
from tocsin.markup.cut import split
from tocsin.markup.elements import elements_of
from tocsin.markup.google_chat import google_chat
from tocsin.markup.html import html
from tocsin.markup.length import clean
from tocsin.markup.markdown import escape, markdown
from tocsin.markup.parse import parse
from tocsin.markup.plain import plain
from tocsin.markup.renderer import WORD_JOINER
from tocsin.markup.teams import teams
from tocsin.markup.verbatim import verbatim
from tocsin.model import HttpRequest, Mail, Message
from wild import AT, context, messages

LOGS = [
    "Traceback: __init__.py line 3 in __main__",
    "a*b*c = 5 and **kwargs, ~~not~~ struck",
    "\\\\nas\\share\\_x\\*.bak",
    "1986. A\n3. b\n1. c",
    "title\n=====\nbody\n-----",
    "# cron\n#!/bin/sh\n> quoted\n- [ ] item\n+ more",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "    indented\n\ttabbed\n  two   spaces",
    "```\nnot code\n```  `nor this`",
    "<b>&lt; &copy; &amp;</b> <!-- x -->",
    "[a](https://example.com/x) ![i](https://example.com/i.png) <https://example.com/y>",
    "line one  \nline two\\\nline three\n\n\n\nfar below",
    "see https://kibana.example.com/#/?_a=(columns:!(_source),query:'x')_y now",
    "ftp://files.example.com/backup_*old*/_db_1.tar failed",
    "HTTPS://EXAMPLE.COM/A and http://nas:8080/{x}|y",
    'see http://prom:9090/graph?e=up{job="node_exporter"}&g0_tab=1 or http://host:PORT/*x*/_y_',
    "가나다 **마크다운(Markdown)**을 쓰세요",
    "::1 :smile: 2a14:6f42:c::/48",
]
wild = messages.map(lambda message: message.text)


@pytest.mark.parametrize("text", LOGS)
@pytest.mark.parametrize("dialect", [name for name in DIALECTS if name != "slack text"])  # for which see below
def test_every_character_is_read_as_it_was_sent(dialect: str, text: str):
    render, read = DIALECTS[dialect]
    assert read(render(verbatim(text))) == same_form(text)


@pytest.mark.parametrize("text", LOGS)
def test_plain_text_channels_get_exactly_what_was_sent(text: str):
    assert plain(verbatim(text)) == text
    assert DIALECTS["slack text"][0](verbatim(text)).count("\n") == text.count("\n")


@given(wild)
def test_nothing_is_markup_and_nothing_is_lost(text: str):
    document = verbatim(text)
    assert {type(block) for block in document} <= {tree.Verbatim}
    assert all("link" in element for element in elements_of(document))
    kept = clean(text).split("\n")
    while kept and not kept[-1].strip():
        kept.pop()
    while kept and not kept[0].strip():
        kept.pop(0)
    assert plain(document) == "\n".join(kept)


def test_an_address_is_a_link_whose_label_is_itself():
    url = "https://example.com/a_b*c*d"
    assert verbatim(f"see {url}.")[0] == tree.Verbatim((tree.Text("see "), tree.Link(url, (tree.Text(url),)), tree.Text(".")))


def test_an_address_that_would_be_encoded_stays_as_it_was_written():
    assert all(not isinstance(node, tree.Link) for block in verbatim("HTTP://EXAMPLE.com/x") for node in block.inside)


def test_spaces_and_empty_lines_stay_where_a_provider_would_drop_them():
    text = "name    size\n\n  a\t1"
    (block,) = teams(verbatim(text))
    assert block["text"] == "name\u00a0\u00a0\u00a0\u00a0size\n\n\u00a0\n\n\u00a0\u00a0a\u00a0\u00a0\u00a0\u00a01"
    assert google_chat(verbatim(text)) == ("name\u00a0\u00a0\u00a0\u00a0size<br><br>\u00a0\u00a0a\u00a0\u00a0\u00a0\u00a01")
    page = html(verbatim(text))
    assert "white-space:pre-wrap" in page
    assert "name    size<br><br>  a\t1" in page
    assert HtmlReader().read(page).strip()


def test_no_line_becomes_code_where_markdown_is_read():
    """Mattermost and Rocket.Chat: four spaces or a tab at a line's start, behind an empty line."""
    text = "log:\n\n    __init__.py  a*b\n\tx"
    shown = "log:\n\n\u2060\u00a0\u00a0\u00a0\u00a0\\_\\_init\\_\\_.py\u00a0\u00a0a\\*b\n\u2060\u00a0\u00a0\u00a0\u00a0x"
    assert markdown(verbatim(text)) == escape(text) == shown


@given(text=wild, limit=st.integers(20, 400))
def test_parts_joined_are_the_whole(text: str, limit: int):
    """Between two parts goes at most the line break at which they were cut."""
    document = verbatim(text)
    parts = split(document, lambda part: sum(len(plain((block,))) for block in part), limit, limit, 100_000)
    whole, at = words(document), 0
    for part in parts:
        shown = words(part)
        if not whole.startswith(shown, at):
            assert whole[at] == "\n"
            at += 1
        assert whole.startswith(shown, at)
        at += len(shown)
    assert whole[at:].strip("\n") == ""


def words(document: tree.Document) -> str:
    """Without stripping, as `plain` does."""
    found: list[str] = []
    for block in document:
        assert isinstance(block, tree.Verbatim)
        for node in block.inside:
            match node:
                case tree.Break():
                    found.append("\n")
                case tree.Text():
                    found.append(node.text)
                case tree.Link():
                    found.extend(inner.text for inner in node.inside if isinstance(inner, tree.Text))
                case _:
                    raise AssertionError(node)
    return "".join(found)


def test_a_long_text_is_cut_between_lines():
    text = "\n".join(f"{number:03}   __row__ of *a log*" for number in range(40))
    parts = split(verbatim(text), lambda part: len(plain(part)), 300, 300, 20)
    assert len(parts) > 2
    assert "\n".join(map(plain, parts)) == text


@pytest.mark.parametrize("kind", CHANNELS)
def test_every_channel_says_the_text_and_not_the_markdown(kind: str):
    channel = CHANNELS[kind]
    values = importlib.import_module(f"channels.test_{kind}").SAMPLES[0]
    message = Message("a*b*c = 5 in __init__.py", at=AT, is_text=True)
    assert document_of(message) != parse(message.text)
    (request,) = channel.render(message, settings_of(channel, values), context(signing_secrets=("whsec_" + "A" * 43 + "=",)))
    shown = shown_of(request).replace("\\", "").replace(WORD_JOINER, "")
    assert "a*b*c = 5 in __init__.py" in shown


def shown_of(request: HttpRequest | Mail) -> str:
    if isinstance(request, HttpRequest):
        return json.dumps(json.loads(request.body), ensure_ascii=False).replace("\\\\", "\\")
    mail = message_from_bytes(request.content, policy=default)
    return "".join(part.get_content() for part in mail.walk() if not part.is_multipart())


@pytest.mark.parametrize(("is_text", "format"), [(False, "markdown"), (True, "text")])
def test_a_webhook_is_told_the_format_and_gets_the_message_as_sent(is_text: bool, format: str):
    message = Message(" *as sent*\r\n\x1b[31m", at=AT, is_text=is_text)
    settings = settings_of(CHANNELS["webhook"], {"webhook": "https://example.com/x"})
    (request,) = CHANNELS["webhook"].render(message, settings, context(signing_secrets=("whsec_" + "A" * 43 + "=",)))
    data = json.loads(request.body)["data"]
    assert (data["message"], data["format"]) == (message.text, format)
    assert list(data)[:4] == ["id", "title", "message", "format"]
