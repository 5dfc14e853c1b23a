"""Telegram's Bot API (https://core.telegram.org/bots/api#sendmessage), Telegram's own or a self-hosted server."""

import functools
import re
from collections.abc import Callable
from typing import Annotated, Any, cast

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
from tocsin.markup import telegram as dialect
from tocsin.markup import tree
from tocsin.markup.cut import split
from tocsin.markup.length import cut, cut_utf16, share, utf8, utf16, written_out
from tocsin.model import (
    MASK,
    Delivered,
    Gone,
    Hidden,
    HttpReply,
    HttpRequest,
    Later,
    Message,
    Moved,
    Outcome,
    Reason,
    Refused,
    Request,
    Severity,
)
from tocsin.settings import Settings
from tocsin.vault import fingerprint

MAX_TEXT = 4096  # after parsing; Telegram counts code points, its offsets UTF-16 units: we count the latter
MAX_BYTES = 32_768  # before parsing: "text is too long" above
BYTES_PER_UNIT = 5  # "&amp;"; so words take 20,480 bytes at most, which leaves enough for the link's 2,048 characters
MAX_MARKS = 100  # entities of a message: text after the last one is shown without its markup and links
MAX_ADDRESSES = 9_000  # bytes of its links, ENTITIES_TOO_LONG above 9,500: https://github.com/tdlib/telegram-bot-api/issues/167
FILLED = 0.66  # usable share of all parts together, since a part ends at a block or a word
TIMEOUT_SECONDS = 30.0
MAX_TOPIC = 2**31 - 1
_TOPIC = re.compile(r"[1-9]\d{0,9}", re.ASCII)
_TOKEN = re.compile(r"([1-9]\d{0,15}):([A-Za-z0-9_-]{30,64})", re.ASCII)
_CHAT_NUMBER = re.compile(r"-?[1-9]\d{0,18}", re.ASCII)
_CHAT_AND_TOPIC = re.compile(r"(?:-?\d+|@\w+)[:/_]\d+", re.ASCII)
_TOPIC_LINK = re.compile(r"(?:https?://)?t(?:elegram)?\.me/(?:c/)?\w+/\d+(?:/\d+)?/?(?:\?.*)?", re.ASCII)
_CHAT_NAME = re.compile(r"@[A-Za-z][A-Za-z0-9_]{3,31}", re.ASCII)

_GONE = (
    "bot was blocked by the user",
    "user is deactivated",
    "bot was kicked from",
    "bot is not a member of",
    "the group chat was deleted",
    "bot can't initiate conversation with a user",
)
_NOT_FOUND = ("chat not found", "chat_id is empty", "message thread not found", "peer_id_invalid")
_FORBIDDEN = ("have no rights to send", "not enough rights to send", "need administrator rights")
_PAYLOAD = (
    "can't parse entities",
    "entities_too_long",
    "message is too long",
    "message_too_long",
    "text is too long",
    "text must be non-empty",
    "message text is empty",
    "message_empty",
    "text must be encoded in utf-8",
)


# ---------------------------------------------------------------------------------------------------------- settings


def _check_token(value: str) -> str | None:
    return None if _TOKEN.fullmatch(value) else "A bot token reads 123456789:ABC…, as @BotFather gives it."


def _hide_token(value: str) -> Hidden:
    bot, _, secret = value.partition(":")
    return Hidden(f"{bot}:{MASK}", (secret,)) if secret else Hidden(MASK, (value,))


def _check_chat(value: str) -> str | None:
    if _CHAT_NAME.fullmatch(value) or (_CHAT_NUMBER.fullmatch(value) and -(2**63) <= int(value) < 2**63):
        return None
    if _CHAT_AND_TOPIC.fullmatch(value):
        return "Enter the chat id alone: the number of the topic behind it goes into telegram_message_thread_id."
    if _TOPIC_LINK.fullmatch(value):
        return (
            "This is a link: the chat id is -100 and the first number in it (or @ and the name), "
            "and the number of the topic behind that goes into telegram_message_thread_id."
        )
    return "A chat id is a whole number, negative for groups, or @ and a public channel's name."


def _check_topic(value: str) -> str | None:
    is_topic = _TOPIC.fullmatch(value) and int(value) <= MAX_TOPIC
    return None if is_topic else "A topic's id is a whole number, such as 45."


