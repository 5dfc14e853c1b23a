"""Processes on a PostgreSQL server of their own, a receiver, and a meter of who used how much of the processor."""

import asyncio
import json
import os
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop
from msgspec import Struct

from bench.machine import cpu_seconds, family_cpu_seconds
from bench.messages import item, post
from bench.producer import Producer
from bench.receiver import Receiver
from bench.stores import SERVER_SETTINGS
from tocsin.cli.selftest.many.cluster import Cluster
from tocsin.cli.selftest.many.postgresql import Server

KEY = "tk_bench00000000000000000000000000000000000000"
HANDLERS = 200
CONNECTIONS = 8  # to each process that accepts
KINDS = ("api", "worker", "PostgreSQL")


class Used(Struct, frozen=True):
    """Seconds of the processor by kind of process, and of the whole machine: those of it that were busy, and all that there were."""

    by_kind: Mapping[str, float]
    busy: float
    there_were: float


class Stand:
    def __init__(self, server: Server, cluster: Cluster, receiver: Receiver, handlers: Sequence[int]) -> None:
        self.cluster = cluster
        self.receiver = receiver
        self._server = server
        self._handlers = handlers
        self._number = 0

    def offer(self, rate: float, seconds: float, size: int) -> dict[int, int]:
        """So many messages a second, `size` in a request, to all that accept in turn; when each was answered with 202, in nanoseconds since
        1970. `rate` 0: as many as they take, for the messages of 1,000 a second."""
        ports = [one.port for one in self.cluster.apis]
        count = int((rate or 1000) * seconds)
        posts = [self._post(size) for _ in range(0, count, size)]
        return uvloop.run(_offer(ports, posts, size * len(ports) / rate if rate else 0.0))

    def _post(self, size: int) -> bytes:
        numbers = range(self._number, self._number + size)
        self._number += size
        items = [item(number, self._handlers[number % len(self._handlers)]) for number in numbers]
        if size == 1:
            return post("/api/notifications", json.dumps(items[0]).encode(), KEY)
        return post("/api/notifications/batch", json.dumps({"notifications": items}).encode(), KEY)

    def arrivals(self, count: int, seconds: float = 60.0) -> dict[int, int]:
        """When each notification arrived first, until so many have."""
        arrived: dict[int, int] = {}
        ends_at = time.monotonic() + seconds
        while len(arrived) < count:
            for one, at in self.receiver.take():
                arrived.setdefault(one, at)
            if time.monotonic() > ends_at:
                raise RuntimeError(f"{count - len(arrived)} of {count} have not arrived")
            time.sleep(0.02)
        return arrived

    def used(self) -> Used:
        kinds = {"api": self.cluster.of_role("api"), "worker": self.cluster.of_role("worker")}
        by_kind = {kind: sum(cpu_seconds(one.pid or 0) for one in some) for kind, some in kinds.items()}
        ticks = [int(one) for one in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        idle = ticks[3] + ticks[4]
        return Used(by_kind | {"PostgreSQL": family_cpu_seconds(self._server.pid)}, (sum(ticks) - idle) / 100, sum(ticks) / 100)


async def _offer(ports: Sequence[int], posts: Sequence[bytes], interval: float) -> dict[int, int]:
    producers = [Producer(posts[index :: len(ports)]) for index in range(len(ports))]
    await asyncio.gather(*(one.run(port, CONNECTIONS, interval) for one, port in zip(producers, ports, strict=True)))
    return {number: at for one in producers for number, at in one.accepted.items()}


@contextmanager
def standing(folder: Path, *roles: str) -> Generator[Stand, None, None]:
    """With a process of each of these roles, once their partitions are shared out."""
    with ExitStack() as stack:
        server = Server(place="/var/tmp", **SERVER_SETTINGS)  # /tmp may be memory, where a commit costs nothing
        stack.callback(server.remove)
        server.start().execute("CREATE DATABASE bench")
        receiver = Receiver(os.sched_getaffinity(0), HANDLERS)
        stack.callback(receiver.close)
        cluster = Cluster(folder, server.url("bench"), TOCSIN_BOOTSTRAP_API_KEY=KEY, TOCSIN_RETRY_SCHEDULE="1s,5s,30s")
        stack.enter_context(cluster.running(*roles))
        handlers = [cluster.add("webhook", f"bench {port}", f"http://127.0.0.1:{port}/hook") for port in receiver.ports]
        if cluster.until(cluster.is_shared_out, 30) is None:
            raise RuntimeError(f"partitions are not shared out: {cluster.owned()}")
        yield Stand(server, cluster, receiver, handlers)
