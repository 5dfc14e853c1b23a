"""The tables are brought to this version's form."""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, inspect, select

from tocsin.store import dialects, migrations, values

PROGRESS_SECONDS = 2.0
SERVES = "serves_form"
"""The row of `meta` that says which is the oldest form whose processes may go on beside this one."""


def migrate(
    engine: Engine, begin: Callable[[Connection], object] | None = None, told: Callable[[str, float], None] = lambda _form, _seconds: None
) -> bool:
    """Bring the tables to this version's form; all or nothing. Whether they had another one. Alembic is loaded only where they have.

    `begin`: writes the first rows of a store that is made. `told`: the form that was reached last and the seconds since the
    beginning, from a thread, every few seconds.
    """
    is_old = False
    dialect = dialects.of(engine)
    with dialect.writing(engine, is_long=True) as connection:
        dialect.wait_for_makers(connection)
        if not inspect(connection).get_table_names():
            dialect.make(connection)
            if begin is not None:
                begin(connection)
        elif (version := connection.scalar(select(migrations.VERSION.c.version_num))) is None or version < migrations.HEAD:
            is_old = True
            with _watched(version or "", told) as applied:
                migrations.upgrade(connection, "head", applied)
        else:
            return False
        values.write(connection, SERVES, migrations.SERVES.encode())
    return is_old


@contextmanager
def _watched(form: str, told: Callable[[str, float], None]) -> Generator[Callable[[str], None], None, None]:
    """Says how far it is while nothing else can be said. Yields what is called with each form that has been reached."""
    done, began = threading.Event(), time.monotonic()

    def applied(reached: str) -> None:
        nonlocal form
        form = reached

    def watch() -> None:
        while not done.wait(PROGRESS_SECONDS):
            told(form, time.monotonic() - began)

    watcher = threading.Thread(target=watch, name="tocsin-migrating", daemon=True)
    watcher.start()
    try:
        yield applied
    finally:
        done.set()
        watcher.join()


def migrate_to(engine: Engine, version: str) -> None:
    """Make the tables as they were in that version."""
    with dialects.of(engine).writing(engine, is_long=True) as connection:
        migrations.upgrade(connection, version)
