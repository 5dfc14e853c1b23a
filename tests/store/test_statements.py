"""Statements made from the tables: what they say on either store, and what a row must have."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, select
from sqlalchemy.dialects import postgresql

from tocsin.model import Reason, Status
from tocsin.store import statements
from tocsin.store.migrating import migrate
from tocsin.store.statements import literal, run
from tocsin.store.tables import meta, totals

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
