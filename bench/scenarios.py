"""The scenarios, and the books that are reconciled at the end."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import uvloop
from msgspec import Struct

from bench import bare, peer
from bench.machine import cpu_seconds, family_cpu_seconds, forget_peak, peak_bytes, run_pinned
from bench.messages import requests_of_many, requests_of_one
from bench.producer import Producer, Refused
from bench.receiver import Receiver
from bench.report import Reconciliation, Row, percentile
from bench.scenes.distance import Cell
from bench.service import API_KEY, Service

BARE = "bare client loop"
OUR_WIRE = "tocsin's wire alone"
BARE_IDS = 1_000_000_000_000  # far from the service's ids, as all arrivals are reconciled together
APPRISE_IDS = 2 * BARE_IDS
BARE_IN_FLIGHT = 200  # one to each target
CONNECTIONS = 128  # of the producer with one message a request; each waits for its 202, so few would wait for the disk together
BATCH_CONNECTIONS = 4
BATCH_SIZE = 100
PACED_CONNECTIONS = 8
PACED_RATE = 50  # messages a second
MAX_WAIT_SECONDS = 120.0  # for the last arrival of a scenario


class Length(Struct, frozen=True):
    """How many rounds there are, about how long the scenarios of each take, in seconds, and how many messages each has at most.

    `cells`: what is measured with distance.
    """

    rounds: int
    seconds: float
    paced_seconds: float
    apprise_seconds: float
    most_messages: int
    cells: Sequence[Cell]


class Books:
    """Every id that was accepted and every id that arrived, over all scenarios."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._accepted: set[int] = set()
        self._arrived: Counter[int] = Counter()
        self._peer_sent = 0
        self._peer_arrived = 0

    def accept(self, ids: Iterable[int]) -> None:
        self._accepted.update(ids)

    def accept_of_peer(self, count: int) -> None:
        """Apprise says how many it has sent, and one message may go to all targets: so they are counted."""
        self._peer_sent += count

    def take(self) -> dict[int, int]:
        """What arrived since the last time: id to the time of its first arrival, nanoseconds since 1970."""
        first: dict[int, int] = {}
        for one, at in self._receiver.take():
            if one >= APPRISE_IDS:
                self._peer_arrived += 1
                continue
            self._arrived[one] += 1
            first.setdefault(one, at)
        return first

    def reconcile(self, service: Service) -> Reconciliation:
        self.take()
        return Reconciliation(
            accepted=len(self._accepted) + self._peer_sent,
            arrived=len(self._arrived) + self._peer_arrived,
            missing=len(self._accepted - self._arrived.keys()) + max(0, self._peer_sent - self._peer_arrived),
            duplicates=sum(1 for one, count in self._arrived.items() if count > 1 and one < BARE_IDS),
            bare_duplicates=sum(1 for one, count in self._arrived.items() if count > 1 and one >= BARE_IDS),
            never_accepted=len(self._arrived.keys() - self._accepted) + max(0, self._peer_arrived - self._peer_sent),
            service_accepted=sum(1 for one in self._accepted if one < BARE_IDS),
            store_delivered=service.delivered(),
        )


