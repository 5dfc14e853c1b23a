"""One attempt, from settings to outcome: render, send, classify. Deliveries and test sends walk exactly this path."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import structlog
from msgspec.structs import replace

from tocsin import clock, observe
from tocsin.channels.contract import Context
from tocsin.flow import pools
from tocsin.flow.directory import Loaded
from tocsin.flow.pace import Pacer
from tocsin.flow.pools import OverBudget, Pool
from tocsin.markup.length import missing
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
    Value,
)
from tocsin.net.mail import NothingSent
from tocsin.ports.engine import Place
from tocsin.vault import scrub

MAX_RESPONSE_CHARACTERS = 2000  # of a provider's answer are kept
MAX_ID_CHARACTERS = 200
MAX_DETAIL_CHARACTERS = 500
LONG_TEXT = 4096  # characters: more take over a millisecond to render, even without any mark
LONG_WIDE_TEXT = 600  # the same where not all are ASCII: each flag or accent is looked at by itself
CHARACTERS_OF_A_MARK = 16  # of a field, which is escaped one by one, take as long as a mark
BEGINNING = 1000  # characters that are sent of a message that cannot be rendered in time
_MARKS = b'\n*_`~[|<>#-+&!\\:@.)"'  # whatever may make another element of the text
_NO_REST = "The rest of the message could not be rendered in time: this is a fault of the service."

_MIN_HALF = 4  # characters of a secret that give something away
_SHOWN_HEADERS = frozenset({"accept", "content-type", "user-agent", "webhook-id", "webhook-timestamp"})
_MISSING = "\n\n(The rest of this answer never came.)"

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Sender(Protocol):
    """The wires, as far as an attempt needs them."""

    def send(self, request: Request) -> Awaitable[Reply]: ...


class Tried(Value, frozen=True):
    """What an attempt came to. `part`: parts that have arrived by now, those of earlier attempts included.

    `refusal`: the answer with which the provider refused the native form; `requests` and `reply` are of the plainest form then.
    """

    outcome: Outcome
    duration_us: int
    part: int
    requests: Sequence[Request] = ()
    reply: Reply | None = None
    refusal: Reply | None = None


async def render(loaded: Loaded, message: Message, context: Context) -> Sequence[Request] | Refused:
    """The native requests. What takes longer than the event loop may be held waits for its user's turn in the pool of renderings."""
    if renders_quickly(loaded, message):
        return render_now(loaded, message, context)
    return await within_budget(pools.here().rendering, render_now, loaded, message, context)


def renders_quickly(loaded: Loaded, message: Message) -> bool:
    """Whether it takes a millisecond at most, going by how much there is of what takes time: marks of Markdown, fields, length."""
    most = loaded.channel.quick_marks
    if most is None:
        return True
    if (is_ready := loaded.channel.is_ready) is not None and not is_ready():
        return False
    text = message.text
    length = len(text)
    if message.fields:
        length += sum([len(name) + len(value) for name, value in message.fields])
        most -= length // CHARACTERS_OF_A_MARK
    if length <= most:
        return True
    if length > (LONG_TEXT if text.isascii() else LONG_WIDE_TEXT):
        return False
    content = text.encode("utf-8", "surrogatepass")
    return len(content) - len(content.translate(None, _MARKS)) <= most


async def within_budget(
    pool: Pool, work: Callable[[Loaded, Message, Context], T], loaded: Loaded, message: Message, context: Context
) -> T | Refused:
    """`work`, which renders. Over the budget of its pool it is done again with the plainest form, then with the beginning of the text.

    Raises what `work` and the pool raise, but for OverBudget.
    """
    plain = replace(context, plain=True)
    for shown, form in ((message, context), (message, plain), (_beginning(message), plain)):
        try:
            return await pool.run(loaded.handler.user_id, work, loaded, shown, form)
        except OverBudget:
            observe.seldom(
                log.error,
                "render.over_budget",
                type=loaded.channel.type,
                delivery=context.delivery_id,
                plain=form.plain,
                of=len(shown.text),
            )
    return Refused(Reason.INTERNAL, "The message could not be rendered in time: this is a fault of the service.", ours=True)


