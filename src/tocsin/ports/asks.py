"""What one worker asks another that alone can do it."""

from collections.abc import Awaitable, Callable
from typing import Protocol


class NotAnswered(Exception):
    """The worker is not there, or has not answered in time. `is_begun`: it has read the question, so it may have done what was asked."""

    def __init__(self, is_begun: bool) -> None:
        super().__init__("it may have been done" if is_begun else "nothing was done")
        self.is_begun = is_begun


class Asks(Protocol):
    """Questions and answers are kept until they are read, so they are to be sealed where they hold secrets."""

    async def ask(self, worker_id: int, question: bytes, seconds: float) -> bytes:
        """That worker's answer. Raises NotAnswered, Busy."""
        ...

    def answer_with(self, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        """From now on each question to this worker is put once, on the event loop. What it raises is logged, and nothing is answered."""
        ...

    async def close(self) -> None:
        """What is being answered is given up."""
        ...
