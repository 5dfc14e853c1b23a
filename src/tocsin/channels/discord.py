"""Discord webhooks (https://docs.discord.com/developers/resources/webhook#execute-webhook) and servers that offer the same."""

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
    is_page,
    json_body,
    retry_after,
    said,
    unlike,
)
from tocsin.clock import Micros
from tocsin.markup import discord as dialect
from tocsin.markup import tree
from tocsin.markup.cut import split
from tocsin.markup.length import cut, share, utf16, written_out
from tocsin.model import (
    MASK,
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
    Severity,
)
from tocsin.net.urls import check_url, hide_after_host, origin
from tocsin.settings import Settings
from tocsin.vault import fingerprint

# https://docs.discord.com/developers/resources/message#embed-object-embed-limits, in UTF-16 units to be on the safe side
MAX_TITLE = 256
MAX_DESCRIPTION = 4096
MAX_FIELD_NAME = 256
MAX_FIELD_VALUE = 1024
MAX_EMBED = 6000
MAX_FIELDS = 25
MAX_ELEMENTS = 95  # an embed is not shown beyond about its 100th: https://github.com/discord/discord-api-docs/issues/6932
MIN_ELEMENTS = 40  # reserved for the message, however many the fields have
FILLED = 0.66  # usable share of all parts together, since a part ends at a block or a word
MIN_FOR_FIELDS = 2500  # of the embed, which fields may use even if the message is long
LONGEST_REST_SECONDS = 3600.0
CLOUDFLARE_WAIT_SECONDS = 900.0  # a ban of our address lasts an hour or so; asking again prolongs it
COLORS = {Severity.INFO: 0x3498DB, Severity.SUCCESS: 0x2ECC71, Severity.WARNING: 0xF1C40F, Severity.CRITICAL: 0xE74C3C}
_NO_CONTENT = 204
_BLANK = "\u200b"  # Discord accepts no empty name or value

_OFFICIAL_HOSTS = frozenset(
    f"{prefix}{domain}" for domain in ("discord.com", "discordapp.com") for prefix in ("", "www.", "ptb.", "canary.")
)
_OFFICIAL = re.compile(
    r"(https://(?:(?:www|ptb|canary)\.)?discord(?:app)?\.com/api(?:/v\d{1,2})?/webhooks/(\d{17,20})/)([\w-]{60,100})/?(?:\?([^#]*))?",
    re.ASCII,
)
_QUERY = re.compile(r"(?:(?:thread_id=\d{17,20}|wait=\w+)(?:&|$))*", re.ASCII)
_THREAD = re.compile(r"(?:^|&)(thread_id=\d+)", re.ASCII)
_WAIT = re.compile(r"(?:^|&)wait=[^&]*")

# https://docs.discord.com/developers/topics/opcodes-and-status-codes#json
_GONE = {
    10003: "Discord says that the webhook's channel no longer exists.",
    10015: "Discord says that this webhook was deleted.",
    50027: "Discord says that this webhook's token is no longer valid.",
}
_PAYLOAD = frozenset({40005, 50006, 50035, 50109, 240000})
_REFUSED = {
    220001: (Reason.SETTINGS, "The webhook's channel is a forum: add ?thread_id=… of one of its posts to the URL."),
    220003: (Reason.SETTINGS, "The webhook's channel is a forum: add ?thread_id=… of one of its posts to the URL."),
    10004: (Reason.NOT_FOUND, "Discord does not know the webhook's server."),
}


# ---------------------------------------------------------------------------------------------------------- settings


def _is_official(url: str) -> bool:
    return (urlsplit(url).hostname or "").rstrip(".") in _OFFICIAL_HOSTS


