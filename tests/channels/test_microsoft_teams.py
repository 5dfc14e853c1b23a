"""Microsoft Teams: which URLs, the card and its size, the small Markdown (read back by an independent parser), verdicts."""

import asyncio
import itertools
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from receiver import Receiver
from tocsin import settings
from tocsin.channels.contract import fields_of, settings_of
from tocsin.channels.microsoft_teams import CHANNEL, MAX_BYTES, TeamsSettings
from tocsin.markup.html import html
from tocsin.markup.parse import parse
from tocsin.markup.teams import escape, teams
from tocsin.model import Delivered, Gone, HttpReply, HttpRequest, Later, Message, NoReply, Reason, Refused, Severity, Unknown
from tocsin.net.http import HttpWire
from tocsin.settings import load
from wild import AT, SECRET_TOKEN, SERVICE, context, messages

_PATH = "/powerautomate/automations/direct/workflows/0123456789abcdef0123456789abcdef/triggers/manual/paths/invoke"
SAMPLES = [
    {
        "microsoft_teams": f"https://a.01.environment.api.powerplatform.com:443{_PATH}?api-version=1&sv=1.0&sig={SECRET_TOKEN}%2B",
    },
    {"microsoft_teams": f"https://me:{SECRET_TOKEN}@proxy.example.com{_PATH}?sig={SECRET_TOKEN}"},
]
ID = "0123456789abcdef" * 2
SIGNATURE = "AbC-dEf%2Bghijk_1234567890mnopqrstuvwxyzABCDE"
QUERY = f"?api-version=1&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig={SIGNATURE}"
HOST = "default0123.45.environment.api.powerplatform.com"
URL = f"https://{HOST}:443/powerautomate/automations/direct/workflows/{ID}/triggers/manual/paths/invoke{QUERY}"
HANDLER = TeamsSettings(URL)
PAGE = b"<html><title>Access denied</title></html>"
FIELD = fields_of(TeamsSettings)["microsoft_teams"]


def as_the_flow_measures(request: HttpRequest) -> int:
    """The card as a JSON string inside JSON."""
    return len(json.dumps(request.body.decode(), ensure_ascii=False).encode())


def fits(request: HttpRequest) -> None:
    assert as_the_flow_measures(request) <= 28_672 - 1_000


def message_of(request: HttpRequest) -> str:
    """The elements of the card that stand for the message."""
    body = json.loads(request.body)["attachments"][0]["content"]["body"]
    return "\n".join(json.dumps(element, ensure_ascii=False) for element in body[1:])


# ------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "url",
    [
        URL,
        URL.replace(":443", ""),
        URL.replace("/direct/", "/direct/cu/01/"),
        f"https://prod-161.westeurope.logic.azure.com:443/workflows/{ID}/triggers/manual/paths/invoke{QUERY}",
        "http://127.0.0.1:8080/any/path",
        "https://proxy.example.com/workflows/x",
    ],
)
def test_urls_that_are_taken(url: str):
    assert FIELD.check(url) is None


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (URL.replace("https:", "http:"), "https"),
        (URL.replace("https://", "https://user@"), "https"),
        (URL.replace("/invoke", "/invoke/more"), "path"),
        (f"https://{HOST}/", "path"),
        (URL.partition("&sig")[0], "sig="),
        (URL.partition("sig=")[0] + "sig=", "sig="),
        ("https://contoso.webhook.office.com/webhookb2/a@b/IncomingWebhook/c/d", "retired"),
        ("https://outlook.office.com/webhook/a@b/IncomingWebhook/c/d", "retired"),
        ("ftp://x", "http"),
    ],
)
def test_urls_that_are_refused_in_one_sentence(url: str, says: str):
    wrong = FIELD.check(url)
    assert wrong is not None
    assert says in wrong
    assert url not in wrong
    assert SIGNATURE not in wrong


