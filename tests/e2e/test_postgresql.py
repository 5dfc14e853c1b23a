"""The service on a PostgreSQL server: what it promises, whichever of the two dies."""

import signal
from collections.abc import Iterator
from functools import partial

import pytest

from e2e.conftest import Starter
from e2e.service import Service, until
from e2e.test_crash import HANDLERS, arrivals, in_flight, nothing_waits, sending
from receiver import Receiver
from support import postgresql

PASSWORD = "hunter2-of-the-database"


@pytest.fixture
def server() -> Iterator[postgresql.Server]:
    one = postgresql.Server()
    try:
        one.start().execute("CREATE DATABASE tocsin")
        yield one
    finally:
        one.remove()


@pytest.fixture
def url(server: postgresql.Server) -> str:
    return server.url("tocsin").replace("tocsin@", f"tocsin:{PASSWORD}@")


def ready(service: Service) -> bool:
    return service.first().get("/readyz").status == 200


def test_nothing_is_lost_whichever_of_the_two_is_killed(
    start_service: Starter, server: postgresql.Server, url: str, receiver: Receiver
) -> None:
    sends = 600
    receiver.answer("/hook", 200, delay=0.02)
    service = start_service(TOCSIN_DATABASE_URL=url, TOCSIN_RETRY_SCHEDULE="0.1s,0.2s,0.4s,1s,1s")
    client = service.first()
    assert [client.add_handler("webhook", webhook=receiver.url("/hook")) for _ in range(HANDLERS)] == list(range(1, HANDLERS + 1))
    cut_off: set[tuple[int, int]] = set()

    def kill_service() -> None:
        service.kill()
        cut_off.update(in_flight(service))

    def go_on() -> None:
        senders.up(service.start().port)

    deaths = (
        (kill_service, go_on),
        (server.kill, server.start),
        (partial(server.stop, signal.SIGQUIT), server.start),
        (partial(server.stop, signal.SIGINT), server.start),
        (kill_service, go_on),
    )
    with sending(client, sends, refusals=(503,)) as senders:
        for number, (die, come_back) in enumerate(deaths, 1):
            senders.wait(number * sends // (len(deaths) + 1))
            if die is kill_service:
                senders.down()
            die()
            if die is not kill_service:
                until(lambda: not ready(service), 10, "it was still ready")
                assert "cannot be reached" in service.first().get("/readyz").content.decode()
                assert service.first().get("/healthz").status == 200
            come_back()
            until(lambda: ready(service), 15, "it was not ready again")
    until(nothing_waits(client), 40, "deliveries still wait")

    notifications = {one.json()["data"]["id"]: one.json()["data"]["message"] for one in receiver.requests}
    assert len(senders.accepted) == sends
    assert notifications == {notification: str(number) for number, notification in senders.accepted.items()}
    assert client.get("/api/notifications").json["meta"]["total"] == sends
    assert client.get("/api/deliveries?status=delivered").json["meta"]["total"] == sends
    assert {delivery for delivery, count in arrivals(receiver).items() if count > 1} <= {delivery for delivery, _ in cut_off}
    assert service.rows("SELECT what, sum(n) FROM totals WHERE what < 100 GROUP BY what HAVING sum(n) != 0") == [(1, sends)]
    assert PASSWORD not in service.log() + "".join(service.printed)


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


def test_what_keeps_it_from_starting_is_one_sentence(start_service: Starter, server: postgresql.Server, url: str) -> None:
    first = start_service(TOCSIN_DATABASE_URL=url)
    first.kill()
    other_key = Service(first.folder / "other", TOCSIN_DATABASE_URL=url, TOCSIN_SECRET_KEY="another-key-of-some-length")
    assert "was made with another key" in other_key.refused()
    server.execute("CREATE DATABASE theirs")
    server.execute("CREATE TABLE theirs (id int)", "theirs")
    theirs = {"TOCSIN_DATABASE_URL": server.url("theirs"), "TOCSIN_SECRET_KEY": "a-key-of-enough-characters"}
    assert "holds other tables" in Service(first.folder / "theirs", **theirs).refused()
    server.stop()
    said = first.refused()
    assert "cannot be reached" in said and PASSWORD not in said and "\n" not in said
