"""The behaviour of a store, whatever keeps it."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, delete, func, select, text

from conftest import run
from support.store import MESSAGE, OpenStore, accept_one, accepting, add_handler, attempt, delivered, settled
from tocsin.clock import SECOND
from tocsin.model import Busy, Delivery, Message, Notification, Reason, Replay, Severity, Status
from tocsin.ports.errors import WriteFailed
from tocsin.ports.handlers import HandlerChange, HandlerEvent, HandlerFilter, SwitchOff
from tocsin.ports.history import DeliveryFilter
from tocsin.ports.intake import Accept, Accepted, Idempotency, Planned, PlannedDelivery, Remembered
from tocsin.ports.people import Living, Session
from tocsin.ports.queue import Settlement, Wanted
from tocsin.ports.standings import HandlerHour
from tocsin.ports.tidying import START
from tocsin.store import history, people, tables, tidying, values
from tocsin.store.settling import SettleAll
from tocsin.store.writer import MAX_GATHERED


def test_what_is_accepted_is_there_with_its_message(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            first, second = await add_handler(store), await add_handler(store)
            [kept] = await store.intake.accept(accepting(first, second))
            found = await store.history.notification(1, kept.id)
            assert found is not None
            assert found[0].message == MESSAGE
            assert found[1][Status.PENDING] == 2
            due = (await store.queue.due({second: Wanted(10)}, 100))[second]
            assert [job.delivery for job in due.jobs] == [kept.deliveries[1]]
            assert (due.next_due, due.is_more) == (None, False)
            assert await store.history.notification(2, kept.id) is None

    run(main())


def test_a_text_is_read_once_and_long_ones_a_few_at_a_time(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.store.due._TEXTS_AT_ONCE", 2)
    monkeypatch.setattr("tocsin.store.due.MAX_CHARACTERS", 1)

    async def main() -> None:
        async with open_store() as store:
            handlers = [await add_handler(store) for _ in range(3)]
            accepted = [await store.intake.accept(accepting(*these)) for these in (handlers, *[handlers[:1]] * 5)]
            due = await store.queue.due({handler: Wanted(10) for handler in handlers}, 100)
            texts = {id(due[handler].jobs[0].notification) for handler in handlers}
            assert len(texts) == 1  # one notification, however many have it
            assert all(due[handler].jobs for handler in handlers)
            some = due[handlers[0]]
            assert 1 <= len(some.jobs) < 6 and some.is_more
            known: list[int] = []
            while some.is_more:
                known += [job.delivery.id for job in some.jobs]
                some = (await store.queue.due({handlers[0]: Wanted(10, frozenset(known))}, 100))[handlers[0]]
            known += [job.delivery.id for job in some.jobs]
            assert known == [one.deliveries[0].id for [one] in accepted]

    run(main())


def test_many_at_once_share_commits_and_get_their_own_ids(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            answers = await asyncio.gather(*(store.intake.accept(accepting(handler)) for _ in range(300)))
            ids = [one.id for [one] in answers]
            assert sorted(ids) == list(range(1, 301))
            assert (await store.history.notifications(1, 1, 25)).total == 300

    run(main())


def test_a_write_that_fails_takes_no_other_with_it(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            good = [store.intake.accept(accepting(handler)) for _ in range(5)]
            bad = store.intake.accept(replace(accepting(handler), user_id=999_999))
            results = await asyncio.gather(*good, bad, return_exceptions=True)
            assert isinstance(results.pop(), WriteFailed)
            assert [one.deliveries[0].handler_id for [one] in results] == [handler] * 5
            assert (await store.history.notifications(1, 1, 25)).total == 5

    run(main())


def test_of_many_that_arrived_those_that_were_cancelled_or_deleted_meanwhile_are_told_apart(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            rows = [await accept_one(store, handler) for _ in range(5)]
            assert await store.history.cancel(1, rows[1].notification_id) == [rows[1].id]
            lost = delete(tables.deliveries).where(tables.deliveries.c.id == rows[3].id)
            await store.database.write(lambda c: c.execute(lost).rowcount)
            assert await store.database.write(SettleAll.run_all, [delivered(row) for row in rows]) == [True, True, True, False, True]
            totals = {status: (await store.history.deliveries(1, DeliveryFilter(status=status), 1, 25)).total for status in Status}
            assert (totals[Status.DELIVERED], totals[Status.CANCELLED]) == (4, 0)
            assert totals[Status.PENDING] == 1  # of the row that the test deleted
            assert [len((await store.history.delivery(1, row.id) or ((), (), ()))[2]) for row in rows] == [1, 1, 1, 0, 1]

    run(main())


def test_settling_keeps_outcome_attempt_and_totals(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            delivery = await accept_one(store, handler)
            assert await settled(store, replace(delivered(delivery), at=7 * SECOND + 200))
            found = await store.history.delivery(1, delivery.id)
            assert found is not None
            assert found[0].status is Status.DELIVERED
            assert found[2] == [attempt(delivery)]
            assert (await store.history.deliveries(1, DeliveryFilter(status=Status.DELIVERED), 1, 25)).total == 1
            assert (await store.history.deliveries(1, DeliveryFilter(status=Status.PENDING), 1, 25)).total == 0
            row = await store.handlers.get(handler)
            assert row is not None
            assert row.last_delivered_at == 7 * SECOND
            assert await store.queue.waiting_handlers() == []

    run(main())


NOTICE = Message("gone", "Handler switched off", Severity.CRITICAL, "https://example.com/", at=100, kind="handler.disabled")


@pytest.mark.parametrize(
    ("message", "times"),
    [
        (Message("text", "a title", Severity.WARNING, at=100), (None, None)),
        (Message("text", severity=Severity.CRITICAL, at=100), (None, None)),
        (Message("text", url="https://example.com/?a=%27", at=100), (None, None)),
        (MESSAGE, (None, None)),
        (Message("text", at=100), (None, 900)),
        (Message("text", at=100), (500, 900)),
        (NOTICE, (None, None)),
        (Message("*text*", "a title", Severity.WARNING, at=100, is_text=True), (None, None)),
        (Message("*text*", fields=(("a", "b"),), at=100, is_text=True), (500, 900)),
    ],
)
def test_every_kind_of_row_comes_back_as_it_was(open_store: OpenStore, message: Message, times: tuple[int | None, int | None]) -> None:
    async def main() -> None:
        async with open_store() as store:
            due_at = times[0] or 100
            planned = [PlannedDelivery(await add_handler(store), Status.PENDING, due_at)]
            planned.append(PlannedDelivery(await add_handler(store), Status.SKIPPED, due_at, Reason.HANDLER_PAUSED))
            planned.append(PlannedDelivery(await add_handler(store), Status.PENDING, due_at, Reason.THROTTLED))
            [kept] = await store.intake.accept(Accept(1, 100, [Planned(message, *times, tuple(planned))]))
            assert kept.notification == Notification(kept.id, 1, message, *times)
            for one, delivery in zip(planned, kept.deliveries, strict=True):
                expected = Delivery(delivery.id, kept.id, one.handler_id, 1, one.status, due_at, due_at, 100)
                assert delivery == replace(expected, last_reason=one.reason)
                assert await store.history.delivery(1, delivery.id) == (delivery, kept.notification, [], [])
            critical = await store.database.read(
                lambda connection: connection.execute(text("SELECT is_critical FROM deliveries")).scalars().all()
            )
            assert critical == [int(message.severity is Severity.CRITICAL)] * 3

    run(main())


@pytest.mark.parametrize(("provider_id", "detail"), [("4F2A1", None), (None, "250 taken"), ("4F2A1", "250 taken"), (None, None)])
@pytest.mark.parametrize("response", ["ok", None])
def test_what_a_provider_calls_a_message_is_kept(
    open_store: OpenStore, provider_id: str | None, detail: str | None, response: str | None
) -> None:
    async def main() -> None:
        async with open_store() as store:
            one = await accept_one(store, await add_handler(store))
            tried = replace(attempt(one), provider_id=provider_id, detail=detail, response=response)
            assert await settled(store, replace(delivered(one), attempt=tried))
            found = await store.history.delivery(1, one.id)
            assert found is not None and found[2] == [tried]

    run(main())


@pytest.mark.parametrize(("number", "part", "late"), [(1, 1, False), (2, 1, False), (1, 3, False), (1, 1, True), (7, 5, True)])
def test_every_arrival_is_kept_as_it_was(open_store: OpenStore, number: int, part: int, late: bool) -> None:
    async def main() -> None:
        async with open_store() as store:
            before = await accept_one(store, await add_handler(store))
            waits = replace(before, attempt_count=number - 1, throttles=2, may_have_arrived=True, last_error="x", last_reason=Reason.CUT)
            assert await settled(store, Settlement(waits, None, 150))
            arrived = replace(before, status=Status.DELIVERED, attempt_count=number, last_attempt_at=200, late=late, part=part)
            arrived = replace(arrived, last_reason=Reason.OK)
            assert await settled(store, Settlement(arrived, attempt(before, number), 200))
            found = await store.history.delivery(1, before.id)
            assert found is not None
            assert found[0] == arrived
            assert found[2] == [attempt(before, number)]

    run(main())


def test_an_arrival_that_had_to_wait_does_not_set_the_last_one_back(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            newer, older = await accept_one(store, handler), await accept_one(store, handler)
            both = settled(store, replace(delivered(newer), at=3 * SECOND)), settled(store, replace(delivered(older), at=2 * SECOND))
            assert await asyncio.gather(*both) == [True, True]  # in one commit
            row = await store.handlers.get(handler)
            assert row is not None
            assert row.last_delivered_at == 3 * SECOND

    run(main())


@pytest.mark.parametrize(("second", "failures", "last"), [(2, 1, 3), (3, 0, 3), (4, 0, 4)])
def test_an_arrival_ends_a_streak_of_failures_even_within_the_second_of_the_one_before(
    open_store: OpenStore, second: int, failures: int, last: int
) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            assert await settled(store, replace(delivered(await accept_one(store, handler)), at=3 * SECOND + 100))
            assert (await store.handlers.count_failure(handler, 3 * SECOND + 150)).failures == 1
            assert await settled(store, replace(delivered(await accept_one(store, handler)), at=second * SECOND + 200))
            facts, row = await store.standings.facts(handler, 0), await store.handlers.get(handler)
            assert row is not None
            assert (facts.streak.failures, row.last_delivered_at) == (failures, last * SECOND)

    run(main())


def test_settlements_of_one_sender_are_told_together_however_many(open_store: OpenStore) -> None:
    """More than are handed to the writing thread in one go, one of them twice, and one that cannot be written."""

    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            [kept] = await store.intake.accept(accepting(*[handler] * 300))
            waiting = list(kept.deliveries)
            writes = [delivered(one) for one in waiting]
            unwritable: Any = object()
            writes[7] = Settlement(replace(writes[7].delivery, attempt_count=unwritable), None, 200)
            writes.append(writes[11])
            told: list[tuple[int, bool | Exception]] = []
            sizes: list[int] = []
            ended = asyncio.Event()

            def done(tickets: Sequence[int], results: Sequence[bool | Exception]) -> None:
                sizes.append(len(tickets))
                told.extend(zip(tickets, results, strict=True))
                if len(told) == len(writes):
                    ended.set()

            others = [store.intake.accept(accepting(handler)) for _ in range(100)]  # in the same turn: they count among those handed over
            for ticket, write in enumerate(writes):
                store.queue.settle(write, ticket, done)
            await asyncio.wait_for(ended.wait(), 10)
            await asyncio.gather(*others)
            assert sizes == [MAX_GATHERED - 100, 301 - (MAX_GATHERED - 100)]
            assert [ticket for ticket, _ in told] == list(range(len(writes)))
            results = [result for _, result in told]
            assert isinstance(results.pop(7), WriteFailed)
            assert results == [True] * 300
            totals = {status: (await store.history.deliveries(1, DeliveryFilter(status=status), 1, 25)).total for status in Status}
            assert totals == {**dict.fromkeys(Status, 0), Status.PENDING: 101, Status.DELIVERED: 299}

    run(main())


def test_a_cancelled_delivery_stays_cancelled_unless_it_arrived(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            for outcome, expected in (
                (Status.PENDING, Status.CANCELLED),
                (Status.FAILED, Status.CANCELLED),
                (Status.DELIVERED, Status.DELIVERED),
            ):
                delivery = await accept_one(store, handler)
                assert await store.history.cancel(1, delivery.notification_id) == [delivery.id]
                row = replace(delivery, status=outcome, attempt_count=1, last_attempt_at=200)
                applied = await settled(store, Settlement(row, attempt(delivery), 200))
                assert applied is (outcome is Status.DELIVERED)
                found = await store.history.delivery(1, delivery.id)
                assert found is not None
                assert found[0].status is expected
                assert found[0].attempt_count == 1
                assert len(found[2]) == 1
            totals = {status: (await store.history.deliveries(1, DeliveryFilter(status=status), 1, 25)).total for status in Status}
            assert totals == {**dict.fromkeys(Status, 0), Status.CANCELLED: 2, Status.DELIVERED: 1}

    run(main())


def test_settlements_of_one_commit_are_judged_one_by_one(open_store: OpenStore) -> None:
    """Most are pending, one was cancelled, one was cancelled and has arrived, one is gone: none changes how the others stand."""

    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            arrived, again, cancelled, late, gone = [await accept_one(store, handler) for _ in range(5)]
            for one in (cancelled, late):
                await store.history.cancel(1, one.notification_id)
            waiting = replace(again, attempt_count=1, step=1, due_at=900)
            writes = [
                delivered(arrived),
                Settlement(waiting, attempt(again, 1, "later", Reason.SERVER_ERROR), 200),
                Settlement(
                    replace(cancelled, status=Status.FAILED, attempt_count=1), attempt(cancelled, 1, "refused", Reason.REJECTED), 200
                ),
                delivered(late),
                delivered(replace(gone, id=999_999)),
            ]
            assert await asyncio.gather(*(settled(store, write) for write in writes)) == [True, True, False, True, False]
            found = [await store.history.delivery(1, one.id) for one in (arrived, again, cancelled, late, gone)]
            assert [(row[0].status, row[0].attempt_count, len(row[2])) for row in found if row] == [
                (Status.DELIVERED, 1, 1),
                (Status.PENDING, 1, 1),
                (Status.CANCELLED, 1, 1),
                (Status.DELIVERED, 1, 1),
                (Status.PENDING, 0, 0),
            ]
            totals = {status: (await store.history.deliveries(1, DeliveryFilter(status=status), 1, 25)).total for status in Status}
            assert totals == {**dict.fromkeys(Status, 0), Status.PENDING: 2, Status.DELIVERED: 2, Status.CANCELLED: 1}

    run(main())


def test_of_two_settlements_of_one_delivery_in_a_commit_the_second_comes_after_the_first(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            delivery = await accept_one(store, handler)
            failed = replace(delivery, status=Status.FAILED, attempt_count=2, last_attempt_at=300)
            second = Settlement(failed, attempt(delivery, 2, "refused", Reason.REJECTED), 300)
            assert await asyncio.gather(settled(store, delivered(delivery)), settled(store, second)) == [True, False]
            found = await store.history.delivery(1, delivery.id)
            assert found is not None
            assert (found[0].status, found[0].attempt_count, [one.number for one in found[2]]) == (Status.DELIVERED, 2, [1, 2])
            totals = {status: (await store.history.deliveries(1, DeliveryFilter(status=status), 1, 25)).total for status in Status}
            assert totals == {**dict.fromkeys(Status, 0), Status.DELIVERED: 1}

    run(main())


def test_hours_of_a_handler_that_went_with_its_user_do_not_keep_those_of_others_from_being_kept(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            hour = HandlerHour(handler, 7, 3, 1, 0, (2, 1))
            await store.standings.add_hours([HandlerHour(999_999, 7, 1, 0, 0, (1,)), hour])
            assert await store.standings.hours([handler, 999_999], 0) == [hour]

    run(main())


@pytest.mark.parametrize("status", [Status.FAILED, Status.PENDING, Status.DELIVERED])
def test_of_an_attempt_from_before_a_replay_only_an_arrival_counts(open_store: OpenStore, status: Status) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            before = await accept_one(store, handler)
            await store.history.cancel(1, before.notification_id)
            assert await store.history.retry(1, before.id, 500, 10, None) == [(before.id, handler)]
            ended = replace(before, status=status, attempt_count=1, last_attempt_at=200, step=1, due_at=900, may_have_arrived=True)
            first = replace(attempt(before, 1, "later", Reason.TIMEOUT), next_at=900)
            has_arrived = status is Status.DELIVERED
            assert await settled(store, Settlement(ended, attempt(before) if has_arrived else first, 200)) is has_arrived
            found = await store.history.delivery(1, before.id)
            assert found is not None
            after, _, attempts, _ = found
            if has_arrived:
                assert (after.status, after.attempt_count, attempts) == (Status.DELIVERED, 1, [attempt(before)])
                return
            assert (after.status, after.step, after.due_at, after.replays, after.last_reason) == (Status.PENDING, 0, 500, 1, None)
            assert (after.attempt_count, after.last_attempt_at, after.may_have_arrived) == (1, 200, True)  # its next attempt is the second
            assert attempts == [replace(first, next_at=None)]
            refused = replace(after, status=Status.FAILED, attempt_count=2, last_reason=Reason.REJECTED)
            assert await settled(store, Settlement(refused, attempt(after, 2, "refused", Reason.REJECTED), 600))
            totals = {status: (await store.history.deliveries(1, DeliveryFilter(status=status), 1, 25)).total for status in Status}
            assert totals == {**dict.fromkeys(Status, 0), Status.FAILED: 1}

    run(main())


def test_retry_makes_settled_ones_wait_again_but_not_delivered_or_pending(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler, other = await add_handler(store), await add_handler(store)
            made = [await accept_one(store, handler) for _ in range(4)]
            for delivery, status in zip(made, (Status.FAILED, Status.DELIVERED, Status.EXPIRED), strict=False):
                await settled(store, Settlement(replace(delivery, status=status, step=7, attempt_count=8), None, 200))
            skipped = await accept_one(store, other, status=Status.SKIPPED)
            assert await store.history.retry(1, DeliveryFilter(notification_handler_id=other), 500, 10, None) == [(skipped.id, other)]
            retried = await store.history.retry(1, DeliveryFilter(), 500, 10, None)
            assert sorted(retried) == [(made[0].id, handler), (made[2].id, handler)]
            found = await store.history.delivery(1, made[0].id)
            assert found is not None
            assert (found[0].status, found[0].step, found[0].attempt_count, found[0].due_at) == (Status.PENDING, 0, 8, 500)
            assert await store.history.retry(1, made[1].id, 500, 10, None) == []
            assert await store.history.retry(2, made[0].id, 500, 10, None) == []
            assert await store.history.retry(1, DeliveryFilter(status=Status.DELIVERED), 500, 10, None) == []

    run(main())


def test_retry_by_filter_takes_no_more_than_its_limit(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            await store.intake.accept(accepting(*[handler] * 30, status=Status.SKIPPED))
            assert len(await store.history.retry(1, DeliveryFilter(status=Status.SKIPPED), 500, 10, None)) == 10
            assert (await store.history.deliveries(1, DeliveryFilter(status=Status.PENDING), 1, 25)).total == 10

    run(main())


def test_what_cannot_be_taken_is_not_retried_and_uses_up_no_limit(open_store: OpenStore) -> None:
    """The handlers that are paused or deleted come first in the list, and there are more of theirs than the limit allows."""

    async def main() -> None:
        async with open_store() as store:
            taking, paused, deleted = [await add_handler(store) for _ in range(3)]
            wanted = await accept_one(store, taking, status=Status.SKIPPED)
            await store.intake.accept(accepting(*[paused, deleted] * 10, status=Status.SKIPPED))
            await store.handlers.change(paused, HandlerChange(is_enabled=False))
            await store.handlers.delete(deleted, 20)
            assert await store.history.replayable(1, DeliveryFilter(status=Status.SKIPPED), 5) == 1
            assert await store.history.retry(1, wanted.id + 1, 500, 5, None) == []
            assert await store.history.retry(1, DeliveryFilter(status=Status.SKIPPED), 500, 5, None) == [(wanted.id, taking)]
            await store.handlers.change(paused, HandlerChange(is_enabled=True))
            assert await store.history.replayable(1, DeliveryFilter(), 100) == 10
            assert await store.history.retry(1, wanted.id + 1, 500, 5, None) == [(wanted.id + 1, paused)]

    run(main())


def test_every_replay_is_kept_with_how_the_delivery_had_ended_and_goes_with_it(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            made = await accept_one(store, handler, due_at=100)
            failed = replace(made, status=Status.FAILED, attempt_count=3, last_attempt_at=200, last_reason=Reason.REJECTED)
            await settled(store, Settlement(failed, attempt(made, 3, "refused", Reason.REJECTED), 200))
            await store.history.retry(1, made.id, 500, 10, None)
            [cancelled] = await store.history.cancel_delivery(1, made.id)
            await store.history.retry(1, cancelled, 600, 10, None)
            found = await store.history.delivery(1, made.id)
            assert found is not None
            first, second = found[3]
            assert first == Replay(500, 3, Status.FAILED, Reason.REJECTED, 100)
            assert (second.at, second.status, second.reason, found[0].replays) == (600, Status.CANCELLED, Reason.CANCELLED, 2)
            assert second.ended_at > 600  # when it was cancelled, by the clock
            await store.history.cancel(1, made.notification_id)
            await store.database.write(tidying.old_notifications, 2**60, 100, START)
            assert await store.database.read(lambda connection: connection.execute(text("SELECT count(*) FROM replays")).scalar()) == 0

    run(main())


def test_a_notification_and_its_deliveries_are_of_one_moment(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something is committed between the count and the list."""

    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            made = await accept_one(store, handler)
            page = history.deliveries_page

            def meanwhile(*args: Any) -> Any:
                done = asyncio.run_coroutine_threadsafe(settled(store, delivered(made)), loop)
                assert done.result(10)
                return page(*args)

            loop = asyncio.get_running_loop()
            monkeypatch.setattr(history, "deliveries_page", meanwhile)
            found = await store.history.fan_out(1, made.notification_id, 10)
            assert found is not None
            _, counts, rows, (_, names) = found
            assert counts[Status.PENDING] == 1 and [row.status for row in rows.rows] == [Status.PENDING]
            assert names == {handler: ("webhook", "hook")}
            assert (await store.history.delivery(1, made.id) or [made])[0].status is Status.DELIVERED
            assert await store.history.fan_out(2, made.notification_id, 10) is None

    run(main())