def test_the_host_and_the_workflows_id_stay_readable():
    hidden = FIELD.hide(URL)
    assert hidden.shown == f"https://{HOST}:443/powerautomate/automations/direct/workflows/{ID}/••••"
    assert SIGNATURE in hidden.secrets
    assert SIGNATURE.replace("%2B", "+") in hidden.secrets  # as an answer may repeat it
    assert CHANNEL.target(HANDLER) == f"{HOST}:443, workflow 01234567"


def test_elsewhere_only_the_host_stays():
    url = f"https://user:password@proxy.example.com/workflows/{ID}/triggers/manual/paths/invoke{QUERY}"
    assert FIELD.hide(url).shown == "https://proxy.example.com/••••"
    assert {"user:password", "password", SIGNATURE} <= set(FIELD.hide(url).secrets)
    assert CHANNEL.target(TeamsSettings(url)) == "proxy.example.com"


# ----------------------------------------------------------------------------------------------------------------- card

KNOWN = {  # https://adaptivecards.io/explorer/, all of them in version 1.4
    "TextBlock": {"type", "text", "wrap", "size", "weight", "color", "isSubtle", "fontType", "spacing"},
    "Container": {"type", "style", "items"},
    "FactSet": {"type", "facts"},
}
LOOKS = {
    "size": {"Default", "Medium", "Large"},
    "weight": {"Bolder"},
    "color": {"Accent", "Good", "Warning", "Attention"},
    "fontType": {"Monospace"},
    "spacing": {"None"},
}


def check_elements(elements: list[dict]) -> None:
    for element in elements:
        assert set(element) <= KNOWN[element["type"]]
        assert all(element[look] in words for look, words in LOOKS.items() if look in element)
        if element["type"] == "TextBlock":
            assert element["wrap"] is True
            assert element["text"].strip()
        check_elements(element.get("items", []))
        for fact in element.get("facts", []):
            assert set(fact) == {"title", "value"}


def card_of(message: Message, **changes: object) -> dict:
    (card,) = cards_of(message, **changes)
    return card


def cards_of(message: Message, **changes: object) -> list[dict]:
    return [card_in(request) for request in CHANNEL.render(message, HANDLER, context(**changes))]


def card_in(request: HttpRequest) -> dict:
    assert as_the_flow_measures(request) <= MAX_BYTES + 2
    assert dict(request.headers)["content-type"] == "application/json; charset=utf-8"
    assert (request.url, request.guarded, request.method) == (URL, True, "POST")
    envelope = json.loads(request.body)
    (attachment,) = envelope["attachments"]
    assert envelope["type"] == "message"
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert attachment["contentUrl"] is None
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    assert set(card) <= {"$schema", "type", "version", "msteams", "body", "actions"}
    assert all(set(action) == {"type", "title", "url"} and action["type"] == "Action.OpenUrl" for action in card.get("actions", []))
    check_elements(card["body"])
    return card


def texts(card: dict) -> list[str]:
    return [element["text"] for element in card["body"] if element["type"] == "TextBlock"]


def test_title_colour_body_fields_link_and_late_note():
    message = Message("all *well*\nor not", "Disk_1", Severity.CRITICAL, "https://example.com/x?y=1", (("host", "db_1"), ("two", "a\nb")))
    card = card_of(message, meant_for=1_795_428_000_000_000)
    title, late, body, facts = card["body"]
    assert title == {"type": "TextBlock", "text": "🚨 Disk\\_1", "wrap": True, "size": "Large", "weight": "Bolder", "color": "Attention"}
    assert late["text"] == "Late: this was meant for 2026-11-23 10:00:00 UTC"
    assert body["text"] == "all _well_\n\nor not"
    assert facts["facts"] == [{"title": "host", "value": "db\\_1"}, {"title": "two", "value": "a\n\nb"}]
    assert card["actions"] == [{"type": "Action.OpenUrl", "title": "Open", "url": "https://example.com/x?y=1"}]


def test_what_is_not_given_is_not_shown():
    card = card_of(Message("m"))
    assert texts(card) == ["ℹ️ Info", "m"]
    assert "actions" not in card


@pytest.mark.parametrize("url", ["javascript:alert(1)", "mailto:x@example.com", "https://example.com/" + "x" * 5000])
def test_a_link_that_cannot_be_a_button_is_left_out_aloud(url: str):
    card = card_of(Message("m", url=url))
    assert "actions" not in card
    assert texts(card)[-1].startswith("Link left out")


