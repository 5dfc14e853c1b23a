"""`python -m bench.many cpu|rate|latency|failover|rows`: each part by itself, `all` of them where none is named.

cpu: microseconds of the processor for a message, at one, two and four workers and a rate that leaves much of the machine idle. What the
processes use without any message is taken off, and shown. rate: as many messages as these processes take and deliver on this machine.
latency: from the 202 to the arrival. failover: how long partitions take to move. rows: cpu and latency with and without a million
deliveries that are due in a year, of 300,000 handlers. Figures mean little on a machine that is busy with something else: that is said.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct, to_builtins

from bench.machine import end_in_order
from bench.many.filling import fill
from bench.many.stand import KINDS, Stand, Used, standing
from bench.report import percentile
from tocsin.cli.selftest.many.cluster import Cluster
from tocsin.cli.selftest.many.faults import as_before, restarted_in_turn, standby_takes_over, worker_killed
from tocsin.cli.selftest.many.postgresql import Pair
from tocsin.cli.selftest.many.stage import staged

BUILD = Path(__file__).parents[2] / "build"
APIS = ("api", "api")
OFFERED = ((300.0, 1), (800.0, 10), (2000.0, 100))  # messages a second, and in a request
IDLE_SECONDS, LOAD_SECONDS = 4.0, 10.0
MAX_BUSY = 0.60
FLAT = 1.10
P99_MS = 25.0
AS_FAST_AS_IT_GOES = 15_000  # messages
KILLS = 3
IDLE_SHARE = 0.04  # of a core that workers and PostgreSQL use together while nothing is sent
CALM_SECONDS = 180.0


class Cost(Struct, frozen=True):
    """`us`: microseconds a message, by kind of process. `idle_ms`: milliseconds a second that one process of each kind uses without any."""

    name: str
    size: int
    us: dict[str, float]
    idle_ms: dict[str, float]
    busy: float

    def line(self) -> str:
        costs = ", ".join(f"{kind} {self.us[kind]:.0f} us" for kind in KINDS)
        idle = ", ".join(f"{kind} {self.idle_ms[kind]:.0f}" for kind in KINDS)
        doubt = f"  (the machine was {self.busy:.0%} busy: too much to say)" if self.busy > MAX_BUSY else ""
        return f"{self.name}: {costs}; idle, ms a second: {idle}; machine {self.busy:.0%} busy{doubt}"


class Delay(Struct, frozen=True):
    name: str
    rate: float
    p50_ms: float
    p99_ms: float

    def line(self) -> str:
        return f"{self.name}, {self.rate:.0f} a second: p50 {self.p50_ms:.1f} ms, p99 {self.p99_ms:.1f} ms from the 202 to the arrival"


class Figure(Struct, frozen=True):
    name: str
    value: float
    unit: str

    def line(self) -> str:
        return f"{self.name}: {self.value:,.1f} {self.unit}"


Row = Cost | Delay | Figure


def cost(stand: Stand, name: str, workers: int, rate: float, size: int) -> Cost:
    """Warm first: the first messages load handlers and open connections."""
    stand.arrivals(len(stand.offer(rate, 2.0, size)))
    began = stand.used()
    time.sleep(IDLE_SECONDS)
    idle = _spent(began, stand.used())
    began, started = stand.used(), time.monotonic()
    accepted = len(stand.offer(rate, LOAD_SECONDS, size))
    stand.arrivals(accepted)
    time.sleep(0.5)  # outcomes are stored
    spent, seconds = _spent(began, stand.used()), time.monotonic() - started
    a_second = {kind: idle.by_kind[kind] / IDLE_SECONDS for kind in KINDS}
    processes = {"api": len(APIS), "worker": workers, "PostgreSQL": 1}
    return Cost(
        f"{name}, {size} in a request, {rate:.0f} a second",
        size,
        {kind: (spent.by_kind[kind] - a_second[kind] * seconds) / accepted * 1e6 for kind in KINDS},
        {kind: a_second[kind] / processes[kind] * 1e3 for kind in KINDS},
        spent.busy / spent.there_were,
    )


def _spent(before: Used, after: Used) -> Used:
    by_kind = {kind: after.by_kind[kind] - before.by_kind[kind] for kind in KINDS}
    return Used(by_kind, after.busy - before.busy, after.there_were - before.there_were)


def delay(stand: Stand, name: str, rate: float) -> Delay:
    stand.arrivals(len(stand.offer(rate, 1.0, 1)))
    accepted = stand.offer(rate, LOAD_SECONDS, 1)
    arrived = stand.arrivals(len(accepted))
    waits = [max(0.0, arrived[one] - at) / 1e6 for one, at in accepted.items()]
    return Delay(name, rate, percentile(waits, 0.5), percentile(waits, 0.99))


# --------------------------------------------------------------------------------------------------------------- parts


def cpu(folder: Path) -> Iterator[Row]:
    for workers in (1, 2, 4):
        with standing(folder / f"cpu{workers}", *APIS, *["worker"] * workers) as stand:
            for offered in OFFERED:
                yield cost(stand, f"{workers} workers", workers, *offered)


def rate(folder: Path) -> Iterator[Row]:
    for workers in (1, 2, 4):
        with standing(folder / f"rate{workers}", *APIS, *["worker"] * workers) as stand:
            stand.arrivals(len(stand.offer(500.0, 2.0, 10)))
            began = time.monotonic()
            accepted = stand.offer(0.0, AS_FAST_AS_IT_GOES / 1000, 100)
            took = time.monotonic() - began
            stand.arrivals(len(accepted), 300)
            yield Figure(f"{workers} workers, accepted", len(accepted) / took, "a second")
            yield Figure(f"{workers} workers, accepted and delivered", len(accepted) / (time.monotonic() - began), "a second")


def latency(folder: Path) -> Iterator[Row]:
    with standing(folder / "latency", *APIS, "worker", "worker") as stand:
        for one in (300.0, 1000.0):
            yield delay(stand, "2 workers", one)


def failover(folder: Path) -> Iterator[Row]:
    roles = (*APIS, "worker", "worker")
    servers = Pair("tocsin")
    try:
        with staged(Cluster(folder / "failover", servers.url), servers, roles, 50) as stage:
            for _ in range(KILLS):
                worker_killed(stage)
                as_before(stage, roles)
            restarted_in_turn(stage)
            standby_takes_over(stage)
            for complaint in stage.settle().complaints:
                raise RuntimeError(complaint)
        longest = {one.what: one.seconds for one in sorted(stage.times, key=lambda one: one.seconds or 0.0)}
    finally:
        servers.remove()
    for what, seconds in longest.items():
        yield Figure(f"{what}, at most", seconds or float("inf"), "s")


def rows(folder: Path) -> Iterator[Row]:
    for name, is_filled in (("without", False), ("with a million rows", True)):
        with standing(folder / name.split()[0], *APIS, "worker", "worker") as stand:
            if is_filled:
                began = time.monotonic()
                fill(stand.cluster.url)
                yield Figure("filled in", time.monotonic() - began, "s")
                yield Figure("looked through by housekeeping in", _calm(stand), "s")
            yield cost(stand, name, 2, *OFFERED[0])
            yield delay(stand, name, 300.0)


def _calm(stand: Stand) -> float:
    """Until housekeeping has been through all that was filled in; how long that took."""
    began = time.monotonic()
    while time.monotonic() - began < CALM_SECONDS:
        before = stand.used()
        time.sleep(2)
        spent = _spent(before, stand.used())
        if spent.by_kind["worker"] + spent.by_kind["PostgreSQL"] < 2 * IDLE_SHARE:
            break
    return time.monotonic() - began


PARTS: dict[str, Callable[[Path], Iterator[Row]]] = {"cpu": cpu, "rate": rate, "latency": latency, "failover": failover, "rows": rows}


# ------------------------------------------------------------------------------------------------------------- verdicts


def verdicts(found: Sequence[Row]) -> Iterator[tuple[str, bool]]:
    costs, delays = [one for one in found if isinstance(one, Cost)], [one for one in found if isinstance(one, Delay)]
    for size in sorted({one.size for one in costs}):
        sums = [sum(one.us.values()) for one in costs if one.size == size]
        yield f"flat within 10 %, {size} in a request: {', '.join(f'{one:.0f}' for one in sums)} us in all", max(sums) <= FLAT * min(sums)
    if costs:
        yield f"measured at most {MAX_BUSY:.0%} busy", all(one.busy <= MAX_BUSY for one in costs)
    for one in delays:
        yield f"p99 at {one.rate:.0f} a second under {P99_MS:.0f} ms: {one.p99_ms:.1f}", one.p99_ms < P99_MS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.many", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "all"], default="all")
    options = parser.parse_args()
    end_in_order()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    BUILD.mkdir(exist_ok=True)
    wanted = list(PARTS) if "all" in options.parts else options.parts
    is_good = True
    with tempfile.TemporaryDirectory(prefix="bench-many-", dir=BUILD) as folder:
        for part in wanted:
            _say(f"{part}:")
            found: list[Row] = []
            for row in PARTS[part](Path(folder)):
                found.append(row)
                _say(f"  {row.line()}")
            for verdict, is_kept in verdicts(found):
                _say(f"  {'yes' if is_kept else 'NO '} {verdict}")
                is_good = is_good and is_kept
            (BUILD / f"bench-many-{part}.json").write_text(json.dumps(to_builtins(found), indent=2))
    return 0 if is_good else 1


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