def test_lists_are_newest_first_and_filtered(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            first, second = await add_handler(store), await add_handler(store)
            made = [await accept_one(store, first if index % 2 else second, at=100 + index) for index in range(40)]
            for delivery in made[:30]:
                await settled(store, delivered(delivery))
            ids = [delivery.id for delivery in made]
            page = await store.history.deliveries(1, DeliveryFilter(), 1, 25)
            assert [row.id for row in page.rows] == ids[::-1][:25]
            assert [row.id for row in (await store.history.deliveries(1, DeliveryFilter(), 2, 25)).rows] == ids[::-1][25:]
            assert (await store.history.deliveries(1, DeliveryFilter(), 3, 25)).rows == []
            waiting = await store.history.deliveries(1, DeliveryFilter(status=Status.PENDING), 1, 25)
            assert [row.id for row in waiting.rows] == ids[30:][::-1]
            of_first = await store.history.deliveries(1, DeliveryFilter(notification_handler_id=first), 1, 25)
            assert ([row.id for row in of_first.rows], of_first.total) == (ids[1::2][::-1], 20)
            between = await store.history.deliveries(1, DeliveryFilter(datetime_start=110, datetime_end=114), 1, 25)
            assert [row.id for row in between.rows] == ids[10:15][::-1]
            of_one = await store.history.deliveries(1, DeliveryFilter(notification_id=made[7].notification_id), 1, 25)
            assert [row.id for row in of_one.rows] == [ids[7]]
            assert (await store.history.deliveries(1, DeliveryFilter(search="TITLE"), 1, 25)).total == 40
            assert (await store.history.deliveries(1, DeliveryFilter(search="%"), 1, 25)).total == 0
            older = await store.history.deliveries(1, DeliveryFilter(before=ids[30]), 1, 25)
            assert ([row.id for row in older.rows], older.total) == (ids[5:30][::-1], 30)
            assert (await store.history.deliveries(1, DeliveryFilter(before=ids[0]), 1, 25)).rows == []
            assert (await store.history.deliveries(2, DeliveryFilter(), 1, 25)).rows == []

    run(main())


def test_lists_are_filtered_by_reason(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            arrived, failed, waiting, _ = [await accept_one(store, handler, at=100 + index) for index in range(4)]
            await settled(store, delivered(arrived))
            await settled(store, Settlement(replace(failed, status=Status.FAILED, last_reason=Reason.REJECTED), attempt(failed), 200))
            await settled(store, Settlement(replace(waiting, last_reason=Reason.TIMEOUT), attempt(waiting), 200))

            async def found(**which: Any) -> list[int]:
                page = await store.history.deliveries(1, DeliveryFilter(**which), 1, 25)
                assert page.total == len(page.rows)
                return [row.id for row in page.rows]

            assert await found(reason=Reason.OK) == [arrived.id]
            assert await found(reason=Reason.REJECTED) == [failed.id]
            assert await found(reason=Reason.TIMEOUT) == [waiting.id]
            assert await found(reason=Reason.TIMEOUT, status=Status.PENDING) == [waiting.id]
            assert await found(reason=Reason.TIMEOUT, status=Status.FAILED) == []
            assert await found(reason=Reason.OK, status=Status.PENDING) == await found(reason=Reason.DNS, status=Status.DELIVERED) == []

    run(main())


def test_those_that_no_key_opens_are_failing_wherever_a_state_counts(open_store: OpenStore) -> None:
    """Unless they are paused. Which they are is known to the service only."""

    async def main() -> None:
        async with open_store() as store:
            well, sealed, paused = [await add_handler(store, name) for name in ("a", "b", "c")]
            await store.handlers.change(paused, HandlerChange(is_enabled=False))
            lost = [sealed, paused]
            pages = {state: await store.handlers.page(1, HandlerFilter(state=state), 1, 10, lost) for state in ("failing", "ok", "paused")}
            found = {state: ([row.id for row in page.rows], page.total) for state, page in pages.items()}
            assert found == {"failing": ([sealed], 1), "ok": ([well], 1), "paused": ([paused], 1)}
            ordered = await store.handlers.page(1, HandlerFilter(order_by="state"), 1, 10, lost)
            assert [row.id for row in ordered.rows] == [sealed, well, paused]
            assert (await store.standings.overview(1, 0, lost)).states == {"failing": 1, "ok": 1, "paused": 1}
            assert (await store.standings.overview(1, 0)).states == {"ok": 2, "paused": 1}
            troubled = await store.standings.troubled(10, lost)
            assert [(one.handler.id, one.handler.is_sealed) for one in troubled] == [(sealed, True)]
            assert await store.standings.troubled(10) == []

    run(main())


def test_handlers_are_listed_filtered_and_ordered(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            made = [await add_handler(store, name) for name in ("beta", "Alpha", "gamma_x")]
            await store.handlers.change(made[2], HandlerChange(is_enabled=False))
            page = await store.handlers.page(1, HandlerFilter(order_by="name"), 1, 10)
            assert [row.name for row in page.rows] == ["Alpha", "beta", "gamma_x"]
            assert [row.id for row in (await store.handlers.page(1, HandlerFilter(descending=True), 1, 2)).rows] == made[::-1][:2]
            assert [row.name for row in (await store.handlers.page(1, HandlerFilter(search="A_X"), 1, 10)).rows] == ["gamma_x"]
            assert (await store.handlers.page(1, HandlerFilter(is_enabled=True), 1, 10)).total == 2
            assert await store.handlers.delete(made[0], 20)
            assert not await store.handlers.delete(made[0], 20)
            page = await store.handlers.page(1, HandlerFilter(), 1, 10)
            assert ([row.id for row in page.rows], page.total) == (made[1:], 2)
            gone = await store.handlers.get(made[0])
            assert gone is not None
            assert (gone.settings, gone.secret, gone.deleted_at) == (None, None, 20)
            assert await add_handler(store) == made[2] + 1

    run(main())


def test_a_change_that_expects_another_version_is_not_made(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            assert await store.handlers.change(handler, HandlerChange(name="new"), expected_version=1)
            assert not await store.handlers.change(handler, HandlerChange(name="newer"), expected_version=1)
            row = await store.handlers.get(handler)
            assert row is not None
            assert row.name == "new"

    run(main())


def test_an_idempotency_key_is_kept_in_the_commit_of_what_it_made(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            wanted = Idempotency("/api/notifications", "key", b"hash")
            request = accepting(handler, idempotency=wanted)
            accepted = await store.intake.accept(replace(request, planned=[*request.planned, *request.planned]))
            assert await store.intake.remembered(1, wanted.path, "key", 0, 100) == Remembered(b"hash", (accepted[0].id, accepted[1].id))
            assert await store.intake.remembered(2, wanted.path, "key", 0, 100) is None
            assert await store.intake.remembered(1, wanted.path, "key", 101, 200) is None
            assert await store.intake.remembered(1, wanted.path, "key", 0, 99) is None
            with pytest.raises(WriteFailed):
                await store.intake.accept(replace(accepting(handler, idempotency=replace(wanted, key="refused")), user_id=999_999))
            assert await store.intake.remembered(999_999, wanted.path, "refused", 0, 10**6) is None
            await store.database.write(tidying.idempotency_keys, 101, 10, START)
            assert await store.intake.remembered(1, wanted.path, "key", 0, 10**6) is None

    run(main())


def test_pending_ones_of_a_handler_end_in_steps(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            await store.intake.accept(accepting(*[handler] * 12))
            ended = [await store.queue.end_pending(handler, Status.SKIPPED, Reason.HANDLER_PAUSED, 5) for _ in range(3)]
            assert ended == [5, 5, 2]
            page = await store.history.deliveries(1, DeliveryFilter(status=Status.SKIPPED), 1, 25)
            assert page.total == 12
            assert {row.last_reason for row in page.rows} == {Reason.HANDLER_PAUSED}

    run(main())


def test_posts_know_the_budget_and_repeats(open_store: OpenStore) -> None:
    async def main() -> None:
        day = 86_400_000_000
        async with open_store() as store:
            first = await store.queue.posted("x:1", b"same", 1, day, 2)
            again = await store.queue.posted("x:1", b"same", 1, day + 5, 2)
            second = await store.queue.posted("x:1", b"same", 2, day + 6, 2)
            over = await store.queue.posted("x:1", b"other", 3, day + 7, 2)
            elsewhere = await store.queue.posted("x:2", b"same", 4, day + 8, 2)
            tomorrow = await store.queue.posted("x:1", b"same", 5, 2 * day + 7, 2)
            for number in range(3):  # by a clock that is years ahead, and set right then
                await store.queue.posted("x:3", b"same", 10 + number, 1000 * day, 9)
            right = await store.queue.posted("x:3", b"same", 20, day, 2)
            assert [(facts.over_budget, facts.repeated) for facts in (first, again, second, over, elsewhere, tomorrow, right)] == [
                (False, False),
                (False, False),
                (False, True),
                (True, False),
                (False, False),
                (False, False),
                (False, False),
            ]

    run(main())


def test_ids_are_never_used_twice(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            delivery = await accept_one(store, handler)
            await settled(store, delivered(delivery))
            assert (await store.database.write(tidying.old_notifications, 1000, 10, START)).rows == 3
            later = await accept_one(store, handler)
            assert later.id == delivery.id + 1
            assert later.notification_id == delivery.notification_id + 1

    run(main())


def test_a_reading_that_takes_too_long_is_stopped_and_holds_up_no_write(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    monkeypatch.setattr("tocsin.store.database.READ_SECONDS", 0.5)

    async def main() -> None:
        started = threading.Event()

        def read(connection):
            started.set()
            return connection.execute(text(endless)).scalar()

        async with open_store() as store:
            handler = await add_handler(store)
            stuck = asyncio.ensure_future(store.database.look(read))
            await asyncio.to_thread(started.wait)
            await store.intake.accept(accepting(handler))
            assert not stuck.done()
            with pytest.raises(Busy, match="too long"):
                await stuck
            assert (await store.history.notifications(1, 1, 25)).total == 1

    run(main())


def test_a_commit_is_told_before_anything_that_came_of_it(open_store: OpenStore) -> None:
    """Otherwise a delivery that a refill found and finished meanwhile would be handed over once more."""

    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            told: list[str] = []
            both = asyncio.Event()

            async def wait_for(accepted: asyncio.Future[list[Accepted]]) -> None:
                await accepted
                told.append("awaited")
                both.set()

            def committed(accepted: list[Accepted]) -> None:
                told.append(f"committed {accepted[0].deliveries[0].id - earlier.id}")

            def finished(_: Sequence[None], results: Sequence[bool | Exception]) -> None:
                told.append(f"settled {results}")

            earlier = await accept_one(store, handler)
            waiting = asyncio.ensure_future(wait_for(store.intake.accept(accepting(handler), committed)))
            store.queue.settle(delivered(earlier), None, finished)
            await asyncio.wait_for(both.wait(), 10)
            assert told == ["committed 1", "settled [True]", "awaited"]
            await waiting

    run(main())


def test_what_belongs_to_a_user_goes_with_them_and_nothing_of_others_does(open_store: OpenStore) -> None:
    """Every table, also those that are made later: what names a user, or what is theirs, names them no more."""

    async def main() -> None:
        async with open_store() as store:
            write = store.database.write
            for user in (1, 2):
                if user == 2:
                    await write(people.add_user, "second@example.com", False, 1)
                handler = await add_handler(store, user_id=user)
                [kept] = await store.intake.accept(replace(accepting(handler, idempotency=Idempotency("/", "key", b"")), user_id=user))
                row = kept.deliveries[0]
                failed = replace(row, status=Status.FAILED, attempt_count=1, last_attempt_at=200, last_reason=Reason.GONE)
                await settled(store, Settlement(failed, attempt(row, 1, "gone", Reason.GONE), 200))
                await store.history.retry(user, row.id, 300, 10, None)
                await store.standings.add_hours([HandlerHour(handler, 1, 1, 0, 0, (1,))])
                event = HandlerEvent(300, "switched_off", "gone", Reason.GONE)
                assert await store.handlers.switch_off(SwitchOff(user, handler, 1, event, kept.notification.id, 10, "gone"))
                await write(values.write, f"told:{user}", b"[1]")
                await write(_add_factors, user)
                await write(_add_consents, user)
                await store.keys.add(user, "key", b"hash%d" % user, "shown", ("send",), 10)
                await store.sessions.add(Session(b"token%d" % user, user, 1, 1), Living(0, 0), b"")
            mine = await store.database.read(_rows)
            assert all(mine.values()), mine
            await write(people.delete_user, 2)
            left = await store.database.read(_rows)
            assert left.pop("audit") == mine.pop("audit") + 1  # it outlives them, and says that they are gone
            assert {name: n * 2 for name, n in left.items()} == mine
            assert (await store.handlers.count_failure(2, 400)).failures == 0

    run(main())


def _add_factors(connection: Connection, user: int) -> None:
    connection.execute(tables.second_factors.insert().values(user_id=user, secret=b"", last_step=1, created_at=1))
    connection.execute(tables.recovery_codes.insert().values(user_id=user, hash=b"code"))
    connection.execute(tables.identities.insert().values(issuer="one", subject=str(user), user_id=user, created_at=1))


def _add_consents(connection: Connection, user: int) -> None:
    connection.execute(tables.mail_consents.insert().values(user_id=user, mark=b"address", given_at=1))
    connection.execute(tables.consent_asks.insert().values(user_id=user, mailbox=b"mailbox", at=user))
    connection.execute(tables.usage.insert().values(user_id=user, day=1, what=1, mark="", n=1))


def _rows(connection: Connection) -> dict[str, int]:
    """By table; of `meta`, only what names a user."""
    found: dict[str, int] = {}
    for name, table in tables.metadata.tables.items():
        if name not in {"users", "meta"} and {"user_id", "handler_id", "notification_id", "delivery_id"}.isdisjoint(table.c.keys()):
            continue
        if name == "posts":  # of a credential, which users may share
            continue
        rows = select(func.count()).select_from(table)
        found[name] = connection.scalar(rows.where(table.c.name.like("%told:%")) if name == "meta" else rows) or 0
    return found
