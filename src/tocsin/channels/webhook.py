"""A generic webhook that follows Standard Webhooks (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md)."""

import base64
import binascii
import functools
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import Struct

from tocsin import __version__, caches
from tocsin.channels import headers
from tocsin.channels.contract import (
    Channel,
    Context,
    Field,
    HandlerSettings,
    Size,
    classify_rest,
    said,
)
from tocsin.clock import SECOND, Micros
from tocsin.model import (
    FORMATS,
    Delivered,
    Gone,
    HttpReply,
    HttpRequest,
    Later,
    Message,
    Outcome,
    Reason,
    Request,
    Severity,
    SwitchedOff,
)
from tocsin.net.urls import check_url, hide_after_host, origin

TIMEOUT_SECONDS = 20.0  # the spec asks senders to wait 15 to 30 s
BODY_SECONDS = 1.0  # the status decides and the body is only shown; a stream of events never ends
_DELIVERED = Delivered()
_BLOCK = 64  # bytes, of SHA-256
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HEADERS = (("content-type", "application/json"), ("user-agent", f"tocsin/{__version__}"))
_REASONS = {401: Reason.UNAUTHORIZED, 403: Reason.UNAUTHORIZED, 404: Reason.NOT_FOUND}


class WebhookSettings(HandlerSettings, frozen=True):
    webhook: Annotated[
        str,
        Field(
            title="Webhook URL",
            help="Every notification is sent there as a signed JSON POST; any answer from 200 to 299 counts as received.",
            example="https://example.com/hooks/alarms",
            check=check_url,
            hide=hide_after_host,
            is_address=True,
        ),
    ]
    webhook_headers: Annotated[
        str,
        Field(
            title="Headers",
            help="What the receiver needs besides the message, such as an access token: up to 10 lines, each with a name and a value. The "
            "values are kept secret.",
            example="Authorization: Bearer your-token",
            check=headers.check,
            hide=headers.hide,
            restore=headers.restore,
            is_optional=True,
            is_multiline=True,
        ),
    ] = ""


class _Data(Struct, gc=False):
    id: int | None
    title: str
    message: str
    format: str
    severity: Severity
    url: str | None
    fields: dict[str, str]
    datetime: str
    handler_id: int
    delivery_id: int | None


class _Notice(_Data, gc=False):
    handlers: tuple[SwitchedOff, ...] = ()


class _Body(Struct, gc=False):
    type: str
    timestamp: str
    data: _Data


_encoder = msgspec.json.Encoder()


@caches.of_secrets(10_000)
def _shown(url: str) -> str:
    return hide_after_host(url).shown


def _moment(at: Micros) -> datetime:
    # Timezone-aware on purpose: the signing library replaces the zone without converting.
    return _EPOCH + timedelta(microseconds=at)


def render(message: Message, settings: WebhookSettings, context: Context) -> tuple[HttpRequest]:
    body = _encoder.encode(_body(message, context))
    own = headers.of(settings.webhook_headers) if settings.webhook_headers else ()
    sent = (*(headers.without(_HEADERS, own) if own else _HEADERS), *own, *_signature(body, context))
    return (HttpRequest(settings.webhook, _shown(settings.webhook), body, sent, "POST", True, TIMEOUT_SECONDS, BODY_SECONDS),)


@functools.lru_cache(maxsize=64)
def _written(at: Micros) -> tuple[str, str]:
    """A moment as RFC 3339, and as the API writes it."""
    written = _moment(at).isoformat(timespec="microseconds")
    return f"{written[:26]}Z", f"{written[:10]} {written[11:19]}"


def _body(message: Message, context: Context) -> _Body:
    timestamp, shown = _written(message.at)
    data = _Data(
        id=context.notification_id,
        title=message.title,
        message=message.text,
        format=FORMATS[message.is_text],
        severity=message.severity,
        url=message.url or None,
        fields=dict(message.fields),
        datetime=shown,
        handler_id=context.handler_id,
        delivery_id=context.delivery_id,
    )
    if message.handlers:
        data = _Notice(**msgspec.structs.asdict(data), handlers=message.handlers)
    return _Body(type=message.kind, timestamp=timestamp, data=data)


def _signature(body: bytes, context: Context) -> tuple[tuple[str, str], ...]:
    """The spec's three headers; while a secret is being rotated, both sign and the receiver takes either."""
    key, stamp, secrets = context.key, str(context.now // SECOND), context.signing_secrets
    signed = f"{key}.{stamp}.".encode() + body
    signatures = _sign(secrets[0], signed) if len(secrets) == 1 else " ".join([_sign(secret, signed) for secret in secrets])
    return (("webhook-id", key), ("webhook-timestamp", stamp), ("webhook-signature", signatures))


def _sign(secret: str, signed: bytes) -> str:
    """HMAC-SHA256 (https://datatracker.ietf.org/doc/html/rfc2104), the key's two blocks hashed beforehand: twice as fast as `hmac`."""
    inner, outer = _begun(secret)
    first, second = inner.copy(), outer.copy()
    first.update(signed)
    second.update(first.digest())
    return "v1," + binascii.b2a_base64(second.digest(), newline=False).decode()


@caches.of_secrets(10_000)
def _begun(secret: str) -> tuple[Any, Any]:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    block = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    return hashlib.sha256(bytes(byte ^ 0x36 for byte in block)), hashlib.sha256(bytes(byte ^ 0x5C for byte in block))


def classify(reply: HttpReply, context: Context) -> Outcome:
    match reply:
        case HttpReply(status=status) if 200 <= status < 300:
            return _DELIVERED
        case HttpReply(status=410):
            return Gone(Reason.GONE, "The receiver answered 410 Gone: it wants no more messages.")
        case HttpReply(status=status) if 400 <= status < 500 and status not in {408, 425, 429}:
            # Any answer but 2xx is a failed attempt that is tried again; only 410 says "never again".
            return Later(_REASONS.get(status, Reason.REJECTED), detail=said(reply))
        case HttpReply():
            return classify_rest(reply, context)


def measure(request: Request) -> tuple[Size]:
    return (Size("body", len(request.body) if isinstance(request, HttpRequest) else 0, None, "bytes"),)


CHANNEL = Channel(
    type="webhook",
    title="Webhook",
    about="Signed JSON, to an address of yours.",
    settings=WebhookSettings,
    target=lambda settings: origin(settings.webhook).partition("://")[2],
    render=render,
    quick_marks=None,
    classify=classify,
    measure=measure,
    becomes={},  # the Markdown goes out as it was written
    signs=True,
)
