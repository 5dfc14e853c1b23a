"""When the power fails: the store's files as they were after each commit, with whatever of the next one had reached the disk.

What a commit had put on the disk is there afterwards; of what was written since, any part may be missing. So each state is put
together from the files before and after, and opened again.
"""

import itertools
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import run
from e2e.service import Service
from receiver import Receiver
from support.store import sqlite_store
from tocsin.model import Message, Status
from tocsin.ports.handlers import HandlerChange
from tocsin.ports.intake import Accept, Planned, PlannedDelivery
from tocsin.store.writer import Writer

BATCHES = 40
PAGE = 4096


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, set[int]]]:
    """The store's files after each commit, and the ids that had been acknowledged by then. Checkpoints happen in between."""
    folder = tmp_path_factory.mktemp("power")
    states: list[tuple[Path, set[int]]] = []
    acknowledged: set[int] = set()
    committed = Writer._commit  # pyright: ignore[reportPrivateUsage]

    def watched(self: Writer, session: Any, jobs: list[Any]) -> list[Any]:
        session._driver.execute("PRAGMA wal_autocheckpoint=60")
        results = committed(self, session, jobs)
        state = folder / f"state-{len(states)}"
        state.mkdir()
        for name in ("tocsin.db", "tocsin.db-wal"):
            shutil.copy(folder / "store" / name, state / name)
        states.append((state, set(acknowledged)))
        return results

    async def main() -> None:
        Writer._commit = watched  # pyright: ignore[reportPrivateUsage]
        try:
            async with sqlite_store(folder / "store") as store:
                handler = await store.handlers.add(1, HandlerChange("webhook", "a", b"", None, is_enabled=True), 1)
                for number in range(BATCHES):
                    message = Message(f"{number} " + "text " * 300, at=1)
                    planned = Planned(message, None, None, (PlannedDelivery(handler, Status.PENDING, 1),))
                    acknowledged.update(one.id for one in await store.intake.accept(Accept(1, 1, [planned] * 10)))
        finally:
            Writer._commit = committed  # pyright: ignore[reportPrivateUsage]

    run(main())
    # What was acknowledged right after a commit belongs to that commit.
    return [(state, later) for (state, _), (_, later) in zip(states, [*states[1:], (folder, acknowledged)], strict=True)]


def held(folder: Path) -> set[int]:
    """Ids in the store, opened as after a start of the machine: SQLite's shared memory is gone."""
    connection = sqlite3.connect(folder / "tocsin.db")
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = {row[0] for row in connection.execute("SELECT id FROM notifications")}
        assert found == {row[0] for row in connection.execute("SELECT notification_id FROM deliveries")}
        return found
    finally:
        connection.close()


def variants(before: Path, after: Path, dice: random.Random) -> Iterator[tuple[bytes, bytes]]:
    """What the disk may hold, the store and its log, when the power fails between the end of one commit and that of the next."""
    store, log = ((before / name).read_bytes() for name in ("tocsin.db", "tocsin.db-wal"))
    next_store, next_log = ((after / name).read_bytes() for name in ("tocsin.db", "tocsin.db-wal"))
    yield store, log
    if not next_log.startswith(log):  # all of it is in the store, so it is written again from its beginning
        for _ in range(3):
            cut = dice.randint(0, len(next_log))
            yield store, next_log[:cut] + log[cut:]
    else:
        for _ in range(3):  # a part of the next commit, cut anywhere
            yield store, next_log[: dice.randint(len(log), len(next_log))]
        torn = bytearray(next_log)  # the next commit, with a sector that never came
        if len(torn) > len(log):
            at = dice.randrange(len(log), len(torn))
            torn[at : at + 512] = bytes(len(torn[at : at + 512]))
            yield store, bytes(torn)
    if store != next_store:  # a checkpoint after the commit: some pages are in the store already, the log is whole
        size = max(len(store), len(next_store))
        old, new = store.ljust(size, b"\0"), next_store.ljust(size, b"\0")
        pages = [(new if dice.random() < 0.5 else old)[at : at + PAGE] for at in range(0, size, PAGE)]
        yield b"".join(pages), next_log


def test_whatever_the_power_leaves_everything_acknowledged_is_there(history: list[tuple[Path, set[int]]], tmp_path: Path) -> None:
    dice = random.Random(7)
    checkpoints = opened = 0
    for number, ((state, acknowledged), (following, _)) in enumerate(itertools.pairwise(history)):
        checkpoints += (state / "tocsin.db").read_bytes() != (following / "tocsin.db").read_bytes()
        for index, (store, log) in enumerate(variants(state, following, dice)):
            folder = tmp_path / f"{number}-{index}"
            folder.mkdir()
            (folder / "tocsin.db").write_bytes(store)
            (folder / "tocsin.db-wal").write_bytes(log)
            assert held(folder) >= acknowledged, (number, index)
            shutil.rmtree(folder)
            opened += 1
    assert len(history[-1][1]) == BATCHES * 10
    assert checkpoints >= 2 and opened >= 3 * BATCHES


def test_a_store_without_its_log_has_lost_something(history: list[tuple[Path, set[int]]], tmp_path: Path) -> None:
    """That this test can fail: without the write-ahead log, what was acknowledged is not all there."""
    state, acknowledged = history[-1]
    shutil.copy(state / "tocsin.db", tmp_path / "tocsin.db")
    assert not held(tmp_path) >= acknowledged


@pytest.mark.skipif(shutil.which("strace") is None or sys.platform != "linux", reason="needs strace")
def test_the_log_is_on_the_disk_before_the_202_is_out(tmp_path: Path) -> None:
    """As the kernel sees it: writes to the log, fdatasync of the log, and only then the answer."""
    service = Service(tmp_path / "traced")
    with Receiver() as receiver:
        try:
            client = service.start().first()
            handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
            assert service.process is not None
            trace = tmp_path / "trace"
            command = ["strace", "-f", "-y", "-s", "40", "-e", "trace=pwrite64,fdatasync,write,sendto,writev", "-o", trace]
            tracer = subprocess.Popen([*command, "-p", str(service.process.pid)], stderr=subprocess.PIPE, text=True)
            assert tracer.stderr is not None
            line = tracer.stderr.readline()
            if "attached" not in line:
                pytest.skip(f"strace may not look into other processes here: {line.strip()}")
            threading.Thread(target=tracer.stderr.read, daemon=True).start()
            client.send("Hello", handlers=[handler])
            tracer.terminate()
            tracer.wait(10)
        finally:
            service.kill()
    calls = trace.read_text(errors="replace").splitlines()
    answered = next(index for index, line in enumerate(calls) if "202 Accepted" in line)
    written = [index for index, line in enumerate(calls[:answered]) if re.search(r"pwrite64\(\d+<\S*tocsin\.db-wal", line)]
    synced = [index for index, line in enumerate(calls[:answered]) if re.search(r"fdatasync\(\d+<\S*tocsin\.db-wal", line)]
    assert written and synced, calls[:answered]
    assert written[0] < synced[-1], "nothing of it was synced"
    assert not [one for one in written if one > synced[-1]], "something was written after the sync that the answer followed"
