"""How long somebody waits who fails to sign in."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from argon2 import PasswordHasher

import tocsin.clock
from tocsin.flow import pools
from tocsin.flow.people import accounts
from tocsin.flow.people.accounts import MAX_WAITING_TRIES, Accounts, Throttled, Visitor, _Tries
from tocsin.model import Busy, Invalid
from tocsin.store import people
from tocsin.store.dialects.sqlite import sqlite_engine
from tocsin.store.migrating import migrate
from tocsin.store.sql import SqlStore
from tocsin.vault import hash_password


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [10_000.0]
    monkeypatch.setattr(accounts.time, "monotonic", lambda: now[0])
    return now


def wait(tries: _Tries, *whose: str) -> float:
    try:
        tries.check(*whose)
    except Throttled as throttled:
        return throttled.seconds
    return 0.0


def test_the_wait_doubles_from_the_sixth_failure_on(clock: list[float]) -> None:
    tries = _Tries()
    waits: list[float] = []
    for _ in range(18):
        tries.failed("address", "account")
        waits.append(wait(tries, "address"))
        clock[0] += waits[-1]
    assert waits == [0.0] * 5 + [2.0**power for power in range(1, 10)] + [900.0] * 4


def test_the_longest_wait_of_address_and_account_counts(clock: list[float]) -> None:
    tries = _Tries()
    for number in range(7):
        tries.failed(f"address {number}", "account")
    assert (wait(tries, "another address", "account"), wait(tries, "address 1", "another account")) == (4.0, 0.0)


def test_a_success_or_an_hour_of_quiet_forgets(clock: list[float]) -> None:
    tries = _Tries()
    for _ in range(7):
        tries.failed("by success", "by time")
    tries.succeeded("by success")
    clock[0] += 4.0 + 3600.0
    for whose in ("by success", "by time"):
        tries.failed(whose)
        assert wait(tries, whose) == 0.0, whose


# ------------------------------------------------------------------------------------------------------ several at once


class Guesses:
    """Attempts that are under way until it is told how they end. `looked_at`: how many have begun, in all."""

    def __init__(self, tries: _Tries) -> None:
        self._tries = tries
        self.looked_at = 0
        self.ends: asyncio.Future[bool | Exception | None] = asyncio.get_running_loop().create_future()

    async def guess(self, *whose: str) -> None:
        async with self._tries.one(*whose) as attempt:
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
    guesses = Guesses(tries := _Tries())
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
    guesses = Guesses(_Tries())
    for number in range(60):
        await guesses.begin(1, f"address {number}", "account")
    assert guesses.looked_at == 6
    await guesses.begin(1, "address 1", "another account")
    assert guesses.looked_at == 7


@in_loop
async def test_people_who_sign_in_at_once_from_one_address_all_get_in(clock: list[float]) -> None:
    guesses = Guesses(tries := _Tries())
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
    guesses = Guesses(_Tries())
    tasks = await guesses.begin(6 + MAX_WAITING_TRIES + 5, "address", "account")
    assert sum(task.done() for task in tasks) == 5


@pytest.mark.parametrize("end", [None, Busy("full"), RuntimeError("a fault of ours")])
def test_what_ends_without_an_answer_counts_neither_way_and_leaves_nothing(clock: list[float], end: Exception | None) -> None:
    async def run() -> None:
        guesses = Guesses(tries := _Tries())
        tries.failed("account")
        tasks = await guesses.begin(6, "address", "account")
        await guesses.end(end)
        await guesses.end(end)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not tries._under_way and not tries._waiting
        assert tries._failed == {"account": (1, clock[0])}

    uvloop.run(run())


@in_loop
async def test_what_is_cancelled_leaves_nothing_whether_it_waited_or_not(clock: list[float]) -> None:
    guesses = Guesses(tries := _Tries())
    tasks = await guesses.begin(10, "address", "account")
    for task in (*tasks[6:], *tasks[:6]):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not tries._under_way and not tries._waiting and not tries._failed
    await guesses.begin(1, "address", "account")
    assert guesses.looked_at == 7


# ----------------------------------------------------------------------------------------------- with passwords and rows

EMAIL, PASSWORD = "someone@example.com", "correct horse battery"


def with_accounts(folder: Path, test: Callable[[Accounts], Coroutine[Any, Any, None]], stored: str = "") -> None:
    async def run() -> None:
        engine = sqlite_engine(folder / "tocsin.db")
        migrate(engine)
        store = SqlStore(engine, lambda: None)
        user = await store.database.write(people.add_user, EMAIL, False, tocsin.clock.now())
        assert user is not None
        await store.database.write(people.set_password, user, stored or hash_password(PASSWORD))
        try:
            await test(Accounts(store.users, store.sessions, store.keys, store.second_factors, lambda: None, lambda _: None))
        finally:
            await pools.close()
            await store.close()

    uvloop.run(run())


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passwords that were looked at, each of them really."""
    found: list[str] = []
    check = accounts.check_password

    def counting(hashed: str, password: str) -> bool:
        found.append(password)
        return check(hashed, password)

    monkeypatch.setattr(accounts, "check_password", counting)
    return found


