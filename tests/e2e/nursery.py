"""Processes that begin as copies of one that has imported the program already.

Most of what a start costs is Python's imports, and the tests start hundreds of services and commands. The nursery, a process with a single
thread, imports once and forks for each of them. What runs in the copy is what `python -m <module> <words>` runs, in a folder and an
environment of its own. Services that are shared, or whose memory is measured, are started by a new interpreter all the same.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

CAN_FORK = hasattr(os, "pidfd_open")  # Linux
IMPORTED = (
    "alembic.command",
    "tocsin.app",
    "tocsin.cli.commands",
    "tocsin.cli.start",
    "tocsin.serving",
    "tocsin.store.homes.postgresql_server",
    "uvicorn.lifespan.off",
)
MAX_REQUEST = 128 << 10
MAX_DESCRIPTOR = 1024


class Forked:
    """What tests use of subprocess.Popen. `told`: where the nursery says the process id, and later how it ended."""

    def __init__(self, told: socket.socket, stdout: IO[str] | None = None) -> None:
        self._told = told
        self.pid = int(told.recv(32))
        self.stdout = stdout
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended since
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._told.settimeout(timeout)
            with contextlib.suppress(BlockingIOError, TimeoutError):
                self.returncode = int(self._told.recv(32))
                self._told.close()
        return self.returncode


@functools.cache
def _nursery() -> socket.socket:
    """Where this process's nursery is asked. It ends with us, when the socket closes."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-P", __file__, str(theirs.fileno())]
    subprocess.Popen(command, env={"PATH": os.environ["PATH"]}, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()
    return ours


def launch(module: Sequence[str], folder: Path, environ: Mapping[str, str], stderr: int) -> Forked:
    """Begin `python -m` with these words. Its standard output is to be read, as with a pipe of Popen's."""
    reading, writing = os.pipe()
    try:
        return Forked(_fork(module, folder, environ, writing, stderr), os.fdopen(reading, encoding="utf-8"))
    finally:
        os.close(writing)


def run(module: Sequence[str], folder: Path, environ: Mapping[str, str], timeout: float) -> "subprocess.CompletedProcess[str]":
    """Run `python -m` with these words to its end."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        process = Forked(_fork(module, folder, environ, out.fileno(), error.fileno()))
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        said = [(file.seek(0), file.read().decode())[1] for file in (out, error)]
    return subprocess.CompletedProcess(module, code, *said)


def _fork(module: Sequence[str], folder: Path, environ: Mapping[str, str], stdout: int, stderr: int) -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    request = json.dumps({"module": list(module), "folder": str(folder), "environ": dict(environ)})
    socket.send_fds(_nursery(), [request.encode()], [stdout, stderr, theirs.fileno()])
    theirs.close()
    return ours


# ------------------------------------------------------------------------------------------------- inside the nursery


def _import_everything() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    form = importlib.import_module("tocsin.store.form")  # what a start compares its store with, which it would make first
    form.expected(importlib.import_module("tocsin.store.migrations").HEAD)

    assert len(os.listdir("/proc/self/task")) == 1, "a thread would be missing from every copy"
    gc.collect()
    gc.freeze()


def _asked(asked: socket.socket) -> str | None:
    """Forks for each request. In the copy it returns the module to run; in the nursery None, once nobody asks any more."""
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for ready in select.select([asked, *running], [], [])[0]:
            if ready is asked:
                request, files, _, _ = socket.recv_fds(asked, MAX_REQUEST, 3)
                if not request:
                    return None
                pid = os.fork()
                if pid == 0:
                    return _become(json.loads(request), files)
                told = socket.socket(fileno=files[2])
                told.send(b"%d" % pid)
                os.close(files[0])
                os.close(files[1])
                running[os.pidfd_open(pid)] = pid, told
            else:
                pid, told = running.pop(ready)
                _, status = os.waitpid(pid, 0)
                os.close(ready)
                with contextlib.suppress(OSError):  # nobody waits for it
                    told.send(b"%d" % os.waitstatus_to_exitcode(status))
                told.close()


def _become(request: dict[str, Any], files: Sequence[int]) -> str:
    os.dup2(files[0], 1)
    os.dup2(files[1], 2)
    os.closerange(3, MAX_DESCRIPTOR)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environ"])
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = request["module"]
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    return sys.argv[0]


def _run(module: str) -> None:
    """As `python -m` does. What was imported is not taken apart at the end, for which all of its memory would be copied; `multiprocessing`
    ends its copies like this too.
    """
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if not isinstance(ended.code, int):
            raise
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(50_000, 20, 100)
    _import_everything()
    if (copied := _asked(socket.socket(fileno=int(sys.argv[1])))) is not None:
        _run(copied)
