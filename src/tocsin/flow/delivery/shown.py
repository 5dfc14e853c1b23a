"""What people may see of an attempt: capped, and without secrets."""

from collections.abc import Sequence

from tocsin.model import MASK, Delivered, HttpReply, HttpRequest, Mail, MailReply, NoReply, Outcome, Reply, Request
from tocsin.vault import scrub

MAX_RESPONSE_CHARACTERS = 2000  # of a provider's answer are kept
MAX_ID_CHARACTERS = 200
MAX_DETAIL_CHARACTERS = 500

_MIN_HALF = 4  # characters of a secret that give something away
_SHOWN_HEADERS = frozenset({"accept", "content-type", "user-agent", "webhook-id", "webhook-timestamp"})
_NOTHING = (None, None)
_MISSING = "\n\n(The rest of this answer never came.)"


def shown_answer(reply: Reply | None, refusal: Reply | None, secrets: Sequence[str]) -> tuple[int | None, str | None]:
    """Status code of the last answer, and what was answered. `refusal`: of the native form, which is shown first."""
    if refusal is None:
        return shown_reply(reply, secrets)
    status_code, response = shown_reply(reply, secrets)
    _, refused = shown_reply(refusal, secrets)
    return status_code, f"{refused or ''}\n\nThen, in the plainest form: {response or ''}"[:MAX_RESPONSE_CHARACTERS]


def shown_verdict(outcome: Outcome, secrets: Sequence[str]) -> tuple[str | None, str | None]:
    """The provider's id for the message, and the verdict in words; None where there is none."""
    named, detail = outcome.provider_id if isinstance(outcome, Delivered) else None, outcome.detail
    if not (named or detail):
        return _NOTHING
    if named:
        named = scrub(named, secrets)[:MAX_ID_CHARACTERS].replace("\0", "")
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
