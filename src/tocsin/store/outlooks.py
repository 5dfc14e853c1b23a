"""What workers tell each other of their handlers' next starts: `tocsin.ports.outlooks`. NOTIFY carries both ways, and nothing is stored."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence

import structlog
from msgspec import Struct

from tocsin import observe
from tocsin.model import Busy
from tocsin.ports.outlooks import Known, Outlook
from tocsin.store.dialects.quick import Session
from tocsin.store.workers import SqlWorkers, channel_of

AT_ONCE = 150  # handlers in one message, whose text has 8,000 bytes at most
ASK, ANSWER = "outlook", "outlooks"  # the first word of what is said
_PAUSED, _OTHERS = -1, -2  # in place of a pace
_NOTIFY = "SELECT pg_notify(%s, text) FROM unnest(%s::text[]) AS v(text)"
log = structlog.get_logger(__name__)


class _Asked(Struct, eq=False):
    missing: set[int]
    found: dict[int, Outlook | None]
    is_complete: asyncio.Event


class SqlOutlooks:
    """On the connections of the worker."""

    def __init__(self, workers: SqlWorkers) -> None:
        self._workers = workers
        self._answer: Callable[[Sequence[int]], Awaitable[Known]] | None = None
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Asked] = {}
        self._answering: set[asyncio.Task[None]] = set()
        workers.told[ASK] = self._hear_question
        workers.told[ANSWER] = self._hear_answer

    async def ask(self, worker_id: int, handler_ids: Sequence[int], seconds: float) -> Known:
        number, me = next(self._numbers), self._workers.worker_id
        asked = self._asked[number] = _Asked(set(handler_ids), {}, asyncio.Event())
        try:
            async with asyncio.timeout(seconds):
                await self._say(worker_id, [" ".join(map(str, (ASK, me, number, *some))) for some in _batches(handler_ids)])
                await asked.is_complete.wait()
        except TimeoutError:
            pass
        finally:
            del self._asked[number]
        return asked.found

    def answer_with(self, answer: Callable[[Sequence[int]], Awaitable[Known]]) -> None:
        self._answer = answer

    async def close(self) -> None:
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    async def _say(self, worker_id: int, texts: Sequence[str]) -> None:
        values = (channel_of(worker_id), list(texts))
        await self._workers.quick.run(lambda session: _notify(session, values))

    def _hear_question(self, said: str) -> None:
        asker, number, *handler_ids = map(int, said.split())
        if self._answer is not None:
            task = asyncio.get_running_loop().create_task(self._reply(self._answer, asker, number, handler_ids))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _reply(
        self, answer: Callable[[Sequence[int]], Awaitable[Known]], asker: int, number: int, handler_ids: Sequence[int]
    ) -> None:
        try:
            known = await answer(handler_ids)
            if known:
                await self._say(asker, [" ".join([ANSWER, str(number), *(_told(one, known[one]) for one in known)])])
        except Busy as busy:  # the process that asked hears nothing, and says so
            observe.seldom(log.warning, "outlook.not_told", why=str(busy))
        except Exception as error:  # noqa: BLE001  # the same
            observe.seldom(log.error, "outlook.failed", exc_info=error)

    def _hear_answer(self, said: str) -> None:
        number, *rest = map(int, said.split())
        asked = self._asked.get(number)
        if asked is None:
            return
        numbers = iter(rest)
        for handler_id, length, pace in zip(numbers, numbers, numbers, strict=True):
            asked.missing.discard(handler_id)
            asked.found[handler_id] = None if pace == _OTHERS else Outlook(length / 1000, None if pace == _PAUSED else pace)
        if not asked.missing:
            asked.is_complete.set()


def _batches(handler_ids: Sequence[int]) -> list[Sequence[int]]:
    return [handler_ids[start : start + AT_ONCE] for start in range(0, len(handler_ids), AT_ONCE)]


def _told(handler_id: int, outlook: Outlook | None) -> str:
    if outlook is None:
        return f"{handler_id} 0 {_OTHERS}"
    return f"{handler_id} {round(outlook.seconds * 1000)} {_PAUSED if outlook.pace is None else outlook.pace}"


def _notify(session: Session, values: tuple[str, list[str]]) -> None:
    session.rows(_NOTIFY, values)
