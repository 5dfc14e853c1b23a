"""`python -m bench.soak_many --seed 7 --minutes 2`: processes on one PostgreSQL database under load, and what goes wrong, as a seed says.

At the end every accepted id is reconciled, and what has a limit must have kept to it. What a run with complaints leaves is in build/.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from types import FrameType

import msgspec

from bench.matrix.clocks import Clock
from tocsin.cli.failure import Failure
from tocsin.cli.selftest.many.books import Books
from tocsin.cli.selftest.many.cluster import Cluster
from tocsin.cli.selftest.many.faults import BY_NAME, FAULTS, Fault, as_before
from tocsin.cli.selftest.many.postgresql import Pair
from tocsin.cli.selftest.many.stage import Stage, staged

BUILD = Path(__file__).parents[1] / "build"
SHAPES = (("api", "api", "worker", "worker"), ("all", "all", "all"), ("api", "all", "worker", "worker"))
A_SECOND = 60  # requests
CLOCKS = (-5, 0, 5)  # seconds by which a process's clock is wrong


def soak(seed: int, minutes: float, folder: Path, only: tuple[Fault, ...]) -> Iterator[str]:
    """What is done, as it is done, and what was broken: that begins with an exclamation mark."""
    dice = Random(seed)
    roles = dice.choice(SHAPES)

    def each(name: str) -> Mapping[str, str]:
        clock = Clock(folder / f"{name}.clock")
        clock.step_to(dice.choice(CLOCKS))
        return clock.environ

    servers = Pair("tocsin")
    try:
        cluster = Cluster(folder / "cluster", servers.url, each, TOCSIN_LOG_LEVEL="info", TOCSIN_LOG_FORMAT="json")
        yield f"Seed {seed}, {minutes:g} min: {', '.join(roles)}"
        with staged(cluster, servers, roles, A_SECOND, seed) as stage:
            ends_at = time.monotonic() + minutes * 60
            while time.monotonic() < ends_at:
                time.sleep(dice.choice((dice.uniform(0.0, 0.3), dice.uniform(0.3, 4.0))))
                fault = dice.choice(only)
                began = time.strftime("%H:%M:%S")
                yield f"  {began} {fault.name}: {fault.act(stage)}"
                as_before(stage, roles)
            books = stage.settle()
            (folder / "evidence.json").write_bytes(msgspec.json.encode(stage.evidence))
        yield books.seen
        yield from _figures(stage)
        yield from (f"! {one}" for one in _complaints(stage, books))
    finally:
        servers.remove()


def _figures(stage: Stage) -> Iterator[str]:
    by_what = defaultdict[str, list[float]](list)
    for one in stage.times:
        if one.seconds is not None:
            by_what[one.what].append(round(one.seconds, 2))
    yield json.dumps({what: {"times": len(some), "longest": max(some)} for what, some in by_what.items()})


def _complaints(stage: Stage, books: Books) -> list[str]:
    return [*books.complaints, *(one.complaint for one in stage.times if one.complaint is not None)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak_many", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--only", choices=list(BY_NAME), nargs="+", default=list(BY_NAME), help="these faults and no others")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)  # or the processes would be left behind
    BUILD.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"soak-many-{options.seed}-", dir=BUILD))
    broken = 0
    try:
        for line in soak(options.seed, options.minutes, folder, tuple(one for one in FAULTS if one.name in options.only)):
            broken += line.startswith("!")
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    except Failure as failure:
        broken += 1
        sys.stdout.write(f"! {failure}\n")
    if broken:
        sys.stdout.write(f"The logs are in {folder}.\n")
        return 1
    sys.stdout.write(f"Seed {options.seed}: every promise was kept.\n")
    shutil.rmtree(folder)
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
