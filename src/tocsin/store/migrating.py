"""The tables are brought to this version's form."""

from collections.abc import Callable

from sqlalchemy import Connection, Engine, inspect, select

from tocsin.store import dialects, migrations, values

SERVES = "serves_form"
"""The row of `meta` that says which is the oldest form whose processes may go on beside this one."""


def migrate(engine: Engine, begin: Callable[[Connection], None] | None = None) -> None:
    """Bring the tables to this version's form; all or nothing. Alembic is loaded only where there is something to migrate.

    `begin`: writes the first rows of a store that is made.
    """
    dialect = dialects.of(engine)
    with dialect.writing(engine, is_long=True) as connection:
        dialect.wait_for_makers(connection)
        if not inspect(connection).get_table_names():
            dialect.make(connection)
            if begin is not None:
                begin(connection)
        elif (version := connection.scalar(select(migrations.VERSION.c.version_num))) is None or version < migrations.HEAD:
            migrations.upgrade(connection, "head")
        else:
            return
        values.write(connection, SERVES, migrations.SERVES.encode())


def migrate_to(engine: Engine, version: str) -> None:
    """Make the tables as they were in that version."""
    with dialects.of(engine).writing(engine, is_long=True) as connection:
        migrations.upgrade(connection, version)
