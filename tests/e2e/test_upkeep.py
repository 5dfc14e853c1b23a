"""Backup, restore, a new key, retention, upgrade and replay, beside a service that goes on sending."""

import contextlib
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from api.support import serving
from e2e.conftest import Starter
from e2e.service import Client, Service, in_an_hour, until
from e2e.stores import both_stores, both_stores_long, sqlite_only
from receiver import Receiver
from tocsin.flow import housekeeping
from tocsin.flow.people.access import SCOPES

pytestmark = both_stores_long


def command(service: Service, *arguments: object, data: Path | None = None) -> tuple[int, str]:
    """Run `tocsin`; exit code and what it said."""
    done = service.run("tocsin", *map(str, arguments), TOCSIN_DATA_DIR=str(data or service.data))
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@contextmanager
def sending(client: Client, handlers: list[int]) -> Iterator[list[int]]:
    """Sends one after the other, in a thread of its own; the ids of what was accepted."""
    accepted: list[int] = []
    ends = threading.Event()

    def send() -> None:
        while not ends.is_set():
            accepted.append(client.send(f"number {len(accepted)}", handlers=handlers))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield accepted
    finally:
        ends.set()
        thread.join(20)


def nothing_waits(client: Client) -> bool:
    return client.get("/api/deliveries?status=pending").json["meta"]["total"] == 0


def change(store: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(store)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


# --------------------------------------------------------------------------------------------------- backup and restore


@sqlite_only
def test_a_backup_under_load_is_restored_and_goes_on(start_service: Starter, receiver: Receiver, tmp_path: Path) -> None:
    service = start_service()
    client = service.first()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    later = client.send("later", handlers=[handler], send_at=in_an_hour())
    copy = tmp_path / "copy.db"
    with sending(client, [handler]) as accepted:
        until(lambda: len(accepted) >= 20)
        before = list(accepted)
        code, said = command(service, "backup", copy)
        until(lambda: len(accepted) >= len(before) + 20)  # and it went on meanwhile
    assert code == 0 and "not its key" in said, said
    assert copy.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("copy")] == ["copy.db"]
    assert command(service, "backup", copy) == (1, f"tocsin: {copy} already exists: name another file, or move it away.")
    key = (service.data / "secret.key").read_text()
    assert key.encode() not in copy.read_bytes()

    # On another machine, with the key file put there beforehand.
    other = Service(tmp_path / "other")
    other.environ |= {"TOCSIN_BOOTSTRAP_API_KEY": ""}
    other.data.mkdir()
    code, said = command(other, "restore", copy)
    assert code == 1 and "secret.key is missing" in said
    assert [file.name for file in other.data.iterdir()] == []
    shutil.copy(service.data / "secret.key", other.data)
    code, said = command(other, "restore", copy)
    assert code == 0 and "may arrive a second time" in said, said
    del other.environ["TOCSIN_BOOTSTRAP_API_KEY"]
    try:
        there = Client(other.start().port, client.key)
        held = {row[0] for row in other.rows("SELECT id FROM notifications")}
        assert held >= {*before, later}
        until(lambda: there.get("/api/deliveries?status=pending").json["meta"]["total"] == 1)  # all but what is for later
        assert [one["status"] for one in there.deliveries(later)] == ["pending"]
        assert {one.json()["data"]["id"] for one in receiver.requests} >= held - {later}
        assert "still serves" not in other.log()
    finally:
        other.kill()


@pytest.fixture
def stopped(start_service: Starter, receiver: Receiver) -> tuple[Service, Client, int]:
    service = start_service()
    client = service.first()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    client.settled(client.send("before", handlers=[handler]))
    return service, client, handler


