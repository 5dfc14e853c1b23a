"""Long lists: a first page costs the same however much follows it, and a slow read holds up nothing.

Work is counted in steps of SQLite's virtual machine, and in rows and index entries that PostgreSQL reads, which are the same on every
machine; times are printed only.
"""

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import Connection, text

from e2e.service import FIRST_KEY, Client, Service
from e2e.stores import both_stores_long, stores_of
from receiver import Receiver
from tocsin import clock, datadir
from tocsin.cli.selftest.many.postgresql import execute
from tocsin.model import Status
from tocsin.ports.handlers import HandlerFilter
from tocsin.ports.history import DeliveryFilter
from tocsin.ports.queue import Wanted
from tocsin.settings import load
from tocsin.store import dialects, due, handlers, history, keys, people
from tocsin.store.dialects.connecting import postgresql_engine
from tocsin.store.dialects.sqlite import sqlite_engine
from tocsin.store.sql import write_now
from tocsin.vault import hash_api_key, shown_key

pytestmark = both_stores_long
FEW, HANDLERS, DELIVERIES = 1_000, 100_000, 1_000_000
MAX_TIMES = 3
MAX_ROWS = 300  # that PostgreSQL reads for a page of 25
SLOW_READS = 8  # more than the store has threads for reading
RARE = "a needle that one message in a million has"

FILL_HANDLERS = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
INSERT INTO handlers (id, user_id, type, name, settings, is_enabled, created_at, version)
SELECT i, 1, 'webhook', 'Handler ' || i, ?, i % 10 != 0, :start + CAST(i AS BIGINT) * 1000000, 1 FROM n
"""
FILL_NOTIFICATIONS = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
INSERT INTO notifications (id, user_id, created_at, send_at, kind, severity, title, text, url, fields)
SELECT i, 1, :start + CAST(i AS BIGINT) * 1000, CASE WHEN i % 20 = 0 THEN :far END, 'notification', 'warning', 'Disk of db-' || (i % 1000),
       CASE i WHEN 7 THEN ? ELSE 'The disk of **db-' || (i % 1000) || '** is ' || (i % 100) || ' % full, see the runbook.' END, '', '[]'
FROM n
"""
# Most arrived; one in twenty is scheduled for tomorrow; some failed, expired, were cancelled or skipped. Handler 500 has a tenth of them.
FILL_DELIVERIES = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
INSERT INTO deliveries (id, notification_id, handler_id, user_id, status, is_critical, due_at, first_due_at, created_at, attempt_count,
                        step, throttles, last_attempt_at, may_have_arrived, part, replays, last_reason, last_error)
SELECT i, i, CASE WHEN i % 10 = 3 THEN 500 ELSE 1 + i % :handlers END, 1,
       CASE WHEN i % 20 = 0 THEN 0 WHEN i % 10 < 9 THEN 1 ELSE 2 + (i / 10) % 4 END, FALSE,
       CASE WHEN i % 20 = 0 THEN :far ELSE :start + i * 1000 END, CASE WHEN i % 20 = 0 THEN :far ELSE :start + i * 1000 END,
       :start + i * 1000, CASE WHEN i % 20 = 0 THEN 0 ELSE 1 END, 0, 0,
       CASE WHEN i % 20 = 0 THEN NULL ELSE :start + i * 1000 END, FALSE, 1, 0, CASE WHEN i % 20 = 0 THEN NULL ELSE 'ok' END,
       CASE WHEN i % 10 < 9 THEN NULL ELSE 'server_error: 500' END
