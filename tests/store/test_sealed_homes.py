"""What `tocsin check` looks at of all handlers."""

import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.store import STORES, stores_environ
from tocsin.datadir import home_of, open_store
from tocsin.ports.handlers import HandlerChange
from tocsin.settings import load
from tocsin.store import handlers, people
from tocsin.store.sql import write_now

MANY, SIZE = 200, 50_000
environ = pytest.fixture(params=STORES)(stores_environ)


def test_secrets_of_all_handlers_are_not_held_at_once(environ: Mapping[str, str], tmp_path: Path) -> None:
    settings = load({"TOCSIN_DATA_DIR": str(tmp_path / "data"), **environ}, tmp_path / "no.env")
    settings.data_path.mkdir()
    engine, _ = open_store(settings)

    def fill(connection) -> None:
        people.add_user(connection, "a@b", True, 1)
        for number in range(MANY + 1):
            change = HandlerChange(type="webhook", name="hook", settings=bytes(SIZE) + b"%d" % (number % 2), is_enabled=True)
            added = handlers.add_handler(connection, 1, change, 1)
        handlers.delete_handler(connection, added, 2, 0)

    write_now(engine, fill)
    engine.dispose()
    home, read = home_of(settings), list[int]()

    def is_odd(settings: bytes | None, secret: bytes | None) -> bool:
        assert settings is not None and secret is None
        read.append(len(settings))
        return settings.endswith(b"1")

    tracemalloc.start()
    try:
        assert home.count_sealed(is_odd) == MANY // 2
        assert len(read) == MANY and tracemalloc.get_traced_memory()[1] < MANY * SIZE / 5
    finally:
        tracemalloc.stop()
