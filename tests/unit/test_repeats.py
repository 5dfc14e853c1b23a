"""One request at a time for each idempotency key, and what a repeated one is answered."""

import asyncio

import pytest
from msgspec.structs import replace

from tocsin import clock
from tocsin.flow.intake.repeats import Repeats
from tocsin.model import Busy, InFlight, Invalid
from tocsin.ports.intake import Idempotency, Remembered

KEY = Idempotency("/api/notifications", "nightly", b"content")
DAY = 86_400_000_000


class Kept:
    """The store's part: what was answered, and when. It can be busy."""

    def __init__(self) -> None:
        self.answers: dict[tuple[int, str, str], tuple[Remembered, int]] = {}
        self.is_busy = False

    async def remembered(self, user_id: int, path: str, key: str, since: int, until: int) -> Remembered | None:
        if self.is_busy:
            raise Busy("the store cannot be read now")
        found, at = self.answers.get((user_id, path, key), (None, 0))
        return found if since <= at <= until else None

    def keep(self, user_id: int, idempotency: Idempotency, *answer: int, at: int) -> None:
        self.answers[user_id, idempotency.path, idempotency.key] = (Remembered(idempotency.content, answer), at)


async def answer_of(repeats: Repeats, user_id: int, idempotency: Idempotency | None) -> tuple[int, ...] | None:
    async with repeats.once(user_id, idempotency) as answer:
        return answer


def test_no_other_with_the_key_is_let_in_meanwhile() -> None:
    async def main() -> None:
        repeats = Repeats(Kept())  # pyright: ignore[reportArgumentType]
        async with repeats.once(1, KEY) as answer:
            assert answer is None
            for other in (KEY, replace(KEY, content=b"other")):
                with pytest.raises(InFlight):
                    await answer_of(repeats, 1, other)
            others = [(2, KEY), (1, replace(KEY, path="/api/notifications/batch")), (1, replace(KEY, key="hourly")), (1, None)]
            assert [await answer_of(repeats, *other) for other in others] == [None] * 4
        assert await answer_of(repeats, 1, KEY) is None

    asyncio.run(main())


def test_requests_without_a_key_never_meet() -> None:
    async def main() -> None:
        repeats = Repeats(Kept())  # pyright: ignore[reportArgumentType]
        async with repeats.once(1, None) as first, repeats.once(1, None) as second:
            assert (first, second) == (None, None)

    asyncio.run(main())


@pytest.mark.parametrize("error", [Busy("the store cannot be written now"), asyncio.CancelledError(), Invalid()])
def test_a_request_that_fails_may_be_sent_again_at_once(error: BaseException) -> None:
    async def main() -> None:
        repeats = Repeats(Kept())  # pyright: ignore[reportArgumentType]
        with pytest.raises(type(error)):
            async with repeats.once(1, KEY):
                raise error
        assert await answer_of(repeats, 1, KEY) is None

    asyncio.run(main())


def test_a_store_that_cannot_be_read_holds_no_key() -> None:
    async def main() -> None:
        kept = Kept()
        repeats = Repeats(kept)  # pyright: ignore[reportArgumentType]
        kept.is_busy = True
        with pytest.raises(Busy):
            await answer_of(repeats, 1, KEY)
        kept.is_busy = False
        assert await answer_of(repeats, 1, KEY) is None

    asyncio.run(main())


def test_the_first_answer_holds_for_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        kept = Kept()
        repeats = Repeats(kept)  # pyright: ignore[reportArgumentType]
        now = 100 * DAY
        kept.keep(1, KEY, 7, 8, at=now)
        for later, expected in ((0, (7, 8)), (DAY, (7, 8)), (DAY + 1, None), (-DAY, (7, 8)), (-DAY - 1, None)):
            monkeypatch.setattr(clock, "now", lambda later=later: now + later)
            assert await answer_of(repeats, 1, KEY) == expected, later
        monkeypatch.setattr(clock, "now", lambda: now)
        for _ in range(2):  # and it is not in flight afterwards
            with pytest.raises(Invalid) as refused:
                await answer_of(repeats, 1, replace(KEY, content=b"other"))
            assert [one.code for one in refused.value.faults] == ["idempotency_mismatch"]
        assert await answer_of(repeats, 2, KEY) is None

    asyncio.run(main())