def test_blocks_become_elements_that_teams_knows():
    text = "# Head\n\n- a\n  - b\n1. c\n\n> quoted\n\n```\nif x:\n    y  = *1*\n```\n\n|k|v|\n|-|-|\n|1|**2**|\n\n---"
    _, head, bullets, numbers, quote, code, table, rule = card_of(Message(text))["body"]
    assert (head["text"], head["weight"], head["size"]) == ("Head", "Bolder", "Medium")
    assert bullets["text"] == "- a\r  - b"
    assert numbers["text"] == "1. c"
    assert (quote["type"], quote["style"], quote["items"][0]["text"]) == ("Container", "emphasis", "quoted")
    assert code["text"] == "if x:\n\n\u00a0\u00a0\u00a0\u00a0y\u00a0\u00a0= \\*1\\*"
    assert table["text"] == "k | v\n\n\\--+--\n\n1 | 2"
    assert code["fontType"] == table["fontType"] == "Monospace"
    assert rule["isSubtle"]


@pytest.mark.parametrize("paragraph", ["short", '**"a"** `b` "c"', '> "quoted" `x`', r"\*a\* \_b\_", '"' * 40, "가나다라 마바사"])
def test_a_card_is_measured_as_the_flow_does(paragraph: str):
    requests = CHANNEL.render(Message(f"{paragraph}\n\n" * 900), HANDLER, context())
    assert [as_the_flow_measures(request) <= 28_672 - 1_000 for request in requests] == [True] * len(requests)
    sizes = [CHANNEL.measure(request)[0] for request in requests]
    assert [(size.size + 2, size.limit) for size in sizes] == [(as_the_flow_measures(request), MAX_BYTES) for request in requests]


def test_entities_stay_as_they_were_written():
    card = card_of(
        Message("```\necho '&lt;b&gt; &copy; &#39;' && x\n```\n\n`&amp;amp;` &amp;quot; a & b; c", "&lt;", fields=(("&gt;", "&lt;"),))
    )
    assert texts(card)[:2] == ["ℹ️ \\&lt;", "echo '\\&lt;b\\&gt; \\&copy; \\&#39;' && x"]
    assert texts(card)[2] == "\\&amp;amp; \\&quot; a & b; c"
    assert card["body"][-1]["facts"] == [{"title": "\\&gt;", "value": "\\&lt;"}]


@pytest.mark.parametrize(
    "text", ["**마크다운(Markdown)**을", "*「가」*は", '프로그램**"foo"**을 씀', "가격은**$100**입니다", "**A**: (**가**)"]
)
def test_emphasis_between_punctuation_and_a_letter_closes_in_teams_too(text: str):
    shown = MarkdownIt().render(texts(card_of(Message(text)))[1])
    assert "*" not in shown
    assert "<strong>" in shown or "<em>" in shown


@pytest.mark.parametrize("marks", ["**", "*", "***", "**_", "*__", "~~**", "~~***"])
def test_marks_in_a_row_beside_a_letter_are_all_marks_in_teams_too(marks: str):
    wrong = []
    for inside, before, after in itertools.product(
        ("서버(a)", "(서버)", "서버", '"a"', "100%", "[t](https://x.y)"), ("", "한"), ("", "한")
    ):
        text = f"{before}{marks}{inside}{marks[::-1]}{after}"
        if "<em>" in html(parse(text)) or "<strong>" in html(parse(text)):
            shown = MarkdownIt().render(texts(card_of(Message(text)))[1])
            missing = [tag for tag in ("<em>", "<strong>") if tag in html(parse(text)) and tag not in shown]
            wrong += [(text, shown)] if missing or "*" in shown or "_" in shown else []
    assert not wrong


def test_emphasis_holds_on_to_korean_endings():
    assert texts(card_of(Message("*강조*는 **굵게**는 *it*")))[1] == "*강조*는 **굵게**는 _it_"


