"""Keys in memory."""

from asyncio import run

import pytest

from support.store import OpenStore
from tocsin.flow.people.access import Access
from tocsin.model import Busy
from tocsin.vault import hash_api_key


def test_nobody_is_recognized_from_memory_that_may_be_old(open_store: OpenStore) -> None:
    is_old: list[bool] = []

    async def main() -> None:
        async with open_store() as store:
            await store.keys.add(1, "script", hash_api_key("tk_one"), "tk_o…", (), 10)
            access = Access(store.keys, lambda: bool(is_old))
            assert await access.caller("tk_one") is not None
            is_old.append(True)
            with pytest.raises(Busy, match="lost touch"):
                await access.caller("tk_one")
            is_old.clear()
            assert await access.caller("tk_one") is not None

    run(main())
