"""Test sends: the delivery's own path, its turn in the pacing included, but no row and no trace."""

import asyncio
import secrets
import time

from msgspec import Struct

from tocsin import clock
from tocsin.channels.contract import Context
from tocsin.flow.delivery.attempt import NoPlace, Tried, attempt, shown_answer, shown_request
from tocsin.flow.directory import Directory, Loaded, load, signing_secrets
from tocsin.flow.handlers.register import HandlerDraft
from tocsin.flow.mail_health import MailHealth
from tocsin.flow.pace import Pacer
from tocsin.flow.words import hint, sentence
from tocsin.model import (
    Delivered,
    Handler,
    HttpReply,
    Message,
    Missing,
    Moved,
    NoReply,
    Outcome,
    Reason,
    Severity,
    SigningSecret,
    Unknown,
    adds_to,
)
from tocsin.net.wires import Wires
from tocsin.settings import Settings
from tocsin.vault import MASK, new_signing_secret, scrub

TRIAL_SECONDS = 30.0
_NO_SLOT = "The provider's rate limit left no slot within 30 seconds; try again later."


class Trial(Struct, frozen=True):
    """How a test send went. `request` and `response` are masked for everybody."""

    status: str
    reason: str
    duration_ms: int
    request: str | None
    response: str | None
    hint: str


class Trials:
    def __init__(self, directory: Directory, pacer: Pacer, wires: Wires, settings: Settings, mail_health: MailHealth | None = None) -> None:
        self._mail_health = mail_health or MailHealth()
        self._directory = directory
        self._pacer = pacer
        self._wires = wires
        self._settings = settings

    async def saved(self, user_id: int, handler_id: int) -> Trial:
        """Test a registered handler, paused or not. Raises Missing."""
        loaded = await self._directory.loaded(handler_id)
        if loaded is None or loaded.handler.user_id != user_id:
            raise Missing
        return await self._try(loaded)

    async def draft(self, user_id: int, draft: HandlerDraft) -> Trial:
        """Test what is not registered yet; nothing is saved."""
        now = clock.now()
        secret = SigningSecret(new_signing_secret())
        handler = Handler(0, user_id, draft.type or "", draft.name or "", draft.settings or {}, True, now, secret=secret)
        return await self._try(load(handler, self._settings))

    async def _try(self, loaded: Loaded) -> Trial:
        deadline = time.monotonic() + TRIAL_SECONDS
        while (wait := self._pacer.take(loaded.credential, loaded.paces, time.monotonic(), loaded.realm)) > 0:
            if time.monotonic() + wait > deadline:
                return Trial("failed", Reason.THROTTLED.value, 0, None, None, _NO_SLOT)
            await asyncio.sleep(wait)
        now = clock.now()
        message = Message(
            title="Test from tocsin",
            text=f"This is a test of **{_plain(loaded.handler.name)}**. If you can read this, it works.",
            severity=Severity.INFO,
            at=now,
            kind="test",
        )
        context = Context(
            key=f"test_{secrets.token_hex(12)}",
            handler_id=loaded.handler.id,
            now=now,
            service=self._settings,
            suffix=time.strftime("%H:%M:%S", time.gmtime()),
            signing_secrets=signing_secrets(loaded.handler.secret, now),
            zone=loaded.zone,
        )
        wires = self._wires.for_tests(loaded.handler.user_id)
        task = asyncio.ensure_future(attempt(loaded, message, context, wires, self._pacer, NoPlace()))
        done, _ = await asyncio.wait([task], timeout=max(0.1, deadline - time.monotonic()))
        if not done:
            task.cancel()  # the attempt takes it as an answer that was lost
        tried = await task
        if loaded.channel.wire == "mail":
            status_code, _ = shown_answer(tried, loaded.secrets)
            self._mail_health.heard(_reason(tried.outcome), status_code, now)
        return _trial(tried, loaded)


def _trial(tried: Tried, loaded: Loaded) -> Trial:
    outcome = tried.outcome
    reason = _reason(outcome)
    status = "delivered" if isinstance(outcome, Delivered) else "unknown" if isinstance(outcome, Unknown) else "failed"
    detail = scrub(outcome.detail, loaded.secrets)
    status_code, response = shown_answer(tried, loaded.secrets)
    if status_code is not None and not adds_to(detail, response):
        detail = f"{'HTTP' if isinstance(tried.reply, HttpReply) else 'SMTP'} {status_code}"
    detail = f"{detail}." if detail and detail[-1] not in ".!?…" else detail
    told = [sentence(reason), detail if status != "delivered" else "", hint(reason)]
    if isinstance(tried.reply, NoReply):  # its detail is the whole story, in our own words
        response, told[0] = None, ""
    shown = "\n\n".join(shown_request(request, loaded.secrets) for request in tried.requests) or None
    return Trial(status, reason.value, tried.duration_us // 1000, shown, response, " ".join(part for part in told if part))


def _reason(outcome: Outcome) -> Reason:
    match outcome:
        case Delivered():
            return Reason.PLAIN if outcome.plain else Reason.OK
        case Moved():
            return Reason.MOVED
        case _:
            return outcome.reason


def _plain(name: str) -> str:
    """A name inside Markdown, with nothing in it that could be markup."""
    return "".join(f"\\{character}" if character in "\\`*_{}[]()<>#+-.!|~&" else character for character in name).replace(MASK, "")
