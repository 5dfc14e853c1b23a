"""Which stores a test runs on, and how many processes serve it there.

    pytestmark = both_stores        # at the top of a file, or @both_stores above a test
    @sqlite_only                    # above a test in such a file whose subject is SQLite's file; @postgresql_only the other way round
    pytestmark = any_processes      # both stores, and PostgreSQL with an api process and two workers, which `make test-all` has

A test gets its store by way of `start_service` or a shared service. That of PostgreSQL has `postgresql` at the end of its name, and
`three` where three processes serve it.
"""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest

from e2e.service import Service
from support import postgresql

both_stores = pytest.mark.stores("sqlite", "postgresql")
both_stores_long = pytest.mark.stores("sqlite", "postgresql", long=True)
"""On PostgreSQL only in `make test-all`."""
any_processes = pytest.mark.stores("sqlite", "postgresql", "three")
any_processes_long = pytest.mark.stores("sqlite", "postgresql", "three", long=True)
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
    if "three" in marker.args:
        kinds.append(pytest.param("three", id="three", marks=pytest.mark.long))
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
        if self.kind == "three":
            return {"TOCSIN_DATABASE_URL": self._databases.enter_context(postgresql.store_database()), "TOCSIN_SECRET_KEY": KEY}
        (folder / "data").mkdir(parents=True)
        key = folder / "data" / "secret.key"  # or its database, which has tables, would seem to have lost its key
        key.touch(0o600)
        key.write_text(f"{KEY}\n")
        return {"TOCSIN_DATABASE_URL": self._databases.enter_context(postgresql.store_database())}

    def service(self, folder: Path, *, from_scratch: bool = False, **environ: str) -> Service:
        """One on a new store of this kind; it is not started."""
        kind = ThreeProcesses if self.kind == "three" else Service
        return kind(folder, from_scratch=from_scratch, **{**self.environ(folder), **environ})


class ThreeProcesses(Service):
    """An api process, which is what a test sees of it, and two workers. They live and die together."""

    def __init__(self, folder: Path, *, from_scratch: bool = False, **environ: str) -> None:
        super().__init__(folder, from_scratch=from_scratch, **environ, TOCSIN_ROLE="api")
        self._workers = [
            Service(folder / f"worker{number}", from_scratch=from_scratch, **{**environ, "TOCSIN_ROLE": "worker"}) for number in (1, 2)
        ]

    def start(self) -> Self:
        super().start()
        for worker in self._workers:
            worker.start()
        return self

    def kill(self) -> None:
        super().kill()
        for worker in self._workers:
            worker.kill()

    def terminate(self, seconds: float = 20.0) -> int:
        codes = [one.terminate(seconds) for one in self._workers if one.process is not None]
        return max([super().terminate(seconds), *codes])

    def log(self) -> str:
        return "".join([super().log(), *(worker.log() for worker in self._workers)])


@contextmanager
def stores_of(kind: str, request: pytest.FixtureRequest) -> Generator[Stores, None, None]:
    """Their databases are dropped at the end."""
    if kind != "sqlite":
        request.getfixturevalue("postgresql_server")
    with ExitStack() as databases:
        yield Stores(kind, databases)
