"""Requests with an idempotency key: one at a time, and a repeated one is answered as the first was."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TypeAlias

from tocsin import clock
from tocsin.clock import DAY, Micros
from tocsin.model import Fault, InFlight, Invalid
from tocsin.ports.intake import Idempotency, Intake

IDEMPOTENCY_WINDOW: Micros = DAY

Answer: TypeAlias = tuple[int, ...]  # ids, or a count
_NEW = nullcontext[Answer | None](None)


class Repeats:
    """Idempotency keys: those under way in memory, those of the last day in the store."""

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
        # At most as far ahead: what a clock noted that was years ahead would swallow new messages for years.
        window = (now - IDEMPOTENCY_WINDOW, now + IDEMPOTENCY_WINDOW)
        found = await self._intake.remembered(user_id, idempotency.path, idempotency.key, *window)
        if found is None:
            return None
        if found.content != idempotency.content:
            detail = "This idempotency key was used with other content."
            raise Invalid(Fault("idempotency_mismatch", "Idempotency key reused", detail, "Idempotency-Key"))
        return found.answer
