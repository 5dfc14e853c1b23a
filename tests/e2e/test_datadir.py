"""The data directory: its lock and its key, the first start, and the commands that work beside a running service."""

import contextlib
import hashlib
import shutil
import socket
import sqlite3
import stat
from pathlib import Path

import pytest

from e2e.conftest import Starter
from e2e.service import FIRST_KEY, OwnedClient, Service, until
from e2e.stores import both_stores
from receiver import Receiver
from tocsin.admin import AdminError

KEY = "a-key-that-the-operator-made-of-some-length"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A service that has run with a key file of its own, with a handler in its store. Copy it; leave it as it is."""
    service = Service(tmp_path_factory.mktemp("stopped")).start()
    try:
        service.first().add_handler("email", email="root@nas")
        assert service.terminate() == 0
    finally:
        service.kill()
    return service


def copied(stopped: Service, folder: Path, **environ: str) -> Service:
    service = Service(folder / "copy", **environ)
    shutil.copytree(stopped.data, service.data)
    return service


def hashes(folder: Path) -> dict[str, str]:
    """Of every file, but for the lock and SQLite's index of its log, which hold no data, and an empty log."""
    files = [one for one in folder.iterdir() if one.name not in {"tocsin.lock", "tocsin.db-shm"}]
    return {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in files if one.name != "tocsin.db-wal" or one.stat().st_size}


def is_one_sentence(said: str) -> bool:
    return said.startswith("tocsin: ") and said.endswith(".") and "\n" not in said and "Traceback" not in said


# ----------------------------------------------------------------------------------------------------- what is refused


def test_a_second_service_on_the_same_directory_is_refused(start_service: Starter, tmp_path: Path) -> None:
    first = start_service()
    second = Service(tmp_path / "second", TOCSIN_DATA_DIR=str(first.data))
    said = second.refused()
    assert is_one_sentence(said) and str(first.data) in said and "already" in said
    assert first.first().get("/readyz").status == 200
    first.kill()  # and the lock goes with the process, however it ends
    second.port = 0
    try:
        assert second.start().first().get("/api/notifications").status == 200
    finally:
        second.kill()


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        said = Service(tmp_path / "service", TOCSIN_PORT=str(port)).refused()
    assert is_one_sentence(said) and f"127.0.0.1:{port}" in said


def test_an_address_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    said = Service(tmp_path / "service", TOCSIN_HOST="192.0.2.1").refused()
    assert is_one_sentence(said) and "192.0.2.1" in said


def test_a_host_that_is_no_host_is_refused(tmp_path: Path) -> None:
    said = Service(tmp_path / "service", TOCSIN_HOST="no such host").refused()
    assert is_one_sentence(said), said


def test_a_directory_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    said = Service(tmp_path / "service", TOCSIN_DATA_DIR=str(tmp_path / "file" / "data")).refused()
    assert is_one_sentence(said) and str(tmp_path / "file") in said


def test_settings_that_cannot_be_used_are_all_named(tmp_path: Path) -> None:
    said = Service(tmp_path / "service", TOCSIN_RETRY_SCHEDULE="soon", TOCSIN_X_DAILY_LIMIT="many", TOCSIN_SMTP_URL="http://mail").refused()
    assert all(name in said for name in ("TOCSIN_RETRY_SCHEDULE", "TOCSIN_X_DAILY_LIMIT", "TOCSIN_SMTP_URL"))
    assert "Traceback" not in said
    assert not (tmp_path / "service" / "data").exists()


def test_a_store_without_its_key_is_refused_and_left_alone(stopped: Service, tmp_path: Path) -> None:
    service = copied(stopped, tmp_path)
    (service.data / "secret.key").unlink()
    before = hashes(service.data)
    said = service.refused()
    assert is_one_sentence(said) and "secret.key" in said and "TOCSIN_SECRET_KEY" in said
    assert hashes(service.data) == before


@pytest.mark.parametrize("where", ["variable", "file"])
def test_another_key_is_refused_and_the_store_left_alone(stopped: Service, tmp_path: Path, where: str) -> None:
    service = copied(stopped, tmp_path, TOCSIN_SECRET_KEY=KEY if where == "variable" else "")
    if where == "file":
        (service.data / "secret.key").write_text("another one\n")
    before = hashes(service.data)
    said = service.refused()
    assert is_one_sentence(said) and "key" in said and KEY not in said
    assert hashes(service.data) == before


