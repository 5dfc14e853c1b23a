"""Posts on X (https://docs.x.com/x-api/posts/create-post), signed with OAuth 1.0a. Every post costs money."""

import functools
import hashlib
import logging
import re
from collections.abc import Iterator
from typing import Annotated, Any, cast

import msgspec
from oauthlib.oauth1 import Client

from tocsin.channels.chat import JSON_HEADERS, KEPT, body_of, document_of, fields_of, or_no_text
from tocsin.channels.contract import (
    YEAR_SECONDS,
    Channel,
    Context,
    Field,
    HandlerSettings,
    Pace,
    Size,
    classify_rest,
    is_page,
    json_body,
    lost,
    retry_after,
    said,
)
from tocsin.clock import SECOND, Micros
from tocsin.markup import plain, weighted
from tocsin.markup.length import clean, clean_line, left_out
from tocsin.model import (
    Delivered,
    Gone,
    HttpReply,
    HttpRequest,
    Later,
    Message,
    Outcome,
    Reason,
    Refused,
    Request,
    Severity,
    Unknown,
)
from tocsin.net.urls import origin
from tocsin.settings import Settings
from tocsin.vault import fingerprint, hide_all

DAY_SECONDS = 86_400.0
POSTS, WINDOW_SECONDS = 100, 15 * 60  # per user: https://docs.x.com/x-api/fundamentals/rate-limits
MAX_ATTEMPTS = 4  # each one that arrives is paid for
_MIN_TEXT = 100  # weight that a link must leave for the words
_LINK_LEFT_OUT = " (link left out: too long)"
_MARKS = {Severity.INFO: "", Severity.SUCCESS: "✅ ", Severity.WARNING: "⚠️ ", Severity.CRITICAL: "🚨 "}
_SECRET = re.compile(r"[\x21-\x7e]{1,256}")
_DEAD = re.compile(r"permission|suspended|client-forbidden|not-enrolled|write actions")
_LIMITS = ("x-rate-limit", "x-app-limit-24hour", "x-user-limit-24hour")

# At level DEBUG oauthlib logs what it signs, with keys and tokens in the clear.
logging.getLogger("oauthlib").setLevel(logging.WARNING)


def _check(value: str) -> str | None:
    return None if _SECRET.fullmatch(value) else "This must be 1 to 256 printable ASCII characters without spaces."


class XSettings(HandlerSettings, frozen=True):
    x_consumer_key: Annotated[
        str,
        Field(
            title="API key",
            help="Of your app in X's developer console, under Keys and tokens; also called consumer key.",
            example="k3yOfYourApp00000000000",
            check=_check,
            hide=hide_all,
        ),
    ]
    x_consumer_secret: Annotated[
        str,
        Field(
            title="API key secret",
            help="Shown once beside the API key; also called consumer secret.",
            example="s3cretOfYourApp0000000000000000000000000000000000",
            check=_check,
            hide=hide_all,
        ),
    ]
    x_access_token: Annotated[
        str,
        Field(
            title="Access token",
            help="Of the account that posts; make it after the app was given the permission to read and write.",
            example="1234567890-t0kenOfYourAccount00000000000000000000",
            check=_check,
            hide=hide_all,
        ),
    ]
    x_access_token_secret: Annotated[
        str,
        Field(
            title="Access token secret",
            help="Shown once beside the access token.",
            example="s3cretOfYourToken000000000000000000000000000",
            check=_check,
            hide=hide_all,
        ),
    ]


def target(settings: XSettings) -> str:
    account = re.match(r"(\d{1,25})-", settings.x_access_token)  # the digits are the account's public id
    return f"X account {account[1]}" if account else "X account"


# -------------------------------------------------------------------------------------------------------------- render


