"""A due delivery to its next state: load, look whether it is still wanted, one attempt, decide, settle."""

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Iterable
from typing import Protocol

import structlog
from msgspec.structs import replace

from tocsin import engine, observe
from tocsin.channels.contract import Context
from tocsin.flow.attempt import Tried, Wire, attempt, render, shown_reply
from tocsin.flow.directory import Directory, Loaded, signing_secrets
from tocsin.flow.health import Health
from tocsin.flow.pace import Pacer
from tocsin.flow.settle import Decision, decide, ended_without_attempt
from tocsin.model import (
    SECOND,
    Attempt,
    Busy,
    Delivery,
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


class Attempted(engine.Tried):
    """An attempt to be settled. `log_row` is None if the delivery ended without one; `slot` is its place in the ledger."""

    decision: Decision
    log_row: Attempt | None
    loaded: Loaded | None
    slot: int = -1


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

    async def attempt(self, job: Waiting) -> Attempted:
        try:
            return await self._attempt(job)
        except Exception:
            # A fault of ours becomes a visible attempt that is made again on the schedule, never a poison message.
            log.exception("attempt.failed", delivery=job.delivery.id)
        now = observe.now()
        delivery = replace(job.delivery, attempt_count=job.delivery.attempt_count + 1, last_attempt_at=now)
        outcome = Later(Reason.INTERNAL, detail="a fault of the service, not of the provider; it is in the log")
        loaded = self._directory.cached(delivery.handler_id)
        if loaded is None:  # it could not even be read: nothing was sent, so it waits on
            row = replace(job.delivery, due_at=now + LOOK_AGAIN)
            return Attempted(False, Decision(row, Reason.INTERNAL), None, None)
        return self._decided(Tried(outcome, 0, delivery.part), delivery, loaded)

    async def settle(self, tried: Attempted) -> Micros | None:
        decision, loaded = tried.decision, tried.loaded
        try:
            if decision.new_settings is not None and loaded is not None:
                await self._health.move(loaded, decision.new_settings)
            applied = await self._keep(decision, tried.log_row, loaded)
            self._ledger.leave(tried.slot)  # not before: what was sent and is not kept must be known after a restart
            if decision.switch_off is not None and loaded is not None:
                await self._health.switch_off(loaded, decision.reason, decision.switch_off)
        except Exception:
            # The row stays pending and the sweep finds it again, so nothing is lost.
            log.exception("settle.failed", delivery=decision.delivery.id)
            return observe.now() + 30 * SECOND
        return decision.due_at if applied else None

    # -------------------------------------------------------------------------------------------------- one delivery

    async def _attempt(self, job: Waiting) -> Attempted:
        delivery, notification = job.delivery, _as_meant(job.notification)
        now = observe.now()
        loaded = self._directory.cached(delivery.handler_id) or await self._directory.loaded(delivery.handler_id)
        unwanted = self._unwanted(delivery, notification, loaded, now)
        if loaded is None or unwanted is not None:
            unwanted = unwanted or ended_without_attempt(delivery, Status.CANCELLED, Reason.HANDLER_DELETED)
            return Attempted(True, unwanted, None, loaded)
        late = now - delivery.first_due_at > LATE_AFTER if delivery.late is None else delivery.late
        number = delivery.attempt_count + 1
        delivery = replace(delivery, attempt_count=number, last_attempt_at=now, late=late)
        slot = self._ledger.enter(delivery.id, number, now)
        try:
            refused, context = await self._within_budget(loaded, notification, self._context(loaded, delivery, notification, now))
            if refused is not None:
                tried = Tried(refused, 0, delivery.part)
            else:
                tried = await attempt(loaded, notification.message, context, self._wire, self._pacer, delivery.part)
        except BaseException:
            self._ledger.leave(slot)
            raise
        return self._decided(tried, replace(delivery, part=tried.part), loaded, slot, notification.expires_at)

    def _unwanted(self, delivery: Delivery, notification: Notification, loaded: Loaded | None, now: Micros) -> Decision | None:
        """How a delivery ends that is not to be attempted."""
        if loaded is None:
            return ended_without_attempt(delivery, Status.CANCELLED, Reason.HANDLER_DELETED)
        if not loaded.handler.is_enabled:
            if loaded.handler.disabled_reason:
                return ended_without_attempt(delivery, Status.FAILED, Reason.HANDLER_DISABLED, loaded.handler.disabled_reason)
            return ended_without_attempt(delivery, Status.SKIPPED, Reason.HANDLER_PAUSED)
        if notification.expires_at is not None and now >= notification.expires_at and delivery.replays == 0:
            return ended_without_attempt(delivery, Status.EXPIRED, Reason.EXPIRED, delivery.last_error or "")
        return None

    def _context(self, loaded: Loaded, delivery: Delivery, notification: Notification, now: Micros) -> Context:
        return Context(
            key=f"msg_{self._store_id}_{delivery.id}",
            handler_id=loaded.handler.id,
            now=now,
            nonce=f"{_random.getrandbits(128):032x}",
            service=self._settings,
            notification_id=notification.id,
            delivery_id=delivery.id,
            attempt=delivery.attempt_count,
            meant_for=delivery.first_due_at if delivery.late else None,
            may_have_arrived=delivery.may_have_arrived,
            signing_secrets=signing_secrets(loaded.handler.secret, now),
        )

    async def _within_budget(self, loaded: Loaded, notification: Notification, context: Context) -> tuple[Outcome | None, Context]:
        """For providers that count posts or refuse a repeated text: note the post, and make a repeat differ."""
        channel = loaded.channel
        budget = channel.daily_budget(self._settings)
        if budget is None and not channel.refuses_repeats:
            return None, context
        requests = await render(loaded, notification.message, context)
        if isinstance(requests, Refused):
            return requests, context
        content = b"\0".join(request.body if isinstance(request, HttpRequest) else request.content for request in requests)
        limit = 2**31 if budget is None else budget
        text_hash = hashlib.sha256(content).digest()
        facts = await self._store.posted(loaded.credential, text_hash, context.delivery_id or 0, context.now, limit)
        if facts.over_budget:
            return Refused(Reason.BUDGET, f"the daily budget of {limit} is used up", ours=True), context
        if facts.repeated and channel.refuses_repeats:
            # From the delivery's own time, so that every attempt carries the same text.
            return None, replace(context, suffix=time.strftime("%H:%M:%S", time.gmtime(notification.message.at / SECOND)))
        return None, context

    # ---------------------------------------------------------------------------------------------------- afterwards

    def _decided(self, tried: Tried, delivery: Delivery, loaded: Loaded, slot: int = -1, expires_at: Micros | None = None) -> Attempted:
        outcome = _scrubbed(tried.outcome, loaded.secrets)
        decision = decide(outcome, delivery, loaded.channel, self._settings, observe.now(), _random.random())
        if expires_at is not None and delivery.replays == 0 and decision.due_at is not None and decision.due_at > expires_at:
            decision = replace(decision, delivery=replace(decision.delivery, due_at=expires_at))  # it ends then, and is not tried again
        if decision.switch_off is not None or decision.new_settings is not None:
            self._held[loaded.handler.id] = time.monotonic() + HOLD_SECONDS
        if decision.pause_seconds:
            self._pacer.pause(loaded.credential, time.monotonic() + decision.pause_seconds)
        status_code, response = shown_reply(tried.reply, loaded.secrets)
        log_row = Attempt(
            delivery_id=delivery.id,
            number=delivery.attempt_count,
            at=delivery.last_attempt_at or 0,
            duration_us=tried.duration_us,
            outcome=outcome.__class__.__name__.lower(),
            reason=decision.reason,
            status_code=status_code,
            response=response,
            next_at=decision.due_at,
        )
        return Attempted(not isinstance(tried.reply, NoReply), decision, log_row, loaded, slot)

    async def _keep(self, decision: Decision, log_row: Attempt | None, loaded: Loaded | None) -> bool:
        """Keep the outcome, however long the store needs: the attempt cannot be undone."""
        now = observe.now()
        settlement = Settlement(decision.delivery, log_row, now)
        while True:
            try:
                applied = await self._store.settle(settlement)
                break
            except Busy as busy:
                log.error("settle.waits", delivery=decision.delivery.id, why=str(busy))
                await asyncio.sleep(STORE_RETRY_SECONDS)
        self._observe(decision.delivery, log_row, loaded, now, applied)
        return applied

    def _observe(self, delivery: Delivery, log_row: Attempt | None, loaded: Loaded | None, now: Micros, applied: bool) -> None:
        channel = loaded.channel.type if loaded else "deleted"
        if log_row is not None:
            self._metrics.attempted(channel, log_row.outcome, log_row.reason, log_row.duration_us / SECOND)
            observe.log_attempt(channel, delivery.handler_id, log_row, delivery.status.word)
        if not applied:
            return
        if delivery.status is Status.DELIVERED:
            self._metrics.delivered(channel, max(0, now - delivery.first_due_at) / SECOND)
        elif delivery.status is not Status.PENDING and delivery.last_reason is not None:
            self._metrics.failed(channel, delivery.last_reason)

    # ------------------------------------------------------------------------------------------------- after a crash

    async def recover(self, under_way: Iterable[tuple[int, int, Micros]]) -> None:
        """Attempts that were in flight when the process died: their answers are lost, and the log says so."""
        lost = {delivery_id: (number, at) for delivery_id, number, at in under_way}
        keeping: list[Awaitable[bool]] = []
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
            keeping.append(self._keep(decision, log_row, loaded))
        await asyncio.gather(*keeping)


def _as_meant(notification: Notification) -> Notification:
    """A scheduled notification is about the time it was meant for, not about when it was accepted."""
    if notification.send_at is None:
        return notification
    at = max(notification.send_at, notification.message.at)
    return replace(notification, message=replace(notification.message, at=at))


def _scrubbed(outcome: Outcome, hidden: tuple[str, ...]) -> Outcome:
    return replace(outcome, detail=scrub(outcome.detail, hidden)) if outcome.detail and hidden else outcome


class TwoWires:
    """HTTP and mail behind one `send`."""

    def __init__(self, http: HttpWire, mail: MailWire) -> None:
        self._http = http
        self._mail = mail

    def send(self, request: HttpRequest | Mail) -> Awaitable[Reply]:
        return self._mail.send(request) if isinstance(request, Mail) else self._http.send(request)
