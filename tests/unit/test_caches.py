"""What is remembered stays within bounds, and nothing derived from a handler's secrets outlives the handler."""

from collections.abc import Callable

import pytest

from conftest import run
from support.store import OpenStore
from tocsin import caches, vault
from tocsin.caches import Tidied
from tocsin.channels import headers, microsoft_teams, webhook
from tocsin.channels.contract import Pace
from tocsin.engine.lanes import MAX_USERS, Turns
from tocsin.engine.places import Places, http_bounds
from tocsin.flow.directory import FORGET_AGAIN_SECONDS, Directory
from tocsin.flow.pace import MAX_IDLE, Pacer
from tocsin.net.routes import route_of
from tocsin.ports.handlers import HandlerChange
from tocsin.settings import load
from tocsin.vault import Vault


def test_what_is_idle_goes_when_a_dictionary_has_doubled() -> None:
    looks = 0

    def is_idle(key: int, _: str) -> bool:
        nonlocal looks
        looks += 1
        return key % 2 == 0

    tidied: Tidied[int, str] = Tidied(100)
    for key in range(10_000):
        tidied.add(key, "", is_idle)
        assert len(tidied) <= max(100, 2 * (key // 2 + 1))
    assert {key for key in range(10_000) if key % 2} <= set(tidied)
    assert looks <= 4 * 10_000  # however many are kept, each addition looks at few


def test_nothing_is_dropped_that_is_in_use() -> None:
    tidied: Tidied[int, str] = Tidied(10)
    for key in range(1000):
        tidied.add(key, "", lambda *_: False)
    assert len(tidied) == 1000


def test_users_who_were_once_here_leave_nothing_behind() -> None:
    turns: Turns[int] = Turns()
    places = Places(http_bounds(10_000, 1 << 30))
    for user in range(3 * MAX_USERS):
        turns.put(turns.own(user), user)
        assert turns.take() == user
        places.holding(user)
    assert len(turns._users) <= MAX_USERS
    assert len(places._users) <= MAX_USERS


def test_credentials_that_are_used_no_more_leave_no_window_and_no_pause() -> None:
    pacer = Pacer()
    for number in range(3 * MAX_IDLE):
        now = number * 1.0
        assert pacer.take(f"c{number}", (Pace(f"c{number}", 1, 1.0),), now) == 0
        pacer.pause(f"c{number}", now + 1.0, now)
    assert len(pacer._starts) <= MAX_IDLE
    assert len(pacer._paused_until) <= MAX_IDLE


SECRET = "whsec_" + "QUJD" * 11
URL = "https://hooks.example.com/the-secret-path-of-a-handler"
DERIVED = (webhook._begun, webhook._shown, microsoft_teams._shown, route_of, vault._scrubber, headers.of)


def derive() -> None:
    webhook._begun(SECRET)
    webhook._shown(URL)
    microsoft_teams._shown(URL)
    route_of(URL)
    vault.scrub(f"said {URL}", (URL,))
    headers.of("X-Token: abcdef")


def kept() -> list[int]:
    return [cached.cache_info().currsize for cached in DERIVED]  # type: ignore[attr-defined]


def test_what_is_derived_from_secrets_goes_when_a_handler_is_changed_or_deleted(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with open_store() as store:
            directory = Directory(store.handlers, Vault(["a key of sixteen characters"]), load({}))
            caches.forget_secrets()  # what other tests derived
            later: list[tuple[float, Callable[[], object]]] = []
            monkeypatch.setattr(directory, "_later", lambda seconds, call: later.append((seconds, call)))
            for forget in (lambda: directory.forget(1, 1), lambda: directory.forget_deleted(1, 1), directory.forget_all):
                derive()
                assert kept() == [1] * len(DERIVED)
                forget()
                assert kept() == [0] * len(DERIVED)
            derive()  # by an attempt that was in flight
            ((seconds, again),) = later
            assert seconds == FORGET_AGAIN_SECONDS
            again()
            assert kept() == [0] * len(DERIVED)

    run(main())


def test_a_deleted_handler_leaves_nothing_in_memory(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            vault = Vault(["a key of sixteen characters"])
            directory = Directory(store.handlers, vault, load({}))
            sealed = vault.seal({"webhook": URL})
            handler = await store.handlers.add(1, HandlerChange(type="webhook", name="hook", settings=sealed, is_enabled=True), 10)
            assert await directory.loaded(handler) is not None and directory.known_pacing(handler) is not None
            await store.handlers.delete(handler, 20)
            directory.forget_deleted(1, handler)
            assert await directory.loaded(handler) is None
            assert directory.cached(handler) is None and directory.known_pacing(handler) is None

    run(main())
