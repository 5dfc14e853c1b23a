"""Room on the disk for SQLite's log to be folded back into the store.

As long as somebody reads, what is committed stays in the write-ahead log (https://sqlite.org/wal.html 6). A log that has taken the last
of the disk cannot be folded in any more, since the store needs room to grow by what is in it: it would stay full for ever. So nothing is
written any more while there is still room for that, and the log is cut to nothing as soon as nobody reads.
"""

import os
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

MARGIN = 1 << 20  # bytes that are free at least: a commit and some pages of the store
TRY_SECONDS = 1.0  # between two tries to cut the log


class Room:
    """For the writer's own connection, outside of transactions."""

    def __init__(self, file: Path | None) -> None:
        """`file`: the store; None: the database sees to its disk by itself."""
        self._file = file
        self._log = None if file is None else file.with_name(f"{file.name}-wal")
        self._try_at = 0.0
        self._log_size = self._largest = 0  # bytes of the log at the last look, and the most that it grew between two

    @property
    def is_used_up(self) -> bool:
        """A quick look, from any thread, for the disk on which nothing at all can be written."""
        return self._file is not None and self._free() < MARGIN

    def is_short(self, connection: Connection) -> bool:
        """Whether a write could take what folding in the log needs. Tries to fold it in then."""
        if self._file is None or self._log is None:
            return False
        before, self._log_size = self._log_size, _size(self._log)
        self._largest = max(self._largest, self._log_size - before)
        margin = max(MARGIN, 2 * self._largest)  # the next write takes room in the log, and then as much in the store
        free = self._free()
        if free >= margin + self._log_size:  # nearly always: the store cannot need more than is in its log
            return False
        return free < margin + self._growth(connection, self._file) and not self.make(connection)

    def make(self, connection: Connection) -> bool:
        """Fold in the log and cut it to nothing, if nobody reads and there is room; whether it was done and helped."""
        now = time.monotonic()
        if self._file is None or now < self._try_at:
            return False
        self._try_at = now + TRY_SECONDS
        driver = _driver(connection)
        try:
            (waits,) = driver.execute("PRAGMA busy_timeout").fetchone()
            driver.execute("PRAGMA busy_timeout=0")  # somebody who reads is not waited for
            try:
                is_busy = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            finally:
                driver.execute(f"PRAGMA busy_timeout={waits}")
        except _driver_errors(connection):
            return False
        return not is_busy and not self.is_used_up

    def _growth(self, connection: Connection, file: Path) -> int:
        """Bytes by which the store grows when its log is folded in."""
        driver = _driver(connection)
        try:
            (pages,), (page,) = driver.execute("PRAGMA page_count").fetchone(), driver.execute("PRAGMA page_size").fetchone()
        except _driver_errors(connection):
            return 0  # the write itself will say why
        return max(0, pages * page - _size(file))

    def _free(self) -> int:
        assert self._file is not None  # noqa: S101
        try:
            found = os.statvfs(self._file.parent)
        except OSError:
            return 1 << 62
        if not found.f_blocks:  # a file system that does not say
            return 1 << 62
        return (found.f_bavail if os.geteuid() else found.f_bfree) * found.f_frsize


def size_on_disk(connection: Connection) -> int:
    """Bytes of the store and its log."""
    file = connection.engine.url.database
    return 0 if file is None else sum(_size(Path(f"{file}{ending}")) for ending in ("", "-wal", "-journal"))


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection


def _driver_errors(connection: Connection) -> type[Exception]:
    return connection.dialect.loaded_dbapi.Error


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
