"""Who may not join the processes on a database says why in one sentence, and ends."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from e2e.service import Service
from e2e.stores import KEY
from support import postgresql
from support.shared import beside
from tocsin import __version__, datadir
from tocsin.settings import load


@pytest.fixture
def url(postgresql_server: None) -> Iterator[str]:
    """A database with a store."""
    with postgresql.store_database() as made:
        yield made


def test_a_process_that_is_two_versions_away_ends_with_a_sentence(url: str, tmp_path: Path) -> None:
    service = Service(tmp_path, TOCSIN_DATABASE_URL=url, TOCSIN_SECRET_KEY=KEY, TOCSIN_ROLE="worker")
    with beside(url, "0.9.0"):
        *logged, said = service.refused().splitlines()
        assert said.startswith(f"tocsin: This is tocsin {__version__}, and other-1, which serves the same store, is 0.9.0: ")
        assert not [line for line in logged if '"level":"error"' in line or not line.startswith("{")], logged
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT name FROM workers").fetchall() == [("other-1",)]


def test_a_process_that_cannot_open_what_the_others_wrote_ends_with_a_sentence(url: str, tmp_path: Path) -> None:
    others = load({"TOCSIN_DATA_DIR": str(tmp_path), "TOCSIN_DATABASE_URL": url, "TOCSIN_SECRET_KEY": KEY}, dotenv=tmp_path / "none")
    datadir.open_store(others)[0].dispose()
    service = Service(tmp_path, TOCSIN_DATABASE_URL=url, TOCSIN_SECRET_KEY="a-key-that-the-others-do-not-have-1234", TOCSIN_ROLE="api")
    said = service.refused()
    assert said.startswith("tocsin: ") and "another key" in said and len(said.splitlines()) == 1
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT name FROM workers").fetchall() == []
