"""`tocsin selftest`: makes things go wrong on this machine, in a throw-away store, and shows which promises were kept."""

import signal
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from tocsin.cli import show
from tocsin.cli.failure import Failure
from tocsin.cli.selftest import mishaps, scenes
from tocsin.cli.selftest.receiver import Receiver
from tocsin.cli.selftest.scenes import Finding, Place

if TYPE_CHECKING:
    from tocsin.cli.selftest.schemas import Schemas

SCENES = (*scenes.SCENES, *mishaps.SCENES)
VERDICTS = {True: Text("kept", style="green"), False: Text("BROKEN", style="bold red"), None: Text("-", style="dim")}


def run_selftest(quick: bool, json: bool, database_url: str = "", *, many: bool = False) -> int:
    """The exit code. `database_url`: of a PostgreSQL database; empty: SQLite files, or a server of our own for `many`."""
    started_at = time.monotonic()
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        findings = _many(database_url) if many else _on_server(quick, database_url) if database_url else _run(quick)
    except KeyboardInterrupt:
        show.note("Stopped; nothing is left behind.")
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)
    seconds = time.monotonic() - started_at
    broken = sum(finding.kept is False for finding in findings)
    if json:
        show.as_json({"seconds": round(seconds, 1), "broken": broken, "findings": findings})
    else:
        show.table(("", "SCENE", "PROMISE", "SEEN"), [(VERDICTS[one.kept], one.scene, one.promise, one.seen) for one in findings])
        tested = sum(finding.kept is not None for finding in findings)
        verdict = "Every promise was kept" if not broken else f"{broken} of {tested} promises were broken"
        show.say(f"{verdict}, in {seconds:.0f} s.")
    return 1 if broken else 0


def _on_server(quick: bool, database_url: str) -> list[Finding]:
    try:
        from tocsin.cli.selftest.schemas import schemas_on
    except ImportError as error:
        raise Failure("--postgresql needs a driver: install it with `pip install 'tocsin[postgresql]'`.") from error
    with schemas_on(database_url) as schemas:
        return _run(quick, schemas)


def _many(database_url: str) -> list[Finding]:
    try:
        from tocsin.cli.selftest.many import command
    except ImportError as error:
        raise Failure("--many needs a driver: install it with `pip install 'tocsin[postgresql]'`.") from error
    with _progress() as progress:
        task = progress.add_task("", total=command.SCENES, completed=-1)

        def begins(scene: str) -> None:
            progress.update(task, description=scene, advance=1)

        return command.run_many(database_url, begins)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn())
    return Progress(*columns, console=show.console("stderr"), transient=True)


def _run(quick: bool, schemas: "Schemas | None" = None) -> list[Finding]:
    findings: list[Finding] = []
    receiver = Receiver()
    with (
        tempfile.TemporaryDirectory(prefix="tocsin-selftest-") as folder,
        receiver.running(),
        _progress() as progress,
    ):
        wanted = [one for one in SCENES if not (quick and one in mishaps.SCENES)] + [*(scenes.SERVER_SCENES if schemas else ())]
        task = progress.add_task("", total=len(wanted))
        for title, scene in wanted:
            progress.update(task, description=title)
            if schemas is not None and (why := mishaps.NEED_A_FILE.get(title)):
                findings.append(Finding(title, "", f"not tested on PostgreSQL: {why}", None))
            else:
                findings += scene(Place(Path(folder), schemas), receiver, quick)
            progress.advance(task)
    return findings


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