def _beginning(message: Message) -> Message:
    kept = message.text[:BEGINNING]
    gone = len(message.text) - len(kept)
    return replace(message, text=f"{kept}\n\n{missing(gone)}", fields=()) if gone else replace(message, fields=())


def render_now(loaded: Loaded, message: Message, context: Context) -> Sequence[Request] | Refused:
    """A fault of ours in rendering is this message's refusal, never a poison message."""
    if loaded.settings is None:
        return Refused(Reason.SETTINGS, loaded.problem or "", ours=True)
    try:
        return loaded.channel.render(message, loaded.settings, context)
    except Exception as error:  # noqa: BLE001  # whatever it was, it is in the log
        observe.seldom(log.error, "render.failed", type=loaded.channel.type, delivery=context.delivery_id, exc_info=error)
        return Refused(Reason.INTERNAL, "The message could not be rendered: this is a fault of the service.", ours=True)


class NoPlace:
    """For a test send, which takes no place of the engine's."""

    def rest(self) -> None:
        pass

    async def resume(self) -> None:
        pass

    def alone(self, is_alone: bool, /) -> None:
        pass


async def attempt(loaded: Loaded, message: Message, context: Context, wires: Sender, pacer: Pacer, place: Place, part: int = 0) -> Tried:
    """Send what has not arrived yet, part after part. The turn of the first part was taken by the caller.

    Cancelling it ends it with what is known: an answer that was lost, or nothing sent.
    """
    requests = await render(loaded, message, context)
    if isinstance(requests, Refused):
        return Tried(requests, 0, part)
    place.alone(len(requests) > part + 1)
    tried = await _send(loaded, requests, context, wires, pacer, place, part, has_turn=True)
    return await plainly(tried, loaded, message, context, wires, pacer, place) if is_refused_payload(tried.outcome) else tried


def is_refused_payload(outcome: Outcome) -> bool:
    """What we made is not to the provider's liking: our fault, so the message goes out once more."""
    return isinstance(outcome, Refused) and outcome.ours and outcome.reason in {Reason.PAYLOAD, Reason.TOO_LARGE}


async def plainly(tried: Tried, loaded: Loaded, message: Message, context: Context, wires: Sender, pacer: Pacer, place: Place) -> Tried:
    """Once more in the plainest form, from the refused part on. `tried` itself where that form is the same or cannot be made."""
    plain = replace(context, plain=True)
    try:
        native = await render(loaded, message, context)
        plainest = await render(loaded, message, plain)
    except asyncio.CancelledError:
        return replace(tried, reply=NoReply(Reason.CUT, sent=False, stopped=True))  # the parts that arrived are not forgotten
    if isinstance(native, Refused) or isinstance(plainest, Refused):
        return tried
    if native[tried.part :] == plainest[tried.part :]:  # then the answer was to the plainest form
        return replace(tried, outcome=classify(loaded, tried.reply, plain)) if tried.reply is not None else tried
    _, said = shown_reply(tried.reply, loaded.secrets)
    log.warning("payload.refused", type=loaded.channel.type, delivery=context.delivery_id, part=tried.part, answer=said)
    place.alone(len(plainest) > tried.part + 1)
    again = await _send(loaded, plainest, plain, wires, pacer, place, tried.part, has_turn=False)
    outcome = replace(again.outcome, plain=True) if isinstance(again.outcome, Delivered) else again.outcome
    return replace(again, outcome=outcome, duration_us=tried.duration_us + again.duration_us, refusal=tried.reply)


async def _send(
    loaded: Loaded, requests: Sequence[Request], context: Context, wires: Sender, pacer: Pacer, place: Place, part: int, *, has_turn: bool
) -> Tried:
    if part >= len(requests):  # more parts have arrived than this form has: it was cut to fit the budget, and the rest is missing
        return Tried(Refused(Reason.INTERNAL, _NO_REST, ours=True), 0, part, requests)
    spent_us = 0  # on the wire; waiting for a turn is no part of it
    outcome: Outcome = Delivered()
    reply: Reply | None = None
    for index in range(part, len(requests)):
        sent = False
        started = time.perf_counter()
        try:
            if index > part or not has_turn:
                await _turn(loaded, pacer, place)
                started = time.perf_counter()
            sent = True
            reply = await wires.send(requests[index])
        except asyncio.CancelledError as cut:
            sent = sent and not isinstance(cut, NothingSent)
            reply = NoReply(Reason.CUT, sent, "The service was stopped while it waited for the answer.", stopped=True)
        spent_us += int((time.perf_counter() - started) * 1_000_000)
        outcome = classify(loaded, reply, context)
        heed_limits(loaded, reply, pacer)
        if not isinstance(outcome, Delivered):
            return Tried(outcome, spent_us, index, requests, reply)
    return Tried(outcome, spent_us, len(requests), requests, reply)


