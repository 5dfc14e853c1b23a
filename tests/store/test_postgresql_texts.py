"""Texts as PostgreSQL keeps them."""

import pytest
from msgspec.structs import replace

from conftest import run
from support.store import OpenStore, accept_one, add_handler, attempt, delivered, settled
from tocsin.model import Reason, Status
from tocsin.ports.handlers import HandlerEvent, SwitchOff
from tocsin.ports.history import DeliveryFilter
from tocsin.ports.queue import Settlement


@pytest.mark.parametrize(
    "text_", ["plain", "", "NULL", "null", '"', "\\", '\\" {a,b} ,', "a\nb\tc\r", "\U0001f514 끝", "%s %% ?", "{}", " x "]
)
def test_texts_come_back_as_they_were(open_postgresql: OpenStore, text_: str) -> None:
    async def main() -> None:
        async with open_postgresql() as store:
            one = await accept_one(store, await add_handler(store))
            refused = replace(attempt(one, outcome="retry", reason=Reason.SERVER_ERROR), response=text_, detail=text_)
            assert await settled(store, Settlement(replace(one, last_error=text_, step=1, attempt_count=1), refused, 200))
            found = await store.history.delivery(1, one.id)
            assert found is not None
            assert (found[0].last_error, found[2][0].response, found[2][0].detail) == (text_, text_, text_)

    run(main())


def test_an_answer_with_a_character_that_the_server_cannot_hold_is_kept_all_the_same(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with open_postgresql() as store:
            one = await accept_one(store, await add_handler(store))
            assert await settled(store, replace(delivered(one), attempt=replace(attempt(one), response="a\0b")))
            found = await store.history.delivery(1, one.id)
            assert found is not None and found[2][0].response == "a\N{REPLACEMENT CHARACTER}b"

    run(main())


def test_what_people_look_for_may_hold_that_character_too_and_so_may_what_a_provider_says(open_postgresql: OpenStore) -> None:
    async def main() -> None:
        async with open_postgresql() as store:
            handler = await add_handler(store)
            one = await accept_one(store, handler)
            failed = replace(one, status=Status.FAILED, attempt_count=1, last_error="gone: a\0b", last_reason=Reason.GONE)
            assert await settled(store, Settlement(failed, attempt(one, outcome="refused", reason=Reason.GONE), 200))
            assert (await store.history.deliveries(1, DeliveryFilter(search="a\0b"), 1, 25)).total == 1
            assert (await store.history.deliveries(1, DeliveryFilter(search="b\0a"), 1, 25)).total == 0
            assert await store.users.person("a\0@b") is None
            off = HandlerEvent(300, "switched_off", "Nobody is there. a\0b", Reason.GONE)
            assert await store.handlers.switch_off(SwitchOff(1, handler, 1, off, one.notification_id, 10, "handler_disabled: a\0b"))
            facts = await store.standings.facts(handler, 0)
            assert [event.detail for event in facts.events] == ["Nobody is there. a\N{REPLACEMENT CHARACTER}b"]

    run(main())
