"""A due delivery to its decision: load, look whether it is still wanted, one attempt, decide. Keeping it is the next room's."""

import asyncio
import functools
import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import get_args

import structlog
from msgspec import Struct
from msgspec.structs import replace

from tocsin import clock, observe
from tocsin.channels.contract import Context
from tocsin.clock import SECOND, Micros
from tocsin.flow.delivery.attempt import (
    Tried,
    attempt,
    classify,
    heed_limits,
    is_refused_payload,
    plainly,
    render,
    render_now,
    renders_quickly,
    shown_answer,
    shown_verdict,
)
from tocsin.flow.delivery.identity import Identities
from tocsin.flow.delivery.keep import STORE_RETRY_SECONDS, Ending, Keeping
from tocsin.flow.delivery.settle import Decision, decide, delivered, ended_without_attempt, is_late
from tocsin.flow.directory import Directory, Loaded, signing_secrets
from tocsin.flow.pace import Pacer
from tocsin.model import (
    Attempt,
    Busy,
    Delivered,
    Delivery,
    HttpRequest,
    Later,
    NoReply,
    Notification,
    Outcome,
    Reason,
    Refused,
    Reply,
    Request,
    Status,
)
from tocsin.net.wires import Wires
from tocsin.ports import engine
from tocsin.ports.ledger import InFlightLedger
from tocsin.ports.queue import Queue, Waiting
from tocsin.settings import Settings
from tocsin.vault import scrub

LOOK_AGAIN: Micros = 5 * SECOND
SHORTAGE: Micros = SECOND  # until another try for want of a descriptor, a thread or memory
READ_AGAIN_SECONDS = 0.5  # until a handler that was changed while it waited is asked for its turn again
HOLD_SECONDS = 2.0  # nothing more starts for a handler while it is switched off or gets its new address
log = structlog.get_logger(__name__)
_random = random.Random()  # noqa: S311  # jitter, not secrecy

_WORDS: dict[type[Outcome], str] = {kind: kind.__name__.lower() for kind in get_args(Outcome)}  # of outcomes, in the log
_STRAINED = {Reason.THROTTLED, Reason.SERVER_ERROR}
_FAULT_OF_OURS = Later(Reason.INTERNAL, detail="This is a fault of the service, not of the provider; it is in the log.")


class _Attempt(Struct, eq=False, gc=False):
    """An attempt on its way. `delivery` is the row as it was found; `slot`: see `Ending`."""

    run: engine.Run
    delivery: Delivery
    notification: Notification
    loaded: Loaded
    context: Context
    started: float
    slot: int = -1


class _Noted:
    """The wires for one attempt: it is noted before anything goes out, so that a crash leaves a trace of it, and of nothing else."""

    def __init__(self, wires: Wires, goes_out: Callable[[], None]) -> None:
        self._wires = wires
        self._goes_out = goes_out

    def send(self, request: Request) -> Awaitable[Reply]:
        return self._wires.send(request, self._goes_out)


