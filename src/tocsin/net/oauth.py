"""Access tokens for the mail account (RFC 6749): by client credentials, or by a refresh token where there is one.

The request is one form and the answer one JSON object, so no library is needed.
"""

import asyncio
import base64
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias, cast
from urllib.parse import quote, quote_plus, urlencode, urlsplit

import msgspec
import structlog
from msgspec import Struct

from tocsin.model import MASK, HttpReply, HttpRequest, NoReply, Reason
from tocsin.settings import Settings

MAX_EARLY_SECONDS = 300.0  # a token is renewed this long before it expires, or in the last quarter of a shorter lifetime
DEFAULT_SECONDS = 600.0  # lifetime of an access token if the server does not say
MAX_SECONDS = 1e9
PAUSE_SECONDS = 30.0  # after a failure, before the token server is asked again
MAX_SEEN = 8  # latest tokens that are scrubbed from answers
_MAX_SAID = 300  # characters
_SHORTEST_SCRUBBED = 6
_TOKEN = re.compile(r"[\x21-\x7e]+")
_HEADERS = (("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json"))
log = structlog.get_logger(__name__)

Post: TypeAlias = Callable[[HttpRequest], Awaitable[HttpReply | NoReply]]


class OAuth(Struct, frozen=True):
    """What the TOCSIN_SMTP_OAUTH_… settings say. A refresh token is used if given, else client id and secret alone."""

    token_url: str
    client_id: str
    client_secret: str
    scope: str
    refresh_token: str

    def __repr__(self) -> str:
        return f"OAuth({urlsplit(self.token_url).hostname})"


def oauth_of(settings: Settings) -> OAuth | None:
    if not settings.smtp_oauth_token_url:
        return None
    texts = (settings.smtp_oauth_client_id, settings.smtp_oauth_client_secret, settings.smtp_oauth_scope, settings.smtp_oauth_refresh_token)
    return OAuth(settings.smtp_oauth_token_url, *(text or "" for text in texts))


def complaints(settings: Settings, has_user: bool) -> list[str]:
    """What is misconfigured, one sentence each. `has_user`: TOCSIN_SMTP_URL names one."""
    oauth = oauth_of(settings)
    if oauth is None:
        given = settings.smtp_oauth_client_id or settings.smtp_oauth_client_secret or settings.smtp_oauth_refresh_token
        return ["TOCSIN_SMTP_OAUTH_… have no effect without TOCSIN_SMTP_OAUTH_TOKEN_URL"] if given else []
    found: list[str] = []
    if not oauth.client_id:
        found.append("TOCSIN_SMTP_OAUTH_TOKEN_URL needs TOCSIN_SMTP_OAUTH_CLIENT_ID beside it")
    if not oauth.client_secret and not oauth.refresh_token:
        found.append("TOCSIN_SMTP_OAUTH_TOKEN_URL needs TOCSIN_SMTP_OAUTH_CLIENT_SECRET or TOCSIN_SMTP_OAUTH_REFRESH_TOKEN beside it")
    if not has_user:
        found.append("TOCSIN_SMTP_URL names no user: with OAuth it is the mailbox, smtp://alarms%40example.com@smtp.example.com:587")
    return found


