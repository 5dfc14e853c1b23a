"""Requests with an idempotency key: one at a time, and a repeated one is answered as the first was."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TypeAlias

from tocsin import clock
from tocsin.model import Fault, InFlight, Invalid
from tocsin.ports.intake import REMEMBERED_FOR, Idempotency, Intake, Remembered

Answer: TypeAlias = tuple[int, ...]  # ids, or a count
_NEW = nullcontext[Answer | None](None)


class Repeats:
    """Idempotency keys: those under way in memory (those of other processes are known to the store), those of the last day in the store."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._in_flight: set[tuple[int, str, str]] = set()

    def once(self, user_id: int, idempotency: Idempotency | None) -> AbstractAsyncContextManager[Answer | None]:
        """The answer of a day at most ago; None: the request is new, and within the block no other with its key is let in.

        Without a key every request is new. Raises InFlight, and Invalid if the key was used with other content.
        """
        return _NEW if idempotency is None else self._once(user_id, idempotency)

    @asynccontextmanager
    async def _once(self, user_id: int, idempotency: Idempotency) -> AsyncGenerator[Answer | None]:
        mark = (user_id, idempotency.path, idempotency.key)
        if mark in self._in_flight:
            raise InFlight
        self._in_flight.add(mark)
        try:
            yield await self._answer(user_id, idempotency)
        finally:
            self._in_flight.discard(mark)

    async def _answer(self, user_id: int, idempotency: Idempotency) -> Answer | None:
        now = clock.now()
        window = (now - REMEMBERED_FOR, now + REMEMBERED_FOR)
        found = await self._intake.remembered(user_id, idempotency.path, idempotency.key, *window)
        return None if found is None else answer_of(found, idempotency)


def answer_of(found: Remembered, idempotency: Idempotency | None) -> Answer:
    """What the first request was answered with. Raises Invalid if it had other content."""
    if idempotency is None or found.content != idempotency.content:
        detail = "This idempotency key was used with other content."
        raise Invalid(Fault("idempotency_mismatch", "Idempotency key reused", detail, "Idempotency-Key"))
    return found.answer
