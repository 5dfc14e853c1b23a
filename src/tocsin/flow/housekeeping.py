"""What is done now and then: old rows go in small steps, the use of keys is noted."""

import asyncio

import structlog

from tocsin import observe
from tocsin.flow.accept import IDEMPOTENCY_WINDOW
from tocsin.flow.access import Access
from tocsin.model import SECOND, Busy, Micros
from tocsin.settings import Settings
from tocsin.store import Store

EVERY_SECONDS = 60.0
NOTIFICATIONS_AT_ONCE = 200
PAUSE_SECONDS = 0.05  # between steps, so that sends come first
_DAY: Micros = 86_400 * SECOND

log = structlog.get_logger(__name__)


async def keep_house(store: Store, access: Access, settings: Settings) -> None:
    """Run until cancelled."""
    while True:
        await asyncio.sleep(EVERY_SECONDS)
        try:
            await access.note_use()
            await tidy(store, observe.now() - settings.retention_days * _DAY)
            await store.tidy_handlers(observe.now() - settings.retention_days * _DAY, observe.now() - _DAY)
            await store.forget_idempotency(observe.now() - IDEMPOTENCY_WINDOW)
        except Busy as busy:
            log.warning("housekeeping.waits", why=str(busy))
        except Exception:
            log.exception("housekeeping.failed")  # and it goes on: rows would pile up otherwise


async def tidy(store: Store, before: Micros) -> int:
    """Delete what was accepted before then and is settled; how many notifications went."""
    gone, after = 0, 0
    while after is not None:
        step, after = await store.tidy(before, NOTIFICATIONS_AT_ONCE, after)
        gone += step
        await asyncio.sleep(PAUSE_SECONDS)
    return gone
