"""What only a store on a PostgreSQL server can meet: a connection that breaks, a server that goes, an answer that is lost."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, Engine, inspect, select, text
from sqlalchemy.exc import DBAPIError

from conftest import run
from support import postgresql
from support.store import STORES, OpenStore, accept_one, accepting, add_handler, attempt, delivered, settled
from tocsin import datadir, moving
from tocsin.model import Busy, Reason, Status
from tocsin.partitions import PARTITIONS
from tocsin.ports.errors import StoreError, WriteFailed
from tocsin.ports.handlers import HandlerEvent, SwitchOff
from tocsin.ports.history import DeliveryFilter
from tocsin.ports.queue import Settlement
from tocsin.settings import load
from tocsin.store import dialects, shared_tables, tables, values
from tocsin.store.dialects import copying
from tocsin.store.dialects import postgresql as dialect
from tocsin.store.dialects.postgresql import postgresql_engine
from tocsin.store.homes.postgresql_server import PostgresqlServer
from tocsin.store.migrating import migrate
from tocsin.store.sql import SqlStore, write_now

TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"

HOLDERS = (  # of this database's locks by name
    "SELECT pid FROM pg_locks JOIN pg_database ON pg_database.oid = database"
    " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
)


@pytest.fixture
def url(postgresql_server: None) -> Iterator[str]:
    """An empty database."""
    with postgresql.database(postgresql.shared_url(postgresql.shared_folder())) as made:
        yield made


@pytest.fixture
def server() -> Iterator[postgresql.Server]:
    one = postgresql.Server()
    try:
        yield one.start()
    finally:
        one.remove()


async def untroubled(store: SqlStore) -> None:
    while store.vitals.trouble is not None:
        await asyncio.sleep(0.05)


def execute(url: str, statement: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        done = connection.execute(statement)
        while done.nextset():
            pass
        return done.fetchall() if done.description else []


# ------------------------------------------------------------------------------------------------------------ the form


def test_a_new_store_has_the_tables_and_indexes_that_are_known_here(url: str) -> None:
    engine = postgresql_engine(url)
    migrate(engine)
    with engine.connect() as connection:
        found = inspect(connection)
        for table in (*tables.metadata.sorted_tables, *shared_tables.metadata.sorted_tables):
            columns = {
                column["name"]: (column["type"].compile(engine.dialect).partition(" COLLATE")[0], column["nullable"])
                for column in found.get_columns(table.name)
            }
            assert columns == {column.name: (str(column.type.compile(engine.dialect)), column.nullable) for column in table.columns}
            assert found.get_pk_constraint(table.name)["constrained_columns"] == [column.name for column in table.primary_key]
            indexes = {one["name"]: one["column_names"] for one in found.get_indexes(table.name) if not one["unique"]}
            known = {index.name: [column.name for column in index.columns] for index in table.indexes}
            partial_ones = {one["name"] for one in found.get_indexes(table.name) if "postgresql_where" in one.get("dialect_options", {})}
            known_partial = {index.name for index in table.indexes if index.dialect_options["sqlite"]["where"] is not None}
            if table is tables.deliveries:
                known |= shared_tables.INDEXES
                known_partial |= shared_tables.INDEXES.keys()
            assert (indexes, partial_ones) == (known, known_partial)
        assert set(found.get_sequence_names()) >= {shared_tables.SLOTS}
        assert set(found.get_table_names()) == {*tables.metadata.tables, *shared_tables.metadata.tables, "alembic_version"}
        numbers = connection.execute(select(shared_tables.partitions.c.partition)).scalars().all()
        assert sorted(numbers) == list(range(PARTITIONS))
    engine.dispose()


def test_tables_that_grow_with_every_message_have_no_foreign_keys_to_look_at(url: str) -> None:
    engine = postgresql_engine(url)
    migrate(engine)
    with engine.connect() as connection:
        found = {table.name for table in tables.metadata.sorted_tables if inspect(connection).get_foreign_keys(table.name)}
    engine.dispose()
    known = {table.name for table in tables.metadata.sorted_tables if table.foreign_keys}
    assert known - found == {"notifications", "deliveries", "attempts", "replays"}


def test_names_are_ordered_by_their_bytes_whatever_the_language_of_the_database(url: str) -> None:
    """What is looked for by its beginning would not be found otherwise: many languages' orders skip over `:`."""
    engine = postgresql_engine(url)
    migrate(engine)
    engine.dispose()
    collation = "SELECT collation_name FROM information_schema.columns WHERE table_name = 'meta' AND column_name = 'name'"
    assert execute(url, collation) == [("C",)]


