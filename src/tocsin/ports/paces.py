"""What went out under which key and when, and until when a key was asked to rest: the past that paces count."""

from collections.abc import Sequence
from typing import Protocol

from tocsin.clock import Micros


class Record(Protocol):
    """Noted as it happens, and asked for what an earlier process noted. A key is what a pace counts by; times are the wall clock's."""

    def begin(self, key: str, at: Micros, seconds: float) -> None:
        """Something starts; it counts for so long."""
        ...

    def rest(self, key: str, at: Micros, until: Micros) -> None:
        """Nothing may start before then."""
        ...

    def starts_since(self, key: str, at: Micros) -> Sequence[Micros]:
        """Of an earlier process."""
        ...

    @property
    def rests_until(self) -> Micros:
        """When the last rest that an earlier process was asked for is over; 0: there was none."""
        ...

    def rest_until(self, key: str) -> Micros:
        """Until when an earlier process was asked to rest, 0 if it was not. It is told once: from then on it is the asker's."""
        ...

    def forget_before(self, at: Micros) -> None:
        """Whatever an earlier process noted that is over by then takes no more memory."""
        ...

    @property
    def is_new(self) -> bool:
        """Not all is known of the time before."""
        ...

    def complete(self) -> None:
        """From now on all that counts is noted."""
        ...