@given(message=messages)
def test_any_message_becomes_cards_that_fit(message: Message):
    assert 1 <= len(cards_of(message, meant_for=1)) <= 5


LONG = [
    "words and *more* " * 3800,
    "(*_[" * 16000,
    "가" * 21845,
    "- x\n" * 16000,
    "|a|b|\n|-|-|\n" + "|c|d|\n" * 9000,
    "> x\n\n" * 13000,
    "```\n" + "a b\n" * 16000,
]


@pytest.mark.parametrize("text", LONG, ids=range(len(LONG)))
def test_what_is_too_long_is_cut_and_says_so(text: str):
    fields = tuple((f"{number} " + "n" * 250, "v(" * 512) for number in range(25))
    begin = time.process_time()
    message = Message(text[:65536], "T" * 256, url="https://example.com/" + "u" * 2000, fields=fields)
    requests = CHANNEL.render(message, HANDLER, context(service=load({"TOCSIN_MAX_PARTS": "2"})))
    assert time.process_time() - begin < 3
    assert len(requests) == 2
    assert all(as_the_flow_measures(request) <= MAX_BYTES + 2 for request in requests)
    assert as_the_flow_measures(requests[0]) > MAX_BYTES // 2
    first, last = (json.loads(request.body)["attachments"][0]["content"] for request in requests)
    assert "more characters" in last["body"][-2]["text"]
    assert "more characters" not in json.dumps(first)
    assert ("actions" in first, "actions" in last) == (False, True)
    assert first["body"][0]["text"].endswith("\\(1/2\\)")


# ------------------------------------------------------------------------------------------------------------- Markdown

SUBSET = MarkdownIt("zero").enable(["emphasis", "link", "list", "escape", "text"])  # what Teams documents
WORDS = st.text(st.sampled_from("\\*_[]()-#1.+ ab가\n!:"), max_size=40)


def read(text: str) -> tuple[str, set[str]]:
    """What a reader of the subset sees, line by line, and which marks there were."""
    lines, marks = [], set()
    for token in SUBSET.parse(text.replace("\r", "\n")):
        marks.add(token.type)
        for child in token.children or []:
            marks.add(child.type)
        if token.type == "inline":
            lines.append(
                "".join(
                    child.content if child.type in {"text", "text_special"} else "\n" * (child.type == "softbreak")
                    for child in token.children
                )
            )
    return "\n".join(lines), marks - {"inline", "text", "text_special", "softbreak", "paragraph_open", "paragraph_close"}


def squeezed(text: str) -> list[str]:
    return [line for line in (" ".join(line.split()) for line in text.split("\n")) if line]


@given(text=WORDS)
def test_escaped_words_are_read_as_they_were_written(text: str):
    seen, marks = read(escape(text))
    assert squeezed(seen) == squeezed(text)
    assert marks == set()


def test_marks_are_read_as_marks():
    (element,) = teams(parse("**bold *both*** and [label (1)](https://example.com/a_(b)) <https://example.com/x_y_z>"))
    assert read(element["text"]) == (
        "bold both and label (1) https://example.com/x_y_z",
        {"strong_open", "strong_close", "em_open", "em_close", "link_open", "link_close"},
    )
    (listing,) = teams(parse("1. one\n2. two\n   - inner *x*\n3. three"))
    assert read(listing["text"])[0].split("\n") == ["one", "two", "inner x", "three"]


def test_marks_end_with_their_line():
    (element,) = teams(parse("**two\nlines** and ** not"))
    assert element["text"] == "**two**\n\n**lines** and \\*\\* not"


