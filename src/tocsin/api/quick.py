"""The quick way in for plain JSON notifications, where nearly all traffic is.

It reads a strict subset of what the table's parameters accept, into the same drafts. For anything unusual it returns None, and
the table takes over, which alone defines the rules and reports the faults.
"""

import re
from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, MsgspecError, Struct, UnsetType, json

from tocsin.api import times
from tocsin.api.kinds import MAX_FIELD_NAME, MAX_FIELD_VALUE, MAX_FIELDS, MAX_HANDLERS, MAX_ID
from tocsin.api.messages import time_faults
from tocsin.api.parameters import MAX_BATCH_ITEMS, MAX_TITLE
from tocsin.clock import Micros
from tocsin.markup.unseen import is_blank
from tocsin.model import MAX_MESSAGE_BYTES, Draft, Message, Severity
from tocsin.net.urls import check_url

CONTENT_TYPES = frozenset({b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"})

# Accepts nothing that `check_url` would refuse, in a tenth of the time.
_PLAIN_URL = re.compile(r"https?://[a-z0-9][a-z0-9.-]{0,200}(?::[0-9]{1,4})?(?:[/?#][!-\[\]-~]{0,1800})?")

_Text: TypeAlias = str | UnsetType
_Title: TypeAlias = Annotated[str, Meta(max_length=MAX_TITLE)] | UnsetType
_Handlers: TypeAlias = Annotated[tuple[Annotated[int, Meta(ge=1, le=MAX_ID)], ...], Meta(max_length=MAX_HANDLERS)] | UnsetType


class _Item(Struct, forbid_unknown_fields=True, gc=False):
    message: Annotated[str, Meta(min_length=1)]
    title: _Title = UNSET
    format: Literal["markdown", "text"] | UnsetType = UNSET
    severity: Severity | UnsetType = UNSET
    url: _Text = UNSET
    fields: dict[str, str | bool | int] | UnsetType = UNSET
    handlers: _Handlers = UNSET
    send_at: _Text = UNSET
    expires_at: _Text = UNSET


class _Batch(Struct, forbid_unknown_fields=True):
    notifications: list[_Item]


_read_item = json.Decoder(_Item).decode
_read_batch = json.Decoder(_Batch).decode


def one(content: bytes, now: Micros) -> Draft | None:
    try:
        item = _read_item(content)
        return _draft(item, now) if _strings_in(content) == _strings_of(item) else None
    except (MsgspecError, ValueError, RecursionError):
        return None


def batch(content: bytes, now: Micros) -> list[Draft] | None:
    try:
        items = _read_batch(content).notifications
        if not 1 <= len(items) <= MAX_BATCH_ITEMS or _strings_in(content) != 1 + sum(map(_strings_of, items)):
            return None
        drafts = [draft for item in items if (draft := _draft(item, now)) is not None]
    except (MsgspecError, ValueError, RecursionError):
        return None
    return drafts if len(drafts) == len(items) else None


def _strings_in(content: bytes) -> float:
    """How many strings the JSON text holds: this reveals repeated keys, of which msgspec keeps only the last."""
    escaped = 0
    if b"\\" in content:
        content = content.replace(b"\\\\", b"")
        escaped = content.count(b'\\"')
    return (content.count(b'"') - escaped) / 2


def _strings_of(item: _Item) -> int:
    """How many strings (keys and values) the item has if no key is repeated."""
    texts = (item.title, item.format, item.severity, item.url, item.send_at, item.expires_at)
    count = 2 + 2 * (len(texts) - texts.count(UNSET))
    if item.handlers is not UNSET:
        count += 1
    if item.fields is not UNSET:
        count += 1 + len(item.fields)
        for value in item.fields.values():
            if value.__class__ is str:
                count += 1
    return count


def _draft(item: _Item, now: Micros) -> Draft | None:
    text, title, url, handlers = item.message, item.title or "", item.url or "", item.handlers
    if "\0" in text or not _shows(text) or (len(text) * 4 > MAX_MESSAGE_BYTES and len(text.encode()) > MAX_MESSAGE_BYTES):
        return None
    if not title.isprintable():
        return None
    if url and not _PLAIN_URL.fullmatch(url) and ("\0" in url or check_url(url) is not None):
        return None
    fields = _fields(item.fields) if item.fields else ()
    if fields is None:
        return None
    if handlers is UNSET:
        handlers = None
    elif len(handlers) > 1:
        handlers = tuple(dict.fromkeys(handlers))
    message = Message(text, title, item.severity or Severity.INFO, url, fields, now, is_text=item.format == "text")
    if not item.send_at and not item.expires_at:
        return Draft(message, handlers)
    send_at = times.read(item.send_at) if item.send_at else None
    expires_at = times.read(item.expires_at) if item.expires_at else None
    return None if time_faults(send_at, expires_at, now) else Draft(message, handlers, send_at, expires_at)


def _shows(text: str) -> bool:
    """Whether something of a text can be seen: its first character, most often."""
    return ("!" <= text[0] <= "~" and "\b" not in text) or not is_blank(text)


def _fields(given: dict[str, str | bool | int]) -> tuple[tuple[str, str], ...] | None:
    if len(given) > MAX_FIELDS:
        return None
    pairs: list[tuple[str, str]] = []
    for name, value in given.items():
        text = value if isinstance(value, str) else str(value).lower()
        if not 1 <= len(name) <= MAX_FIELD_NAME or len(text) > MAX_FIELD_VALUE or "\0" in name or "\0" in text:
            return None
        pairs.append((name, text))
    return tuple(pairs)
