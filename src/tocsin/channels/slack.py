"""Slack incoming webhooks (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks) and servers that offer the same.

Mattermost, Rocket.Chat and others take the same body but show only `text`, so it carries the whole message by itself, as Markdown.
"""

import functools
import re
from collections.abc import Callable
from typing import Annotated, Any, cast
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from tocsin.channels import chat
from tocsin.channels.contract import (
    Channel,
    Context,
    Field,
    HandlerSettings,
    Pace,
    Size,
    classify_rest,
    json_body,
    lost,
    retry_after,
    said,
)
from tocsin.markup import markdown, tree
from tocsin.markup import slack as dialect
from tocsin.markup.cut import fit, split
from tocsin.markup.length import clean_line, cut, cut_characters, left_out, share, utf16
from tocsin.model import (
    Delivered,
    Gone,
    Hidden,
    HttpReply,
    HttpRequest,
    Later,
    Message,
    Outcome,
    Reason,
    Refused,
    Request,
)
from tocsin.net.urls import check_url, hide_after, hide_after_host, origin
from tocsin.settings import Settings
from tocsin.vault import fingerprint

# https://docs.slack.dev/reference/block-kit/blocks
MAX_HEADER = 150
MAX_FIELD = 2000
FIELDS_IN_SECTION = 10
MAX_BLOCKS = 50
MAX_TEXT = 39_000  # Slack silently cuts at 40,000
MAX_IN_BLOCKS = 10_900  # https://github.com/slackapi/bolt-js/issues/2509: msg_blocks_too_long somewhere above 12,000
MAX_FIELDS = 4_500
MAX_ELSEWHERE = 4_900  # UTF-16 units: Rocket.Chat refuses over 5,000 unless its administrator allows more
MAX_IN_MATTERMOST = MAX_IN_BLOCKS  # it takes 16,383, but blocks are sent with the text
MIN_FOR_BODY = 200
_OFFICIAL_HOSTS = frozenset({"hooks.slack.com", "hooks.slack-gov.com"})
_OFFICIAL = re.compile(r"https://hooks\.slack(?:-gov)?\.com/services/(T[A-Z0-9]+)/[AB][A-Z0-9]+/[A-Za-z0-9]{20,}")
_MATTERMOST_PATH = re.compile(r"/hooks/[a-z0-9]{26}\Z")  # Rocket.Chat's is /hooks/ID/TOKEN; both may be below another path

# https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks#handling-errors
_GONE = {
    "no_service": "Slack says that this webhook was deleted or switched off.",
    "no_service_id": "Slack says that this webhook was deleted or switched off.",
    "no_team": "Slack says that this workspace no longer exists.",
    "no_active_hooks": "Slack says that the workspace has switched its incoming webhooks off.",
    "invalid_token": "Slack says that this webhook's token is no longer valid.",
    "team_disabled": "Slack says that this workspace was disabled.",
    "channel_is_archived": "Slack says that the webhook's channel was archived.",
}
_REFUSED = {
    "action_prohibited": (Reason.FORBIDDEN, "Slack says that an admin of the workspace does not allow this."),
    "posting_to_general_channel_denied": (Reason.FORBIDDEN, "Slack says that this webhook may not post to the general channel."),
    "channel_not_found": (Reason.NOT_FOUND, "Slack says that the webhook's channel does not exist."),
    "user_not_found": (Reason.NOT_FOUND, "Slack says that the webhook's user does not exist."),
}
_PAYLOAD = frozenset(
    {
        "invalid_payload",
        "invalid_attachments",
        "invalid_blocks",
        "invalid_blocks_format",
        "missing_text_or_fallback_or_attachments",
        "msg_blocks_too_long",
        "msg_too_long",
        "error-message-size-exceeded",  # Rocket.Chat: https://github.com/RocketChat/Rocket.Chat/pull/36163
        "no_text",
        "too_many_attachments",
    }
)
_WORD = re.compile(r"\s*([a-z][a-z_]{3,60})\b")


# ---------------------------------------------------------------------------------------------------------- settings


