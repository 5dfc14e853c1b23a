"""`python -m bench.grid`: every answer time, plain and TLS, one, a hundred and a thousand handlers, warm and cold.

`make bench` measures `CELLS`, one of each kind; the whole grid takes a quarter of an hour.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench import report
from bench.load import IN_TIME_MS, Figures
from bench.machine import end_in_order
from bench.scenes.distance import MIX, ROWS, Cell, Measured, goals, measure
from bench.scenes.stage import Place

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "distance.json"
ANSWERS_MS = (0, 50, 200, 500, MIX)
EACH = {1: 200.0, 100: 10.0, 1000: 2.0}  # messages a second to each of so many handlers
SECONDS = 4.0

CELLS = (
    *ROWS.values(),
    Cell(100, 10, 0),
    Cell(100, 10, 50),
    Cell(100, 10, MIX),
    Cell(1, 20, MIX, tls=True),
    Cell(100, 10, 200, tls=True),
    Cell(100, 10, 200, tls=True, cold=True),
    Cell(1000, 2, 200, cold=True),
)
GRID = tuple(
    Cell(handlers, each, answers, SECONDS, tls=tls, cold=cold)
    for handlers, each in EACH.items()
    for answers in ANSWERS_MS
    for tls in (False, True)
    for cold in (False, True)
)


def measure_all(folder: Path, cells: Sequence[Cell], seconds: float | None = None) -> list[Measured]:
    """One after the other, each with a service and receivers of its own; `seconds` in place of the cells' own."""
    found: list[Measured] = []
    for number, cell in enumerate(cells):
        place = Place(folder / f"cell-{number}")
        place.folder.mkdir(parents=True)
        found.append(measure(place, msgspec.structs.replace(cell, seconds=seconds or cell.seconds)))
    return found


def checks(found: Sequence[Measured]) -> list[report.Check]:
    """The goals of the rows that have some. Where the bare loop could not do it, the machine could not."""
    named = {cell.name for cell in ROWS.values()}
    return [
        report.Check(goal.what, goal.measured, goal.is_met, _doubt(one)) for one in found if one.cell.name in named for goal in goals(one)
    ]


def _doubt(one: Measured) -> str:
    return "" if one.bare.in_time >= 0.97 else f"the bare loop itself had {one.bare.in_time:.0%} in time"


def show(found: Sequence[Measured]) -> None:
    table = Table(title=f"Receivers with distance: in time is within {IN_TIME_MS / 1000:g} s of the 202; of the bare loop, of being due")
    table.add_column("handlers x messages a second, answers after")
    for heading in (
        "offered/s",
        "in time",
        "by the end",
        "p50 ms",
        "p99 ms",
        "connections",
        "peak MB",
        "CPU",
        "bare: in time",
        "p99 ms",
        "CPU",
    ):
        table.add_column(heading, justify="right")
    for one in found:
        ours, bare = one.ours, one.bare
        table.add_row(
            one.cell.name,
            f"{one.cell.handlers * one.cell.each:,.0f}",
            f"{ours.in_time:.1%}",
            f"{ours.kept_up:.1%}",
            *(f"{value:,.1f}" for value in (ours.p50_ms, ours.p99_ms)),
            f"{ours.peak_connections:,}",
            f"{ours.peak_mb:.0f}",
            _cpu(ours),
            f"{bare.in_time:.1%}",
            f"{bare.p99_ms:,.1f}",
            _cpu(bare),
        )
    Console(width=170).print(table)


def _cpu(figures: Figures) -> str:
    """Microseconds a message."""
    return f"{1e6 * figures.cpu_seconds / max(1, figures.arrived):,.0f} us"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.grid", description=__doc__)
    parser.add_argument("--few", action="store_true", help="only those that are part of `make bench`")
    parser.add_argument("--seconds", type=float, default=None, help="of load for each cell")
    options = parser.parse_args()
    end_in_order()
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="grid-", dir=build) as folder:
        found = measure_all(Path(folder), CELLS if options.few else GRID, options.seconds)
    show(found)
    for check in checks(found):
        print(f"{check.verdict:8} {check.goal}: {check.measured:.2f}{check.doubt and f' ({check.doubt})'}")
    document = {"machine": report.machine(), "distance": found}
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
