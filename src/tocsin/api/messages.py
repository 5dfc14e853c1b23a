"""From the typed fields of a notification to its draft, and the rules that look at more than one field."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import msgpack

from tocsin.api import endpoint
from tocsin.api.bodies import Pairs
from tocsin.api.errors import fault
from tocsin.api.parameters import NOTIFICATION_FIELDS
from tocsin.clock import SECOND, Micros
from tocsin.model import Draft, Fault, Message, Severity

LONGEST_WAIT: Micros = 366 * 86_400 * SECOND


def read_draft(given: Pairs, now: Micros, prefix: str = "") -> tuple[Draft, list[Fault]]:
    """The draft of one notification's fields. If there are faults it has gaps, and serves only to check its handlers."""
    values, faults = endpoint.read_body(given, NOTIFICATION_FIELDS, prefix)
    return draft_of(values, now), [*faults, *time_faults(values.get("send_at"), values.get("expires_at"), now, prefix)]


def draft_of(values: Mapping[str, Any], now: Micros) -> Draft:
    message = Message(
        text=values.get("message", ""),
        title=values.get("title", ""),
        severity=Severity(values.get("severity", Severity.INFO)),
        url=values.get("url", ""),
        fields=values.get("fields", ()),
        at=now,
        is_text=values.get("format") == "text",
    )
    return Draft(message, values.get("handlers"), values.get("send_at"), values.get("expires_at"))


def time_faults(send_at: Micros | None, expires_at: Micros | None, now: Micros, prefix: str = "") -> list[Fault]:
    faults: list[Fault] = []
    if send_at is not None and send_at > now + LONGEST_WAIT:
        faults.append(fault("invalid", "{name} must be at most a year ahead.", f"{prefix}send_at", name=f"{prefix}send_at"))
    if expires_at is not None and expires_at <= max(now, send_at or now):
        template = "{name} must be after send_at." if send_at is not None and send_at > now else "{name} must be in the future."
        faults.append(fault("invalid", template, f"{prefix}expires_at", name=f"{prefix}expires_at"))
    return faults


def fingerprint(drafts: Sequence[Draft]) -> bytes:
    """What makes two requests the same, whichever body type and key order they came in."""
    content = [_essence(draft.message, draft) for draft in drafts]
    return hashlib.sha256(msgpack.encode(content)).digest()


def _essence(message: Message, draft: Draft) -> tuple[object, ...]:
    given: tuple[object, ...] = (draft.handlers, draft.send_at, draft.expires_at)
    if message.is_text:  # for Markdown the fingerprint is unchanged from before there was text
        given += (message.format,)
    return (message.text, message.title, message.severity, message.url, sorted(message.fields), *given)
