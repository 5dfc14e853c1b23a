"""Terminal sequences, overstrike, invisible characters and overrides: what of them reaches a reader."""

import importlib
import json

import pytest

from tocsin.channels.contract import settings_of
from tocsin.channels.registry import CHANNELS
from tocsin.markup.length import clean, clean_line
from tocsin.markup.markdown import escape, untranslated, with_links_apart
from tocsin.markup.parse import parse
from tocsin.markup.plain import plain
from tocsin.markup.unseen import is_blank
from tocsin.model import HttpRequest, Message
from wild import context

ESC, BEL = "\x1b", "\x07"
LINK = f"{ESC}]8;;https://example.com/a{BEL}link{ESC}]8;;{BEL}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{ESC}[31mERROR{ESC}[0m disk", "ERROR disk"),
        (f"{ESC}[1;38;5;196mred{ESC}[m {ESC}[38:2::255:0:0mx{ESC}[K{ESC}[2J{ESC}[?25l{ESC}[1 q", "red x"),
        ("\x9b31mred\x9b0m \x9b\x9b x", "red  x"),
        (f"{ESC}(B{ESC}7a{ESC}8{ESC}=b{ESC}c{ESC}#8d{ESC}%Ge", "abde"),
        (f"{ESC}]0;title{BEL}a{ESC}]2;title{ESC}\\b\x9d0;t\x9cc", "abc"),
        (f"{ESC}P1;2qdata{ESC}\\a{ESC}_apc{ESC}\\b{ESC}^pm{ESC}\\c{ESC}Xsos{ESC}\\d\x90x\x9ce", "abcde"),
        (LINK, "link (https://example.com/a)"),
        (f"{ESC}]8;id=1;https://example.com/a{ESC}\\{ESC}[4mlink{ESC}[0m{ESC}]8;;{ESC}\\ x", "link (https://example.com/a) x"),
        (
            f"{LINK}#12 {LINK}s {LINK}. ({LINK}), {LINK}{ESC}[0m: end",
            "link (https://example.com/a) #12 link (https://example.com/a) s "
            "link (https://example.com/a). (link (https://example.com/a)), link (https://example.com/a): end",
        ),
        (f"**{LINK}** _{LINK}_ [{LINK}]", "**link (https://example.com/a)** _link (https://example.com/a)_ [link (https://example.com/a)]"),
        (f"{ESC}]8;;https://example.com/a{BEL}https://example.com/a{ESC}]8;;{BEL}는", "https://example.com/a는"),
        (f"{ESC}]8;;https://example.com/a{BEL}https://example.com/a{ESC}]8;;{BEL}", "https://example.com/a"),
        (f"{ESC}]8;;https://example.com/a{BEL}{ESC}]8;;{BEL}", "https://example.com/a"),
        (f"{ESC}]8;;https://example.com/a{BEL}cut", "cut (https://example.com/a)"),
        (
            f"{ESC}]8;;https://a.example{BEL}one{ESC}]8;;https://b.example{BEL}two{ESC}]8;;{BEL}",
            "one (https://a.example) two (https://b.example)",
        ),
        (f"{ESC}]ERROR disk full", "ERROR disk full"),
        (f"{ESC}]0;ERROR disk full", "ERROR disk full"),
        (f"disk {ESC}[31", "disk "),
        (f"disk{ESC}", "disk"),
        ("E\x08ER\x08RR\x08R _\x08a_\x08b c\x08_", "ERR ab c"),
        ("|\x08/\x08-\x08done\nx\x08\x08y", "done\ny"),
        ("a\x08", "a"),
    ],
)
def test_what_a_terminal_acts_on_goes_as_a_whole(text: str, expected: str):
    assert clean(text) == expected


def seen(kind: str, message: Message) -> str:
    settings = settings_of(CHANNELS[kind], importlib.import_module(f"channels.test_{kind}").SAMPLES[0])
    requests = CHANNELS[kind].render(message, settings, context())
    return "".join(
        json.dumps(json.loads(request.body), ensure_ascii=False) if isinstance(request, HttpRequest) else request.content.decode()
        for request in requests
    )


