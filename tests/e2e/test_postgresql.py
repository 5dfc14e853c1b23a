"""The service on a PostgreSQL server: its commands, and what keeps it from starting."""

import signal
from pathlib import Path

import pytest

from e2e.conftest import Starter
from e2e.service import Service, until
from receiver import Receiver
from support import postgresql
from tocsin.store.dialects.connecting import postgresql_engine
from tocsin.store.migrating import migrate_to
from tocsin.store.migrations import HEAD

PASSWORD = "hunter2-of-the-database"


@pytest.fixture
def url(own_server: postgresql.Server) -> str:
    return own_server.url("tocsin").replace("tocsin@", f"tocsin:{PASSWORD}@")


def test_the_commands_work_on_the_server_and_are_heard(start_service: Starter, url: str, receiver: Receiver) -> None:
    service = start_service(TOCSIN_DATABASE_URL=url)
    client = service.client()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    [delivery] = client.settled(client.send("Hello", handlers=[handler]))
    assert delivery["status"] == "delivered"
    assert not (service.data / "tocsin.db").exists()

    assert service.run("tocsin", "keys", "revoke", "test").returncode == 0
    until(lambda: client.get("/api/notification-handlers").status == 401, 10, "the key is still taken")

    listed = service.run("tocsin", "users", "list")
    assert "admin@localhost" in listed.stdout
    assert service.run("tocsin", "secrets", "rotate").returncode == 0
    for words, instead in ((["backup", "x.db"], "pg_dump"), (["restore", "x.db"], "pg_restore"), (["compact"], "server")):
        refused = service.run("tocsin", *words)
        assert (refused.returncode, refused.stdout) == (1, "") and instead in refused.stderr, refused.stderr

    checked = service.run("tocsin", "check")
    assert "no standby" in checked.stdout
    for setting in ("fsync", "full_page_writes"):
        assert f"runs with {setting} off, so a crash of its machine may damage the store: switch it on." in " ".join(checked.stdout.split())
    assert PASSWORD not in checked.stdout + checked.stderr + listed.stdout + service.log()

    other = Service(service.folder / "other", TOCSIN_DATABASE_URL=url)
    assert "its key file secret.key is missing" in other.refused()  # only with the same key does a process join

    service.terminate()
    moved = service.run("tocsin", "restore", "--after-recovery")
    assert moved.returncode == 0, moved.stderr
    service.start()
    assert service.first().add_handler("webhook", webhook=receiver.url("/hook")) > 1_000_000


def test_what_keeps_it_from_starting_is_one_sentence(start_service: Starter, own_server: postgresql.Server, url: str) -> None:
    first = start_service(TOCSIN_DATABASE_URL=url)
    first.kill()
    other_key = Service(first.folder / "other", TOCSIN_DATABASE_URL=url, TOCSIN_SECRET_KEY="another-key-of-some-length")
    assert "was made with another key" in other_key.refused()
    own_server.execute("CREATE DATABASE theirs")
    own_server.execute("CREATE TABLE theirs (id int)", "theirs")
    theirs = {"TOCSIN_DATABASE_URL": own_server.url("theirs"), "TOCSIN_SECRET_KEY": "a-key-of-enough-characters"}
    assert "holds other tables" in Service(first.folder / "theirs", **theirs).refused()
    own_server.stop()
    said = first.refused()
    assert "cannot be reached" in said and PASSWORD not in said and "\n" not in said


def test_a_migration_that_is_killed_changes_nothing(own_server: postgresql.Server, url: str, tmp_path: Path, receiver: Receiver) -> None:
    engine = postgresql_engine(url)
    migrate_to(engine, "0008")
    engine.dispose()
    service = Service(tmp_path / "service", TOCSIN_DATABASE_URL=url, TOCSIN_SECRET_KEY="a-key-of-enough-characters")
    before = service.contents()
    died = service.run("tocsin.cli.selftest.points", "migrating", "migrate")
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert service.contents() == before
    migrated = service.run("tocsin", "migrate")
    assert migrated.returncode == 0, migrated.stderr
    assert service.rows("SELECT version_num FROM alembic_version") == [(HEAD,)]
    client = service.start().first()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    assert client.settled(client.send("now", handlers=[handler]))[0]["status"] == "delivered"
    service.kill()


def test_a_dump_that_is_loaded_again_uses_no_id_twice(
    start_service: Starter, own_server: postgresql.Server, url: str, receiver: Receiver
) -> None:
    """What was sent after the dump is gone; what waited in it goes out under its own id; and nothing new is taken for a repeat."""
    receiver.answer("/waits", 500)
    service = start_service(TOCSIN_DATABASE_URL=url, TOCSIN_RETRY_SCHEDULE="1h")
    client = service.first()
    hook, waits = (client.add_handler("webhook", webhook=receiver.url(path)) for path in ("/hook", "/waits"))
    client.attempted(client.send("waits", handlers=[waits]))
    own_server.run("pg_dump", "-Fc", "-f", own_server.folder / "dump", own_server.url("tocsin"))
    [lost] = client.settled(client.send("lost", handlers=[hook]))
    service.kill()
    own_server.execute("DROP DATABASE tocsin WITH (FORCE)")
    own_server.execute("CREATE DATABASE tocsin")
    own_server.run("pg_restore", "-d", own_server.url("tocsin"), own_server.folder / "dump")
    moved = service.run("tocsin", "restore", "--after-recovery")
    assert moved.returncode == 0, moved.stderr
    service.change("UPDATE deliveries SET due_at = 1")
    client.port = service.start().port
    [new] = client.settled(client.send("new", handlers=[hook]))
    assert new["id"] > lost["id"] + 2**31
    receiver.wait(4)
    ids = {(one.path, one.json()["data"]["message"], one.headers["webhook-id"]) for one in receiver.requests}
    assert {(path, message) for path, message, _ in ids} == {("/waits", "waits"), ("/hook", "lost"), ("/hook", "new")}
    assert len({name for _, _, name in ids}) == len(ids) == 3
