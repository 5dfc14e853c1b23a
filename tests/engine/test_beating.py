"""A worker among the others while it joins them."""

import asyncio
from typing import Any

from conftest import run
from tocsin.engine.beating import Beating
from tocsin.engine.server_clock import Times
from tocsin.ports.workers import Beat, Introduction, Load, Member

WHO = Introduction("one", "worker", "http://one", "", "1.0")


class Others:
    """The store, in which this worker is alone; its first life was given up before its first beat."""

    def __init__(self) -> None:
        self.worker_id = 0

    async def join(self, *_: object) -> int:
        self.worker_id += 1
        return self.worker_id

    async def beat(self, worker_id: int, *_: object) -> Beat | None:
        return None if worker_id == 1 else Beat([Member(worker_id, WHO, 1, worker_id, False, 0, Load())], 1, 0, 0)


class Engine:
    """What it owns, which is nothing, and what is under way, which is nothing either."""

    worker_id = 0
    is_leaving = False

    def join(self, worker_id: int) -> None:
        self.worker_id = worker_id

    def lost(self) -> None:
        self.worker_id = 0

    def load(self) -> Load:
        return Load()

    def joined(self) -> None: ...

    def saw(self, beat: Beat) -> None: ...

    def fenced(self) -> None: ...

    def is_still(self, _seconds: float) -> bool:
        return True


def test_who_is_given_up_while_it_joins_has_joined_once_it_joins_again() -> None:
    """As where the machine stood still meanwhile: its start waits for that."""

    async def main() -> None:
        engine: Any = Engine()
        others: Any = Others()
        beating = Beating(others, WHO, Times(follow=lambda _: None), engine, engine, lambda _: None)
        await beating.join()
        start = asyncio.create_task(beating.has_joined())
        beats = asyncio.create_task(beating.always())
        await asyncio.wait_for(start, 20)
        assert (beating.is_in, beating.times_fenced, others.worker_id) == (True, 1, 2)
        beats.cancel()

    run(main())
