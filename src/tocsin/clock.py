"""Time inside the service: integers, microseconds since 1970 in UTC. Waits are floats, in seconds."""

import time
from typing import TypeAlias

Micros: TypeAlias = int
SECOND: Micros = 1_000_000
HOUR: Micros = 3600 * SECOND
DAY: Micros = 24 * HOUR


_ahead: Micros = 0


def now() -> Micros:
    """The wall clock, which may be wrong and may be set; where processes on several machines share a store, that of its server."""
    return time.time_ns() // 1000 + _ahead


def follow(ahead: Micros) -> None:
    """From now on another clock counts, which is ahead of ours by so much."""
    global _ahead  # there is one time for the whole process
    _ahead = ahead
