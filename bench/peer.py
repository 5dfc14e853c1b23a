"""The peer: Apprise's library with its json:// plugin, one object for each URL, used again and again, in four ways.

Three send each message to one target, as the service does here; with all URLs in one object each message goes to every target."""

import asyncio
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from apprise import Apprise, NotifyType

from bench.messages import TITLE, text

TO_EVERYBODY = "one object with all URLs"
_THREADS = 16


def run(ports: list[int], first_id: int, seconds: float) -> dict[str, tuple[int, float, float]]:
    """For each way of use: messages that it says it has sent, the seconds, the share of the core. Ids count on from `first_id`."""
    numbers = itertools.count(first_id)
    services = [_one_to([port]) for port in ports]
    everyone = _one_to(ports)

    def send(service: Apprise) -> int:
        return int(bool(service.notify(text(next(numbers)), title=TITLE, notify_type=NotifyType.WARNING)))

    async def send_async(service: Apprise) -> int:
        return int(bool(await service.async_notify(text(next(numbers)), title=TITLE, notify_type=NotifyType.WARNING)))

    async def gather(some: list[Apprise]) -> int:
        return sum(await asyncio.gather(*map(send_async, some)))

    with asyncio.Runner() as runner, ThreadPoolExecutor(_THREADS) as pool:
        ways: dict[str, Callable[[], int]] = {
            "notify in a loop": lambda: sum(map(send, services)),
            f"notify in {_THREADS} threads": lambda: sum(pool.map(send, services)),
            "async_notify, gathered": lambda: runner.run(gather(services)),
            TO_EVERYBODY: lambda: len(ports) * send(everyone),
        }
        return {name: _timed(way, seconds) for name, way in ways.items()}


def _one_to(ports: list[int]) -> Apprise:
    service = Apprise()
    for port in ports:
        if not service.add(f"json://127.0.0.1:{port}/hook"):
            raise RuntimeError("Apprise does not take the receiver's URL")
    return service


def _timed(send_round: Callable[[], int], seconds: float) -> tuple[int, float, float]:
    """Rounds of one message to each URL, until the time is up."""
    started, cpu_started = time.perf_counter(), time.process_time()
    sent = 0
    while time.perf_counter() - started < seconds:
        sent += send_round()
    seconds = time.perf_counter() - started
    return sent, seconds, (time.process_time() - cpu_started) / seconds
