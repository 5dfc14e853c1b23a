"""`python -m bench.instructions`: how many instructions of the service a message takes, by callgrind. Other programs change that little.

`--python` names the interpreter of another version's environment, so that two versions can be compared. What the service does without any
message is taken off. Needs valgrind (Debian: apt-get install valgrind); it makes the service some fifty times slower.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvloop

from bench import service
from bench.machine import cores
from bench.messages import requests_of_many, requests_of_one
from bench.producer import Producer
from bench.receiver import Receiver
from bench.scenarios import BATCH_SIZE
from bench.service import API_KEY, Service

HANDLERS = 200
MESSAGES = 1000
SINGLE_CONNECTIONS = 100
IDLE_SECONDS, IDLE_TIMES = 5.0, 5
SETTLE_SECONDS = 7.0  # after the last arrival: what is counted by the hour is stored every five
PATIENCE_SECONDS = 300.0
_TOTALS = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)


class Counter:
    """Instructions of a running service, between one call and the next."""

    def __init__(self, pid: int, folder: Path) -> None:
        self._pid, self._folder = str(pid), folder
        self._read = 0

    def start(self) -> None:
        self._control("-i", "on")

    def take(self) -> int:
        self._control("-d")
        self._read += 1
        return int(_TOTALS.findall((self._folder / f"callgrind.{self._read}").read_text(encoding="utf-8"))[-1])

    def _control(self, *words: str) -> None:
        subprocess.run(["callgrind_control", *words, self._pid], check=True, capture_output=True)


class Measured:
    def __init__(self, running: Service, receiver: Receiver, counter: Counter) -> None:
        self._service, self._receiver, self._counter = running, receiver, counter
        self._handlers = running.register(receiver.ports)
        self._number = 0

    def idle(self) -> float:
        """Instructions a second, at the quietest: now and then something is looked at or deleted."""
        return min(self._idle() for _ in range(IDLE_TIMES))

    def _idle(self) -> float:
        self._counter.take()
        began = time.monotonic()
        time.sleep(IDLE_SECONDS)
        return self._counter.take() / (time.monotonic() - began)

    def accepted(self, count: int) -> tuple[int, float]:
        send_at = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        first = self._take_numbers(count)
        return self._run(requests_of_many(self._handlers, first, count, BATCH_SIZE, API_KEY, send_at=send_at), 1, 0)

    def many_a_request(self, count: int) -> tuple[int, float]:
        first = self._take_numbers(count)
        return self._run(requests_of_many(self._handlers, first, count, BATCH_SIZE, API_KEY), 1, count)

    def one_a_request(self, count: int) -> tuple[int, float]:
        return self._run(requests_of_one(self._handlers, self._take_numbers(count), count, API_KEY), SINGLE_CONNECTIONS, count)

    def _take_numbers(self, count: int) -> int:
        first, self._number = self._number, self._number + count
        return first

    def _run(self, requests: Iterator[bytes], connections: int, arrivals: int) -> tuple[int, float]:
        """Instructions and seconds. One batch is delivered before the next is sent: how they would overlap depends on the machine."""
        self._counter.take()
        began = time.monotonic()
        some = list(requests)
        for number, batch in enumerate([some] if connections > 1 else [[one] for one in some], 1):
            uvloop.run(_produce(batch, self._service.port, connections))
            self._wait_for(arrivals * number * len(batch) // len(some), began)
        time.sleep(SETTLE_SECONDS)
        self._receiver.take()
        return self._counter.take(), time.monotonic() - began

    def _wait_for(self, arrivals: int, began: float) -> None:
        while self._receiver.count() < arrivals:
            self._service.check_alive()
            if time.monotonic() > began + PATIENCE_SECONDS:
                raise RuntimeError(f"{self._receiver.count()} of {arrivals} messages arrived in time")
            time.sleep(0.02)


async def _produce(requests: list[bytes], port: int, connections: int) -> None:
    await Producer(requests).run(port, connections)


def measure(python: str, rounds: int, folder: Path) -> Iterator[tuple[str, float]]:
    core, others = cores()
    callgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/callgrind", "--quiet"]
    with ExitStack() as stack:
        receiver = Receiver(others, HANDLERS)
        stack.callback(receiver.close)
        running = stack.enter_context(
            service.running(folder, core, python=[*callgrind, python], module="bench.unhurried", ready_seconds=PATIENCE_SECONDS)
        )
        counter = Counter(running.pid, folder)
        measured = Measured(running, receiver, counter)
        counter.start()
        scenarios: dict[str, Callable[[int], tuple[int, float]]] = {
            f"accepted, {BATCH_SIZE} a request": measured.accepted,
            f"delivered, {BATCH_SIZE} a request": measured.many_a_request,
            "delivered, 1 a request": measured.one_a_request,
        }
        for scenario in (measured.many_a_request, *scenarios.values()):  # warm
            scenario(HANDLERS * 2)
        idle = measured.idle()
        yield "idle, a second", idle
        for _ in range(rounds):
            for name, scenario in scenarios.items():
                instructions, seconds = scenario(MESSAGES)
                yield name, (instructions - idle * seconds) / MESSAGES


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="of the environment whose tocsin is measured")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        found: defaultdict[str, list[float]] = defaultdict(list)
        for name, count in measure(options.python, options.rounds, Path(folder)):
            found[name].append(count)
            print(f"{name:28} {count:12,.0f}", file=sys.stderr, flush=True)
    for name, counts in found.items():
        print(f"{name:28} {statistics.median(counts):12,.0f}   ({min(counts):,.0f} to {max(counts):,.0f})")


if __name__ == "__main__":
    main()
