"""Load at an offered rate, whatever the answers are (an open loop), and how much of it arrives in time.

In time: at most a second after its 202, whatever the receiver then takes to answer. A message that did not arrive counts with the age
it had when the watch ended, so percentiles have no blind end.
"""

import asyncio
import json
import time
from collections.abc import Collection, Iterator, Sequence

import uvloop
from msgspec import Struct

from bench.distant import Distant
from bench.machine import cpu_seconds, forget_peak, peak_bytes
from bench.messages import item, post
from bench.producer import Producer, Refused
from bench.report import percentile
from bench.service import API_KEY, Service

IN_TIME_MS = 1000.0
WATCH_SECONDS = 3.0  # after the last message was offered
CONNECTIONS = 8
REQUESTS_A_SECOND = 50
MAX_BATCH = 1000


class Load(Struct, frozen=True):
    """`rate`: messages a second in all, to these handlers in turn, for so many seconds."""

    handlers: Sequence[int]
    rate: float
    seconds: float
    key: str = API_KEY

    @property
    def count(self) -> int:
        return int(self.rate * self.seconds)


class Figures(Struct, kw_only=True):
    """`in_time`, `kept_up`: shares of what was offered; kept up has arrived when the offering ended. Latencies: from 202 to arrival.

    `cpu_seconds`, `peak_mb` and `peak_connections`: of the sender.
    """

    offered: int
    accepted: int
    arrived: int
    in_time: float
    kept_up: float
    p50_ms: float
    p99_ms: float
    seconds: float
    cpu_seconds: float = 0.0
    peak_mb: float = 0.0
    peak_connections: int = 0

    def line(self) -> str:
        return (
            f"{self.in_time:.1%} in time of {self.offered:,}, {self.kept_up:.1%} by the end, "
            f"p50 {self.p50_ms:,.1f} p99 {self.p99_ms:,.1f} ms, "
            f"{self.peak_connections:,} connections, {self.peak_mb:.0f} MB, {self.cpu_seconds:.1f} s of CPU in {self.seconds:.1f}"
        )


def judged(sent_at: dict[int, int], arrived_at: dict[int, int], offered: int, ended_at: int, watched_until: int) -> Figures:
    """From when each message was accepted (or sent) and arrived; all times in nanoseconds since 1970."""
    waits = [max(0.0, arrived_at.get(one, watched_until) - at) / 1e6 for one, at in sent_at.items()]
    came = [one for one in sent_at if one in arrived_at]
    return Figures(
        offered=offered,
        accepted=len(sent_at),
        arrived=len(came),
        in_time=sum(arrived_at[one] - sent_at[one] <= IN_TIME_MS * 1e6 for one in came) / offered,
        # What the last requests brought cannot have arrived yet: they are given a tenth of a second.
        kept_up=sum(arrived_at[one] <= ended_at + 100_000_000 for one in came) / offered,
        p50_ms=percentile(waits, 0.5) if waits else 0.0,
        p99_ms=percentile(waits, 0.99) if waits else 0.0,
        seconds=0.0,
    )


def run(service: Service, distant: Distant, load: Load, *others: Load) -> list[Figures]:
    """Offer all of it at the same time, as long as the first lasts, and watch it arrive; of memory, CPU and connections all have the same.

    Raises RuntimeError if the service is gone.
    """
    distant.take()
    distant.forget_peak()
    forget_peak(service.pid)
    loads, cpu, began = (load, *others), cpu_seconds(service.pid), time.monotonic()
    try:
        producers, ended_at = uvloop.run(_offer(service.port, loads))
    except (Refused, OSError) as error:
        service.explain(error)
    arrived = watch(distant, {one for producer in producers for one in producer.accepted}, WATCH_SECONDS)
    watched_until, seconds = time.time_ns(), time.monotonic() - began
    spent, peak, connections = cpu_seconds(service.pid) - cpu, peak_bytes(service.pid) / 1e6, distant.seen().peak_connections
    found: list[Figures] = []
    for producer, one in zip(producers, loads, strict=True):
        figures = judged(producer.accepted, arrived, one.count, ended_at, watched_until)
        figures.seconds, figures.cpu_seconds, figures.peak_mb, figures.peak_connections = seconds, spent, peak, connections
        found.append(figures)
    return found


def watch(distant: Distant, wanted: Collection[int], seconds: float) -> dict[int, int]:
    """When each of the wanted notifications first arrived; it ends with the last of them, or with the time."""
    arrived: dict[int, int] = {}
    ends_at = time.monotonic() + seconds
    while True:
        for one in distant.take():
            if one.id in wanted:
                arrived.setdefault(one.id, one.at)
        if len(arrived) == len(wanted) or time.monotonic() > ends_at:
            return arrived
        time.sleep(0.05)


def requests(load: Load, requests_a_second: int = REQUESTS_A_SECOND) -> tuple[list[bytes], float]:
    """What is to be posted, and the seconds between two posts: singles up to that many a second, batches above."""
    size = max(1, min(MAX_BATCH, round(load.rate / requests_a_second)))
    return list(_posts(load, size)), size / load.rate


def _posts(load: Load, size: int) -> Iterator[bytes]:
    for first in range(0, load.count, size):
        numbers = range(first, min(first + size, load.count))
        items = [item(number, load.handlers[number % len(load.handlers)]) for number in numbers]
        if size == 1:
            yield post("/api/notifications", json.dumps(items[0]).encode(), load.key)
        else:
            yield post("/api/notifications/batch", json.dumps({"notifications": items}).encode(), load.key)


async def _offer(port: int, loads: Sequence[Load]) -> tuple[list[Producer], int]:
    producers: list[Producer] = []
    work: list[asyncio.Task[None]] = []
    for one in loads:
        content, interval = requests(one)
        producers.append(Producer(content))
        work.append(asyncio.ensure_future(producers[-1].run(port, CONNECTIONS, interval)))
    try:
        await work[0]
        ended_at = time.time_ns()
        await asyncio.wait(work, timeout=1)
    finally:
        for task in work:
            task.cancel()
    await asyncio.gather(*work[1:], return_exceptions=True)
    return producers, ended_at
