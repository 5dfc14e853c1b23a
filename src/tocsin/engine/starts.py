"""The starts that a pace counts and the pauses that providers asked for, which outlive the process: a file mapped into memory.

A record is 24 bytes: whose it is (64 bits of a hash), since when it counts and until when. It is written before its request goes out,
in about two microseconds and without a system call; the kernel keeps the page when the process dies. Expired records make room for
new ones, so the file grows with the starts that count at the same time, not with the total. Handlers without a pace leave only their
pauses here.

No record counts for longer than it was meant to, whatever the clock did: one from the future counts from now.
"""

import functools
import hashlib
import struct
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from tocsin.clock import SECOND, Micros
from tocsin.engine.mapped import allocated, content, mapped

FIRST_RECORDS = 16_384
MAX_RECORDS = 1 << 20  # 24 MB; beyond that the oldest of the same length are overwritten
MAX_LENGTH: Micros = 86_400 * SECOND
_HEADER = (int.from_bytes(b"tocsin\0s", "little"), 1, 0)  # the first record: the file's form, and that it is complete
_RECORD = struct.Struct("<Qqq")  # whose (0: free), since, until: written in this order, so a record counts as expired until it is complete
_REST = 1  # the lowest bit of the owner


class Starts:
    """Raises StoreError where its file cannot be used. `now`: times are microseconds since 1970."""

    def __init__(self, path: Path, now: Micros) -> None:
        self._path = path
        found = content(path, MAX_RECORDS * _RECORD.size)
        self.is_new = found[: _RECORD.size] != _RECORD.pack(*_HEADER)
        """The past is not fully known: there was no file, or it is damaged."""
        kept = dict(_live(found, now))
        used = max(kept, default=0) + 1
        records = FIRST_RECORDS
        while records < used:
            records *= 2
        self._map = mapped(path, records * _RECORD.size)
        self._can_grow = True
        self._next = used
        self._free = [slot for slot in range(1, used) if slot not in kept]
        self._by_length: dict[Micros, deque[int]] = {}  # slots of starts, by how long they count, oldest first
        self._rests: dict[int, int] = {}
        self._tidy_rests_at = FIRST_RECORDS // 2
        self._kept_starts: dict[int, list[Micros]] = {}
        self._kept_rests: dict[int, Micros] = {}
        self._kept_until: Micros = 0
        self.rests_until: Micros = 0
        """When the last pause that an earlier process was asked for ends; 0: there was none."""
        for slot in sorted(kept, key=lambda one: kept[one][2]):
            self._take_over(slot, *kept[slot])

    def complete(self) -> None:
        """From now on everything that counts is in the file."""
        self.is_new = False
        self._write(0, *_HEADER)

    def close(self) -> None:
        self._map.close()

    # ----------------------------------------------------------------------------------------------- what happens now

    def begin(self, key: str, at: Micros, seconds: float) -> None:
        """Something starts under `key`; it counts for so long."""
        length = min(int(seconds * SECOND), MAX_LENGTH)
        slots = self._by_length.get(length)
        if slots is None:
            slots = self._by_length[length] = deque()
        if slots and self._until(slots[0]) <= at:
            slot = slots.popleft()
        else:
            slot = self._unused()
            if slot < 0:
                if not slots:
                    return
                slot = slots.popleft()
        self._write(slot, _whose(key), at, at + length)
        slots.append(slot)

    def rest(self, key: str, at: Micros, until: Micros) -> None:
        """Nothing may start under `key` before then."""
        whose = _whose(key) | _REST
        slot = self._rests.get(whose, -1)
        if slot < 0:
            if len(self._rests) >= self._tidy_rests_at:
                self._tidy_rests(at)
            slot = self._unused()
            if slot < 0:
                return
            self._rests[whose] = slot
        self._write(slot, whose, at, min(until, at + MAX_LENGTH))

    # --------------------------------------------------------------------------------------- what there was before

    def starts_since(self, key: str, at: Micros) -> list[Micros]:
        """When an earlier process started something under `key`, not before `at`."""
        return [start for start in self._kept_starts.get(_whose(key), ()) if start >= at]

    def rest_until(self, key: str) -> Micros:
        """Until when an earlier process was asked to pause, 0 if it was not. Told only once: the caller keeps it from then on."""
        return self._kept_rests.pop(_whose(key) | _REST, 0)

    def forget_before(self, at: Micros) -> None:
        """Drop what an earlier process left: it has expired by then."""
        if self._kept_until <= at:
            self._kept_starts.clear()
            self._kept_rests.clear()

    # ------------------------------------------------------------------------------------------------------ the slots

    def _take_over(self, slot: int, whose: int, since: Micros, until: Micros) -> None:
        self._write(slot, whose, since, until)  # as it counts now
        self._kept_until = max(self._kept_until, until)
        if whose & _REST:
            self._rests[whose] = slot
            self._kept_rests[whose] = until
            self.rests_until = max(self.rests_until, until)
        else:
            self._by_length.setdefault(until - since, deque()).append(slot)
            self._kept_starts.setdefault(whose, []).append(since)

    def _unused(self) -> int:
        """A free slot; -1: all still count, and the file cannot grow."""
        if self._free:
            return self._free.pop()
        if self._next * _RECORD.size == len(self._map) and not self._grow():
            return -1
        self._next += 1
        return self._next - 1

    def _grow(self) -> bool:
        size = 2 * len(self._map)
        if not self._can_grow or size > MAX_RECORDS * _RECORD.size:
            return False
        try:
            larger = allocated(self._path, size)
        except OSError:  # a full disk; asking again for every start would help nobody
            self._can_grow = False
            return False
        larger[: len(self._map)] = self._map[:]  # if there was no room for the file it was in memory only
        self._map.close()
        self._map = larger
        return True

    def _tidy_rests(self, at: Micros) -> None:
        over = [whose for whose, slot in self._rests.items() if self._until(slot) <= at]
        self._free += [self._rests.pop(whose) for whose in over]
        self._tidy_rests_at = max(FIRST_RECORDS // 2, 2 * len(self._rests))

    def _until(self, slot: int) -> Micros:
        return _RECORD.unpack_from(self._map, slot * _RECORD.size)[2]

    def _write(self, slot: int, whose: int, since: Micros, until: Micros) -> None:
        _RECORD.pack_into(self._map, slot * _RECORD.size, whose, since, until)


def _live(found: bytes, now: Micros) -> Iterator[tuple[int, tuple[int, Micros, Micros]]]:
    """Slots that still count, with their current values. Values that no clock or provider can have meant are damage, and left out."""
    whole = found[: len(found) - len(found) % _RECORD.size]
    for slot, (whose, since, until) in enumerate(_RECORD.iter_unpack(whole)):
        length = until - since
        if slot and whose and 0 < length <= MAX_LENGTH and until > now:
            start = min(since, now)
            yield slot, (whose, start, start + length)


@functools.lru_cache(maxsize=16_384)
def _whose(key: str) -> int:
    """Never 0."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") or 2) & ~_REST or 2
