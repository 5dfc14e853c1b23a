"""The form of a database that several processes serve: who makes it, who upgrades it, and who may go on meanwhile."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support import postgresql
from support.shared import beside
from tocsin import __version__, datadir, moving, upkeep
from tocsin.ports.errors import StoreError
from tocsin.settings import Settings, load
from tocsin.store import migrations
from tocsin.store.dialects.connecting import postgresql_engine
from tocsin.store.homes.postgresql_server import PostgresqlServer
from tocsin.store.migrating import SERVES, migrate_to

FORMS = sorted(one.name[1:5] for one in Path(*migrations.__path__, "versions").glob("v*.py"))
BEFORE = FORMS[FORMS.index(migrations.HEAD) - 1]
NEWER = f"{int(migrations.HEAD) + 1:04}"


@pytest.fixture
def url(postgresql_server: None) -> Iterator[str]:
    """An empty database."""
    with postgresql.database(postgresql.shared_url(postgresql.shared_folder())) as made:
        yield made


def settings_of(url: str, folder: Path, key: str = "a-key-for-tests-only") -> Settings:
    environ = {"TOCSIN_DATA_DIR": str(folder), "TOCSIN_DATABASE_URL": url, "TOCSIN_SECRET_KEY": key}
    return load(environ, dotenv=folder / "none.env")


def execute(url: str, statement: str, *values: Any) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        done = connection.execute(statement.encode(), values or None)
        return done.fetchall() if done.description else []


def version(url: str) -> str:
    return execute(url, "SELECT version_num FROM alembic_version")[0][0]


def test_an_older_form_is_upgraded_by_the_command_only(url: str, tmp_path: Path) -> None:
    engine = postgresql_engine(url)
    migrate_to(engine, BEFORE)
    engine.dispose()
    settings = settings_of(url, tmp_path)
    with pytest.raises(StoreError, match=r"older version .*run `tocsin migrate` first"):
        datadir.open_store(settings)
    assert version(url) == BEFORE
    with datadir.served(settings, lambda _: None):  # a process of the older version goes on
        moving.upgrade(settings)
    assert version(url) == migrations.HEAD
    datadir.open_store(settings)[0].dispose()


@pytest.mark.parametrize(("of", "is_allowed"), [("0.0.9", False), ("0.1.7", True), (__version__, True)])
def test_an_upgrade_waits_for_processes_that_are_two_versions_older(url: str, tmp_path: Path, of: str, is_allowed: bool) -> None:
    engine = postgresql_engine(url)
    migrate_to(engine, BEFORE)
    engine.dispose()
    settings = settings_of(url, tmp_path)
    with beside(url, of, "old-1"):
        if not is_allowed:
            with pytest.raises(StoreError, match=rf"away from this one, {__version__}: old-1 \({of}\)\. .*--force"):
                moving.upgrade(settings)
            assert version(url) == BEFORE
        moving.upgrade(settings, force=not is_allowed)
        assert version(url) == migrations.HEAD
        moving.upgrade(settings)  # there is nothing to upgrade


def test_other_tables_are_no_store_to_upgrade(url: str, tmp_path: Path) -> None:
    execute(url, "CREATE TABLE things (id int)")
    for force in (False, True):
        with pytest.raises(StoreError, match=r"is not a tocsin store: it holds other tables"):
            moving.upgrade(settings_of(url, tmp_path), force=force)


def test_who_was_killed_long_ago_keeps_nobody_from_upgrading(url: str, tmp_path: Path) -> None:
    engine = postgresql_engine(url)
    migrate_to(engine, BEFORE)
    engine.dispose()
    with beside(url, "0.0.9", "old-1"):
        pass
    execute(url, "UPDATE workers SET beat_at = beat_at - 11000000")
    moving.upgrade(settings_of(url, tmp_path))
    assert version(url) == migrations.HEAD


def test_a_newer_form_is_taken_if_it_serves_this_version_too(url: str, tmp_path: Path) -> None:
    settings = settings_of(url, tmp_path)
    datadir.open_store(settings)[0].dispose()
    execute(url, "UPDATE alembic_version SET version_num = %s", NEWER)
    execute(url, "ALTER TABLE handlers ADD COLUMN newer text")
    execute(url, "UPDATE meta SET value = %s WHERE name = %s", migrations.HEAD.encode(), SERVES)
    datadir.open_store(settings)[0].dispose()
    assert version(url) == NEWER
    execute(url, "UPDATE meta SET value = %s WHERE name = %s", NEWER.encode(), SERVES)
    with pytest.raises(StoreError, match="made by a newer version"):
        datadir.open_store(settings)


def test_services_share_a_store_and_a_command_has_it_for_itself(url: str, tmp_path: Path) -> None:
    one, other = (settings_of(url, tmp_path / name) for name in "ab")
    for own in (one, other):
        datadir.open_store(own)[0].dispose()
    with datadir.served(one, print, alone=False), datadir.served(other, print, alone=False):
        assert datadir.is_served(settings_of(url, tmp_path / "c"))
        with pytest.raises(StoreError, match="is served already"):
            upkeep.move_on(settings_of(url, tmp_path / "c"))
    with datadir.served(one, print), pytest.raises(StoreError, match="command has"), datadir.served(other, print, alone=False):
        pass


def started_at_once(settings: list[Settings]) -> list[str]:
    """How the start of each ended; empty if it opened the store."""
    together = threading.Barrier(len(settings))
    ended: list[str] = []

    def start(own: Settings) -> None:
        together.wait()
        try:
            datadir.open_store(own)[0].dispose()
        except StoreError as error:
            ended.append(str(error))
        else:
            ended.append("")

    threads = [threading.Thread(target=start, args=(own,)) for own in settings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(ended)


def test_of_those_that_start_at_once_on_an_empty_database_one_makes_the_store(url: str, tmp_path: Path) -> None:
    assert started_at_once([settings_of(url, tmp_path / str(number)) for number in range(4)]) == [""] * 4
    assert version(url) == migrations.HEAD
    PostgresqlServer(url).check_form()


def test_of_those_that_start_at_once_with_different_keys_one_gets_the_store(url: str, tmp_path: Path) -> None:
    opened, *refused = started_at_once([settings_of(url, tmp_path / str(number), f"another-key-of-{number}-each") for number in range(3)])
    assert opened == "" and all("made with another key" in sentence for sentence in refused) and len(refused) == 2
