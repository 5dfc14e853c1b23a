"""Single values that the store keeps by name, in its table `meta`; functions of an open connection."""

from sqlalchemy import Connection, insert, select, update

from tocsin.store.tables import meta


def read(connection: Connection, name: str) -> bytes | None:
    return connection.scalar(select(meta.c.value).where(meta.c.name == name))


def write(connection: Connection, name: str, value: bytes) -> None:
    """New, or in place of the one there was."""
    if connection.execute(update(meta).where(meta.c.name == name).values(value=value)).rowcount == 0:
        connection.execute(insert(meta).values(name=name, value=value))
