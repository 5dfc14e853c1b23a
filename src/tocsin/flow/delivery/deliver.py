"""A due delivery to its decision: load, look whether it is still wanted, one attempt, decide. Keeping it is the next room's."""

import asyncio
import functools
import hashlib
import random
import time
from collections.abc import Iterable
from typing import Any, get_args

import structlog
from msgspec.structs import replace

from tocsin import clock, observe
from tocsin.clock import SECOND, Micros
from tocsin.flow.delivery.attempt import FAULT_OF_OURS, Attempt
from tocsin.flow.delivery.identity import Identities
from tocsin.flow.delivery.keep import STORE_RETRY_SECONDS, Ending, Keeping
from tocsin.flow.delivery.rendering import context_of
from tocsin.flow.delivery.settle import Decision, decide, delivered, ended_without_attempt
from tocsin.flow.delivery.shown import shown_answer, shown_verdict
from tocsin.flow.directory import Directory, Loaded
from tocsin.flow.pace import Pacer
from tocsin.model import Attempt as AttemptRow
from tocsin.model import Busy, Delivered, Delivery, HttpRequest, Later, Message, NoReply, Notification, Outcome, Reason, Refused, Status
from tocsin.net.wires import Wires
from tocsin.ports import engine
from tocsin.ports.queue import Waiting
from tocsin.ports.store import Store
from tocsin.vault import scrub

LOOK_AGAIN: Micros = 5 * SECOND
SHORTAGE: Micros = SECOND  # until another try for want of a descriptor, a thread or memory
READ_AGAIN_SECONDS = 0.5  # until a handler that was changed while it waited is asked for its turn again
HOLD_SECONDS = 2.0  # nothing more starts for a handler while it is switched off or gets its new address
log = structlog.get_logger(__name__)
_random = random.Random()  # noqa: S311  # jitter, not secrecy

_WORDS: dict[type[Outcome], str] = {kind: kind.__name__.lower() for kind in get_args(Outcome)}  # of outcomes, in the log
_STRAINED = {Reason.THROTTLED, Reason.SERVER_ERROR}


class _Sending(Attempt, kw_only=True, eq=False, gc=False):
    """An attempt of a delivery. `delivery` is the row as it was found; `slot`: see `Ending`."""

    worker: "Delivering"
    run: engine.Run
    delivery: Delivery
    expires_at: Micros | None
    slot: int = -1

    def goes_out(self) -> None:
        """Noted before anything goes out, so that a crash leaves a trace of it, and of nothing else."""
        if self.slot < 0:
            self.slot = self.worker.ledger.begin(self.delivery.id, self.context.attempt, self.context.now)

    async def look_up_posts(self) -> Refused | str:
        return await self.worker.look_up_posts(self)

    def ended(self) -> None:
        self.worker.ended(self)