class Delivering:
    """The engine's worker."""

    def __init__(
        self,
        queue: Queue,
        directory: Directory,
        pacer: Pacer,
        wires: Wires,
        keeping: Keeping,
        ledger: InFlightLedger,
        settings: Settings,
        identities: Identities,
    ) -> None:
        self._queue = queue
        self._directory = directory
        self._pacer = pacer
        self._wires = wires
        self._keeping = keeping
        self._ledger = ledger
        self._settings = settings
        self._identities = identities
        self._sending: set[asyncio.Task[None]] = set()
        self._reading: set[asyncio.Task[None]] = set()
        self._to_read: set[int] = set()  # handlers that were changed while they waited
        self.is_prepared: Callable[[int], bool] = directory.knows_pacing

    # ------------------------------------------------------------------------------------------- what the engine asks

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
        """The quick way, without a task: one HTTP request of a handler that is in memory. Everything else takes steps."""
        loaded = self._directory.cached(job.delivery.handler_id)
        if loaded is None or loaded.counts_posts or not renders_quickly(loaded, job.notification.message):
            run.alone(True)  # it must be rendered or read first, and the next one may not overtake it
            self._spawn(self._take_steps(job, run), run)
            return
        trying = self._begin(job, run, loaded)
        if trying is None:
            return
        delivery, context = trying.delivery, trying.context
        try:
            requests = render_now(loaded, trying.notification.message, context)
            if not isinstance(requests, Refused):
                if len(requests) == delivery.part + 1 and isinstance(request := requests[-1], HttpRequest):
                    trying.slot = self._ledger.begin(delivery.id, context.attempt, context.now)
                    self._wires.start(request, functools.partial(self._replied, trying))
                else:
                    run.alone(len(requests) > delivery.part + 1)
                    self._spawn(self._send_parts(trying), run)
                return
            tried = Tried(requests, 0, delivery.part)
        except Exception as error:  # noqa: BLE001  # whatever it was, it is in the log
            observe.seldom(log.error, "attempt.failed", delivery=delivery.id, exc_info=error)
            tried = Tried(_FAULT_OF_OURS, 0, delivery.part)
        self._finish(trying, tried)

    def cut_off(self) -> None:
        self._wires.cut()
        for task in self._sending:
            task.cancel()

    # -------------------------------------------------------------------------------------------------- one delivery

    def _begin(self, job: Waiting, run: engine.Run, loaded: Loaded) -> _Attempt | None:
        """None: it is not to be attempted now, and what becomes of it is already on its way to the store."""
        delivery, notification, handler = job.delivery, job.notification, loaded.handler
        now = clock.now()
        try:
            unwanted = _unwanted(delivery, notification, loaded, now)
            context = Context(
                self._identities.identity(delivery.id),
                handler.id,
                now,
                self._settings,
                delivery.notification_id,
                delivery.id,
                delivery.attempt_count + 1,
                delivery.first_due_at if is_late(delivery, now) else None,
                delivery.may_have_arrived,
                "",
                False,
                signing_secrets(handler.secret, now),
                loaded.zone,
            )
        except Exception as error:  # noqa: BLE001  # whatever it was, it is in the log
            observe.seldom(log.error, "attempt.failed", delivery=delivery.id, exc_info=error)
            self._look_again(delivery, run)
            return None
        if unwanted is not None:
            self._end(run, loaded, unwanted)
            return None
        if loaded.is_sealed:
            self._wait_for_key(delivery, run)
            return None
        if notification.send_at is not None:
            notification = _as_meant(notification, notification.send_at)
        return _Attempt(run, delivery, notification, loaded, context, time.perf_counter())

    async def _take_steps(self, job: Waiting, run: engine.Run) -> None:
        """The long way: the handler must be read, the post must be counted, or the rendering takes a while."""
        delivery = job.delivery
        try:
            loaded = await self._directory.loaded(delivery.handler_id)
        except asyncio.CancelledError:
            run.came_back(engine.UNTRIED)
            run.settled(None)
        except Exception as error:  # noqa: BLE001  # whatever it was, it is in the log
            observe.seldom(log.error, "attempt.failed", delivery=delivery.id, exc_info=error)
            self._look_again(delivery, run)
        else:
            if loaded is None:
                self._end(run, None, ended_without_attempt(delivery, Status.CANCELLED, Reason.HANDLER_DELETED, clock.now()))
            elif (trying := self._begin(job, run, loaded)) is not None:
                await self._send_parts(trying)

    async def _send_parts(self, trying: _Attempt, refused_payload: Tried | None = None) -> None:
        part = trying.delivery.part
        wires = _Noted(self._wires, functools.partial(self._goes_out, trying))
        try:
            refused, context = await self._within_budget(trying)
            message = trying.notification.message
            if refused_payload is not None:
                tried = await plainly(refused_payload, trying.loaded, message, context, wires, self._pacer, trying.run)
            elif refused is None:
                tried = await attempt(trying.loaded, message, context, wires, self._pacer, trying.run, part)
            else:
                tried = Tried(refused, 0, part)
        except asyncio.CancelledError:
            tried = Tried(_FAULT_OF_OURS, 0, part, reply=NoReply(Reason.CUT, sent=False, stopped=True))
        except Exception as error:  # noqa: BLE001  # whatever it was, it is in the log
            observe.seldom(log.error, "attempt.failed", delivery=trying.delivery.id, exc_info=error)
            tried = Tried(_FAULT_OF_OURS, 0, part)
        self._finish(trying, tried)

    def _goes_out(self, trying: _Attempt) -> None:
        if trying.slot < 0:
            trying.slot = self._ledger.begin(trying.delivery.id, trying.context.attempt, trying.context.now)

    async def _within_budget(self, trying: _Attempt) -> tuple[Outcome | None, Context]:
        """For providers that count posts or refuse a repeated text: note the post, and make a repeat differ."""
        loaded, message, context = trying.loaded, trying.notification.message, trying.context
        if not loaded.counts_posts:
            return None, context
        budget = loaded.channel.daily_budget(self._settings)
        requests = await render(loaded, message, context)
        if isinstance(requests, Refused):
            return requests, context
        content = b"\0".join(request.body if isinstance(request, HttpRequest) else request.content for request in requests)
        limit = 2**31 if budget is None else budget
        text_hash = hashlib.sha256(content).digest()
        facts = await self._queue.posted(loaded.credential, text_hash, trying.delivery.id, context.now, limit)
        if facts.over_budget:
            return Refused(Reason.BUDGET, f"The daily budget of {limit} is used up.", ours=True), context
        if facts.repeated and loaded.channel.refuses_repeats:
            # From the delivery's own time, so that every attempt carries the same text.
            return None, replace(context, suffix=time.strftime("%H:%M:%S", time.gmtime(message.at / SECOND)))
        return None, context

    # ---------------------------------------------------------------------------------------------------- afterwards

    def _replied(self, trying: _Attempt, reply: Reply) -> None:
        """The provider has answered, or there will be no answer."""
        loaded, part = trying.loaded, trying.delivery.part
        duration_us = int((time.perf_counter() - trying.started) * 1_000_000)
        outcome = classify(loaded, reply, trying.context)
        if loaded.channel.rest_seconds is not None:
            heed_limits(loaded, reply, self._pacer)
        if isinstance(outcome, Delivered):
            self._keep(trying, Tried(outcome, duration_us, part + 1, (), reply), engine.ANSWERED)
            return
        tried = Tried(outcome, duration_us, part, (), reply)
        if is_refused_payload(outcome):
            self._spawn(self._send_parts(trying, tried), trying.run)
        else:
            self._finish(trying, tried)

    def _finish(self, trying: _Attempt, tried: Tried) -> None:
        reply = tried.reply
        if isinstance(reply, NoReply) and not reply.sent and (reply.stopped or reply.ours):
            self._not_attempted(trying, tried.part, reply)
        else:
            self._keep(trying, tried, _how(tried))

    def _keep(self, trying: _Attempt, tried: Tried, how: int) -> None:
        try:
            ending = self._decide(trying, tried)
        except Exception as error:  # noqa: BLE001  # whatever it was, it is in the log
            observe.seldom(log.error, "decide.failed", delivery=trying.delivery.id, exc_info=error)
            ending = self._decide(trying, Tried(_FAULT_OF_OURS, 0, tried.part))
        trying.run.came_back(how)
        self._keeping.keep(ending)

    def _decide(self, trying: _Attempt, tried: Tried) -> Ending:
        before, loaded, context, outcome = trying.delivery, trying.loaded, trying.context, tried.outcome
        number, started_at = context.attempt, context.now
        if isinstance(outcome, Delivered):
            due_at = None
            decision = delivered(outcome, before, number, started_at, context.meant_for is not None, tried.part)
        else:
            decision = self._decide_otherwise(trying, tried)
            due_at = decision.due_at
        status_code, response = shown_answer(tried, loaded.secrets)
        word = _WORDS[outcome.__class__]
        named, detail = shown_verdict(outcome, loaded.secrets)
        log_row = Attempt(
            before.id, number, started_at, tried.duration_us, word, decision.reason, status_code, response, due_at, named, detail
        )
        return Ending(decision, log_row, clock.now(), trying.run, loaded, trying.slot)

    def _decide_otherwise(self, trying: _Attempt, tried: Tried) -> Decision:
        """It did not arrive, or nobody knows whether it did."""
        before, loaded, context, outcome = trying.delivery, trying.loaded, trying.context, tried.outcome
        if outcome.detail and loaded.secrets:
            outcome = replace(outcome, detail=scrub(outcome.detail, loaded.secrets))
        late = context.meant_for is not None
        delivery = replace(before, attempt_count=context.attempt, last_attempt_at=context.now, late=late, part=tried.part)
        decision = decide(outcome, delivery, loaded.channel, self._settings, clock.now(), _random.random())
        due_at = decision.due_at
        if due_at is not None:
            expires_at = trying.notification.expires_at
            if expires_at is not None and before.replays == 0 and due_at > expires_at:
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

    def _not_attempted(self, trying: _Attempt, part: int, reply: NoReply) -> None:
        """Our own stop, or what this process lacks, kept it from going out: the row stays as it was, but for parts that had arrived."""
        delivery, again = trying.delivery, None
        if reply.ours:
            observe.seldom(log.warning, "attempt.waits", delivery=delivery.id, why=reply.detail)
            again = clock.now() + SHORTAGE
            self._pause(delivery.handler_id, SHORTAGE / SECOND)
        trying.run.came_back(engine.UNTRIED)
        if part == delivery.part:
            self._ledger.settled(trying.slot)
            trying.run.settled(again)
        else:
            decision = Decision(replace(delivery, part=part, due_at=again or delivery.due_at), reply.reason)
            self._keeping.keep(Ending(decision, None, clock.now(), trying.run, trying.loaded, trying.slot))

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

    def _spawn(self, coroutine: Coroutine[None, None, None], run: engine.Run) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._sending.add(task)
        task.add_done_callback(functools.partial(self._ended, run))

    def _ended(self, run: engine.Run, task: "asyncio.Task[None]") -> None:
        self._sending.discard(task)
        if task.cancelled():  # before its first step, so it could tell nobody
            run.came_back(engine.UNTRIED)
            run.settled(None)


def _how(tried: Tried) -> int:
    """What the attempt tells the engine of its handler."""
    if tried.reply is None:
        return engine.UNTRIED
    if isinstance(tried.reply, NoReply):
        return engine.UNANSWERED
    is_strained = isinstance(tried.outcome, Later) and tried.outcome.reason in _STRAINED
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


def _as_meant(notification: Notification, send_at: Micros) -> Notification:
    """A scheduled notification is about the time it was meant for, not about when it was accepted."""
    return replace(notification, message=replace(notification.message, at=max(send_at, notification.message.at)))
