"""How long somebody waits who fails to sign in, and how many tries are looked at at once."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from tocsin.flow.people import tries as module
from tocsin.flow.people.tries import MAX_WAITING_TRIES, Counted, Throttled, Tries
from tocsin.model import Busy


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [10_000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def counted(*whose: str) -> Counted:
    return Counted(whose[0], whose[1:])


def wait(tries: Tries, *whose: str) -> float:
    try:
        tries.check(counted(*whose))
    except Throttled as throttled:
        return throttled.seconds
    return 0.0


def test_the_wait_doubles_from_the_sixth_failure_on(clock: list[float]) -> None:
    tries = Tries()
    waits: list[float] = []
    for _ in range(18):
        tries.failed(counted("address", "account"))
        waits.append(wait(tries, "address"))
        clock[0] += waits[-1]
    assert waits == [0.0] * 5 + [2.0**power for power in range(1, 10)] + [900.0] * 4


@pytest.mark.parametrize("api_processes", [1, 2, 3, 7])
def test_all_processes_together_let_through_as_many_guesses_as_one(clock: list[float], api_processes: int) -> None:
    """Of an account, by somebody who asks the process that takes the next guess soonest."""
    alone, together = Tries(), [Tries(lambda: api_processes) for _ in range(api_processes)]

    def guesses(all_of_them: list[Tries]) -> int:
        began, count = clock[0], 0
        while clock[0] < began + 86_400:
            waits = [wait(one, "account") for one in all_of_them]
            clock[0] += min(waits)
            all_of_them[waits.index(min(waits))].failed(counted("account"))
            count += 1
        return count

    assert guesses(together) <= guesses([alone]) + 15 * (api_processes - 1), "some more before the waits are long"


def test_the_share_of_free_tries_follows_how_many_processes_there_are(clock: list[float]) -> None:
    api_processes = 1
    tries = Tries(lambda: api_processes)
    for _ in range(3):
        tries.failed(counted("address", "account"))
    assert wait(tries, "account") == 0.0
    api_processes = 2
    tries.failed(counted("address", "account"))
    assert wait(tries, "account") == 8.0, "the fourth is the second that is over, and each of two looks half as often"
    api_processes = 1
    clock[0] += 8.0
    tries.failed(counted("address", "account"))
    assert wait(tries, "account") == 0.0


def test_the_longest_wait_of_address_and_account_counts(clock: list[float]) -> None:
    tries = Tries()
    for number in range(7):
        tries.failed(counted(f"address {number}", "account"))
    assert (wait(tries, "another address", "account"), wait(tries, "address 1", "another account")) == (4.0, 0.0)


def test_a_success_or_an_hour_of_quiet_forgets(clock: list[float]) -> None:
    tries = Tries()
    for _ in range(7):
        tries.failed(counted("by success", "by time"))
    tries.succeeded(counted("by success"))
    clock[0] += 4.0 + 3600.0
    for whose in ("by success", "by time"):
        tries.failed(counted(whose))
        assert wait(tries, whose) == 0.0, whose


def test_a_success_clears_what_the_same_client_failed_at_the_same_account_and_nothing_else(clock: list[float]) -> None:
    tries = Tries()
    for number in range(4):
        tries.failed(Counted(f"office account {number}", ("office", f"account {number}")))
    for _ in range(3):
        tries.failed(Counted("office own", ("office", "own")))
    assert wait(tries, "office") == 4.0
    for _ in range(4):
        tries.failed(Counted("elsewhere own", ("elsewhere", "own")))
    assert wait(tries, "own") == 4.0
    tries.succeeded(Counted("office own", ("office", "own")))
    assert {name: tries._count(name) for name in ("office", "office own", "own", "elsewhere")} == {
        **{"office": 4, "office own": 0},
        **{"own": 4, "elsewhere": 4},
    }
    assert wait(tries, "office") == wait(tries, "own") == 0.0  # four are within what is free
    tries.succeeded(Counted("office another", ("office", "another")))
    assert tries._count("office") == 4


# ------------------------------------------------------------------------------------------------------ several at once


class Guesses:
    """Attempts that are under way until it is told how they end. `looked_at`: how many have begun, in all."""

    def __init__(self, tries: Tries) -> None:
        self._tries = tries
        self.looked_at = 0
        self.ends: asyncio.Future[bool | Exception | None] = asyncio.get_running_loop().create_future()

    async def guess(self, *whose: str) -> None:
        async with self._tries.one(counted(*whose)) as attempt:
            self.looked_at += 1
            end = await asyncio.shield(self.ends)
            if isinstance(end, Exception):
                raise end
            attempt.is_right = end

    async def begin(self, count: int, *whose: str) -> list["asyncio.Task[None]"]:
        tasks = [asyncio.ensure_future(self.guess(*whose)) for _ in range(count)]
        await settle()
        return tasks

    async def end(self, end: bool | Exception | None) -> None:
        """Those that are under way end like this."""
        ending, self.ends = self.ends, asyncio.get_running_loop().create_future()
        ending.set_result(end)
        await settle()


async def settle() -> None:
    """Whatever can go on by itself has gone on."""
    for _ in range(10):
        await asyncio.sleep(0)


def in_loop(test: Callable[[list[float]], Coroutine[Any, Any, None]]) -> Callable[[list[float]], None]:
    def run(clock: list[float]) -> None:
        uvloop.run(test(clock))

    run.__name__ = test.__name__
    return run


def kinds(ends: list[Any]) -> dict[str, int]:
    names = [type(end).__name__ for end in ends]
    return {name: names.count(name) for name in names}


@in_loop
async def test_of_many_guesses_at_once_only_the_free_ones_are_looked_at(clock: list[float]) -> None:
    guesses = Guesses(tries := Tries())
    tasks = await guesses.begin(60, "address", "account")
    assert guesses.looked_at == 6
    await guesses.end(False)
    assert guesses.looked_at == 6
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert kinds(ends) == {"NoneType": 6, "Throttled": 54}
    assert wait(tries, "address") == 2.0
    clock[0] += 2.0
    await guesses.begin(60, "address", "account")  # from here on one at a time
    assert guesses.looked_at == 7
    await guesses.end(False)
    assert (guesses.looked_at, wait(tries, "account")) == (7, 4.0)


@in_loop
async def test_from_many_addresses_an_account_has_no_more_free_ones(clock: list[float]) -> None:
    guesses = Guesses(Tries())
    for number in range(60):
        await guesses.begin(1, f"address {number}", "account")
    assert guesses.looked_at == 6
    await guesses.begin(1, "address 1", "another account")
    assert guesses.looked_at == 7


@in_loop
async def test_people_who_sign_in_at_once_from_one_address_all_get_in(clock: list[float]) -> None:
    guesses = Guesses(tries := Tries())
    tasks = [task for number in range(20) for task in await guesses.begin(1, "office", f"account {number}")]
    assert guesses.looked_at == 6
    for looked_at in (12, 18, 20):
        await guesses.end(True)
        assert guesses.looked_at == looked_at
    await guesses.end(True)
    assert kinds(await asyncio.gather(*tasks, return_exceptions=True)) == {"NoneType": 20}
    assert not tries._under_way and not tries._waiting


@in_loop
async def test_more_than_may_wait_are_refused_at_once(clock: list[float]) -> None:
    guesses = Guesses(Tries())
    tasks = await guesses.begin(6 + MAX_WAITING_TRIES + 5, "address", "account")
    assert sum(task.done() for task in tasks) == 5


@pytest.mark.parametrize("end", [None, Busy("full"), RuntimeError("a fault of ours")])
def test_what_ends_without_an_answer_counts_neither_way_and_leaves_nothing(clock: list[float], end: Exception | None) -> None:
    async def run() -> None:
        guesses = Guesses(tries := Tries())
        tries.failed(counted("account"))
        tasks = await guesses.begin(6, "address", "account")
        await guesses.end(end)
        await guesses.end(end)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not tries._under_way and not tries._waiting
        assert tries._failed == {"account": (1, clock[0])}

    uvloop.run(run())


@in_loop
async def test_what_is_cancelled_leaves_nothing_whether_it_waited_or_not(clock: list[float]) -> None:
    guesses = Guesses(tries := Tries())
    tasks = await guesses.begin(10, "address", "account")
    for task in (*tasks[6:], *tasks[:6]):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not tries._under_way and not tries._waiting and not tries._failed
    await guesses.begin(1, "address", "account")
    assert guesses.looked_at == 7
