"""A worker asks another, which alone can do it: its answer, or none in time."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import psycopg
import pytest

from conftest import run
from support.postgresql import database_of
from support.shared import joined, shared
from support.store import OpenStore
from tocsin.ports.asks import NotAnswered
from tocsin.store import asks

QUESTION = bytes(range(256)) * 300


def rows(tmp_path: Path) -> int:
    with psycopg.connect(database_of(tmp_path)) as other:
        [(count,)] = other.execute("SELECT count(*) FROM asks").fetchall()
        return count


def questions(tmp_path: Path) -> list[bytes]:
    with psycopg.connect(database_of(tmp_path)) as other:
        return [question for (question,) in other.execute("SELECT question FROM asks")]


async def is_begun(asking: Coroutine[Any, Any, bytes]) -> bool:
    """Of a question that is not answered: whether it was read."""
    with pytest.raises(NotAnswered) as found:
        await asking
    return found.value.is_begun


def test_what_is_asked_is_answered_and_nothing_is_left(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), (_, other)]:
            first, second = await joined(one), await joined(other, "other")
            heard: list[bytes] = []

            async def answer(question: bytes) -> bytes:
                heard.append(question)
                return question[::-1]

            one.asks.answer_with(answer)
            other.asks.answer_with(answer)
            assert await one.asks.ask(second, QUESTION, 10.0) == QUESTION[::-1]
            assert await other.asks.ask(first, b"back", 10.0) == b"kcab"
            assert await one.asks.ask(first, b"myself", 10.0) == b"flesym"
            found = await asyncio.gather(*(one.asks.ask(second, b"%d" % n, 10.0) for n in range(12, 30)))
            assert found == [b"%d" % n if n % 11 == 0 else (b"%d" % n)[::-1] for n in range(12, 30)]
            assert heard[:3] == [QUESTION, b"back", b"myself"] and len(heard) == 21, "each is put once"
            assert rows(tmp_path) == 0

    run(main())


def test_who_is_not_there_or_does_not_answer_in_time_gives_no_answer(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), (_, other)]:
            first, second = await joined(one), await joined(other, "other")
            assert await is_begun(one.asks.ask(second + 1, b"nobody", 10.0)) is False
            assert await is_begun(one.asks.ask(second, b"nobody answers", 0.1)) is False

            async def fails(question: bytes) -> bytes:
                raise ValueError(question)

            other.asks.answer_with(fails)
            assert await is_begun(one.asks.ask(second, b"it fails", 0.3)) is True
            assert await other.workers.prune(first, 0)
            assert rows(tmp_path) == 0

    run(main())


@pytest.mark.parametrize("lost", [asks.ASK, asks.ANSWER])
def test_what_was_said_and_not_heard_is_found(open_postgresql: OpenStore, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    async def main() -> None:
        monkeypatch.setattr(asks, "AGAIN_SECONDS", 0.05)
        statement = f"_{lost.upper()}"
        monkeypatch.setattr(asks, statement, getattr(asks, statement).replace("pg_notify(%s,", "(%s ||"))
        async with shared(open_postgresql) as [(_, one), (_, other)]:
            await joined(one)
            second = await joined(other, "other")
            count = 0

            async def answer(question: bytes) -> bytes:
                nonlocal count
                count += 1
                await asyncio.sleep(0.2)  # while it is put again
                return question

            other.asks.answer_with(answer)
            assert await one.asks.ask(second, b"question", 10.0) == b"question"
            assert count == 1

    run(main())


@pytest.mark.parametrize("is_read", [False, True])
def test_who_is_gone_is_not_waited_for(open_postgresql: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_read: bool) -> None:
    async def main() -> None:
        monkeypatch.setattr(asks, "AGAIN_SECONDS", 0.05)
        async with shared(open_postgresql) as [(_, one), (_, other)]:
            await joined(one)
            second = await joined(other, "other")
            was_read = asyncio.Event()

            async def answer(_: bytes) -> bytes:
                was_read.set()
                await asyncio.Event().wait()
                return b"never"

            if is_read:
                other.asks.answer_with(answer)
            asking = asyncio.create_task(is_begun(one.asks.ask(second, b"a secret", 3600.0)))
            if is_read:
                await was_read.wait()
                assert questions(tmp_path) == [b""], "what was read lies nowhere any more"
            assert await one.workers.prune(second, 0)
            assert await asking is is_read
            assert rows(tmp_path) == 0

    run(main())


def test_of_a_question_that_nobody_waits_for_any_more_nothing_stays(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), (_, other)]:
            await joined(one)
            second = await joined(other, "other")
            asking = asyncio.create_task(one.asks.ask(second, b"a secret", 3600.0))
            while rows(tmp_path) == 0:
                await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.wait([asking])
            while rows(tmp_path):
                await asyncio.sleep(0.01)

    run(main())
