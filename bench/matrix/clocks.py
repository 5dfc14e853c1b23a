"""The wall clock of the service, as the matrix sets it."""

import time
from pathlib import Path
from struct import Struct as Binary

from msgspec import Struct

_OFFSET = Binary("q")
_FOLDER = Path(__file__).parent / "clock"
SECOND_NS = 1_000_000_000


class Clock:
    """`steps`: since when (time.monotonic()) the clock has been ahead by how many seconds."""

    def __init__(self, file: Path) -> None:
        file.write_bytes(_OFFSET.pack(0))
        self._file = file
        self.offset = 0
        self.steps: list[tuple[float, int]] = [(time.monotonic(), 0)]
        self.environ = {"PYTHONPATH": str(_FOLDER), "MATRIX_CLOCK": str(file)}

    def step_to(self, offset: int) -> None:
        """`offset`: seconds ahead of the real clock."""
        with self._file.open("r+b", buffering=0) as file:
            file.write(_OFFSET.pack(offset * SECOND_NS))
        self.offset = offset
        self.steps.append((time.monotonic(), offset))

    def now(self) -> float:
        return time.time() + self.offset

    def readings(self) -> "Readings":
        return Readings(time.time() - time.monotonic(), self.steps)


class Readings(Struct, frozen=True):
    """`real`: what the real clock was ahead of time.monotonic(). `steps`: of `Clock`."""

    real: float
    steps: list[tuple[float, int]]

    def moments(self, micros: int) -> list[float]:
        """When, by time.monotonic(), the service's clock showed that time: more than once where it was set back."""
        ends = [at for at, _ in self.steps[1:]] + [float("inf")]
        found = [(micros / 1e6 - self.real - offset, at, end) for (at, offset), end in zip(self.steps, ends, strict=True)]
        return [moment for moment, at, end in found if at - 0.05 <= moment <= end + 0.05]
