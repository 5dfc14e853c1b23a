"""ntfy (https://docs.ntfy.sh/publish/#publish-as-json), the public server or your own.

Apps on phones show Markdown as it is written, only the web app renders it: so the message goes out as readable plain text.
"""

import functools
import re
from collections.abc import Callable
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
from tocsin.markup.length import clean_line, cut, share, utf8
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

MAX_MESSAGE = 4095  # bytes; what is longer becomes an attachment: https://docs.ntfy.sh/publish/#limitations
MAX_BODY = 8191  # bytes of JSON, also with the server's defaults: https://github.com/binwiederhier/ntfy/blob/main/server/server.go
MAX_TOPIC = 64
MIN_FOR_FIELDS = 1500  # of the message, which fields may use even if the rest is long
MAX_FOR_LINKS = 4096  # of the JSON
_NUMBER = " (00/00)"
_BREAK = "\n\n"
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
_TOPIC = re.compile(rf"/([-_A-Za-z0-9]{{1,{MAX_TOPIC}}})/?")

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
    head = f"{look.late}{_BREAK}" if look.late else ""
    size = _size_beside({} if look.is_plain else _content(message, _NUMBER, ""))
    room = MAX_MESSAGE - _encoded(head + _BREAK)
    texts = [plain.plain(document)]
    fields = _fields(message, max(MIN_FOR_FIELDS, room - size(texts[0])))
    last_room = room - _encoded(fields)
    parts = [document]
    if size(texts[0]) > last_room:
        render = plain.remembering()
        parts = split(document, lambda part: size(render(part)), room, last_room, look.most_parts)
        texts = [render(part) for part in parts]
    total = len(parts)
    if look.is_plain:
        return [{"message": cut(chat.plainest(message, look, part, index, total), MAX_MESSAGE, size)} for index, part in enumerate(parts)]
    texts[-1] = _BREAK.join(filter(None, (texts[-1], fields)))
    return [_content(message, chat.number(index, total), chat.or_no_text(head + text)) for index, text in enumerate(texts)]


def _size_beside(content: dict[str, Any]) -> Callable[[str], int]:
    """What a text uses of MAX_MESSAGE in a request with this content: its bytes, or more where MAX_BODY leaves less room."""
    beside = len(msgspec.json.encode({"topic": "t" * MAX_TOPIC, "message": "", **content}))
    more = MAX_MESSAGE - (MAX_BODY - beside)
    return lambda text: max(utf8(text), _encoded(text) + more)


def _encoded(text: str) -> int:
    """Bytes in JSON, without the quotation marks around it: never fewer than the text has by itself."""
    return len(msgspec.json.encode(text)) - 2


def _content(message: Message, number: str, text: str) -> dict[str, Any]:
    return {
        "title": chat.title(message) + number,
        "message": text,
        "priority": _PRIORITY[message.severity],
        "tags": [_TAGS[message.severity]],
        **_links(clean_line(message.url)),
    }


def _links(url: str) -> dict[str, Any]:
    """Where a tap leads, and a button for it unless the address is too long to be sent twice; nothing if it is even longer."""
    if not url:
        return {}
    click: dict[str, Any] = {"click": url}
    both: dict[str, Any] = {**click, "actions": [{"action": "view", "label": "Open", "url": url}]}
    for links in (both, click):
        if len(msgspec.json.encode(links)) <= MAX_FOR_LINKS:
            return links
    return {}


def _fields(message: Message, room: int) -> str:
    """The fields, and the address if no link leads there."""
    lines = [f"{name}: {value}" if name else value for name, value in chat.fields_of(message)]
    url = clean_line(message.url)
    if url and not _links(url):
        lines.append(url)
    cap = share([_encoded(line) for line in lines], room - _encoded("\n") * len(lines))
    return "\n".join(cut(line, cap, _encoded) for line in lines)


def measure(request: Request) -> tuple[Size, ...]:
    body = request.body if isinstance(request, HttpRequest) else b""
    return (
        Size("message", utf8(chat.body_of(request)["message"]), MAX_MESSAGE, "bytes"),
        Size("request", len(body), MAX_BODY, "bytes"),
    )


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
