"""How each provider answers, as far as the demo plays it: what it requires, its success and its throttle.

The formats are those of the providers' documentation; a receiver that accepts anything would prove nothing.
"""

import html
import itertools
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from urllib.parse import unquote

import msgspec
from msgspec import Struct
from oauthlib.oauth1 import Client
from standardwebhooks import Webhook, WebhookVerificationError

_TEXT_KEYS = {"title", "text", "value", "description"}
_ids = itertools.count(1)
_TAG = re.compile(r"<[^<>]*>")
_LEADING_MARKS = re.compile(r"^(\[\w+\]\s*|[\W_]+)")


class Taken(Struct, frozen=True):
    """A request as it was received. Header names are in lower case."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class Answer(Struct, frozen=True):
    """What is sent back. `why` is empty for a success, else the provider's objection, for the demo's display."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    why: str = ""


class Provider(Struct, frozen=True):
    """`accept` answers a request, `text` reads the message in it, `throttled` is the provider's 429 with a wait in seconds."""

    type: str
    path: re.Pattern[str]
    accept: Callable[[Taken], Answer]
    text: Callable[[Taken], str]
    throttled: Callable[[int], Answer]


def as_json(status: int, value: object, why: str = "", headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    return Answer(status, msgspec.json.encode(value), (("Content-Type", "application/json"), *headers), why)


def readable(text: str) -> str:
    """Text without a dialect's markup and escapes, near enough to find a title in it."""
    return html.unescape(_TAG.sub("", text)).replace("\\", "").replace("*", "")


def headline(text: str) -> str:
    """The first line that is not empty, without the mark of severity before it."""
    lines = (_LEADING_MARKS.sub("", line).strip() for line in text.splitlines())
    return next((line for line in lines if line), "")


def _json(taken: Taken) -> dict[str, Any]:
    try:
        return msgspec.json.decode(taken.body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _texts(value: object) -> list[str]:
    """Every text under a JSON value's `title`, `text`, `value` and `description`, in order."""
    found: list[str] = []
    if isinstance(value, list):
        for item in cast(list[object], value):
            found += _texts(item)
    elif isinstance(value, dict):
        for name, item in cast(dict[str, object], value).items():
            found += [item] if isinstance(item, str) and name in _TEXT_KEYS else _texts(item)
    return found


def _plain_throttle(seconds: int) -> Answer:
    return Answer(429, b"slow down", (("Retry-After", str(seconds)),), f"throttled, {seconds} s")


# ------------------------------------------------------------------------------------------------------------ webhook


def webhook(secret: str) -> Provider:
    """A generic endpoint that verifies Standard Webhooks with the handler's secret (whsec_...)."""
    verifier = Webhook(secret)

    def accept(taken: Taken) -> Answer:
        try:
            verifier.verify(taken.body.decode(), dict(taken.headers))
        except WebhookVerificationError as error:
            return Answer(401, b"bad signature", why=f"bad signature: {error}")
        return Answer(204)

    return Provider("webhook", re.compile(r"/hooks/alarm"), accept, _webhook_text, _plain_throttle)


def _webhook_text(taken: Taken) -> str:
    data = _json(taken).get("data", {})
    return f"{data.get('title', '')}\n{data.get('message', '')}"


# --------------------------------------------------------------------------------------------------------------- chats


def _text(taken: Taken) -> str:
    text = _json(taken).get("text")
    return text if isinstance(text, str) else ""


def _slack(taken: Taken) -> Answer:
    return Answer(200, b"ok") if _text(taken) else Answer(400, b"no_text", why="no_text")


def _slack_revoked(_: Taken) -> Answer:
    return Answer(404, b"no_service", why="404 no_service: this webhook was deleted")


def _discord(taken: Taken) -> Answer:
    if not _discord_text(taken):
        return as_json(400, {"message": "Cannot send an empty message", "code": 50006}, "50006 empty message")
    # Without wait=true Discord answers before it has saved anything.
    return as_json(200, {"id": str(10**17 + next(_ids)), "type": 0}) if "wait=true" in taken.url else Answer(204)


def _discord_text(taken: Taken) -> str:
    return "\n".join(_texts(_json(taken).get("embeds")))


def _discord_throttle(seconds: int) -> Answer:
    body = {"message": "You are being rate limited.", "retry_after": float(seconds), "global": False}
    return as_json(429, body, f"throttled, {seconds} s", (("Retry-After", str(seconds)), ("X-RateLimit-Scope", "user")))


def _telegram(taken: Taken) -> Answer:
    chat = _json(taken).get("chat_id")
    if not chat or not _text(taken):
        description = "Bad Request: message text is empty"
        return as_json(400, {"ok": False, "error_code": 400, "description": description}, description)
    return as_json(200, {"ok": True, "result": {"message_id": next(_ids), "chat": {"id": chat}}})


def _telegram_throttle(seconds: int) -> Answer:
    description = f"Too Many Requests: retry after {seconds}"
    body = {"ok": False, "error_code": 429, "description": description, "parameters": {"retry_after": seconds}}
    return as_json(429, body, f"throttled, {seconds} s", (("Retry-After", str(seconds)),))


def _teams(taken: Taken) -> Answer:
    if not _teams_text(taken):
        return as_json(400, {"error": {"code": "TriggerInputSchemaMismatch", "message": "no card"}}, "no card")
    return Answer(202)


def _teams_text(taken: Taken) -> str:
    return "\n".join(_texts(_json(taken).get("attachments")))


def _google_chat(taken: Taken) -> Answer:
    if not _google_chat_text(taken):
        return as_json(400, {"error": {"code": 400, "message": "Message cannot be empty.", "status": "INVALID_ARGUMENT"}}, "empty message")
    return as_json(200, {"name": f"spaces/AAAADEMO/messages/{next(_ids)}"})


def _google_chat_text(taken: Taken) -> str:
    return "\n".join(_texts(_json(taken).get("cardsV2")))


def _google_chat_throttle(seconds: int) -> Answer:
    body = {"error": {"code": 429, "message": "Quota exceeded.", "status": "RESOURCE_EXHAUSTED"}}
    return as_json(429, body, f"throttled, {seconds} s", (("Retry-After", str(seconds)),))


def _ntfy(taken: Taken) -> Answer:
    if _json(taken).get("topic") != "alerts":
        return as_json(400, {"code": 40009, "http": 400, "error": "invalid request: topic invalid"}, "no topic")
    return as_json(200, {"id": f"demo{next(_ids)}", "event": "message", "topic": "alerts"})


def _ntfy_text(taken: Taken) -> str:
    content = _json(taken)
    return f"{content.get('title', '')}\n{content.get('message', '')}".strip()


def _ntfy_throttle(seconds: int) -> Answer:
    body = {"code": 42901, "http": 429, "error": "limit reached: too many requests"}
    return as_json(429, body, f"throttled, {seconds} s", (("Retry-After", str(seconds)),))


# ------------------------------------------------------------------------------------------------------------------- X


def x(consumer_secret: str, token_secret: str) -> Provider:
    """The X API, with OAuth 1.0a verified and repeated texts refused."""
    posted: set[str] = set()

    def accept(taken: Taken) -> Answer:
        if not _is_signed(taken, consumer_secret, token_secret):
            return as_json(401, {"title": "Unauthorized", "status": 401}, "bad OAuth signature")
        text = _text(taken)
        if text in posted:
            detail = "You are not allowed to create a Tweet with duplicate content."
            return as_json(403, {"detail": detail, "title": "Forbidden", "status": 403}, "duplicate content")
        posted.add(text)
        return as_json(201, {"data": {"id": str(next(_ids)), "text": text}})

    return Provider("x", re.compile(r"/2/tweets"), accept, _text, _x_throttle)


def _is_signed(taken: Taken, consumer_secret: str, token_secret: str) -> bool:
    """Whether signing the same request again gives the same signature (RFC 5849 3.2)."""
    given = dict(re.findall(r'(oauth_\w+)="([^"]*)"', taken.headers.get("authorization", "")))
    signer = Client(
        given.get("oauth_consumer_key", ""),
        client_secret=consumer_secret,
        resource_owner_key=unquote(given.get("oauth_token", "")),
        resource_owner_secret=token_secret,
        nonce=given.get("oauth_nonce", ""),
        timestamp=given.get("oauth_timestamp", ""),
    )
    _, headers, _ = cast(tuple[str, dict[str, str], object], signer.sign(taken.url, "POST"))
    return f'oauth_signature="{given.get("oauth_signature", "")}"' in headers["Authorization"]


def _x_throttle(seconds: int) -> Answer:
    # X names no wait, only the time at which its window ends.
    reset = datetime.now(UTC) + timedelta(seconds=seconds)
    headers = (("x-rate-limit-remaining", "0"), ("x-rate-limit-reset", str(int(reset.timestamp()))))
    return as_json(429, {"title": "Too Many Requests", "status": 429}, f"throttled, {seconds} s", headers)


CHATS = (
    Provider("slack", re.compile(r"/services/T0DEMO/B0DEMO/\w+"), _slack, _text, _plain_throttle),
    Provider("slack", re.compile(r"/services/T0DEMO/B0GONE/\w+"), _slack_revoked, _text, _plain_throttle),
    Provider("discord", re.compile(r"/api/webhooks/\d+/[\w-]+"), _discord, _discord_text, _discord_throttle),
    Provider("telegram", re.compile(r"/bot[\w:-]+/sendMessage"), _telegram, _text, _telegram_throttle),
    Provider("microsoft_teams", re.compile(r"/powerautomate/.+/invoke"), _teams, _teams_text, _plain_throttle),
    Provider("google_chat", re.compile(r"/v1/spaces/\w+/messages"), _google_chat, _google_chat_text, _google_chat_throttle),
    Provider("ntfy", re.compile(r"/?"), _ntfy, _ntfy_text, _ntfy_throttle),
)
