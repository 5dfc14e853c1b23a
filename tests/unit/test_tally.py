"""Counts by the hour: the buckets of latencies, what is summed up of them, and that a busy store loses none."""

import asyncio

import pytest

from conftest import run
from support.store import OpenStore
from tocsin import clock
from tocsin.clock import HOUR, Micros
from tocsin.flow.delivery.tally import BUCKETS, HANDLERS_AT_ONCE, Tally, bucket, percentile, summarize
from tocsin.model import Busy, Status
from tocsin.ports.handlers import HandlerChange
from tocsin.ports.standings import HandlerHour


@pytest.mark.parametrize(
    ("ms", "expected"), [(0, 0), (1, 1), (2, 3), (3, 4), (4, 5), (5, 5), (6, 6), (7, 6), (8, 7), (1000, 20), (86_400_000, 53), (10**12, 53)]
)
def test_a_latency_falls_into_its_bucket(ms: int, expected: int) -> None:
    assert bucket(ms * 1000) == expected


def test_every_bucket_holds_what_is_longer_than_the_one_before() -> None:
    found = [bucket(int(1.03**power * 1000)) for power in range(700)]
    assert found == sorted(found)
    assert set(found) <= set(range(BUCKETS))


@pytest.mark.parametrize("latency", [3_000, 40_000, 700_000, 9_000_000])
def test_a_percentile_is_right_to_about_a_fifth(latency: Micros) -> None:
    latencies = [0] * BUCKETS
    latencies[bucket(latency)] = 100
    found = percentile(latencies, 0.95)
    assert found is not None
    assert 0.8 < found / (latency / 1e6) < 1.25


def test_hours_are_summed_up() -> None:
    hours = [HandlerHour(1, 5, 3, 1, 0, (0, 3)), HandlerHour(1, 6, 5, 0, 1, (1, 0, 4))]
    summary = summarize(hours)
    assert (summary.delivered, summary.failed, summary.expired, summary.success_rate) == (8, 1, 1, 0.8)
    nothing = summarize([])
    assert (nothing.delivered, nothing.success_rate, nothing.p50, nothing.p95) == (0, None, None, None)


def test_counts_are_added_to_the_store(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await store.handlers.add(1, HandlerChange("webhook", "a", b"", None, is_enabled=True), 1)
            now = clock.now() // HOUR
            tally = Tally(store.standings)
            for _ in range(2):
                tally.delivered([(handler, 5_000)])
                tally.ended(handler, Status.FAILED)
                tally.ended(handler, Status.EXPIRED)
                await tally.keep()
            await tally.keep()  # nothing new
            kept = await store.standings.hours([handler], 0)
            assert sum(one.delivered for one in kept) == 2
            assert sum(one.failed for one in kept) == sum(one.expired for one in kept) == 2
            assert all(one.hour >= now for one in kept)
            assert sum(one.latencies[bucket(5_000)] for one in kept) == 2

    run(main())


@pytest.mark.parametrize("error", [Busy("full"), ValueError("a rule")])
def test_what_a_store_does_not_take_is_counted_still(error: Exception) -> None:
    class Full:
        is_busy = True
        taken: tuple[HandlerHour, ...] = ()

        async def add_hours(self, hours: list[HandlerHour]) -> None:
            if self.is_busy:
                raise error
            self.taken = tuple(hours)

    async def main() -> None:
        store = Full()
        tally = Tally(store)  # pyright: ignore[reportArgumentType]
        tally.delivered([(7, 1_000)])
        with pytest.raises(type(error)):
            await tally.keep()
        tally.delivered([(7, 1_000)])
        store.is_busy = False
        await tally.keep()
        assert [(one.handler_id, one.delivered, one.latencies[1]) for one in store.taken] == [(7, 2, 2)]

    asyncio.run(main())


def test_a_stop_while_the_store_takes_some_loses_none_of_the_others() -> None:
    class Slow:
        taken: list[HandlerHour]

        def __init__(self) -> None:
            self.taken, self.began = [], asyncio.Event()

        async def add_hours(self, hours: list[HandlerHour]) -> None:
            self.taken += hours
            if not self.began.is_set():
                self.began.set()
                await asyncio.Event().wait()

    async def main() -> None:
        store = Slow()
        tally = Tally(store)  # pyright: ignore[reportArgumentType]
        tally.delivered([(handler, 1_000) for handler in range(1, HANDLERS_AT_ONCE + 11)])
        keeping = asyncio.create_task(tally.keep())
        await store.began.wait()
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping
        await tally.keep()
        assert sorted((one.handler_id, one.delivered) for one in store.taken) == [(n, 1) for n in range(1, HANDLERS_AT_ONCE + 11)]

    asyncio.run(main())