class Bench:
    """What all scenarios share."""

    def __init__(self, service: Service, receiver: Receiver, core: set[int], length: Length, server_pid: int | None = None) -> None:
        """`server_pid`: of the database's server, where the store has one."""
        self.books = Books(receiver)
        self.service = service
        self._server_pid = server_pid
        self._receiver = receiver
        self._core = core
        self._length = length
        self._handler_ids = service.register(receiver.ports)
        self._next_number = 0
        self._next_bare = BARE_IDS

    def bare(self, our_wire: bool = False) -> Row:
        rate = self._run_bare(4000, our_wire).rate
        row = self._run_bare(self._count(rate, self._length.seconds / 2), our_wire)
        row.name = OUR_WIRE if our_wire else BARE
        return row

    def one_a_request(self) -> Row:
        rate = self._run(self._singles(2000), CONNECTIONS).rate
        row = self._run(self._singles(self._count(rate, self._length.seconds)), CONNECTIONS)
        row.name = "tocsin, 1 a request"
        return row

    def many_a_request(self) -> Row:
        rate = self._run(self._batches(4000), BATCH_CONNECTIONS).rate
        row = self._run(self._batches(self._count(rate, self._length.seconds)), BATCH_CONNECTIONS)
        row.name = f"tocsin, {BATCH_SIZE} a request"
        return row

    def paced(self, seconds: float | None = None) -> Row:
        self._run(self._singles(200), PACED_CONNECTIONS)
        count = int(PACED_RATE * min(self._length.paced_seconds, seconds or self._length.paced_seconds))
        row = self._run(self._singles(count), PACED_CONNECTIONS, 1 / PACED_RATE)
        row.name = f"tocsin, {PACED_RATE} a second"
        return row

    def accepted(self) -> Row:
        """Only accepting: they are to be sent in an hour."""
        send_at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        row = self._accept(4000, send_at)
        return self._accept(self._count(row.rate, self._length.seconds), send_at)

    def _accept(self, count: int, send_at: str) -> Row:
        numbers = self._take_numbers(count)
        requests = list(requests_of_many(self._handler_ids, numbers, count, BATCH_SIZE, API_KEY, send_at=send_at))
        before = self._cpu()
        try:
            producer = uvloop.run(_produce(requests, self.service.port, BATCH_CONNECTIONS, 0.0))
        except (Refused, OSError) as error:
            self.service.explain(error)
        seconds = (max(producer.accepted.values()) - producer.first_sent_at) / 1e9
        service_us, server_us = self._spent(before, count)
        return Row(name="", messages=count, rate=count / seconds, seconds=seconds, service_us=service_us, server_us=server_us)

    def apprise(self) -> list[Row]:
        """Each way to use it."""
        results = run_pinned(self._core, peer.run, self._receiver.ports, APPRISE_IDS, self._length.apprise_seconds)
        for count, _, _ in results.values():
            self.books.accept_of_peer(count)
        self.books.take()
        return [
            Row(name=f"Apprise, {way}", messages=count, rate=count / seconds, seconds=seconds, core_used=core_used)
            for way, (count, seconds, core_used) in results.items()
        ]

    # -------------------------------------------------------------------------------------------------------- machinery

    def _count(self, rate: float, seconds: float) -> int:
        return min(self._length.most_messages, int(rate * seconds / BATCH_SIZE + 1) * BATCH_SIZE)

    def _singles(self, count: int) -> Iterator[bytes]:
        return requests_of_one(self._handler_ids, self._take_numbers(count), count, API_KEY)

    def _batches(self, count: int) -> Iterator[bytes]:
        return requests_of_many(self._handler_ids, self._take_numbers(count), count, BATCH_SIZE, API_KEY)

    def _take_numbers(self, count: int) -> int:
        first = self._next_number
        self._next_number += count
        return first

    def _run_bare(self, count: int, our_wire: bool) -> Row:
        first, self._next_bare = self._next_bare, self._next_bare + count
        sent = run_pinned(self._core, bare.run, self._receiver.ports, first, count, BARE_IN_FLIGHT, our_wire)
        warm, seconds, core_used, arrived = sent
        self.books.accept(arrived)
        self.books.take()
        return Row(name="bare", messages=len(arrived) - warm, rate=(len(arrived) - warm) / seconds, seconds=seconds, core_used=core_used)

    def _cpu(self) -> tuple[float, float]:
        """Seconds so far, of the service and of the database's server."""
        return cpu_seconds(self.service.pid), 0.0 if self._server_pid is None else family_cpu_seconds(self._server_pid)

    def _spent(self, before: tuple[float, float], messages: int) -> tuple[float, float]:
        """Microseconds a message since then, of the same."""
        service_us, server_us = ((now - then) * 1e6 / messages for now, then in zip(self._cpu(), before, strict=True))
        return service_us, server_us

    def _run(self, requests: Iterable[bytes], connections: int, interval_seconds: float = 0.0) -> Row:
        """Send, wait for the last arrival, wait until the service has settled everything."""
        pid = self.service.pid
        forget_peak(pid)
        before = self._cpu()
        cpu_before, began_at = cpu_seconds(pid), time.time_ns()
        within_before, all_before = self._latency_counts()
        try:
            producer = uvloop.run(_produce(list(requests), self.service.port, connections, interval_seconds))
        except (Refused, OSError) as error:
            self.service.explain(error)
        self.books.accept(producer.accepted)
        self._wait_for_arrivals(len(producer.accepted))
        arrived = self.books.take()
        arrived_cpu, arrived_at = cpu_seconds(pid), time.time_ns()
        self.service.wait_until_settled(MAX_WAIT_SECONDS)
        settled_at = time.time_ns()
        service_us, server_us = self._spent(before, len(producer.accepted))
        within, all_settled = self._latency_counts()
        mine = [(accepted_at, arrived[one]) for one, accepted_at in producer.accepted.items() if one in arrived]
        seconds = (max(at for _, at in mine) - producer.first_sent_at) / 1e9
        waits = [(at - accepted_at) / 1e6 for accepted_at, at in mine]
        return Row(
            name="",
            messages=len(mine),
            rate=len(mine) / seconds,
            seconds=seconds,
            p50_ms=percentile(waits, 0.5),
            p99_ms=percentile(waits, 0.99),
            answer_p99_ms=percentile(producer.answered_ms, 0.99),
            service_us=service_us,
            server_us=server_us,
            settled_seconds=(settled_at - producer.first_sent_at) / 1e9,
            settled_within_25_ms=(within - within_before) / max(1.0, all_settled - all_before),
            peak_mb=peak_bytes(pid) / 1e6,
            core_used=(arrived_cpu - cpu_before) / ((arrived_at - began_at) / 1e9),
            busy_answers=producer.busy_answers,
        )

    def _wait_for_arrivals(self, count: int) -> None:
        ends_at = time.monotonic() + MAX_WAIT_SECONDS
        while self._receiver.count() < count and time.monotonic() < ends_at:
            self.service.check_alive()
            time.sleep(0.02)

    def _latency_counts(self) -> tuple[float, float]:
        """Deliveries so far whose outcome was durable within 25 ms after they were due; and all."""
        name = "tocsin_delivery_latency_seconds"
        metric = self.service.metric
        return metric(f'{name}_bucket{{le="0.025",type="webhook"}}'), metric(f'{name}_count{{type="webhook"}}')


async def _produce(requests: list[bytes], port: int, connections: int, interval_seconds: float) -> Producer:
    producer = Producer(requests)
    await producer.run(port, connections, interval_seconds)
    return producer
