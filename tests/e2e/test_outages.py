"""When the machine runs out of something: the service says so, keeps what it accepted, does not spin, and recovers by itself."""

import contextlib
import os
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bench.matrix.clocks import Clock

from e2e.conftest import Starter
from e2e.namespace import in_a_namespace
from e2e.service import Client, Service, in_an_hour, until
from e2e.stores import both_stores, both_stores_long, sqlite_only
from receiver import Receiver

MANY = 10_000


def cpu_seconds(service: Service) -> float:
    """Processor time of the service so far."""
    assert service.process is not None
    fields = Path(f"/proc/{service.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def does_not_spin(service: Service) -> None:
    """Over a second of outage it uses little of its core."""
    before, started = cpu_seconds(service), time.monotonic()
    until(lambda: time.monotonic() - started >= 1)
    assert cpu_seconds(service) - before < 0.5


def test_a_store_that_another_process_holds_is_said_and_waited_for(start_service: Starter, receiver: Receiver) -> None:
    receiver.answer("/held", 200, hold=True)
    service = start_service()
    client = service.first()
    handler = client.add_handler("webhook", webhook=receiver.url("/held"))
    before = client.send("before", handlers=[handler])
    receiver.wait(1)
    with contextlib.closing(sqlite3.connect(service.data / "tocsin.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        receiver.release()  # its outcome cannot be kept now
        refused = client.post("/api/notifications", {"message": "meanwhile", "handlers": [handler]})
        assert (refused.status, refused.codes()) == (503, [("busy", None)])
        assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/api/notifications").json["meta"]["total"] == 1
        does_not_spin(service)
        until(lambda: client.get("/readyz").status == 503, what="readyz says that all is well")
        with ThreadPoolExecutor() as threads:  # nobody waits for it as long as all before have, one after the other
            several = list(threads.map(lambda number: client.post("/api/notifications", {"message": f"{number}"}).status, range(20)))
        assert several == [503] * 20
        connection.execute("ROLLBACK")
    until(lambda: client.get("/readyz").status == 200)
    assert [one["status"] for one in client.settled(before, 30)] == ["delivered"]
    assert [one["status"] for one in client.settled(client.send("after", handlers=[handler]))] == ["delivered"]
    assert [one.json()["data"]["message"] for one in receiver.requests] == ["before", "after"]


def test_a_stop_does_not_wait_for_a_store_that_another_process_holds(start_service: Starter, receiver: Receiver) -> None:
    service = start_service()
    client = service.first()
    client.add_handler("webhook", webhook=receiver.url("/hook"))
    with contextlib.closing(sqlite3.connect(service.data / "tocsin.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor() as threads:
            several = [threads.submit(client.post, "/api/notifications", {"message": "meanwhile"}) for _ in range(20)]
            assert {one.result().status for one in several} == {503}
        assert service.terminate(30) == 0


@both_stores
def test_when_descriptors_run_out_nothing_is_lost(start_service: Starter, receiver: Receiver) -> None:
    service = start_service(TOCSIN_RETRY_SCHEDULE="1s," * 29 + "1s")
    client = service.first()
    handlers = [client.add_handler("webhook", webhook=receiver.url(f"/{number}")) for number in range(40)]
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3))
    notification = client.send("due without a socket", handlers=handlers, send_at=soon)
    service.limit_descriptors(1)
    # None for the wire itself, none for a connection, none to read the store with or to claim in it: as it happens.
    signs = ("attempt.waits", "engine.refill_waits", "engine.claim_waits")
    until(lambda: any(sign in service.log() for sign in signs), what="it runs out")
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", service.port), timeout=5):
        does_not_spin(service)
    service.limit_descriptors(1024)
    settled = client.settled(notification, 60)
    assert {(one["status"], one["attempt_count"]) for one in settled} == {("delivered", 1)}  # what we lack uses up no attempt
    assert client.get("/readyz").status == 200


@both_stores_long
def test_ten_thousand_due_at_one_instant(start_service: Starter, receiver: Receiver) -> None:
    service = start_service(from_scratch=True)
    client = service.first()
    handlers = [client.add_handler("webhook", webhook=receiver.url(f"/{number % 50}")) for number in range(100)]
    service.terminate()
    due_at = int((time.time() + 4) * 1_000_000)
    rows = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY})"
    service.change(
        f"{rows} INSERT INTO notifications (user_id, created_at, send_at, kind, severity, title, text, url, fields)"
        f" SELECT 1, {due_at - 10**9}, {due_at}, 'notification', 'info', '', 'all at once', '', '[]' FROM n"
    )
    service.change(
        f"{rows} INSERT INTO deliveries (notification_id, handler_id, user_id, status, due_at, first_due_at, created_at, is_critical)"
        f" SELECT i, {handlers[0]} + i % 100, 1, 0, {due_at}, {due_at}, {due_at - 10**9}, FALSE FROM n"
    )
    service.change("INSERT INTO totals (user_id, what, slot, n) VALUES (1, 0, 0, ?), (1, 100, 0, ?)", MANY, MANY)
    client.port = service.start().port
    other = service.client()
    mine = other.add_handler("webhook", webhook=receiver.url("/other"))
    receiver.wait(1, 20)  # they have begun
    assert [one["status"] for one in other.settled(other.send("mine", handlers=[mine]))] == ["delivered"]
    until(lambda: client.get("/api/deliveries?status=pending").json["meta"]["total"] == 0, 60, "they did not all go out")
    assert client.get("/api/deliveries?status=delivered").json["meta"]["total"] == MANY
    came = [one.json()["data"]["delivery_id"] for one in receiver.requests if one.path != "/other"]
    assert len(came) == len(set(came)) == MANY
    does_not_spin(service)
    assert _resident_mb(service) < 250


def _resident_mb(service: Service) -> float:
    assert service.process is not None
    lines = Path(f"/proc/{service.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS"))


