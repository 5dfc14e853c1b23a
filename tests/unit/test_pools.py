"""Pools of threads: whose turn it is, how many may wait, and how a job ends that computes for too long."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest
import uvloop

from tocsin.flow import pools
from tocsin.flow.pools import OverBudget, Pool
from tocsin.model import Busy


class Gate:
    """A job that says when it has begun and goes on when it may."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.open.wait(20)


async def held(pool: Pool) -> tuple[Gate, "asyncio.Task[None]"]:
    """The pool's only thread is at work until the gate opens."""
    gate = Gate()
    task = asyncio.ensure_future(pool.run("nobody", gate))
    assert await asyncio.to_thread(gate.begun.wait, 20)
    return gate, task


async def queued(*waiting: Awaitable[Any]) -> list["asyncio.Future[Any]"]:
    """The tasks, each having come as far as it can for now."""
    tasks = [asyncio.ensure_future(one) for one in waiting]
    await asyncio.sleep(0)
    return tasks


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        uvloop.run(test())

    run.__name__ = test.__name__
    return run


@in_loop
async def test_users_take_turns_and_ones_own_go_in_order() -> None:
    pool, done = Pool("test"), list[str]()
    gate, first = await held(pool)
    tasks = await queued(*(pool.run(name[0], done.append, name) for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1")))
    assert pool.waiting == 7
    gate.open.set()
    await asyncio.gather(first, *tasks)
    assert done == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]
    assert pool.waiting == 0
    await pool.close()


@in_loop
async def test_no_more_run_at_once_than_there_are_threads() -> None:
    pool, lock, now, most = Pool("test", threads=2), threading.Lock(), [0], [0]
    both = threading.Barrier(2, timeout=20)

    def job() -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        both.wait()  # never passed by one alone
        with lock:
            now[0] -= 1

    await asyncio.gather(*(pool.run(number, job) for number in range(10)))
    assert (most[0], now[0]) == (2, 0)
    assert sum(thread.name == "tocsin-test" for thread in threading.enumerate()) == 2
    await pool.close()


@in_loop
async def test_results_exceptions_and_context_come_through() -> None:
    pool, said = Pool("test"), ContextVar("said", default="")
    said.set("here")
    assert await pool.run(1, said.get) == "here"
    with pytest.raises(ZeroDivisionError):
        await pool.run(1, divmod, 1, 0)
    with pytest.raises(SystemExit):
        await pool.run(1, exit)
    assert await pool.run(1, int, "7", base=8) == 7
    await pool.close()


@in_loop
async def test_where_too_many_wait_the_one_with_the_most_gives_way() -> None:
    pool, done = Pool("test", max_waiting=4), list[str]()
    gate, first = await held(pool)
    greedy = await queued(*(pool.run("greedy", done.append, f"greedy {number}") for number in range(4)))
    with pytest.raises(Busy):  # its own next one
        await pool.run("greedy", done.append, "greedy 4")
    others = await queued(pool.run("b", done.append, "b"), pool.run("c", done.append, "c"))
    with pytest.raises(Busy):
        await pool.run("greedy", done.append, "greedy 5")
    with pytest.raises(Busy):  # now the greedy one has two, which is as many as b would have
        await pool.run("b", done.append, "b again")
    assert pool.waiting == 4
    gate.open.set()
    ends = await asyncio.gather(first, *greedy, *others, return_exceptions=True)
    assert [type(one) for one in ends] == [type(None)] * 3 + [Busy] * 2 + [type(None)] * 2
    assert done == ["greedy 0", "b", "c", "greedy 1"]
    await pool.close()


@in_loop
async def test_what_is_cancelled_while_it_waits_is_never_begun() -> None:
    pool, done = Pool("test", max_waiting=2), list[str]()
    gate, first = await held(pool)
    cancelled, kept = await queued(pool.run("a", done.append, "cancelled"), pool.run("a", done.append, "kept"))
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert pool.waiting == 1  # its place is free again
    [more] = await queued(pool.run("b", done.append, "more"))
    gate.open.set()
    await asyncio.gather(first, kept, more)
    assert done == ["kept", "more"]
    await pool.close()


@in_loop
async def test_what_is_cancelled_while_it_runs_holds_up_nobody_afterwards() -> None:
    pool = Pool("test")
    gate, first = await held(pool)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    [following] = await queued(pool.run("a", int, "1"))
    assert pool.waiting == 1  # the thread is still at work
    gate.open.set()
    assert await following == 1
    await pool.close()


@in_loop
async def test_closing_refuses_what_waits_and_lets_what_runs_end() -> None:
    pool, done = Pool("test"), list[str]()
    gate, first = await held(pool)
    [waits] = await queued(pool.run("a", done.append, "waits"))
    [closing] = await queued(pool.close())
    with pytest.raises(Busy):
        await waits
    with pytest.raises(Busy):
        await pool.run("a", done.append, "too late")
    gate.open.set()
    await asyncio.gather(first, closing)
    assert not done
    for thread in [one for one in threading.enumerate() if one.name == "tocsin-test"]:
        await asyncio.to_thread(thread.join, 20)
        assert not thread.is_alive()


@in_loop
async def test_what_computes_for_too_long_is_ended_and_the_next_one_runs() -> None:
    pool = Pool("test", budget_seconds=0.02)

    def for_ever() -> None:
        while True:
            try:
                sum(range(100))
            except Exception:  # noqa: BLE001
                continue

    ends = await asyncio.gather(pool.run("a", for_ever), pool.run("b", for_ever), pool.run("a", int, "1"), return_exceptions=True)
    assert [type(one) for one in ends] == [OverBudget, OverBudget, int]
    await pool.close()


@in_loop
async def test_a_budget_is_of_computing_not_of_waiting() -> None:
    pool = Pool("test", budget_seconds=0.01)
    gate, first = await held(pool)
    for _ in range(1000):  # for as long as these take it only waits
        sum(range(1000))
    pool._end_overdue()
    gate.open.set()
    await first
    await pool.close()


@in_loop
async def test_an_interruption_hits_its_own_job_only() -> None:
    """Whenever it comes: some jobs end by themselves just as they are to be ended, and then the next one must not notice."""
    pool = Pool("test", budget_seconds=-1.0)  # over at every look

    def count(to: int) -> int:
        total = 0
        for number in range(to):
            total += number
        return total

    async def end_overdue() -> None:
        while True:
            pool._end_overdue()
            await asyncio.sleep(0)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    ending = asyncio.ensure_future(end_overdue())
    try:
        ends = [await asyncio.gather(pool.run(1, count, 20 * number), return_exceptions=True) for number in range(1000)]
        last = await asyncio.gather(pool.run(1, count, 10**12), return_exceptions=True)
    finally:
        ending.cancel()
        sys.setswitchinterval(interval)
    assert {type(end) for [end] in ends} <= {int, OverBudget}
    assert isinstance(last[0], OverBudget)
    pool._budget_seconds = None
    assert await pool.run(1, count, 500) == sum(range(500))
    await pool.close()


@in_loop
async def test_where_no_thread_can_be_made_jobs_wait_for_one() -> None:
    pool, made = Pool("test"), list[int]()
    start = threading.Thread.start

    class None_left(threading.Thread):
        def start(self) -> None:
            made.append(1)
            if len(made) < 3:
                raise RuntimeError("can't start new thread")
            start(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pools.threading, "Thread", None_left)
        patch.setattr(pools, "THREAD_AGAIN_SECONDS", 0.001)
        assert await asyncio.gather(pool.run("a", int, "1"), pool.run("b", int, "2")) == [1, 2]
    assert len(made) == 3
    await pool.close()


def test_each_event_loop_has_its_own() -> None:
    async def found() -> pools.Pools:
        first = pools.here()
        assert first is pools.here()
        assert await first.pages.run(1, int, "1") == 1
        await pools.close()
        assert pools.here() is not first
        return first

    assert uvloop.run(found()) is not uvloop.run(found())


def test_what_a_pool_has_done_leaves_the_interpreter_as_it_was() -> None:
    """An interruption that was taken back would leave it in a state in which nothing under a profile ends."""
    script = """
import asyncio, cProfile, time
from tocsin.flow.pools import OverBudget, Pool

def busy():
    while True:
        time.thread_time()

async def main():
    pool = Pool("test", budget_seconds=0.05)
    for job in (time.time, busy, time.time):
        try:
            await pool.run("user", job)
        except OverBudget:
            pass
    await pool.close()

asyncio.run(main())
cProfile.Profile().runcall(lambda: [one for one in map(str, range(1000))])
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
