"""Which attempts are under way, recorded so that a killed process leaves a trace: a small file mapped into memory.

Writing a slot costs about a microsecond and no system call; the kernel keeps the page when the process dies. After a power cut the
file may be stale; attempts that were under way are then simply repeated. The content of the file is not trusted: readers compare it with
the rows.
"""

import struct
from pathlib import Path

from tocsin.clock import Micros
from tocsin.engine.mapped import content, is_on_disk, mapped
from tocsin.model import Delivery
from tocsin.ports.ledger import UnderWay

SLOTS = 16_384
_SLOT = struct.Struct("<qIIq")  # delivery id (0: free), attempt number, replays, started at
_ID = struct.Struct("<q")


class Ledger:
    """Raises StoreError if its file cannot be used."""

    def __init__(self, path: Path) -> None:
        found = content(path, SLOTS * _SLOT.size)
        whole = found[: len(found) - len(found) % _SLOT.size]  # a file that was cut off may end within a slot
        self._found = [UnderWay(*entry) for entry in _SLOT.iter_unpack(whole) if entry[0] > 0]
        self._map = mapped(path, SLOTS * _SLOT.size)
        self.is_kept = is_on_disk(path, self._map)
        """Whether it outlives a kill."""
        self._free = list(range(0, len(self._map), _SLOT.size))  # where they begin

    @property
    def found(self) -> list[UnderWay]:
        return self._found

    def clear(self) -> None:
        """What was found has been dealt with; until then it must survive another crash."""
        self._map[:] = bytes(len(self._map))

    def begin(self, delivery: Delivery, number: int, at: Micros) -> int:
        """The slot to be settled afterwards. If there are more attempts than slots, the rest go unrecorded (-1)."""
        if not self._free:
            return -1
        slot = self._free.pop()
        _SLOT.pack_into(self._map, slot, delivery.id, number, delivery.replays, at)
        return slot

    def settled(self, slot: int) -> None:
        if slot >= 0:
            _ID.pack_into(self._map, slot, 0)
            self._free.append(slot)

    def close(self) -> None:
        self._map.close()
