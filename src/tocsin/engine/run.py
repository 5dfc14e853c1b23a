"""One attempt as the engine follows it: its place on the wire, given back while it waits for something else."""

import asyncio
from typing import Protocol

from msgspec import Struct

from tocsin.clock import Micros
from tocsin.engine.lanes import Holding, Lane
from tocsin.engine.places import Places


class Follower(Protocol):
    """The engine, as an attempt reports to it."""

    resting: int
    """Attempts under way that hold no place."""

    def came_back(self, run: "LocalRun", how: int, /) -> None: ...
    def settled(self, lane: Lane, delivery_id: int, due_at: Micros | None, /) -> None: ...
    def may_go_on(self, lane: Lane, /) -> None: ...
    def place_freed(self, places: Places, /) -> None: ...


class LocalRun(Struct, gc=False):
    """See `tocsin.ports.engine.Run`. `size` and `trust` are what the place was taken with."""

    engine: Follower
    lane: Lane
    delivery_id: int
    places: Places
    holding: Holding
    size: int
    trust: int
    started: float
    flying: int  # attempts of the lane when it began, including this one
    has_place: bool = True
    is_alone: bool = False
    is_measured: bool = True  # whether its time shows how quickly the handler answers

    def came_back(self, how: int) -> None:
        self.engine.came_back(self, how)

    def settled(self, due_at: Micros | None) -> None:
        self.engine.settled(self.lane, self.delivery_id, due_at)

    def alone(self, is_alone: bool) -> None:
        if self.is_alone != is_alone:
            self.is_alone = is_alone
            self.lane.alone += 1 if is_alone else -1
            if not self.lane.alone:
                self.engine.may_go_on(self.lane)

    def rest(self) -> None:
        self.is_measured = False
        if self.has_place:
            self.has_place = False
            self.engine.resting += 1
            self.places.give_back(self.holding, self.size, self.trust)
            self.engine.place_freed(self.places)

    async def resume(self) -> None:
        """Attempts under way continue before new ones start, regardless of their user's share."""
        if self.has_place:
            return
        if not self.places.are_taken:
            self._take_place()
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def take() -> bool:
            if place.done():  # cancelled meanwhile
                return False
            self._take_place()
            place.set_result(None)
            return True

        self.places.returning.append(take)
        await place

    def _take_place(self) -> None:
        self.trust = self.lane.trust
        self.places.take(self.lane, self.holding, self.size)
        self.has_place = True
        self.engine.resting -= 1
