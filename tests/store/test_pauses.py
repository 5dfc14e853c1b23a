"""Pauses are kept for other processes, which hear of those of realms."""

import asyncio

from conftest import run
from support.shared import joined, shared
from support.store import OpenStore
from tocsin.ports.pauses import Pause

NOW = 1_700_000_000_000_000
REALM, OTHER_REALM = "discord@discord.com#1", "discord@discord.com#2"


def test_the_longest_of_each_key_is_kept_until_it_is_over(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), (_, other)]:
            for beside in (one, other):
                await joined(beside)
            short, long, realm = Pause("slack:a", NOW + 5, 3), Pause("slack:b", NOW + 90, 4), Pause(REALM, NOW + 50, None)
            await one.pauses.begin([short, long, realm], NOW)
            await other.pauses.begin([Pause("slack:b", NOW + 10, 4), Pause(REALM, NOW + 60, None)], NOW)
            realm = Pause(REALM, NOW + 60, None)
            assert {*await other.pauses.of([3, 4], NOW)} == {short, long, realm}
            assert {*await other.pauses.of([4, 5], NOW)} == {long, realm}
            assert await other.pauses.of([], NOW) == [realm]
            assert {*await one.pauses.of([3, 4], NOW + 5)} == {long, realm}
            await one.pauses.begin([Pause("slack:c", NOW + 70, 3)], NOW + 60)
            assert {*await one.pauses.of([3, 4], NOW)} == {long, Pause("slack:c", NOW + 70, 3)}, "what was over is gone"

    run(main())


def test_only_those_of_realms_are_told(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with shared(open_postgresql) as [(_, one), (_, other)]:
            for beside in (one, other):
                await joined(beside)
            newest = await other.changes.newest()
            await one.pauses.begin([Pause("slack:a", NOW + 5, 3)], NOW)
            assert await other.changes.newest() == newest
            await one.pauses.begin([Pause(REALM, NOW + 5, None)], NOW)
            assert [change.what for change in await other.changes.after(newest, 10)] == ["pause"]

            realms = [Pause(key, NOW + 9, None) for key in (REALM, OTHER_REALM)]
            await asyncio.gather(*(beside.pauses.begin(some, NOW) for beside in (one, other) for some in (realms, realms[::-1])))
            assert {*await one.pauses.of([], NOW)} == {*realms}

    run(main())
