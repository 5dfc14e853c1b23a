"""One service for a database: the lock that it holds."""

import os
import socket
import threading
from typing import Any

import psycopg
import pytest

from tocsin.cli.selftest.many.postgresql import execute
from tocsin.ports.errors import StoreError
from tocsin.store.homes.postgresql_server import PostgresqlServer

HOLDERS = (  # of this database's locks by name
    "SELECT pid FROM pg_locks JOIN pg_database ON pg_database.oid = database"
    " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
)


def test_a_second_service_is_refused_and_a_lock_that_was_lost_is_taken_again(url: str) -> None:
    database, other = PostgresqlServer(url), PostgresqlServer(url)
    told: list[str] = []
    with database.lock(told.append):
        with pytest.raises(StoreError, match="already"), other.lock(told.append):
            pass
        [(pid,)] = execute(url, HOLDERS)
        execute(url, f"SELECT pg_terminate_backend({pid})")
        while not (found := execute(url, HOLDERS)) or found == [(pid,)]:
            pass
    with other.lock(told.append):
        assert told == []


def test_who_finds_the_lock_taken_after_an_outage_says_so(url: str) -> None:
    taken, told = threading.Event(), []

    def lost(why: str) -> None:
        told.append(why)
        taken.set()

    with PostgresqlServer(url).lock(lost), psycopg.connect(url, autocommit=True) as thief:
        [(pid,)] = execute(
            url,
            HOLDERS,
        )
        execute(url, f"SELECT pg_terminate_backend({pid})")
        thief.execute("SELECT pg_advisory_lock(%s, hashtext(current_schema()))", (0x746F6373,))
        assert taken.wait(10)
    assert "Another tocsin has taken" in told[0]


def test_a_session_that_only_we_know_to_be_broken_does_not_keep_us_from_our_own_lock(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network lost what would have told the server."""
    drivers: list[psycopg.Connection[Any]] = []
    locked = PostgresqlServer._locked

    def caught(self: PostgresqlServer, take: str) -> psycopg.Connection[Any]:
        drivers.append(locked(self, take))
        return drivers[-1]

    monkeypatch.setattr(PostgresqlServer, "_locked", caught)
    told: list[str] = []
    with PostgresqlServer(url).lock(told.append):
        [(pid,)] = execute(url, HOLDERS)
        [driver] = drivers
        kept = os.dup(driver.fileno())
        ours, theirs = socket.socketpair()
        theirs.close()
        os.dup2(ours.fileno(), driver.fileno())
        ours.close()
        while not told and (not (found := execute(url, HOLDERS)) or found == [(pid,)]):
            pass
        os.close(kept)
    assert told == []
