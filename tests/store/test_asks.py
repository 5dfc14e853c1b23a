"""A worker asks another, which alone can do it: its answer, or none in time."""

import asyncio
from pathlib import Path

import psycopg
import pytest

from conftest import run
from support.postgresql import database_of
from support.shared import joined, shared
from support.store import OpenStore
from tocsin.store import asks

QUESTION = bytes(range(256)) * 300


def rows(tmp_path: Path) -> int:
    with psycopg.connect(database_of(tmp_path)) as other:
        [(count,)] = other.execute("SELECT count(*) FROM asks").fetchall()
        return count


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
            assert await one.asks.ask(second + 1, b"nobody", 10.0) is None
            assert await one.asks.ask(second, b"nobody answers", 0.1) is None

            async def fails(question: bytes) -> bytes:
                raise ValueError(question)

            other.asks.answer_with(fails)
            assert await one.asks.ask(second, b"it fails", 0.3) is None
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