def _check(value: str) -> str | None:
    if (fault := check_url(value)) is not None:
        return fault
    parts = urlsplit(value)
    if not _is_official(value):
        return None
    match = _OFFICIAL.fullmatch(value)
    if match and _QUERY.fullmatch(match[4] or ""):
        return None
    if parts.path.rstrip("/").endswith(("/slack", "/github")):
        return "The URL must end after the token: /slack and /github are for other dialects."
    return "A Discord webhook reads https://discord.com/api/webhooks/ID/TOKEN, with ?thread_id=… at most."


def _hide(value: str) -> Hidden:
    match = _OFFICIAL.fullmatch(value)
    return Hidden(match[1] + MASK, (match[3],)) if match else hide_after_host(value)


class DiscordSettings(HandlerSettings, frozen=True):
    discord: Annotated[
        str,
        Field(
            title="Webhook URL",
            help="In Discord: the channel's settings, Integrations, Webhooks, Copy Webhook URL. For a thread add ?thread_id=…",
            example="https://discord.com/api/webhooks/123456789012345678/" + "x" * 68,
            check=_check,
            hide=_hide,
            is_address=True,
        ),
    ]


def _target(settings: DiscordSettings) -> str:
    match = _OFFICIAL.fullmatch(settings.discord)
    return f"Discord webhook {match[2]}" if match else origin(settings.discord).partition("://")[2]


def _paces(settings: DiscordSettings, _: Settings) -> tuple[Pace, ...]:
    """5 in 2 s and 30 a minute (https://github.com/discord/discord-api-docs/issues/367); 50 a second for our address, we stay below."""
    match = _OFFICIAL.fullmatch(settings.discord)
    key = f"discord:{fingerprint(f'{match[2]}/{match[3]}' if match else settings.discord)}"
    paces = (Pace(key, 5, 2.0), Pace(key, 30, 60.0))
    return (*paces, Pace("discord", 40, 1.0, "egress")) if match else paces


def _realm(settings: DiscordSettings) -> str:
    return "discord.com" if _OFFICIAL.fullmatch(settings.discord) else origin(settings.discord)


def _rest_seconds(reply: HttpReply, _: Micros) -> float:
    """The headers override the published limits (https://docs.discord.com/developers/topics/rate-limits#header-format)."""
    if reply.headers.get("x-ratelimit-remaining", "").strip() != "0":
        return 0.0
    after = reply.headers.get("x-ratelimit-reset-after", "").strip()
    return min(float(after), LONGEST_REST_SECONDS) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,9})?", after, re.ASCII) else 0.0


# ------------------------------------------------------------------------------------------------------------ render


def render(message: Message, settings: DiscordSettings, context: Context) -> tuple[HttpRequest, ...]:
    url, shown = _wire_url(settings.discord), _hide(settings.discord).shown
    return tuple(HttpRequest(url, shown, body, chat.JSON_HEADERS) for body in _bodies(message, chat.look(context)))


@functools.lru_cache(chat.KEPT)
def _bodies(message: Message, look: chat.Look) -> list[bytes]:
    return [msgspec.json.encode({"embeds": [embed], "allowed_mentions": {"parse": []}}) for embed in _embeds(message, look)]


def _wire_url(value: str) -> str:
    """With `wait=true`, so that Discord answers once the message is saved; on Discord's own hosts with API v10.

    A URL without a version runs on v6, whose waits are in milliseconds; v10 is not served on discordapp.com.
    """
    match = _OFFICIAL.fullmatch(value)
    if match:
        thread = _THREAD.search(match[4] or "")
        return f"https://discord.com/api/v10/webhooks/{match[2]}/{match[3]}?{thread[1] + '&' if thread else ''}wait=true"
    url, _, query = value.partition("#")[0].partition("?")
    query = _WAIT.sub("", query).strip("&")
    return f"{url}?{query}&wait=true" if query else f"{url}?wait=true"


