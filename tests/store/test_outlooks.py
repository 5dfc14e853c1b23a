"""What a worker knows of its handlers' next starts, said to another process."""

import asyncio
from collections.abc import Sequence

from conftest import run
from support.shared import joined, shared
from support.store import OpenStore
from tocsin.model import Busy
from tocsin.ports.outlooks import Known, Outlook
from tocsin.store.outlooks import AT_ONCE


def test_what_is_known_is_said_of_however_many_handlers(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), (_, other)]:
            first, second = await joined(one), await joined(other, "other")
            large = 1 << 40  # ids with many digits
            kinds: list[Outlook | None] = [None, Outlook(), Outlook(86_400.5), Outlook(0.25, 1)]

            async def answer(handler_ids: Sequence[int]) -> Known:
                return {one: kinds[one % 4] for one in handler_ids}

            other.outlooks.answer_with(answer)
            asked = range(large, large + 3 * AT_ONCE + 1)
            assert await one.outlooks.ask(second, asked, 10.0) == {one: kinds[one % 4] for one in asked}
            one.outlooks.answer_with(answer)
            both = await asyncio.gather(one.outlooks.ask(second, [5], 10.0), other.outlooks.ask(first, [6], 10.0))
            assert both == [{5: kinds[1]}, {6: kinds[2]}]

    run(main())


def test_of_whom_nothing_is_said_in_time_is_left_out(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), (_, other)]:
            await joined(one)
            second = await joined(other, "other")

            async def answer(handler_ids: Sequence[int]) -> Known:
                if 2 in handler_ids:
                    raise Busy("the store is away")
                return {one: Outlook(1.0) for one in handler_ids if one != 3}

            assert await one.outlooks.ask(second, [1], 0.1) == {}, "it has not begun to answer"
            other.outlooks.answer_with(answer)
            assert await one.outlooks.ask(second, [1, 3], 0.5) == {1: Outlook(1.0)}
            assert await one.outlooks.ask(second, [2], 0.1) == {}
            assert await one.outlooks.ask(second + 1, [1], 0.1) == {}, "nobody is there"
            assert await one.outlooks.ask(second, [1], 10.0) == {1: Outlook(1.0)}

    run(main())


def test_what_a_worker_does_not_know_is_said_at_once(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), (_, other)]:
            await joined(one)
            second = await joined(other, "other")

            async def answer(handler_ids: Sequence[int]) -> Known:
                return {one: Outlook(1.0) for one in handler_ids if one == 1}

            other.outlooks.answer_with(answer)
            async with asyncio.timeout(30):  # far less than what is allowed for the answer
                assert await one.outlooks.ask(second, [1, 2, 3], 3600.0) == {1: Outlook(1.0)}
                assert await one.outlooks.ask(second, [2], 3600.0) == {}

    run(main())
