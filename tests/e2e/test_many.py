"""Several processes on one PostgreSQL database, killed, stopped and joined while clients go on sending."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from e2e import nursery
from support import postgresql
from tocsin.cli.selftest.many.books import Books
from tocsin.cli.selftest.many.cluster import Cluster, Process
from tocsin.cli.selftest.many.faults import BY_NAME, FAULTS, as_before
from tocsin.cli.selftest.many.postgresql import Pair
from tocsin.cli.selftest.many.stage import staged

A_SECOND = 40


class Copy(Process):
    """Started as a copy of the nursery, which is quicker."""

    def launch(self, crash_at: str | None = None) -> None:
        module = ["tocsin"] if crash_at is None else ["tocsin.cli.selftest.points", crash_at]
        with self._log.open("ab") as log:
            self._process: Any = nursery.launch([*module, "serve"], self._folder, self._environ, log.fileno())


@pytest.fixture
def url(postgresql_server: None) -> Iterator[str]:
    with postgresql.database(postgresql.shared_url(postgresql.shared_folder())) as made:
        yield made


def after(
    folder: Path, url: str, faults: Sequence[str], roles: tuple[str, ...], servers: Pair | None = None, joined: tuple[str, ...] = ()
) -> Books:
    """The books of a cluster under load to which these things have happened, with `joined` more processes at the end. How long they take is
    for `make soak-many` to judge."""
    with staged(Cluster(folder, url, make=Copy if nursery.CAN_FORK else Process), servers, roles, A_SECOND) as stage:
        for fault in faults:
            BY_NAME[fault].act(stage)
        as_before(stage, roles + joined)
        return stage.settle()


def test_what_clients_ask_of_one_process_holds_in_all_of_them(tmp_path: Path, url: str) -> None:
    """And while others join and leave, nothing arrives twice."""
    faults = ("worker joins", "asked twice", "key revoked", "cancelled and paused")
    books = after(tmp_path, url, faults, ("api", "api", "worker"), joined=("worker",))
    assert (books.complaints, books.repeated) == ([], 0)
    assert books.accepted > 50


def test_nothing_is_lost_or_out_of_order_where_processes_are_killed(tmp_path: Path, url: str) -> None:
    books = after(tmp_path, url, ("worker killed", "api killed"), ("api", "worker", "worker"))
    assert books.complaints == []
    assert books.accepted > 100


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", [one.name for one in FAULTS])
@pytest.mark.parametrize("roles", [("api", "api", "worker", "worker"), ("all", "all", "all")], ids=["apart", "all"])
def test_each_thing_that_may_happen_is_survived(tmp_path: Path, fault: str, roles: tuple[str, ...]) -> None:
    servers = Pair("tocsin")
    try:
        books = after(tmp_path, servers.url, (fault,), roles, servers)
    finally:
        servers.remove()
    assert books.complaints == []
    assert books.accepted > 20


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_minute_of_everything_with_clocks_ten_seconds_apart() -> None:
    """Of it the times too: on a machine that is busy with other tests they may not be kept."""
    command = [sys.executable, "-m", "bench.soak_many", "--seed", "1", "--minutes", "1"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=380, check=False)
    broken = [line for line in done.stdout.splitlines() if line.startswith("!") and "are allowed" not in line]
    assert broken == [], done.stdout + done.stderr
    assert "accepted" in done.stdout