def _is_official(url: str) -> bool:
    return (urlsplit(url).hostname or "").rstrip(".") in _OFFICIAL_HOSTS


def _check(value: str) -> str | None:
    if (fault := check_url(value)) is not None:
        return fault
    if not _is_official(value) or _OFFICIAL.fullmatch(value):
        return None
    if urlsplit(value).path.startswith(("/workflows/", "/triggers/")):
        return "This is the URL of a Slack workflow, which takes no messages: make an incoming webhook instead."
    return "A Slack incoming webhook reads https://hooks.slack.com/services/T…/B…/…"


def _hide(value: str) -> Hidden:
    match = _OFFICIAL.fullmatch(value)
    return hide_after(value, value.rindex("/") + 1) if match else hide_after_host(value)


class SlackSettings(HandlerSettings, frozen=True):
    slack: Annotated[
        str,
        Field(
            title="Incoming-webhook URL",
            help="In Slack: the app's settings, Incoming Webhooks, Add New Webhook. Mattermost and Rocket.Chat offer the same.",
            example="https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX",
            check=_check,
            hide=_hide,
            is_address=True,
        ),
    ]


def _target(settings: SlackSettings) -> str:
    match = _OFFICIAL.fullmatch(settings.slack)
    return f"Slack workspace {match[1]}" if match else origin(settings.slack).partition("://")[2]


def _paces(settings: SlackSettings, _: Settings) -> tuple[Pace, ...]:
    """One message a second, short bursts are fine (https://docs.slack.dev/apis/web-api/rate-limits)."""
    return (Pace(f"slack:{fingerprint(settings.slack)}", 3, 3.0),)


# ------------------------------------------------------------------------------------------------------------ render


class _Form(Struct, frozen=True):
    """How `text` is written: in Slack's own markup, or as Markdown for servers that read that. `limit` is by `length`.

    `whole` finishes a message that is put together from these.
    `measuring` makes the measure by which a document is split, for one document and its cuts.
    """

    text: Callable[[tree.Document], str]
    escape: Callable[[str], str]
    link: Callable[[str], str]
    limit: int
    length: Callable[[str], int]
    measuring: Callable[[], Callable[[tree.Document], int]]
    whole: Callable[[str], str]

    def size(self, text: str) -> int:
        """Length of a text once it is escaped."""
        return self.length(self.escape(text))


def _measuring_markdown() -> Callable[[tree.Document], int]:
    render = markdown.remembering()
    return lambda document: utf16(render(document))


_MRKDWN = _Form(dialect.text, dialect.neutral, dialect.link, MAX_TEXT, len, lambda: dialect.Measure().document, str)
_MARKDOWN = _Form(
    markdown.markdown, markdown.escape, markdown.address, MAX_ELSEWHERE, utf16, _measuring_markdown, markdown.with_links_apart
)
_IN_MATTERMOST = msgspec.structs.replace(_MARKDOWN, limit=MAX_IN_MATTERMOST)


def _form(url: str) -> _Form:
    if _is_official(url):
        return _MRKDWN
    return _IN_MATTERMOST if _MATTERMOST_PATH.search(urlsplit(url).path) else _MARKDOWN


class _Part(Struct, frozen=True):
    """One message. Fields and link follow the last."""

    heading: str
    late: str
    document: tree.Document
    is_last: bool


def render(message: Message, settings: SlackSettings, context: Context) -> tuple[HttpRequest, ...]:
    shown = _hide(settings.slack).shown
    bodies = _bodies(message, chat.look(context), _form(settings.slack))
    return tuple(HttpRequest(settings.slack, shown, body, chat.JSON_HEADERS) for body in bodies)


@functools.lru_cache(chat.KEPT)
def _bodies(message: Message, look: chat.Look, form: _Form) -> list[bytes]:
    parts = _parts_of(message, look, form)
    if look.is_plain:
        texts = [chat.plainest(message, look, part.document, index, len(parts)) for index, part in enumerate(parts)]
        # Words only: https://docs.slack.dev/messaging/formatting-message-text says how Slack is told to read no markup in them.
        as_words = {"mrkdwn": False} if form is _MRKDWN else {}
        return [msgspec.json.encode({"text": form.whole(form.escape(cut(text, form.limit, form.size))), **as_words}) for text in texts]
    return [msgspec.json.encode({"text": _text(message, part, form), "blocks": _blocks(message, part)}) for part in parts]


