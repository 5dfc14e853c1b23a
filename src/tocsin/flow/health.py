"""What becomes of a handler: moved to a new address, or switched off, with its owner told once."""

from collections.abc import Mapping

import structlog

from tocsin import observe
from tocsin.engine import Engine
from tocsin.flow.accept import Accepting
from tocsin.flow.directory import Directory, Loaded
from tocsin.flow.words import sentence
from tocsin.model import Draft, Message, Reason, Severity, Status
from tocsin.store import HandlerChange, Store
from tocsin.vault import Vault

ROWS_AT_ONCE = 2000  # deliveries ended in one write, so that a long backlog does not hold up other writes

log = structlog.get_logger(__name__)


async def end_waiting(store: Store, engine: Engine, handler_id: int, status: Status, reason: Reason) -> None:
    """End all waiting deliveries of a handler, in steps; what is in flight may still arrive."""
    engine.forget_handler(handler_id)
    while await store.end_pending(handler_id, status, reason, ROWS_AT_ONCE) == ROWS_AT_ONCE:
        pass
    engine.forget_handler(handler_id)


class Health:
    def __init__(self, store: Store, directory: Directory, engine: Engine, accepting: Accepting, vault: Vault) -> None:
        self._store = store
        self._directory = directory
        self._engine = engine
        self._accepting = accepting
        self._vault = vault

    async def move(self, loaded: Loaded, new_settings: Mapping[str, str]) -> None:
        """Replace settings that the provider says have changed, unless the owner changed the handler meanwhile."""
        handler = loaded.handler
        sealed = self._vault.seal({**handler.settings, **new_settings})
        await self._store.change_handler(handler.id, HandlerChange(settings=sealed), expected_version=handler.version)
        self._directory.forget(handler.user_id, handler.id)
        log.info("handler.moved", handler=handler.id, type=handler.type)

    async def switch_off(self, loaded: Loaded, reason: Reason, detail: str) -> None:
        """Disable a dead handler, end what waits for it, tell its owner. Only the first of several attempts in flight does it."""
        handler = loaded.handler
        why = f"{sentence(reason)} {detail}".strip()
        change = HandlerChange(is_enabled=False, disabled_reason=why)
        was_ours = await self._store.change_handler(handler.id, change, expected_version=handler.version)
        self._directory.forget(handler.user_id, handler.id)
        if not was_ours:
            return
        await end_waiting(self._store, self._engine, handler.id, Status.FAILED, Reason.HANDLER_DISABLED)
        log.warning("handler.switched_off", handler=handler.id, type=handler.type, reason=reason)
        await self._tell(loaded, why)

    async def _tell(self, loaded: Loaded, why: str) -> None:
        handler = loaded.handler
        others: list[int] = []
        for brief in (await self._directory.briefs(handler.user_id)).values():
            if brief.is_enabled and brief.id != handler.id:
                other = await self._directory.loaded(brief.id)
                if other is not None and other.settings is not None and not other.channel.is_public(other.settings):
                    others.append(brief.id)
        if not others:
            return
        message = Message(
            title=f"Handler switched off: {handler.name}"[:256],
            text=f"{why}\n\nNothing more is sent there until you switch it on again.",
            severity=Severity.WARNING,
            fields=(("Handler", handler.name), ("Type", loaded.channel.title), ("Id", str(handler.id))),
            at=observe.now(),
            kind="handler.disabled",
        )
        await self._accepting.accept(handler.user_id, [Draft(message, tuple(others[:1000]))])
