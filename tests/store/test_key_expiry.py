"""Keys that expire, also in memory."""

import pytest

import tocsin.clock
from conftest import run
from support.store import OpenStore
from tocsin.clock import DAY, HOUR, Micros
from tocsin.flow.people.access import Access
from tocsin.vault import hash_api_key


def test_a_key_ends_when_it_expires_also_one_that_is_known_in_memory(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with open_store() as kept:
            now: Micros = tocsin.clock.now()
            monkeypatch.setattr(tocsin.clock, "now", lambda: now)
            for name, expires_at in (("tk_soon", now + HOUR), ("tk_later", now + DAY), ("tk_never", None)):
                await kept.keys.add(1, name, hash_api_key(name), name, (), now, expires_at)
            access = Access(kept.keys)

            async def valid(access: Access) -> list[str]:
                return [name for name in ("tk_soon", "tk_later", "tk_never") if await access.caller(name) is not None]

            assert await valid(access) == ["tk_soon", "tk_later", "tk_never"]
            now += HOUR - 1
            assert await valid(access) == ["tk_soon", "tk_later", "tk_never"]
            now += 1
            assert await valid(access) == ["tk_later", "tk_never"] == await valid(Access(kept.keys))
            now += DAY
            assert await valid(access) == ["tk_never"]
            assert [one.expires_at is None for one in await kept.keys.of(1)] == [False, False, True]

    run(main())
