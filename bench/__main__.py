"""`python -m bench`: the table, bench/results.json, and exit code 1 if an accepted message is missing at the receiver."""

import argparse
import os
import pstats
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import grid, isolation, rendering, report, service, stores
from bench.machine import cores
from bench.peer import TO_EVERYBODY
from bench.receiver import Receiver
from bench.rendering import Rendering
from bench.report import Beside, Check, Report, Row, Store, together
from bench.scenarios import BARE, Bench, Length

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results.json"
HANDLERS = 200
MIN_CORE = 0.85  # below it a sender was held up
CELL_SECONDS = 4.0
MAX_SPREAD = 1.5  # between the rounds of the bare client loop
WHOLE = Length(rounds=6, seconds=2.5, paced_seconds=20, apprise_seconds=1.5, most_messages=60_000, cells=grid.CELLS)
QUICK = Length(rounds=1, seconds=2, paced_seconds=4, apprise_seconds=1, most_messages=30_000, cells=())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look of about 20 seconds")
    parser.add_argument("--profile", action="store_true", help="only the batches, the service under cProfile: where its time goes")
    options = parser.parse_args()
    length = QUICK if options.quick else WHOLE
    # On the disk that the repository is on: /tmp may be memory, where a commit costs nothing.
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=build) as folder:
        return _profile(Path(folder), length) if options.profile else _measure(Path(folder), length)


def _measure(folder: Path, length: Length) -> int:
    core, others = cores()
    os.sched_setaffinity(0, others)
    renderings = rendering.measure()
    receiver = Receiver(others, HANDLERS)
    with service.running(folder, core) as running:
        bench = Bench(running, receiver, core, length)
        paced = bench.paced()
        # All that is compared takes turns: machines change their speed by the minute.
        rounds = [
            [bench.bare(), bench.bare(our_wire=True), bench.one_a_request(), bench.many_a_request(), *bench.apprise()]
            for _ in range(length.rounds)
        ]
        found = bench.books.reconcile(running)
    receiver.close()
    kept, books = stores.measure(folder / "stores", core, others, HANDLERS, length)
    beside = isolation.measure(folder / "isolation", core, others, length.paced_seconds / 2)
    distance = grid.measure_all(folder / "distance", length.cells, CELL_SECONDS)
    bare, wire, one, many, *peers = [together(runs) for runs in zip(*rounds, strict=True)]
    peers.sort(key=lambda row: (row.name.endswith(TO_EVERYBODY), -row.rate))  # sending to everybody is another task
    for row in (bare, wire, one, many, *peers):
        row.of_bare, row.of_apprise = row.rate / bare.rate, row.rate / peers[0].rate
    rows = [bare, wire, paced, one, many, *peers]
    about, checks = (
        report.machine(),
        [
            *_checks(paced, one, many, bare, peers[0]),
            *_rendering_checks(renderings),
            *_store_checks(*kept),
            *_isolation_checks(beside),
            *grid.checks(distance),
        ],
    )
    whole = Report(about, rows, renderings, beside, kept, distance, checks, found)
    grid.show(distance)
    report.show(whole)
    RESULTS.write_bytes(report.as_json(whole))
    return 0 if all(one.is_complete for one in (found, *books)) else 1


def _checks(paced: Row, one: Row, many: Row, bare: Row, peer: Row) -> list[Check]:
    peak = max(row.peak_mb or 0 for row in (paced, one, many))
    latency = paced.p99_ms or 0
    of_bare, many_of_apprise, one_of_apprise = many.of_bare or 0, many.of_apprise or 0, one.of_apprise or 0
    return [
        Check("100 a request, at least 0.5 of the bare client loop", of_bare, of_bare >= 0.5, _doubt(bare, many)),
        Check("100 a request, at least 12 times Apprise", many_of_apprise, many_of_apprise >= 12, _doubt(peer, many)),
        Check("1 a request, at least 5 times Apprise", one_of_apprise, one_of_apprise >= 5, _doubt(peer, one)),
        Check("50 a second, 99 % arrive within 25 ms of their 202", latency, latency < 25),
        Check("less than 120 MB resident", peak, peak < 120),
    ]


def _rendering_checks(renderings: Sequence[Rendering]) -> list[Check]:
    of = {one.type: one for one in renderings}
    email_ms, x_ms = of["email"].seconds * 1000, of["x"].seconds * 1000
    chats = max(one.of_parse for one in renderings if one.type not in {"email", "webhook", "x"})
    return [
        Check("rendering for a chat channel, at most 4 times the parse", chats, chats <= 4),
        Check("rendering an e-mail, under 2 ms", email_ms, email_ms < 2),
        Check("rendering for X, under 1 ms", x_ms, x_ms < 1),
    ]


def _store_checks(sqlite: Store, postgresql: Store) -> list[Check]:
    used = postgresql.accept_us + postgresql.accept_server_us
    ratio = postgresql.delivered / sqlite.delivered
    doubt = "" if sqlite.core_used >= MIN_CORE else f"on SQLite the service had {sqlite.core_used:.0%} of its core"
    return [
        Check("PostgreSQL: at most 100 us to accept a message, service and server, so 20,000 a second on two cores", used, used <= 100),
        Check("PostgreSQL: deliveries, at least 0.8 of SQLite's", ratio, ratio >= 0.8, doubt),
    ]


def _isolation_checks(beside: Sequence[Beside]) -> list[Check]:
    bound = isolation.bound_ms(beside)
    return [
        Check(f"beside {one.trouble}, 99 % within {bound:.0f} ms", one.p99_ms, one.p99_ms <= bound)
        for one in beside
        if one.trouble != isolation.ALONE
    ]


def _doubt(*rows: Row) -> str:
    """Why a ratio of these says nothing: who did not get its core flatters whatever is compared with it."""
    starved = [f"{row.name} had {row.core_used:.0%} of its core" for row in rows if row.core_used is not None and row.core_used < MIN_CORE]
    starved += [
        f"the bare client loop's rounds went from {row.lowest_rate:,.0f} to {row.highest_rate:,.0f} a second"
        for row in rows
        if row.name == BARE and row.highest_rate > MAX_SPREAD * row.lowest_rate
    ]
    return "; ".join(starved)


def _profile(folder: Path, length: Length) -> int:
    core, others = cores()
    os.sched_setaffinity(0, others)
    receiver = Receiver(others, HANDLERS)
    with service.running(folder, core, folder) as running:
        row = Bench(running, receiver, core, length).many_a_request()
    receiver.close()
    print(f"{row.messages:,} messages, {row.rate:,.0f} a second under the profiler")
    for name, orders in (("loop", ("tottime", "cumulative")), ("writer", ("tottime",))):
        _print_profile(folder / f"{name}.prof", orders)
    return 0


def _print_profile(path: Path, orders: Sequence[str]) -> None:
    stats = pstats.Stats(str(path)).strip_dirs()
    for order in orders:
        print(f"\n{path.stem} thread by {order}")
        stats.sort_stats(order).print_stats(45)


if __name__ == "__main__":
    sys.exit(main())
