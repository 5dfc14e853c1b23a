"""Who users are elsewhere, in both stores, and for two at once."""

import asyncio
import itertools

import pytest

from store.test_two_writers import writers  # noqa: F401  # a fixture
from support.store import OpenStore
from support.writers import Writers
from tocsin.ports.identities import Arrival, Arrived, Identity
from tocsin.store import identities, people

HERE, ELSEWHERE = Identity("https://id.example", "1"), Identity("https://id.example", "2")


def test_somebody_arrives(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            rows = store.identities
            assert await rows.arrive(HERE, None, True, None, 10) == Arrived(Arrival.UNKNOWN)
            assert await rows.arrive(HERE, "new@example.com", False, None, 10) == Arrived(Arrival.UNKNOWN)
            assert await rows.arrive(HERE, "new@example.com", True, None, 10) == Arrived(Arrival.CREATED, 2)
            assert await rows.arrive(HERE, "renamed@example.com", True, None, 11) == Arrived(Arrival.KNOWN, 2)
            assert await rows.arrive(ELSEWHERE, "NEW@example.com", True, None, 12) == Arrived(Arrival.TAKEN)
            assert await rows.arrive(Identity("https://other.example", "1"), "new@example.com", True, None, 12) == Arrived(Arrival.BOUND, 2)
            assert await rows.arrive(None, "New@example.com", False, None, 12) == Arrived(Arrival.KNOWN, 2)
            assert [user.email for user in await store.users.all()] == ["a@b", "new@example.com"]
            assert await store.database.write(identities.unbind, 2)
            assert await rows.arrive(ELSEWHERE, "new@example.com", True, None, 13) == Arrived(Arrival.BOUND, 2)
            await store.users.disable(2, 14)
            assert await rows.arrive(ELSEWHERE, "new@example.com", True, True, 15) == Arrived(Arrival.DISABLED)
            assert await rows.arrive(None, "new@example.com", True, True, 15) == Arrived(Arrival.DISABLED)
            await store.database.write(people.delete_user, 2)
            assert await rows.arrive(ELSEWHERE, None, False, None, 16) == Arrived(Arrival.UNKNOWN)

    asyncio.run(main())


def test_roles_are_taken_over_but_the_last_administrator_stays_one(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:

            async def roles() -> list[bool]:
                return [user.is_admin for user in await store.users.all()]

            assert await store.identities.arrive(HERE, "a@b", False, False, 10) == Arrived(Arrival.BOUND, 1, keeps_role=True)
            assert await store.identities.arrive(ELSEWHERE, "new@example.com", True, True, 10) == Arrived(Arrival.CREATED, 2)
            assert await roles() == [True, True]
            assert await store.identities.arrive(HERE, None, False, False, 11) == Arrived(Arrival.KNOWN, 1)
            assert await store.identities.arrive(ELSEWHERE, None, False, None, 11) == Arrived(Arrival.KNOWN, 2)
            assert await roles() == [False, True]

    asyncio.run(main())


def test_what_works_once_is_forgotten_when_it_is_too_old_anyhow(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            assert [await store.identities.use_up(one, 10, 20) for one in (b"a", b"a", b"b")] == [True, False, True]
            assert await store.identities.use_up(b"c", 21, 31)
            assert await store.identities.use_up(b"a", 21, 31)  # nobody would ask for it

    asyncio.run(main())


@pytest.mark.parametrize("email", ["a@b", "new@example.com"])
def test_two_who_arrive_at_once_are_one_user(writers: Writers, email: str) -> None:  # noqa: F811
    """And of two different ones with one address, one is bound."""
    for at in itertools.count(1):
        for table in ("identities", "spent"):
            writers.alone(lambda c, table=table: c.exec_driver_sql(f"DELETE FROM {table}"))
        writers.alone(lambda c: c.exec_driver_sql("DELETE FROM users WHERE id > 1"))
        if not writers.is_locking and at > 1:
            break  # SQLite has one transaction at a time; here each statement would be one
        met = writers.both(
            lambda c: identities.arrive(c, HERE, email, True, None, 10),
            lambda c: identities.arrive(c, ELSEWHERE, email, True, None, 10),
            at,
        )
        if met is None:
            break
        assert sorted(one.how.name for one in met)[-1] == "TAKEN", (at, met)
        assert sum(one.user is not None for one in met) == 1
    for at in itertools.count(1):
        met = writers.both(lambda c: identities._use_up(c, b"x", 10, 20), lambda c: identities._use_up(c, b"x", 10, 20), at)
        if met is None:
            break
        assert sorted(met) == [False, True]
        writers.alone(lambda c: c.exec_driver_sql("DELETE FROM spent"))
