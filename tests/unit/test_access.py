"""Keys in memory."""

from asyncio import run

from support.store import OpenStore
from tocsin.flow.people.access import Access
from tocsin.vault import hash_api_key


def test_where_memory_may_be_old_the_store_is_asked_about_every_key(open_store: OpenStore) -> None:
    is_old: list[bool] = []

    async def main() -> None:
        async with open_store() as store:
            key_id = await store.keys.add(1, "script", hash_api_key("tk_one"), "tk_o…", (), 10)
            access = Access(store.keys, lambda: bool(is_old))
            assert await access.caller("tk_one") is not None
            await store.keys.revoke(key_id, 11, 1)
            assert await access.caller("tk_one") is not None, "nobody has said so yet"
            is_old.append(True)
            assert await access.caller("tk_one") is None

    run(main())
