"""Before a delivery is sent where several processes share the store: noted there that it will be, if it still may be.

Lanes ask at the moment when window, places and pace would let them start, for as many as these let start now. One statement is under
way at a time, and what is asked for meanwhile goes with the next: a lone delivery does not wait, and the busier it is, the more share one.
Only then do they take their turn: one that was taken before a slow answer would bunch the starts of its pace.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import structlog
from msgspec import Struct

from tocsin import observe
from tocsin.engine.lanes import CLAIMING, Lane
from tocsin.model import Busy, Delivery

LINGER_SECONDS = 0.002  # after an answer, before the next is asked for
MAX_CLAIMS = 512  # in one statement, give or take a lane's
HELD_SECONDS = 1.0  # what was claimed longer ago is claimed again before it starts: it may have been cancelled elsewhere
AGAIN_SECONDS = 0.5  # until a store that could not answer is asked again
log = structlog.get_logger(__name__)


class Claimer(Protocol):
    """Who says what this process may send."""

    def owns(self, handler_id: int, /) -> bool:
        """Whether this process sends for that handler now."""
        ...

    async def claim(self, deliveries: Sequence[Delivery], /) -> Collection[int]:
        """The ids of those that may be sent. Raises Busy."""
        ...

    def settled(self, handler_id: int, /) -> None:
        """An attempt of this handler was settled, and no other of it is under way."""
        ...


class _Asked(Struct):
    lane: Lane
    deliveries: list[Delivery]


class Claiming:
    """`go` is told of a lane that may take its turn, `refused` of one with deliveries that may not be sent as they are in memory."""

    def __init__(self, claimer: Claimer, go: Callable[[Lane], None], refused: Callable[[Lane], None]) -> None:
        self.claimer = claimer
        self._go = go
        self._refused = refused
        self._asked: deque[_Asked] = deque()
        self._next: asyncio.Handle | None = None  # the next statement, when it is to begin
        self._is_under_way = False
        self._held: dict[Lane, tuple[set[int], float]] = {}  # what was claimed and has not started, and until when that counts
        self._tasks: set[asyncio.Task[None]] = set()
        self.claimed = 0
        """How many were claimed."""

    def has(self, lane: Lane) -> bool:
        """Whether the lane's next delivery is claimed."""
        held = self._held.get(lane)
        return held is not None and lane.jobs[0].delivery.id in held[0] and asyncio.get_running_loop().time() < held[1]

    def began(self, lane: Lane, delivery_id: int) -> None:
        """What was claimed has been started, or it ends unstarted, claimed or not."""
        held = self._held.get(lane)
        if held is not None:
            held[0].discard(delivery_id)
            if not held[0]:
                del self._held[lane]

    def ask(self, lane: Lane, count: int) -> None:
        """Claim the lane's next deliveries, at least one and at most `count`. It takes its turn after that."""
        lane.state = CLAIMING
        asked = [lane.jobs[index].delivery for index in range(min(max(count, 1), len(lane.jobs)))]
        self._asked.append(_Asked(lane, asked))
        if self._next is None and not self._is_under_way:
            self._next = asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        asked: list[_Asked] = []
        count = 0
        while self._asked and count < MAX_CLAIMS:
            asked.append(self._asked.popleft())
            count += len(asked[-1].deliveries)
        self._next, self._is_under_way = None, True
        task = asyncio.get_running_loop().create_task(self._claim(asked))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._is_under_way = False
        if self._asked:
            self._next = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._begin)

    async def _claim(self, asked: list[_Asked]) -> None:
        try:
            may = await self.claimer.claim([delivery for one in asked for delivery in one.deliveries])
        except Exception as error:  # noqa: BLE001  # whatever it was, it is in the log; the lanes ask again
            why = str(error) if isinstance(error, Busy) else None
            observe.seldom(log.error, "engine.claim_waits", why=why, exc_info=None if why else error)
            for one in asked:
                asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._go, one.lane)
            return
        until = asyncio.get_running_loop().time() + HELD_SECONDS
        for one in asked:
            self._answered(one, may, until)

    def _answered(self, asked: _Asked, may: Collection[int], until: float) -> None:
        """Nothing after one that was refused may start before the store has been read again: what was refused may come first."""
        lane, ids = asked.lane, set[int]()
        for delivery in asked.deliveries:
            if delivery.id not in may:
                break
            ids.add(delivery.id)
        self.claimed += len(ids)
        self._held.pop(lane, None)
        if ids:
            self._held[lane] = (ids, until)
        if len(ids) < len(asked.deliveries):
            self._refused(lane)
        self._go(lane)

    def kept(self, lane: Lane) -> Collection[int]:
        """What the lane has claimed and not started."""
        held = self._held.get(lane)
        return held[0] if held is not None else ()

    def let_go(self, lane: Lane) -> None:
        """Nothing of the lane is started any more."""
        self._held.pop(lane, None)
