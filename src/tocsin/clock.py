"""Time inside the service: integers, microseconds since 1970 in UTC. Waits are floats, in seconds."""

import time
from typing import TypeAlias

Micros: TypeAlias = int
SECOND: Micros = 1_000_000
MINUTE: Micros = 60 * SECOND
HOUR: Micros = 60 * MINUTE
DAY: Micros = 24 * HOUR


def now() -> Micros:
    """The wall clock, which may be wrong and may be set."""
    return time.time_ns() // 1000