@functools.lru_cache(chat.KEPT)
def _parts_of(message: Message, look: chat.Look, form: _Form) -> list[_Part]:
    heading, late = chat.heading(message), look.late
    room, last_room = _room_in_blocks(message, heading, late) if form is _MRKDWN else _room_in_text(message, heading, late, form)
    document = chat.document_of(message)
    parts, size = [document], form.measuring()
    if size(document) > last_room:
        parts = split(document, size, room - chat.NUMBER_ROOM, last_room - chat.NUMBER_ROOM, look.most_parts)
    total = len(parts)
    return [_Part(heading + chat.number(index, total), late, part, index == total - 1) for index, part in enumerate(parts)]


def _room_in_blocks(message: Message, heading: str, late: str) -> tuple[int, int]:
    """What a part has room for, and the last one."""
    room = MAX_IN_BLOCKS - len(heading) - len(late) - 20
    return room, room - sum(len(field["text"]) for field in _fields(message))


def _room_in_text(message: Message, heading: str, late: str, form: _Form) -> tuple[int, int]:
    room = form.limit - form.length(_head(heading, late, form)) - 2
    return room, room - sum(form.length(text) + 2 for text in _below(message, form))


def _text(message: Message, part: _Part, form: _Form) -> str:
    """The whole part, readable by itself."""
    head, below = _head(part.heading, part.late, form), _below(message, form) if part.is_last else []
    room = form.limit - form.length(head) - 2 - sum(form.length(text) + 2 for text in below)
    body = fit(part.document, room, form.text, form.length, "the text for compatible servers")
    return form.whole("\n\n".join(text for text in (head, body, *below) if text))


def _head(heading: str, late: str, form: _Form) -> str:
    return form.escape(heading) + (f"\n{late}" if late else "")


