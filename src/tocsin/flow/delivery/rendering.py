"""What is sent: what `render` may know, and how long it may take."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog
from msgspec.structs import replace

from tocsin import observe
from tocsin.channels.contract import Context
from tocsin.clock import Micros
from tocsin.flow.delivery.settle import is_late
from tocsin.flow.directory import Loaded
from tocsin.flow.pools import OverBudget, Pool
from tocsin.markup.length import missing
from tocsin.model import Delivery, Message, Reason, Refused, Request, SigningSecret
from tocsin.settings import Settings

LONG_TEXT = 4096  # characters: more take over a millisecond to render, even without any mark
LONG_WIDE_TEXT = 600  # the same where not all are ASCII: each flag or accent is looked at by itself
CHARACTERS_OF_A_MARK = 16  # of a field, which is escaped one by one, take as long as a mark
BEGINNING = 1000  # characters that are sent of a message that cannot be rendered in time
_MARKS = b'\n*_`~[|<>#-+&!\\:@.)"'  # whatever may make another element of the text

T = TypeVar("T")
log = structlog.get_logger(__name__)


def context_of(loaded: Loaded, service: Settings, now: Micros, key: str, *, delivery: Delivery | None = None, suffix: str = "") -> Context:
    """What a channel may know of an attempt, a test send or a preview that begins now: the one place where it is put together."""
    handler = loaded.handler
    secrets = signing_secrets(handler.secret, now)
    is_official = loaded.settings is not None and loaded.channel.is_official(loaded.settings)
    if delivery is None:
        return Context(
            key=key,
            handler_id=handler.id,
            now=now,
            service=service,
            suffix=suffix,
            signing_secrets=secrets,
            zone=loaded.zone,
            unsubscribe=loaded.unsubscribe,
            is_official=is_official,
        )
    return Context(
        key=key,
        handler_id=handler.id,
        now=now,
        service=service,
        notification_id=delivery.notification_id,
        delivery_id=delivery.id,
        attempt=delivery.attempt_count + 1,
        meant_for=delivery.first_due_at if is_late(delivery, now) else None,
        may_have_arrived=delivery.may_have_arrived,
        suffix=suffix,
        signing_secrets=secrets,
        zone=loaded.zone,
        unsubscribe=loaded.unsubscribe,
        is_official=is_official,
    )


def signing_secrets(secret: SigningSecret | None, now: Micros) -> tuple[str, ...]:
    """The secrets that sign at this moment, the current one first."""
    if secret is None:
        return ()
    if secret.previous and secret.previous_until and secret.previous_until > now:
        return (secret.current, secret.previous)
    return (secret.current,)


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