@both_stores_long
@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_a_million_waiting_are_no_burden(start_service: Starter, receiver: Receiver, count: int) -> None:
    """For next year, one handler: it starts, sends what is due at once, and stays small."""
    service = start_service(from_scratch=True)
    client = service.first()
    waiting, fresh = (client.add_handler("webhook", webhook=receiver.url(path)) for path in ("/waiting", "/fresh"))
    service.terminate()
    due_at = int((time.time() + 300 * 86_400) * 1_000_000)
    rows = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
    service.change(
        "INSERT INTO notifications (user_id, created_at, send_at, kind, severity, title, text, url, fields)"
        f" VALUES (1, 1, {due_at}, 'notification', 'info', '', 'next year', '', '[]')"
    )
    service.change(
        f"{rows} INSERT INTO deliveries (notification_id, handler_id, user_id, status, due_at, first_due_at, created_at, is_critical)"
        f" SELECT 1, {waiting}, 1, 0, {due_at}, {due_at}, 1, FALSE FROM n"
    )
    service.change("INSERT INTO totals (user_id, what, slot, n) VALUES (1, 0, 0, ?), (1, 100, 0, 1)", count)
    client.port = service.start().port
    assert [one["status"] for one in client.settled(client.send("now", handlers=[fresh]))] == ["delivered"]
    client.send("and now", handlers=[waiting])
    receiver.wait(2)
    until(lambda: client.get("/api/deliveries?status=pending").json["meta"]["total"] == count)
    does_not_spin(service)
    assert _resident_mb(service) < 160


@in_a_namespace
def test_a_store_that_can_only_be_read_is_said(start_service: Starter) -> None:
    """The service does not start on it, and says why; once it can be written again, everything is there."""
    service = start_service()
    client = service.first()
    client.add_handler("webhook", webhook="https://example.com/")
    service.terminate()
    subprocess.run(["mount", "--bind", str(service.data), str(service.data)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(service.data)], check=True)
    said = service.refused()
    assert len(said.splitlines()) == 1 and "read-only" in said.lower(), said
    subprocess.run(["umount", str(service.data)], check=True)
    client.port = service.start().port
    assert client.get("/api/notification-handlers").json["meta"]["total"] == 1


@contextlib.contextmanager
def on_a_small_disk(folder: Path, megabytes: int) -> Iterator[Service]:
    """A service whose data directory is a file system of its own. Inside a namespace only."""
    service = Service(folder / "small", TOCSIN_RETRY_SCHEDULE="1s,1s")
    service.data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(service.data)], check=True)
    try:
        yield service
    finally:
        service.kill()
        subprocess.run(["umount", "--lazy", str(service.data)], check=True)


def fill(folder: Path) -> Path:
    """To the last byte."""
    file = folder / "filler"
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as out:
        while out.write(bytes(4096)):
            pass
    return file


def unready(client: Client) -> str:
    """What `readyz` says, once it is 503."""
    return until(lambda: (reply := client.get("/readyz")).status == 503 and " ".join(reply.json["complaints"]), what="all is well")


