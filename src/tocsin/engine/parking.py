"""Lanes that wait for a place of their wire, until one becomes free or the trickle lets one more start."""

import asyncio
from collections.abc import Callable, Mapping

from tocsin.engine.lanes import Holding, Lane
from tocsin.engine.places import Places


class Parking:
    """`go` is told of each lane that waited and may take its turn now."""

    def __init__(self, wires: Mapping[str, Places], go: Callable[[Lane], None]) -> None:
        self._wires = wires
        self._go = go
        self._trickles: dict[Places, asyncio.TimerHandle] = {}
        self._is_stopped = False

    def stop(self) -> None:
        self._is_stopped = True
        for timer in self._trickles.values():
            timer.cancel()

    def park(self, lane: Lane, places: Places, holding: Holding) -> None:
        """The lane waits for one of the places."""
        places.park(lane, holding)
        if places not in self._trickles and not self._is_stopped:
            self._trickles[places] = asyncio.get_running_loop().call_later(places.bounds.trickle_seconds, self.trickle, places)

    def freed(self, places: Places) -> None:
        """One of the places may be free: for a resting attempt that wants to continue, else for a lane."""
        while places.returning:
            if places.returning.popleft()():
                return
        lane = places.next()
        if lane is not None:
            self._go(lane)

    def pass_on(self, lane: Lane) -> None:
        """The lane does not take a place now: if it was let in, the next one gets the place."""
        if lane.holding is not None:
            places = self._wires[lane.holding.wire]
            if places.asking or places.first:
                self.freed(places)

    def trickle(self, places: Places) -> None:
        """`trickle_seconds` have passed."""
        places.extra()
        self.freed(places)
        if places.asking or places.first:
            self._trickles[places] = asyncio.get_running_loop().call_later(places.bounds.trickle_seconds, self.trickle, places)
        else:
            del self._trickles[places]
