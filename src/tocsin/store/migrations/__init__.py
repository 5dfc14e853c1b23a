"""The store's forms, oldest first (Alembic)."""

from collections.abc import Callable

from sqlalchemy import Column, Connection, MetaData, String, Table

HEAD = "0022"
"""The newest one, which `tables.py` describes."""

SERVES = HEAD
"""The newest form of the version before this one, whose processes go on working while a database is shared: a migration only adds what
they do without, and what nobody needs any more goes a version later. This is the first version whose processes share one."""

_VERSIONS = MetaData()
VERSION = Table("alembic_version", _VERSIONS, Column("version_num", String(32), primary_key=True))  # as Alembic makes it


def note_newest(connection: Connection) -> None:
    """The tables have this version's form."""
    _VERSIONS.create_all(connection)
    connection.execute(VERSION.insert().values(version_num=HEAD))


def upgrade(connection: Connection, version: str, applied: Callable[[str], None] = lambda _: None) -> None:
    """Bring the tables to that version's form ("head": the newest). Alembic is loaded here, since nearly no start needs it.

    `applied` is told of each form that was reached.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "tocsin.store:migrations")
    config.attributes["connection"], config.attributes["applied"] = connection, applied
    command.upgrade(config, version)