def test_a_store_that_was_killed_and_copied_without_its_key_is_left_alone(stopped: Service, tmp_path: Path) -> None:
    """With a write-ahead log beside it, which opening a store would fold into it."""
    service = copied(stopped, tmp_path).start()
    service.first().send("Hello", handlers=[1])
    service.kill()
    assert (service.data / "tocsin.db-wal").stat().st_size > 0
    (service.data / "secret.key").unlink()
    (service.data / "tocsin.db-shm").unlink()  # as a copy of the lasting files would be
    before = hashes(service.data)
    assert is_one_sentence(service.refused())
    assert hashes(service.data) == before


@pytest.mark.parametrize(
    "content", [b"this is no store at all, but it is long enough to look like one" * 100, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_file_that_is_no_store_is_refused_and_left_alone(stopped: Service, tmp_path: Path, content: bytes) -> None:
    service = copied(stopped, tmp_path)
    (service.data / "tocsin.db").write_bytes(content)
    before = hashes(service.data)
    assert is_one_sentence(service.refused())
    assert hashes(service.data) == before


def test_a_rotated_key_list_opens_the_store(stopped: Service, tmp_path: Path) -> None:
    service = copied(stopped, tmp_path)
    old = (service.data / "secret.key").read_text().strip()
    service.environ["TOCSIN_SECRET_KEY"] = f"{KEY},{old}"
    try:
        client = service.start().first()
        assert client.handler(1)["settings"] == {"email": "root@nas"}
    finally:
        service.kill()


# ------------------------------------------------------------------------------------------------------ the first start


def test_the_first_start_prints_a_key_once_and_never_logs_it(start_service: Starter) -> None:
    service = start_service(TOCSIN_BOOTSTRAP_API_KEY="", TOCSIN_LOG_LEVEL="debug")
    printed = [line for line in service.printed if "tk_" in line]
    assert len(printed) == 1
    key = printed[0].rpartition(" ")[2]
    assert OwnedClient(service.port, key, "").get("/api/notification-handlers").status == 200
    assert not any("assword" in line for line in service.printed)  # standard output is no terminal
    assert service.rows("SELECT email, is_admin FROM users") == [("admin@localhost", 1)]

    assert stat.S_IMODE((service.data / "secret.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(service.data.stat().st_mode) == 0o700
    assert service.terminate() == 0
    service.start()
    assert len(service.printed) == 1  # where it serves, and nothing else
    assert OwnedClient(service.port, key, "").get("/api/notification-handlers").status == 200
    assert key not in service.log() and "tk_" not in service.log()


def test_the_first_user_can_be_named(start_service: Starter, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("correct horse battery\n")
    service = start_service(TOCSIN_BOOTSTRAP_EMAIL="ops@example.com", TOCSIN_BOOTSTRAP_PASSWORD_FILE=str(secret), TOCSIN_SECRET_KEY=KEY)
    assert service.first().get("/api/notification-handlers").status == 200
    assert not [line for line in service.printed if FIRST_KEY in line or "horse" in line]
    [(email, password)] = service.rows("SELECT email, password_hash FROM users")
    assert email == "ops@example.com" and password.startswith("$argon2")
    assert not (service.data / "secret.key").exists()
    assert FIRST_KEY not in service.log() and "horse" not in service.log() and KEY not in service.log()

    # They are for an empty store only.
    assert service.terminate() == 0
    service.environ |= {"TOCSIN_BOOTSTRAP_EMAIL": "other@example.com", "TOCSIN_BOOTSTRAP_API_KEY": "tk_AnotherKeyThatIsNotTheFirst0123"}
    service.start()
    assert OwnedClient(service.port, "tk_AnotherKeyThatIsNotTheFirst0123", "").get("/api/notifications").status == 401
    assert service.rows("SELECT count(*) FROM users") == [(1,)]


@pytest.mark.parametrize("seen", ["tocsin.lock", "secret.key", "tocsin.db", "tocsin.db-wal", "in-flight"])
def test_a_first_start_that_was_killed_can_be_made_again(tmp_path: Path, seen: str) -> None:
    service = Service(tmp_path / "service")
    process = service.launch()
    while not (service.data / seen).exists():  # a busy look, to kill it right there
        assert process.poll() is None
    service.kill()
    try:
        client = service.start().first()
        assert client.get("/api/notification-handlers").status == 200
        assert client.add_handler("email", email="root@nas") == 1
    finally:
        service.kill()


def test_a_first_write_that_was_killed_half_way_is_undone(tmp_path: Path) -> None:
    service = Service(tmp_path / "service")
    service.data.mkdir()
    (service.data / "secret.key").write_text(KEY)
    with contextlib.closing(sqlite3.connect(tmp_path / "tocsin.db", isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size=1")  # pages, so that it has begun to write long before it would commit
        writer.execute("BEGIN")
        writer.execute("CREATE TABLE half (content)")
        writer.executemany("INSERT INTO half VALUES (?)", [(bytes(4000),)] * 100)
        for file in tmp_path.glob("tocsin.db*"):
            shutil.copy(file, service.data)
    assert (service.data / "tocsin.db-journal").exists() and (service.data / "tocsin.db").stat().st_size > 0
    found = service.run("tocsin", "check")
    assert "damaged" not in found.stdout + found.stderr
    try:
        assert service.start().first().add_handler("email", email="root@nas") == 1
        assert service.rows("SELECT name FROM sqlite_master WHERE name = 'half'") == []
    finally:
        service.kill()


# ------------------------------------------------------------------------------------------------ beside the service


@both_stores
def test_a_revoked_key_stops_working_within_two_seconds(service: Service) -> None:
    client = service.client()
    other = service.narrowed(client, "handlers:read")
    assert client.get("/api/notification-handlers").status == other.get("/api/notification-handlers").status == 200
    with service.admin() as admin:
        admin.revoke_key((client.key or "")[:7])
    until(lambda: client.get("/api/notification-handlers").status == 401, 2.0, "the key still works")
    assert other.get("/api/notification-handlers").status == 200


@both_stores
def test_a_key_that_is_revoked_right_after_the_start_stops_working_too(start_service: Starter) -> None:
    service = start_service()
    client = service.first()
    assert client.get("/api/notification-handlers").status == 200
    with service.admin() as admin:
        admin.revoke_key("first key")
    until(lambda: client.get("/api/notification-handlers").status == 401, 2.0, "the key still works")


@both_stores
def test_a_new_key_works_at_once(service: Service) -> None:
    with service.admin() as admin:
        key = admin.add_key("admin@localhost", "another", ("handlers:read",))
    client = OwnedClient(service.port, key, "")
    assert client.get("/api/notification-handlers").status == 200
    refused = client.post("/api/notifications", {"message": "no"})
    assert (refused.status, [code for code, _ in refused.codes()]) == (403, ["forbidden"])


@both_stores
def test_disabling_a_user_ends_all_that_is_theirs(service: Service, receiver: Receiver) -> None:
    receiver.answer("/hook", 200, hold=True)
    bystander, client = service.first(), service.client()
    kept = bystander.add_handler("webhook", webhook=receiver.url("/kept"))
    waits = bystander.send("stays", handlers=[kept], send_at="2027-11-01 00:00:00")
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    for number in range(30):
        client.send(f"{number}", handlers=[handler])
    client.send("much later", handlers=[handler], send_at="2027-11-01 00:00:00")
    receiver.wait(2)  # two are in flight, the others in memory or in the store
    with service.admin() as admin:
        admin.disable_user(client.email)
    until(lambda: client.get("/api/notification-handlers").status == 401, 2.0, "the key still works")
    under_way = len(receiver.requests)
    receiver.release()

    def statuses() -> dict[int, int]:
        return dict(service.rows("SELECT status, count(*) FROM deliveries WHERE handler_id = ? GROUP BY status", handler))

    until(lambda: statuses() == {1: under_way, 4: 31 - under_way}, what="they did not end")
    assert len(receiver.requests) == under_way
    assert service.rows("SELECT settings, secret, is_enabled FROM handlers WHERE id = ?", handler) == [(None, None, 0)]
    assert [one["status"] for one in bystander.deliveries(waits)] == ["pending"]
    assert bystander.handler(kept)["is_enabled"] is True


@both_stores
def test_deleting_a_user_leaves_no_row_of_theirs(start_service: Starter, receiver: Receiver) -> None:
    service = start_service()
    client = service.client()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    client.settled(client.send("Hello", handlers=[handler]))
    with service.admin() as admin:
        admin.delete_user(client.email)
    until(lambda: client.get("/api/notification-handlers").status == 401, 2.0, "the key still works")
    assert service.rows("SELECT email FROM users") == [("admin@localhost",)]
    for table in ("keys", "handlers", "notifications", "deliveries"):
        assert service.rows(f"SELECT count(*) FROM {table} WHERE user_id != 1") == [(0,)], table
    assert service.rows("SELECT count(*) FROM attempts") == [(0,)]


def test_commands_are_refused_where_there_is_no_store_or_no_key(tmp_path: Path, stopped: Service) -> None:
    with pytest.raises(AdminError, match="no store"), Service(tmp_path / "none").admin():
        pass
    service = copied(stopped, tmp_path)
    (service.data / "secret.key").unlink()
    before = hashes(service.data)
    with pytest.raises(AdminError, match=r"secret\.key"), service.admin():
        pass
    assert hashes(service.data) == before