def test_a_database_with_other_tables_is_refused_and_left_alone(url: str) -> None:
    execute(url, "CREATE TABLE theirs (id int)")
    database = PostgresqlServer(url)
    assert database.is_there()
    with pytest.raises(StoreError, match="holds other tables"):
        database.check_form()
    assert execute(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == [("theirs",)]


def test_the_form_is_compared_with_what_its_version_says(url: str) -> None:
    engine = postgresql_engine(url)
    migrate(engine)
    engine.dispose()
    PostgresqlServer(url).check_form()
    execute(url, "ALTER TABLE users DROP COLUMN is_admin")
    with pytest.raises(StoreError, match="users differs in is_admin"):
        PostgresqlServer(url).check_form()


def test_no_sentence_about_an_unreadable_url_repeats_its_password() -> None:
    with pytest.raises(StoreError, match="percent-encoded") as raised:
        PostgresqlServer("postgresql://user:hunter%zz2@host/db")
    assert "hunter" not in str(raised.value) and raised.value.__cause__ is None


def test_a_password_is_in_no_error_and_no_repr(url: str) -> None:
    with_password = "postgresql://tocsin:hunter2@127.0.0.1:1/tocsin"
    with pytest.raises(StoreError, match="cannot be reached") as raised:
        PostgresqlServer(with_password).is_there()
    assert "hunter2" not in str(raised.value)
    assert "hunter2" not in repr(postgresql_engine(with_password)) + PostgresqlServer(with_password).name


@pytest.mark.parametrize("password", ["hunter@2", "hunter/2", "@hunter@", "hunt@er/2"])
def test_no_part_of_a_password_that_is_not_encoded_is_taken_for_a_name(password: str) -> None:
    with pytest.raises(StoreError, match="percent-encoded") as raised:
        PostgresqlServer(f"postgresql://user:{password}@localhost/db")
    assert "hunt" not in str(raised.value)
    encoded = dialect.parameters_of(f"postgresql://user:{quote(password, safe='')}@localhost/d%40b?host=@socket")
    assert (encoded["password"], encoded["dbname"], encoded["host"]) == (password, "d@b", "@socket")


@pytest.mark.parametrize("place", ["user:hunter2/db", "user:hunter2", "one,user:hunter2/db"])
def test_a_password_in_the_place_of_a_port_is_not_shown(place: str) -> None:
    with pytest.raises(StoreError, match="percent-encoded") as raised:
        PostgresqlServer(f"postgresql://{place}")
    assert "hunter" not in str(raised.value)
    assert dialect.parameters_of("postgresql://user@one:5432,two:5433,three/db")["port"] == "5432,5433,"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_character_is_refused(postgresql_server: None, encoding: str) -> None:
    shared = postgresql.shared_url(postgresql.shared_folder())
    name = f"tocsin_{encoding.lower()}_{os.getpid()}"
    execute(shared, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        with pytest.raises(StoreError, match=f"cannot hold every character \\({encoding}\\): make one with ENCODING 'UTF8'"):
            PostgresqlServer(postgresql.in_database(shared, name)).is_there()
    finally:
        execute(shared, f"DROP DATABASE {name}")


def test_a_server_that_is_too_old_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.store.homes.postgresql_server.MIN_VERSION", 99)
    with pytest.raises(StoreError, match=r"is of version .* tocsin needs 99 or newer"):
        PostgresqlServer(url).is_there()


def test_a_pooler_is_refused(server: postgresql.Server) -> None:
    """It tells its clients process numbers of its own."""
    key_data = re.compile(rb"K\x00\x00\x00\x0c....", re.DOTALL)  # https://www.postgresql.org/docs/current/protocol-message-formats.html
    proxy = Proxy(f"{server.folder}/.s.PGSQL.5432", lambda data: key_data.sub(b"K\x00\x00\x00\x0c\x00\x00\x00\x07", data))
    with pytest.raises(StoreError, match="leads to a connection pooler"):
        PostgresqlServer(f"postgresql://tocsin@127.0.0.1:{proxy.port}/postgres").is_there()
    proxy.close()


def test_no_command_writes_to_a_store_while_it_is_moved(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it wrote would be missing afterwards."""
    old = tmp_path / "old"
    old.mkdir()
    engine, _ = datadir.open_store(load({"TOCSIN_DATA_DIR": str(old)}, dotenv=tmp_path / "none.env"))
    engine.dispose()
    copy = copying.copy
    refused: list[str] = []

    def copied(*args: Any) -> int:
        found = copy(*args)
        with contextlib.closing(sqlite3.connect(old / "tocsin.db", timeout=0)) as other:
            try:
                other.execute("INSERT INTO meta (name, value) VALUES ('late', x'00')")
            except sqlite3.OperationalError as error:
                refused.append(str(error))
            other.commit()
        return found

    monkeypatch.setattr(copying, "copy", copied)
    new = load({"TOCSIN_DATA_DIR": str(tmp_path / "new"), "TOCSIN_DATABASE_URL": url}, dotenv=tmp_path / "none.env")
    assert moving.move(new, old, lambda *_: None) == len(execute(url, "SELECT name FROM meta"))
    assert refused == ["database is locked"]
    with pytest.raises(StoreError, match="was moved to the database"):
        datadir.file_of(old).check_form()


def test_a_database_that_nothing_can_be_moved_into_says_why_and_the_store_still_starts(url: str, tmp_path: Path) -> None:
    old = load({"TOCSIN_DATA_DIR": str(tmp_path)}, dotenv=tmp_path / "none.env")
    engine, _ = datadir.open_store(old)
    engine.dispose()
    name = execute(url, "SELECT current_database()")[0][0]
    execute(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    new = load({"TOCSIN_DATA_DIR": str(tmp_path / "new"), "TOCSIN_DATABASE_URL": url}, dotenv=tmp_path / "none.env")
    with pytest.raises(StoreError, match="only lets the store be read"):
        moving.move(new, tmp_path, lambda *_: None)
    engine, _ = datadir.open_store(old)
    engine.dispose()


# ------------------------------------------------------------------------------------------------------------ one service


def test_a_second_service_is_refused_and_a_lock_that_was_lost_is_taken_again(url: str) -> None:
    database, other = PostgresqlServer(url), PostgresqlServer(url)
    told: list[str] = []
    with database.lock(told.append):
        with pytest.raises(StoreError, match="already"), other.lock(told.append):
            pass
        [(pid,)] = execute(url, HOLDERS)
        execute(url, f"SELECT pg_terminate_backend({pid})")
        while not (found := execute(url, HOLDERS)) or found == [(pid,)]:
            pass
    with other.lock(told.append):
        assert told == []


def test_who_finds_the_lock_taken_after_an_outage_says_so(url: str) -> None:
    taken, told = threading.Event(), []

    def lost(why: str) -> None:
        told.append(why)
        taken.set()

    with PostgresqlServer(url).lock(lost), psycopg.connect(url, autocommit=True) as thief:
        [(pid,)] = execute(
            url,
            HOLDERS,
        )
        execute(url, f"SELECT pg_terminate_backend({pid})")
        thief.execute("SELECT pg_advisory_lock(%s, hashtext(current_schema()))", (0x746F6373,))
        assert taken.wait(10)
    assert "Another tocsin has taken" in told[0]


def test_a_session_that_only_we_know_to_be_broken_does_not_keep_us_from_our_own_lock(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network lost what would have told the server."""
    drivers: list[psycopg.Connection[Any]] = []
    locked = PostgresqlServer._locked

    def caught(self: PostgresqlServer, take: str) -> psycopg.Connection[Any]:
        drivers.append(locked(self, take))
        return drivers[-1]

    monkeypatch.setattr(PostgresqlServer, "_locked", caught)
    told: list[str] = []
    with PostgresqlServer(url).lock(told.append):
        [(pid,)] = execute(url, HOLDERS)
        [driver] = drivers
        kept = os.dup(driver.fileno())
        ours, theirs = socket.socketpair()
        theirs.close()
        os.dup2(ours.fileno(), driver.fileno())
        ours.close()
        while not told and (not (found := execute(url, HOLDERS)) or found == [(pid,)]):
            pass
        os.close(kept)
    assert told == []


# --------------------------------------------------------------------------------------------------------------- outages


def test_a_write_whose_connection_broke_before_its_commit_is_repeated(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_postgresql() as store:
            handler = await add_handler(store)
            breaks = [True]

            def write(connection: Any) -> int:
                if breaks:
                    breaks.clear()
                    execute(postgresql.database_of(tmp_path), TERMINATE)
                return connection.scalar(text("SELECT 1"))

            answers = await asyncio.gather(store.database.write(write), *(store.intake.accept(accepting(handler)) for _ in range(20)))
            assert answers[0] == 1
            assert len({one.id for [one] in answers[1:]}) == 20
            assert (await store.history.notifications(1, 1, 25)).total == 20
            assert store.vitals.trouble is None

    run(main())


def test_a_write_that_hides_a_failed_statement_is_refused_and_takes_no_other_with_it(open_postgresql: OpenStore) -> None:
    """PostgreSQL would undo all of the transaction, and answer its commit as if it had been kept."""

    def hides(connection: Connection) -> str:
        with contextlib.suppress(DBAPIError):
            connection.execute(text("SELECT 1 / 0"))
        return "kept"

    async def main() -> None:
        async with open_postgresql() as store:
            handler = await add_handler(store)
            hidden, written = await asyncio.gather(
                store.database.write(hides), store.database.write(values.write, "mine", b"1"), return_exceptions=True
            )
            assert isinstance(hidden, WriteFailed) and written is None
            assert await store.values.read("mine") == b"1"
            await store.intake.accept(accepting(handler))

    run(main())


def test_connections_from_before_a_restart_are_replaced_and_a_server_that_ends_each_is_an_error_like_others(url: str) -> None:
    engine = postgresql_engine(url)
    with dialects.of(engine).reading(engine, 5) as first, dialects.of(engine).reading(engine, 5) as second:
        assert first.scalar(text("SELECT 1")) == second.scalar(text("SELECT 1")) == 1
    execute(url, TERMINATE)
    with dialects.of(engine).reading(engine, 5) as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    ends = b"BEGIN; SELECT pg_terminate_backend(pg_backend_pid())"
    with pytest.raises(DBAPIError, match="terminating connection"), dialect._begun(engine, ends, 5):
        pass
    engine.dispose()


@pytest.mark.parametrize("kept", [True, False])
def test_a_commit_whose_answer_was_lost_is_looked_up(open_postgresql: OpenStore, monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    """Kept or not, each message is there once, and is answered with its own id."""

    async def main() -> None:
        async with open_postgresql() as store:
            handler = await add_handler(store)
            commit = psycopg.Connection.commit
            lost: list[str] = []

            def lose(connection: psycopg.Connection[Any]) -> None:
                if threading.current_thread().name == "tocsin-writer" and not lost:
                    lost.append("lost")
                    if kept:
                        commit(connection)
                    socket.socket(fileno=socket.dup(connection.fileno())).shutdown(socket.SHUT_RDWR)
                    connection.execute("SELECT 1")
                commit(connection)

            monkeypatch.setattr(psycopg.Connection, "commit", lose)
            answers = await asyncio.gather(*(store.intake.accept(accepting(handler)) for _ in range(20)))
            assert lost == ["lost"]
            found = await store.history.deliveries(1, DeliveryFilter(), 1, 25)
            assert sorted(one.deliveries[0].id for [one] in answers) == sorted(one.id for one in found.rows)
            assert found.total == 20

    run(main())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
def test_a_server_that_goes_and_comes_back_loses_nothing(server: postgresql.Server, tmp_path: Path, how: signal.Signals) -> None:
    async def main() -> None:
        server.execute("CREATE DATABASE one")
        async with STORES["postgresql"](tmp_path, url=server.url("one")) as store:
            handler = await add_handler(store)
            before = await accept_one(store, handler)
            await asyncio.to_thread(server.kill if how is signal.SIGKILL else partial(server.stop, how))
            with pytest.raises(Busy):
                await store.intake.accept(accepting(handler))
            assert store.vitals.trouble is not None and "cannot be reached" in store.vitals.trouble
            with pytest.raises(Busy):
                await store.history.delivery(1, before.id)
            with pytest.raises(Busy):
                await settled(store, delivered(before))
            await asyncio.to_thread(server.start)
            await asyncio.wait_for(untroubled(store), 20)
            assert await settled(store, delivered(before))
            await store.intake.accept(accepting(handler))
            assert (await store.history.deliveries(1, DeliveryFilter(), 1, 25)).total == 2

    run(main())


def test_a_server_that_can_only_be_read_says_so(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_postgresql() as store:
            handler = await add_handler(store)
            own = postgresql.database_of(tmp_path)
            name = execute(own, "SELECT current_database()")[0][0]
            execute(own, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            execute(own, TERMINATE)
            with pytest.raises(Busy):
                await store.intake.accept(accepting(handler))
            assert store.vitals.trouble is not None and "only lets the store be read" in store.vitals.trouble
            assert (await store.handlers.get(handler)) is not None
            execute(own, f"BEGIN READ WRITE; ALTER DATABASE {name} RESET default_transaction_read_only; COMMIT")
            execute(own, TERMINATE)
            await asyncio.wait_for(untroubled(store), 20)
            await store.intake.accept(accepting(handler))

    run(main())


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("53100", "disk of the PostgreSQL server is full"),
        ("40001", "Another process holds"),
        ("42501", "lacks a permission"),
        ("XX001", "damaged"),
    ],
)
def test_what_the_server_refuses_for_its_own_reasons_is_said_and_asked_again(
    open_postgresql: OpenStore, tmp_path: Path, code: str, sentence: str
) -> None:
    async def main() -> None:
        async with open_postgresql() as store:
            handler = await add_handler(store)
            own = postgresql.database_of(tmp_path)
            refuse = f"BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END"
            execute(own, f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {refuse} $$")
            for table in ("notifications", "meta"):
                execute(own, f"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION refuse()")
            refused = await asyncio.gather(*(store.intake.accept(accepting(handler)) for _ in range(5)), return_exceptions=True)
            assert all(isinstance(one, Busy) for one in refused)
            assert store.vitals.trouble is not None and sentence in store.vitals.trouble
            execute(own, "DROP FUNCTION refuse CASCADE")
            await asyncio.wait_for(untroubled(store), 20)
            await store.intake.accept(accepting(handler))

    run(main())


@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_writes_that_meet_another_transaction_are_repeated_and_nobody_is_told(
    open_postgresql: OpenStore, tmp_path: Path, code: str
) -> None:
    async def main() -> None:
        async with open_postgresql() as store:
            handler = await add_handler(store)
            own = postgresql.database_of(tmp_path)
            # A sequence counts on where the rest is undone.
            refuse = f"IF nextval('met') <= 2 THEN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '{code}'; END IF; RETURN NEW;"
            execute(own, "CREATE SEQUENCE met")
            execute(own, f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {refuse} END $$")
            execute(own, "CREATE TRIGGER refuse BEFORE INSERT ON deliveries FOR EACH STATEMENT EXECUTE FUNCTION refuse()")
            answers = await asyncio.gather(*(store.intake.accept(accepting(handler)) for _ in range(20)))
            assert len({one.id for [one] in answers}) == 20
            assert execute(own, "SELECT last_value FROM met") == [(3,)]
            assert (await store.history.deliveries(1, DeliveryFilter(), 1, 25)).total == 20
            assert store.vitals.trouble is None

    run(main())


def test_what_another_process_writes_is_heard_of(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        changed = asyncio.Event()
        async with open_postgresql(changed.set) as store:
            await add_handler(store)
            await asyncio.wait_for(changed.wait(), 10)  # the connection is new: anything may have changed
            changed.clear()
            await add_handler(store)
            assert not changed.is_set()
            engine = postgresql_engine(postgresql.database_of(tmp_path))
            await asyncio.to_thread(write_now, engine, lambda connection: connection.execute(text("UPDATE users SET is_admin = FALSE")))
            engine.dispose()
            await asyncio.wait_for(changed.wait(), 10)

    run(main())


def test_a_connection_to_a_standby_that_is_then_promoted_hears_of_others(
    open_postgresql: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A standby takes connections and refuses to listen; promoted, it keeps them."""
    is_standby = threading.Event()
    connect = dialect.connect

    def connected(parameters: dict[str, Any]) -> psycopg.Connection[Any]:
        driver = connect(parameters)
        execute_ = driver.execute

        def refusing(query: Any, *args: Any, **more: Any) -> Any:
            if is_standby.is_set() and str(query).startswith("LISTEN"):
                raise psycopg.errors.ReadOnlySqlTransaction("cannot execute LISTEN during recovery")
            return execute_(query, *args, **more)

        monkeypatch.setattr(driver, "execute", refusing)
        return driver

    monkeypatch.setattr(dialect, "connect", connected)

    async def main() -> None:
        changed = asyncio.Event()
        async with open_postgresql(changed.set) as store:
            handler = await add_handler(store)
            own = postgresql.database_of(tmp_path)
            await asyncio.wait_for(changed.wait(), 10)  # the connection is new: anything may have changed
            changed.clear()
            is_standby.set()
            execute(own, TERMINATE)
            with pytest.raises(Busy):
                await store.intake.accept(accepting(handler))
            is_standby.clear()
            await asyncio.wait_for(untroubled(store), 20)
            await asyncio.wait_for(changed.wait(), 10)
            changed.clear()
            await asyncio.to_thread(execute, own, "NOTIFY tocsin_changes")
            await asyncio.wait_for(changed.wait(), 10)

    run(main())


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


def test_a_reading_is_interrupted(url: str) -> None:
    engine = postgresql_engine(url)
    with pytest.raises(Exception, match="statement timeout"), dialects.of(engine).reading(engine, 0.05) as connection:
        connection.execute(text("SELECT pg_sleep(30)"))
    engine.dispose()


class Proxy:
    """It acknowledges whatever comes, and after `stop` hands nothing on. `changed`: what becomes of what the server says."""

    def __init__(self, target: str, changed: Callable[[bytes], bytes] = lambda data: data) -> None:
        self._target = target
        self._changed = changed
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self) -> None:
        self._open.clear()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours, _ = self._listener.accept()
                theirs = socket.socket(socket.AF_UNIX)
                theirs.connect(self._target)
                for one, other in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._hand_on, args=(one, other), daemon=True).start()

    def _hand_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if self._open.is_set():
                    other.sendall(self._changed(data) if other.family is socket.AF_INET else data)
            other.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()


def test_a_server_that_falls_silent_is_hung_up_on(server: postgresql.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine is gone, and something in between goes on acknowledging."""
    monkeypatch.setattr("tocsin.store.dialects.postgresql.GRACE_SECONDS", 0.2)
    proxy = Proxy(f"{server.folder}/.s.PGSQL.5432")
    engine: Engine = postgresql_engine(f"postgresql://tocsin@127.0.0.1:{proxy.port}/postgres")
    with pytest.raises(Exception, match=r"closed the connection|connection is closed|lost"):  # noqa: SIM117
        with dialects.of(engine).reading(engine, 0.1) as connection:
            proxy.stop()
            connection.execute(text("SELECT 1"))
    engine.dispose()
    proxy.close()
