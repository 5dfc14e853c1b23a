"""A due delivery to its next state: load, look whether it is still wanted, one attempt, decide, settle."""

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Coroutine, Iterable, Mapping
from typing import Protocol

import structlog
from msgspec.structs import replace

from tocsin import engine, observe
from tocsin.channels.contract import Context
from tocsin.flow.attempt import LONG_TEXT, Tried, Wire, attempt, classify, render, render_now, shown_reply
from tocsin.flow.directory import Directory, Loaded, signing_secrets
from tocsin.flow.health import Health
from tocsin.flow.pace import Pacer
from tocsin.flow.settle import Decision, decide, ended_without_attempt
from tocsin.model import (
    SECOND,
    Attempt,
    Busy,
    Delivered,
    Delivery,
    Handler,
    HttpRequest,
    Later,
    Mail,
    Micros,
    NoReply,
    Notification,
    Outcome,
    Reason,
    Refused,
    Reply,
    Status,
    Unknown,
)
from tocsin.net.http import HttpWire
from tocsin.net.mail import MailWire
from tocsin.settings import Settings
from tocsin.store import Settlement, Store, Waiting
from tocsin.vault import scrub

LATE_AFTER: Micros = 5 * 60 * SECOND
LOOK_AGAIN: Micros = 5 * SECOND
STORE_RETRY_SECONDS = 1.0
HOLD_SECONDS = 2.0  # nothing more starts for a handler while it is switched off or gets its new address
log = structlog.get_logger(__name__)
_random = random.Random()  # noqa: S311  # jitter, not secrecy


class InFlightLedger(Protocol):
    """Remembers over a crash which attempts were under way."""

    def enter(self, delivery_id: int, number: int, at: Micros) -> int: ...
    def leave(self, slot: int) -> None: ...


_FAULT_OF_OURS = Later(Reason.INTERNAL, detail="a fault of the service, not of the provider; it is in the log")


class _Attempt:
    """An attempt on its way, from the start to the store. `delivery` is the row as it was found; `slot` its place in the ledger.

    Once it is decided: `decision`, and `log_row` unless the delivery ended without an attempt.
    """

    __slots__ = ("context", "decision", "delivery", "late", "loaded", "log_row", "notification", "run", "slot", "started", "worker")

    context: Context
    decision: Decision
    late: bool
    notification: Notification
    started: float

    def __init__(self, worker: "Delivering", run: engine.Run, delivery: Delivery, loaded: Loaded | None) -> None:
        self.worker = worker
        self.run = run
        self.delivery = delivery
        self.loaded = loaded
        self.log_row: Attempt | None = None
        self.slot = -1

    def replied(self, reply: Reply) -> None:
        """The wire calls it, with the answer or with why there is none."""
        if self.loaded is not None:
            self.worker.replied(self, self.loaded, reply)

    def kept(self, result: bool | Exception) -> None:
        """The store calls it, after the commit."""
        self.worker.kept(self, result)


