"""What is said while a store is brought to this version's form, and afterwards: in the log, and by `tocsin migrate`."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from sqlalchemy import Connection, delete

from support.store import STORES, stores_environ
from tocsin import __version__, datadir, moving
from tocsin.cli import show, upkeep
from tocsin.settings import Settings
from tocsin.store import migrating, migrations, values
from tocsin.store.sql import write_now
from tocsin.store.tables import meta

stores = pytest.fixture(params=STORES)(stores_environ)


class Lines:
    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.migrating = threading.Event()

    def __call__(self, event: str, **values: Any) -> None:
        self.told.append((event, values))
        if event == "store.migrating":
            self.migrating.set()

    def of(self, event: str) -> list[dict[str, Any]]:
        return [values for name, values in self.told if name == event]


@pytest.fixture
def settings(make_settings: Callable[..., Settings], stores: Mapping[str, str]) -> Settings:
    found = make_settings(**{"TOCSIN_SECRET_KEY": "a-key-for-tests-only", **stores})
    found.data_path.mkdir()
    return found


def test_a_change_of_version_is_said_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines()
    datadir.open_store(settings, told=lines)[0].dispose()
    assert lines.told == [] or settings.database_url  # a new store comes from nowhere; the tests' database has tables from the start
    monkeypatch.setattr(datadir, "__version__", "7.0.0")
    datadir.open_store(settings, told=lines)[0].dispose()
    lines.told.clear()
    for version in (b"0.1.7", None):  # none: the first version did not note itself
        engine = datadir.home_of(settings).engine()

        def noted(connection: Connection, version: bytes | None = version) -> None:
            connection.execute(delete(meta).where(meta.c.name == "program_version"))
            if version:
                values.write(connection, "program_version", version)

        write_now(engine, noted)
        engine.dispose()
        for _ in range(2):
            datadir.open_store(settings, told=lines)[0].dispose()
    assert [(one["before"], one["after"]) for one in lines.of("upgraded")] == [("0.1.7", "7.0.0"), ("0.1.0", "7.0.0")]
    assert all(one["seconds"] >= 0 for one in lines.of("upgraded"))


@pytest.fixture
def old(make_settings: Callable[..., Settings]) -> Settings:
    """Of a store in the first form."""
    found = make_settings(TOCSIN_SECRET_KEY="a-key-for-tests-only")
    found.data_path.mkdir()
    engine = datadir.home_of(found).engine()
    migrating.migrate_to(engine, "0001")
    engine.dispose()
    return found


def test_a_migration_that_takes_long_says_how_far_it_is(old: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, upgrade = Lines(), migrations.upgrade

    def slow(connection: Connection, version: str, applied: Callable[[str], None] | None = None) -> None:
        if applied is None:  # only to know what tables look like
            upgrade(connection, version)
            return
        upgrade(connection, version, applied)
        assert lines.migrating.wait(30)

    monkeypatch.setattr(migrations, "upgrade", slow)
    monkeypatch.setattr(migrating, "PROGRESS_SECONDS", 0.01)
    datadir.open_store(old, told=lines)[0].dispose()
    forms = [one["form"] for one in lines.of("store.migrating")]
    assert forms and "0001" <= forms[0] <= forms[-1] <= migrations.HEAD
    assert [one["before"] for one in lines.of("upgraded")] == ["0.1.0"]
    threads = [one.name for one in threading.enumerate()]
    assert "tocsin-migrating" not in threads


def test_the_command_says_it_too(old: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(show, "note", said.append)
    moving.upgrade(old, upkeep._say_upgrade)
    assert said[-1].startswith(f"Upgraded from 0.1.0 to {__version__}: the migration took ")
