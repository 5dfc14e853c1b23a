"""Statements made from the tables: what they say on either store, and what a row must have."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, select
from sqlalchemy.dialects import postgresql

from support import postgresql as support_postgresql
from tocsin.model import Reason, Severity, Status
from tocsin.store import dialects, statements
from tocsin.store.dialects.connecting import postgresql_engine
from tocsin.store.migrating import migrate
from tocsin.store.statements import literal, run
from tocsin.store.tables import deliveries, idempotency, meta, notifications, totals

ADD = statements.upsert(totals, key=("user_id", "what", "slot"), adds=("n",))
CHANGE = statements.update(
    meta, key=("name", "value"), given=("value",), where="{value} <> name", guard={"name": "it's"}, returning=("name",)
)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = create_engine(f"sqlite:///{tmp_path / 'store'}")
    migrate(engine)
    with engine.connect() as found:
        yield found
    engine.dispose()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 255, 256, 257, 600])
def test_any_number_of_rows_is_written_and_found(connection: Connection, count: int) -> None:
    rows = [(user, 0, 1, 10 * user) for user in range(count)]
    assert run(connection, ADD, rows) == []
    run(connection, ADD, rows)
    assert sorted(connection.execute(select(totals)).all()) == [(user, 0, 1, 20 * user) for user in range(count)]
    look = statements.look(totals, key=("user_id", "what"), wanted=("user_id", "n"))
    assert sorted(run(connection, look, [(user, 0) for user in range(count + 9)])) == [(user, 20 * user) for user in range(count)]


def test_an_update_says_which_rows_were_as_it_wants_them(connection: Connection) -> None:
    add = statements.insert(meta, given=("name",), fixed={"value": "old"}, unless=("name",), returning=("name",))
    assert run(connection, add, [("it's",), ("other",)]) == [("it's",), ("other",)]
    assert run(connection, add, [("it's",)]) == []
    assert run(connection, CHANGE, [("it's", "old", "new"), ("other", "old", "new")]) == [("it's",)]
    assert run(connection, CHANGE, [("it's", "old", "newer")]) == []
    assert run(connection, CHANGE, [("it's", "new", "it's")]) == []
    found = dict(connection.execute(select(meta.c.name, meta.c.value)).all())
    assert (found["it's"], found["other"]) == ("new", "old")


def test_on_postgresql_each_column_is_an_array() -> None:
    assert ADD.on_postgresql(postgresql.dialect()) == (
        "INSERT INTO totals (user_id, what, slot, n) SELECT column1, column2, column3, column4"
        " FROM unnest(%s::BIGINT[], %s::SMALLINT[], %s::INTEGER[], %s::BIGINT[]) AS v(column1, column2, column3, column4)"
        " ON CONFLICT (user_id, what, slot) DO UPDATE SET n = totals.n + excluded.n"
    )
    assert CHANGE.on_postgresql(postgresql.dialect()) == (
        "UPDATE meta SET value = v.column3 FROM unnest(%s::TEXT[], %s::BYTEA[], %s::BYTEA[]) AS v(column1, column2, column3)"
        " WHERE meta.name = v.column1 AND meta.value = v.column2 AND meta.name = 'it''s' AND (v.column3 <> name) RETURNING name"
    )


def test_a_row_by_names_has_all_of_them() -> None:
    assert ADD.row(n=4, slot=3, what=2, user_id=1) == (1, 2, 3, 4)
    with pytest.raises(TypeError, match="takes user_id, what, slot, n; got user_id, n"):
        ADD.row(user_id=1, n=4)


def test_literals_mean_the_same_on_both_stores() -> None:
    values = [None, True, False, 7, "it's", Status.SKIPPED, Reason.HANDLER_PAUSED]
    assert [literal(value) for value in values] == ["NULL", "TRUE", "FALSE", "7", "'it''s'", "5", "'handler_paused'"]


TEXTS = ["", "plain", 'with "quotes", {braces} and \\', "with\nlines\tand tabs", "\u00fcber \ud55c\uae00 \U0001f514", "NULL", None]
ADD_NOTIFICATIONS = statements.insert(
    notifications,
    given=("id", "user_id", "created_at", "title", "text", "send_at", "is_text"),
    fixed={"kind": "notification", "severity": Severity.WARNING, "url": "it's", "fields": "[]", "expires_at": None},
)
ADD_DELIVERIES = statements.insert(
    deliveries,
    given=("id", "notification_id", "handler_id", "user_id", "due_at", "first_due_at", "created_at", "last_reason"),
    fixed={"status": Status.FAILED, "is_critical": True, "step": 3},
)
ADD_KEYS = statements.insert(idempotency, given=("user_id", "path", "key", "content", "answer", "created_at"))


@pytest.mark.parametrize("count", [3, 100])
def test_few_rows_and_many_are_the_same_on_postgresql(postgresql_server: None, count: int) -> None:
    """Many are copied in, in another form."""
    high = 2**40
    with support_postgresql.database(support_postgresql.shared_url(support_postgresql.shared_folder())) as url:
        engine = postgresql_engine(url)
        migrate(engine)
        texts = [TEXTS[number % len(TEXTS)] for number in range(count)]
        times = [None if number % 3 else high + number for number in range(count)]
        notes = [(n, high, n, text or "", text or "", at, n % 2) for n, (text, at) in enumerate(zip(texts, times, strict=True))]
        sent = [(n, high, -n, 1, high, 2, 3, text) for n, text in enumerate(texts)]
        kept = [(n, "path", "key", bytes(range(n % 256)), text or "", high) for n, text in enumerate(texts)]
        with dialects.of(engine).writing(engine) as connection:
            for statement, rows in ((ADD_NOTIFICATIONS, notes), (ADD_DELIVERIES, sent), (ADD_KEYS, kept)):
                assert run(connection, statement, rows) == []
                found = connection.execute(select(*(statement.table.c[name] for name in statement.columns)).order_by(statement.table.c[0]))
                assert [tuple(row) for row in found] == rows
            alike = select(notifications.c.kind, notifications.c.severity, notifications.c.url, notifications.c.expires_at).distinct()
            assert connection.execute(alike).all() == [("notification", "warning", "it's", None)]
            alike = select(deliveries.c.status, deliveries.c.is_critical, deliveries.c.step, deliveries.c.replays).distinct()
            assert connection.execute(alike).all() == [(Status.FAILED, True, 3, 0)]
            run(connection, ADD_KEYS, [(n, "a\0b", "key", b"", "", 1) for n in range(count)])
            assert connection.execute(select(idempotency.c.path).distinct().where(idempotency.c.created_at == 1)).all() == [("a\ufffdb",)]
        engine.dispose()
