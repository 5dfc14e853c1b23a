"""What other processes are asked of a handler's next start, and what is said where one of them cannot be asked."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Collection, Sequence
from types import SimpleNamespace
from typing import Any, cast

from conftest import run
from tocsin.flow.handlers.waits import Hold, WaitsOfOwners
from tocsin.flow.pace import Wait
from tocsin.model import Busy
from tocsin.ports.outlooks import Known, Outlook

Ask = Callable[[int, Sequence[int]], Awaitable[Known]]


class Own:
    """Handlers 1 to 9, each in the partition of its number."""

    async def loaded(self, handler_ids: Collection[int]) -> dict[int, Any]:
        return {one: SimpleNamespace(partition=one, paces=()) for one in handler_ids if one < 10}

    def wait(self, _: Any) -> Wait:
        return Wait(7.0)


class Outlooks:
    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.asked: list[int] = []

    async def ask(self, worker_id: int, handler_ids: Sequence[int], seconds: float) -> Known:
        self.asked.append(worker_id)
        return await self._ask(worker_id, handler_ids)

    def answer_with(self, answer: Callable[[Sequence[int]], Awaitable[Known]]) -> None:
        self.answer = answer


def waits(ask: Ask, worker_id: int = 3) -> tuple[WaitsOfOwners, Outlooks, SimpleNamespace]:
    """The partitions 1, 2 and 3 are those of the workers with the same number, and this process is worker 3."""
    member = [SimpleNamespace(id=one, is_leaving=False, introduction=SimpleNamespace(name=f"w{one}", sends=True)) for one in (1, 2, 3)]
    partitions = SimpleNamespace(worker_id=worker_id, members=member, owner=lambda one: one, fence=lambda: 0.0)
    partitions.sends_for = lambda one: one == partitions.worker_id
    outlooks = Outlooks(ask)
    return WaitsOfOwners(cast(Any, Own()), cast(Any, partitions), cast(Any, outlooks)), outlooks, partitions


async def known(_: int, handler_ids: Sequence[int]) -> Known:
    return {one: Outlook(5.0) for one in handler_ids}


def test_a_process_that_is_no_worker_now_asks_nobody() -> None:
    async def main() -> None:
        made, outlooks, _ = waits(known, worker_id=0)
        assert await made.of([1, 2, 3]) == {}
        assert outlooks.asked == []

    run(main())


def test_nothing_is_said_of_others_by_a_process_that_lost_touch_while_it_asked() -> None:
    async def main() -> None:
        async def ask(worker_id: int, handler_ids: Sequence[int]) -> Known:
            partitions.worker_id = 0
            return {}

        made, _, partitions = waits(ask)
        assert await made.of([1]) == {}

    run(main())


def test_one_owner_that_cannot_be_asked_takes_no_other_s_answer_away() -> None:
    async def main() -> None:
        async def ask(worker_id: int, handler_ids: Sequence[int]) -> Known:
            if worker_id == 1:
                raise Busy("the store is away")
            return await known(worker_id, handler_ids)

        made, outlooks, _ = waits(ask)
        assert await made.of([1, 2, 3]) == {2: Hold(Wait(5.0)), 3: Hold(Wait(7.0))}
        assert sorted(outlooks.asked) == [1, 2]

    run(main())


def test_an_owner_that_does_not_know_is_named() -> None:
    async def main() -> None:
        async def ask(worker_id: int, handler_ids: Sequence[int]) -> Known:
            return {}

        made, _, _ = waits(ask)
        assert await made.of([1]) == {1: Hold(absent="silent", sender="w1")}

    run(main())


def test_a_question_that_fails_when_nobody_waits_any_more_is_no_complaint() -> None:
    async def main() -> None:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        is_put, ends = asyncio.Event(), asyncio.Event()

        async def ask(worker_id: int, handler_ids: Sequence[int]) -> Known:
            is_put.set()
            await ends.wait()
            raise Busy("the store is away")

        made, _, _ = waits(ask)
        asker = asyncio.ensure_future(made.of([1]))
        await is_put.wait()
        asker.cancel()
        await asyncio.wait([asker])
        del asker  # it would keep the question
        ends.set()
        await asyncio.wait(asyncio.all_tasks() - {cast("asyncio.Task[Any]", asyncio.current_task())})
        gc.collect()
        assert complaints == []

    run(main())
