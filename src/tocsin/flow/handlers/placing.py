"""Handlers get the partition that follows from their settings, where none is known: after an upgrade, or in a store that has moved."""

import structlog

from tocsin.flow.directory import Directory
from tocsin.ports.handlers import HandlerRows

ROWS_AT_ONCE = 500
log = structlog.get_logger(__name__)


async def place_all(handlers: HandlerRows, directory: Directory) -> int:
    """How many. Those that no key of the service opens stay without one. Raises Busy, and may be asked again."""
    after = count = 0
    while rows := await handlers.unplaced(after, ROWS_AT_ONCE):
        after = rows[-1].id
        found = {row.id: partition for row in rows if (partition := directory.partition_of(row)) is not None}
        await handlers.place(found)
        count += len(found)
    if count:
        log.info("handlers.placed", count=count)
    return count
