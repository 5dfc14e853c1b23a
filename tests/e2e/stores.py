"""Which stores a test runs on.

    pytestmark = both_stores        # at the top of a file, or @both_stores above a test
    @sqlite_only                    # above a test in such a file whose subject is SQLite's file; @postgresql_only the other way round

A test gets its store by way of `start_service` or a shared service. That of PostgreSQL has `postgresql` at the end of its name.
"""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support import postgresql

both_stores = pytest.mark.stores("sqlite", "postgresql")
both_stores_long = pytest.mark.stores("sqlite", "postgresql", long=True)
"""On PostgreSQL only in `make test-all`."""
sqlite_only = pytest.mark.stores("sqlite")
postgresql_only = pytest.mark.stores("postgresql")
KEY = "the-key-file-of-the-end-to-end-tests"


def parametrize(metafunc: pytest.Metafunc) -> None:
    """For `pytest_generate_tests`. What runs on SQLite keeps its name."""
    marker = metafunc.definition.get_closest_marker("stores")
    if marker is None or "store" not in metafunc.fixturenames:
        return
    kinds = [pytest.param("sqlite", id=pytest.HIDDEN_PARAM)] if "sqlite" in marker.args else []
    if "postgresql" in marker.args:
        marks = [pytest.mark.long] if marker.kwargs.get("long") else []
        kinds.append(pytest.param("postgresql", id="postgresql", marks=marks))
    metafunc.parametrize("store", kinds, indirect=True)


class Stores:
    """Makes stores of one kind for services, each in a folder of its own."""

    def __init__(self, kind: str, databases: ExitStack) -> None:
        self.kind = kind
        self._databases = databases

    def environ(self, folder: Path) -> dict[str, str]:
        """What a service needs to be told of its store; `folder / "data"` is its data directory."""
        if self.kind == "sqlite":
            return {}
        (folder / "data").mkdir(parents=True)
        key = folder / "data" / "secret.key"  # or its database, which has tables, would seem to have lost its key
        key.touch(0o600)
        key.write_text(f"{KEY}\n")
        return {"TOCSIN_DATABASE_URL": self._databases.enter_context(postgresql.store_database())}


@contextmanager
def stores_of(kind: str, request: pytest.FixtureRequest) -> Generator[Stores, None, None]:
    """Their databases are dropped at the end."""
    if kind == "postgresql":
        request.getfixturevalue("postgresql_server")
    with ExitStack() as databases:
        yield Stores(kind, databases)
