"""What the chat channels have in common: titles, part numbers, lateness, fields."""

from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from tocsin import __version__, zones
from tocsin.channels.contract import Context, wait_of
from tocsin.clock import SECOND, Micros
from tocsin.markup import tree
from tocsin.markup.length import clean, clean_line
from tocsin.markup.parse import parse
from tocsin.markup.plain import plain
from tocsin.markup.unseen import is_blank
from tocsin.markup.verbatim import verbatim
from tocsin.model import HttpRequest, Message, Request, Severity

JSON_HEADERS = (("content-type", "application/json; charset=utf-8"), ("user-agent", f"tocsin/{__version__}"))
NUMBER_ROOM = 10  # characters, for `number`, escapes included
_MAX_NUMBER = 1e300  # integers have any length, and a larger one does not fit a float
KEPT = 16  # renderings of a channel, so that a notification to many handlers is rendered once
EMOJI = {Severity.INFO: "ℹ️", Severity.SUCCESS: "✅", Severity.WARNING: "⚠️", Severity.CRITICAL: "🚨"}


class Look(Struct, frozen=True):
    """Everything besides the message itself that its content depends on, so that a rendering can be reused.

    `late`: when it was due, in words. `is_plain`: in the plainest form, because the provider has refused the native one.
    """

    late: str
    most_parts: int
    is_plain: bool


def document_of(message: Message) -> tree.Document:
    """What the message says, as every dialect renders it."""
    return verbatim(message.text) if message.is_text else parse(message.text)


def look(context: Context) -> Look:
    return Look(late_note(context), context.service.max_parts, context.plain)


def title(message: Message) -> str:
    """The title, or the severity's word where there is none."""
    return clean_line(message.title) or message.severity.value.capitalize()


def heading(message: Message) -> str:
    """The title behind the severity's emoji, on one line."""
    return f"{EMOJI[message.severity]} {title(message)}"


def number(index: int, total: int) -> str:
    """The suffix of a part's title, such as (2/5); empty if there is one part only. `index` counts from 0."""
    return f" ({index + 1}/{total})" if total > 1 else ""


def late_note(context: Context) -> str:
    """Says when a late message was due; empty if it is on time."""
    return f"Late: this was meant for {zones.shown(context.meant_for, context.zone)}" if context.meant_for is not None else ""


def moment(at: Micros) -> datetime:
    return datetime.fromtimestamp(at // SECOND, UTC)


def fields_of(message: Message) -> list[tuple[str, str]]:
    """Names and values without control characters; pairs in which both are empty are left out."""
    cleaned = [(clean_line(name), clean(value).strip()) for name, value in message.fields]
    return [(name, value) for name, value in cleaned if name or value]


def or_no_text(text: str) -> str:
    """The text, or words that say so if nothing of it can be seen: entities such as `&#8203;` are decoded only while rendering."""
    return "(no text)" if is_blank(text) else text


def plainest(message: Message, look: Look, part: tree.Document, index: int, total: int) -> str:
    """A part (`index` counts from 0) as plain text; fields and address follow the last one."""
    below: list[str] = []
    if index == total - 1:
        fields = "\n".join(f"{name}: {value}" if name else value for name, value in fields_of(message))
        below = [fields, clean_line(message.url)]
    return "\n\n".join(filter(None, [heading(message) + number(index, total), look.late, plain(part), *below]))


def body_of(request: Request) -> dict[str, Any]:
    """The JSON object of a request that a channel has rendered."""
    return msgspec.json.decode(request.body) if isinstance(request, HttpRequest) else {}


def seconds(value: Any, now: Micros) -> float | None:
    """The wait that an answer's JSON names; None if it is not a usable number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return wait_of(float(value), now) if is_number and 0 <= value < _MAX_NUMBER else None
