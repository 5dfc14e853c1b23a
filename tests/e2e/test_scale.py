"""Long lists: a first page costs the same however much stands behind it, and a slow read holds up nothing.

Work is counted in steps of SQLite's virtual machine, which is the same on every machine; times are printed only.
"""

import contextlib
import http.client
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from e2e.service import FIRST_KEY, Client, Service
from receiver import Receiver
from tocsin import clock, datadir
from tocsin.model import Status
from tocsin.ports.handlers import HandlerFilter
from tocsin.ports.history import DeliveryFilter
from tocsin.ports.queue import Wanted
from tocsin.settings import load
from tocsin.store import handlers, history, people, queue
from tocsin.store.dialects.sqlite import sqlite_engine
from tocsin.store.sql import write_now
from tocsin.vault import hash_api_key, shown_key

FEW, HANDLERS, DELIVERIES = 1_000, 100_000, 1_000_000
MAX_TIMES = 3
SLOW_READS = 8  # more than the store has threads for reading
RARE = "a needle that one message in a million has"

FILL_HANDLERS = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
INSERT INTO handlers (id, user_id, type, name, settings, is_enabled, created_at, version)
SELECT i, 1, 'webhook', 'Handler ' || i, :settings, i % 10 != 0, :start + i * 1000000, 1 FROM n
"""
FILL_NOTIFICATIONS = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
INSERT INTO notifications (id, user_id, created_at, kind, severity, title, text, url, fields)
SELECT i, 1, :start + i * 1000, 'notification', 'warning', 'Disk of db-' || (i % 1000),
       CASE i WHEN 7 THEN :rare ELSE 'The disk of **db-' || (i % 1000) || '** is ' || (i % 100) || ' % full, see the runbook.' END, '', '[]'
FROM n
"""
# Most arrived; one in twenty waits for tomorrow; some failed, expired, were cancelled or skipped. Handler 500 has a tenth of them all.
FILL_DELIVERIES = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
INSERT INTO deliveries (id, notification_id, handler_id, user_id, status, is_critical, due_at, first_due_at, created_at, attempt_count,
                        step, throttles, last_attempt_at, may_have_arrived, part, replays, last_reason, last_error)
SELECT i, i, CASE WHEN i % 10 = 3 THEN 500 ELSE 1 + i % :handlers END, 1,
       CASE WHEN i % 20 = 0 THEN 0 WHEN i % 10 < 9 THEN 1 ELSE 2 + (i / 10) % 4 END, 0,
       CASE WHEN i % 20 = 0 THEN :far ELSE :start + i * 1000 END, :start + i * 1000, :start + i * 1000, 1, 0, 0,
       :start + i * 1000, 0, 1, 0, 'ok', CASE WHEN i % 10 < 9 THEN NULL ELSE 'server_error: 500' END
FROM n
"""


def make_store(folder: Path, handlers: int, deliveries: int) -> Path:
    """A store as the service makes it, filled beneath it; the totals are what the rows say."""
    settings = load({"TOCSIN_DATA_DIR": str(folder)}, folder / "none.env")
    folder.mkdir(parents=True)
    engine, vault = datadir.open_store(settings)

    def first_user(connection: Connection) -> None:
        user = people.add_user(connection, "admin@localhost", True, clock.now())
        assert user == 1
        people.add_key(connection, user, "first key", hash_api_key(FIRST_KEY), shown_key(FIRST_KEY), (), clock.now())

    write_now(engine, first_user)
    engine.dispose()
    start = clock.now() - 20 * 86_400_000_000
    values = {
        "start": start,
        "far": clock.now() + 86_400_000_000,
        "settings": vault.seal({"webhook": "http://127.0.0.1:9/"}),
        "handlers": handlers,
        "rare": RARE,
    }
    with contextlib.closing(sqlite3.connect(folder / datadir.STORE_FILE)) as connection, connection:
        connection.execute("PRAGMA cache_size=-200000")
        connection.execute(FILL_HANDLERS, values | {"count": handlers})
        connection.execute(FILL_NOTIFICATIONS, values | {"count": deliveries})
        connection.execute(FILL_DELIVERIES, values | {"count": deliveries})
        connection.execute("INSERT INTO totals SELECT 1, status, 0, count(*) FROM deliveries GROUP BY status")
        connection.execute("INSERT INTO totals VALUES (1, 100, 0, ?), (1, 101, 0, ?)", (deliveries, handlers))
    return folder


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small one and a large one. The large one is served, so it gets a few rows more."""
    folder = tmp_path_factory.mktemp("stores")
    started = time.monotonic()
    small = make_store(folder / "small", FEW, FEW)
    large = make_store(folder / "large" / "data", HANDLERS, DELIVERIES)
    print(f"\nmade in {time.monotonic() - started:.1f} s, {(large / datadir.STORE_FILE).stat().st_size >> 20} MiB")
    return small, large


