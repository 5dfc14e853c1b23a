"""What goes wrong, as JSON:API error objects: the stable codes, each with a sentence, and the answer to every exception."""

import itertools
import secrets
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog
from msgspec import Struct, json

from tocsin.model import Busy, Fault, InFlight, Invalid, Missing, OverQuota
from tocsin.ports.errors import OwnerGone

MAX_SHOWN_NAME = 80
MAX_SHOWN_FAULTS = 1000
JSON_TYPE = (b"content-type", b"application/json")
NO_STORE = (b"cache-control", b"no-store")

_log = structlog.get_logger("tocsin.api")


class Code(Struct, frozen=True):
    """A stable error code. `status` is the usual one; an unusable query parameter has 400 instead of 422."""

    status: int
    title: str
    sentence: str


CODES: dict[str, Code] = {
    "unreadable": Code(
        400, "Unreadable request", "The body or the query cannot be read: broken JSON, multipart, form or character encoding."
    ),
    "invalid_id": Code(400, "Unusable id", "The id in the path is not a number."),
    "empty": Code(400, "Empty parameter", "A query parameter was given without a value."),
    "no_filter": Code(400, "No filter", "Replaying many deliveries requires at least one filter."),
    "idempotency_key": Code(400, "Unusable idempotency key", "Idempotency-Key must be 1 to 255 printable ASCII characters."),
    "unauthorized": Code(401, "No valid API key", "There is no key in the Authorization header, or it is unknown, revoked or expired."),
    "forbidden": Code(403, "Not allowed", "The key lacks the scope that this request needs."),
    "not_found": Code(404, "Not found", "It does not exist, or it belongs to another user."),
    "method_not_allowed": Code(405, "Method not allowed", "The path exists, but not for this method; see the Allow header."),
    "too_slow": Code(408, "Too slow", "A request's head, and each piece of its body, must arrive within 30 seconds."),
    "in_flight": Code(409, "Still in flight", "A request with this idempotency key is still being answered."),
    "body_too_large": Code(413, "Body too large", "A body may be at most 1 MiB, a batch 16 MiB."),
    "line_too_long": Code(414, "Request line too long", "A request line can be at most 64 KB long."),
    "unsupported_media_type": Code(415, "Unsupported media type", "The body is in a format that this path does not accept."),
    "unknown": Code(422, "Unknown parameter", "This path has no parameter of that name."),
    "repeated": Code(422, "Repeated parameter", "A parameter was given more than once."),
    "required": Code(422, "Required field", "A required value is missing or blank."),
    "invalid": Code(422, "Not a usable value", "A value does not have the parameter's type, or breaks its rules."),
    "invalid_choice": Code(422, "Not an allowed value", "A value is not one of those that the parameter accepts."),
    "too_long": Code(422, "Too long", "A text or a list is longer than allowed."),
    "unusable_text": Code(422, "Unusable text", "A text contains a NUL or a lone surrogate, which cannot be stored."),
    "file": Code(422, "A file", "A field was sent as a file; the API accepts text only."),
    "wrong_type": Code(422, "Field of another type", "A field that belongs to another handler type was given a value."),
    "masked": Code(422, "Masked value", "A masked secret was sent that does not match the stored one."),
    "unknown_handler": Code(422, "Unknown handler", "A notification names a handler that does not exist or belongs to another user."),
    "no_handlers": Code(422, "Nothing to send to", "The list of handlers is empty, or none is enabled."),
    "too_many_deliveries": Code(422, "Too many deliveries", "A request may create at most 10,000 deliveries."),
    "idempotency_mismatch": Code(422, "Idempotency key reused", "The idempotency key was used with other content."),
    "quota": Code(422, "Quota used up", "You have as many handlers or API keys, or store as much, as the operator lets one user have."),
    "rate_limited": Code(
        429,
        "Too many requests",
        "The key has used up its requests for this minute, the user has used up the notifications of this minute or day, or authentication "
        "from this address failed too often.",
    ),
    "head_too_large": Code(431, "Head too large", "The request line and the headers can be at most 64 KB together."),
    "internal": Code(500, "Our fault", "Something failed inside the service; its log has the same reference."),
    "busy": Code(503, "Busy", "The service cannot accept this right now; Retry-After says when to ask again."),
}
"""All of them, flow's too."""


class Answer(Struct, frozen=True):
    """What is sent back to the client."""

    status: int
    content: bytes
    headers: tuple[tuple[bytes, bytes], ...] = (JSON_TYPE, NO_STORE)


class Refusal(Exception):
    """The request ends here, with headers of its own in the answer."""

    def __init__(self, fault: Fault, headers: Mapping[str, str]) -> None:
        super().__init__(fault.detail)
        self.fault = fault
        self.headers = headers


class ClientGone(Exception):
    """The client went away before its request was complete: nobody waits for an answer."""


def fault(code: str, template: str, parameter: str | None = None, **values: str) -> Fault:
    """`values` fill the braces of the template; without values, braces are literal."""
    storable = {name: _storable(value) for name, value in values.items()}
    return Fault(code, CODES[code].title, _storable(template), parameter and shown(parameter), CODES[code].status, storable)


def shown(name: str) -> str:
    """A name that the client chose, made fit for an answer."""
    text = _storable(name)
    return text if len(text) <= MAX_SHOWN_NAME else text[:MAX_SHOWN_NAME] + "…"


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def answer_to(error: Exception, method: str, path: str) -> Answer:
    """The answer to whatever failed; our own failures are logged here with the reference that the client gets."""
    if isinstance(error, Refusal):
        return _answer([error.fault], error.headers)
    if isinstance(error, Invalid):
        return _answer(error.faults)
    if isinstance(error, OverQuota):
        return _answer([error.fault], {"retry-after": str(error.retry_after)})
    if isinstance(error, Missing):
        return _answer([fault("not_found", "It does not exist, or it belongs to another user.")])
    if isinstance(error, OwnerGone):
        return _answer([fault("unauthorized", "The user of this API key has been deleted.")], {"www-authenticate": "Bearer"})
    if isinstance(error, InFlight):
        return _answer([fault("in_flight", "A request with this idempotency key is still being answered; ask again in a moment.")])
    if isinstance(error, Busy):
        return _answer([fault("busy", f"{error}")], {"retry-after": str(error.retry_after)})
    reference = secrets.token_hex(8)
    # Formatted here and without local variables, which hold secrets.
    _log.error("request failed", reference=reference, method=method, path=path, exception="".join(traceback.format_exception(error)))
    return _answer([fault("internal", f"The service failed on this request. Reference: {reference}.")])


def _answer(faults: Sequence[Fault], headers: Mapping[str, str] | None = None) -> Answer:
    status = min((one.status for one in faults), default=500)
    more = tuple((name.encode(), value.encode()) for name, value in (headers or {}).items())
    return Answer(status, json.encode({"errors": list(_objects(faults))}), (JSON_TYPE, NO_STORE, *more))


def _objects(faults: Iterable[Fault]) -> Iterable[dict[str, Any]]:
    for one in itertools.islice(faults, MAX_SHOWN_FAULTS):
        title = CODES[one.code].title if one.code in CODES else one.title
        error: dict[str, Any] = {"status": str(one.status), "code": one.code, "title": title, "detail": one.detail}
        if one.parameter:
            error["source"] = {"parameter": one.parameter}
        yield error
