"""Moves the clock of the Python process that is started with this folder on its PYTHONPATH, while it runs.

Python imports a module of this name at every start, before any other of ours. The offset in nanoseconds is read from a mapped file,
whose name is in MATRIX_CLOCK: so another process steps the clock at one instant, without root, a preloaded library or a seam in the
service, which would be there for everybody. Only what reads the wall clock through `time` is moved: that is all that the service does.
"""

import mmap
import os
import time
from pathlib import Path
from struct import Struct

_OFFSET = Struct("q")


def _move(name: str) -> None:
    with Path(name).open("rb") as file:
        offset = mmap.mmap(file.fileno(), _OFFSET.size, access=mmap.ACCESS_READ)
    read, real = _OFFSET.unpack_from, time.time_ns
    real_time, real_gmtime, real_localtime = time.time, time.gmtime, time.localtime

    def time_ns() -> int:
        return real() + read(offset)[0]

    def moved() -> float:
        return real_time() + read(offset)[0] / 1e9

    time.time_ns, time.time = time_ns, moved
    time.gmtime = lambda seconds=None, /: real_gmtime(moved() if seconds is None else seconds)
    time.localtime = lambda seconds=None, /: real_localtime(moved() if seconds is None else seconds)


if name := os.environ.get("MATRIX_CLOCK"):
    _move(name)
