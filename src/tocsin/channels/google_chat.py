"""Google Chat through an incoming webhook, as a card (https://developers.google.com/workspace/chat/quickstart/webhooks).

A card, because its HTML can be escaped and wakes nobody; the markup of a text message has no escape.
"""

import functools
import re
from html import escape
from typing import Annotated, Any, cast
from urllib.parse import parse_qsl, urlsplit

import msgspec

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
    unlike,
)
from tocsin.markup import google_chat as dialect
from tocsin.markup import tree
from tocsin.markup.cut import split
from tocsin.markup.length import clean_line, cut, cut_characters, share
from tocsin.markup.plain import plain
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

MAX_BYTES = 31_000  # of 32,000, cards included: https://developers.google.com/workspace/chat/create-messages
FIELDS_BYTES = 12_000  # of these, so that the message keeps its room
PLAIN_BYTES = 30_000
MAX_HEADER = 80  # characters; the header is one line, which is cut where it does not fit
_PREVIEW = 300  # characters that a phone shows instead of the card
_IN_THREAD = "messageReplyOption=REPLY_MESSAGE_FALLBACK_TO_NEW_THREAD"
_HOST = "chat.googleapis.com"
_OFFICIAL = re.compile(r"https://chat\.googleapis\.com/v1/(?P<space>spaces/[A-Za-z0-9_-]+/)messages\?[^#]+", re.ASCII)


# ---------------------------------------------------------------------------------------------------------- settings


def _is_official(url: str) -> bool:
    return (urlsplit(url).hostname or "").rstrip(".") == _HOST


def _check(value: str) -> str | None:
    if (fault := check_url(value)) is not None:
        return fault
    parts = urlsplit(value)
    if not _is_official(value):
        return None
    if not _OFFICIAL.fullmatch(value) or not {"key", "token"} <= dict(parse_qsl(parts.query)).keys():
        return "A Google Chat webhook reads https://chat.googleapis.com/v1/spaces/…/messages?key=…&token=…, copied whole."
    return None


def _hide(value: str) -> Hidden:
    """The space stays visible. Key and token are also hidden one by one, raw and decoded: an answer may repeat them alone."""
    match = _OFFICIAL.fullmatch(value)
    if not match:
        return hide_after_host(value)
    hidden = hide_after(value, match.end("space"))
    query = urlsplit(value).query
    more = {text for pair in query.split("&") for text in (pair.partition("=")[2],)} | {text for _, text in parse_qsl(query)}
    return Hidden(hidden.shown, tuple(dict.fromkeys((*hidden.secrets, *sorted(text for text in more if len(text) >= 8)))))


class GoogleChatSettings(HandlerSettings, frozen=True):
    google_chat: Annotated[
        str,
        Field(
            title="Webhook URL",
            help="In Google Chat, at the space's name: Apps & integrations, Webhooks, Add webhook; copy its URL whole.",
            example="https://chat.googleapis.com/v1/spaces/AAAAexample/messages?key=AIzaSyExample&token=example-token",
            check=_check,
            hide=_hide,
            is_address=True,
        ),
    ]


def _target(settings: GoogleChatSettings) -> str:
    match = _OFFICIAL.fullmatch(settings.google_chat)
    return f"Google Chat {match['space'].rstrip('/')}" if match else origin(settings.google_chat).partition("://")[2]


def _paces(settings: GoogleChatSettings, _: Settings) -> tuple[Pace, ...]:
    """One a second for a space, by all who post (https://developers.google.com/workspace/chat/limits)."""
    match, webhook = _OFFICIAL.fullmatch(settings.google_chat), fingerprint(settings.google_chat)
    if match is None:
        return (Pace(f"google_chat:{webhook}", 1, 1.0),)
    space = f"google_chat:{fingerprint(match['space'])}"
    return (Pace(f"{space}:{webhook}", 1, 1.0), Pace(space, 1, 1.0))


# ------------------------------------------------------------------------------------------------------------ render


def render(message: Message, settings: GoogleChatSettings, context: Context) -> tuple[HttpRequest, ...]:
    url, shown = _wire_url(settings.google_chat), _hide(settings.google_chat).shown
    return tuple(HttpRequest(url, shown, body, chat.JSON_HEADERS) for body in _bodies(message, chat.look(context)))


def _wire_url(value: str) -> str:
    """With the option that Google needs to honour a threadKey: https://developers.google.com/workspace/chat/quickstart/webhooks."""
    if "threadKey=" not in value or not _OFFICIAL.fullmatch(value):
        return value
    names = dict(parse_qsl(urlsplit(value).query)).keys()
    return f"{value}&{_IN_THREAD}" if "threadKey" in names and "messageReplyOption" not in names else value


