"""Owners are told of handlers that were switched off: those that die together in one notice, and a few notices a day at most."""

import asyncio
from collections.abc import Sequence

import structlog

from tocsin import clock, observe
from tocsin.channels.registry import CHANNELS
from tocsin.clock import DAY, SECOND, Micros
from tocsin.flow.directory import Directory
from tocsin.flow.intake.accept import Accepting
from tocsin.flow.speech import Languages, Retell, Speech
from tocsin.flow.words import hint
from tocsin.model import Busy, Draft, Message, Severity, SwitchedOff
from tocsin.ports.handlers import HandlerRow, HandlerRows
from tocsin.ports.notices import MAX_READ, PendingNotices, Telling, Untold

GATHER_SECONDS = 5.0  # after each handler, for the next one
MAX_GATHER_SECONDS = 45.0
AGAIN_SECONDS = 60.0  # after a fault of ours
MAX_A_DAY = 5
MAX_TARGETS = 3
MAX_LISTED = 1000  # handlers in the body of a webhook
MAX_NAMED = 10  # handlers in the text; the others are counted
LATELY: Micros = 30 * DAY

log = structlog.get_logger(__name__)


class Notices:
    """Gathers handlers that were switched off, by owner, and tells each owner once."""

    def __init__(
        self,
        pending: PendingNotices,
        handlers: HandlerRows,
        directory: Directory,
        accepting: Accepting,
        languages: Languages | None = None,
    ) -> None:
        self._languages = languages or Languages()
        self._pending = pending
        self._handlers = handlers
        self._directory = directory
        self._accepting = accepting
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._tell_by: dict[int, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def resume(self) -> None:
        """At the start: those who were still to be told when the last process ended."""
        for user_id in await self._pending.users():
            self.due(user_id)

    def due(self, user_id: int) -> None:
        """Tell the owner, once no more handlers follow."""
        now = asyncio.get_running_loop().time()
        by = self._tell_by.setdefault(user_id, now + MAX_GATHER_SECONDS)
        self._tell_in(user_id, max(0.0, min(GATHER_SECONDS, by - now)))

    async def close(self) -> None:
        """What is to be told is kept, and told after the next start."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _tell_in(self, user_id: int, seconds: float) -> None:
        if (before := self._timers.pop(user_id, None)) is not None:
            before.cancel()
        self._timers[user_id] = asyncio.get_running_loop().call_later(seconds, self._begin, user_id)

    def _begin(self, user_id: int) -> None:
        del self._timers[user_id]
        self._tell_by.pop(user_id, None)
        task = asyncio.get_running_loop().create_task(self._tell_or_again(user_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell_or_again(self, user_id: int) -> None:
        try:
            wait_seconds = await self.tell(user_id)
        except Exception as error:  # noqa: BLE001  # whatever it was, the owner is still to be told
            observe.seldom(log.error, "notice.failed", exc_info=None if isinstance(error, Busy) else error)
            wait_seconds = AGAIN_SECONDS
        if wait_seconds is not None and user_id not in self._timers:
            self._tell_in(user_id, wait_seconds)

    async def tell(self, user_id: int) -> float | None:
        """Tell of all that the owner does not know; or, with today's notices used up, in how many seconds there may be one."""
        untold, told_at = await self._pending.untold(user_id)
        if all(one.by_notice for one in untold):  # notices never lead to notices: the next one names these too
            return None
        now = clock.now()
        today = [at for at in told_at if now - DAY < at <= now]
        if len(today) >= MAX_A_DAY:
            return (today[-MAX_A_DAY] + DAY - now) / SECOND + 1
        rows = {row.id: row for row in await self._handlers.rows([one.handler_id for one in untold])}
        off = [(one, rows[one.handler_id]) for one in untold if one.handler_id in rows and _is_off(rows[one.handler_id])]
        targets = await self._targets(user_id, now) if off else ()
        speech = self._languages.named(await self._pending.language(user_id))
        draft = Draft(_message(off, now, speech, is_last=len(today) + 1 == MAX_A_DAY), targets) if targets else None
        notice, committed = await self._accepting.notice(user_id, draft)
        ids = tuple(one.handler_id for one in untold)
        is_told = await self._pending.tell(Telling(user_id, notice, ids, (*today, now), tuple(told_at)), committed)
        return None if is_told and len(untold) < MAX_READ else GATHER_SECONDS  # there may be more

    async def _targets(self, user_id: int, now: Micros) -> tuple[int, ...]:
        """A few handlers that have taken something lately; if none has, a few others. Nothing that the public reads."""
        found: list[tuple[int, bool]] = []
        for handler_id, last_at in await self._pending.candidates(user_id):
            loaded = await self._directory.loaded(handler_id)
            if loaded is None or loaded.settings is None or loaded.is_unconfirmed:
                continue
            if not loaded.channel.is_public(loaded.settings):
                found.append((handler_id, last_at is not None and last_at > now - LATELY))
        lately = [handler_id for handler_id, is_lately in found if is_lately]
        return tuple((lately or [handler_id for handler_id, _ in found])[:MAX_TARGETS])


def _is_off(row: HandlerRow) -> bool:
    return row.deleted_at is None and not row.is_enabled


def _message(off: Sequence[tuple[Untold, HandlerRow]], now: Micros, speech: Speech, is_last: bool) -> Message:
    _ = speech.say
    first, row = off[0]
    if len(off) == 1 and first.is_unsubscribed:
        title = _("Unsubscribed: {name}").format(name=row.name)
        paragraphs = [
            _("The person who reads mail at this handler's address has unsubscribed, so the handler was paused."),
            _("If you enable it again, that address is asked to confirm first."),
        ]
    elif len(off) == 1:
        title = _("Handler switched off: {name}").format(name=row.name)
        paragraphs = [speech.retell(first.why), _said(hint(first.reason), _), _("Nothing more is sent there until you switch it on again.")]
    else:
        title = _("{count} handlers switched off: {name} and others").format(count=len(off), name=row.name)
        lines = [f"- {named.name} ({CHANNELS[named.type].title}): {speech.retell(one.why)}" for one, named in off[:MAX_NAMED]]
        rest = len(off) - MAX_NAMED
        paragraphs = [
            "\n".join(lines),
            _("And {count} more.").format(count=rest) if rest > 0 else "",
            _("Nothing more is sent there until you switch them on again."),
        ]
    if is_last:
        paragraphs.append(
            _("This is the last notice of this kind today. The page of your handlers shows any others that are switched off.")
        )
    return Message(
        title=title[:256],
        text="\n\n".join(paragraph for paragraph in paragraphs if paragraph),
        severity=Severity.WARNING,
        fields=((_("Handler"), row.name), (_("Type"), CHANNELS[row.type].title), (_("Id"), str(row.id))),
        at=now,
        kind="handler.disabled",
        is_text=True,  # names, and what providers say, are no Markdown
        handlers=tuple(SwitchedOff(named.id, named.name, named.type, one.reason) for one, named in off[:MAX_LISTED]),
    )


def _said(sentence: str, _: Retell) -> str:
    """A catalogue's entry for nothing is its head."""
    return _(sentence) if sentence else ""
