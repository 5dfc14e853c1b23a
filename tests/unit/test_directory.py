"""Handlers in memory: what a change makes be read again."""

from collections.abc import Awaitable, Callable, Sequence

import pytest

from conftest import run
from support.store import OpenStore
from tocsin.flow import directory
from tocsin.flow.directory import Directory
from tocsin.partitions import own_root, partition_of
from tocsin.ports.handlers import HandlerBrief, HandlerChange, HandlerRow, HandlerRows
from tocsin.settings import load
from tocsin.store import people
from tocsin.vault import Vault


class Counted:
    """The store, and how many rows were asked of it."""

    def __init__(self, handlers: HandlerRows) -> None:
        self._handlers = handlers
        self.read: list[int] = []
        self.meanwhile: Callable[[], Awaitable[None]] | None = None  # what happens while rows are read, once

    async def briefs(self, user_id: int) -> list[HandlerBrief]:
        found = await self._handlers.briefs(user_id)
        self.read.append(len(found))
        return found

    async def rows(self, handler_ids: Sequence[int]) -> list[HandlerRow]:
        found = await self._handlers.rows(handler_ids)
        self.read.append(len(found))
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return found


@pytest.mark.parametrize("most", [500, 1])
def test_of_many_handlers_only_what_changed_is_read_again(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(directory, "MAX_CHANGED", most)

    async def main() -> None:
        async with open_store() as store:
            counted = Counted(store.handlers)
            house = Directory(counted, Vault(["a key of sixteen characters"]), load({}))  # pyright: ignore[reportArgumentType]

            async def made() -> int:
                return await store.handlers.add(1, HandlerChange(type="webhook", name="hook", settings=b"", is_enabled=True), 10)

            first, second, third = [await made() for _ in range(3)]
            assert list(await house.briefs(1)) == [first, second, third]
            await store.handlers.change(second, HandlerChange(is_enabled=False, disabled_reason="it is gone"))
            await store.handlers.delete(first, 20)
            fourth = await made()
            for handler in (first, second, fourth):
                house.forget(1, handler)
            gone, homes = "it is gone", {two: partition_of(own_root(two)) for two in (second, third, fourth)}
            wanted = {two: HandlerBrief(two, two != second, gone if two == second else None, home) for two, home in homes.items()}
            assert await house.briefs(1) == wanted and list(await house.briefs(1)) == list(wanted)
            assert counted.read == [3, 3], "of three changed ones only these, or all three that there are"
            house.forget(1, third)
            assert await house.briefs(1) == wanted
            assert counted.read[2:] == [1]
            house.forget_all()
            assert await house.briefs(1) == wanted and counted.read[3:] == [3]

    run(main())


def test_a_handler_that_is_not_known_is_looked_for_among_the_users_own(open_store: OpenStore) -> None:
    """Another process has added it, and this one has not heard of that yet."""

    async def main() -> None:
        async with open_store() as store:
            house = Directory(store.handlers, Vault(["a key of sixteen characters"]), load({}))

            async def made(user: int = 1) -> int:
                return await store.handlers.add(user, HandlerChange(type="webhook", name="hook", settings=b"", is_enabled=True), 10)

            first = await made()
            assert list(await house.briefs(1)) == [first]
            second, deleted = await made(), await made()
            await store.handlers.delete(deleted, 20)
            await store.database.write(people.add_user, "other@example.com", False, 1)
            others = await made(2)
            for unknown in ([others], [deleted], [10**9], []):
                assert not await house.look_for(1, unknown)
            assert list(await house.briefs(1)) == [first]
            assert await house.look_for(1, [10**9, second, others])
            assert list(await house.briefs(1)) == [first, second]

    run(main())


def test_what_changes_while_it_is_read_is_read_once_more(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await store.handlers.add(1, HandlerChange(type="webhook", name="hook", settings=b"", is_enabled=True), 10)
            counted = Counted(store.handlers)
            house = Directory(counted, Vault(["a key of sixteen characters"]), load({}))  # pyright: ignore[reportArgumentType]

            async def paused() -> None:
                await store.handlers.change(handler, HandlerChange(is_enabled=False))
                house.forget(1, handler)

            await house.briefs(1)
            house.forget(1, handler)
            counted.meanwhile = paused
            assert (await house.briefs(1))[handler].is_enabled
            assert not (await house.briefs(1))[handler].is_enabled

    run(main())


def test_a_handler_is_loaded_with_its_users_zone_and_again_when_that_changes(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            vault = Vault(["a key of sixteen characters"])
            house = Directory(store.handlers, vault, load({}))
            settings = vault.seal({"webhook": "https://example.com/"})
            other_user = await store.database.write(people.add_user, "other@example.com", False, 1)
            mine, other = [
                await store.handlers.add(user, HandlerChange(type="webhook", name="hook", settings=settings, is_enabled=True), 10)
                for user in (1, other_user)
            ]

            async def zone(handler: int) -> str:
                await house.prepare([handler])
                cached = house.cached(handler)
                assert cached is not None and cached is await house.loaded(handler)
                return str(cached.zone)

            assert (await zone(mine), await zone(other)) == ("UTC", "UTC")
            before = house.cached(other)
            await store.database.write(people.set_time_zone, 1, "Asia/Kathmandu")
            assert await zone(mine) == "UTC"  # nobody has told it
            house.forget_user(1)
            assert house.cached(mine) is None and house.cached(other) is before and house.known_pacing(mine) is not None
            assert await zone(mine) == "Asia/Kathmandu"
            await store.database.write(people.set_time_zone, 1, "Gone/Away")
            house.forget_user(1)
            assert await zone(mine) == "UTC"

    run(main())


def test_what_was_read_before_the_zone_changed_is_not_kept(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await store.handlers.add(1, HandlerChange(type="webhook", name="hook", settings=b"", is_enabled=True), 10)
            counted = Counted(store.handlers)
            house = Directory(counted, Vault(["a key of sixteen characters"]), load({}))  # pyright: ignore[reportArgumentType]

            async def zone_changed() -> None:
                house.forget_user(1)

            counted.meanwhile = zone_changed
            await house.prepare([handler])
            assert house.cached(handler) is None
            await house.prepare([handler])
            assert house.cached(handler) is not None

    run(main())
