"""SQLite and PostgreSQL in the same run: what is accepted and delivered, how long a lone message takes, and whose processor time it is.

The server shares the cores of the receiver and the producer: of a machine of its own it would need no more. What its processes use, and the
service, is read from /proc, so that other programs on the machine hardly matter.
"""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from bench import service
from bench.receiver import Receiver
from bench.report import Reconciliation, Row, Store, together
from bench.scenarios import Bench, Length
from tocsin.cli.selftest.many.postgresql import Server

ROUNDS = 3
LONE_SECONDS = 4.0
SERVER_SETTINGS: dict[str, Any] = {  # as a new server has them
    "fsync": "on",
    "full_page_writes": "on",
    "wal_level": "replica",
    "max_wal_senders": 10,
    "autovacuum": "on",
    "shared_buffers": "128MB",
    "max_connections": 100,
}


def measure(folder: Path, core: set[int], others: set[int], handlers: int, length: Length) -> tuple[list[Store], list[Reconciliation]]:
    """Each store has a service on `core`, and a receiver; they take turns."""
    found: dict[str, list[list[Row]]] = {}
    with ExitStack() as stack:
        benches: dict[str, Bench] = {}
        for name in ("SQLite", "PostgreSQL"):
            environ, server_pid = stack.enter_context(_postgresql()) if name == "PostgreSQL" else ({}, None)
            receiver = Receiver(others, handlers)
            stack.callback(receiver.close)
            (folder / name).mkdir(parents=True)
            running = stack.enter_context(service.running(folder / name, core, environ=environ))
            benches[name] = Bench(running, receiver, core, length, server_pid)
            found[name] = []
        rounds = ROUNDS if length.rounds > 1 else 1
        for _ in range(rounds):
            for name, bench in benches.items():
                found[name].append([bench.many_a_request(), bench.paced(LONE_SECONDS)])
        for number in range(rounds):  # last: what is scheduled stays
            for name, bench in benches.items():
                found[name][number].append(bench.accepted())
        books = [bench.books.reconcile(bench.service) for bench in benches.values()]
    return [_store(name, *zip(*rows, strict=True)) for name, rows in found.items()], books


@contextmanager
def _postgresql() -> Generator[tuple[dict[str, str], int], None, None]:
    """A server with an empty database: what leads a service there, and its process."""
    server = Server(place="/var/tmp", **SERVER_SETTINGS)  # /tmp may be memory, where a commit costs nothing
    try:
        server.start()
        server.execute("CREATE DATABASE bench")
        yield {"TOCSIN_DATABASE_URL": server.url("bench"), "TOCSIN_SECRET_KEY": "a-key-for-the-bench-only"}, server.pid
    finally:
        server.remove()


def _store(name: str, delivered: Sequence[Row], lone: Sequence[Row], accepted: Sequence[Row]) -> Store:
    return Store(
        name=name,
        accepted=together(accepted).rate,
        accept_us=median(row.service_us for row in accepted),
        accept_server_us=median(row.server_us for row in accepted),
        delivered=together(delivered).rate,
        deliver_us=median(row.service_us for row in delivered),
        deliver_server_us=median(row.server_us for row in delivered),
        answer_p99_ms=median(row.answer_p99_ms or 0 for row in lone),
        arrival_p99_ms=median(row.p99_ms or 0 for row in lone),
        core_used=together(delivered).core_used or 0,
    )
