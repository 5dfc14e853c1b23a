"""Handlers whose settings no key of the service opens: nothing is sent to them until the operator or their owner does something."""

import asyncio
from bisect import bisect_right
from collections.abc import Sequence

import structlog

from tocsin import observe
from tocsin.flow.directory import Directory
from tocsin.model import Busy
from tocsin.ports.handlers import HandlerRow, HandlerRows
from tocsin.vault import Vault

LOOK_SECONDS = 30.0
HANDLERS_AT_ONCE = 200  # opened in a thread meanwhile: some 10 ms
PAUSE_SECONDS = 0.02
log = structlog.get_logger(__name__)


def is_sealed(settings: bytes | None, secret: bytes | None, vault: Vault) -> bool:
    return not all(vault.opens(one) for one in (settings, secret) if one)


def complaint(count: int) -> str:
    whose, them = ("a handler", "it") if count == 1 else (f"{count:,} handlers", "them")
    return (
        f"No key of the service opens the settings of {whose}, so nothing is sent to {them}: put back the key that they were stored with,"
        " beside the present one, or have them entered again."
    )


class Sealed:
    """All are looked at once, and again when the keys are others; those that are found, now and then until something opens them."""

    def __init__(self, handlers: HandlerRows, directory: Directory, vault: Vault) -> None:
        self._handlers = handlers
        self._directory = directory
        self._vault = vault
        self._is_asked = True
        self._after: int | None = None  # the last of all that was looked at; None: all were
        self._known_after = 0  # the last of those that were found

    def look_again(self) -> None:
        self._is_asked = True

    def complaints(self) -> list[str]:
        found = len(self._directory.sealed)
        return [complaint(found)] if found else []

    async def look_now_and_then(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look()
            except Busy as busy:
                observe.seldom(log.warning, "handlers.not_read", why=str(busy))
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """At all, where that is asked for or was not finished, else at some of those that were found. Raises Busy."""
        if not self._is_asked and self._after is None:
            await self._look_at_known()
        while self._is_asked or self._after is not None:
            self._after, self._is_asked = 0 if self._is_asked else self._after or 0, False
            rows = await self._handlers.after(self._after, HANDLERS_AT_ONCE)
            await self._note([row.id for row in rows], rows)
            self._after = rows[-1].id if rows else None
            await asyncio.sleep(PAUSE_SECONDS)

    async def _look_at_known(self) -> None:
        known = sorted(self._directory.sealed)
        at = bisect_right(known, self._known_after)
        if ids := known[at : at + HANDLERS_AT_ONCE] or known[:HANDLERS_AT_ONCE]:
            await self._note(ids, await self._handlers.rows(ids))
            self._known_after = ids[-1]

    async def _note(self, ids: Sequence[int], rows: Sequence[HandlerRow]) -> None:
        sealed = await asyncio.to_thread(lambda: [row.id for row in rows if is_sealed(row.settings, row.secret, self._vault)])
        self._directory.sealed.difference_update(ids)
        self._directory.sealed.update(sealed)