class Delivering:
    """The engine's worker."""

    def __init__(self, store: Store, directory: Directory, pacer: Pacer, wires: Wires, keeping: Keeping, identities: Identities) -> None:
        self._store = store
        self._directory = directory
        self._pacer = pacer
        self._wires = wires
        self._keeping = keeping
        self._identities = identities
        self._settings = directory.service
        self.ledger = keeping.ledger
        self._tasks: set[asyncio.Task[Any]] = set()  # of attempts that wait for something
        self._reading: set[asyncio.Task[None]] = set()
        self._to_read: set[int] = set()  # handlers that were changed while they waited

    # ------------------------------------------------------------------------------------------- what the engine asks

    def is_prepared(self, handler_id: int) -> bool:
        return self._directory.known_pacing(handler_id) is not None

    def turn(self, handler_id: int) -> float:
        if self._keeping.holds_back(handler_id):
            return STORE_RETRY_SECONDS
        known = self._directory.known_pacing(handler_id)
        if not self._pacer.has_pauses and (known is None or not known.paces):
            return 0.0
        pacing, now = known or self._directory.pacing(handler_id), time.monotonic()
        wait = self._pacer.pause_left(handler_id, now) or self._pacer.take(pacing.credential, pacing.paces, now, pacing.realm)
        if wait > 0 and self._directory.cached(handler_id) is None:  # edited, perhaps to another credential
            self._read_again(handler_id)
            return min(wait, READ_AGAIN_SECONDS)
        return wait

    def _read_again(self, handler_id: int) -> None:
        if not self._to_read:
            reading = asyncio.get_running_loop().create_task(self._read_changed())
            self._reading.add(reading)
            reading.add_done_callback(self._reading.discard)
        self._to_read.add(handler_id)

    async def _read_changed(self) -> None:
        handler_ids, self._to_read = self._to_read, set()
        try:
            await self._directory.prepare(handler_ids)
        except Busy as busy:
            observe.seldom(log.warning, "handlers.not_read", why=str(busy))  # those that wait ask again

    def in_flight(self, handler_id: int) -> int:
        return self._directory.pacing(handler_id).in_flight

    def wire(self, handler_id: int) -> str:
        known = self._directory.known_pacing(handler_id)
        return known.wire if known else "http"

    async def prepare(self, handler_ids: Iterable[int]) -> None:
        await self._directory.prepare(handler_ids)

    def start(self, job: Waiting, run: engine.Run) -> None:
        loaded = self._directory.cached(job.delivery.handler_id)
        if loaded is not None:
            self._begin(job, run, loaded)
            return
        run.alone(True)  # it must be read first, and the next one may not overtake it
        task = asyncio.get_running_loop().create_task(self._directory.loaded(job.delivery.handler_id))
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._was_read, job, run))

    def cut_off(self) -> None:
        self._wires.cut()
        for task in self._tasks:
            task.cancel()

    # -------------------------------------------------------------------------------------------------- one delivery

    def _was_read(self, job: Waiting, run: engine.Run, task: "asyncio.Task[Loaded | None]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            run.came_back(engine.UNTRIED)
            run.settled(None)
        elif error := task.exception():
            observe.seldom(log.error, "attempt.failed", delivery=job.delivery.id, exc_info=error)
            self._look_again(job.delivery, run)
        elif (loaded := task.result()) is None:
            self._end(run, None, ended_without_attempt(job.delivery, Status.CANCELLED, Reason.HANDLER_DELETED, clock.now()))
        else:
            self._begin(job, run, loaded, is_alone=True)

    def _begin(self, job: Waiting, run: engine.Run, loaded: Loaded, is_alone: bool = False) -> None:
        """Attempt it, or say what becomes of it if it is not to be attempted now."""
        delivery, notification = job.delivery, job.notification
        now = clock.now()
        try:
            unwanted = _unwanted(delivery, notification, loaded, now)
            context = context_of(loaded, self._settings, now, self._identities.identity(delivery.id), delivery=delivery)
            message = _as_meant(notification.message, notification.send_at) if notification.send_at is not None else notification.message
        except Exception as error:  # noqa: BLE001  # whatever it was, it is in the log
            observe.seldom(log.error, "attempt.failed", delivery=delivery.id, exc_info=error)
            self._look_again(delivery, run)
            return
        if unwanted is not None:
            self._end(run, loaded, unwanted)
        elif loaded.is_sealed:
            self._wait_for_key(delivery, run)
        else:
            _Sending(
                loaded,
                message,
                context,
                delivery.part,
                self._wires,
                self._pacer,
                run,
                self._tasks,
                is_alone=is_alone,
                worker=self,
                run=run,
                delivery=delivery,
                expires_at=notification.expires_at,
            ).start()

    async def look_up_posts(self, sending: _Sending) -> Refused | str:
        loaded, context = sending.loaded, sending.context
        budget = loaded.channel.daily_budget(self._settings)
        limit = 2**31 if budget is None else budget
        content = b"\0".join(request.body if isinstance(request, HttpRequest) else request.content for request in sending.requests)
        text_hash = hashlib.sha256(content).digest()
        facts = await self._store.posted(loaded.credential, text_hash, sending.delivery.id, context.now, limit)
        if facts.over_budget:
            return Refused(Reason.BUDGET, f"The daily budget of {limit} is used up.", ours=True)
        if facts.repeated and loaded.channel.refuses_repeats:
            # From the delivery's own time, so that every attempt carries the same text.
            return time.strftime("%H:%M:%S", time.gmtime(sending.message.at / SECOND))
        return ""

    # ---------------------------------------------------------------------------------------------------- afterwards

    def ended(self, sending: _Sending) -> None:
        reply = sending.reply
        if isinstance(reply, NoReply) and not reply.sent and (reply.stopped or reply.ours):
            self._not_attempted(sending, reply)
            return
        try:
            ending = self._decide(sending)
        except Exception as error:  # noqa: BLE001  # whatever it was, it is in the log
            observe.seldom(log.error, "decide.failed", delivery=sending.delivery.id, exc_info=error)
            sending.outcome, sending.reply = FAULT_OF_OURS, None
            ending = self._decide(sending)
        sending.run.came_back(_how(sending))
        self._keeping.keep(ending)

    def _decide(self, sending: _Sending) -> Ending:
        before, secrets, context, outcome = sending.delivery, sending.loaded.secrets, sending.context, sending.outcome
        number, started_at, now = context.attempt, context.now, clock.now()
        if isinstance(outcome, Delivered):
            due_at = None
            decision = delivered(outcome, before, number, started_at, context.meant_for is not None, sending.part)
        else:
            decision = self._decide_otherwise(sending, outcome, now)
            due_at = decision.due_at
        status_code, response = shown_answer(sending.reply, sending.refusal, secrets)
        word = _WORDS[outcome.__class__]
        named, detail = shown_verdict(outcome, secrets)
        log_row = AttemptRow(
            before.id, number, started_at, sending.duration_us, word, decision.reason, status_code, response, due_at, named, detail
        )
        return Ending(decision, log_row, now, sending.run, sending.loaded, sending.slot)

    def _decide_otherwise(self, sending: _Sending, outcome: Outcome, now: Micros) -> Decision:
        """It did not arrive, or nobody knows whether it did."""
        loaded, context = sending.loaded, sending.context
        if outcome.detail and loaded.secrets:
            outcome = replace(outcome, detail=scrub(outcome.detail, loaded.secrets))
        late = context.meant_for is not None
        delivery = replace(sending.delivery, attempt_count=context.attempt, last_attempt_at=context.now, late=late, part=sending.part)
        decision = decide(outcome, delivery, loaded.channel, self._settings, now, _random.random())
        due_at, expires_at = decision.due_at, sending.expires_at
        if due_at is not None and expires_at is not None and delivery.replays == 0 and due_at > expires_at:
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
        self._pacer.pause(whom, now + seconds, now)

    def _not_attempted(self, sending: _Sending, reply: NoReply) -> None:
        """Our own stop, or what this process lacks, kept it from going out: the row stays as it was, but for parts that had arrived."""
        delivery, run, again = sending.delivery, sending.run, None
        if reply.ours:
            observe.seldom(log.warning, "attempt.waits", delivery=delivery.id, why=reply.detail)
            again = clock.now() + SHORTAGE
            self._pause(delivery.handler_id, SHORTAGE / SECOND)
        run.came_back(engine.UNTRIED)
        if sending.part == delivery.part:
            self.ledger.settled(sending.slot)
            run.settled(again)
        else:
            decision = Decision(replace(delivery, part=sending.part, due_at=again or delivery.due_at), reply.reason)
            self._keeping.keep(Ending(decision, None, clock.now(), run, sending.loaded, sending.slot))

    def _wait_for_key(self, delivery: Delivery, run: engine.Run) -> None:
        """What none of our keys opens may be opened once the right one is back: it waits as it is, without an attempt."""
        observe.seldom(log.error, "handler.sealed", handler=delivery.handler_id, why="no key of the service opens its settings")
        self._pause(delivery.handler_id, LOOK_AGAIN / SECOND)
        run.came_back(engine.UNTRIED)
        run.settled(clock.now() + LOOK_AGAIN)

    def _look_again(self, delivery: Delivery, run: engine.Run) -> None:
        """A fault of ours before anything was sent, such as a store that cannot be read: it waits on."""
        self._end(run, None, Decision(replace(delivery, due_at=clock.now() + LOOK_AGAIN), Reason.INTERNAL))

    def _end(self, run: engine.Run, loaded: Loaded | None, decision: Decision) -> None:
        """Keep how it stands without an attempt."""
        run.came_back(engine.UNTRIED)
        now = clock.now()
        if decision.due_at is None:  # when it ended, for retention: there is no attempt to go by
            decision = replace(decision, delivery=replace(decision.delivery, due_at=now))
        self._keeping.keep(Ending(decision, None, now, run, loaded))


def _how(sending: Attempt) -> int:
    """What the attempt tells the engine of its handler."""
    outcome, reply = sending.outcome, sending.reply
    if isinstance(outcome, Delivered):
        return engine.ANSWERED
    if reply is None:
        return engine.UNTRIED
    if isinstance(reply, NoReply):
        return engine.UNANSWERED
    is_strained = isinstance(outcome, Later) and outcome.reason in _STRAINED
    return engine.STRAINED if is_strained else engine.ANSWERED


def _unwanted(delivery: Delivery, notification: Notification, loaded: Loaded, now: Micros) -> Decision | None:
    """How a delivery ends that is not to be attempted, or until when it waits."""
    handler = loaded.handler
    if not handler.is_enabled:
        if handler.disabled_reason:
            return ended_without_attempt(delivery, Status.FAILED, Reason.HANDLER_DISABLED, now, handler.disabled_reason)
        return ended_without_attempt(delivery, Status.SKIPPED, Reason.HANDLER_PAUSED, now)
    if notification.expires_at is not None and now >= notification.expires_at and delivery.replays == 0:
        return ended_without_attempt(delivery, Status.EXPIRED, Reason.EXPIRED, now, delivery.last_error or "")
    return _too_soon(delivery, loaded.channel.unknown_wait_seconds, now) if delivery.may_have_arrived else None


def _too_soon(delivery: Delivery, wait_seconds: float, now: Micros) -> Decision | None:
    """A replay of what may have arrived a moment ago waits as long as a retry does, which its own schedule makes wait."""
    gone = now - (delivery.last_attempt_at or 0)
    if delivery.step or not 0 <= gone < wait_seconds * SECOND:
        return None
    return Decision(replace(delivery, due_at=now + int(wait_seconds * SECOND) - gone), Reason.UNKNOWN)


def _as_meant(message: Message, send_at: Micros) -> Message:
    """A scheduled notification is about the time it was meant for, not about when it was accepted."""
    return replace(message, at=max(send_at, message.at))