def render(message: Message, settings: XSettings, context: Context) -> tuple[HttpRequest]:
    url = f"{context.service.x_api_url}/2/tweets"
    body = msgspec.json.encode({"text": _text(message, context.suffix, context.service.x_links, context.plain)})
    headers = (("authorization", _authorization(url, settings, context)), *JSON_HEADERS)
    shown = f"{origin(context.service.x_api_url)}/2/tweets"
    # Not repeated by the wire: X would refuse it as a duplicate, and nothing would say that the first one arrived.
    return (HttpRequest(url, shown, body, headers, guarded=False, repeats=False),)


def _authorization(url: str, settings: XSettings, context: Context) -> str:
    """A JSON body is no part of an OAuth 1.0a signature (RFC 5849 3.4.1.3.1)."""
    client = Client(
        settings.x_consumer_key,
        client_secret=settings.x_consumer_secret,
        resource_owner_key=settings.x_access_token,
        resource_owner_secret=settings.x_access_token_secret,
        nonce=_nonce(context),
        timestamp=str(context.now // SECOND),
    )
    _, headers, _ = cast(tuple[str, dict[str, str], object], client.sign(url, "POST"))
    return headers["Authorization"]


def _nonce(context: Context) -> str:
    """Different for every request within a second (RFC 5849 3.3). It may be guessable; the signature is not."""
    return hashlib.sha256(f"{context.key} {context.attempt} {context.now}{' plain' if context.plain else ''}".encode()).hexdigest()[:32]


@functools.lru_cache(KEPT)
def _text(message: Message, suffix: str, links: bool, is_plain: bool) -> str:
    words, tail = _words(message), f" ({suffix})" if suffix else ""
    if is_plain:  # neither link nor emoji, in case X refused one of these
        words = weighted.defuse(f"{words.removeprefix(_MARKS[message.severity])} {message.url}".rstrip()[: weighted.LIMIT * 10])
    elif links:
        tail += _link(message.url)
    else:
        words = weighted.defuse(words[: weighted.LIMIT * 10])
        if message.url:
            left_out(message.url, len(message.url))
    return weighted.cut(weighted.mentioning_nobody(words), weighted.LIMIT - weighted.weight(tail)) + tail


def _words(message: Message) -> str:
    said_first = [clean_line(message.title), plain.plain(document_of(message))]
    text = " — ".join(part for part in said_first if part)
    fields = [f"{name}: {clean_line(value)}" for name, value in fields_of(message)]
    text = "\n".join([text, *fields] if text else fields)
    return _MARKS[message.severity] + _beginning(or_no_text(text))


def _beginning(text: str) -> str:
    """As much as can ever fit, even if links count for less: weighing 64 KiB for a post of 280 would be a waste."""
    return text[: weighted.LIMIT * 100]


def _link(url: str) -> str:
    link = f" {weighted.mentioning_nobody(clean(url))}" if url else ""
    if weighted.weight(link) <= weighted.LIMIT - _MIN_TEXT:
        return link
    left_out(link, len(link))
    return _LINK_LEFT_OUT


def measure(request: Request) -> tuple[Size]:
    return (Size("text", weighted.weight(body_of(request)["text"]), weighted.LIMIT, "weighted characters"),)


# ------------------------------------------------------------------------------------------------------------ classify


def classify(reply: HttpReply, context: Context) -> Outcome:
    match reply:
        case HttpReply(status=status) if 200 <= status < 300:
            return _accepted(reply)
        case HttpReply(status=400):
            return Refused(Reason.PAYLOAD, said(reply), ours=True)
        case HttpReply(status=401 | 402) if is_page(reply):
            return Later(Reason.BAD_ANSWER, detail=said(reply))  # not from X itself, but from something in front of it
        case HttpReply(status=401):
            return Gone(Reason.UNAUTHORIZED, f"X no longer accepts the keys and tokens: {said(reply)}")
        case HttpReply(status=402):
            # https://docs.x.com/x-api/getting-started/pricing: nothing goes out until the owner buys credits and switches it on again.
            return Gone(Reason.NO_CREDITS, f"The X developer account has no credits left: {said(reply)}")
        case HttpReply(status=403):
            return _forbidden(reply, context)
        case HttpReply(status=413):
            return Refused(Reason.TOO_LARGE, said(reply), ours=True)
        case HttpReply(status=429):
            return Later(Reason.THROTTLED, _wait_seconds(reply, context.now), counts=False, detail=said(reply))
        case HttpReply():
            return classify_rest(reply, context)


def _accepted(reply: HttpReply) -> Outcome:
    body = json_body(reply)
    data: Any = body.get("data")
    post_id: Any = cast(dict[str, Any], data).get("id") if isinstance(data, dict) else None
    if isinstance(post_id, str) and post_id:
        return Delivered(post_id)
    if body.get("errors"):  # X also answers 200 with errors
        return Refused(Reason.REJECTED, said(reply))
    # Without an id we do not know whether the post exists; if it does, the next attempt is refused as a duplicate.
    if reply.status == 201 and not reply.cut:
        return Delivered()
    return lost(reply) or Unknown(Reason.BAD_ANSWER, said(reply))


def _forbidden(reply: HttpReply, context: Context) -> Outcome:
    if not json_body(reply):
        return Later(Reason.FORBIDDEN, detail=said(reply))  # not from X itself, but from something in front of it
    words = reply.body[:10_000].decode("utf-8", "replace").lower()
    if "duplicate" in words:
        if context.may_have_arrived:
            return Delivered(detail="X refused it as a duplicate: an earlier attempt had arrived.")
        return Refused(Reason.DUPLICATE, said(reply))
    if _DEAD.search(words):
        return Gone(Reason.FORBIDDEN, f"X does not let this app or account post: {said(reply)}")
    if "too long" in words or "shorter" in words:
        return Refused(Reason.TOO_LARGE, said(reply), ours=True)
    return Refused(Reason.FORBIDDEN, said(reply))


def _windows(reply: HttpReply, now: Micros) -> Iterator[tuple[str, bool, float]]:
    """X's limits from an answer's headers: the name, whether it is used up, and the seconds until it resets.

    The headers give that moment in seconds since 1970 (https://docs.x.com/x-api/fundamentals/rate-limits).
    """
    for name in _LIMITS:
        reset, remaining = (reply.headers.get(f"{name}-{part}", "").strip() for part in ("reset", "remaining"))
        if re.fullmatch(r"[0-9]{1,11}", reset):
            yield name, remaining == "0", max(0.0, int(reset) - now / SECOND)


def _wait_seconds(reply: HttpReply, now: Micros) -> float | None:
    """The longest wait that a throttle names; over a year is none."""
    waits = [wait] if (wait := retry_after(reply, now)) is not None else []
    waits += [seconds for name, is_used_up, seconds in _windows(reply, now) if is_used_up or name == _LIMITS[0]]
    return max((wait for wait in waits if wait <= YEAR_SECONDS), default=None)


def _rest_seconds(reply: HttpReply, now: Micros) -> float:
    return min(max((seconds for _, is_used_up, seconds in _windows(reply, now) if is_used_up), default=0.0), DAY_SECONDS)


# ------------------------------------------------------------------------------------------------------------- channel


def _paces(settings: XSettings, _service: Settings) -> tuple[Pace, ...]:
    return (Pace(f"x:{fingerprint(settings.x_access_token)}", POSTS, WINDOW_SECONDS),)


CHANNEL = Channel(
    type="x",
    title="X",
    about="As posts of an account; X charges for them.",
    settings=XSettings,
    target=target,
    paces=_paces,
    window_seconds=WINDOW_SECONDS,
    rest_seconds=_rest_seconds,
    render=render,
    quick_marks=-1,  # the weighing of its 280 characters looks at each of some 3,000: a millisecond or two
    classify=classify,
    measure=measure,
    becomes=plain.BECOMES,
    max_attempts=MAX_ATTEMPTS,
    refuses_repeats=True,
    daily_budget=lambda service: service.x_daily_limit,
    is_public=lambda _: True,
)
