"""Throw-away stores on a PostgreSQL server: each is a schema of its own, which is dropped at the end with all that is in it."""

from collections.abc import Generator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql

from tocsin.cli.failure import Failure
from tocsin.ports.errors import StoreError
from tocsin.store import faults
from tocsin.store.dialects.connecting import connect, parameters_of
from tocsin.vault import random_base62

_END_SESSIONS = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE %s AND pid <> pg_backend_pid()"


class Schemas:
    """`new` makes one. Nothing outside of them is read or changed."""

    def __init__(self, url: str) -> None:
        """Raises Failure if the URL cannot be read."""
        self._url = url
        self._prefix = f"tocsin_selftest_{random_base62(8).lower()}"
        self._made: list[str] = []
        try:
            self._parameters = parameters_of(url)
        except StoreError as error:
            raise Failure(str(error)) from error

    def new(self) -> str:
        """The URL of an empty one."""
        name = f"{self._prefix}_{len(self._made) + 1}"
        self._execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        self._made.append(name)
        options = f"{self._parameters.get('options') or ''} -csearch_path={name}".strip()
        return f"{self._url}{'&' if '?' in self._url else '?'}options={quote(options, safe='')}&application_name={name}"

    def end_sessions(self, schema_url: str) -> None:
        """As the server's administrator could, or its restart would."""
        self._execute(_END_SESSIONS, schema_url.rpartition("=")[2])

    def drop(self) -> None:
        """All that were made."""
        for name in self._made:
            self._execute(_END_SESSIONS, name)  # of a service that was killed
            self._execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))
        self._made.clear()

    def _execute(self, query: Any, *values: str) -> None:
        try:
            with closing(connect(self._parameters)) as driver:
                driver.execute(query, values or None)
        except psycopg.Error as error:
            raise Failure(f"The selftest needs to make schemas on the PostgreSQL server: {faults.words_of(error)}.") from error


@contextmanager
def schemas_on(url: str) -> Generator[Schemas, None, None]:
    """They are dropped at the end."""
    schemas = Schemas(url)
    try:
        yield schemas
    finally:
        schemas.drop()
