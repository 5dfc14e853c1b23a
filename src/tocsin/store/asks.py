"""Questions to a worker and its answers: `tocsin.ports.asks`. Rows hold them, NOTIFY says that they are there, and says it again."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from tocsin import clock, observe
from tocsin.model import Busy
from tocsin.ports.asks import NotAnswered
from tocsin.store.dialects.quick import Session
from tocsin.store.workers import SqlWorkers, channel_of

AGAIN_SECONDS = 1.0  # until a question that is not answered is put again: what was said of it may be lost
MISSES = 2  # looks that find no worker, before nobody waits for its answer any more
ASK, ANSWER = "ask", "answer"  # the first word of what is said

_ASK = (
    "WITH asked AS (INSERT INTO asks (worker, asker, question, at)"
    " SELECT id, %s, %s, %s FROM workers WHERE id = %s RETURNING id)"
    " SELECT id, pg_notify(%s, 'ask ' || id) FROM asked"
)
_SAY_AGAIN = "SELECT pg_notify(%s, %s)"
# To read a question is to take it: it may hold secrets, and that it is gone says that it was read. Only its worker asks for it.
_QUESTION = (
    "UPDATE asks a SET question = '' FROM asks before"
    " WHERE a.id = %s AND a.worker = %s AND before.id = a.id AND before.question <> '' RETURNING before.asker, before.question"
)
_ANSWER = (
    "WITH answered AS (UPDATE asks SET answer = %s WHERE id = %s AND answer IS NULL RETURNING id)"
    " SELECT pg_notify(%s, 'answer ' || id) FROM answered"
)
_TAKE = "DELETE FROM asks WHERE id = %s AND answer IS NOT NULL RETURNING answer"
_FORGET = "DELETE FROM asks WHERE id = %s RETURNING answer, question = ''"
_IS_THERE = "SELECT EXISTS (SELECT FROM workers WHERE id = %s)"
log = structlog.get_logger(__name__)


class SqlAsks:
    """On the connections of the worker."""

    def __init__(self, workers: SqlWorkers) -> None:
        self._workers = workers
        self._answer: Callable[[bytes], Awaitable[bytes]] | None = None
        self._waiting: dict[int, asyncio.Event] = {}
        self._forgetting: set[asyncio.Task[None]] = set()
        self._answering: dict[int, asyncio.Task[None]] = {}
        workers.told[ASK] = self._asked
        workers.told[ANSWER] = self._answered

    async def ask(self, worker_id: int, question: bytes, seconds: float) -> bytes:
        values = (self._workers.worker_id, question, clock.now(), worker_id, channel_of(worker_id))
        putting = asyncio.ensure_future(self._workers.quick.run(lambda session: session.rows(_ASK, values)))
        try:
            rows = await asyncio.shield(putting)
            if not rows:
                raise NotAnswered(is_begun=False)
            return await self._answer_within(seconds, rows[0][0], worker_id)
        except asyncio.CancelledError:
            self._forget_later(putting)
            raise

    async def _answer_within(self, seconds: float, ask_id: int, worker_id: int) -> bytes:
        self._waiting[ask_id] = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                if (answer := await self._answer_to(ask_id, worker_id)) is not None:
                    return answer
        except TimeoutError:
            pass
        finally:
            del self._waiting[ask_id]
        return await self._last_word(ask_id)

    async def _answer_to(self, ask_id: int, worker_id: int) -> bytes | None:
        """Once it is said to be there. After a while a look whether it is, and the question again. None: the worker is gone; what it
        answered last had time to arrive."""
        is_answered, misses = self._waiting[ask_id], 0

        def look(session: Session) -> tuple[bytes | None, bool]:
            if found := session.rows(_TAKE, (ask_id,)):
                return found[0][0], True
            session.rows(_SAY_AGAIN, (channel_of(worker_id), f"{ASK} {ask_id}"))
            return None, session.rows(_IS_THERE, (worker_id,))[0][0]

        while misses < MISSES:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_SECONDS):
                    await is_answered.wait()
            is_answered.clear()
            try:
                answer, is_there = await self._workers.quick.run(look)
            except Busy as busy:  # the answer may be made all the same
                observe.seldom(log.warning, "ask.waits", why=str(busy))
                continue
            if answer is not None:
                return answer
            misses = 0 if is_there else misses + 1
        return None

    async def _last_word(self, ask_id: int) -> bytes:
        """Whatever there is by now; nothing of it stays. Raises NotAnswered."""
        found = await self._workers.quick.run(lambda session: session.rows(_FORGET, (ask_id,)))
        if not found or found[0][0] is None:
            raise NotAnswered(is_begun=not found or found[0][1])
        return found[0][0]

    def _forget_later(self, putting: "asyncio.Future[list[Any]]") -> None:
        """Nobody waits for the answer any more."""
        task = asyncio.get_running_loop().create_task(self._forget(putting))
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)

    async def _forget(self, putting: "asyncio.Future[list[Any]]") -> None:
        try:
            for row in await putting:
                await self._workers.quick.run(lambda session, ask_id=row[0]: session.rows(_FORGET, (ask_id,)))
        except Busy as busy:  # housekeeping finds it
            observe.seldom(log.warning, "ask.not_forgotten", why=str(busy))

    def answer_with(self, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._answer = answer

    def _answered(self, said: str) -> None:
        if (is_answered := self._waiting.get(int(said))) is not None:
            is_answered.set()

    def _asked(self, said: str) -> None:
        """It may be said again while it is being answered."""
        ask_id = int(said)
        if self._answer is not None and ask_id not in self._answering:
            task = self._answering[ask_id] = asyncio.get_running_loop().create_task(self._reply(ask_id, self._answer))
            task.add_done_callback(lambda _: self._answering.pop(ask_id))

    async def _reply(self, ask_id: int, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        quick, worker_id = self._workers.quick, self._workers.worker_id
        try:
            found = await quick.run(lambda session: session.rows(_QUESTION, (ask_id, worker_id)))
            if not found:
                return
            asker, question = found[0]
            await self._keep((await answer(question), ask_id, channel_of(asker)))
        except Busy:  # it is put again if it was not taken
            return
        except Exception as error:  # noqa: BLE001  # whatever it was, nobody here waits for it
            observe.seldom(log.error, "ask.failed", exc_info=error)

    async def _keep(self, values: tuple[bytes, int, str]) -> None:
        """However long the store needs: it is done, and must not be done again when it is put again."""
        while True:
            try:
                await self._workers.quick.run(lambda session: session.rows(_ANSWER, values))
            except Busy as busy:
                observe.seldom(log.warning, "ask.waits", why=str(busy))
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                return

    async def close(self) -> None:
        for task in self._answering.values():
            task.cancel()
        await asyncio.gather(*self._answering.values(), *self._forgetting, return_exceptions=True)
