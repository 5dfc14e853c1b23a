"""A due delivery to its attempt: load it, look whether it is still wanted, and begin."""

import asyncio
import functools
import time
from collections.abc import Callable, Iterable
from typing import Any

import structlog
from msgspec.structs import replace

from tocsin import clock, observe
from tocsin.clock import SECOND, Micros
from tocsin.flow.delivery.identity import Identities
from tocsin.flow.delivery.keep import STORE_RETRY_SECONDS, Ending, Keeping
from tocsin.flow.delivery.rendering import context_of
from tocsin.flow.delivery.sending import Rooms, Sending
from tocsin.flow.delivery.settle import Decision, ended_without_attempt
from tocsin.flow.directory import Directory, Loaded
from tocsin.flow.links import Question, with_link
from tocsin.flow.pace import Pacer
from tocsin.flow.quotas import Quotas
from tocsin.model import LINK_KIND, Busy, Delivery, Message, Reason, Status
from tocsin.net.wires import Wires
from tocsin.ports import engine
from tocsin.ports.queue import Queue, Waiting

LOOK_AGAIN: Micros = 5 * SECOND
READ_AGAIN_SECONDS = 0.5  # until a handler that was changed while it waited is asked for its turn again
log = structlog.get_logger(__name__)


class Delivering:
    """The engine's worker."""

    def __init__(
        self,
        queue: Queue,
        directory: Directory,
        pacer: Pacer,
        wires: Wires,
        keeping: Keeping,
        identities: Identities,
        ask: Callable[[Loaded], object] = bool,
        quotas: Quotas | None = None,
    ) -> None:
        """`ask` is told of handlers whose address has not agreed to what was to be mailed there."""
        self._directory = directory
        self._pacer = pacer
        self._is_shared = pacer.egress is not None
        self._wires = wires
        self._keeping = keeping
        self._identities = identities
        self._ask = ask
        self._quotas = quotas
        self._rooms = Rooms(queue, keeping, directory.service)
        self._tasks: set[asyncio.Task[Any]] = set()  # of attempts that wait for something
        self._reading: set[asyncio.Task[None]] = set()
        self._to_read: set[int] = set()  # handlers that were changed while they waited
        self.terms: Callable[[int], engine.Terms | None] = directory.known_pacing

    # ------------------------------------------------------------------------------------------- what the engine asks

    def holds_back(self, handler_id: int) -> bool:
        return self._keeping.holds_back(handler_id)

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

    def wait(self, handler_id: int) -> float:
        if self._keeping.holds_back(handler_id):
            return STORE_RETRY_SECONDS
        pacing, now = self._directory.pacing(handler_id), time.monotonic()
        return self._pacer.pause_left(handler_id, now) or self._pacer.wait(pacing.credential, pacing.paces, now, pacing.realm).seconds

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

    def cut_waiting(self) -> None:
        for task in self._tasks:
            task.cancel()

    def cut_off(self) -> None:
        self._wires.cut()
        self.cut_waiting()

    # -------------------------------------------------------------------------------------------------- one delivery

    def _was_read(self, job: Waiting, run: engine.Run, task: "asyncio.Task[Loaded | None]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            run.came_back(engine.UNTRIED)
            run.settled(None)
        elif isinstance(error := task.exception(), Busy):
            observe.seldom(log.warning, "handlers.not_read", why=str(error))
            self._look_again(job.delivery, run)
        elif error is not None:
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
            unwanted = _unwanted(job, loaded, now)
            message = _as_meant(notification.message, notification.send_at) if notification.send_at is not None else notification.message
            if loaded.address and unwanted is None:
                message, unwanted = self._agreed(delivery, message, loaded, now)
            context = context_of(loaded, self._rooms.settings, now, self._identities.identity(delivery.id), delivery=delivery)
        except Exception as error:  # noqa: BLE001  # whatever it was, it is in the log
            observe.seldom(log.error, "attempt.failed", delivery=delivery.id, exc_info=error)
            self._look_again(delivery, run)
            return
        if self._is_shared and loaded.partition not in {None, delivery.partition}:  # it has moved, perhaps to another process
            run.came_back(engine.UNTRIED)
            run.settled(now)
        elif unwanted is not None:
            self._end(run, loaded, unwanted)
        elif loaded.is_sealed:
            self._wait_for_key(delivery, run)
        else:
            Sending(
                loaded,
                message,
                context,
                delivery.part,
                self._wires,
                self._pacer,
                run,
                self._tasks,
                is_alone=is_alone,
                job=job,
                rooms=self._rooms,
            ).start()

    def _agreed(self, delivery: Delivery, message: Message, loaded: Loaded, now: Micros) -> tuple[Message, Decision | None]:
        """Mail goes only to those who have agreed to it; but for the link by which they do, and that only once."""
        links = self._directory.links
        if message.kind == LINK_KIND:
            if not loaded.is_unconfirmed:
                return message, ended_without_attempt(delivery, Status.CANCELLED, Reason.CANCELLED, now)
            if links.can_be_made and not delivery.replays:
                handler = loaded.handler
                return with_link(message, links.confirm(Question(handler.user_id, handler.id, loaded.address, message.at))), None
        elif loaded.is_unconfirmed:
            self._ask(loaded)
        elif loaded.counts_mails and self._is_one_too_many(delivery, message, loaded):
            return message, ended_without_attempt(delivery, Status.SKIPPED, Reason.QUOTA, now)
        else:
            return message, None
        return message, ended_without_attempt(delivery, Status.SKIPPED, Reason.UNCONFIRMED, now)

    def _is_one_too_many(self, delivery: Delivery, message: Message, loaded: Loaded) -> bool:
        """Counted before its first attempt, and before the first one after a replay. What the service itself has to say is no user's."""
        if self._quotas is None or message.kind != "notification" or delivery.step or delivery.throttles:
            return False
        return not self._quotas.mail(loaded.handler.user_id, loaded.address)

    # ---------------------------------------------------------------------------------------------------- not attempted

    def _wait_for_key(self, delivery: Delivery, run: engine.Run) -> None:
        """What none of our keys opens may be opened once the right one is back: it waits as it is, without an attempt."""
        observe.seldom(log.error, "handler.sealed", handler=delivery.handler_id, why="no key of the service opens its settings")
        now = time.monotonic()
        self._pacer.pause(delivery.handler_id, now + LOOK_AGAIN / SECOND, now)
        run.came_back(engine.UNTRIED)
        run.settled(clock.now() + LOOK_AGAIN)

    def _look_again(self, delivery: Delivery, run: engine.Run) -> None:
        """A fault of ours before anything was sent, such as a store that cannot be read: it waits on."""
        self._end(run, None, Decision(replace(delivery, due_at=clock.now() + LOOK_AGAIN), Reason.INTERNAL))

    def _end(self, run: engine.Run, loaded: Loaded | None, decision: Decision) -> None:
        """Keep a decision that was made without an attempt."""
        run.came_back(engine.UNTRIED)
        now = clock.now()
        if decision.due_at is None:  # when it ended, for retention: there is no attempt to go by
            decision = replace(decision, delivery=replace(decision.delivery, due_at=now))
        self._keeping.keep(Ending(decision, None, now, run, loaded))


def _unwanted(job: Waiting, loaded: Loaded, now: Micros) -> Decision | None:
    """How a delivery ends that is not to be attempted, or until when it waits."""
    delivery, handler = job.delivery, loaded.handler
    if not handler.is_enabled:
        if handler.disabled_reason:
            return ended_without_attempt(delivery, Status.FAILED, Reason.HANDLER_DISABLED, now, handler.disabled_reason)
        return ended_without_attempt(delivery, Status.SKIPPED, Reason.HANDLER_PAUSED, now)
    if job.has_expired(now):
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