def _embeds(message: Message, look: chat.Look) -> list[dict[str, Any]]:
    """The message, in parts if it is long. The fields follow the last part, and are cut to `MIN_FOR_FIELDS` if necessary."""
    room = MAX_EMBED - MAX_TITLE - utf16(look.late)
    document = chat.document_of(message)
    render, size = _rendering(message, document, look)
    descriptions = [render(document)]
    address = f"\n\n{dialect.linked(message.url)}" if message.url and not _takes_url(message.url) else ""
    fields = _fields(message, max(MIN_FOR_FIELDS, room - utf16(descriptions[0] + address)))
    left = min(MAX_DESCRIPTION, room - sum(utf16(field["name"]) + utf16(field["value"]) for field in fields)) - utf16(address)
    parts = [document]
    if size(document) > left:
        parts = split(document, size, MAX_DESCRIPTION, left, look.most_parts)
        descriptions = [render(part) for part in parts]
    descriptions[-1] = (descriptions[-1] + address).lstrip("\n") if address else descriptions[-1]
    total = len(parts)
    if look.is_plain:
        texts = [chat.plainest(message, look, part, index, total) for index, part in enumerate(parts)]
        return [{"description": dialect.escape(cut(text, MAX_DESCRIPTION, _escaped_size))} for text in texts]
    return [
        _embed(message, look, chat.number(index, total), description, fields if index == total - 1 else [])
        for index, description in enumerate(descriptions)
    ]


def _rendering(
    message: Message, document: tree.Document, look: chat.Look
) -> tuple[Callable[[tree.Document], str], Callable[[tree.Document], int]]:
    """How the message is rendered, and its size against MAX_DESCRIPTION: without marks if it has more than all parts can show."""
    elements = dialect.Elements().document
    taken = dialect.elements_in("\n".join([message.title, *[text for pair in message.fields for text in pair]]))
    room = max(MAX_ELEMENTS - taken, MIN_ELEMENTS)
    most = room * look.most_parts * FILLED
    if (count := elements(document)) <= most:
        render = dialect.remembering()
        return render, lambda part: max(utf16(render(part)), _filled(elements(part), room))
    written_out(count)
    if dialect.pictures_in(document) <= most:
        return dialect.plainly, lambda part: max(utf16(dialect.plainly(part)), _filled(dialect.pictures_in(part), room))
    return dialect.without_pictures, lambda part: utf16(dialect.without_pictures(part))