class TelegramSettings(HandlerSettings, frozen=True):
    telegram: Annotated[
        str,
        Field(
            title="Bot token",
            help="From @BotFather in Telegram: /newbot, or /token for a bot that you have.",
            example="123456789:AAbbCCddEEffGGhhIIjjKKllMMnnOOppQQr",
            check=_check_token,
            hide=_hide_token,
        ),
    ]
    telegram_chat_id: Annotated[
        str,
        Field(
            title="Chat id",
            help="Number of the user, group or channel (write to the bot, or add it to the group, first), or @name of a public channel.",
            example="-1001234567890",
            check=_check_chat,
        ),
    ]
    telegram_message_thread_id: Annotated[
        str,
        Field(
            title="Topic",
            help="In a group with topics: the topic's number, the second one in its link, t.me/c/1234567890/45. Empty: the General topic.",
            example="45",
            check=_check_topic,
            is_optional=True,
        ),
    ] = ""


def _target(settings: TelegramSettings) -> str:
    chat_id = settings.telegram_chat_id
    shown = chat_id if chat_id.startswith("@") else f"chat {chat_id}"
    return f"{shown}, topic {settings.telegram_message_thread_id}" if settings.telegram_message_thread_id else shown


def _paces(settings: TelegramSettings, _: Settings) -> tuple[Pace, ...]:
    """Messages by bot, by chat, and by group (https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this)."""
    bot = f"telegram:{fingerprint(settings.telegram)}"
    target = f"{bot}:{fingerprint(settings.telegram_chat_id)}"
    paces = (Pace(bot, 25, 1.0), Pace(target, 1, 1.0))
    return (*paces, Pace(target, 20, 60.0)) if settings.telegram_chat_id[:1] in {"-", "@"} else paces


def _is_public(settings: TelegramSettings) -> bool:
    return settings.telegram_chat_id.startswith("@")


# ------------------------------------------------------------------------------------------------------------ render


def render(message: Message, settings: TelegramSettings, context: Context) -> tuple[HttpRequest, ...]:
    chat_id = settings.telegram_chat_id
    url, shown = (
        f"{context.service.telegram_api_url}/bot{token}/sendMessage" for token in (settings.telegram, _hide_token(settings.telegram).shown)
    )
    topic = {"message_thread_id": int(settings.telegram_message_thread_id)} if settings.telegram_message_thread_id else {}
    bodies = [
        msgspec.json.encode(
            {
                "chat_id": int(chat_id) if _CHAT_NUMBER.fullmatch(chat_id) else chat_id,
                **topic,
                "text": text,
                **({} if context.plain else {"parse_mode": "HTML"}),
                "link_preview_options": {"is_disabled": True},
                "disable_notification": index > 0 or message.severity is Severity.INFO,  # one notification rings once
            }
        )
        for index, text in enumerate(_texts(message, chat.look(context)))
    ]
    return tuple(HttpRequest(url, shown, body, chat.JSON_HEADERS, guarded=False, timeout_seconds=TIMEOUT_SECONDS) for body in bodies)


