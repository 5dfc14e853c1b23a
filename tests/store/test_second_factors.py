"""Second factors in the store: what works once works once, for two writers too."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import Connection

from store.test_two_writers import writers  # noqa: F401  # a fixture
from support.store import OpenStore
from support.writers import Writers
from tocsin import upkeep
from tocsin.store import people, second_factors
from tocsin.store.sql import SqlStore
from tocsin.vault import Vault


def in_store(open_store: OpenStore, main: Callable[[SqlStore], Awaitable[None]]) -> None:
    async def run() -> None:
        async with open_store() as store:
            await main(store)

    asyncio.run(run())


def test_a_second_factor_from_its_beginning_to_its_end(open_store: OpenStore) -> None:
    async def main(store: SqlStore) -> None:
        rows = store.second_factors
        assert await rows.of(1) is None
        assert not await rows.renew_codes(1, [b"a"])
        assert await rows.add(1, b"sealed", 100, [b"a", b"b"], 10)
        assert not await rows.add(1, b"another", 100, [b"c"], 11)
        found = await rows.of(1)
        assert found is not None and (found.secret, found.created_at, sorted(found.codes)) == (b"sealed", 10, [b"a", b"b"])
        assert [await rows.use_step(1, step) for step in (99, 100, 101, 101, 100, 103, 102)] == [
            False,
            False,
            True,
            False,
            False,
            True,
            False,
        ]
        assert not await rows.use_step(2, 500)
        assert [await rows.use_code(1, code) for code in (b"a", b"a", b"z")] == [True, False, False]
        assert await rows.renew_codes(1, [b"x", b"y"])
        assert not await rows.use_code(1, b"b")
        assert await rows.remove(1) and not await rows.remove(1)
        assert await rows.of(1) is None and not await rows.use_code(1, b"x")

    in_store(open_store, main)


def test_it_goes_with_its_user(open_store: OpenStore) -> None:
    async def main(store: SqlStore) -> None:
        assert await store.second_factors.add(1, b"sealed", 100, [b"a"], 10)
        await store.database.write(people.delete_user, 1)
        assert await store.second_factors.of(1) is None

    in_store(open_store, main)


ONCE: dict[str, Callable[[Connection], Any]] = {
    "setting it up": lambda c: second_factors._add(c, 1, b"sealed", 100, [b"a"], 10),
    "a code": lambda c: second_factors._use_step(c, 1, 101),
    "a recovery code": lambda c: second_factors._use_code(c, 1, b"a"),
}


@pytest.mark.parametrize("what", ONCE)
def test_two_at_once_are_not_both_let_in(writers: Writers, what: str) -> None:  # noqa: F811
    for at in itertools.count(1):
        writers.alone(lambda c: second_factors.remove(c, 1))
        if what != "setting it up":
            assert writers.alone(ONCE["setting it up"])
        met = writers.both(ONCE[what], ONCE[what], at)
        if met is None:
            assert at > 1
            break
        assert sorted(met) == [False, True], (at, met)


def test_a_new_key_takes_the_secrets_along(writers: Writers) -> None:  # noqa: F811
    old, new = "the key from before", "the key from now on"
    sealed = Vault([old]).seal({"secret": "ABC"})
    writers.alone(lambda c: second_factors._add(c, 1, sealed, 100, [b"a"], 10))
    writers.alone(lambda c: upkeep._rotate_second_factors(c, Vault([new, old]), Vault([new])))
    factor = writers.alone(lambda c: second_factors.of(c, 1))
    assert Vault([new]).open(factor.secret) == {"secret": "ABC"}
    writers.alone(lambda c: upkeep._rotate_second_factors(c, Vault(["another"]), Vault(["another"])))
    assert writers.alone(lambda c: second_factors.of(c, 1)).secret == factor.secret  # no key opens it: it stays