class Measured:
    """How much work a read is: steps of the virtual machine, and the best time of five."""

    def __init__(self, folder: Path, read: Callable[[Connection], Any]) -> None:
        engine = sqlite_engine(folder / datadir.STORE_FILE)
        self.steps = 0
        self.seconds = 1e9
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            read(connection)  # compiles what there is to compile
            for _ in range(5):
                started = time.perf_counter()
                self.answer = read(connection)
                self.seconds = min(self.seconds, time.perf_counter() - started)
            driver.set_progress_handler(self._count, 1)
            read(connection)
            driver.set_progress_handler(None, 0)
        engine.dispose()

    def _count(self) -> int:
        self.steps += 1
        return 0


READS: dict[str, Callable[[Connection], Any]] = {
    "handlers": lambda connection: handlers.handlers_page(connection, 1, HandlerFilter(), 1, 25),
    "notifications": lambda connection: history.notifications_page(connection, 1, 1, 25),
    "deliveries": lambda connection: history.deliveries_page(connection, 1, DeliveryFilter(), 1, 25),
    **{
        f"deliveries {status.word}": lambda connection, status=status: history.deliveries_page(
            connection, 1, DeliveryFilter(status=status), 1, 25
        )
        for status in (Status.PENDING, Status.DELIVERED, Status.FAILED)
    },
    "deliveries of a notification": lambda connection: history.deliveries_page(connection, 1, DeliveryFilter(notification_id=500), 1, 25),
    "what is due": lambda connection: queue.due(connection, {500: Wanted(256)}, clock.now()),
}


@pytest.mark.parametrize("what", READS)
def test_a_first_page_costs_the_same_in_front_of_a_million_rows(stores: tuple[Path, Path], what: str) -> None:
    small, large = (Measured(folder, READS[what]) for folder in stores)
    ratio = large.seconds / small.seconds
    print(f"{what}: {small.steps} and {large.steps} steps, {small.seconds * 1e3:.2f} and {large.seconds * 1e3:.2f} ms, {ratio:.1f} times")
    assert small.steps > 10
    assert large.steps <= MAX_TIMES * small.steps


def test_filtered_lists_are_counted_no_further_than_the_cap(stores: tuple[Path, Path]) -> None:
    of_handler = DeliveryFilter(notification_handler_id=500)
    large = Measured(stores[1], lambda connection: history.deliveries_page(connection, 1, of_handler, 1, 25))
    print(f"of a handler with a tenth of them all: {large.steps} steps, {large.seconds * 1e3:.2f} ms")
    assert (len(large.answer.rows), large.answer.total, large.answer.exact) == (25, history.COUNT_CAP, False)
    assert large.steps < 50 * history.COUNT_CAP < DELIVERIES


def test_the_pages_hold_what_they_should(stores: tuple[Path, Path]) -> None:
    handlers, deliveries, failed = (Measured(stores[1], READS[what]).answer for what in ("handlers", "deliveries", "deliveries failed"))
    assert ([one.id for one in handlers.rows], handlers.total) == (list(range(1, 26)), HANDLERS)
    assert [one.id for one in deliveries.rows] == list(range(DELIVERIES, DELIVERIES - 25, -1))
    assert (deliveries.total, deliveries.exact) == (DELIVERIES, True)
    with contextlib.closing(sqlite3.connect(stores[1] / datadir.STORE_FILE)) as connection:
        rows = connection.execute("SELECT id FROM deliveries WHERE status = 2 ORDER BY id DESC").fetchall()
    assert [one.id for one in failed.rows] == [row[0] for row in rows[:25]]
    assert failed.total == len(rows)


