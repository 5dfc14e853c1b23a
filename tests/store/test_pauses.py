"""Pauses are kept for other processes, which hear of those of realms."""

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest

from conftest import run
from support.postgresql import database_of
from support.shared import joined, shared
from support.store import OpenStore
from tocsin.model import Busy
from tocsin.ports.pauses import Pause
from tocsin.store.noting import NEWS
from tocsin.store.workers import SqlWorkers

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


def test_the_transaction_that_waits_for_disk_and_standby_tells_nobody(
    open_postgresql: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NOTIFY holds a lock until its commit, for which everybody who says anything waits. Others are told after it, if that can be said."""

    async def busy(_: Any) -> None:
        raise Busy("the store is away")

    async def main() -> None:
        async with shared(open_postgresql, 1) as [(_, one)]:
            await joined(one)
            assert isinstance(one.workers, SqlWorkers)
            with psycopg.connect(database_of(tmp_path), autocommit=True) as other:
                other.execute(f"LISTEN {NEWS}")
                realms = [Pause(REALM, NOW + 5, None)]
                with monkeypatch.context() as patch:
                    patch.setattr(one.workers.quick, "run", busy)
                    await one.pauses.begin(realms, NOW)
                other.execute(f"NOTIFY {NEWS}, 'last'")
                assert [notice.payload for notice in other.notifies(stop_after=1)] == ["last"]
                assert await one.pauses.of([], NOW) == realms and len(await one.changes.after(0, 10)) > 0
                await one.pauses.begin(realms, NOW)
                assert [notice.payload for notice in other.notifies(stop_after=1)] == [""]

    run(main())
