"""A worker was taken for dead, and its attempt noted as unknown. Then it says what came of it: an arrival counts, the log has the truth."""

from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import func, select

from conftest import run
from support.store import OpenStore, accept_one, add_handler, settled
from tocsin.model import Attempt, Delivery, Reason, Status
from tocsin.ports.queue import Settlement
from tocsin.store import tables
from tocsin.store.sql import SqlStore

FIRST, SECOND = 200, 700  # when the attempts began


def tried(delivery: Delivery, number: int, outcome: str, at: int, **changes: Any) -> Settlement:
    """The delivery as it is after that attempt."""
    reason = {"delivered": Reason.OK, "unknown": Reason.CUT}.get(outcome, Reason.SERVER_ERROR)
    after = replace(delivery, attempt_count=number, last_attempt_at=at, late=False, last_reason=reason, **changes)
    return Settlement(after, Attempt(delivery.id, number, at, 10, outcome, reason, 200, outcome, changes.get("due_at")), at)


def arrived(delivery: Delivery, number: int, at: int) -> Settlement:
    return tried(delivery, number, "delivered", at, status=Status.DELIVERED, part=1)


def unknown(delivery: Delivery, **changes: Any) -> Settlement:
    return tried(delivery, 1, "unknown", FIRST, **{"step": 1, "due_at": 600, "may_have_arrived": True, **changes})


def again(delivery: Delivery, number: int, at: int, due_at: int) -> Settlement:
    return tried(delivery, number, "failed", at, step=number, due_at=due_at)


def refused(delivery: Delivery, number: int, at: int) -> Settlement:
    return tried(delivery, number, "failed", at, status=Status.FAILED)


async def facts(store: SqlStore, delivery: Delivery) -> tuple[Status, int, int, bool, list[tuple[int, str]]]:
    found = await store.history.delivery(1, delivery.id)
    assert found is not None
    row, _, attempts, _ = found
    t = tables.totals
    totals = await store.database.read(lambda c: dict(c.execute(select(t.c.what, func.sum(t.c.n)).group_by(t.c.what)).all()))
    statuses = {what: int(n) for what, n in totals.items() if what < tables.TOTAL_NOTIFICATIONS and n}
    assert statuses == {int(row.status): 1}, "a total is the count of the rows"
    return row.status, row.attempt_count, row.due_at, row.may_have_arrived, [(one.number, one.outcome) for one in attempts]


CASES: dict[str, tuple[Any, list[bool], tuple[Any, ...]]] = {
    "it has arrived": (
        lambda one: [unknown(one), arrived(one, 1, FIRST)],
        [True, True],
        (Status.DELIVERED, 1, 600, False, [(1, "delivered")]),
    ),
    "it has arrived, and was tried again": (
        lambda one: [unknown(one), again(one, 2, SECOND, 900), arrived(one, 1, FIRST)],
        [True, True, True],
        (Status.DELIVERED, 2, 900, False, [(1, "delivered"), (2, "failed")]),
    ),
    "both have arrived": (
        lambda one: [unknown(one), arrived(one, 2, SECOND), arrived(one, 1, FIRST)],
        [True, True, True],
        (Status.DELIVERED, 2, 600, False, [(1, "delivered"), (2, "delivered")]),
    ),
    "it has arrived, and was given up": (
        lambda one: [unknown(one, status=Status.FAILED), arrived(one, 1, FIRST)],
        [True, True],
        (Status.DELIVERED, 1, 600, False, [(1, "delivered")]),
    ),
    "it is to be tried again": (
        lambda one: [unknown(one), again(one, 1, FIRST, 650)],
        [True, True],
        (Status.PENDING, 1, 650, False, [(1, "failed")]),
    ),
    "it was refused": (
        lambda one: [unknown(one), refused(one, 1, FIRST)],
        [True, True],
        (Status.FAILED, 1, 100, False, [(1, "failed")]),
    ),
    "it was refused, and was tried again": (
        lambda one: [unknown(one), again(one, 2, SECOND, 900), refused(one, 1, FIRST)],
        [True, True, False],
        (Status.PENDING, 2, 900, False, [(1, "failed"), (2, "failed")]),
    ),
    "it is to be tried again, and was": (
        lambda one: [unknown(one), again(one, 2, SECOND, 900), again(one, 1, FIRST, 650)],
        [True, True, False],
        (Status.PENDING, 2, 900, False, [(1, "failed"), (2, "failed")]),
    ),
    "its outcome was there before it was noted as unknown": (
        lambda one: [again(one, 1, FIRST, 650), tried(one, 1, "unknown", FIRST + 1, step=1, due_at=600, may_have_arrived=True)],
        [True, False],
        (Status.PENDING, 1, 650, False, [(1, "failed")]),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_worker_says_that_was_taken_for_dead(open_store: OpenStore, case: str) -> None:
    settlements, applied, expected = CASES[case]

    async def main() -> None:
        async with open_store() as store:
            delivery = await accept_one(store, await add_handler(store))
            assert [await settled(store, one) for one in settlements(delivery)] == applied
            assert await facts(store, delivery) == expected

    run(main())


def test_what_ended_by_an_old_view_of_it_is_not_ended(open_store: OpenStore) -> None:
    """Without an attempt: it has expired, as who knew of no attempt saw it."""

    async def main() -> None:
        async with open_store() as store:
            delivery = await accept_one(store, await add_handler(store))
            assert await settled(store, again(delivery, 1, FIRST, 650))
            expired = Settlement(replace(delivery, status=Status.EXPIRED, last_reason=Reason.EXPIRED), None, 700)
            assert not await settled(store, expired)
            assert (await facts(store, delivery))[0] is Status.PENDING
            known = replace(delivery, status=Status.EXPIRED, last_reason=Reason.EXPIRED, attempt_count=1, last_attempt_at=FIRST)
            assert await settled(store, Settlement(known, None, 700))

    run(main())
