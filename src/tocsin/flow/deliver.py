"""A due delivery to its next state: load, look whether it is still wanted, one attempt, decide, settle."""

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
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
    """An attempt under way. `delivery` is the row as it was found; `slot` its place in the ledger."""

    __slots__ = ("context", "delivery", "late", "loaded", "notification", "run", "slot", "started", "started_at", "worker")

    def __init__(
        self,
        worker: "Delivering",
        run: engine.Run,
        delivery: Delivery,
        notification: Notification,
        loaded: Loaded,
        now: Micros,
    ) -> None:
        self.worker = worker
        self.run = run
        self.delivery = delivery
        self.notification = notification
        self.loaded = loaded
        self.started_at = now
        self.late = now - delivery.first_due_at > LATE_AFTER if delivery.late is None else delivery.late
        self.started = time.perf_counter()
        self.slot = -1
        self.context = worker.context_of(self)

    def replied(self, reply: Reply) -> None:
        """The whole way from an HTTP answer on; called by the wire."""
        self.worker.replied(self, reply)


class _Kept:
    """An outcome on its way into the store. `log_row` is None if the delivery ended without an attempt."""

    __slots__ = ("decision", "loaded", "log_row", "run", "settlement", "slot", "worker")

    def __init__(
        self, worker: "Delivering", run: engine.Run, decision: Decision, log_row: Attempt | None, loaded: Loaded | None, slot: int
    ) -> None:
        self.worker = worker
        self.run = run
        self.decision = decision
        self.log_row = log_row
        self.loaded = loaded
        self.slot = slot
        self.settlement = Settlement(decision.delivery, log_row, observe.now())

    def submit(self) -> None:
        self.worker.keep(self.settlement, self.done)

    def done(self, result: bool | Exception) -> None:
        self.worker.kept(self, result)

    def not_kept(self) -> None:
        """The row stays pending and the engine finds it again, so nothing is lost."""
        self.run.settled(observe.now() + 30 * SECOND)


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
        trying: _Attempt | None = None
        try:
            trying = self._begin(job, run, loaded)
            if trying is None:
                return
            requests = render_now(loaded, trying.notification.message, trying.context)
            if isinstance(requests, Refused):
                tried = Tried(requests, 0, delivery.part)
            elif len(requests) == delivery.part + 1 and isinstance(request := requests[-1], HttpRequest):
                self._wire.start(request, trying.replied)
                return
            else:
                _spawn(self._send_parts(trying), self._sending)
                return
        except Exception:
            log.exception("attempt.failed", delivery=delivery.id)
            self._failed(delivery, run, trying)
            return
        self._finish(trying, tried)

    def cut_off(self) -> None:
        self._wire.cut()
        for task in self._sending:
            task.cancel()

    # -------------------------------------------------------------------------------------------------- one delivery

    def _begin(self, job: Waiting, run: engine.Run, loaded: Loaded) -> _Attempt | None:
        """None: it is not wanted any more, and has been ended."""
        delivery, notification = job.delivery, job.notification
        now = observe.now()
        unwanted = self._unwanted(delivery, notification, loaded.handler, now)
        if unwanted is not None:
            self._end(run, unwanted, loaded)
            return None
        if notification.send_at is not None:
            notification = _as_meant(notification)
        trying = _Attempt(self, run, delivery, notification, loaded, now)
        trying.slot = self._ledger.enter(delivery.id, delivery.attempt_count + 1, now)
        return trying

    async def _take_steps(self, job: Waiting, run: engine.Run) -> None:
        """The long way: the handler must be read, the post must be counted, or the rendering takes a while."""
        trying: _Attempt | None = None
        try:
            loaded = await self._directory.loaded(job.delivery.handler_id)
            if loaded is None:
                self._end(run, ended_without_attempt(job.delivery, Status.CANCELLED, Reason.HANDLER_DELETED), None)
                return
            trying = self._begin(job, run, loaded)
        except asyncio.CancelledError:
            run.came_back(answered=False)
            run.settled(None)
            return
        except Exception:
            log.exception("attempt.failed", delivery=job.delivery.id)
            self._failed(job.delivery, run, trying)
            return
        if trying is not None:
            await self._send_parts(trying)

    async def _send_parts(self, trying: _Attempt) -> None:
        loaded, message, part = trying.loaded, trying.notification.message, trying.delivery.part
        try:
            refused, context = await self._within_budget(trying)
            if refused is None:
                tried = await attempt(loaded, message, context, self._wire, self._pacer, part)
            else:
                tried = Tried(refused, 0, part)
        except asyncio.CancelledError:
            tried = Tried(Later(Reason.CUT), 0, part, reply=NoReply(Reason.CUT, sent=False))
        except Exception:
            log.exception("attempt.failed", delivery=trying.delivery.id)
            self._failed(trying.delivery, trying.run, trying)
            return
        self._finish(trying, tried)

    def _counts_posts(self, loaded: Loaded) -> bool:
        return loaded.channel.refuses_repeats or loaded.channel.daily_budget(self._settings) is not None

    def _unwanted(self, delivery: Delivery, notification: Notification, handler: Handler, now: Micros) -> Decision | None:
        """How a delivery ends that is not to be attempted."""
        if not handler.is_enabled:
            if handler.disabled_reason:
                return ended_without_attempt(delivery, Status.FAILED, Reason.HANDLER_DISABLED, handler.disabled_reason)
            return ended_without_attempt(delivery, Status.SKIPPED, Reason.HANDLER_PAUSED)
        if notification.expires_at is not None and now >= notification.expires_at and delivery.replays == 0:
            return ended_without_attempt(delivery, Status.EXPIRED, Reason.EXPIRED, delivery.last_error or "")
        return None

    def context_of(self, trying: _Attempt) -> Context:
        delivery, handler = trying.delivery, trying.loaded.handler
        return Context(
            key=f"msg_{self._store_id}_{delivery.id}",
            handler_id=handler.id,
            now=trying.started_at,
            nonce=f"{_random.getrandbits(128):032x}",
            service=self._settings,
            notification_id=delivery.notification_id,
            delivery_id=delivery.id,
            attempt=delivery.attempt_count + 1,
            meant_for=delivery.first_due_at if trying.late else None,
            may_have_arrived=delivery.may_have_arrived,
            signing_secrets=signing_secrets(handler.secret, trying.started_at),
        )

    async def _within_budget(self, trying: _Attempt) -> tuple[Outcome | None, Context]:
        """For providers that count posts or refuse a repeated text: note the post, and make a repeat differ."""
        loaded, message, context = trying.loaded, trying.notification.message, trying.context
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

    def replied(self, trying: _Attempt, reply: Reply) -> None:
        """The provider has answered, or there will be no answer."""
        duration_us = int((time.perf_counter() - trying.started) * 1_000_000)
        outcome = classify(trying.loaded, reply, trying.context)
        part = trying.delivery.part
        self._finish(trying, Tried(outcome, duration_us, part + 1 if isinstance(outcome, Delivered) else part, (), reply))

    def _finish(self, trying: _Attempt, tried: Tried) -> None:
        reply, run = tried.reply, trying.run
        if isinstance(reply, NoReply) and reply.reason is Reason.CUT and not reply.sent:
            self._not_attempted(trying, tried.part)
            return
        try:
            decision, log_row = self._decided(trying, tried)
        except Exception:
            log.exception("decide.failed", delivery=trying.delivery.id)
            decision, log_row = self._decided(trying, Tried(_FAULT_OF_OURS, 0, tried.part))
        run.came_back(not isinstance(reply, NoReply))
        kept = _Kept(self, trying.run, decision, log_row, trying.loaded, trying.slot)
        if decision.new_settings is None:
            kept.submit()
        else:
            _spawn(self._move(kept), self._after)

    def _decided(self, trying: _Attempt, tried: Tried) -> tuple[Decision, Attempt]:
        loaded, before = trying.loaded, trying.delivery
        outcome = tried.outcome
        if outcome.detail and loaded.secrets:
            outcome = replace(outcome, detail=scrub(outcome.detail, loaded.secrets))
        number = before.attempt_count + 1
        delivery = replace(before, attempt_count=number, last_attempt_at=trying.started_at, late=trying.late, part=tried.part)
        decision = decide(outcome, delivery, loaded.channel, self._settings, observe.now(), _random.random())
        due_at, expires_at = decision.due_at, trying.notification.expires_at
        if due_at is not None:
            if expires_at is not None and before.replays == 0 and due_at > expires_at:
                decision = replace(decision, delivery=replace(decision.delivery, due_at=expires_at))  # it ends then, and is not tried again
                due_at = expires_at
            if decision.pause_seconds:
                self._pacer.pause(loaded.credential, time.monotonic() + decision.pause_seconds)
        if decision.switch_off is not None or decision.new_settings is not None:
            self._held[loaded.handler.id] = time.monotonic() + HOLD_SECONDS
        status_code, response = shown_reply(tried.reply, loaded.secrets)
        kind = outcome.__class__.__name__.lower()
        log_row = Attempt(before.id, number, trying.started_at, tried.duration_us, kind, decision.reason, status_code, response, due_at)
        return decision, log_row

    def _not_attempted(self, trying: _Attempt, part: int) -> None:
        """Cut by our own stop before anything went out: the row stays as it was, but for parts that had arrived by then."""
        trying.run.came_back(answered=False)
        if part == trying.delivery.part:
            self._ledger.leave(trying.slot)
            trying.run.settled(None)
            return
        row = replace(trying.delivery, part=part)
        _Kept(self, trying.run, Decision(row, Reason.CUT), None, trying.loaded, trying.slot).submit()

    def _failed(self, delivery: Delivery, run: engine.Run, trying: _Attempt | None) -> None:
        """A fault of ours becomes a visible attempt that is made again on the schedule, never a poison message."""
        if trying is not None:
            self._finish(trying, Tried(_FAULT_OF_OURS, 0, delivery.part))
        else:  # it could not even be read: nothing was sent, so it waits on
            self._end(run, Decision(replace(delivery, due_at=observe.now() + LOOK_AGAIN), Reason.INTERNAL), None)

    def _end(self, run: engine.Run, decision: Decision, loaded: Loaded | None) -> None:
        """Keep how it stands without an attempt."""
        run.came_back(answered=True)
        _Kept(self, run, decision, None, loaded, -1).submit()

    async def _move(self, kept: "_Kept") -> None:
        """The new address first: the next attempt may follow at once."""
        new_settings = kept.decision.new_settings
        try:
            if new_settings is not None and kept.loaded is not None:
                await self._health.move(kept.loaded, new_settings)
        except Exception:
            log.exception("move.failed", delivery=kept.decision.delivery.id)
            kept.not_kept()
        else:
            kept.submit()

    def keep(self, settlement: Settlement, done: Callable[[bool | Exception], None]) -> None:
        """Keep the outcome, however long the store needs: the attempt cannot be undone."""
        try:
            self._store.settle_then(settlement, done)
        except Busy as busy:
            self._keep_later(settlement, done, busy)

    def _keep_later(self, settlement: Settlement, done: Callable[[bool | Exception], None], busy: Busy) -> None:
        log.error("settle.waits", delivery=settlement.delivery.id, why=str(busy))
        asyncio.get_running_loop().call_later(STORE_RETRY_SECONDS, self.keep, settlement, done)

    def kept(self, kept: "_Kept", result: bool | Exception) -> None:
        """After the commit, or after what kept it from happening."""
        if isinstance(result, Busy):
            self._keep_later(kept.settlement, kept.done, result)
            return
        if isinstance(result, Exception):
            log.error("settle.failed", delivery=kept.decision.delivery.id, exc_info=result)
            kept.not_kept()
            return
        decision = kept.decision
        self._observe(kept, result)
        self._ledger.leave(kept.slot)  # not before: what was sent and is not kept must be known after a restart
        due_at = decision.due_at if result else None
        if decision.switch_off is not None and kept.loaded is not None:
            _spawn(self._switch_off(kept.loaded, decision.reason, decision.switch_off, kept.run, due_at), self._after)
        else:
            kept.run.settled(due_at)

    async def _switch_off(self, loaded: Loaded, reason: Reason, why: str, run: engine.Run, due_at: Micros | None) -> None:
        try:
            await self._health.switch_off(loaded, reason, why)
        except Exception:
            log.exception("switch_off.failed", handler=loaded.handler.id)
        finally:
            run.settled(due_at)

    def _observe(self, kept: "_Kept", applied: bool) -> None:
        delivery, log_row = kept.decision.delivery, kept.log_row
        channel = kept.loaded.channel.type if kept.loaded else "deleted"
        if log_row is not None:
            self._metrics.attempted(channel, log_row.outcome, log_row.reason, log_row.duration_us / SECOND)
            observe.log_attempt(channel, delivery.handler_id, log_row, delivery.status.word)
        if not applied:
            return
        if delivery.status is Status.DELIVERED:
            self._metrics.delivered(channel, max(0, kept.settlement.at - delivery.first_due_at) / SECOND)
        elif delivery.status is not Status.PENDING and delivery.last_reason is not None:
            self._metrics.failed(channel, delivery.last_reason)

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
            _Kept(self, run, decision, log_row, loaded, -1).submit()
        await asyncio.gather(*keeping)


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

    def send(self, request: HttpRequest | Mail) -> Awaitable[Reply]:
        return self._mail.send(request) if isinstance(request, Mail) else self._http.send(request)

    def start(self, request: HttpRequest, done: Callable[[Reply], None]) -> None:
        self._http.start(request, done)

    def cut(self) -> None:
        self._http.cut()