async def _turn(loaded: Loaded, pacer: Pacer, place: Place) -> None:
    """Take the next start from the pace. Whoever waits for it holds no place."""
    while (wait := pacer.take(loaded.credential, loaded.paces, time.monotonic(), loaded.realm)) > 0:
        place.rest()
        await asyncio.sleep(wait)
        await place.resume()


def classify(loaded: Loaded, reply: Reply, context: Context) -> Outcome:
    try:
        channel = loaded.channel
        return channel.no_reply(reply) if isinstance(reply, NoReply) else channel.classify(reply, context)
    except Exception as error:  # noqa: BLE001  # whatever it was, it is in the log
        observe.seldom(log.error, "classify.failed", type=loaded.channel.type, delivery=context.delivery_id, exc_info=error)
        return Refused(Reason.INTERNAL, "The provider's answer could not be read: this is a fault of the service.", ours=True)


def heed_limits(loaded: Loaded, reply: Reply, pacer: Pacer) -> None:
    """Pause the credential where an answer says that its limit is used up: the next one would be throttled."""
    if loaded.channel.rest_seconds is None or not isinstance(reply, HttpReply):
        return
    rest = loaded.channel.rest_seconds(reply, clock.now())
    if rest > 0:
        now = time.monotonic()
        pacer.pause(loaded.credential, now + rest, now)


# -------------------------------------------------------------------------------------------------- what people may see


def shown_answer(tried: Tried, secrets: Sequence[str]) -> tuple[int | None, str | None]:
    """Status code of the last answer, and what was answered, the refusal of the native form first."""
    if tried.refusal is None:
        return shown_reply(tried.reply, secrets)
    status_code, response = shown_reply(tried.reply, secrets)
    _, refused = shown_reply(tried.refusal, secrets)
    return status_code, f"{refused or ''}\n\nThen, in the plainest form: {response or ''}"[:MAX_RESPONSE_CHARACTERS]


def shown_verdict(outcome: Outcome, secrets: Sequence[str]) -> tuple[str | None, str | None]:
    """The provider's id for the message, and the verdict in words; None where there is none."""
    named = outcome.provider_id if isinstance(outcome, Delivered) else None
    if named:
        named = scrub(named, secrets)[:MAX_ID_CHARACTERS].replace("\0", "")
    detail = outcome.detail
    return named or None, scrub(detail, secrets)[:MAX_DETAIL_CHARACTERS].replace("\0", "") if detail else None


def shown_reply(reply: Reply | None, secrets: Sequence[str]) -> tuple[int | None, str | None]:
    """Status code and text of an answer, capped and without secrets."""
    match reply:
        case HttpReply():
            if not reply.body:
                return reply.status, None
            text = scrub(reply.body.decode("utf-8", "replace"), secrets)  # cut after scrubbing, or half a secret may stay
            if reply.cut is not None:
                text = _without_half(text, secrets)[: MAX_RESPONSE_CHARACTERS - len(_MISSING)] + _MISSING
            return reply.status, text[:MAX_RESPONSE_CHARACTERS].replace("\0", "")
        case MailReply():
            return reply.code, scrub(reply.text, secrets)[:MAX_RESPONSE_CHARACTERS]
        case NoReply():
            return None, scrub(reply.detail, secrets) or None
        case None:
            return None, None


def _without_half(text: str, secrets: Sequence[str]) -> str:
    """A text that was cut off, without the beginning of a secret at its end."""
    for secret in secrets:
        half = next((size for size in range(len(secret) - 1, _MIN_HALF - 1, -1) if text.endswith(secret[:size])), 0)
        if half:
            return text[:-half] + MASK
    return text


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
    """Of a header that a user has added nobody knows what it is."""
    return name.lower() not in _SHOWN_HEADERS
