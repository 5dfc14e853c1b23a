"""Time inside the service: integers, microseconds since 1970 in UTC. Waits are floats, in seconds."""

import time
from typing import TypeAlias

Micros: TypeAlias = int
SECOND: Micros = 1_000_000
MINUTE: Micros = 60 * SECOND
HOUR: Micros = 60 * MINUTE
DAY: Micros = 24 * HOUR


_behind: Micros = 0


def now() -> Micros:
    """The wall clock, which may be wrong and may be set; where processes share a store, the store's clock, as far as it is known."""
    return time.time_ns() // 1000 + _behind


_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady() -> float:
    """Seconds of a clock that nobody sets, and that goes on while the machine is suspended, where there is such a clock."""
    return time.clock_gettime(_STEADY)


def follow(behind: Micros) -> None:
    """From now on this process lives by another clock, which its own is so far behind."""
    global _behind  # there is one time in a process
    _behind = behind