@functools.lru_cache(chat.KEPT)
def _bodies(message: Message, look: chat.Look) -> list[bytes]:
    """The message as a card, or as several if it is long; fields and link follow the last."""
    below = [*_fields(message), *_buttons(message)]
    document = chat.document_of(message)
    parts = [document]
    if _size(_card(message, look, "", document, below)) > MAX_BYTES:
        widest = " " * chat.NUMBER_ROOM
        limit, last = (MAX_BYTES - _size(_card(message, look, widest, (), widgets)) - 4 * _PREVIEW for widgets in ([], below))
        render = dialect.remembering()
        parts = split(document, lambda part: _size(render(part)), limit, last, look.most_parts)
    total = len(parts)
    if look.is_plain:
        texts = [cut(chat.plainest(message, look, part, index, total), PLAIN_BYTES, _plain_size) for index, part in enumerate(parts)]
        return [msgspec.json.encode({"cardsV2": [{"card": {"sections": [{"widgets": [_paragraph(_plain(text))]}]}}]}) for text in texts]
    return [
        msgspec.json.encode(_card(message, look, chat.number(index, total), part, below if index == total - 1 else []))
        for index, part in enumerate(parts)
    ]


def _card(message: Message, look: chat.Look, number: str, part: tree.Document, below: list[dict[str, Any]]) -> dict[str, Any]:
    heading = chat.heading(message) + number
    is_long = len(heading) > MAX_HEADER
    top = [_paragraph(f"<b>{escape(heading)}</b>")] if is_long else []
    late = [_paragraph(f"<i>{look.late}</i>")] if look.late else []
    text = dialect.google_chat(part)
    body = [_paragraph(text)] if text else []
    card: dict[str, Any] = {} if is_long else {"header": {"title": heading}}
    widgets = [*top, *late, *body, *below] or [_paragraph(escape(heading))]
    card["sections"] = [{"widgets": widgets}]
    preview = cut_characters(clean_line(f"{heading}: {plain(part)[: _PREVIEW * 2]}"), _PREVIEW) if part else heading
    return {"fallbackText": preview, "cardsV2": [{"cardId": "notification", "card": card}]}


def _paragraph(html: str) -> dict[str, Any]:
    return {"textParagraph": {"text": html}}


def _plain(text: str) -> str:
    return dialect.lines(escape(text))


def _plain_size(text: str) -> int:
    return _size(_plain(text))


def _fields(message: Message) -> list[dict[str, Any]]:
    """The fields; if they are too long together, the longest are cut to the same length."""
    pairs = chat.fields_of(message)
    cap = share([_plain_size(text) for pair in pairs for text in pair], FIELDS_BYTES)
    cut_pairs = [tuple(cut(text, cap, _plain_size) for text in pair) for pair in pairs]
    return [{"decoratedText": {"topLabel": name, "text": _plain(value) or "-", "wrapText": True}} for name, value in cut_pairs]


def _buttons(message: Message) -> list[dict[str, Any]]:
    link = {"openLink": {"url": clean_line(message.url)}}
    return [{"buttonList": {"buttons": [{"text": "Open", "onClick": link}]}}] if message.url else []


def _size(content: object) -> int:
    return len(msgspec.json.encode(content))


def measure(request: Request) -> tuple[Size, ...]:
    (card,) = chat.body_of(request)["cardsV2"]
    widgets = len(card["card"]["sections"][0]["widgets"])
    size = len(request.body) if isinstance(request, HttpRequest) else 0
    return (Size("message", size, MAX_BYTES, "bytes"), Size("widgets of the card", widgets, 100, "widgets"))


# ---------------------------------------------------------------------------------------------------------- classify


def classify(reply: HttpReply, context: Context) -> Outcome:
    """https://cloud.google.com/apis/design/errors: a status word beside the number, and words for people."""
    body = json_body(reply)
    if 200 <= reply.status < 300:
        return _accepted(reply, body, context)
    error: Any = body.get("error")
    words = cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else None
    match reply.status:
        case 429:
            return Later(Reason.THROTTLED, retry_after(reply, context.now), counts=False, detail=said(reply))
        case 400 if isinstance(words, str) and "api key" in words.lower():
            return Refused(Reason.UNAUTHORIZED, said(reply))
        case 400 if isinstance(error, dict):
            return Refused(Reason.PAYLOAD, said(reply), ours=True)
        case 401:
            return Refused(Reason.UNAUTHORIZED, said(reply))
        case 403:
            return Refused(Reason.FORBIDDEN, said(reply))
        case 404 if isinstance(error, dict):
            return Gone(Reason.NOT_FOUND, "Google Chat says that this space or webhook no longer exists.")
        case 413:
            return Refused(Reason.TOO_LARGE, said(reply), ours=True)
        case _:
            return classify_rest(reply, context)


def _accepted(reply: HttpReply, body: dict[str, Any], context: Context) -> Outcome:
    """Google Chat sends the message that it has made; of compatible servers any 2xx is believed that names no error."""
    name = body.get("name")
    if isinstance(name, str):
        return Delivered(name)
    if isinstance(body.get("error"), dict):
        return Later(Reason.BAD_ANSWER, detail=said(reply))
    return unlike(reply) if context.is_official else lost(reply) or Delivered()


CHANNEL = Channel(
    type="google_chat",
    title="Google Chat",
    about="To a space.",
    settings=GoogleChatSettings,
    target=_target,
    is_official=lambda settings: _is_official(settings.google_chat),
    paces=_paces,
    render=render,
    classify=classify,
    measure=measure,
    becomes=dialect.BECOMES,
)