def _filled(elements: int, room: int) -> int:
    """The share of the elements that there is room for, as the same share of a description."""
    return -(-elements * MAX_DESCRIPTION // room)


def _takes_url(url: str) -> bool:
    """Discord refuses an embed whose address leads to a host without a dot, and gives no reason."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return "." in host.strip(".")


def _embed(message: Message, look: chat.Look, number: str, description: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    title = cut(chat.heading(message), MAX_TITLE - (chat.NUMBER_ROOM if number else 0), _escaped_size)
    embed: dict[str, Any] = {"title": dialect.escape(title + number), "color": COLORS[message.severity]}
    if description:
        embed["description"] = description
    if message.url and _takes_url(message.url):
        embed["url"] = message.url
    if fields:
        embed["fields"] = fields
    if look.late:
        embed["footer"] = {"text": look.late}
    if message.at:
        embed["timestamp"] = f"{chat.moment(message.at):%Y-%m-%dT%H:%M:%SZ}"
    return embed


def _fields(message: Message, room: int) -> list[dict[str, Any]]:
    pairs = chat.fields_of(message)
    cap = share([min(_escaped_size(text), MAX_FIELD_VALUE) for pair in pairs for text in pair], room - 2 * len(pairs))
    return [
        {"name": _field_text(name, min(cap, MAX_FIELD_NAME)), "value": _field_text(value, min(cap, MAX_FIELD_VALUE)), "inline": True}
        for name, value in pairs
    ]


def _field_text(text: str, limit: int) -> str:
    return dialect.escape(cut(text, limit, _escaped_size)) or _BLANK


def _escaped_size(text: str) -> int:
    return utf16(dialect.escape(text))


def measure(request: Request) -> tuple[Size, ...]:
    (embed,) = chat.body_of(request)["embeds"]
    title, description = utf16(embed.get("title", "")), utf16(embed.get("description", ""))
    fields = embed.get("fields", [])
    footer = utf16(embed.get("footer", {}).get("text", ""))
    whole = title + description + footer + sum(utf16(field["name"]) + utf16(field["value"]) for field in fields)
    sizes = (("title", title, MAX_TITLE), ("description", description, MAX_DESCRIPTION), ("embed", whole, MAX_EMBED))
    return (*(Size(what, size, limit, "UTF-16 units") for what, size, limit in sizes), Size("fields", len(fields), MAX_FIELDS, "fields"))


# ---------------------------------------------------------------------------------------------------------- classify


def classify(reply: HttpReply, context: Context) -> Outcome:
    body = json_body(reply)
    if 200 <= reply.status < 300:
        return _accepted(reply, body, context)
    if reply.status == 429:
        return _throttled(reply, body, context)
    if reply.status == 403 and not body:
        # Cloudflare is in front of Discord and answers in HTML: it refuses our address, not the webhook.
        return Later(Reason.FORBIDDEN, CLOUDFLARE_WAIT_SECONDS, detail=said(reply))
    if 400 <= reply.status < 500:
        return _refused(reply, body, context)
    return classify_rest(reply, context)


def _accepted(reply: HttpReply, body: dict[str, Any], context: Context) -> Outcome:
    """Discord sends the message that it has saved, or 204; of compatible servers any 2xx is believed."""
    message_id = body.get("id")
    if isinstance(message_id, str):
        return Delivered(message_id)
    is_believed = reply.status == _NO_CONTENT or (reply.cut is not None and not is_page(reply)) or not context.is_official
    return Delivered() if is_believed else unlike(reply)


def _refused(reply: HttpReply, body: dict[str, Any], context: Context) -> Outcome:
    code = body.get("code")
    code = code if isinstance(code, int) else 0
    names_fields = "code" not in body and any(isinstance(fault, list) for fault in body.values())  # {"embeds": ["0"]}
    if code in _GONE:
        return Gone(Reason.GONE, _GONE[code])
    if code in _PAYLOAD or (reply.status == 400 and names_fields):
        return Refused(Reason.PAYLOAD, said(reply), ours=True)
    if code in _REFUSED:
        reason, detail = _REFUSED[code]
        return Refused(reason, detail)
    if reply.status == 413:
        return Refused(Reason.TOO_LARGE, said(reply), ours=True)
    if reply.status == 410:
        return Gone(Reason.GONE, "The server says that this webhook is gone.")
    if reply.status in {401, 403}:
        return Refused(Reason.UNAUTHORIZED if reply.status == 401 else Reason.FORBIDDEN, said(reply))
    return classify_rest(reply, context)


def _throttled(reply: HttpReply, body: dict[str, Any], context: Context) -> Later:
    """The longer of the waits in header and body, both in seconds (https://docs.discord.com/developers/topics/rate-limits)."""
    waits = [wait for wait in (retry_after(reply, context.now), chat.seconds(body.get("retry_after"), context.now)) if wait is not None]
    wait = max(waits, default=None if body else CLOUDFLARE_WAIT_SECONDS)
    is_wide = body.get("global") is True or reply.headers.get("x-ratelimit-global", "").strip().lower() == "true"
    return Later(Reason.THROTTLED, wait, counts=False, detail=said(reply), is_wide=is_wide)


CHANNEL = Channel(
    type="discord",
    title="Discord",
    about="To a channel or a thread.",
    settings=DiscordSettings,
    target=_target,
    is_official=lambda settings: _is_official(settings.discord),
    paces=_paces,
    realm=_realm,
    rest_seconds=_rest_seconds,
    render=render,
    classify=classify,
    measure=measure,
    becomes=dialect.BECOMES,
)
