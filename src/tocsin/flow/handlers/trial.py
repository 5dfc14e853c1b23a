"""Test sends: the delivery's own path, its turn in the pacing included, but no row and no trace."""

import asyncio
import math
import secrets
import time
from typing import Protocol, overload

from msgspec import Struct

from tocsin import clock
from tocsin.flow.delivery.attempt import NO_SLOT, STOPPED, WAITING, Attempt, NoPlace
from tocsin.flow.delivery.rendering import context_of
from tocsin.flow.delivery.shown import shown_answer, shown_reply, shown_request
from tocsin.flow.directory import Directory, Loaded, load
from tocsin.flow.handlers.consenting import Consenting
from tocsin.flow.handlers.register import HandlerDraft
from tocsin.flow.mail_health import MailHealth
from tocsin.flow.pace import Pacer
from tocsin.flow.quotas import Quotas
from tocsin.flow.words import hint, sentence
from tocsin.model import (
    Delivered,
    Gone,
    Handler,
    HttpReply,
    Message,
    Missing,
    Moved,
    NoReply,
    Outcome,
    Reason,
    Refused,
    Severity,
    SigningSecret,
    Unknown,
    adds_to,
)
from tocsin.net.wires import Wires
from tocsin.ports.consents import Asked
from tocsin.ports.workers import Partitions
from tocsin.settings import Settings
from tocsin.vault import MASK, new_signing_secret, scrub

TRIAL_SECONDS = 30.0
_LINK_SENT = "A link to confirm it was mailed there. The person who reads mail at that address has to open it."
_LINK_NOT_SENT = "The link to confirm it could not be mailed."
_ASKED_TOO_OFTEN = "Links to confirm it were mailed there several times today: look for the latest, or try again tomorrow."
_CHANGED = "It was confirmed or changed at this moment: try again."
_NO_LINK = "The operator has to set TOCSIN_BASE_URL before a link to confirm it can be mailed."
_NO_SLOT = "The provider's rate limit left no slot within 30 seconds; try again later."


class Trial(Struct, frozen=True):
    """How a test send went. `request` and `response` are masked for everybody. `is_final`: it was refused, and will be each time."""

    status: str
    reason: str
    duration_ms: int
    request: str | None
    response: str | None
    hint: str
    is_final: bool = False


class Letter(Struct, frozen=True):
    """What the service itself writes to a user about their account, in plain text."""

    title: str
    text: str


class Tests(Protocol):
    """Test sends, of stored handlers and of forms that are not saved yet. All raise Busy where nobody sends for the handler now."""

    async def saved(self, user_id: int, handler_id: int) -> Trial:
        """Test a registered handler, paused or not. Raises Missing."""
        ...

    async def draft(self, user_id: int, draft: HandlerDraft) -> Trial:
        """Test what is not registered yet; nothing is saved."""
        ...

    async def mail(self, user_id: int, address: str, letter: Letter) -> Trial:
        """Mail a letter to a user's own address, which needs no confirmation and is under no quota."""
        ...


