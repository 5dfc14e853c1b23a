"""A few places that many want, given out in turns."""

import asyncio
from collections import Counter, deque


class Turns:
    """`places` in all, `share` of them for one key at most. Keys that wait are served in turns, each first come, first served."""

    def __init__(self, places: int, share: int) -> None:
        self._share = share
        self._places = self._free = places
        self._held: Counter[int] = Counter()
        self._waiting: dict[int, deque[asyncio.Future[None]]] = {}  # the key whose turn is next first

    def resize(self, places: int) -> None:
        """Change the number of places; if more are held, nobody gets another until enough are given back."""
        self._free += places - self._places
        self._places = places
        self._serve()

    async def take(self, key: int) -> None:
        """Wait for a place, and hold it until `give`."""
        if self._free > 0 and self._held[key] < self._share:  # keys that still wait have used up their own share
            self._hold(key)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(key)  # it had the place already: pass it on
            else:
                self._forget(key, turn)
            raise

    def _hold(self, key: int) -> None:
        self._free -= 1
        self._held[key] += 1

    def give(self, key: int) -> None:
        self._free += 1
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
        self._serve()

    def _serve(self) -> None:
        while self._free > 0 and (next_key := self._next()) is not None:
            turns = self._waiting.pop(next_key)
            turn = turns.popleft()
            if turns:
                self._waiting[next_key] = turns  # behind all others
            if not turn.done():
                self._hold(next_key)
                turn.set_result(None)

    def _next(self) -> int | None:
        return next((key for key in self._waiting if self._held[key] < self._share), None)

    def _forget(self, key: int, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(key)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[key]