@in_a_namespace
def test_a_start_on_a_full_disk_answers_and_waits(receiver: Receiver, tmp_path: Path) -> None:
    """Killed with attempts in flight on a disk that is full: the next start says so, reads, and sends nothing until there is room."""
    receiver.answer("/held", 200, hold=True)
    with on_a_small_disk(tmp_path, 16) as service:
        client = service.start().first()
        held, hook = (client.add_handler("webhook", webhook=receiver.url(path)) for path in ("/held", "/hook"))
        before = client.send("before", handlers=[held])
        later = client.send("later", handlers=[hook], send_at=in_an_hour())
        receiver.wait(1)
        filler = fill(service.data)
        assert "full" in unready(client)
        service.kill()
        with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")):
            pass
        client = service.start().first()
        assert client.get("/healthz").status == 200
        assert "The disk is full" in unready(client) and "engine" in unready(client)
        assert [one["status"] for one in client.deliveries(before)] == ["pending"]
        assert client.get(f"/api/notifications/{later}").data["message"] == "later"
        refused = client.post("/api/notifications", {"message": "meanwhile", "handlers": [hook]})
        assert (refused.status, refused.codes()) == (503, [("busy", None)])
        does_not_spin(service)
        assert service.log().count("settle.waits") <= 1 and len(receiver.requests) == 1
        filler.unlink()
        until(lambda: client.get("/readyz").status == 200, 30, "it does not come up by itself")
        receiver.release()
        [delivery] = client.settled(before)
        assert [one["outcome"] for one in delivery["attempts"]] == ["unknown", "delivered"]
        assert [one["status"] for one in client.settled(client.send("after", handlers=[hook]))] == ["delivered"]
        assert service.terminate() == 0


@in_a_namespace
def test_readyz_says_that_nothing_can_be_written_though_nobody_writes(receiver: Receiver, tmp_path: Path) -> None:
    with on_a_small_disk(tmp_path, 16) as service:
        client = service.start().first()
        client.add_handler("webhook", webhook=receiver.url("/hook"))
        assert client.get("/readyz").status == 200
        filler = fill(service.data)
        assert "The disk is full" in " ".join(client.get("/readyz").json["complaints"]), "though something was written a moment ago"
        assert client.get("/api/notification-handlers").json["meta"]["total"] == 1
        filler.unlink()
        until(lambda: client.get("/readyz").status == 200)
        assert service.terminate() == 0


def test_readyz_is_well_again_though_nobody_writes(start_service: Starter, receiver: Receiver) -> None:
    service = start_service()
    client = service.first()
    client.add_handler("webhook", webhook=receiver.url("/hook"))
    with contextlib.closing(sqlite3.connect(service.data / "tocsin.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert client.post("/api/notifications", {"message": "meanwhile"}).status == 503
        assert "locked" in unready(client)
    until(lambda: client.get("/readyz").status == 200)


@in_a_namespace
def test_a_log_that_filled_the_disk_is_cut_once_nobody_reads(receiver: Receiver, tmp_path: Path) -> None:
    """A reader that stays keeps everything in SQLite's log. Room for folding it in is left, so it heals when the reader goes."""
    with on_a_small_disk(tmp_path, 24) as service:
        client = service.start().first()
        hook = client.add_handler("webhook", webhook=receiver.url("/hook"))
        with contextlib.closing(sqlite3.connect(service.data / "tocsin.db", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM deliveries").fetchone()
            batch = {"notifications": [{"message": "x" * 1500, "handlers": [hook], "send_at": in_an_hour()}] * 50}
            until(lambda: client.post("/api/notifications/batch", batch).status == 503, 60, "the disk does not get full")
            assert "long been reading the store" in unready(client)
            wal = (service.data / "tocsin.db-wal").stat().st_size
            assert wal > 8_000_000
        until(lambda: client.get("/readyz").status == 200, 30, "it does not heal")
        assert client.settled(client.send("after", handlers=[hook]))[0]["status"] == "delivered"
        assert (service.data / "tocsin.db-wal").stat().st_size < wal / 2
        assert service.terminate() == 0


@both_stores
def test_a_start_after_the_clock_was_put_right_sends_what_was_put_off_meanwhile(start_service: Starter, receiver: Receiver) -> None:
    """As if the clock had been ten days ahead when the attempt was made, and right again at the next start."""
    receiver.answer("/hook", 500)
    receiver.answer("/hook", 200)
    service = start_service(TOCSIN_RETRY_SCHEDULE="1h")
    client = service.first()
    notification = client.send("later", handlers=[client.add_handler("webhook", webhook=receiver.url("/hook"))])
    client.attempted(notification)
    service.kill()
    service.change("UPDATE deliveries SET due_at = due_at + 864000000000, last_attempt_at = last_attempt_at + 864000000000")
    client.port = service.start().port
    assert [one["status"] for one in client.settled(notification)] == ["delivered"]
    assert "clock.was_ahead" in service.log()


@sqlite_only
def test_a_clock_that_is_put_right_while_the_service_runs_delays_nothing(
    start_service: Starter, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.answer("/hook", 500)
    receiver.answer("/hook", 200)
    clock = Clock(tmp_path / "clock")
    clock.step_to(864_000)
    service = start_service(from_scratch=True, TOCSIN_RETRY_SCHEDULE="1h", **clock.environ)
    client = service.first()
    notification = client.send("soon", handlers=[client.add_handler("webhook", webhook=receiver.url("/hook"))])
    receiver.wait(1)
    clock.step_to(0)
    assert [one["status"] for one in client.settled(notification)] == ["delivered"]