@pytest.fixture(scope="module")
def large_service(stores: tuple[Path, Path]) -> Iterator[Service]:
    service = Service(stores[1].parent)
    try:
        started = time.monotonic()
        service.start()
        print(f"started in front of a million rows in {time.monotonic() - started:.1f} s")
        yield service
    finally:
        service.kill()


def test_the_api_shows_first_pages_of_long_lists(large_service: Service) -> None:
    client = large_service.first()
    paths = ("/api/notification-handlers", "/api/notifications", "/api/deliveries", "/api/deliveries?status=failed")
    for path in paths:
        reply, seconds = timed(client, path)
        print(f"{path}: {seconds * 1e3:.1f} ms")
        assert (reply.status, len(reply.data)) == (200, 25)
    assert client.get("/api/deliveries").json["meta"] == {
        "page": 1,
        "results_per_page": 25,
        "total": DELIVERIES,
        "total_pages": DELIVERIES // 25,
    }


def timed(client: Client, path: str) -> tuple[Any, float]:
    best, reply = 1e9, None
    for _ in range(5):
        started = time.perf_counter()
        reply = client.get(path)
        best = min(best, time.perf_counter() - started)
    return reply, best


class SlowReads:
    """Searches through a million messages, all under way when this is made. `statuses`: of those that have ended."""

    def __init__(self, client: Client, count: int) -> None:
        self.statuses: list[int] = []
        self._client = client
        self._sent = threading.Semaphore(0)
        self._threads = [threading.Thread(target=self._search, args=(number,), daemon=True) for number in range(count)]
        for thread in self._threads:
            thread.start()
        for _ in self._threads:
            assert self._sent.acquire(timeout=10)
        assert client.get("/healthz").status == 200  # behind them in the queue

    def _search(self, number: int) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._client.port, timeout=60)) as connection:
            headers = {"Authorization": f"Bearer {self._client.key}"}
            connection.request("GET", f"/api/deliveries?search=nowhere+{number}", headers=headers)
            self._sent.release()
            self.statuses.append(connection.getresponse().status)

    def join(self) -> list[int]:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        return self.statuses


@pytest.mark.parametrize("count", [1, SLOW_READS])
def test_a_delivery_goes_through_while_slow_reads_run(large_service: Service, receiver: Receiver, count: int) -> None:
    client = large_service.first()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    client.settled(client.send("before", handlers=[handler]))
    slow = SlowReads(client, count)
    started = time.monotonic()
    sent = [client.send("meanwhile", handlers=[handler])]
    receiver.wait(2, 30)
    assert slow.statuses == []  # all of them still read
    sent += [client.send(f"meanwhile {number}", handlers=[handler]) for number in range(19)]
    received = receiver.wait(21, 30)
    print(f"{count} searches: 20 messages within {time.monotonic() - started:.2f} s")
    assert sorted(one.json()["data"]["id"] for one in received[1:]) == sent
    assert set(slow.join()) <= {200, 503}


def test_a_new_handler_and_a_new_key_work_while_slow_reads_run(large_service: Service, receiver: Receiver) -> None:
    """What is not in memory yet has to be read, too."""
    client = large_service.first()
    with large_service.admin() as admin:
        key = admin.add_key("admin@localhost", "fresh", ())
    fresh = Client(large_service.port, key)
    slow = SlowReads(client, SLOW_READS)
    handler = fresh.add_handler("webhook", webhook=receiver.url("/hook"))
    fresh.send("meanwhile", handlers=[handler])
    receiver.wait(1, 30)
    finished = len(slow.statuses)
    slow.join()
    assert finished == 0
