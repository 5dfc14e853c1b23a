"""What only the store in SQLite does: its file seen from beside, its plans, its migrations."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Column, Connection, MetaData, Table, text

from conftest import run
from support.store import accept_one, add_handler, sqlite_store
from tocsin import datadir
from tocsin.model import Busy, Message, Status
from tocsin.ports.errors import StoreError
from tocsin.ports.handlers import HandlerFilter
from tocsin.ports.history import DeliveryFilter
from tocsin.ports.queue import Wanted
from tocsin.settings import load
from tocsin.store import due, handlers, history, queue, statements, values
from tocsin.store.sql import write_now


def test_another_process_that_writes_is_noticed(tmp_path: Path) -> None:
    async def main() -> None:
        noticed = asyncio.Event()
        async with sqlite_store(tmp_path, noticed.set) as store:
            await add_handler(store)
            await asyncio.sleep(0)
            assert not noticed.is_set()
            settings = load({"TOCSIN_DATA_DIR": str(tmp_path)}, dotenv=tmp_path / "none.env")
            other, _ = datadir.open_existing(settings)
            await asyncio.to_thread(write_now, other, lambda c: c.execute(text("UPDATE users SET is_admin = 0")))
            await asyncio.wait_for(noticed.wait(), 2)
            other.dispose()

    run(main())


def test_what_the_driver_itself_refuses_is_told_like_other_errors(tmp_path: Path) -> None:
    def write(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count=1")  # as on a full disk
        values.write(connection, "large", bytes(1 << 20))

    def read(connection: Connection) -> None:
        statements.run(connection, statements.look(Table("gone", MetaData(), Column("id")), ("id",), ("id",)), [(1,)])

    async def main() -> None:
        async with sqlite_store(tmp_path) as store:
            settings = load({"TOCSIN_DATA_DIR": str(tmp_path)}, dotenv=tmp_path / "none.env")
            other, _ = datadir.open_existing(settings)
            with pytest.raises(StoreError, match="The disk is full"):
                await asyncio.to_thread(write_now, other, write)
            other.dispose()
            with pytest.raises(Busy, match="cannot be read now"):
                await store.database.look(read)

    run(main())


@pytest.mark.parametrize(
    ("read", "index"),
    [
        (lambda c: due.due(c, {1: Wanted(5)}, 5), "ix_deliveries_pending"),
        (lambda c: due.first(c, {1: 0}, 10**18), "ix_deliveries_pending_critical"),
        (lambda c: queue.waiting_handlers(c), "ix_deliveries_pending"),
        (lambda c: history.deliveries_page(c, 1, DeliveryFilter(), 1, 25), "ix_deliveries_user_id_status_id"),
        (lambda c: history.deliveries_page(c, 1, DeliveryFilter(status=Status.PENDING), 1, 25), "ix_deliveries_user_id_status_id"),
        (
            lambda c: history.deliveries_page(c, 1, DeliveryFilter(notification_handler_id=1, status=Status.FAILED), 1, 25),
            "ix_deliveries_not_delivered",
        ),
        (lambda c: history.deliveries_page(c, 1, DeliveryFilter(notification_id=1), 1, 25), "ix_deliveries_notification_id"),
        (lambda c: handlers.handlers_page(c, 1, HandlerFilter(), 1, 25), "ix_handlers_user_id_live"),
        (lambda c: history.notifications_page(c, 1, 1, 25), "ix_notifications_user_id_id"),
    ],
)
def test_hot_reads_use_their_index_and_scan_no_table(tmp_path: Path, read, index: str) -> None:
    async def main() -> None:
        async with sqlite_store(tmp_path) as store:
            handler = await add_handler(store)
            await accept_one(store, handler)
            plans: list[str] = []

            def explained(connection):
                seen: list[tuple[str, object]] = []
                driver = connection.connection.driver_connection
                driver.set_trace_callback(lambda statement: seen.append(statement))
                read(connection)
                driver.set_trace_callback(None)
                for statement in seen:
                    if statement.lstrip().upper().startswith(("SELECT", "WITH")):
                        plans.extend(row[3] for row in driver.execute("EXPLAIN QUERY PLAN " + statement))

            await store.database.read(explained)
            assert any(index in plan for plan in plans), plans
            tables = ("deliveries", "notifications", "handlers")
            scans = [plan for plan in plans if plan.startswith(tuple(f"SCAN {table}" for table in tables)) and "INDEX" not in plan]
            assert scans == []

    run(main())


def test_tables_and_migrations_agree(tmp_path: Path) -> None:
    from alembic import command
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from tocsin.store.dialects.sqlite import sqlite_engine
    from tocsin.store.migrations import HEAD
    from tocsin.store.tables import metadata

    config = Config()
    config.set_main_option("script_location", "tocsin.store:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD
    engine = sqlite_engine(tmp_path / "x.db")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_what_an_older_version_accepted_is_markdown(tmp_path: Path) -> None:
    """Its statements name no column that came later: it may go on writing beside the new version."""
    from tocsin.store.dialects.sqlite import sqlite_engine
    from tocsin.store.migrating import migrate, migrate_to

    engine = sqlite_engine(tmp_path / "tocsin.db")
    migrate_to(engine, "0003")
    columns = "id, user_id, created_at, kind, severity, title, text, url, fields"
    insert = f"INSERT INTO notifications ({columns}) VALUES (?, 1, 100, 'notification', 'info', '', '*a*', '', '[]')"
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO users (id, email, is_admin, created_at) VALUES (1, 'a@example.com', 1, 1)")
        connection.exec_driver_sql(insert, (1,))
    migrate(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(insert, (2,))
    with engine.connect() as connection:
        for number in (1, 2):
            found = history.notification(connection, 1, number)
            assert found is not None and found[0].message == Message("*a*", at=100)


def test_a_new_store_stands_where_migrations_end(tmp_path: Path) -> None:
    from alembic.migration import MigrationContext

    from tocsin.store.dialects.sqlite import sqlite_engine
    from tocsin.store.migrating import migrate
    from tocsin.store.migrations import HEAD

    engine = sqlite_engine(tmp_path / "x.db")
    migrate(engine)
    migrate(engine)
    with engine.connect() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == HEAD


def test_a_process_with_a_sqlite_store_loads_nothing_of_postgresql(tmp_path: Path) -> None:
    program = """
import asyncio, sys
from tocsin import app, datadir, upkeep
from tocsin.settings import load
from tocsin.store.sql import SqlStore

async def main():
    engine, _ = datadir.open_store(load())
    store = SqlStore(engine, lambda: None)
    await store.vitals.backlog()
    await store.close()

asyncio.run(main())
print([name for name in sys.modules if "psycopg" in name or "postgresql" in name])
"""
    environ = {"PATH": os.environ["PATH"], "TOCSIN_DATA_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
