"""Work comes from the store whenever a lane asks, however the readers end."""

import asyncio
from collections.abc import Iterable, Mapping

import pytest

from conftest import run
from tocsin.engine.lanes import ASKED, COMPLETE, NEW, Lane
from tocsin.engine.refill import Memory, Refill
from tocsin.model import Delivery, Message, Notification, Status
from tocsin.ports.queue import Due, Waiting, Wanted


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


class Full(Store):
    """Has a delivery for every lane, and at the first read says that there are more."""

    async def due(self, wanted: Mapping[int, Wanted], _now: int) -> dict[int, Due]:
        await super().due(wanted, _now)
        return {handler: Due([waiting(handler)], 77, is_more=len(self.reads) == 1) for handler in wanted}


def waiting(handler: int) -> Waiting:
    return Waiting(
        Delivery(handler, handler, handler, 1, Status.PENDING, 5, 5, 5), Notification(handler, 1, Message("hello", at=5), None, None)
    )


def test_what_is_rung_for_after_a_read_shares_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.engine.refill.LINGER_SECONDS", 0.5)

    async def main() -> None:
        store, lanes, done = Store(), {number: Lane(number, number, NEW) for number in (1, 2, 3)}, asyncio.Event()
        store.goes_on.set()
        filled = {1: asyncio.Event(), 2: asyncio.Event(), 3: done}
        refill = Refill(store, Memory(), lambda *_: None, lambda *_: None, lambda lane: filled[lane.handler_id].set(), lambda _: True)  # type: ignore[arg-type]
        refill.start(Worker())  # type: ignore[arg-type]
        refill.spilled(lanes[1])
        await asyncio.wait_for(filled[1].wait(), 20)  # a lone one does not wait
        for number in (2, 3):
            refill.spilled(lanes[number])
            await asyncio.sleep(0)
        await asyncio.wait_for(done.wait(), 20)
        assert store.reads == [[1], [2, 3]]

    run(main())


@pytest.mark.parametrize("is_ours_again", [False, True])
def test_what_was_being_read_of_a_lane_that_others_send_for_now_is_not_taken(is_ours_again: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even if it is ours again by then: what others have changed meanwhile may come before it."""
    monkeypatch.setattr("tocsin.engine.refill.LINGER_SECONDS", 0)

    async def main() -> None:
        store, lane, ours, added, woken = Full(), Lane(1, 1, NEW), {1}, list[int](), list[int]()

        def add(lane: Lane, job: Waiting) -> None:
            added.append(job.delivery.id)
            lane.known.add(job.delivery.id)

        refill = Refill(
            store,  # type: ignore[arg-type]
            Memory(),
            add,
            lambda _, at: woken.append(at),
            lambda _: None,
            lambda lane: lane.handler_id in ours,
        )
        refill.start(Worker())  # type: ignore[arg-type]
        refill.spilled(lane)
        while not store.reads:
            await asyncio.sleep(0)
        refill.disowned(lane)
        ours.clear()
        if is_ours_again:
            ours.add(1)
        store.goes_on.set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert store.reads[:2] == ([[1], [1]] if is_ours_again else [[1]])
        assert added == ([1] if is_ours_again else [])
        assert bool(woken) is is_ours_again
        assert is_ours_again or lane.supply == COMPLETE

    run(main())
