"""Which partition a handler belongs to, where processes share the store: decided by what its paces count together, and kept with it."""

from tocsin.flow.directory import load, open_handler
from tocsin.partitions import own_root, partition_of
from tocsin.ports.handlers import HandlerRow, HandlerRows
from tocsin.settings import Settings
from tocsin.vault import Vault, WrongKey

HANDLERS_AT_ONCE = 500


async def place_all(handlers: HandlerRows, vault: Vault, service: Settings) -> int:
    """Give a partition to every handler that has none: after an upgrade, or in a store that was moved. How many there were. Raises Busy."""
    count = after = 0
    while rows := await handlers.unplaced(after, HANDLERS_AT_ONCE):
        await handlers.place({row.id: _partition_of(row, vault, service) for row in rows})
        count, after = count + len(rows), rows[-1].id
    return count


def _partition_of(row: HandlerRow, vault: Vault, service: Settings) -> int:
    try:
        found = load(open_handler(row, vault), service).partition
    except WrongKey:  # nothing is sent for it before its settings are opened
        found = None
    return partition_of(own_root(row.id)) if found is None else found
