"""Who gets a place, counted step by step."""

import asyncio

import pytest

from tocsin.net.turns import Turns


class Room:
    """Notes who comes in; everybody stays until told to leave."""

    def __init__(self, places: int, share: int) -> None:
        self.turns = Turns(places, share)
        self.came: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._leave: dict[str, asyncio.Event] = {}

    async def wants(self, key: int, *names: str) -> None:
        for name in names:
            self._leave[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._stay(key, name))
        await settle()

    async def leaves(self, name: str) -> None:
        self._leave[name].set()
        await settle()

    async def _stay(self, key: int, name: str) -> None:
        await self.turns.take(key)
        try:
            self.came.append(name)
            await self._leave[name].wait()
        finally:
            self.turns.give(key)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_keys_take_turns_and_each_is_first_come_first_served() -> None:
    async def work() -> None:
        room = Room(1, 1)
        await room.wants(1, "a1", "a2", "a3")
        await room.wants(2, "b1")
        await room.wants(3, "c1", "c2")
        for name in ("a1", "a2", "b1", "c1", "a3"):
            await room.leaves(name)
        assert room.came == ["a1", "a2", "b1", "c1", "a3", "c2"]

    asyncio.run(work())


def test_one_key_has_no_more_than_its_share() -> None:
    async def work() -> None:
        room = Room(3, 2)
        await room.wants(1, "a1", "a2", "a3")
        assert room.came == ["a1", "a2"]
        await room.wants(2, "b1", "b2")
        assert room.came == ["a1", "a2", "b1"]
        await room.leaves("a2")
        assert room.came == ["a1", "a2", "b1", "a3"]
        await room.leaves("b1")
        assert room.came == ["a1", "a2", "b1", "a3", "b2"]

    asyncio.run(work())


@pytest.mark.parametrize("moment", ["waiting", "just called"])
def test_who_gives_up_loses_no_place_to_the_others(moment: str) -> None:
    async def work() -> None:
        room = Room(1, 1)
        await room.wants(1, "a1", "a2")
        await room.wants(2, "b1")
        if moment == "just called":
            room._leave["a1"].set()
            await asyncio.sleep(0)  # a1 has left and called a2, who has not come in yet
            assert room.came == ["a1"]
        room.tasks["a2"].cancel()
        await settle()
        await room.leaves("a1")
        assert room.came == ["a1", "b1"]
        await room.leaves("b1")
        await room.wants(1, "a3")
        assert room.came == ["a1", "b1", "a3"]
        assert len(room.turns._waiting) == 0

    asyncio.run(work())
