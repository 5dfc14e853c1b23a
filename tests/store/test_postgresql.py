"""A database of a PostgreSQL server before its service: its form, its URL, what is refused."""

import os
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import inspect, select

from support import postgresql
from tocsin import datadir
from tocsin.cli.selftest.many.postgresql import execute
from tocsin.cli.selftest.many.relay import Relay
from tocsin.partitions import PARTITIONS
from tocsin.ports.errors import Finding, StoreError
from tocsin.settings import Settings
from tocsin.store import shared_tables, tables
from tocsin.store.dialects import connecting
from tocsin.store.dialects.connecting import postgresql_engine
from tocsin.store.homes import postgresql_server
from tocsin.store.homes.postgresql_server import PostgresqlServer
from tocsin.store.migrating import migrate


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


def test_what_a_start_looks_at_is_asked_over_one_connection(
    url: str, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(TOCSIN_DATABASE_URL=url, TOCSIN_SECRET_KEY="a-key-for-tests-only")
    engine, _ = datadir.open_store(settings)
    engine.dispose()
    made: list[Any] = []

    def counted(parameters: dict[str, Any]) -> Any:
        made.append(driver := connecting.connect(parameters))
        return driver

    monkeypatch.setattr(postgresql_server, "connect", counted)
    assert datadir.examine(settings) is not None
    assert [one.closed for one in made] == [True]
    PostgresqlServer(url).check_form()
    assert [one.closed for one in made] == [True, True]


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
    encoded = connecting.parameters_of(f"postgresql://user:{quote(password, safe='')}@localhost/d%40b?host=@socket")
    assert (encoded["password"], encoded["dbname"], encoded["host"]) == (password, "d@b", "@socket")


@pytest.mark.parametrize("place", ["user:hunter2/db", "user:hunter2", "one,user:hunter2/db"])
def test_a_password_in_the_place_of_a_port_is_not_shown(place: str) -> None:
    with pytest.raises(StoreError, match="percent-encoded") as raised:
        PostgresqlServer(f"postgresql://{place}")
    assert "hunter" not in str(raised.value)
    assert connecting.parameters_of("postgresql://user@one:5432,two:5433,three/db")["port"] == "5432,5433,"


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


@pytest.fixture
def limited(url: str) -> Iterator[str]:
    """The same database for a user who may do nothing in it but connect, as everybody may since PostgreSQL 15."""
    role = f"limited_{os.getpid()}"
    execute(url, f"CREATE ROLE {role} LOGIN")
    try:
        yield url.replace("tocsin@", f"{role}@", 1)
    finally:
        execute(url, f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_check_says_that_the_user_may_not_create_tables(url: str, limited: str) -> None:
    def found(url: str) -> list[Finding]:
        return [one for one in PostgresqlServer(url).findings() if "CREATE" in one.text]

    [fault] = found(limited)
    assert re.search(r"User limited_\d+ may not create tables in schema public of the database \w+, so no store can be made: run"
                     r" `GRANT CREATE ON SCHEMA public TO limited_\d+` there as its owner\.$", fault.text)  # fmt: skip
    assert fault.is_fault and found(url) == []
    execute(url, f"CREATE TABLE theirs (id int); GRANT SELECT ON theirs TO {fault.text.split()[1]}")
    [note] = found(limited)
    assert "the next version cannot" in note.text and not note.is_fault


def test_a_database_without_a_schema_for_the_user_is_refused(url: str, limited: str) -> None:
    execute(url, "REVOKE USAGE ON SCHEMA public FROM public")
    with pytest.raises(StoreError, match=r"may use no schema of the search path \(\"\$user\", public\)"):
        PostgresqlServer(limited).is_there()


def test_a_pooler_is_refused(server: postgresql.Server) -> None:
    """It tells its clients process numbers of its own."""
    key_data = re.compile(rb"K\x00\x00\x00\x0c....", re.DOTALL)  # https://www.postgresql.org/docs/current/protocol-message-formats.html
    proxy = Relay(f"{server.folder}/.s.PGSQL.5432", lambda data: key_data.sub(b"K\x00\x00\x00\x0c\x00\x00\x00\x07", data))
    with pytest.raises(StoreError, match="leads to a connection pooler"):
        PostgresqlServer(f"postgresql://tocsin@127.0.0.1:{proxy.port}/postgres").is_there()
    proxy.close()
