"""`tocsin selftest --many`: several processes on one PostgreSQL database under load, and what may happen to them, one after the other."""

import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from math import inf
from pathlib import Path

from tocsin.cli.selftest.many.books import Books
from tocsin.cli.selftest.many.cluster import Cluster
from tocsin.cli.selftest.many.faults import BY_NAME, Fault, as_before
from tocsin.cli.selftest.many.postgresql import Pair, database_on
from tocsin.cli.selftest.many.stage import Stage, shown, staged
from tocsin.cli.selftest.scenes import Finding

ROLES = ("api", "api", "worker", "worker")
A_SECOND = 50  # requests
SHOWN = (
    "asked twice",
    "key revoked",
    "cancelled and paused",
    "worker killed",
    "api killed",
    "worker frozen",
    "sessions ended",
    "PostgreSQL crashes",
    "standby takes over",
    "restarted in turn",
)
SCENES = 2 + len(SHOWN)
NOT_OURS = "not tested: this server is not ours to stop. Without TOCSIN_DATABASE_URL it would be one of our own."
IN_ALL = "nothing is lost, out of order or faster than its pace; nothing arrives twice but what was in flight; totals equal a count"


def run_many(database_url: str, begins: Callable[[str], None]) -> list[Finding]:
    """`database_url`: of a server to make a database on; empty: on one of our own. `begins` is told of each scene."""
    begins("starting")
    with tempfile.TemporaryDirectory(prefix="tocsin-selftest-") as folder, _database(database_url) as (url, servers):
        with staged(Cluster(Path(folder) / "many", url), servers, ROLES, A_SECOND) as stage:
            findings: list[Finding] = []
            for name in SHOWN:
                begins(name)
                findings.append(_carry_out(BY_NAME[name], stage))
            begins("the books")
            books = stage.settle()
        return [*findings, *_of_times(stage), _of_books(books)]


@contextmanager
def _database(url: str) -> Generator[tuple[str, Pair | None], None, None]:
    """An empty one, and its servers if they are ours; gone at the end."""
    if url:
        with database_on(url) as made:
            yield made, None
        return
    servers = Pair("tocsin")
    try:
        yield servers.url, servers
    finally:
        servers.remove()


def _carry_out(fault: Fault, stage: Stage) -> Finding:
    if fault.needs == "server" and stage.servers is None:
        return Finding(fault.name, fault.promise, NOT_OURS, None)
    before = len(stage.complaints)
    seen = fault.act(stage)
    as_before(stage, ROLES)
    complaints = stage.complaints[before:]
    return Finding(fault.name, fault.promise, "; ".join([seen, *complaints]), not complaints)


def _of_times(stage: Stage) -> list[Finding]:
    """Of each kind the one that took longest."""
    longest = {one.what: one for one in sorted(stage.times, key=lambda one: inf if one.seconds is None else one.seconds)}
    return [
        Finding("how quickly", f"{one.what} within {one.limit:.0f} s", f"after {shown(one.seconds)}", one.complaint is None)
        for one in longest.values()
    ]


def _of_books(books: Books) -> Finding:
    return Finding("all of it", IN_ALL, "; ".join([books.seen, *books.complaints]), not books.complaints)