# ------------------------------------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "reason"),
    [
        (202, {}, b"", Delivered, None),
        (200, {}, b"1", Delivered, None),
        (
            200,
            {"retry-after": "9"},
            b"Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429",
            Later,
            Reason.THROTTLED,
        ),
        (
            200,
            {},
            b"Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 503",
            Later,
            Reason.SERVER_ERROR,
        ),
        (400, {}, b'{"error":{"code":"TriggerInputSchemaMismatch"}}', Refused, Reason.PAYLOAD),
        (401, {}, b"", Gone, Reason.UNAUTHORIZED),
        (403, {}, b"", Refused, Reason.FORBIDDEN),
        (404, {}, b'{"error":{"code":"WorkflowNotFound"}}', Gone, Reason.NOT_FOUND),
        (410, {}, b"", Gone, Reason.GONE),
        *[(status, {}, PAGE, Later, Reason.BAD_ANSWER) for status in (401, 403, 404, 410)],
        (413, {}, b"", Refused, Reason.TOO_LARGE),
        (429, {"retry-after": "9"}, b"", Later, Reason.THROTTLED),
        (502, {}, b"", Later, Reason.SERVER_ERROR),
    ],
)
def test_what_an_answer_means(status, headers, body, kind, reason):
    outcome = CHANNEL.classify(HttpReply(status, headers, body), context(is_official=True))
    assert isinstance(outcome, kind)
    assert getattr(outcome, "reason", None) is reason
    if body is not PAGE:
        assert CHANNEL.classify(HttpReply(status, headers, body), context()) == outcome
    if reason is Reason.THROTTLED:
        assert (outcome.wait_seconds, outcome.counts) == (9.0, False)
    assert getattr(outcome, "ours", False) is (reason in {Reason.PAYLOAD, Reason.TOO_LARGE})


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (401, Gone, Reason.UNAUTHORIZED),
        (403, Refused, Reason.FORBIDDEN),
        (404, Gone, Reason.NOT_FOUND),
        (410, Gone, Reason.GONE),
    ],
)
def test_a_compatible_server_may_answer_with_a_page(status, kind, reason):
    outcome = CHANNEL.classify(HttpReply(status, {}, PAGE), context())
    assert isinstance(outcome, kind)
    assert outcome.reason is reason


@pytest.mark.parametrize(
    ("url", "is_official"),
    [
        (URL, True),
        (URL.replace(HOST, HOST.upper() + "."), True),
        (f"https://prod-161.westeurope.logic.azure.com:443/workflows/{ID}/triggers/manual/paths/invoke{QUERY}", True),
        ("https://chat.example.com/hooks/1", False),
        (URL.replace(HOST, f"{HOST}.example.com"), False),
    ],
)
def test_which_hosts_are_microsoft_s(url: str, is_official: bool):
    assert CHANNEL.is_official(TeamsSettings(url)) is is_official


def test_without_an_answer():
    assert CHANNEL.no_reply(NoReply(Reason.CUT, sent=True)) == Unknown(Reason.CUT)


def test_the_pace_is_the_urls():
    (pace,) = CHANNEL.paces(HANDLER, SERVICE)
    assert (pace.count, pace.seconds) == (2, 2.0)
    assert SIGNATURE not in pace.key
    assert CHANNEL.paces(TeamsSettings(URL + "x"), SERVICE)[0].key != pace.key


def test_over_the_wire_the_query_arrives_byte_for_byte():
    async def send() -> None:
        with Receiver() as server:
            path = f"/workflows/{ID}/triggers/manual/paths/invoke"
            server.answer(path, 202, body=b"")
            wire = HttpWire(settings.load({"TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8"}))
            (request,) = CHANNEL.render(Message("한국어"), TeamsSettings(server.url(path + QUERY)), context())
            reply = await wire.send(request)
            await wire.close()
            assert CHANNEL.classify(reply, context()) == Delivered()
            (received,) = server.requests
            assert received.target == path + QUERY
            assert received.headers["content-type"] == "application/json; charset=utf-8"
            assert received.body == request.body

    asyncio.run(send())


def test_a_part_has_room_for_its_number_as_it_is_escaped():
    """A part that is full to the last bytes: each parenthesis of (1/2) takes five of them in JSON within JSON."""
    message = Message("\n- 1.\n---\n" * 256, severity=Severity.INFO, at=AT)
    requests = CHANNEL.render(message, settings_of(CHANNEL, SAMPLES[0]), context(meant_for=1))
    sizes = [CHANNEL.measure(request)[0].size for request in requests]
    assert len(sizes) > 1 and max(sizes) <= MAX_BYTES
