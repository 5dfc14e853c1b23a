"""The people who read mail at an address agree to it by a link before anything else is mailed there, and end it by another.

No question is put to administrators' addresses, a user's own, and those of TOCSIN_EMAIL_TRUSTED_DOMAINS. The link to confirm is a delivery
of its own, so it is sent, tried again and shown like any other; the link itself is put in as it goes out, and nobody else gets to see it.
"""

import asyncio
import time
from collections.abc import Callable

import structlog
from msgspec import Struct, json

from tocsin import clock, observe
from tocsin.channels.registry import CHANNELS
from tocsin.flow.delivery.health import ROWS_AT_ONCE, end_waiting
from tocsin.flow.delivery.notices import Notices
from tocsin.flow.directory import Directory, Loaded
from tocsin.flow.intake.accept import Accepting
from tocsin.flow.links import Question, with_link
from tocsin.flow.speech import Languages
from tocsin.flow.windows import Windows, one_process
from tocsin.model import LINK_KIND, Busy, Draft, Invalid, Message, Missing, Reason, Status
from tocsin.net.addresses import compared, mailbox_of, read_address
from tocsin.ports.consents import Asked, Asking, Consent, Consents, Owner, Place, is_unconfirmed
from tocsin.ports.engine import Engine
from tocsin.ports.handlers import HandlerRow, HandlerRows
from tocsin.ports.queue import Queue
from tocsin.ports.values import Values
from tocsin.settings import Settings
from tocsin.vault import Vault, fingerprint

ASK_AGAIN_SECONDS = 600.0  # for the first time, where that was not possible
MAX_REMEMBERED = 10_000
MAX_CLICKS_A_MINUTE = 30  # on one link; and on what is none, from one address
HANDLERS_AT_ONCE = 500
APPLIED = "consents_applied"  # the value that says for which settings all consents were looked through
_TYPES = tuple(channel.type for channel in CHANNELS.values() if channel.mailbox is not None)
_AGREES = "{email} would like to have notifications sent to this address by the notification service at {base}."

log = structlog.get_logger(__name__)


class Request(Struct, frozen=True):
    """What somebody is asked to agree to: mail to their address from that user."""

    question: Question
    owner: Owner


