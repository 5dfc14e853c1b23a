"""The PostgreSQL server of a run: the tests' own, which comes from a wheel, so nothing has to be installed."""

import contextlib
import os
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "tests"))

from support import postgresql
from tocsin.cli.selftest.many.postgresql import execute

DATABASE = "tocsin"
_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


class Server:
    def __init__(self) -> None:
        self._server = postgresql.Server().start()
        self._server.execute(f"CREATE DATABASE {DATABASE}")
        self.url = self._server.url(DATABASE)

    def end(self, how: str) -> None:
        """`how`: "killed" (kill -9 of it and of all its sessions), "immediate" (as after a crash) or "fast"."""
        if how == "killed":
            self._server.kill()
        else:
            self._server.stop(signal.SIGQUIT if how == "immediate" else signal.SIGINT)

    def start(self) -> None:
        self._server.start()

    def end_sessions(self) -> None:
        self._server.execute(_SESSIONS, DATABASE)

    @contextmanager
    def frozen(self) -> Generator[None, None, None]:
        """SIGSTOP to it and its sessions, as of a machine that stalls, and SIGCONT at the end."""
        pids = list(self._pids())
        _signal(pids, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(pids, signal.SIGCONT)

    def _pids(self) -> Iterator[int]:
        pid = self._server.pid
        yield pid
        yield from (int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return execute(self.url, sql)

    def remove(self) -> None:
        self._server.remove()


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
