"""The service on a PostgreSQL server: its commands, and what keeps it from starting."""

import pytest

from e2e.conftest import Starter
from e2e.service import Service, until
from receiver import Receiver
from support import postgresql

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
    assert "Another tocsin" in other.refused()

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