@pytest.mark.parametrize("kind", [kind for kind in CHANNELS if kind != "webhook"])
def test_no_channel_shows_the_rest_of_a_sequence(kind: str):
    text = f"{ESC}[31mERROR{ESC}[0m disk {LINK}\n\n```\n{ESC}[1mcode{ESC}[0m\n```"
    shown = seen(kind, Message(text, f"{ESC}[31mTitle{ESC}[0m", fields=((f"{ESC}[1mname{ESC}[0m", f"{ESC}[1mvalue{ESC}[0m"),)))
    assert not any(rest in shown for rest in ("[31m", "[0m", "[1m", "]8;;", "\\u001b", ESC))
    assert all(word in shown for word in ("ERROR", "disk", "Title", "https://example.com/a"))


def test_a_webhook_gets_the_message_as_it_was_sent():
    settings = settings_of(CHANNELS["webhook"], importlib.import_module("channels.test_webhook").SAMPLES[0])
    secret = "whsec_" + "A" * 43 + "="
    (request,) = CHANNELS["webhook"].render(Message(f"{ESC}[31mERROR{ESC}[0m"), settings, context(signing_secrets=(secret,)))
    assert isinstance(request, HttpRequest)
    assert json.loads(request.body)["data"]["message"] == f"{ESC}[31mERROR{ESC}[0m"


def test_a_terminals_link_becomes_one():
    assert plain(parse(LINK)) == "link (https://example.com/a)"
    assert "https://example.com/a" in str(parse(LINK))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t",
        "\u200b",
        "\ufe0f",
        "\u202e",
        "\u00ad\u2060\ufeff",
        "\u3164 \u2800",
        "\x00\x07",
        f"{ESC}[31m{ESC}[0m",
        "\u3000",
        "\U000e0001",
    ],
)
def test_what_nobody_can_see_is_blank(text: str):
    assert is_blank(text)
    assert clean_line(text) == ""


@pytest.mark.parametrize("text", ["a", ".", "가", "👍", "\u200bx", "\u202eabc", f"{ESC}]8;;https://x.example{BEL}{ESC}]8;;{BEL}", "️☁️"])
def test_what_can_be_seen_is_not(text: str):
    assert not is_blank(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\u202eabc", "\u202eabc\u202c"),
        ("\u202eabc\u202c d", "\u202eabc\u202c d"),
        ("\u2067a\u202bb\nc\u2066d", "\u2067a\u202bb\u202c\u2069\nc\u2066d\u2069"),
        ("\u2067a\u202bb\u2069 c", "\u2067a\u202bb\u2069 c"),
        ("**\u202eabc**  \nd", "**\u202eabc\u202c**  \nd"),
        ("|\u202ea|b|\n|-|-|", "|\u202ea|b\u202c|\n|-|-|"),
        ("a\u200d\u200c\u200e\u200fb", "a\u200d\u200c\u200e\u200fb"),
    ],
)
def test_what_turns_the_writing_ends_with_its_line(text: str, expected: str):
    assert clean(text) == expected


def test_a_turned_title_turns_nothing_behind_it():
    shown = seen("telegram", Message("body", "\u202etitle", fields=(("\u202ename", "v"),)))
    assert "\u202etitle\u202c</b>" in shown
    assert "\u202ename\u202c:</b> v" in shown


@pytest.mark.parametrize(
    "unit",
    [
        *(f"{ESC}]8;;u", f"{ESC}]0;", f"{ESC}P", f"{ESC}[", "a\x08", "\u202e", "\u2067\n", LINK, f"{ESC}]8;;u{BEL}"),
        *("\x9d", "\x9d0;", "\x9d8;;u", "\x90", "\x90a", "\x9b", "\u202a\u202a\u2069"),
    ],
)
def test_a_long_text_of_them_takes_no_time_to_speak_of(unit: str):
    import time

    begin = time.process_time()
    clean(unit * (65_536 // len(unit)))
    assert time.process_time() - begin < 1.0


def test_nor_do_isolates_that_end_though_none_began():
    import time

    begin = time.process_time()
    clean("\u202a" * 30_000 + "\u2069" * 30_000)
    assert time.process_time() - begin < 1.0


def test_a_control_string_holds_no_other_one():
    assert clean("\x9d0;a\x9d0;t\x07b\x90c\x90d\x9ce") == "abce"


@pytest.mark.parametrize("unit", ["<a|", "<!a|", "<ab|c "])
def test_nor_do_labels_that_never_end(unit: str):
    import time

    labels, links = unit * (65_536 // len(unit)), escape("https://x.y/@a, " * 50)
    begin = time.process_time()
    assert untranslated(labels)
    assert with_links_apart(f"[{labels}>{links}")
    assert time.process_time() - begin < 1.0