class _Recovery:
    """Stands for the engine while it has not begun."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def came_back(self, answered: bool) -> None:
        pass

    def settled(self, due_at: Micros | None) -> None:  # noqa: ARG002  # the protocol
        self.done.set_result(None)


class Delivering:
    """The engine's worker."""

    def __init__(
        self,
        store: Store,
        directory: Directory,
        pacer: Pacer,
        wire: Wire,
        health: Health,
        ledger: InFlightLedger,
        metrics: observe.Metrics,
        settings: Settings,
        store_id: str,
    ) -> None:
        self._store = store
        self._directory = directory
        self._pacer = pacer
        self._wire = wire
        self._health = health
        self._ledger = ledger
        self._metrics = metrics
        self._settings = settings
        self._store_id = store_id
        self._held: dict[int, float] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._after: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------------------------------- what the engine asks

    def is_prepared(self, handler_id: int) -> bool:
        return self._directory.knows_pace(handler_id)

    def turn(self, handler_id: int) -> float:
        held = self._held.get(handler_id)
        if held is not None:
            if (wait := held - time.monotonic()) > 0:
                return wait
            del self._held[handler_id]
        credential, paces = self._directory.pace_of(handler_id)
        return self._pacer.take(credential, paces, time.monotonic())

    def in_flight(self, handler_id: int) -> int:
        loaded = self._directory.cached(handler_id)
        return 1 if loaded is None else loaded.channel.in_flight

    async def prepare(self, handler_ids: Iterable[int]) -> None:
        await self._directory.prepare(handler_ids)

    def start(self, job: Waiting, run: engine.Run) -> None:
        """The quick way, without a task: one HTTP request of a handler that is in memory. Everything else takes steps."""
        delivery = job.delivery
        loaded = self._directory.cached(delivery.handler_id)
        if loaded is None or len(job.notification.message.text) > LONG_TEXT or self._counts_posts(loaded):
            _spawn(self._take_steps(job, run), self._sending)
            return
        trying = _Attempt(self, run, delivery, loaded)
        try:
            if not self._begin(trying, job.notification, loaded):
                return
            requests = render_now(loaded, trying.notification.message, trying.context)
            if isinstance(requests, Refused):
                tried = Tried(requests, 0, delivery.part)
            elif len(requests) == delivery.part + 1 and isinstance(request := requests[-1], HttpRequest):
                self._wire.start(request, trying.replied)
                return
            else:
                _spawn(self._send_parts(trying, loaded), self._sending)
                return
        except Exception:
            log.exception("attempt.failed", delivery=delivery.id)
            tried = Tried(_FAULT_OF_OURS, 0, delivery.part)
        self._finish(trying, loaded, tried)

    def cut_off(self) -> None:
        self._wire.cut()
        for task in self._sending:
            task.cancel()

    # -------------------------------------------------------------------------------------------------- one delivery

    def _begin(self, trying: _Attempt, notification: Notification, loaded: Loaded) -> bool:
        """False: it is not wanted any more, and has been ended."""
        delivery, handler = trying.delivery, loaded.handler
        now = time.time_ns() // 1000
        unwanted = _unwanted(delivery, notification, handler, now)
        if unwanted is not None:
            self._end(trying, unwanted)
            return False
        number = delivery.attempt_count + 1
        trying.notification = notification if notification.send_at is None else _as_meant(notification)
        trying.late = late = now - delivery.first_due_at > LATE_AFTER if delivery.late is None else delivery.late
        trying.context = Context(
            f"msg_{self._store_id}_{delivery.id}",
            handler.id,
            now,
            f"{_random.getrandbits(128):032x}",
            self._settings,
            delivery.notification_id,
            delivery.id,
            number,
            delivery.first_due_at if late else None,
            delivery.may_have_arrived,
            "",
            signing_secrets(handler.secret, now),
        )
        trying.slot = self._ledger.enter(delivery.id, number, now)
        trying.started = time.perf_counter()
        return True

    async def _take_steps(self, job: Waiting, run: engine.Run) -> None:
        """The long way: the handler must be read, the post must be counted, or the rendering takes a while."""
        delivery = job.delivery
        trying = _Attempt(self, run, delivery, None)
        try:
            trying.loaded = loaded = await self._directory.loaded(delivery.handler_id)
            if loaded is None:
                self._end(trying, ended_without_attempt(delivery, Status.CANCELLED, Reason.HANDLER_DELETED))
            elif self._begin(trying, job.notification, loaded):
                await self._send_parts(trying, loaded)
        except asyncio.CancelledError:
            run.came_back(answered=False)
            run.settled(None)
        except Exception:  # it could not even be read: nothing was sent, so it waits on
            log.exception("attempt.failed", delivery=delivery.id)
            self._end(trying, Decision(replace(delivery, due_at=observe.now() + LOOK_AGAIN), Reason.INTERNAL))

    async def _send_parts(self, trying: _Attempt, loaded: Loaded) -> None:
        message, part = trying.notification.message, trying.delivery.part
        try:
            refused, context = await self._within_budget(trying, loaded)
            if refused is None:
                tried = await attempt(loaded, message, context, self._wire, self._pacer, part)
            else:
                tried = Tried(refused, 0, part)
        except asyncio.CancelledError:
            tried = Tried(_FAULT_OF_OURS, 0, part, reply=NoReply(Reason.CUT, sent=False, stopped=True))
        except Exception:
            log.exception("attempt.failed", delivery=trying.delivery.id)
            tried = Tried(_FAULT_OF_OURS, 0, part)
        self._finish(trying, loaded, tried)

    def _counts_posts(self, loaded: Loaded) -> bool:
        return loaded.channel.refuses_repeats or loaded.channel.daily_budget(self._settings) is not None

    async def _within_budget(self, trying: _Attempt, loaded: Loaded) -> tuple[Outcome | None, Context]:
        """For providers that count posts or refuse a repeated text: note the post, and make a repeat differ."""
        message, context = trying.notification.message, trying.context
        if not self._counts_posts(loaded):
            return None, context
        budget = loaded.channel.daily_budget(self._settings)
        requests = await render(loaded, message, context)
        if isinstance(requests, Refused):
            return requests, context
        content = b"\0".join(request.body if isinstance(request, HttpRequest) else request.content for request in requests)
        limit = 2**31 if budget is None else budget
        text_hash = hashlib.sha256(content).digest()
        facts = await self._store.posted(loaded.credential, text_hash, trying.delivery.id, context.now, limit)
        if facts.over_budget:
            return Refused(Reason.BUDGET, f"the daily budget of {limit} is used up", ours=True), context
        if facts.repeated and loaded.channel.refuses_repeats:
            # From the delivery's own time, so that every attempt carries the same text.
            return None, replace(context, suffix=time.strftime("%H:%M:%S", time.gmtime(message.at / SECOND)))
        return None, context

    # ---------------------------------------------------------------------------------------------------- afterwards

    def replied(self, trying: _Attempt, loaded: Loaded, reply: Reply) -> None:
        """The provider has answered, or there will be no answer."""
        part = trying.delivery.part
        duration_us = int((time.perf_counter() - trying.started) * 1_000_000)
        outcome = classify(loaded, reply, trying.context)
        self._finish(trying, loaded, Tried(outcome, duration_us, part + 1 if isinstance(outcome, Delivered) else part, (), reply))

    def _finish(self, trying: _Attempt, loaded: Loaded, tried: Tried) -> None:
        reply = tried.reply
        if isinstance(reply, NoReply) and reply.stopped and not reply.sent:
            self._not_attempted(trying, tried.part)
            return
        try:
            decision = self._decide(trying, loaded, tried)
        except Exception:
            log.exception("decide.failed", delivery=trying.delivery.id)
            decision = self._decide(trying, loaded, Tried(_FAULT_OF_OURS, 0, tried.part))
        trying.run.came_back(not isinstance(reply, NoReply))
        if decision.new_settings is None:
            self._keep(trying)
        else:
            _spawn(self._move(trying, loaded, decision.new_settings), self._after)

    def _decide(self, trying: _Attempt, loaded: Loaded, tried: Tried) -> Decision:
        before, outcome = trying.delivery, tried.outcome
        number, started_at, now = before.attempt_count + 1, trying.context.now, time.time_ns() // 1000
        if outcome.detail and loaded.secrets:
            outcome = replace(outcome, detail=scrub(outcome.detail, loaded.secrets))
        delivery = replace(before, attempt_count=number, last_attempt_at=started_at, late=trying.late, part=tried.part)
        decision = decide(outcome, delivery, loaded.channel, self._settings, now, _random.random())
        due_at = decision.due_at
        if due_at is not None:
            expires_at = trying.notification.expires_at
            if expires_at is not None and before.replays == 0 and due_at > expires_at:
                due_at = expires_at  # it ends then, and is not tried again
                decision = replace(decision, delivery=replace(decision.delivery, due_at=expires_at))
            if decision.pause_seconds:
                self._pacer.pause(loaded.credential, time.monotonic() + decision.pause_seconds)
        if decision.switch_off is not None or decision.new_settings is not None:
            self._held[loaded.handler.id] = time.monotonic() + HOLD_SECONDS
        status_code, response = shown_reply(tried.reply, loaded.secrets)
        kind = outcome.__class__.__name__.lower()
        trying.decision = decision
        trying.log_row = Attempt(before.id, number, started_at, tried.duration_us, kind, decision.reason, status_code, response, due_at)
        return decision

    def _not_attempted(self, trying: _Attempt, part: int) -> None:
        """Cut by our own stop before anything went out: the row stays as it was, but for parts that had arrived by then."""
        if part == trying.delivery.part:
            self._ledger.leave(trying.slot)
            trying.run.came_back(answered=False)
            trying.run.settled(None)
        else:
            self._end(trying, Decision(replace(trying.delivery, part=part), Reason.CUT))

    def _end(self, trying: _Attempt, decision: Decision) -> None:
        """Keep how it stands without an attempt."""
        trying.decision = decision
        trying.run.came_back(answered=True)
        self._keep(trying)

    async def _move(self, trying: _Attempt, loaded: Loaded, new_settings: Mapping[str, str]) -> None:
        """The new address first: the next attempt may follow at once."""
        try:
            await self._health.move(loaded, new_settings)
        except Exception:
            log.exception("move.failed", delivery=trying.delivery.id)
            _not_kept(trying)
        else:
            self._keep(trying)

    def _keep(self, trying: _Attempt) -> None:
        """Keep the outcome, however long the store needs: the attempt cannot be undone."""
        try:
            self._store.settle_then(Settlement(trying.decision.delivery, trying.log_row, time.time_ns() // 1000), trying.kept)
        except Busy as busy:
            self._keep_later(trying, busy)

    def _keep_later(self, trying: _Attempt, busy: Busy) -> None:
        log.error("settle.waits", delivery=trying.delivery.id, why=str(busy))
        asyncio.get_running_loop().call_later(STORE_RETRY_SECONDS, self._keep, trying)

    def kept(self, trying: _Attempt, result: bool | Exception) -> None:
        """After the commit, or after what kept it from happening."""
        if isinstance(result, Busy):
            self._keep_later(trying, result)
            return
        if isinstance(result, Exception):
            log.error("settle.failed", delivery=trying.delivery.id, exc_info=result)
            _not_kept(trying)
            return
        decision, loaded = trying.decision, trying.loaded
        self._observe(trying, result)
        self._ledger.leave(trying.slot)  # not before: what was sent and is not kept must be known after a restart
        due_at = decision.due_at if result else None
        if decision.switch_off is not None and loaded is not None:
            _spawn(self._switch_off(loaded, decision.reason, decision.switch_off, trying.run, due_at), self._after)
        else:
            trying.run.settled(due_at)

    async def _switch_off(self, loaded: Loaded, reason: Reason, why: str, run: engine.Run, due_at: Micros | None) -> None:
        try:
            await self._health.switch_off(loaded, reason, why)
        except Exception:
            log.exception("switch_off.failed", handler=loaded.handler.id)
        finally:
            run.settled(due_at)

    def _observe(self, trying: _Attempt, applied: bool) -> None:
        delivery, log_row, metrics = trying.decision.delivery, trying.log_row, self._metrics
        channel = trying.loaded.channel.type if trying.loaded else "deleted"
        if log_row is not None:
            metrics.attempted(channel, log_row.outcome, log_row.reason, log_row.duration_us / SECOND)
            observe.log_attempt(channel, delivery.handler_id, log_row, delivery.status)
        if not applied:
            return
        if delivery.status is Status.DELIVERED:
            metrics.delivered(channel, max(0, time.time_ns() // 1000 - delivery.first_due_at) / SECOND)
        elif delivery.status is not Status.PENDING and delivery.last_reason is not None:
            metrics.failed(channel, delivery.last_reason)

    # ------------------------------------------------------------------------------------------------- after a crash

    async def recover(self, under_way: Iterable[tuple[int, int, Micros]]) -> None:
        """Attempts that were in flight when the process died: their answers are lost, and the log says so."""
        lost = {delivery_id: (number, at) for delivery_id, number, at in under_way}
        keeping: list[asyncio.Future[None]] = []
        for job in await self._store.waiting(list(lost)):
            number, at = lost[job.delivery.id]
            loaded = await self._directory.loaded(job.delivery.handler_id)
            if loaded is None or job.delivery.attempt_count >= number:
                continue
            late = at - job.delivery.first_due_at > LATE_AFTER if job.delivery.late is None else job.delivery.late
            delivery = replace(job.delivery, attempt_count=number, last_attempt_at=at, late=late)
            outcome = Unknown(Reason.CUT, "the service ended while the attempt was under way")
            decision = decide(outcome, delivery, loaded.channel, self._settings, observe.now(), _random.random())
            log_row = Attempt(delivery.id, number, at, 0, "unknown", decision.reason, None, outcome.detail, decision.due_at)
            run = _Recovery()
            keeping.append(run.done)
            found = _Attempt(self, run, delivery, loaded)
            found.decision, found.log_row = decision, log_row
            self._keep(found)
        await asyncio.gather(*keeping)


def _unwanted(delivery: Delivery, notification: Notification, handler: Handler, now: Micros) -> Decision | None:
    """How a delivery ends that is not to be attempted."""
    if not handler.is_enabled:
        if handler.disabled_reason:
            return ended_without_attempt(delivery, Status.FAILED, Reason.HANDLER_DISABLED, handler.disabled_reason)
        return ended_without_attempt(delivery, Status.SKIPPED, Reason.HANDLER_PAUSED)
    if notification.expires_at is not None and now >= notification.expires_at and delivery.replays == 0:
        return ended_without_attempt(delivery, Status.EXPIRED, Reason.EXPIRED, delivery.last_error or "")
    return None


def _not_kept(trying: _Attempt) -> None:
    """The row stays pending and the engine finds it again, so nothing is lost."""
    trying.run.settled(observe.now() + 30 * SECOND)


def _spawn(coroutine: Coroutine[None, None, None], tasks: "set[asyncio.Task[None]]") -> None:
    task = asyncio.get_running_loop().create_task(coroutine)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _as_meant(notification: Notification) -> Notification:
    """A scheduled notification is about the time it was meant for, not about when it was accepted."""
    if notification.send_at is None:
        return notification
    at = max(notification.send_at, notification.message.at)
    return replace(notification, message=replace(notification.message, at=at))


class TwoWires:
    """HTTP and mail behind one `send`."""

    def __init__(self, http: HttpWire, mail: MailWire) -> None:
        self._http = http
        self._mail = mail
        self.start = http.start

    def send(self, request: HttpRequest | Mail) -> Awaitable[Reply]:
        return self._mail.send(request) if isinstance(request, Mail) else self._http.send(request)

    def cut(self) -> None:
        self._http.cut()