def test_of_sixty_guesses_at_once_six_are_hashed(tmp_path: Path, hashed: list[str]) -> None:
    async def run(accounts: Accounts) -> None:
        guesses = [PASSWORD if number == 30 else f"guess {number}" for number in range(60)]
        ends = await asyncio.gather(*(accounts.sign_in(EMAIL, guess, "192.0.2.1") for guess in guesses), return_exceptions=True)
        assert kinds(ends) == {"NoneType": 6, "Throttled": 54}
        assert sorted(hashed) == guesses[:6]

    with_accounts(tmp_path, run)


def test_a_sign_in_that_finds_the_queue_full_is_refused_and_not_counted(tmp_path: Path, hashed: list[str]) -> None:
    async def run(accounts: Accounts) -> None:
        waiting = [asyncio.ensure_future(accounts.sign_in(f"{number}@example.com", "x", f"192.0.2.{number}")) for number in range(1, 60)]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
        assert any(isinstance(task.exception(), Busy) for task in done)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert await accounts.sign_in(EMAIL, PASSWORD, "192.0.2.1") is not None
        assert len(hashed) < 40

    with_accounts(tmp_path, run)


def test_a_wrong_present_password_is_counted_like_a_sign_in(tmp_path: Path, hashed: list[str]) -> None:
    async def run(accounts: Accounts) -> None:
        visitor = Visitor(1, EMAIL, False)
        changes = [accounts.change_password(visitor, f"guess {number}", "a new password", "192.0.2.1") for number in range(10)]
        assert kinds(await asyncio.gather(*changes, return_exceptions=True)) == {"Invalid": 6, "Throttled": 4}
        with pytest.raises(Throttled):
            await accounts.sign_in(EMAIL, PASSWORD, "192.0.2.2")
        assert len(hashed) == 6

    with_accounts(tmp_path, run)


def test_a_new_password_without_fault_is_taken(tmp_path: Path, hashed: list[str]) -> None:
    async def run(accounts: Accounts) -> None:
        visitor = Visitor(1, EMAIL, False)
        with pytest.raises(Invalid):
            await accounts.change_password(visitor, PASSWORD, "short", "192.0.2.1")
        assert await accounts.change_password(visitor, PASSWORD, "another long one", "192.0.2.1")
        assert await accounts.sign_in(EMAIL, "another long one", "192.0.2.1")
        assert await accounts.sign_in("nobody@example.com", "another long one", "192.0.2.1") is None

    with_accounts(tmp_path, run)


def test_a_hash_of_older_costs_is_made_anew_by_a_sign_in(tmp_path: Path) -> None:
    """Else its account could be told from others by how long a guess takes."""
    old = PasswordHasher(time_cost=3, memory_cost=65_536, parallelism=4).hash(PASSWORD)

    async def run(accounts: Accounts) -> None:
        async def stored() -> str | None:
            person = await accounts._users.person(EMAIL)
            return None if person is None else person.password_hash

        assert await accounts.sign_in(EMAIL, "something else", "192.0.2.1") is None
        assert await stored() == old
        assert await accounts.sign_in(EMAIL, PASSWORD, "192.0.2.1") is not None
        new = await stored()
        assert new is not None
        assert new != old
        assert await accounts.sign_in(EMAIL, PASSWORD, "192.0.2.1") is not None
        assert await stored() == new

    with_accounts(tmp_path, run, old)


def test_a_zone_is_kept_as_the_database_spells_it_and_an_unknown_one_changes_nothing(tmp_path: Path) -> None:
    async def run(accounts: Accounts) -> None:
        changed: list[int] = []
        accounts._user_changed = changed.append

        async def kept() -> str | None:
            person = await accounts._users.person(EMAIL)
            return None if person is None else person.time_zone

        assert await kept() is None
        await accounts.set_time_zone(1, " asia/seoul")
        assert await kept() == "Asia/Seoul"
        for name, said in (
            ("Seoul", "There is no time zone Seoul. Similar names: Asia/Seoul"),
            ("x" * 200, f"There is no time zone {'x' * 100}. Use a name such as Asia/Seoul or Europe/Berlin."),
        ):
            with pytest.raises(Invalid) as refused:
                await accounts.set_time_zone(1, name)
            [fault] = refused.value.faults
            assert fault.parameter == "time_zone" and fault.detail.startswith(said)
        assert await kept() == "Asia/Seoul" and changed == [1]
        await accounts.set_time_zone(1, " ")
        assert await kept() is None and changed == [1, 1]

    with_accounts(tmp_path, run)


def test_two_administrators_who_disable_each_other_at_once_leave_one(tmp_path: Path) -> None:
    async def run(accounts: Accounts) -> None:
        for name in ("first", "second"):
            await accounts.invite(f"{name}@example.com", is_admin=True)
        first, second = [user.id for user in await accounts.users() if user.is_admin]
        disabling = (accounts.disable(Visitor(first, "", True), second), accounts.disable(Visitor(second, "", True), first))
        ends = await asyncio.gather(*disabling, return_exceptions=True)
        assert kinds(ends) == {"NoneType": 1, "Invalid": 1}
        assert [user.disabled_at is None for user in await accounts.users() if user.is_admin].count(True) == 1

    with_accounts(tmp_path, run)
