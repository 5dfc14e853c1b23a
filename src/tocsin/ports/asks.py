"""What one worker asks another that alone can do it."""

from collections.abc import Awaitable, Callable
from typing import Protocol


class Asks(Protocol):
    """Questions and answers are kept for a moment, so they are to be sealed where they hold secrets."""

    async def ask(self, worker_id: int, question: bytes, seconds: float) -> bytes | None:
        """That worker's answer. None: it is not there, or has not answered in time; it may do what was asked all the same. Raises Busy."""
        ...

    def answer_with(self, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        """From now on each question to this worker is put once, on the event loop. What it raises is logged, and nothing is answered."""
        ...

    async def close(self) -> None:
        """What is being answered is given up."""
        ...
