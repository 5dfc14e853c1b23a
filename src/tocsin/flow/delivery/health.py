"""What becomes of a handler: moved to a new address, or switched off, with its owner told by `notices`."""

from collections.abc import Mapping

import structlog
from msgspec.structs import replace

from tocsin import clock
from tocsin.clock import SECOND, Micros
from tocsin.flow.delivery.notices import Notices
from tocsin.flow.delivery.settle import error_text
from tocsin.flow.directory import Directory, Loaded, load
from tocsin.flow.mail_health import MailHealth
from tocsin.flow.words import beside, sentence, span
from tocsin.model import Delivery, Reason, Status
from tocsin.ports.engine import Engine
from tocsin.ports.handlers import HandlerChange, HandlerEvent, HandlerRows, SwitchOff
from tocsin.ports.queue import Queue
from tocsin.settings import Settings
from tocsin.vault import Vault

ROWS_AT_ONCE = 2000  # deliveries ended in one write, so that a long backlog does not hold up other writes
_REACHING = {Reason.DNS, Reason.CONNECT, Reason.TIMEOUT}  # failures that a dead network of our own looks like

log = structlog.get_logger(__name__)


async def end_waiting(queue: Queue, engine: Engine, handler_id: int, status: Status, reason: Reason, detail: str = "") -> None:
    """End all waiting deliveries of a handler, in steps; what is in flight may still arrive. Those that failed have to say why."""
    error = error_text(reason, detail or sentence(reason)) if status is Status.FAILED else None
    engine.forget_handler(handler_id)
    while await queue.end_pending(handler_id, status, reason, ROWS_AT_ONCE, error):
        pass
    engine.forget_handler(handler_id)


async def end_stopped(queue: Queue, engine: Engine) -> None:
    """At the start: end what a crash left waiting for handlers that were paused, switched off or deleted just before it."""
    for handler_id, status, reason in await queue.stopped_handlers():
        await end_waiting(queue, engine, handler_id, status, reason)


class Health:
    """What attempts say of a handler, and what the service does to it."""

    def __init__(
        self,
        handlers: HandlerRows,
        queue: Queue,
        directory: Directory,
        engine: Engine,
        notices: Notices,
        vault: Vault,
        settings: Settings,
    ) -> None:
        self._handlers = handlers
        self._queue = queue
        self._directory = directory
        self._engine = engine
        self._notices = notices
        self._vault = vault
        self._most_failures = settings.disable_after_failures
        self._least_time = int(settings.disable_after * SECOND)
        self.mail = MailHealth()
        self.answered_at: Micros = 0  # when the last attempt began that a provider answered: so long the network was there

    async def move(self, loaded: Loaded, new_settings: Mapping[str, str]) -> None:
        """Replace settings that the provider says have changed, unless the owner changed the handler meanwhile."""
        handler = loaded.handler
        moved = replace(handler, settings={**handler.settings, **new_settings})
        change = HandlerChange(settings=self._vault.seal(moved.settings), partition=load(moved, self._directory.service).partition)
        event = HandlerEvent(clock.now(), "moved", reason=Reason.MOVED)
        await self._handlers.change(handler.id, change, handler.version, event)
        self._directory.forget(handler.user_id, handler.id)
        log.info("handler.moved", handler=handler.id, type=handler.type)

    async def failed(self, loaded: Loaded, reason: Reason, detail: str, delivery: Delivery) -> None:
        """A delivery failed by the handler's own fault; too many for too long switch the handler off.

        As long as nobody at all answers, it is our own network that is gone.
        """
        if not self._most_failures or (reason in _REACHING and self.answered_at < delivery.first_due_at):
            return
        now = clock.now()
        streak = await self._handlers.count_failure(loaded.handler.id, now)
        lasted = now - (streak.since or now)
        if streak.failures >= self._most_failures and lasted >= self._least_time:
            why = f"{streak.failures} deliveries in a row failed over {span(lasted)}. The last failure: {_met(reason, detail)}"
            await self._switch_off(loaded, reason, why, delivery)

    async def switch_off(self, loaded: Loaded, reason: Reason, detail: str, delivery: Delivery) -> None:
        """The provider says that there is nobody any more."""
        await self._switch_off(loaded, reason, _met(reason, detail), delivery)

    async def _switch_off(self, loaded: Loaded, reason: Reason, why: str, delivery: Delivery) -> None:
        """Disable a dead handler, end what waits for it, tell its owner. Only the first of several attempts in flight does it."""
        handler = loaded.handler
        now = clock.now()
        what = SwitchOff(
            handler.user_id,
            handler.id,
            handler.version,
            HandlerEvent(now, "switched_off", why, reason),
            delivery.notification_id,
            ROWS_AT_ONCE,
            error_text(Reason.HANDLER_DISABLED, why),
        )

        was_ours = await self._handlers.switch_off(what)
        self._directory.forget(handler.user_id, handler.id)
        if was_ours:
            self._notices.due(handler.user_id)
            await end_waiting(self._queue, self._engine, handler.id, Status.FAILED, Reason.HANDLER_DISABLED, why)
            log.warning("handler.switched_off", handler=handler.id, type=handler.type, reason=reason)


def _met(reason: Reason, detail: str) -> str:
    return f"{sentence(reason)} {beside(reason, detail)}".rstrip()
