"""An attempt of a delivery, and what is decided about its outcome. Keeping that is the next room's."""

import hashlib
import random
import time
from typing import get_args

import structlog
from msgspec import Struct
from msgspec.structs import replace

from tocsin import clock, observe
from tocsin.clock import SECOND, Micros
from tocsin.flow.delivery.attempt import FAULT_OF_OURS, Attempt
from tocsin.flow.delivery.keep import Ending, Keeping
from tocsin.flow.delivery.settle import Decision, decide, delivered
from tocsin.flow.delivery.shown import shown_answer, shown_verdict
from tocsin.model import Attempt as AttemptRow
from tocsin.model import Delivered, HttpRequest, Later, NoReply, Outcome, Reason, Refused
from tocsin.ports import engine
from tocsin.ports.queue import Queue, Waiting
from tocsin.settings import Settings
from tocsin.vault import scrub

SHORTAGE: Micros = SECOND  # until another try for want of a descriptor, a thread or memory
HOLD_SECONDS = 2.0  # nothing more starts for a handler while it is switched off or gets its new address
log = structlog.get_logger(__name__)
_random = random.Random()  # noqa: S311  # jitter, not secrecy

_WORDS: dict[type[Outcome], str] = {kind: kind.__name__.lower() for kind in get_args(Outcome)}  # of outcomes, in the log
_STRAINED = {Reason.THROTTLED, Reason.SERVER_ERROR}


class Rooms(Struct, frozen=True):
    """What is around an attempt of a delivery."""

    queue: Queue
    keeping: Keeping
    settings: Settings


class Sending(Attempt[engine.Run], kw_only=True, eq=False, gc=False):
    """`job` is as it was found; `slot`: see `Ending`."""

    job: Waiting
    rooms: Rooms
    slot: int = -1

    def goes_out(self) -> None:
        """Noted before anything goes out, so that a crash leaves a trace of it, and of nothing else."""
        if self.slot < 0:
            context = self.context
            self.slot = self.rooms.keeping.ledger.begin(self.job.delivery, context.attempt, context.now)

    async def look_up_posts(self) -> Refused | str:
        loaded, rooms = self.loaded, self.rooms
        budget = loaded.channel.daily_budget(rooms.settings)
        limit = 2**31 if budget is None else budget
        content = b"\0".join(request.body if isinstance(request, HttpRequest) else request.content for request in self.requests)
        text_hash = hashlib.sha256(content).digest()
        facts = await rooms.queue.posted(loaded.credential, text_hash, self.job.delivery.id, self.context.now, limit)
        if facts.over_budget:
            return Refused(Reason.BUDGET, f"The limit is {limit} a day.", ours=True)
        if facts.repeated and loaded.channel.refuses_repeats:
            # From the delivery's own time, so that every attempt carries the same text.
            return time.strftime("%H:%M:%S", time.gmtime(self.message.at / SECOND))
        return ""

    def ended(self) -> None:
        if isinstance(self.outcome, Delivered):
            how = engine.ANSWERED
        elif isinstance(reply := self.reply, NoReply) and not reply.sent and (reply.stopped or reply.ours):
            self._not_attempted(reply)
            return
        else:
            how = self._how()
        try:
            ending = self._decide()
        except Exception as error:  # noqa: BLE001  # whatever it was, it is in the log
            observe.seldom(log.error, "decide.failed", delivery=self.job.delivery.id, exc_info=error)
            self.reply = self.refusal = None  # what may not be shown
            self.outcome = Delivered() if isinstance(self.outcome, Delivered) else FAULT_OF_OURS  # what has arrived is not sent again
            ending = self._decide()
        self.rooms.keeping.keep(ending)
        self.place.came_back(how)

    def _how(self) -> int:
        """What an attempt that did not arrive tells the engine of its handler."""
        if self.reply is None:
            return engine.UNTRIED
        if isinstance(self.reply, NoReply):
            return engine.UNANSWERED
        is_strained = isinstance(self.outcome, Later) and self.outcome.reason in _STRAINED
        return engine.STRAINED if is_strained else engine.ANSWERED

    def _decide(self) -> Ending:
        before, loaded, context, outcome = self.job.delivery, self.loaded, self.context, self.outcome
        number, started_at, now = context.attempt, context.now, clock.now()
        if isinstance(outcome, Delivered):
            due_at = None
            decision = delivered(outcome, before, number, started_at, context.meant_for is not None, self.part)
        else:
            decision = self._decide_otherwise(outcome, now)
            due_at = decision.due_at
        status_code, response = shown_answer(self.reply, self.refusal, loaded.secrets)
        word = _WORDS[outcome.__class__]
        named, detail = shown_verdict(outcome, loaded.secrets)
        log_row = AttemptRow(
            before.id, number, started_at, self.duration_us, word, decision.reason, status_code, response, due_at, named, detail
        )
        return Ending(decision, log_row, now, self.place, loaded, self.slot)

    def _decide_otherwise(self, outcome: Outcome, now: Micros) -> Decision:
        """It did not arrive, or nobody knows whether it did."""
        loaded, context, before, settings = self.loaded, self.context, self.job.delivery, self.rooms.settings
        if outcome.detail and loaded.secrets:
            outcome = replace(outcome, detail=scrub(outcome.detail, loaded.secrets))
        late = context.meant_for is not None
        delivery = replace(before, attempt_count=context.attempt, last_attempt_at=context.now, late=late, part=self.part)
        decision = decide(outcome, delivery, loaded.channel, settings, now, _random.random())
        due_at, expires_at = decision.due_at, self.job.notification.expires_at
        if due_at is not None and expires_at is not None and before.replays == 0 and due_at > expires_at:
            decision = replace(decision, delivery=replace(decision.delivery, due_at=expires_at))  # it ends then, and is not tried again
        if decision.pause_seconds:
            self._pause(loaded.credential, decision.pause_seconds)
            if loaded.realm and isinstance(outcome, Later) and outcome.is_wide:
                self._pause(loaded.realm, decision.pause_seconds)
        if decision.switch_off is not None or decision.new_settings is not None:
            self._pause(loaded.handler.id, HOLD_SECONDS)
        return decision

    def _pause(self, whom: str | int, seconds: float) -> None:
        now = time.monotonic()
        self.pacer.pause(whom, now + seconds, now)

    def _not_attempted(self, reply: NoReply) -> None:
        """Our own stop, or what this process lacks, kept it from going out: the row stays as it was, but for parts that had arrived."""
        delivery, run, keeping, again = self.job.delivery, self.place, self.rooms.keeping, None
        if reply.ours:
            observe.seldom(log.warning, "attempt.waits", delivery=delivery.id, why=reply.detail)
            again = clock.now() + SHORTAGE
            self._pause(delivery.handler_id, SHORTAGE / SECOND)
        run.came_back(engine.UNTRIED)
        if self.part == delivery.part:
            keeping.ledger.settled(self.slot)
            run.settled(again)
        else:
            decision = Decision(replace(delivery, part=self.part, due_at=again or delivery.due_at), reply.reason)
            keeping.keep(Ending(decision, None, clock.now(), run, self.loaded, self.slot))
