"""Single values that the store keeps by name, in its table `meta`; functions of an open connection."""

from sqlalchemy import Connection, select

from tocsin.store.statements import run, upsert
from tocsin.store.tables import meta

WRITE = upsert(meta, key=("name",), given=("value",))


def read(connection: Connection, name: str) -> bytes | None:
    return connection.scalar(select(meta.c.value).where(meta.c.name == name))


def write(connection: Connection, name: str, value: bytes) -> None:
    """New, or in place of the one there was."""
    run(connection, WRITE, [(name, value)])
