"""`tocsin migrate --from`: a SQLite store goes into PostgreSQL with its ids, its identity and what waits."""

import sqlite3
from contextlib import closing

import pytest

from e2e.conftest import Starter
from e2e.service import Service, in_an_hour
from receiver import Receiver
from support import postgresql


@pytest.fixture
def url(postgresql_server: None):
    with postgresql.database(postgresql.shared_url(postgresql.shared_folder())) as made:
        yield made


def test_a_store_is_moved_with_all_that_it_holds(start_service: Starter, url: str, receiver: Receiver) -> None:
    old = start_service(TOCSIN_RETRY_SCHEDULE="0.05s")
    client = old.first()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    refusing = client.add_handler("webhook", name="Refusing", webhook=receiver.url("/gone"))
    receiver.answer("/gone", 400)
    for text in ("plain", '\U0001f514 *marks* \\ "quoted" \t tab', "x" * 5000):
        client.settled(client.send(text, handlers=[handler, refusing]))
    later = {"message": "later", "handlers": [handler], "send_at": in_an_hour()}
    reply = client.post("/api/notifications", later, Idempotency_Key="one")
    assert reply.status == 202
    lists = ("/api/notifications", "/api/deliveries", "/api/notification-handlers")
    before = [client.get(path).data for path in lists]
    ids_before = {one.headers["webhook-id"].rpartition("_")[0] for one in receiver.requests}
    assert old.terminate() == 0
    tables = ("users", "keys", "handlers", "notifications", "deliveries", "attempts")
    counted = {table: old.rows(f"SELECT count(*) FROM {table}") for table in tables}

    new = Service(old.folder / "new", TOCSIN_DATABASE_URL=url)
    moved = new.run("tocsin", "migrate", "--from", str(old.data))
    assert moved.returncode == 0, moved.stderr
    assert "were copied and compared" in moved.stderr + moved.stdout
    assert {table: new.rows(f"SELECT count(*) FROM {table}") for table in tables} == counted

    said = old.refused()
    assert "was moved to the database" in said and "TOCSIN_DATABASE_URL" in said
    again = new.run("tocsin", "migrate", "--from", str(old.data))
    assert again.returncode == 1 and "was moved" in again.stderr

    new.start()
    try:
        client.port = new.port
        assert [client.get(path).data for path in lists] == before
        assert client.post("/api/notifications", later, Idempotency_Key="one").data["id"] == reply.data["id"]
        fresh = client.send("fresh", handlers=[handler])
        assert fresh == reply.data["id"] + 1
        client.settled(fresh)
        assert {one.headers["webhook-id"].rpartition("_")[0] for one in receiver.requests} == ids_before
    finally:
        new.kill()


def test_an_interrupted_move_is_ended_by_the_next_and_another_store_is_not_overwritten(
    start_service: Starter, url: str, receiver: Receiver
) -> None:
    old = start_service()
    old.first().add_handler("webhook", webhook=receiver.url("/hook"))
    assert old.terminate() == 0
    new = Service(old.folder / "new", TOCSIN_DATABASE_URL=url)
    assert new.run("tocsin", "migrate", "--from", str(old.data)).returncode == 0
    with closing(sqlite3.connect(old.data / "tocsin.db")) as store, store:  # as if it had died between its two commits
        assert store.execute("DELETE FROM meta WHERE name = 'moved_to'").rowcount == 1
    assert new.run("tocsin", "migrate", "--from", str(old.data)).returncode == 0
    assert "was moved" in old.refused()

    with closing(sqlite3.connect(old.data / "tocsin.db")) as store, store:
        store.execute("DELETE FROM meta WHERE name = 'moved_to'")
        store.execute("UPDATE handlers SET name = 'changed since'")
    refused = new.run("tocsin", "migrate", "--from", str(old.data))
    assert refused.returncode == 1 and "Row 1 of handlers is not what it was" in refused.stderr

    other = start_service()
    assert other.terminate() == 0
    beside = Service(other.folder / "new", TOCSIN_DATABASE_URL=url)
    refused = beside.run("tocsin", "migrate", "--from", str(other.data))
    assert refused.returncode == 1 and "holds a store already" in refused.stderr, refused.stderr
    assert other.start().terminate() == 0
