"""How PostgreSQL finds rows on the hot path: by their keys, whatever it knew of the tables when it made its plan."""

from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, text

from support import postgresql
from support.store import MESSAGE, attempt, delivered
from tocsin.model import Delivery, Reason, Status
from tocsin.ports.handlers import HandlerChange
from tocsin.ports.intake import Accept, Planned, PlannedDelivery
from tocsin.ports.queue import Settlement
from tocsin.store import dialects, handlers, history, misdated, people, queue
from tocsin.store.accepting import AcceptAll
from tocsin.store.dialects import Session
from tocsin.store.dialects.connecting import postgresql_engine
from tocsin.store.migrating import migrate
from tocsin.store.settling import SettleAll

WAITING = 1000
AT_ONCE = 20
PLANS = 12  # after five plans for the values at hand PostgreSQL may keep one for any values
_READ = text(  # in this transaction: rows and entries that were looked at in the table and in its index on what is pending
    "SELECT pg_stat_get_xact_tuples_returned('deliveries'::regclass)::int,"
    " pg_stat_get_xact_tuples_returned('ix_deliveries_pending'::regclass)::int"
)


@pytest.fixture
def session(postgresql_server: None) -> Iterator[Session]:
    """The writer's, on a store with a user."""
    with postgresql.database(postgresql.shared_url(postgresql.shared_folder())) as url:
        engine = postgresql_engine(url)
        migrate(engine)
        found = dialects.of(engine).session(engine)
        with found.transaction() as connection:
            people.add_user(connection, "a@b", True, 1)
        yield found
        found.close()
        engine.dispose()


def waiting(connection: Connection, count: int) -> list[Delivery]:
    """Of one handler."""
    handler = handlers.add_handler(connection, 1, HandlerChange(type="webhook", name="hook", settings=b"sealed", is_enabled=True), 10)
    planned = [Planned(MESSAGE, None, None, (PlannedDelivery(handler, Status.PENDING, 100),))] * count
    [kept] = AcceptAll.run_all(connection, [Accept(1, 100, planned)])
    return [one.deliveries[0] for one in kept]


def later(delivery: Delivery) -> Settlement:
    row = replace(delivery, attempt_count=1, step=1, last_attempt_at=200, due_at=900, last_reason=Reason.TIMEOUT)
    return Settlement(row, attempt(delivery, 1, "later", Reason.TIMEOUT), 200)


@pytest.mark.parametrize("settlement", [delivered, later])
def test_who_settles_looks_at_nothing_else_that_waits(session: Session, settlement) -> None:
    with session.transaction() as connection:
        rows = waiting(connection, WAITING)
    for start in range(0, PLANS * AT_ONCE, AT_ONCE):
        with session.transaction() as connection:
            assert all(SettleAll.run_all(connection, [settlement(row) for row in rows[start : start + AT_ONCE]]))
            assert connection.execute(_READ).one() == (0, 0)


def test_who_is_looked_up_by_id_is_not_looked_for_among_all_that_wait(session: Session) -> None:
    """Statistics from when next to nothing waited would make that look cheap."""
    with session.transaction() as connection:
        waiting(connection, 1)
        connection.execute(text("ANALYZE deliveries"))
    with session.transaction() as connection:
        rows = waiting(connection, WAITING)
    ids = [row.id for row in rows[:AT_ONCE]]
    for row in rows[AT_ONCE : AT_ONCE + PLANS]:
        with session.transaction() as connection:
            assert len(queue.waiting(connection, ids)) == AT_ONCE
            misdated.bring_forward(connection, ids, 100)
            assert history.cancel(connection, 1, row.notification_id) == [row.id]
            assert connection.execute(_READ).one() == (0, 0)
