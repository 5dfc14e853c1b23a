"""Questions to a worker and its answers: `tocsin.ports.asks`. Rows hold them, NOTIFY says that they are there, and says it again."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from tocsin import clock, observe
from tocsin.model import Busy
from tocsin.store.dialects.quick import Session
from tocsin.store.workers import SqlWorkers, channel_of

AGAIN_SECONDS = 1.0  # until a question that is not answered is put again: what was said of it may be lost
ASK, ANSWER = "ask", "answer"  # the first word of what is said

_ASK = (
    "WITH asked AS (INSERT INTO asks (worker, asker, question, at)"
    " SELECT id, %s, %s, %s FROM workers WHERE id = %s RETURNING id)"
    " SELECT id, pg_notify(%s, 'ask ' || id) FROM asked"
)
_SAY_AGAIN = "SELECT pg_notify(%s, %s)"
_QUESTION = "SELECT asker, question FROM asks WHERE id = %s AND worker = %s AND answer IS NULL"
_ANSWER = (
    "WITH answered AS (UPDATE asks SET answer = %s WHERE id = %s AND answer IS NULL RETURNING id)"
    " SELECT pg_notify(%s, 'answer ' || id) FROM answered"
)
_TAKE = "DELETE FROM asks WHERE id = %s AND answer IS NOT NULL RETURNING answer"
_FORGET = "DELETE FROM asks WHERE id = %s RETURNING answer"
log = structlog.get_logger(__name__)


class SqlAsks:
    """On the connections of the worker."""

    def __init__(self, workers: SqlWorkers) -> None:
        self._workers = workers
        self._answer: Callable[[bytes], Awaitable[bytes]] | None = None
        self._waiting: dict[int, asyncio.Event] = {}
        self._answering: dict[int, asyncio.Task[None]] = {}
        workers.told[ASK] = self._asked
        workers.told[ANSWER] = self._answered

    async def ask(self, worker_id: int, question: bytes, seconds: float) -> bytes | None:
        values = (self._workers.worker_id, question, clock.now(), worker_id, channel_of(worker_id))
        rows = await self._workers.quick.run(lambda session: session.rows(_ASK, values))
        if not rows:
            return None
        ask_id: int = rows[0][0]
        is_answered = self._waiting[ask_id] = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                while (answer := await self._answer_to(ask_id, is_answered, worker_id)) is None:
                    pass
                return answer
        except TimeoutError:
            found = await self._workers.quick.run(lambda session: session.rows(_FORGET, (ask_id,)))
            return found[0][0] if found else None
        finally:
            del self._waiting[ask_id]

    async def _answer_to(self, ask_id: int, is_answered: asyncio.Event, worker_id: int) -> bytes | None:
        """Once it is said to be there; or after a while a look whether it is, and the question again."""
        try:
            async with asyncio.timeout(AGAIN_SECONDS):
                await is_answered.wait()
        except TimeoutError:
            pass
        is_answered.clear()

        def look(session: Session) -> bytes | None:
            if found := session.rows(_TAKE, (ask_id,)):
                return found[0][0]
            session.rows(_SAY_AGAIN, (channel_of(worker_id), f"{ASK} {ask_id}"))
            return None

        return await self._workers.quick.run(look)

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
        except Busy:  # it is put again
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
        await asyncio.gather(*self._answering.values(), return_exceptions=True)
