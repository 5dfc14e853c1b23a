"""`python -m bench.scenes NAME...`: scenes by name (`--list`), `--rounds N` for medians; exit code 1 if a goal is missed."""

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from bench.machine import end_in_order
from bench.scenes import cold, cold_tls, distance, mail, neighbours, parts, strangers
from bench.scenes.stage import Goal, Place, Scene, middle

ROOT = Path(__file__).parents[2]

SCENES: Mapping[str, Scene] = {
    **{name: functools.partial(distance.scene, cell) for name, cell in distance.ROWS.items()},
    **{
        f"beside-{count}-hanging": functools.partial(
            neighbours.beside, count=count, answer="hang", wait_ms=0, each=neighbours.HANGING_DELIVERIES
        )
        for count in (30, 100, 500, 2000)
    },
    "beside-100-slow": functools.partial(
        neighbours.beside, count=100, answer="wait", wait_ms=neighbours.SLOW_MS, each=neighbours.SLOW_DELIVERIES
    ),
    "newcomer-4000-hanging": functools.partial(neighbours.newcomers, count=4000),
    "cold-handlers": cold.cold_handlers,
    "restart-lanes": cold.restart,
    "cold-tls": cold_tls.scene,
    "mail-300": functools.partial(mail.single_beside, count=300),
    "mail-900": functools.partial(mail.single_beside, count=900),
    "mail-tarpit": mail.tarpit,
    "slack-lists": strangers.slack_lists,
    "heads": strangers.heads,
    "silent-connections": strangers.silent,
    "descriptors": strangers.fill_descriptors,
    "hanging-60kB": parts.long_to_hanging,
    "paced-groups": parts.beside_paced_groups,
    "order-of-parts": parts.order,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scenes", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="all if none is given; a beginning stands for all that begin so")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    end_in_order()
    names = [name for name in SCENES if not options.names or name.startswith(tuple(options.names))]
    if options.list or not names:
        print("\n".join(SCENES))
        return 0 if options.list else 2
    return max([0 if _played(name, options.rounds) else 1 for name in names])


def _played(name: str, rounds: int) -> bool:
    print(f"{name}:", flush=True)
    began = time.monotonic()
    found = middle([_round(name) for _ in range(rounds)])
    for goal in found:
        print(goal.line(), flush=True)
    print(f"  {time.monotonic() - began:.0f} s", flush=True)
    return all(goal.is_met for goal in found)


def _round(name: str) -> list[Goal]:
    # On the disk that the repository is on: /tmp may be memory, where a commit costs nothing.
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scene-", dir=build) as folder:
        return SCENES[name](Place(Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
