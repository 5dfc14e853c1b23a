"""Test sends: the delivery's own path, its turn in the pacing included, but no row and no trace."""

import asyncio
import secrets
import time

from msgspec import Struct

from tocsin import clock
from tocsin.flow.delivery.attempt import NO_SLOT, Attempt, NoPlace
from tocsin.flow.delivery.rendering import context_of
from tocsin.flow.delivery.shown import shown_answer, shown_reply, shown_request
from tocsin.flow.directory import Directory, Loaded, load
from tocsin.flow.handlers.consenting import Consenting
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
from tocsin.ports.consents import Asked
from tocsin.settings import Settings
from tocsin.vault import MASK, new_signing_secret, scrub

TRIAL_SECONDS = 30.0
_LINK_SENT = "A link to confirm it was mailed there. Whoever reads mail at that address has to open it."
_LINK_NOT_SENT = "The link to confirm it could not be mailed."
_ASKED_TOO_OFTEN = "Links to confirm it were mailed there several times today: look for the latest, or try again tomorrow."
_NO_LINK = "The operator has to set TOCSIN_BASE_URL before a link to confirm it can be mailed."
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
    """Test sends, of stored handlers and of forms that are not saved yet."""

    def __init__(
        self,
        directory: Directory,
        pacer: Pacer,
        wires: Wires,
        settings: Settings,
        consenting: Consenting,
        mail_health: MailHealth | None = None,
    ) -> None:
        self._consenting = consenting
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
        return await (self._ask(loaded) if loaded.is_unconfirmed else self._try(loaded))

    async def draft(self, user_id: int, draft: HandlerDraft) -> Trial:
        """Test what is not registered yet; nothing is saved."""
        now = clock.now()
        secret = SigningSecret(new_signing_secret())
        handler = Handler(0, user_id, draft.type or "", draft.name or "", draft.settings or {}, True, now, secret=secret)
        loaded = load(handler, self._settings)
        if loaded.address and await self._consenting.is_missing(user_id, loaded.address):
            return await self._ask(loaded)
        return await self._try(loaded)

    async def _try(self, loaded: Loaded) -> Trial:
        message = Message(
            title="Test from tocsin",
            text=f"This is a test of **{_plain(loaded.handler.name)}**. If you can read this, it works.",
            severity=Severity.INFO,
            at=clock.now(),
            kind="test",
        )
        return _trial(await self._tried(loaded, message), loaded)

    async def _ask(self, loaded: Loaded) -> Trial:
        """Nothing but the link to confirm is mailed to an address that has not agreed. The answer does not show it."""
        if not self._consenting.can_ask:
            return _unconfirmed(0, _NO_LINK)
        match await self._consenting.ask_again(loaded):
            case Asked.NEEDLESS:  # it has agreed in this moment, or was changed
                return await self.saved(loaded.handler.user_id, loaded.handler.id)
            case Asked.TOO_OFTEN:
                return _unconfirmed(0, _ASKED_TOO_OFTEN)
            case Asked.DONE:
                tried = await self._tried(loaded, await self._consenting.link_message(loaded))
        if isinstance(tried.outcome, Delivered):
            return _unconfirmed(tried.duration_us // 1000, _LINK_SENT)
        what_happened = _trial(tried, loaded)
        return _unconfirmed(what_happened.duration_ms, f"{_LINK_NOT_SENT} {what_happened.hint}")

    async def _tried(self, loaded: Loaded, message: Message) -> Attempt[NoPlace]:
        deadline, now = time.monotonic() + TRIAL_SECONDS, clock.now()
        context = context_of(loaded, self._settings, now, f"test_{secrets.token_hex(12)}", suffix=time.strftime("%H:%M:%S", time.gmtime()))
        wires = self._wires.for_tests(loaded.handler.user_id)
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        tried = _Test(loaded, message, context, 0, wires, self._pacer, NoPlace(), set(), has_turn=False, deadline=deadline, over=over)
        tried.start()
        try:
            await asyncio.wait([over], timeout=TRIAL_SECONDS)
        finally:
            wires.cut()  # what has not ended by now ends with what is known: its time is over, or nobody waits for it
            for task in tried.tasks:
                task.cancel()
        await over
        if loaded.channel.wire == "mail" and tried.outcome is not NO_SLOT:
            status_code, _ = shown_reply(tried.reply, loaded.secrets)
            self._mail_health.heard(_reason(tried.outcome), status_code, now)
        return tried


class _Test(Attempt[NoPlace], kw_only=True, eq=False, gc=False):
    """The attempt of a test send. `over`: done with it."""

    over: "asyncio.Future[None]"

    def ended(self) -> None:
        if not self.over.done():
            self.over.set_result(None)


def _unconfirmed(duration_ms: int, what_to_do: str) -> Trial:
    reason = Reason.UNCONFIRMED
    return Trial("failed", reason.value, duration_ms, None, None, f"{sentence(reason)} {what_to_do}")


def _trial(tried: Attempt[NoPlace], loaded: Loaded) -> Trial:
    outcome = tried.outcome
    if outcome is NO_SLOT:
        return Trial("failed", Reason.THROTTLED.value, 0, None, None, _NO_SLOT)
    reason = _reason(outcome)
    status = "delivered" if isinstance(outcome, Delivered) else "unknown" if isinstance(outcome, Unknown) else "failed"
    detail = scrub(outcome.detail, loaded.secrets)
    status_code, response = shown_answer(tried.reply, tried.refusal, loaded.secrets)
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
