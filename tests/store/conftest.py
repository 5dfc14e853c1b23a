"""Databases and servers of PostgreSQL."""

from collections.abc import Iterator

import pytest

from support import postgresql


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
