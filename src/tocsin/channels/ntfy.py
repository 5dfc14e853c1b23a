"""ntfy (https://docs.ntfy.sh/publish/#publish-as-json), the public server or your own.

Apps on phones show Markdown as it is written, only the web app renders it: so the message goes out as readable plain text.
"""

import functools
import re
from typing import Annotated, Any
from urllib.parse import urlsplit

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
)
from tocsin.clock import SECOND, Micros
from tocsin.markup import plain
from tocsin.markup.cut import split
from tocsin.markup.length import clean_line, cut, cut_bytes, share, utf8
from tocsin.model import (
    Delivered,
    Hidden,
    HttpReply,
    HttpRequest,
    Later,
    Message,
    Outcome,
    Reason,
    Refused,
    Request,
    Severity,
)
from tocsin.net.urls import check_url, hide_after_host, origin
from tocsin.settings import Settings
from tocsin.vault import fingerprint

MAX_MESSAGE = 4096  # bytes; what is longer becomes an attachment: https://docs.ntfy.sh/publish/#limitations
MIN_FOR_FIELDS = 1500  # of it, which fields may use even if the message is long
BURST, BURST_SECONDS = 60, 300.0  # https://docs.ntfy.sh/publish/#limitations: 60 requests at once, then one in 5 seconds
PUBLIC_HOST = "ntfy.sh"
DAY_SECONDS = 86_400

_PRIORITY = {Severity.INFO: 2, Severity.SUCCESS: 3, Severity.WARNING: 4, Severity.CRITICAL: 5}
_TAGS = {  # https://docs.ntfy.sh/emojis/
    Severity.INFO: "information_source",
    Severity.SUCCESS: "white_check_mark",
    Severity.WARNING: "warning",
    Severity.CRITICAL: "rotating_light",
}
_TOKEN_AS_USER = re.compile(r"(https?://)(tk_[A-Za-z0-9]{8,64}):?@", re.IGNORECASE)
_TOPIC = re.compile(r"/([-_A-Za-z0-9]{1,64})/?")

# https://github.com/binwiederhier/ntfy/blob/main/server/errors.go
_BAD_TOPIC = frozenset({40009, 40010})
_UNTIL_TOMORROW = frozenset({42905, 42908})  # daily quotas, which reset at midnight UTC


# ---------------------------------------------------------------------------------------------------------- settings


def _check(value: str) -> str | None:
    if (fault := check_url(value)) is not None:
        return fault
    parts = urlsplit(value)
    if parts.query or parts.fragment:
        return "The URL must end after the topic."
    server, topic = _split(value)
    if not topic or (parts.hostname == PUBLIC_HOST and urlsplit(server).path not in {"", "/"}):
        return "A topic's URL reads https://ntfy.sh/TOPIC; a topic is up to 64 letters, digits, _ and -."
    return None


def _split(value: str) -> tuple[str, str]:
    """The server's URL, to which JSON is sent, and the topic, which may be empty."""
    before, _, last = value.rstrip("/").rpartition("/")
    return (f"{before}/", last) if _TOPIC.fullmatch(f"/{last}") and "://" in f"{before}/" and urlsplit(before).netloc else (value, "")


def _hide(value: str) -> Hidden:
    """The topic is hidden too: on a public server anyone who knows it can read along and send."""
    hidden = hide_after_host(value)
    _, topic = _split(value)
    return Hidden(hidden.shown, tuple(dict.fromkeys((*hidden.secrets, topic)))) if topic else hidden


class NtfySettings(HandlerSettings, frozen=True):
    ntfy: Annotated[
        str,
        Field(
            title="Topic URL",
            help="https://ntfy.sh/ and your topic, or the same on your own server; a user as https://user:password@…, an access token as "
            "https://:tk_…@…",
            example="https://ntfy.sh/a-topic-nobody-guesses",
            check=_check,
            hide=_hide,
            is_address=True,
        ),
    ]


def _target(settings: NtfySettings) -> str:
    return origin(settings.ntfy).partition("://")[2]