class NoToken(Exception):
    """There is no access token now; `reason` is mail_account if the token server refuses us."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Keeper(Protocol):
    """Keeps the refresh token that replaced the one in the settings."""

    async def read(self) -> str | None: ...
    async def keep(self, token: str) -> None: ...


class Tokens:
    """The access token, renewed shortly before it ends: by one request, however many mails wait for it. Where that fails, the old one
    is used until it ends.
    """

    def __init__(self, oauth: OAuth, post: Post, keeper: Keeper, clock: Callable[[], float] = time.monotonic) -> None:
        self._oauth = oauth
        self._post = post
        self._keeper = keeper
        self._clock = clock
        self._access = ""
        self._renew_at = self._ends_at = 0.0
        self._renewing: asyncio.Task[str] | None = None
        self._failure: NoToken | None = None
        self._ask_again_at = 0.0
        self._seen: deque[str] = deque(maxlen=MAX_SEEN)  # tokens

    async def token(self) -> str:
        """Raises NoToken."""
        now = self._clock()
        if self._access and now < self._renew_at:
            return self._access
        if self._failure is not None and now < self._ask_again_at:
            if self._is_still_good():
                return self._access
            raise NoToken(self._failure.reason, self._failure.detail)
        if self._renewing is None:
            self._renewing = asyncio.get_running_loop().create_task(self._renewed())
            self._renewing.add_done_callback(self._is_renewed)
        return await asyncio.shield(self._renewing)  # a mail that is cancelled does not end it for others

    def forget(self, token: str) -> None:
        """The mail server rejected it."""
        if token == self._access:
            self._access = ""

    async def close(self) -> None:
        if (renewing := self._renewing) is not None:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    def scrub(self, text: str, user: str = "") -> str:
        """`text` without tokens and secret, in whichever form they were sent: some servers repeat what they refuse."""
        for secret in (self._oauth.client_secret, self._oauth.refresh_token, *self._seen):
            if len(secret) < _SHORTEST_SCRUBBED:
                continue
            login = base64.b64encode(f"user={user}\1auth=Bearer {secret}\1\1".encode()).decode()
            for form in (login, secret, quote(secret, safe=""), quote_plus(secret), base64.b64encode(secret.encode()).decode()):
                text = text.replace(form, MASK)
        return text

    def _is_still_good(self) -> bool:
        return bool(self._access) and self._clock() < self._ends_at

    def _note(self, token: str) -> None:
        if token and token not in self._seen:
            self._seen.append(token)

    def _is_renewed(self, task: "asyncio.Task[str]") -> None:
        self._renewing = None
        if not task.cancelled():
            task.exception()  # retrieve it: those who wait have been told already

    async def _renewed(self) -> str:
        try:
            answer = await self._ask()
        except NoToken as failure:
            if self._failure is None or self._failure.detail != failure.detail:
                log.warning("mail.no_token", why=failure.detail)
            self._failure, self._ask_again_at = failure, self._clock() + PAUSE_SECONDS
            if self._is_still_good():  # it was to be renewed early
                return self._access
            raise
        self._failure = None
        return answer

    async def _ask(self) -> str:
        first = self._oauth.refresh_token
        if not first:
            return await self._granted({"grant_type": "client_credentials"}, "")
        current = await self._keeper.read() or first
        try:
            return await self._granted({"grant_type": "refresh_token", "refresh_token": current}, current)
        except NoToken as failure:
            if current == first or failure.reason is not Reason.MAIL_ACCOUNT:
                raise
        return await self._granted({"grant_type": "refresh_token", "refresh_token": first}, first)  # the store may be an old copy

    async def _granted(self, grant: dict[str, str], refresh_token: str) -> str:
        oauth = self._oauth
        self._note(refresh_token)
        optional = {"client_secret": oauth.client_secret, "scope": oauth.scope}
        form = grant | {"client_id": oauth.client_id} | {name: value for name, value in optional.items() if value}
        reply = await self._post(HttpRequest(oauth.token_url, oauth.token_url, urlencode(form).encode(), _HEADERS, guarded=False))
        if isinstance(reply, NoReply):
            raise NoToken(reply.reason, self._told(reply.detail))
        answer = _object(reply.body)
        access, refreshed = answer.get("access_token"), answer.get("refresh_token")
        if not 200 <= reply.status < 300 or not isinstance(access, str) or not _TOKEN.fullmatch(access):
            raise self._refusal(reply.status, answer)
        self._note(access)
        lasts = _seconds(answer.get("expires_in"))
        self._access, self._ends_at = access, self._clock() + lasts
        self._renew_at = self._ends_at - min(MAX_EARLY_SECONDS, lasts / 4)
        if isinstance(refreshed, str) and refreshed and refreshed != refresh_token and refresh_token:
            self._note(refreshed)
            await self._keeper.keep(refreshed)
        return access

    def _refusal(self, status: int, answer: dict[str, Any]) -> NoToken:
        words = [word for word in (answer.get("error"), answer.get("error_description")) if isinstance(word, str)]
        is_refusal = 400 <= status < 500 and status not in {408, 429}
        said = ": ".join([f"it answered {status}", *words]) if words or not 200 <= status < 300 else "its answer holds no access token"
        return NoToken(Reason.MAIL_ACCOUNT if is_refusal else Reason.MAIL_SERVER, self._told(said))

    def _told(self, what: str) -> str:
        words = " ".join(self.scrub(what).split())[:_MAX_SAID]
        return f"No access token for the mail account from {urlsplit(self._oauth.token_url).hostname}: {words}"


def _object(body: bytes) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return cast(dict[str, Any], decoded) if isinstance(decoded, dict) else {}


def _seconds(value: object) -> float:
    """Some servers give the number as a text."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        value = int(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < MAX_SECONDS:
        return DEFAULT_SECONDS
    return float(value)