FROM n
"""


def make_store(service: Service, handlers: int, deliveries: int) -> Service:
    """A store as the service makes it, filled beneath it; the totals are what the rows say."""
    settings = load(service.environ, service.folder / "none.env")
    engine, vault = datadir.open_store(settings)

    def first_user(connection: Connection) -> None:
        user = people.add_user(connection, "admin@localhost", True, clock.now())
        assert user == 1
        keys.add_key(connection, user, "first key", hash_api_key(FIRST_KEY), shown_key(FIRST_KEY), (), clock.now())

    write_now(engine, first_user)
    engine.dispose()
    start = clock.now() - 20 * 86_400_000_000
    values = {":start": start, ":far": clock.now() + 86_400_000_000, ":handlers": handlers}
    for statement, count, more in (
        (FILL_HANDLERS, handlers, [vault.seal({"webhook": "http://127.0.0.1:9/"})]),
        (FILL_NOTIFICATIONS, deliveries, [RARE]),
        (FILL_DELIVERIES, deliveries, []),
    ):
        for name, value in (values | {":count": count}).items():
            statement = statement.replace(name, str(value))
        service.change(statement, *more)
    service.change("INSERT INTO totals (user_id, what, slot, n) SELECT 1, status, 0, count(*) FROM deliveries GROUP BY status")
    service.change("INSERT INTO totals (user_id, what, slot, n) VALUES (1, 100, 0, ?), (1, 101, 0, ?)", deliveries, handlers)
    if url := service.environ.get("TOCSIN_DATABASE_URL"):  # what its autovacuum would do; SQLite counts on from the highest id by itself
        for table, count in (("handlers", handlers), ("notifications", deliveries), ("deliveries", deliveries)):
            execute(url, f"SELECT setval('{table}_id_seq', {count})")
            execute(url, f"VACUUM ANALYZE {table}")
    return service


Made = Callable[[str], tuple[Service, Service]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Made]:
    """By kind of store a small one and a large one, made when they are first asked for."""
    found: dict[str, tuple[Service, Service]] = {}
    with ExitStack() as ends:

        def make(kind: str) -> tuple[Service, Service]:
            if kind not in found:
                stores = ends.enter_context(stores_of(kind, request))
                started = time.monotonic()
                services: list[Service] = []
                for name, handlers, deliveries in (("small", FEW, FEW), ("large", HANDLERS, DELIVERIES)):
                    folder = tmp_path_factory.mktemp(f"{kind}-{name}") / "service"
                    service = Service(folder, **stores.environ(folder))
                    service.data.mkdir(exist_ok=True)
                    ends.callback(service.kill)
                    services.append(make_store(service, handlers, deliveries))
                print(f"\n{kind}: made in {time.monotonic() - started:.1f} s")
                found[kind] = services[0], services[1]
            return found[kind]

        yield make


@pytest.fixture
def stores(made: Made, store: str) -> tuple[Service, Service]:
    """A small one and a large one. The large one is served, so it gets a few rows more."""
    return made(store)


class Measured:
    """How much work a read is, and the best time of five. `answer`: what it found."""

    def __init__(self, service: Service, read: Callable[[Connection], Any]) -> None:
        self.steps = 0
        self.seconds = 1e9
        url = service.environ.get("TOCSIN_DATABASE_URL")
        engine = postgresql_engine(url) if url else sqlite_engine(service.data / datadir.STORE_FILE)
        with dialects.of(engine).reading(engine, 60) as connection:
            read(connection)  # compiles what there is to compile
            for _ in range(5):
                started = time.perf_counter()
                self.answer = read(connection)
                self.seconds = min(self.seconds, time.perf_counter() - started)
            if url:
                before = rows_read(connection)
                read(connection)
                self.steps = rows_read(connection) - before
            else:
                driver: Any = connection.connection.driver_connection
                driver.set_progress_handler(self._count, 1)
                read(connection)
                driver.set_progress_handler(None, 0)
        engine.dispose()

    def _count(self) -> int:
        self.steps += 1
        return 0


def rows_read(connection: Connection) -> int:
    """Rows and index entries that this transaction has read so far."""
    counted = "SELECT sum(pg_stat_get_xact_tuples_returned(oid) + pg_stat_get_xact_tuples_fetched(oid)) FROM pg_class WHERE oid >= 16384"
    return int(connection.scalar(text(counted)) or 0)


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
    "what is due": lambda connection: due.due(connection, {500: Wanted(256)}, clock.now()),
}


@pytest.mark.parametrize("what", READS)
def test_a_first_page_costs_the_same_in_front_of_a_million_rows(stores: tuple[Service, Service], what: str) -> None:
    small, large = (Measured(service, READS[what]) for service in stores)
    ratio = large.seconds / small.seconds
    print(f"{what}: {small.steps} and {large.steps} steps, {small.seconds * 1e3:.2f} and {large.seconds * 1e3:.2f} ms, {ratio:.1f} times")
    if "TOCSIN_DATABASE_URL" in stores[0].environ:
        assert large.steps <= MAX_ROWS  # a small table is read as a whole
    else:
        assert small.steps > 10
        assert large.steps <= MAX_TIMES * small.steps


def test_filtered_lists_are_counted_no_further_than_the_cap(stores: tuple[Service, Service]) -> None:
    of_handler = DeliveryFilter(notification_handler_id=500)
    large = Measured(stores[1], lambda connection: history.deliveries_page(connection, 1, of_handler, 1, 25))
    print(f"of a handler with a tenth of them all: {large.steps} steps, {large.seconds * 1e3:.2f} ms")
    assert (len(large.answer.rows), large.answer.total, large.answer.exact) == (25, history.COUNT_CAP, False)
    assert large.steps < 50 * history.COUNT_CAP < DELIVERIES


def test_the_pages_hold_what_they_should(stores: tuple[Service, Service]) -> None:
    handlers, deliveries, failed = (Measured(stores[1], READS[what]).answer for what in ("handlers", "deliveries", "deliveries failed"))
    assert ([one.id for one in handlers.rows], handlers.total) == (list(range(1, 26)), HANDLERS)
    assert [one.id for one in deliveries.rows] == list(range(DELIVERIES, DELIVERIES - 25, -1))
    assert (deliveries.total, deliveries.exact) == (DELIVERIES, True)
    rows = stores[1].rows("SELECT id FROM deliveries WHERE status = 2 ORDER BY id DESC")
    assert [one.id for one in failed.rows] == [row[0] for row in rows[:25]]
    assert failed.total == len(rows)


@pytest.fixture
def large_service(stores: tuple[Service, Service]) -> Service:
    service = stores[1]
    if service.process is None:
        started = time.monotonic()
        service.start()
        print(f"started in front of a million rows in {time.monotonic() - started:.1f} s")
    return service


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
    started = time.monotonic()
    handler = fresh.add_handler("webhook", webhook=receiver.url("/hook"))
    fresh.send("meanwhile", handlers=[handler])
    receiver.wait(1, 30)
    finished = len(slow.statuses)
    print(f"{SLOW_READS} searches: the first message to a new handler came within {time.monotonic() - started:.2f} s")
    slow.join()
    assert finished == 0
