"""Two writers at once: whatever one does between two statements of the other, nothing is lost, and the totals are the count of the rows."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, func, select, update

from support import postgresql
from support.store import MESSAGE, attempt, orphans
from support.writers import Writers, on_postgresql, on_sqlite
from tocsin import upkeep
from tocsin.clock import DAY
from tocsin.flow.mail_account import REFRESH_TOKEN
from tocsin.model import Delivery, Reason, Status
from tocsin.ports.errors import OwnerGone
from tocsin.ports.handlers import HandlerChange, HandlerEvent, SwitchOff
from tocsin.ports.history import DeliveryFilter
from tocsin.ports.intake import Accept, Planned, PlannedDelivery
from tocsin.ports.notices import Telling
from tocsin.ports.queue import Settlement
from tocsin.ports.standings import HandlerHour
from tocsin.store import handlers, history, keys, notices, people, queue, standings, tables, tidying, totals, values
from tocsin.store.accepting import AcceptAll
from tocsin.store.dialects import SLOT
from tocsin.store.dialects.connecting import postgresql_engine
from tocsin.store.dialects.sqlite import sqlite_engine
from tocsin.store.migrating import migrate
from tocsin.store.settling import SettleAll
from tocsin.store.tables import TOTAL_HANDLERS, TOTAL_NOTIFICATIONS
from tocsin.vault import Vault

Write: TypeAlias = Callable[[Connection], Any]
Make: TypeAlias = Callable[[Delivery], Write]
LATER = 10**17  # in the year 5138


@pytest.fixture(params=["sqlite", "postgresql"])
def writers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Writers]:
    if request.param == "sqlite":
        opened, engine = on_sqlite(tmp_path / "store"), sqlite_engine(tmp_path / "store")
    else:
        request.getfixturevalue("postgresql_server")
        url = postgresql.database_of(tmp_path)
        opened, engine = on_postgresql(url), postgresql_engine(url)
    migrate(engine)
    engine.dispose()
    with opened as found:
        found.alone(lambda c: people.add_user(c, "a@b", True, 1))
        yield found
    postgresql.drop_databases()


# ------------------------------------------------------------------------------------------ what writers do with a delivery


def add_handler(writers: Writers, user: int = 1) -> int:
    change = HandlerChange(type="webhook", name="hook", settings=b"sealed", is_enabled=True)
    return writers.alone(lambda c: handlers.add_handler(c, user, change, 10))


def waiting(writers: Writers, user: int = 1) -> Delivery:
    """A pending delivery of a handler of its own."""
    handler_id = add_handler(writers, user)
    [[kept]] = writers.alone(lambda c: AcceptAll.run_all(c, [accepting(handler_id, user)]))
    return kept.deliveries[0]


def accepting(handler_id: int, user: int) -> Accept:
    return Accept(user, 100, [Planned(MESSAGE, None, None, (PlannedDelivery(handler_id, Status.PENDING, 100),))], None)


def accept(delivery: Delivery) -> Write:
    return lambda c: AcceptAll.run_all(c, [accepting(delivery.handler_id, delivery.user_id)])


def cancelled(writers: Writers) -> Delivery:
    delivery = waiting(writers)
    assert writers.alone(cancel(delivery)) == [delivery.id]
    return delivery


def arrive(delivery: Delivery) -> Write:
    row = replace(delivery, status=Status.DELIVERED, attempt_count=1, last_attempt_at=200, part=1)
    return lambda c: SettleAll.run_all(c, [Settlement(row, attempt(delivery), 200)])


def fail(delivery: Delivery) -> Write:
    row = replace(delivery, status=Status.FAILED, attempt_count=1, last_attempt_at=200, last_reason=Reason.REJECTED)
    return lambda c: SettleAll.run_all(c, [Settlement(row, attempt(delivery, 1, "refused", Reason.REJECTED), 200)])


def try_again(delivery: Delivery) -> Write:
    row = replace(delivery, attempt_count=1, step=1, last_attempt_at=200, due_at=900, last_reason=Reason.TIMEOUT)
    return lambda c: SettleAll.run_all(c, [Settlement(row, attempt(delivery, 1, "later", Reason.TIMEOUT), 200)])


def cancel(delivery: Delivery) -> Write:
    return lambda c: history.cancel(c, delivery.user_id, delivery.notification_id)


def pause(delivery: Delivery) -> Write:
    return lambda c: handlers.change_handler(c, delivery.handler_id, HandlerChange(is_enabled=False), None, None, 10)


def switch_off(delivery: Delivery) -> Write:
    event = HandlerEvent(300, "switched_off", "gone", Reason.GONE)
    off = SwitchOff(delivery.user_id, delivery.handler_id, 1, event, delivery.notification_id, most=10, last_error="gone")
    return lambda c: handlers.switch_off(c, off)


def delete(delivery: Delivery) -> Write:
    return lambda c: handlers.delete_handler(c, delivery.handler_id, 300, 10)


def replay(delivery: Delivery) -> Write:
    return lambda c: history.retry(c, delivery.user_id, DeliveryFilter(notification_id=delivery.notification_id), LATER, 10, None)


def tidy(delivery: Delivery) -> Write:
    return lambda c: tidying.old_notifications(c, LATER, 100, (delivery.notification_id - 1,))


def fold(_: Delivery) -> Write:
    return lambda c: totals.fold(c, 0, 100, ())


def disable(delivery: Delivery) -> Write:
    return lambda c: people.disable_user(c, delivery.user_id, 300)


def row_of(writers: Writers, delivery: Delivery) -> Any:
    return writers.alone(lambda c: c.execute(select(tables.deliveries).where(tables.deliveries.c.id == delivery.id)).first())


def status_of(writers: Writers, delivery: Delivery) -> Status | None:
    row = row_of(writers, delivery)
    return None if row is None else Status(row.status)


def counted(connection: Connection) -> dict[tuple[int, int], int]:
    rows, d, n, h = Counter[tuple[int, int]](), tables.deliveries, tables.notifications, tables.handlers
    for user_id, status, count in connection.execute(select(d.c.user_id, d.c.status, func.count()).group_by(d.c.user_id, d.c.status)):
        rows[user_id, status] = count
    for what, table, condition in ((TOTAL_NOTIFICATIONS, n, n.c.id > 0), (TOTAL_HANDLERS, h, h.c.deleted_at.is_(None))):
        for user_id, count in connection.execute(select(table.c.user_id, func.count()).where(condition).group_by(table.c.user_id)):
            rows[user_id, what] = count
    return dict(rows)


def kept(connection: Connection) -> dict[tuple[int, int], int]:
    t = tables.totals
    rows = connection.execute(select(t.c.user_id, t.c.what, func.sum(t.c.n)).group_by(t.c.user_id, t.c.what))
    return {(user_id, what): n for user_id, what, n in rows if n}


# ------------------------------------------------------------------------------------------------------ deliveries and totals


def each_way(pair: tuple[Any, Make, Make, Any]) -> Iterator[Any]:
    make, one, other, allowed = pair
    for first, second in dict.fromkeys([(one, other), (other, one)]):
        yield pytest.param(make, first, second, allowed, id=f"{make.__name__}-{first.__name__}-{second.__name__}")


PAIRS: list[tuple[Callable[[Writers], Delivery], Make, Make, set[Status | None]]] = [
    (waiting, arrive, cancel, {Status.DELIVERED}),
    (waiting, fail, cancel, {Status.FAILED, Status.CANCELLED}),
    (waiting, try_again, cancel, {Status.CANCELLED}),
    (waiting, arrive, pause, {Status.DELIVERED}),
    (waiting, fail, pause, {Status.FAILED, Status.SKIPPED}),
    (waiting, try_again, pause, {Status.SKIPPED}),
    (waiting, arrive, switch_off, {Status.DELIVERED}),
    (waiting, try_again, switch_off, {Status.FAILED}),
    (waiting, arrive, delete, {Status.DELIVERED}),
    (waiting, delete, fold, {Status.CANCELLED}),
    (waiting, arrive, disable, {Status.DELIVERED}),
    (waiting, fail, disable, {Status.FAILED, Status.CANCELLED}),
    (waiting, switch_off, disable, {Status.FAILED, Status.CANCELLED}),
    (waiting, disable, fold, {Status.CANCELLED}),
    (waiting, cancel, pause, {Status.CANCELLED, Status.SKIPPED}),
    (waiting, arrive, fail, {Status.DELIVERED}),
    (waiting, fail, replay, {Status.FAILED, Status.PENDING}),
    (waiting, arrive, fold, {Status.DELIVERED}),
    (waiting, fold, fold, {Status.PENDING}),
    (cancelled, arrive, replay, {Status.DELIVERED}),
    (cancelled, fail, replay, {Status.PENDING}),
    (cancelled, try_again, replay, {Status.PENDING}),
    (cancelled, cancel, replay, {Status.PENDING, Status.CANCELLED}),
    (cancelled, replay, replay, {Status.PENDING}),
    (cancelled, replay, tidy, {Status.PENDING, None}),
    (cancelled, tidy, tidy, {None}),
]
LOCKED = [*each_way((cancelled, arrive, tidy, {Status.DELIVERED, None}))]


@pytest.mark.parametrize(("make", "first", "second", "allowed"), [case for pair in PAIRS for case in each_way(pair)])
def test_what_two_writers_do_to_a_delivery_is_counted_once(
    writers: Writers, make: Callable[[Writers], Delivery], first: Make, second: Make, allowed: set[Status | None]
) -> None:
    meet(writers, make, first, second, allowed)


@pytest.mark.parametrize(("make", "first", "second", "allowed"), LOCKED)
def test_rows_that_a_writer_has_changed_are_there_until_it_has_ended(
    writers: Writers, make: Callable[[Writers], Delivery], first: Make, second: Make, allowed: set[Status | None]
) -> None:
    if not writers.is_locking:
        pytest.skip("on SQLite only one transaction writes, which is not what these writers do")
    meet(writers, make, first, second, allowed)


def meet(writers: Writers, make: Callable[[Writers], Delivery], first: Make, second: Make, allowed: set[Status | None]) -> None:
    at = 0
    while True:
        at += 1
        delivery = make(writers)
        done = writers.both(first(delivery), second(delivery), at)
        if done is None:
            break
        where = f"{second.__name__} before statement {at} of {first.__name__}"
        status = status_of(writers, delivery)
        assert status in allowed, where
        assert writers.alone(kept) == writers.alone(counted), where
        assert writers.alone(orphans) == {}, where
    assert at > 1, "they never met"


def test_what_is_replayed_while_it_is_tidied_stays_whole(writers: Writers) -> None:
    for at in range(1, 10):
        delivery = cancelled(writers)
        done = writers.both(tidy(delivery), replay(delivery), at)
        if done is None:
            break
        _, replayed = done
        row = row_of(writers, delivery)
        is_named = tables.notifications.c.id == delivery.notification_id
        named = writers.alone(lambda c, is_named=is_named: c.scalar(select(func.count()).where(is_named)))
        assert (bool(replayed), named) == ((True, 1) if row else (False, 0)), f"before statement {at}"
    else:
        pytest.fail("tidying has no end")


def settled_and_replayed(writers: Writers, user: int = 1) -> Delivery:
    """It has an attempt, and a replay."""
    delivery = waiting(writers, user)
    writers.alone(fail(delivery))
    writers.alone(lambda c: history.retry(c, user, delivery.id, 250, 10, None))
    return replace(delivery, replays=1, attempt_count=1)


def arrive_again(delivery: Delivery) -> Write:
    row = replace(delivery, status=Status.DELIVERED, attempt_count=2, last_attempt_at=300, part=1)
    return lambda c: SettleAll.run_all(c, [Settlement(row, attempt(delivery, 2), 300)])


def test_what_was_kept_of_deliveries_goes_with_them(writers: Writers) -> None:
    def delete_all(_: Delivery) -> Write:
        return lambda c: people.delete_user(c, 1)

    for go in (tidy, delete_all):
        delivery = settled_and_replayed(writers)
        writers.alone(arrive_again(delivery))
        writers.alone(go(delivery))
        assert writers.alone(orphans) == {} and row_of(writers, delivery) is None


@pytest.mark.parametrize("write", [accept, arrive, arrive_again, try_again, cancel, switch_off, fold])
@pytest.mark.parametrize("is_first", [False, True], ids=["second", "first"])
def test_nothing_is_left_of_a_user_who_is_deleted(writers: Writers, write: Make, is_first: bool) -> None:
    """The second one finds nothing, or is told; neither waits for the other in a circle. `is_first`: the other began before."""
    if not writers.is_locking:
        pytest.skip("on SQLite only one transaction writes, which is not what these writers do")
    for at in range(1, 40):
        user = writers.alone(lambda c, at=at: people.add_user(c, f"{at}@b", False, 1))
        there, gone = write(settled_and_replayed(writers, user)), lambda c, user=user: people.delete_user(c, user)
        try:
            done = writers.both(there, gone, at) if is_first else writers.both(gone, there, at)
        except OwnerGone:
            done = True
        if done is None:
            break
        where = f"before statement {at}"
        assert writers.alone(lambda c, at=at: people.user_id(c, f"{at}@b")) is None, where
        assert writers.alone(kept) == writers.alone(counted) == writers.alone(orphans) == {}, where
    else:
        pytest.fail("it has no end")
    assert at > 1, "they never met"


# ------------------------------------------------------------------------------------------------------------------ numbers


def every_way(
    writers: Writers, first: Callable[[int], Write], second: Callable[[int], Write], check: Callable[[int, Any, Any], None]
) -> None:
    """`first`, `second` and `check` are told which round it is: each is about something of its own."""
    at = 1
    while (done := writers.both(first(at), second(at), at)) is not None:
        check(at, *done)
        at += 1
    assert at > 1, "they never met"


def test_hours_that_two_writers_add_to_are_the_sum_of_both(writers: Writers) -> None:
    handler_id = add_handler(writers)

    def add(hour: int, *latencies: int, delivered: int) -> Write:
        return lambda c: standings.add_hours(c, [HandlerHour(handler_id, hour, delivered, 1, 0, latencies)])

    def check(at: int, *_: Any) -> None:
        h = tables.handler_hours
        for hour, known in ((at, 0), (1000 + at, 2)):
            row = writers.alone(lambda c, hour=hour: c.execute(select(h).where(h.c.hour == hour)).one())
            expected = (3 + 1000 + known, 2 + known, "[1,2,7,0,5]" if not known else "[3,2,7,0,5]")
            assert (row.delivered, row.failed, row.latencies) == expected, f"before statement {at}"

    def known_too(at: int, *latencies: int, delivered: int) -> Write:
        """Of two hours: a new one, and one that is there already."""

        def write(c: Connection) -> None:
            add(at, *latencies, delivered=delivered)(c)
            add(1000 + at, *latencies, delivered=delivered)(c)

        return write

    for at in range(1, 20):
        writers.alone(add(1000 + at, 1, delivered=1))
        writers.alone(add(1000 + at, 1, delivered=1))
    every_way(writers, lambda at: known_too(at, 1, 2, delivered=3), lambda at: known_too(at, 0, 0, 7, 0, 5, delivered=1000), check)


def test_the_last_post_of_a_budget_is_given_once(writers: Writers) -> None:
    def post(at: int, delivery_id: int) -> Write:
        return lambda c: queue.posted(c, f"x:{at}", b"text", delivery_id, DAY, 1)

    def check(at: int, one: Any, other: Any) -> None:
        p = tables.posts
        rows = writers.alone(lambda c: c.execute(select(p.c.delivery_id).where(p.c.key == f"x:{at}")).all())
        assert (sorted([one.over_budget, other.over_budget]), len(rows)) == ([False, True], 1), f"before statement {at}"

    every_way(writers, lambda at: post(at, 1), lambda at: post(at, 2), check)


def test_folding_and_adding_lose_nothing(writers: Writers) -> None:
    def add(_: int) -> Write:
        def write(c: Connection) -> None:
            changes = totals.Totals({(1, 0): 5, (1, 100): 7})
            changes.write(c.execution_options(**{SLOT: totals.SERVICE}))

        return write

    def check(at: int, *_: Any) -> None:
        assert writers.alone(kept) == {(1, 0): 5 * (at + 1), (1, 100): 7 * (at + 1)}, f"before statement {at}"

    writers.alone(add(0))
    every_way(writers, lambda _: lambda c: totals.fold(c, 0, 100, ()), add, check)
    t = tables.totals
    writers.alone(lambda c: totals.fold(c, 0, 100, ()))
    assert set(writers.alone(lambda c: c.execute(select(t.c.slot)).scalars().all())) == {totals.FOLDED}


def test_a_key_was_last_used_when_it_was_last_used(writers: Writers) -> None:
    key_id = writers.alone(lambda c: keys.add_key(c, 1, "key", b"hash", "shown", ("send",), 10))

    def last_used() -> int:
        return writers.alone(lambda c: c.scalar(select(tables.keys.c.last_used_at).where(tables.keys.c.id == key_id)))

    for first, second in ((100, 200), (400, 300)):
        writers.both(lambda c, at=first: keys.touch_keys(c, {key_id: at}), lambda c, at=second: keys.touch_keys(c, {key_id: at}), 1)
        assert last_used() == max(first, second)


def test_what_is_changed_while_the_key_is_rotated_is_kept(writers: Writers) -> None:
    old, new, both = Vault(["old"]), Vault(["new"]), Vault(["new", "old"])
    h = tables.handlers
    handler_id = add_handler(writers)

    def reset(c: Connection) -> None:
        sealed = {"settings": old.seal({"url": "before"}), "secret": old.seal({"current": "before"})}
        c.execute(update(h).where(h.c.id == handler_id).values(sealed))
        values.write(c, REFRESH_TOKEN, old.seal({"token": "before"}))

    def rotate(c: Connection) -> int:
        upkeep._rotate_values(c, both, new)
        return upkeep._rotate_some(c, both, new, 0)[0]

    def first(_: int) -> Write:
        writers.alone(reset)
        return rotate

    def change(at: int) -> Write:
        def write(c: Connection) -> None:
            values.write(c, REFRESH_TOKEN, new.seal({"token": str(at)}))
            handlers.change_handler(c, handler_id, HandlerChange(settings=new.seal({"url": str(at)})), None, None, 0)

        return write

    def check(at: int, *_: Any) -> None:
        while writers.alone(rotate):
            pass
        row = writers.alone(lambda c: c.execute(select(h.c.settings, h.c.secret).where(h.c.id == handler_id)).one())
        token = writers.alone(lambda c: values.read(c, REFRESH_TOKEN))
        found = [new.open(sealed) for sealed in (row.settings, row.secret, token)]
        assert found == [{"url": str(at)}, {"current": "before"}, {"token": str(at)}], f"before statement {at}"

    every_way(writers, first, change, check)


def test_an_address_is_one_users_however_it_is_written(writers: Writers) -> None:
    def check(at: int, one: int | None, other: int | None) -> None:
        assert [one, other].count(None) == 1, f"before statement {at}"

    every_way(
        writers,
        lambda at: lambda c: people.add_user(c, f"Ann{at}@example.com", False, 10),
        lambda at: lambda c: people.add_user(c, f"ann{at}@EXAMPLE.com", False, 10),
        check,
    )


def test_an_owner_is_told_once(writers: Writers) -> None:
    def tell(telling: Telling) -> Write:
        return lambda c: notices.tell(c, telling)

    for at in range(1, 20):
        stopped = waiting(writers)
        assert writers.alone(switch_off(stopped))
        notice = Accept(1, 400, [Planned(MESSAGE, None, None, (PlannedDelivery(add_handler(writers), Status.PENDING, 400),))], None)
        _, told_before = writers.alone(lambda c: notices.untold_of(c, 1))
        telling = Telling(1, notice, (stopped.handler_id,), (400 + at,), tuple(told_before))
        done = writers.both(tell(telling), tell(telling), at)
        if done is None:
            break
        assert done.count(None) == 1, f"before statement {at}"
        assert writers.alone(kept) == writers.alone(counted)
    else:
        pytest.fail("telling has no end")


def test_an_owner_is_told_of_no_handler_twice_where_two_have_gathered_different_ones(writers: Writers) -> None:
    notice = Accept(1, 400, [Planned(MESSAGE, None, None, (PlannedDelivery(add_handler(writers), Status.PENDING, 400),))], None)
    for at in range(1, 20):
        one, other = waiting(writers), waiting(writers)
        assert writers.alone(switch_off(one)) and writers.alone(switch_off(other))
        _, told_before = writers.alone(lambda c: notices.untold_of(c, 1))
        some = Telling(1, notice, (one.handler_id,), (400 + at,), tuple(told_before))
        every = Telling(1, notice, (one.handler_id, other.handler_id), (500 + at,), tuple(told_before))
        done = writers.both(lambda c, some=some: notices.tell(c, some), lambda c, every=every: notices.tell(c, every), at)
        if done is None:
            break
        assert sum(result is not None for result in done) == 1, f"before statement {at}"
        untold, told = writers.alone(lambda c: notices.untold_of(c, 1))
        wanted = ([other.handler_id], 400 + at) if done[0] is not None else ([], 500 + at)
        assert ([handler.handler_id for handler in untold], told[-1]) == wanted, f"before statement {at}"
        again = Telling(1, None, tuple(handler.handler_id for handler in untold), (), tuple(told))
        assert writers.alone(lambda c, again=again: notices.tell(c, again)) == []
    else:
        pytest.fail("telling has no end")
