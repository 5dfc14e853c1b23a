"""How PostgreSQL finds the rows of its hot statements while its tables are new: it keeps that plan when they have grown."""

import itertools
import re

import psycopg
import pytest

from tocsin.store import claims, due
from tocsin.store.dialects.connecting import PLANNED_ONCE, postgresql_engine
from tocsin.store.migrating import migrate
from tocsin.store.statements import Statement


@pytest.mark.parametrize(
    ("what", "indexes"),
    [
        (claims._CLAIM, {"pk_workers", "pk_deliveries", "pk_handlers", "pk_partitions"}),
        (due._ON_POSTGRESQL[False], {"ix_deliveries_pending"}),
        (due._ON_POSTGRESQL[True], {"ix_deliveries_pending_critical"}),
        (due._BY_ID, {"pk_deliveries"}),
        (due._PENDING_BY_ID, {"pk_deliveries"}),
        (due._TEXTS, {"pk_notifications"}),
    ],
)
def test_rows_are_found_by_their_keys_and_no_table_is_looked_through(url: str, what: str | Statement, indexes: set[str]) -> None:
    engine = postgresql_engine(url)
    migrate(engine)
    statement = what if isinstance(what, str) else what.on_postgresql(engine.dialect)
    numbers = itertools.count(1)
    numbered = re.sub("%s", lambda _: f"${next(numbers)}", statement)
    nothing = ", ".join(["NULL"] * (next(numbers) - 1))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(PLANNED_ONCE)
        connection.execute(f"PREPARE asked AS {numbered}")
        plan = [row[0] for row in connection.execute(f"EXPLAIN EXECUTE asked({nothing})")]
    assert {found[1] for line in plan if (found := re.search(r"using (\w+)", line))} == indexes, "\n".join(plan)
    assert not [line for line in plan if "Seq Scan" in line or "Bitmap" in line]
