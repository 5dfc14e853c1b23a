"""One attempt as the engine follows it: its place on the wire, given back while it waits for something else."""

import asyncio
from typing import Protocol

from msgspec import Struct

from tocsin.clock import Micros
from tocsin.engine.lanes import Holding, Lane
from tocsin.engine.places import Places


class Follower(Protocol):
    """The pump, as an attempt reports to it."""

    resting: int
    """Attempts under way that hold no place."""

    def came_back(self, run: "LocalRun", how: int, /) -> None:
        """See `tocsin.ports.engine.Run`."""
        ...

    def settled(self, lane: Lane, delivery_id: int, due_at: Micros | None, /) -> None:
        """See `tocsin.ports.engine.Run`."""
        ...

    def may_go_on(self, lane: Lane, /) -> None:
        """The lane is no longer busy."""
        ...

    def place_freed(self, places: Places, /) -> None:
        """One of the places is free."""
        ...


class LocalRun(Struct, gc=False):
    """See `tocsin.ports.engine.Run`. `size` and `trust` are what the place was taken with."""

    pump: Follower
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
        self.pump.came_back(self, how)

    def settled(self, due_at: Micros | None) -> None:
        self.pump.settled(self.lane, self.delivery_id, due_at)

    def alone(self, is_alone: bool) -> None:
        if self.is_alone != is_alone:
            self.is_alone = is_alone
            self.lane.alone += 1 if is_alone else -1
            if not self.lane.alone:
                self.pump.may_go_on(self.lane)

    def rest(self) -> None:
        self.is_measured = False
        if self.has_place:
            self.has_place = False
            self.pump.resting += 1
            self.places.give_back(self.holding, self.size, self.trust)
            self.pump.place_freed(self.places)

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
        self.pump.resting -= 1