def _paces(settings: NtfySettings, _: Settings) -> tuple[Pace, ...]:
    """By topic; the public server counts by address, which all topics share, unless an account is named."""
    paces = (Pace(f"ntfy:{fingerprint(settings.ntfy)}", BURST // 6, BURST_SECONDS / 6),)
    parts = urlsplit(settings.ntfy)
    is_shared = parts.hostname == PUBLIC_HOST and "@" not in parts.netloc
    return (*paces, Pace("ntfy", BURST, BURST_SECONDS, "egress")) if is_shared else paces


# ------------------------------------------------------------------------------------------------------------ render


def _wire_url(value: str) -> str:
    """Moves an access token from the user's place to the password's, where ntfy looks for it."""
    match = _TOKEN_AS_USER.match(value)
    return f"{match[1]}:{match[2]}@{value[match.end() :]}" if match else value


def render(message: Message, settings: NtfySettings, context: Context) -> tuple[HttpRequest, ...]:
    server, topic = _split(_wire_url(settings.ntfy))
    shown = _hide(settings.ntfy).shown
    bodies = [msgspec.json.encode({"topic": topic, **content}) for content in _contents(message, chat.look(context))]
    return tuple(HttpRequest(server, shown, body, chat.JSON_HEADERS) for body in bodies)


@functools.lru_cache(chat.KEPT)
def _contents(message: Message, look: chat.Look) -> list[dict[str, Any]]:
    """The message, in parts if it is long; the fields follow the last."""
    document = chat.document_of(message)
    head = f"{look.late}\n\n" if look.late else ""
    room = MAX_MESSAGE - utf8(head) - 4
    texts = [plain.plain(document)]
    fields = _fields(message, max(MIN_FOR_FIELDS, room - utf8(texts[0])))
    last_room = room - utf8(fields)
    parts = [document]
    if utf8(texts[0]) > last_room:
        render = plain.remembering()
        parts = split(document, lambda part: utf8(render(part)), room, last_room, look.most_parts)
        texts = [render(part) for part in parts]
    total = len(parts)
    if look.is_plain:
        return [{"message": cut_bytes(chat.plainest(message, look, part, index, total), MAX_MESSAGE)} for index, part in enumerate(parts)]
    texts[-1] = "\n\n".join(filter(None, (texts[-1], fields)))
    return [_content(message, chat.number(index, total), head + text) for index, text in enumerate(texts)]


def _content(message: Message, number: str, text: str) -> dict[str, Any]:
    content: dict[str, Any] = {
        "title": chat.title(message) + number,
        "message": text or "(no text)",  # ntfy would say "triggered"
        "priority": _PRIORITY[message.severity],
        "tags": [_TAGS[message.severity]],
    }
    if message.url:
        url = clean_line(message.url)
        content |= {"click": url, "actions": [{"action": "view", "label": "Open", "url": url}]}
    return content


def _fields(message: Message, room: int) -> str:
    lines = [f"{name}: {value}" if name else value for name, value in chat.fields_of(message)]
    cap = share([utf8(line) for line in lines], room - len(lines))
    return "\n".join(cut(line, cap, utf8) for line in lines)


def measure(request: Request) -> tuple[Size]:
    return (Size("message", utf8(chat.body_of(request)["message"]), MAX_MESSAGE, "bytes"),)


# ---------------------------------------------------------------------------------------------------------- classify


def classify(reply: HttpReply, context: Context) -> Outcome:
    body = json_body(reply)
    code = _code(body)
    if 200 <= reply.status < 300:
        message_id = body.get("id")
        return Delivered(message_id) if isinstance(message_id, str) and message_id else _without_id(reply)
    if reply.status == 429:
        return Later(Reason.THROTTLED, _wait_seconds(reply, code, context.now), counts=False, detail=said(reply))
    if reply.status == 401:
        return Refused(Reason.UNAUTHORIZED, said(reply))
    if reply.status == 403:
        return Refused(Reason.FORBIDDEN, said(reply))
    if reply.status == 413:
        return Refused(Reason.TOO_LARGE, said(reply), ours=True)
    if reply.status == 400 and code:
        return Refused(Reason.NOT_FOUND, said(reply)) if code in _BAD_TOPIC else Refused(Reason.PAYLOAD, said(reply), ours=True)
    return classify_rest(reply, context)


def _without_id(reply: HttpReply) -> Outcome:
    """Either a page in front of ntfy answered, or part of ntfy's own JSON answer is missing."""
    if reply.cut and reply.headers.get("content-type", "").lower().startswith("application/json"):
        return Delivered()
    return lost(reply) or Later(Reason.BAD_ANSWER, detail=said(reply))


def _code(body: dict[str, Any]) -> int:
    """ntfy's own number of the error, or 0."""
    code = body.get("code")
    return code if isinstance(code, int) else 0


def _wait_seconds(reply: HttpReply, code: int, now: Micros) -> float | None:
    """As long as the answer asks, or until the daily quota resets."""
    wait = retry_after(reply, now)
    return float(DAY_SECONDS - now // SECOND % DAY_SECONDS) if wait is None and code in _UNTIL_TOMORROW else wait


CHANNEL = Channel(
    type="ntfy",
    title="ntfy",
    about="To phones and browsers; your own server too.",
    settings=NtfySettings,
    target=_target,
    paces=_paces,
    window_seconds=BURST_SECONDS,
    render=render,
    classify=classify,
    measure=measure,
    becomes=plain.BECOMES,
)
