"""Work comes from the store whenever a lane asks, however the readers end."""

import asyncio
from collections.abc import Iterable, Mapping

from conftest import run
from tocsin.engine.lanes import ASKED, COMPLETE, NEW, Lane
from tocsin.engine.refill import Memory, Refill
from tocsin.ports.queue import Due, Wanted


class Store:
    """Answers each read once it is let go on."""

    def __init__(self) -> None:
        self.reads: list[list[int]] = []
        self.goes_on = asyncio.Event()

    async def due(self, wanted: Mapping[int, Wanted], _now: int) -> dict[int, Due]:
        self.reads.append(sorted(wanted))
        await self.goes_on.wait()
        return {handler: Due([], None) for handler in wanted}


class Worker:
    async def prepare(self, _handler_ids: Iterable[int]) -> None:
        pass


def test_a_lane_that_asks_while_both_readers_end_is_read() -> None:
    async def main() -> None:
        store, lanes, done = Store(), {number: Lane(number, number, NEW) for number in (1, 2, 3)}, asyncio.Event()

        def filled(lane: Lane) -> None:
            if lane.handler_id == 1:  # what it makes start may leave another lane low, one turn of the loop later
                asyncio.get_running_loop().call_soon(refill.spilled, lanes[3])
            elif lane.handler_id == 3:
                done.set()

        refill = Refill(store, Memory(), lambda *_: None, lambda *_: None, filled)  # type: ignore[arg-type]
        refill.start(Worker())  # type: ignore[arg-type]
        for number in (1, 2):
            refill.spilled(lanes[number])
            while len(store.reads) < number:
                await asyncio.sleep(0)
        store.goes_on.set()
        await asyncio.wait_for(done.wait(), 20)
        assert lanes[3].supply == COMPLETE != ASKED
        assert store.reads == [[1], [2], [3]]

    run(main())
