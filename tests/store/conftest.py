"""Databases and servers of PostgreSQL."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from support import postgresql
from support.store import STORES, OpenStore


@pytest.fixture
def open_postgresql(postgresql_server: None, tmp_path: Path) -> Iterator[OpenStore]:
    """`conftest.open_store` for what only PostgreSQL does."""
    yield partial(STORES["postgresql"], tmp_path)
    postgresql.drop_databases()


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
