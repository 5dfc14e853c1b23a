"""`python -m bench.matrix --seed 7 --seconds 50`: one run, its plan and its books."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

import msgspec

from bench.matrix.books import Books, audit
from bench.matrix.clocks import Clock
from bench.matrix.evidence import Evidence, Kill, Rows, Span, read_file, read_log, read_rows
from bench.matrix.faults import FOREVER, READY_SECONDS, Faults
from bench.matrix.load import EVERYTHING, HONEST, Load
from bench.matrix.plan import FAR_DAYS, plan, plan_of_kills
from bench.matrix.server import Server
from bench.matrix.witness import Witness
from tocsin.cli.failure import Failure
from tocsin.cli.selftest.service import Service

BUILD = Path(__file__).parents[2] / "build"
INSIDE = "MATRIX_INSIDE"
SMALL_DISK_MB = 96
UNSHARE = ("unshare", "--map-root-user", "--mount")
AT_LAST_SECONDS = (FAR_DAYS + 1) * 86_400  # ahead, at the end: all that waits by the clock is due
SETTLE_SECONDS, SETTLE_STARTS = 40.0, 4


def run(seed: int, seconds: float, kills: int, folder: Path, small_disk: Path | None, server: Server | None) -> Books:
    """`kills`: of the service and of its server, and nothing else; 0: everything, for so many seconds."""
    witness = Witness(seed)
    with witness.running():
        clock = Clock(folder / "clock")
        service = Service(
            folder,
            **clock.environ,
            TOCSIN_LOG_LEVEL="info",
            TOCSIN_LOG_FORMAT="json",
            TOCSIN_RETRY_SCHEDULE="0.3s,0.6s,1s,2s,4s,8s",
            TOCSIN_DISABLE_AFTER_FAILURES="0",
            TOCSIN_SMTP_URL=witness.smtp_url,
            TOCSIN_EMAIL_FROM="matrix@example.com",
            TOCSIN_TELEGRAM_API_URL=witness.url,
            TOCSIN_X_API_URL=witness.url,
            TOCSIN_X_DAILY_LIMIT="5000",
            **({} if server is None else {"TOCSIN_DATABASE_URL": server.url}),
        )
        load = Load(service, witness, clock, seed, seconds, HONEST if kills else EVERYTHING)
        faults = Faults(service, clock, load, folder, seed, small_disk, server)
        try:
            service.start()
            load.begin()
            has_server = server is not None
            for step in plan_of_kills(seed, kills, has_server=has_server) if kills else plan(seed, seconds, has_server=has_server):
                _say(f"  {step}")
                noted = len(faults.cut_off)
                faults.carry_out(step)
                for one in faults.cut_off[noted:] if kills else ():
                    _say(f"    {one.of} killed: {one.accepted} accepted, {len(one.in_flight)} in flight")
            time.sleep(3)
            load.end()
            _settle(service, clock, witness, faults, kills)
        finally:
            service.kill()
    faults.look_at_log()
    rows = read_file(folder / "data" / "tocsin.db") if server is None else read_rows(server.rows)
    evidence = _evidence(load, witness, clock, faults, folder, rows, faults.cut_off if kills else None)
    (folder / "evidence.json").write_bytes(msgspec.json.encode(evidence))
    return audit(evidence)


def _settle(service: Service, clock: Clock, witness: Witness, faults: Faults, kills: int) -> None:
    """Every receiver takes what comes, and the clock goes on to where nothing waits any more; windows end with a start."""
    witness.calm = True
    if kills:  # no answer of a slow receiver is cut off by a stop
        _wait_until_nothing_waits(service)
    faults.uneven.append(Span(time.monotonic(), FOREVER))
    for start in range(SETTLE_STARTS):
        faults.end()
        clock.step_to(AT_LAST_SECONDS + start * 3600)
        service.launch()
        service.wait_until_ready(READY_SECONDS)
        if _wait_until_nothing_waits(service):
            break
    faults.end()


def _wait_until_nothing_waits(service: Service) -> bool:
    """Whether that was so in time."""
    ends_at = time.monotonic() + SETTLE_SECONDS
    while service.call("GET", "/api/deliveries?status=pending")["meta"]["total"]:
        if time.monotonic() > ends_at:
            return False
        time.sleep(0.2)
    return True


def _evidence(load: Load, witness: Witness, clock: Clock, faults: Faults, folder: Path, rows: Rows, kills: list[Kill] | None) -> Evidence:
    return Evidence(
        load.accepted,
        load.dropped,
        load.names,
        witness.arrivals,
        rows,
        read_log(folder / "service.log"),
        faults.restores,
        faults.kills,
        faults.uneven,
        clock.readings(),
        faults.complaints,
        dict(faults.done),
        kills,
    )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _small_disk(folder: Path) -> Path | None:
    """Inside a namespace of our own: the data directory on a disk of its own, so that it can be filled."""
    if INSIDE not in os.environ:
        return None
    data = folder / "data"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_MB}m", "tmpfs", str(data)], check=True)
    return data


def _enter_namespace() -> None:
    """Begin again where a disk can be mounted, if that can be had without being root; else say so, and go on."""
    if shutil.which("unshare") and subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0:
        os.execvpe("unshare", [*UNSHARE, sys.executable, "-m", "bench.matrix", *sys.argv[1:]], os.environ | {INSIDE: "1"})
    _say("No namespace can be made here: the disk is filled by a limit on the size of files.")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.matrix", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=50.0, help="of load")
    parser.add_argument("--kills", type=int, default=0, help="of the service, as many of its server, and nothing else")
    parser.add_argument("--postgresql", action="store_true", help="on a PostgreSQL server, which is killed and restarted too")
    parser.add_argument("--keep", action="store_true", help="leave the store and the log of a run with complaints in build/")
    options = parser.parse_args()
    if options.seed % 2 and not options.kills and INSIDE not in os.environ and not options.postgresql:
        _enter_namespace()
    signal.signal(signal.SIGTERM, _interrupt)  # or the service would be left behind
    BUILD.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"matrix-{options.seed}-", dir=BUILD))
    small_disk = _small_disk(folder)
    server = Server() if options.postgresql else None
    on = " on PostgreSQL" if server else ""
    _say(f"Seed {options.seed}{on}, {f'{options.kills} kills' if options.kills else f'{options.seconds:.0f} s'}:")
    try:
        books = run(options.seed, options.seconds, options.kills, folder, small_disk, server)
    except Failure as failure:
        books = Books({}, [str(failure)])
    finally:
        if server is not None:
            server.remove()
    _say(json.dumps(books.figures))
    _say("\n".join(books.complaints or [f"Seed {options.seed}{on}: every promise was kept."]))
    if options.keep and books.complaints:
        shutil.copytree(folder, f"{folder}-kept")
    if small_disk is not None:
        subprocess.run(["umount", "--lazy", str(small_disk)], check=True)
    shutil.rmtree(folder)
    return 1 if books.complaints else 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