def _below(message: Message, form: _Form) -> list[str]:
    """Fields and address, without what would leave the message itself no room."""
    room = form.limit - form.length(_head(chat.heading(message), "", form)) - MIN_FOR_BODY
    link = form.link(message.url) if message.url else ""
    if form.length(link) > room:
        left_out(message.url, len(message.url))
        link = ""
    fields = _text_fields(message, form, min(form.limit // 2, room - form.length(link)))
    return [text for text in (fields, link) if text]


def _text_fields(message: Message, form: _Form, room: int) -> str:
    lines = [f"{name}: {value}" if name else value for name, value in chat.fields_of(message)]
    cap = share([form.size(line) + 1 for line in lines], room) - 1
    return "\n".join(form.escape(cut(line, cap, form.size)) for line in lines)


def _blocks(message: Message, part: _Part) -> list[dict[str, Any]]:
    heading, late = part.heading, part.late
    body = dialect.rich_text(part.document)
    if utf16(heading) > MAX_HEADER:
        body.insert(0, dialect.section([dialect.words_element(heading, bold=True)]))
        blocks: list[dict[str, Any]] = []
    else:
        blocks = [{"type": "header", "text": _plain_text(heading)}]
    blocks.extend(_rich_text_blocks(body))
    fields = _fields(message) if part.is_last else []
    for start in range(0, len(fields), FIELDS_IN_SECTION):
        blocks.append({"type": "section", "fields": fields[start : start + FIELDS_IN_SECTION]})
    if message.url and part.is_last:
        # No button: a click shows a warning if the app has no URL for interactions, and a webhook's app has none.
        link = {"type": "link", "url": message.url, "text": "Open"}
        blocks.append({"type": "rich_text", "elements": [dialect.section([link])]})
    if late:
        blocks.append({"type": "context", "elements": [_plain_text(late)]})
    return blocks


def _plain_text(text: str) -> dict[str, Any]:
    return {"type": "plain_text", "text": text, "emoji": False}


def _fields(message: Message) -> list[dict[str, Any]]:
    """Plain text, in which nothing is markup: mrkdwn has no escape for what an author may write in a field."""
    texts = [f"{name}\n{value}".strip() for name, value in chat.fields_of(message)]
    cap = min(MAX_FIELD, share([len(text) for text in texts], MAX_FIELDS))
    return [_plain_text(cut_characters(text, cap)) for text in texts]


def _rich_text_blocks(elements: list[dialect.RichElement]) -> list[dict[str, Any]]:
    """The elements in as few blocks as possible, with up to `dialect.MAX_TEXT` characters each."""
    blocks: list[dict[str, Any]] = []
    room = 0
    for element in elements:
        size = dialect.length([element])
        if not blocks or size > room:
            blocks.append({"type": "rich_text", "elements": []})
            room = dialect.MAX_TEXT
        blocks[-1]["elements"].append(element)
        room -= size
    return blocks


def measure(request: Request) -> tuple[Size, ...]:
    body = chat.body_of(request)
    blocks: list[Any] = body.get("blocks", [])
    form = _form(request.url) if isinstance(request, HttpRequest) else _MRKDWN
    return (
        Size("text", form.length(body["text"]), form.limit, "characters"),
        Size("blocks", len(blocks), MAX_BLOCKS, "blocks"),
        Size("text of all blocks", sum(map(_characters, blocks)), MAX_IN_BLOCKS, "characters"),
    )


def _characters(content: Any) -> int:
    """Of all texts in a block."""
    if isinstance(content, list):
        return sum(map(_characters, cast("list[Any]", content)))
    if not isinstance(content, dict):
        return 0
    inside = cast("dict[str, Any]", content)
    return sum(len(value) if name == "text" and isinstance(value, str) else _characters(value) for name, value in inside.items())


# ---------------------------------------------------------------------------------------------------------- classify


def classify(reply: HttpReply, context: Context) -> Outcome:
    word = _word(reply)
    if 200 <= reply.status < 300:
        return _accepted(reply, word, context)
    if reply.status == 429:
        return Later(Reason.THROTTLED, retry_after(reply, context.now), counts=False, detail=said(reply))
    if 400 <= reply.status < 500:
        if word in _GONE:
            return Gone(Reason.GONE, _GONE[word])
        if word in _REFUSED:
            reason, detail = _REFUSED[word]
            return Refused(reason, detail)
        if word in _PAYLOAD:
            return Refused(Reason.PAYLOAD, said(reply), ours=True)
        if reply.status == 413:
            return Refused(Reason.TOO_LARGE, said(reply), ours=True)
        if reply.status == 410:
            return Gone(Reason.GONE, "The server says that this webhook is gone.")
    return classify_rest(reply, context)


def _accepted(reply: HttpReply, word: str, context: Context) -> Outcome:
    """From Slack only `ok` means success, from other servers any 2xx.

    Behind another host Slack is recognized by its x-slack-* headers, or by one of its error words.
    """
    if reply.body.strip() == b"ok":
        return Delivered()
    if (unknown := lost(reply)) is not None:
        return unknown
    is_slack = context.is_official or any(name.startswith("x-slack") for name in reply.headers)
    if is_slack or word in _GONE or word in _REFUSED or word in _PAYLOAD or word == "rollup_error":
        return Later(Reason.BAD_ANSWER, detail=said(reply))
    return Delivered()


def _word(reply: HttpReply) -> str:
    """Slack's error word: the first word of the body, or `error` in a JSON body."""
    error = json_body(reply).get("error")
    if isinstance(error, str):
        return clean_line(error)
    match = _WORD.match(reply.body[:200].decode("utf-8", "replace"))
    return match[1] if match else ""


CHANNEL = Channel(
    type="slack",
    title="Slack",
    about="To a channel; Mattermost and Rocket.Chat too.",
    settings=SlackSettings,
    target=_target,
    is_official=lambda settings: _is_official(settings.slack),
    paces=_paces,
    render=render,
    classify=classify,
    measure=measure,
    becomes=dialect.BECOMES,
)
