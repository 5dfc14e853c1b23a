"""One attempt, from settings to outcome: render, send, classify. Deliveries and test sends walk exactly this path."""

import asyncio
import time
from collections.abc import Sequence

import structlog
from msgspec import Struct

from tocsin.channels.contract import Context
from tocsin.flow.directory import Loaded
from tocsin.flow.pace import Pacer
from tocsin.model import (
    MASK,
    Delivered,
    HttpReply,
    HttpRequest,
    Mail,
    MailReply,
    Message,
    NoReply,
    Outcome,
    Reason,
    Refused,
    Reply,
    Request,
)
from tocsin.net.mail import NothingSent
from tocsin.net.wires import Wires
from tocsin.vault import scrub

MOST_RESPONSE_CHARACTERS = 2000  # of a provider's answer are kept
LONG_TEXT = 4096  # characters: more take milliseconds to render

log = structlog.get_logger(__name__)


class Tried(Struct, frozen=True):
    """What an attempt came to. `part`: parts that have arrived by now, those of earlier attempts included."""

    outcome: Outcome
    duration_us: int
    part: int
    requests: Sequence[Request] = ()
    reply: Reply | None = None


async def render(loaded: Loaded, message: Message, context: Context) -> Sequence[Request] | Refused:
    """The native requests; long messages are rendered in a thread, so that nobody waits for them."""
    if len(message.text) > LONG_TEXT:
        return await asyncio.to_thread(render_now, loaded, message, context)
    return render_now(loaded, message, context)


def render_now(loaded: Loaded, message: Message, context: Context) -> Sequence[Request] | Refused:
    """A fault of ours in rendering is this message's refusal, never a poison message."""
    if loaded.settings is None:
        return Refused(Reason.SETTINGS, loaded.problem or "", ours=True)
    try:
        return loaded.channel.render(message, loaded.settings, context)
    except Exception:
        log.exception("render.failed", type=loaded.channel.type, delivery=context.delivery_id)
        return Refused(Reason.INTERNAL, "the message could not be rendered; this is a fault of the service", ours=True)


async def attempt(loaded: Loaded, message: Message, context: Context, wires: Wires, pacer: Pacer, part: int = 0) -> Tried:
    """Send what has not arrived yet, part after part. The turn of the first part was taken by the caller.

    Cancelling it ends it with what is known: an answer that was lost, or nothing sent.
    """
    started = time.perf_counter()
    requests = await render(loaded, message, context)
    if isinstance(requests, Refused):
        return Tried(requests, 0, part)
    outcome: Outcome = Delivered()
    reply: Reply | None = None
    for index in range(part, len(requests)):
        sent = False
        try:
            if index > part:
                await _turn(loaded, pacer)
            sent = True
            reply = await wires.send(requests[index])
        except asyncio.CancelledError as cut:
            sent = sent and not isinstance(cut, NothingSent)
            reply = NoReply(Reason.CUT, sent, "the service was stopped while the answer was awaited", stopped=True)
        outcome = classify(loaded, reply, context)
        if not isinstance(outcome, Delivered):
            return Tried(outcome, _since(started), index, requests, reply)
    return Tried(outcome, _since(started), len(requests), requests, reply)


async def _turn(loaded: Loaded, pacer: Pacer) -> None:
    while (wait := pacer.take(loaded.credential, loaded.paces, time.monotonic())) > 0:  # noqa: ASYNC110  # a start is taken, not waited for
        await asyncio.sleep(wait)


def classify(loaded: Loaded, reply: Reply, context: Context) -> Outcome:
    try:
        return loaded.channel.classify(reply, context)
    except Exception:
        log.exception("classify.failed", type=loaded.channel.type, delivery=context.delivery_id)
        return Refused(Reason.INTERNAL, "the provider's answer could not be read; this is a fault of the service", ours=True)


def _since(started: float) -> int:
    return int((time.perf_counter() - started) * 1_000_000)


# -------------------------------------------------------------------------------------------------- what people may see


def shown_reply(reply: Reply | None, secrets: Sequence[str]) -> tuple[int | None, str | None]:
    """Status code and text of an answer, capped and without secrets."""
    match reply:
        case HttpReply():
            text = reply.body.decode("utf-8", "replace") if reply.body else ""  # cut after scrubbing, or half a secret may stay
            return reply.status, scrub(text, secrets)[:MOST_RESPONSE_CHARACTERS].replace("\0", "") if text else None
        case MailReply():
            return reply.code, scrub(f"{reply.enhanced} {reply.text}".strip(), secrets)[:MOST_RESPONSE_CHARACTERS]
        case NoReply():
            return None, scrub(reply.detail, secrets) or None
        case None:
            return None, None


def shown_request(request: Request, secrets: Sequence[str]) -> str:
    """A request as it went out, without secrets: first line, headers, body."""
    match request:
        case HttpRequest():
            headers = [f"{name}: {MASK if _is_secret_header(name) else scrub(value, secrets)}" for name, value in request.headers]
            body = scrub(request.body.decode("utf-8", "replace"), secrets)
            return "\n".join([f"{request.method} {request.shown_url}", *headers, "", body])
        case Mail():
            return scrub(request.content.decode("utf-8", "replace"), secrets).replace("\r\n", "\n")


def _is_secret_header(name: str) -> bool:
    return name.lower() in {"authorization", "webhook-signature", "cookie"}
