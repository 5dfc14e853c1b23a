"""`tocsin selftest`: makes things go wrong on this machine, in a throw-away store, and shows which promises were kept."""

import signal
import tempfile
import time
from pathlib import Path
from types import FrameType

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from tocsin.cli import show
from tocsin.cli.selftest import mishaps, scenes
from tocsin.cli.selftest.receiver import Receiver
from tocsin.cli.selftest.scenes import Finding

SCENES = (*scenes.SCENES, *mishaps.SCENES)


def run_selftest(quick: bool, json: bool) -> int:
    """The exit code."""
    started_at = time.monotonic()
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        findings = _run(quick)
    except KeyboardInterrupt:
        show.note("Stopped; nothing is left behind.")
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)
    seconds = time.monotonic() - started_at
    broken = sum(not finding.kept for finding in findings)
    if json:
        show.as_json({"seconds": round(seconds, 1), "broken": broken, "findings": findings})
    else:
        rows = [
            (Text("kept", style="green") if one.kept else Text("BROKEN", style="bold red"), one.scene, one.promise, one.seen)
            for one in findings
        ]
        show.table(("", "SCENE", "PROMISE", "SEEN"), rows)
        verdict = "Every promise was kept" if not broken else f"{broken} of {len(findings)} promises were broken"
        show.say(f"{verdict}, in {seconds:.0f} s.")
    return 1 if broken else 0


def _run(quick: bool) -> list[Finding]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn())
    findings: list[Finding] = []
    receiver = Receiver()
    with (
        tempfile.TemporaryDirectory(prefix="tocsin-selftest-") as folder,
        receiver.running(),
        Progress(*columns, console=show.console("stderr"), transient=True) as progress,
    ):
        wanted = [one for one in SCENES if not (quick and one in mishaps.SCENES)]
        task = progress.add_task("", total=len(wanted))
        for title, scene in wanted:
            progress.update(task, description=title)
            findings += scene(Path(folder), receiver, quick)
            progress.advance(task)
    return findings


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