@functools.lru_cache(chat.KEPT)
def _texts(message: Message, look: chat.Look) -> list[str]:
    """The message, in parts if it is long; fields and link follow the last."""
    link = dialect.link(message.url, "Open") if message.url else ""
    room = MAX_TEXT - dialect.visible(_head(message, look, "")) - 6
    last_room = room - dialect.visible(link)
    document = chat.document_of(message)
    whole = dialect.telegram(document)
    render, size = _rendering(message, whole, look.most_parts)
    bodies = [whole if render is dialect.telegram else render(document)]
    fields = _fields(message, max(last_room // 2, last_room - dialect.visible(bodies[0])))
    last_room -= dialect.visible(fields)
    parts = [document]
    if size(bodies[0]) > last_room:
        render = dialect.remembering() if render is dialect.telegram else render
        parts = split(document, lambda part: size(render(part)), room - chat.NUMBER_ROOM, last_room - chat.NUMBER_ROOM, look.most_parts)
        bodies = [render(part) for part in parts]
    total = len(parts)
    if look.is_plain:
        texts = [dialect.inert(chat.plainest(message, look, part, index, total)) for index, part in enumerate(parts)]
        return [cut_utf16(text, MAX_TEXT) for text in texts]
    heads = [_head(message, look, chat.number(index, total)) for index in range(total)]
    return [*map(_joined, heads[:-1], bodies[:-1]), _joined(heads[-1], bodies[-1], fields, link)]


def _rendering(message: Message, whole: str, most_parts: int) -> tuple[Callable[[tree.Document], str], Callable[[str], int]]:
    """How the message is rendered, and its size against MAX_TEXT: without marks if it has more than all parts can hold."""
    room = MAX_MARKS - 4 - len(message.fields)  # title, lateness, link and names are marks as well
    address_room = MAX_ADDRESSES - utf8(message.url)
    count, size = dialect.marks(whole)
    if max(count / room, size / address_room) > most_parts * FILLED:
        written_out(count)
        return dialect.plainly, _size

    def measured(html: str) -> int:
        count, size = dialect.marks(html)
        return max(_size(html), -(-count * MAX_TEXT // room), -(-size * MAX_TEXT // address_room))

    return dialect.telegram, measured


def _head(message: Message, look: chat.Look, number: str) -> str:
    return f"<b>{dialect.words(chat.heading(message) + number)}</b>" + (f"\n<i>{look.late}</i>" if look.late else "")


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _fields(message: Message, room: int) -> str:
    pairs = chat.fields_of(message)
    cap = share([_words_size(text) for pair in pairs for text in pair], room - 4 * len(pairs))
    cut_pairs = [tuple(dialect.words(cut(text, cap, _words_size)) for text in pair) for pair in pairs]
    return "\n".join(f"<b>{name}:</b> {value}" if name else value for name, value in cut_pairs)


def _words_size(text: str) -> int:
    return utf16(dialect.inert(text))


def _size(html: str) -> int:
    """The size against MAX_TEXT: the visible length, or what the markup's bytes amount to if that is more."""
    return max(dialect.visible(html), -(-utf8(html) // BYTES_PER_UNIT))


def measure(request: Request) -> tuple[Size, ...]:
    text: str = chat.body_of(request)["text"]
    count, addresses = dialect.marks(text) if "parse_mode" in chat.body_of(request) else (0, 0)
    return (
        Size("text", dialect.visible(text), MAX_TEXT, "UTF-16 units"),
        Size("text with its markup", utf8(text), MAX_BYTES, "bytes"),
        Size("links and other marks", count, MAX_MARKS, "marks"),
        Size("addresses of links", addresses, MAX_ADDRESSES, "bytes"),
    )


# ---------------------------------------------------------------------------------------------------------- classify


def classify(reply: HttpReply, context: Context) -> Outcome:
    body = json_body(reply)
    if 200 <= reply.status < 300:
        return _accepted(reply, body)
    parameters = _object(body.get("parameters"))
    if reply.status == 429:
        return _throttled(reply, parameters, context)
    if body.get("ok") is not False:
        return _not_telegram(reply, context)
    moved_to = parameters.get("migrate_to_chat_id")
    if isinstance(moved_to, int) and not isinstance(moved_to, bool):
        return Moved({"telegram_chat_id": str(moved_to)}, "The group became a supergroup and has a new id.")
    description = body.get("description")
    return _refused(reply, description.lower() if isinstance(description, str) else "", context)


def _accepted(reply: HttpReply, body: dict[str, Any]) -> Outcome:
    if body.get("ok") is not True:
        return lost(reply) or Later(Reason.BAD_ANSWER, detail=said(reply))
    message_id = _object(body.get("result")).get("message_id")
    return Delivered(str(message_id) if isinstance(message_id, int) else None)


def _refused(reply: HttpReply, description: str, context: Context) -> Outcome:
    def says(*phrases: str) -> bool:
        return any(phrase in description for phrase in phrases)

    if reply.status in {401, 404}:  # 404: the token is malformed
        return Gone(Reason.UNAUTHORIZED, "Telegram does not know this bot token: it was revoked, or the bot was deleted.")
    if reply.status == 403:
        return Gone(Reason.FORBIDDEN, said(reply)) if says(*_GONE) else Refused(Reason.FORBIDDEN, said(reply))
    if reply.status == 413:
        return Refused(Reason.TOO_LARGE, said(reply), ours=True)
    if reply.status == 400:
        if says(*_PAYLOAD):
            return Refused(Reason.PAYLOAD, said(reply), ours=True)
        if says(*_NOT_FOUND):
            return Refused(Reason.NOT_FOUND, said(reply))
        if says(*_FORBIDDEN):
            return Refused(Reason.FORBIDDEN, said(reply))
    return classify_rest(reply, context)


def _not_telegram(reply: HttpReply, context: Context) -> Outcome:
    """Something in front of the Bot API answered, or TOCSIN_TELEGRAM_API_URL leads elsewhere: the handler is not at fault."""
    if 400 <= reply.status < 500 and reply.status not in {408, 425}:
        return Later(Reason.BAD_ANSWER, detail=said(reply))
    return classify_rest(reply, context)


def _throttled(reply: HttpReply, parameters: dict[str, Any], context: Context) -> Later:
    """https://core.telegram.org/bots/api#responseparameters: seconds, in the body and in the header."""
    waits = [
        wait for wait in (retry_after(reply, context.now), chat.seconds(parameters.get("retry_after"), context.now)) if wait is not None
    ]
    return Later(Reason.THROTTLED, max(waits, default=None), counts=False, detail=said(reply))


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


CHANNEL = Channel(
    type="telegram",
    title="Telegram",
    about="From your bot to a person, a group or a channel.",
    settings=TelegramSettings,
    target=_target,
    paces=_paces,
    render=render,
    classify=classify,
    measure=measure,
    becomes=dialect.BECOMES,
    is_public=_is_public,
)
