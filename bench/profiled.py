"""`python -m bench.profiled FOLDER serve`: the service under cProfile, the event loop's thread and the writer's each in a file."""

import cProfile
import sys
import threading
from pathlib import Path

from tocsin.cli import main


def _profile_writer(folder: Path) -> None:
    run = threading.Thread.run

    def run_profiled(thread: threading.Thread) -> None:
        if thread.name != "tocsin-writer":
            run(thread)
            return
        profile = cProfile.Profile()
        try:
            profile.runcall(run, thread)
        finally:
            profile.dump_stats(folder / "writer.prof")

    threading.Thread.run = run_profiled


if __name__ == "__main__":
    folder = Path(sys.argv.pop(1))
    _profile_writer(folder)
    profile = cProfile.Profile()
    try:
        profile.runcall(main)
    finally:
        profile.dump_stats(folder / "loop.prof")
