"""Cores, child processes pinned to them, and what the kernel says of a process."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_spawn = multiprocessing.get_context("spawn")


def cores() -> tuple[set[int], set[int]]:
    """The service's core and those of everything else; the same one twice where there is only one."""
    first, *rest = sorted(os.sched_getaffinity(0))
    return {first}, set(rest) or {first}


def run_pinned(core: set[int], function: Callable[..., Any], *args: object) -> Any:
    """What `function` returns in a fresh process on the given cores. Raises RuntimeError if it dies."""
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=_answer, args=(core, theirs, function, args), daemon=True)
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise RuntimeError(f"{function.__module__} ended without a result") from None
    finally:
        process.join()


def start_pinned(core: set[int], function: Callable[..., None]) -> tuple[Any, Connection]:
    """A fresh process on the given cores, running `function` with one end of a pipe; and the other end."""
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=_serve, args=(core, theirs, function), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _answer(core: set[int], pipe: Connection, function: Callable[..., Any], args: tuple[object, ...]) -> None:
    os.sched_setaffinity(0, core)
    pipe.send(function(*args))


def _serve(core: set[int], pipe: Connection, function: Callable[[Connection], None]) -> None:
    os.sched_setaffinity(0, core)
    function(pipe)


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def end_in_order() -> None:
    """From now on SIGTERM leaves the main thread as an exception does, so that no child is left behind."""

    def end(_number: int, _frame: object) -> None:
        sys.exit(2)

    signal.signal(signal.SIGTERM, end)


def peak_bytes(pid: int) -> int:
    """The most memory that was resident since the start or the last `forget_peak`."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def forget_peak(pid: int) -> None:
    """https://www.kernel.org/doc/html/latest/filesystems/proc.html: 5 resets the peak."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def family_cpu_seconds(pid: int) -> float:
    """Of a process and its children, of those too that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    spent = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK") + cpu_seconds(pid)
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            spent += cpu_seconds(int(child))
    return spent


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