@sqlite_only
def test_restore_takes_nothing_that_does_not_fit(stopped: tuple[Service, Client, int], tmp_path: Path) -> None:
    service, client, _ = stopped
    copy, broken, newer = tmp_path / "copy.db", tmp_path / "broken.db", tmp_path / "newer.db"
    assert command(service, "backup", copy)[0] == 0
    code, said = command(service, "restore", "--replace", copy)
    assert code == 1 and "serving the data directory" in said
    service.terminate()
    before = {file.name: file.read_bytes() for file in service.data.iterdir() if file.name != "tocsin.lock"}
    content = bytearray(copy.read_bytes())
    content[4096 * 3 : 4096 * 5] = bytes(4096 * 2)
    broken.write_bytes(content)
    shutil.copy(copy, newer)
    change(newer, "UPDATE alembic_version SET version_num = '9999'")
    (tmp_path / "text").write_text("not a store")
    for file, complaint in (
        (broken, "damaged"),
        (newer, "newer version"),
        (tmp_path / "text", "not a store"),
        (tmp_path / "none", "There is no file"),
    ):
        code, said = command(service, "restore", "--replace", file)
        assert code == 1 and complaint in said, said
    code, said = command(service, "restore", copy)
    assert code == 1 and "--replace" in said
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "secret.key").write_text("another key of another store\n")
    code, said = command(service, "restore", copy, data=stranger)
    assert code == 1 and "made with another key" in said
    assert {file.name: file.read_bytes() for file in service.data.iterdir() if file.name != "tocsin.lock"} == before
    assert command(service, "restore", "--replace", copy)[0] == 0
    assert len(list(service.data.glob("tocsin.db.before-*"))) == 1
    client.port = service.start().port
    assert client.get("/api/notifications").json["meta"]["total"] == 1


@sqlite_only
def test_a_store_of_a_newer_version_is_left_alone(stopped: tuple[Service, Client, int]) -> None:
    service, _, _ = stopped
    service.terminate()
    service.change("UPDATE alembic_version SET version_num = '9999'")
    before = service.contents()
    assert "made by a newer version of tocsin" in service.refused()
    assert service.contents() == before


# ------------------------------------------------------------------------------------------------------------ a new key


@both_stores
def test_a_new_key_while_it_sends(start_service: Starter, receiver: Receiver) -> None:
    service = start_service()
    client = service.first()
    handlers = [client.add_handler("webhook", webhook=receiver.url(f"/{number}")) for number in range(5)]
    secret = client.get(f"/api/notification-handlers/{handlers[0]}/secret").data
    old_key = (service.data / "secret.key").read_text()
    sealed = dict(service.rows("SELECT id, settings FROM handlers"))
    with sending(client, handlers) as accepted:
        until(lambda: len(accepted) >= 5)
        code, said = command(service, "secrets", "rotate")
        assert code == 0 and said.startswith("5 handlers"), said
        handlers.append(client.add_handler("webhook", webhook=receiver.url("/new")))
        count = len(accepted)
        until(lambda: len(accepted) >= count + 5)
    until(lambda: nothing_waits(client))
    assert client.get("/api/deliveries?status=delivered").json["meta"]["total"] == client.get("/api/deliveries").json["meta"]["total"]
    [kept] = service.data.glob("secret.key.before-*")
    assert kept.read_text() == old_key and kept.stat().st_mode & 0o777 == 0o600
    new_key = (service.data / "secret.key").read_text()
    assert new_key != old_key and len(new_key.split()) == 1
    assert all(settings != sealed.get(handler) for handler, settings in service.rows("SELECT id, settings FROM handlers"))
    client.port = _restarted(service)
    assert client.get(f"/api/notification-handlers/{handlers[0]}/secret").data == secret
    assert [one["status"] for one in client.settled(client.send("under the new key", handlers=handlers))] == ["delivered"] * 6
    (service.data / "secret.key").write_text(old_key)
    service.terminate()
    assert "made with another key" in service.refused()