class Consenting:
    def __init__(
        self,
        consents: Consents,
        rows: HandlerRows,
        directory: Directory,
        accepting: Accepting,
        notices: Notices,
        queue: Queue,
        engine: Engine,
        vault: Vault,
        settings: Settings,
        languages: Languages,
        api_processes: Callable[[], int] = one_process,
    ) -> None:
        self._consents = consents
        self._rows = rows
        self._directory = directory
        self._links = directory.links
        self._accepting = accepting
        self._notices = notices
        self._queue = queue
        self._engine = engine
        self._vault = vault
        self._base = settings.base_url or ""
        self._trusted = frozenset(map(_domain, settings.email_trusted_domains))
        self._languages = languages
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: dict[int, float] = {}  # handlers, and when asking was last tried
        self._clicks = Windows(MAX_CLICKS_A_MINUTE, api_processes=api_processes)

    # ------------------------------------------------------------------------------------------------ whether it is needed

    async def consent(self, user_id: int, address: str) -> Consent:
        """Of an address, as a handler that is registered now has it. Raises Busy."""
        owner = await self._consents.owner(user_id)
        if owner is None or not address:
            return Consent.GIVEN
        if self._is_trusted(owner, address):
            return Consent.TRUSTED
        return Consent.GIVEN if await self._consents.is_given(user_id, self._place(address)) else Consent.MISSING

    async def is_missing(self, user_id: int, address: str) -> bool:
        """Whether nothing may be mailed to the address by that user, who has no handler for it. Raises Busy."""
        owner = await self._consents.owner(user_id)
        return owner is not None and not owner.is_admin and await self.consent(user_id, address) is Consent.MISSING

    def _is_trusted(self, owner: Owner, address: str) -> bool:
        domain = read_address(address).domain.lower()
        return "*" in self._trusted or domain in self._trusted or is_same(owner.email, address)

    def _place(self, address: str) -> Place:
        """The marks are not those of other things."""
        return Place(self._vault.marks(f"mail to {compared(address)}"), self._vault.marks(f"mailbox {mailbox_of(address)}"))

    # ---------------------------------------------------------------------------------------------------------- asking

    def ask_soon(self, loaded: Loaded) -> None:
        """Something was to be mailed to an address that is not confirmed: ask, if that could not be done so far."""
        now, handler_id = time.monotonic(), loaded.handler.id
        if now < self._asked.get(handler_id, 0.0):
            return
        if len(self._asked) >= MAX_REMEMBERED:
            self._asked.clear()
        self._asked[handler_id] = now + ASK_AGAIN_SECONDS
        task = asyncio.get_running_loop().create_task(self._ask(loaded))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def ask_for(self, handler_id: int) -> None:
        """It was registered, changed or enabled: ask, if that is needed and was not done before."""
        try:
            loaded = await self._directory.loaded(handler_id)
        except Busy:
            return
        if loaded is not None and loaded.is_unconfirmed and loaded.handler.is_enabled:
            await self._ask(loaded)

    async def _ask(self, loaded: Loaded) -> None:
        """The handler is what people wait for: what goes wrong here is tried again with the next delivery."""
        handler = loaded.handler
        if not self._links.can_be_made:
            observe.seldom(log.warning, "confirmation.impossible", handler=handler.id, why="TOCSIN_BASE_URL is not set")
            return
        try:
            question = await self._question(loaded)
            message = self._message(question)
            link, committed = await self._accepting.notice(handler.user_id, Draft(message, (handler.id,)))
            asking = Asking(handler.user_id, self._place(loaded.address), message.at, handler.id, handler.version, is_first=True, link=link)
            asked = await self._consents.ask(asking, committed)
        except (Busy, Invalid, Missing) as error:
            observe.seldom(log.warning, "confirmation.not_sent", handler=handler.id, why=type(error).__name__)
            return
        log.info("confirmation.asked", handler=handler.id, result=asked.name.lower())
        if asked is Asked.NEEDLESS:  # it may have agreed meanwhile
            self._directory.forget(handler.user_id, handler.id)

    @property
    def can_ask(self) -> bool:
        return self._links.can_be_made

    async def ask_again(self, loaded: Loaded) -> Asked:
        """Note that somebody is asked now; the caller asks. `loaded`: a handler, or one that is not registered. Raises Busy."""
        handler = loaded.handler
        asking = Asking(handler.user_id, self._place(loaded.address), clock.now(), handler.id, handler.version if handler.id else 0)
        asked = await self._consents.ask(asking, lambda _: None)
        if asked is Asked.NEEDLESS:
            self._directory.forget(handler.user_id, handler.id)
        return asked

    async def link_message(self, loaded: Loaded) -> Message:
        """What is mailed, with its link. Raises Missing where no link can be made, Busy."""
        question = await self._question(loaded)
        return with_link(self._message(question), self._links.confirm(question.question))

    async def _question(self, loaded: Loaded) -> Request:
        owner = await self._consents.owner(loaded.handler.user_id)
        if owner is None:
            raise Missing
        handler = loaded.handler
        return Request(Question(handler.user_id, handler.id, loaded.address, clock.now()), owner)

    def _message(self, request: Request) -> Message:
        """Nothing in it is chosen by the user, or strangers could be written to in this way."""
        _ = self._languages.named(request.owner.language).say
        paragraphs = [
            _(_AGREES).format(email=request.owner.email, base=self._base),
            _("If you do not want this, there is nothing to do: nothing else is sent to you."),
            _("To agree, open this page and press the button on it:"),
        ]
        text = "\n\n".join(paragraphs)
        return Message(title=_("Please confirm this e-mail address"), text=text, at=request.question.at, kind=LINK_KIND, is_text=True)

    # ------------------------------------------------------------------------------------------------------- the answers

    def clicked(self, token: str, by: str) -> int:
        """A link is opened, or a button pressed: 0, or in how many seconds it may be. What is no link of ours counts against the address it
        comes from, so that somebody who tries them out cannot keep others from using theirs."""
        is_ours = self._links.subscription(token) is not None or self._links.question(token, clock.now()) is not None
        standing = self._clicks.count(fingerprint(token) if is_ours else f"from {by}")
        return standing.reset_seconds if standing.is_over else 0

    async def asked(self, token: str) -> Request | None:
        """What the link asks; None: it is not ours, too old, or about an address that has been changed. Raises Busy."""
        question = self._links.question(token, clock.now())
        if question is None or (owner := await self._consents.owner(question.user_id)) is None:
            return None
        if question.handler_id:
            loaded = await self._directory.loaded(question.handler_id)
            if loaded is None or loaded.handler.user_id != question.user_id or not is_same(loaded.address, question.address):
                return None
        return Request(question, owner)

    async def agree(self, request: Request) -> bool:
        """Somebody has pressed the button. False: they have unsubscribed since they were asked. Raises Busy."""
        question = request.question
        while True:
            rows = await self._waiting_for(question)
            found = {row.id: row.version for row in rows}
            done = await self._consents.give(question.user_id, self._place(question.address), question.at, clock.now(), found)
            for row in rows:
                self._directory.forget(row.user_id, row.id)
            if not done or not await self._waiting_for(question):  # else one was changed at the same time
                break
        log.info("confirmation.given", user=question.user_id, handler=question.handler_id, done=done)
        return done

    async def _waiting_for(self, question: Question) -> list[HandlerRow]:
        """Handlers of the user that this confirms: that of the link, and others for the same address that have been waiting for it."""
        found: list[HandlerRow] = []
        after = 0
        while rows := await self._consents.mailed(_TYPES, question.user_id, after, HANDLERS_AT_ONCE):
            after = rows[-1].id
            for row in rows:
                is_asked = row.id == question.handler_id or row.consent == Consent.MISSING
                if (
                    is_asked
                    and is_unconfirmed(row.consent, owner_is_admin=False)
                    and is_same(self._directory.opened(row).address, question.address)
                ):
                    found.append(row)
        return found

    async def subscription(self, token: str) -> str | None:
        """The address that the link ends mail to; empty: that has ended, since the handler is gone or has another address. None: the link
        is not ours. Raises Busy."""
        found = await self._subscribed(token)
        return found if found is None else found[1]

    async def _subscribed(self, token: str) -> tuple[HandlerRow | None, str] | None:
        subscription = self._links.subscription(token)
        if subscription is None:
            return None
        row = await self._rows.get(subscription.handler_id)
        if row is None or row.deleted_at is not None:
            return None, ""
        address = self._directory.opened(row).address
        return row, address if address and subscription.is_to(address) else ""

    async def unsubscribe(self, token: str) -> bool:
        """Somebody has pressed the button, or their mail program has. False: the link is not ours. Raises Busy."""
        while True:
            found = await self._subscribed(token)
            if found is None:
                return False
            row, address = found
            if row is None or not address or (row.consent == Consent.WITHDRAWN and not row.is_enabled):
                return True  # it has ended
            is_done = await self._consents.withdraw(row, self._place(address), clock.now(), ROWS_AT_ONCE)
            self._directory.forget(row.user_id, row.id)
            if is_done:
                break
        log.info("handler.unsubscribed", handler=row.id, type=row.type)
        self._notices.due(row.user_id)
        await end_waiting(self._queue, self._engine, row.id, Status.SKIPPED, Reason.HANDLER_PAUSED)
        return True

    # -------------------------------------------------------------------------------------------------- after an upgrade

    async def apply_settings(self, values: Values) -> None:
        """Others may be trusted than at the last start; and after an upgrade all that is registered counts as confirmed. Raises Busy."""
        wanted = json.encode(sorted(self._trusted))
        if await values.read(APPLIED) == wanted:
            return
        owners: dict[int, Owner | None] = {}
        after = 0
        while rows := await self._consents.mailed(_TYPES, None, after, HANDLERS_AT_ONCE):
            after, now = rows[-1].id, clock.now()
            found: dict[int, tuple[int, Consent]] = {}
            places: list[tuple[int, Place]] = []
            for row in rows:
                if row.user_id not in owners:
                    owners[row.user_id] = await self._consents.owner(row.user_id)
                owner, address = owners[row.user_id], self._directory.opened(row).address
                if owner is None or not address:
                    continue
                is_trusted = self._is_trusted(owner, address)
                if row.consent == Consent.GIVEN:
                    places.append((row.user_id, self._place(address)))
                elif row.consent == (Consent.MISSING if is_trusted else Consent.TRUSTED):
                    found[row.id] = row.version, Consent.TRUSTED if is_trusted else Consent.MISSING
            await self._consents.correct(found, places, now)
        await values.write(APPLIED, wanted)

    async def close(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _domain(given: str) -> str:
    """In the form that addresses have it, whichever way it was written."""
    try:
        return read_address(f"somebody@{given}").domain.lower()
    except ValueError:
        return given


def is_same(one: str, other: str) -> bool:
    """Whether two addresses, or none, mean the same."""
    if one == other:
        return True
    try:
        return compared(one) == compared(other)
    except ValueError:  # a user's address need not be one that mail can be sent to
        return False