class Trials:
    """Test sends by this process."""

    def __init__(
        self,
        directory: Directory,
        pacer: Pacer,
        wires: Wires,
        settings: Settings,
        consenting: Consenting,
        quotas: Quotas,
        mail_health: MailHealth | None = None,
    ) -> None:
        self._consenting = consenting
        self._quotas = quotas
        self._mail_health = mail_health or MailHealth()
        self._directory = directory
        self._pacer = pacer
        self._wires = wires
        self._settings = settings

    async def saved(self, user_id: int, handler_id: int) -> Trial:
        return await self._answered(await self.load_saved(user_id, handler_id), TRIAL_SECONDS)

    async def draft(self, user_id: int, draft: HandlerDraft) -> Trial:
        return await self._answered(self.load_draft(user_id, draft), TRIAL_SECONDS)

    async def mail(self, user_id: int, address: str, letter: Letter) -> Trial:
        return _trial(await self._tried(self.load_draft(user_id, mailbox(address)), _message_of(letter), TRIAL_SECONDS))

    async def load_saved(self, user_id: int, handler_id: int, version: int = 0) -> Loaded:
        """In this version or a newer one. Raises Missing."""
        loaded = await self._directory.loaded(handler_id)
        if loaded is not None and loaded.handler.version < version:
            self._directory.forget(user_id, handler_id)
            loaded = await self._directory.loaded(handler_id)
        if loaded is None or loaded.handler.user_id != user_id:
            raise Missing
        return loaded

    def load_draft(self, user_id: int, draft: HandlerDraft) -> Loaded:
        secret = SigningSecret(new_signing_secret())
        handler = Handler(0, user_id, draft.type or "", draft.name or "", draft.settings or {}, True, clock.now(), secret=secret)
        return load(handler, self._settings)

    async def while_ours(self, loaded: Loaded, seconds: float, partitions: Partitions, letter: Letter | None = None) -> Trial | None:
        """While this process sends for the handler's partition. None: it does not, or not any longer, and nothing has arrived."""
        stay = _Stay()
        if (end_stay := partitions.stay(loaded.partition or 0, stay.over)) is None:
            return None
        try:
            if letter is None:
                return await self._answered(loaded, seconds, stay)
            tried = await self._tried(loaded, _message_of(letter), seconds, stay)
            return None if tried is None or tried.is_to_repeat else _trial(tried)
        finally:
            end_stay()

    @overload
    async def _answered(self, loaded: Loaded, seconds: float) -> Trial: ...

    @overload
    async def _answered(self, loaded: Loaded, seconds: float, stay: "_Stay") -> Trial | None: ...

    async def _answered(self, loaded: Loaded, seconds: float, stay: "_Stay | None" = None) -> Trial | None:
        """Nothing but the link to confirm is mailed to an address that has not agreed. The answer does not show it."""
        is_asked, message = False, _test_message(loaded)
        if loaded.address and await self._is_unconfirmed(loaded):
            if why_not := await self._why_not_asked(loaded):
                return _unconfirmed(0, why_not)
            is_asked, message = True, await self._consenting.link_message(loaded)
        elif loaded.address and not await self._may_mail(loaded):
            return Trial("failed", Reason.QUOTA.value, 0, None, None, f"{sentence(Reason.QUOTA)} {hint(Reason.QUOTA)}")
        tried = await self._tried(loaded, message, seconds, stay)
        if tried is None or (stay is not None and tried.is_to_repeat):
            return None
        return _asked(tried) if is_asked else _trial(tried)

    async def _is_unconfirmed(self, loaded: Loaded) -> bool:
        handler = loaded.handler
        return loaded.is_unconfirmed if handler.id else await self._consenting.is_missing(handler.user_id, loaded.address)

    async def _may_mail(self, loaded: Loaded) -> bool:
        user_id = loaded.handler.user_id
        return await self._quotas.is_exempt(user_id) or self._quotas.mail(user_id, loaded.address)

    async def _why_not_asked(self, loaded: Loaded) -> str:
        """Why no link can be mailed now; empty: it can, and that is noted."""
        if not self._consenting.can_ask:
            return _NO_LINK
        return {Asked.DONE: "", Asked.NEEDLESS: _CHANGED, Asked.TOO_OFTEN: _ASKED_TOO_OFTEN}[await self._consenting.ask_again(loaded)]

    @overload
    async def _tried(self, loaded: Loaded, message: Message, seconds: float) -> "_Test": ...

    @overload
    async def _tried(self, loaded: Loaded, message: Message, seconds: float, stay: "_Stay | None") -> "_Test | None": ...

    async def _tried(self, loaded: Loaded, message: Message, seconds: float, stay: "_Stay | None" = None) -> "_Test | None":
        deadline, now = time.monotonic() + seconds, clock.now()
        context = context_of(loaded, self._settings, now, f"test_{secrets.token_hex(12)}", suffix=time.strftime("%H:%M:%S", time.gmtime()))
        wires = self._wires.for_tests(loaded.handler.user_id)
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        tried = _Test(loaded, message, context, 0, wires, self._pacer, NoPlace(), set(), has_turn=False, deadline=deadline, over=over)
        if stay is not None:
            if stay.is_over:
                return None
            stay.test = tried
        tried.start()
        try:
            await asyncio.wait([over], timeout=seconds)
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
    """The attempt of a test send. `over`: done with it. `has_left`: others send for its partition now, so it takes no further turn here."""

    over: "asyncio.Future[None]"
    has_left: bool = False

    def ended(self) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def leave(self) -> None:
        self.has_left = True
        if self.state == WAITING:
            for task in self.tasks:
                task.cancel()

    def _take_turn(self) -> float:
        return math.inf if self.has_left else Attempt[NoPlace]._take_turn(self)

    @property
    def is_to_repeat(self) -> bool:
        """It ended because it had to leave, and nothing of it has arrived."""
        return self.has_left and self.part == 0 and (self.outcome is NO_SLOT or self.reply is STOPPED)


class _Stay:
    """How long this process sends for the partition of a `test`, which may not have begun yet."""

    def __init__(self) -> None:
        self.is_over = False
        self.test: _Test | None = None

    def over(self) -> None:
        self.is_over = True
        if self.test is not None:
            self.test.leave()


def _test_message(loaded: Loaded) -> Message:
    return Message(
        title="Test from tocsin",
        text=f"This is a test of **{_plain(loaded.handler.name)}**. If you can read this, it works.",
        severity=Severity.INFO,
        at=clock.now(),
        kind="test",
    )


def mailbox(address: str) -> HandlerDraft:
    return HandlerDraft(type="email", name="account", settings={"email": address})


def _message_of(letter: Letter) -> Message:
    return Message(title=letter.title, text=letter.text, at=clock.now(), kind="account", is_text=True)


def _asked(tried: _Test) -> Trial:
    if isinstance(tried.outcome, Delivered):
        return _unconfirmed(tried.duration_us // 1000, _LINK_SENT)
    trial = _trial(tried)
    return _unconfirmed(trial.duration_ms, f"{_LINK_NOT_SENT} {trial.hint}")


def _unconfirmed(duration_ms: int, what_to_do: str) -> Trial:
    reason = Reason.UNCONFIRMED
    return Trial("failed", reason.value, duration_ms, None, None, f"{sentence(reason)} {what_to_do}")


def _trial(tried: _Test) -> Trial:
    loaded, outcome = tried.loaded, tried.outcome
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
    told_whole = " ".join(part for part in told if part)
    return Trial(status, reason.value, tried.duration_us // 1000, shown, response, told_whole, isinstance(outcome, Refused | Gone))


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