def test_a_rotation_that_was_killed_goes_on(stopped: tuple[Service, Client, int]) -> None:
    """It died with both keys in the file and nothing changed yet: the service runs on, and the next run uses the same new key."""
    service, client, handler = stopped
    old_key = (service.data / "secret.key").read_text()
    (service.data / "secret.key").write_text(f"the-new-key-that-was-already-made\n{old_key}")
    client.port = _restarted(service)
    assert client.settled(client.send("between", handlers=[handler]))[0]["status"] == "delivered"
    code, said = command(service, "secrets", "rotate")
    assert code == 0 and said.startswith("1 handlers"), said
    assert (service.data / "secret.key").read_text() == "the-new-key-that-was-already-made\n"
    client.port = _restarted(service)
    assert client.settled(client.send("after", handlers=[handler]))[0]["status"] == "delivered"


def _restarted(service: Service) -> int:
    assert service.terminate() == 0
    return service.start().port


# ------------------------------------------------------------------------------------------------------------ retention

_OLD = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
"""


def add_old(service: Service, count: int, handler: int, young: int) -> None:
    """So many notifications that are long over, one of them (107) still waits; the young one is made old too."""
    many = _OLD.format(count=count)
    for statement in (
        f"{many} INSERT INTO notifications (id, user_id, created_at, send_at, kind, severity, title, text, url, fields)"
        " SELECT 100 + i, 1, 1, CASE i WHEN 7 THEN 4000000000000000 END, 'notification', 'info', '', 'old', '', '[]' FROM n",
        f"{many} INSERT INTO deliveries (id, notification_id, handler_id, user_id, status, due_at, first_due_at, created_at, is_critical)"
        f" SELECT 100 + i, 100 + i, {handler}, 1, CASE i WHEN 7 THEN 0 ELSE 1 END,"
        " CASE i WHEN 7 THEN 4000000000000000 ELSE 1 END, 1, 1, FALSE FROM n",
        f"{many} INSERT INTO attempts (delivery_id, number, at, duration_us, outcome, reason)"
        " SELECT 100 + i, 1, 1, 1, 'delivered', 'ok' FROM n",
        f"UPDATE totals SET n = n + {count - 1} WHERE what = 1",
        "INSERT INTO totals (user_id, what, slot, n) VALUES (1, 0, 0, 1) ON CONFLICT (user_id, what, slot) DO UPDATE SET n = totals.n + 1",
        f"UPDATE totals SET n = n + {count} WHERE what = 100",
        f"UPDATE notifications SET created_at = 1 WHERE id = {young}",
        f"UPDATE deliveries SET due_at = 1, first_due_at = 1, last_attempt_at = 1 WHERE notification_id = {young}",
    ):
        service.change(statement)
    if "TOCSIN_DATABASE_URL" in service.environ:  # SQLite counts on from the highest id by itself
        for table in ("notifications", "deliveries"):
            service.change(f"SELECT setval('{table}_id_seq', {100 + count})")


def old_ones_go(service: Service, client: Client, handler: int, receiver: Receiver) -> None:
    """All but the one that waits, while sends are accepted and arrive once."""
    until(lambda: not service.rows("SELECT id FROM notifications WHERE id = 101"), 90, "nothing goes")
    with sending(client, [handler]) as accepted:
        until(lambda: service.rows("SELECT count(*) FROM notifications WHERE created_at = 1") == [(1,)], 90, "old ones are still there")
    assert accepted  # it goes on sending meanwhile
    until(lambda: client.get("/api/deliveries?status=pending").json["meta"]["total"] == 1)
    assert service.rows("SELECT id FROM notifications WHERE created_at = 1") == [(107,)], "what waits stays"
    assert client.get("/api/notifications").json["meta"]["total"] == len(accepted) + 1
    assert client.get("/api/deliveries?status=delivered").json["meta"]["total"] == len(accepted)
    assert service.rows("SELECT count(*) FROM attempts") == [(len(accepted) + 1,)]
    assert set(Counter(one.json()["data"]["id"] for one in receiver.requests).values()) == {1}


def test_old_things_go_while_it_sends(monkeypatch: pytest.MonkeyPatch, receiver: Receiver, made_service: Service) -> None:
    """In this process, so that the first look does not take a minute to come."""
    environ = {name: value for name, value in made_service.environ.items() if name == "TOCSIN_DATABASE_URL"}
    with serving(made_service.data, **environ) as server:
        client = Client(server.port, server.client(*SCOPES).key)
        handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
        young = client.send("young", handlers=[handler])
        client.settled(young)
    add_old(made_service, 1000, handler, young)
    monkeypatch.setattr(housekeeping, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(housekeeping, "MAX_ROWS", housekeeping.MIN_ROWS)  # so that it takes many steps
    with serving(made_service.data, TOCSIN_RETENTION_DAYS="1", **environ) as server:
        client.port = server.port
        old_ones_go(made_service, client, handler, receiver)


@pytest.mark.long
def test_many_old_things_go_while_it_sends(start_service: Starter, receiver: Receiver) -> None:
    """As an operator runs it: the first look comes after `LOOK_SECONDS`."""
    service = start_service()
    client = service.first()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    young = client.send("young", handlers=[handler])
    client.settled(young)
    service.terminate()
    assert housekeeping.MAX_ROWS * 10 <= 20_000
    add_old(service, 20_000, handler, young)
    service.environ["TOCSIN_RETENTION_DAYS"] = "1"
    client.port = service.start().port
    old_ones_go(service, client, handler, receiver)


# --------------------------------------------------------------------------------------------------------------- replay


@both_stores
def test_a_replay_sends_nothing_twice_that_is_under_way(start_service: Starter, receiver: Receiver) -> None:
    receiver.answer("/held", 200, hold=True)
    service = start_service(TOCSIN_RETRY_SCHEDULE="0s")
    client = service.first()
    held, fails = (client.add_handler("webhook", webhook=receiver.url(path)) for path in ("/held", "/fails"))
    under_way = client.send("under way", handlers=[held])
    receiver.wait(1)
    [delivery] = client.deliveries(under_way)
    assert client.post(f"/api/deliveries/{delivery['id']}/retry").data == {"retried": 0}
    assert client.post(f"/api/deliveries/retry?notification_id={under_way}").data == {"retried": 0}
    receiver.release()
    assert len(client.settled(under_way)[0]["attempts"]) == 1
    for _ in range(2):
        receiver.answer("/fails", 500)
    failed = client.send("fails", handlers=[fails])
    [delivery] = client.settled(failed)
    receiver.forget("/fails")
    receiver.answer("/fails", 200, hold=True)
    count = len(receiver.requests)
    with ThreadPoolExecutor(8) as pool:
        ways = [f"/api/deliveries/{delivery['id']}/retry", f"/api/deliveries/retry?notification_id={failed}"] * 8
        retried = sum(reply.data["retried"] for reply in pool.map(client.post, ways))
    assert retried == 1
    receiver.wait(count + 1)
    assert client.post(ways[0]).data == {"retried": 0}
    receiver.release()
    assert client.settled(failed)[0]["status"] == "delivered"
    assert len(receiver.requests) == count + 1


def test_an_attempt_from_before_a_replay_does_not_end_it(start_service: Starter, receiver: Receiver) -> None:
    receiver.answer("/hook", 500, hold=True)
    receiver.answer("/hook", 200)
    service = start_service(TOCSIN_RETRY_SCHEDULE="1h")
    client = service.first()
    hook = client.add_handler("webhook", webhook=receiver.url("/hook"))
    sent = client.send("once more", handlers=[hook])
    receiver.wait(1)
    [delivery] = client.deliveries(sent)
    assert client.post(f"/api/deliveries/{delivery['id']}/cancel").data["cancelled"] == 1
    assert client.post(f"/api/deliveries/{delivery['id']}/retry").data == {"retried": 1}
    receiver.release()
    [delivery] = client.settled(sent)  # at once, not only with the next sweep
    assert delivery["status"] == "delivered"
    assert [one["outcome"] for one in delivery["attempts"]] == ["later", "delivered"]
