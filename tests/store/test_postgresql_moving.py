"""A SQLite store that moves into PostgreSQL, and what may keep it from that."""

import contextlib
import sqlite3
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tocsin import datadir, moving
from tocsin.cli.selftest.many.postgresql import execute
from tocsin.ports.errors import StoreError
from tocsin.settings import load
from tocsin.store import values
from tocsin.store.dialects import copying
from tocsin.store.sql import write_now


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


def test_a_command_that_waited_for_a_store_that_was_moved_meanwhile_is_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has opened the store before."""
    old = tmp_path / "old"
    old.mkdir()
    engine, _ = datadir.open_store(load({"TOCSIN_DATA_DIR": str(old)}, dotenv=tmp_path / "none.env"))
    copy = copying.copy

    with ThreadPoolExecutor(1) as threads:
        waiting: list[Future[None]] = []

        def copied(*args: Any) -> int:
            waiting.append(threads.submit(write_now, engine, lambda connection: values.write(connection, "late", b"")))
            return copy(*args)

        monkeypatch.setattr(copying, "copy", copied)
        new = load({"TOCSIN_DATA_DIR": str(tmp_path / "new"), "TOCSIN_DATABASE_URL": url}, dotenv=tmp_path / "none.env")
        moving.move(new, old, lambda *_: None)
        with pytest.raises(StoreError, match="was moved to the database"):
            waiting[0].result()
    engine.dispose()


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
