"""Threads for what takes longer than the event loop may be held: a pool for each purpose, in each of them the users take turns.

One set of pools belongs to each event loop, as asyncio's own default executor does: rendering, pages and passwords are needed deep
inside, and all who need them must share the same ones. Who is next is decided on the event loop, so nothing here is locked
but the end of a job against its budget. Python runs one thread at a time, so more than one thread for what is computed in Python
would only take turns from the event loop; argon2 computes outside of it.
"""

import asyncio
import contextlib
import contextvars
import ctypes
import functools
import math
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

import structlog
from msgspec import Struct

from tocsin import observe
from tocsin.model import Busy

BUDGET_SECONDS = 1.0  # of a thread's computing time; the largest message takes a quarter of it
LOOK_SECONDS = 0.25  # between two looks at how much a job has used
CLOSE_SECONDS = 2.0  # for jobs that are running when the service stops
THREAD_AGAIN_SECONDS = 1.0  # after which a thread that the system refused is asked for again
MAX_PAGES_WAITING = 200
MAX_PASSWORDS_WAITING = 32  # 19 MiB and some 20 ms each, one after the other
MAX_BODIES_WAITING = 8  # 16 MiB each
_BUSY = "the service has too much to do at this moment"

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger(__name__)


class OverBudget(Exception):
    """The job was ended because it had used up its computing time."""


class _Interrupted(BaseException):
    """Raised in the midst of such a job. No `Exception`, since a job that catches all of those must be ended as well."""


class _Job:
    """`thread_id`, `clock`: where it runs, and that thread's computing time; None before it has begun and after it has ended."""

    __slots__ = ("begun_at", "call", "clock", "future", "lock", "thread_id", "user")

    def __init__(self, user: Hashable, call: Callable[[], Any], future: "asyncio.Future[Any]") -> None:
        self.user = user
        self.call = call
        self.future = future
        self.lock = threading.Lock()  # between its end and its interruption
        self.thread_id: int | None = None
        self.clock = 0
        self.begun_at = 0.0


class Pool:
    """`threads` daemon threads, made when they are first needed. Users take turns; one user's jobs go first in, first out.

    `max_waiting`: of jobs that have not begun, None for any number. `budget_seconds`: computing time of one job, None for any.
    """

    def __init__(self, name: str, threads: int = 1, max_waiting: int | None = None, budget_seconds: float | None = None) -> None:
        self._name = name
        self._threads = threads
        self._max_waiting = max_waiting
        self._budget_seconds = budget_seconds
        self._turns: OrderedDict[Hashable, deque[_Job]] = OrderedDict()
        self._waiting = 0
        self._running: set[_Job] = set()
        self._made = 0
        self._is_looking = False
        self._is_closed = False
        self._inbox: SimpleQueue[tuple[Pool, _Job] | None] = SimpleQueue()
        weakref.finalize(self, _end_threads, self._inbox, threads)

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return self._waiting

    async def run(self, user: Hashable, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`call` in one of the threads, with the caller's context variables, when it is this user's turn.

        Where as many wait as are allowed, the last job of the user who has the most of them is refused. Cancelled: what waits is never
        begun, what runs goes on to its end, which nobody hears of. Raises Busy, OverBudget, and what `call` raises.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        job = _Job(user, functools.partial(contextvars.copy_context().run, call, *args, **kwargs), future)
        if self._is_closed:
            raise Busy(_BUSY)
        if len(self._running) < self._threads:
            self._begin(job)
        else:
            self._make_room(user)
            self._turns.setdefault(user, deque()).append(job)
            self._waiting += 1
        try:
            return await future
        finally:
            if future.cancelled():
                self._forget(job)

    async def close(self) -> None:
        """Refuse whatever waits, give what runs a moment, end the threads."""
        self._is_closed = True
        while (job := self._next()) is not None:
            if not job.future.done():
                job.future.set_exception(Busy(_BUSY))
        running = [job.future for job in self._running if not job.future.done()]
        if running:
            await asyncio.wait(running, timeout=CLOSE_SECONDS)
        _end_threads(self._inbox, self._made)

    # ---------------------------------------------------------------------------------------------------- whose turn it is

    def _make_room(self, user: Hashable) -> None:
        """Raises Busy."""
        if self._max_waiting is None or self._waiting < self._max_waiting:
            return
        jobs = max(self._turns.values(), key=len, default=deque[_Job]())
        if len(jobs) <= len(self._turns.get(user, ())) + 1:
            raise Busy(_BUSY)
        job = jobs.pop()
        self._waiting -= 1
        if not job.future.done():
            job.future.set_exception(Busy(_BUSY))

    def _next(self) -> _Job | None:
        if not self._turns:
            return None
        user, jobs = self._turns.popitem(last=False)
        job = jobs.popleft()
        self._waiting -= 1
        if jobs:
            self._turns[user] = jobs  # at the end: the others come first
        return job

    def _forget(self, job: _Job) -> None:
        jobs = self._turns.get(job.user)
        if jobs is not None and job in jobs:
            jobs.remove(job)
            self._waiting -= 1
            if not jobs:
                del self._turns[job.user]

    # ------------------------------------------------------------------------------------------------------- in a thread

    def _begin(self, job: _Job) -> None:
        self._running.add(job)
        if self._made < len(self._running):
            self._make_thread()
        self._inbox.put((self, job))
        if self._budget_seconds is not None and not self._is_looking:
            self._is_looking = True
            job.future.get_loop().call_later(LOOK_SECONDS, self._look)

    def _make_thread(self) -> None:
        try:
            threading.Thread(target=_work, args=(self._inbox,), name=f"tocsin-{self._name}", daemon=True).start()
            self._made += 1
        except RuntimeError:  # the system has none left: the jobs wait for one
            observe.seldom(log.warning, "pool.no_thread", pool=self._name)
            asyncio.get_running_loop().call_later(THREAD_AGAIN_SECONDS, self._make_missing)

    def _make_missing(self) -> None:
        if self._made < len(self._running) and not self._is_closed:
            self._make_thread()

    def _ended(self, job: _Job, result: Any, error: BaseException | None) -> None:
        self._running.discard(job)
        if not job.future.done():  # else nobody waits for it any more
            if error is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(error)
        if (following := self._next()) is not None:
            self._begin(following)

    def _look(self) -> None:
        self._is_looking = bool(self._running)
        if self._is_looking:
            self._end_overdue()
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _end_overdue(self) -> None:
        """End what has used up its computing time. Its thread's own clock counts, so that a busy machine shortens nobody's budget."""
        budget = self._budget_seconds
        if budget is None:
            return
        for job in self._running:
            with job.lock:
                if job.thread_id is not None and time.clock_gettime(job.clock) - job.begun_at > budget:
                    job.begun_at = math.inf  # once: a second one could come while the first is dealt with
                    _raise_in(job.thread_id, _Interrupted)


def _end_threads(inbox: "SimpleQueue[tuple[Pool, _Job] | None]", threads: int) -> None:
    for _ in range(threads):
        inbox.put(None)


def _work(inbox: "SimpleQueue[tuple[Pool, _Job] | None]") -> None:
    while (found := inbox.get()) is not None:
        pool, job = found
        try:
            result, error = _outcome(job) if not job.future.cancelled() else (None, None)
        except BaseException as fault:  # noqa: BLE001  # whatever happens, the thread stays and the pool goes on
            result, error = None, fault
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            job.future.get_loop().call_soon_threadsafe(pool._ended, job, result, error)  # pyright: ignore[reportPrivateUsage]
        del found, pool, job, result, error  # while it waits for the next one nothing is kept


def _outcome(job: _Job) -> tuple[Any, BaseException | None]:
    """Result or exception. An interruption may come until `_close` is through, so no function of Python's is between them."""
    found: tuple[Any, BaseException | None] | None = None
    try:
        _open(job)
        try:
            found = (job.call(), None)
        except _Interrupted:
            raise
        except BaseException as error:  # noqa: BLE001  # it is raised where the job is awaited
            found = (None, error)
        _close(job)
        if job.begun_at == math.inf:
            _let_it_come()
    except _Interrupted:
        _close(job)
    return found or (None, OverBudget())


def _open(job: _Job) -> None:
    thread_id = threading.get_ident()
    job.clock = _clock_of(thread_id)
    job.begun_at = time.clock_gettime(job.clock)
    job.thread_id = thread_id


def _close(job: _Job) -> None:
    """From here on no interruption is asked for."""
    with job.lock:
        job.thread_id = None


def _let_it_come() -> None:
    """What was asked for and has not come yet comes with the next step back in a loop.

    To take it back instead would leave CPython's eval breaker set for good: all threads run slower then, and never end under a profile.
    """
    for _ in range(100):
        pass


def _clock_of(thread_id: int) -> int:
    """The clock of a thread's computing time; where the system has none, that of the day."""
    return time.pthread_getcpuclockid(thread_id) if hasattr(time, "pthread_getcpuclockid") else time.CLOCK_MONOTONIC


def _raise_in(thread_id: int, error: type[BaseException]) -> None:
    """Have this raised in another thread as soon as it runs Python's own code again.

    The one way to end a thread's work from outside (https://docs.python.org/3/c-api/init.html#c.PyThreadState_SetAsyncExc).
    """
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(error))


# ------------------------------------------------------------------------------------------------- the service's own pools


class Pools(Struct, frozen=True, weakref=True):
    """`rendering`: of what is to be sent, where nothing is refused. `pages`: pages, previews and long lists. `passwords`: argon2.
    `bodies`: large requests.
    """

    rendering: Pool
    pages: Pool
    passwords: Pool
    bodies: Pool


_of_loops: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Pools]" = weakref.WeakKeyDictionary()


def here() -> Pools:
    """Those of the running event loop; made when they are first asked for."""
    loop = asyncio.get_running_loop()
    found = _of_loops.get(loop)
    if found is None:
        found = _of_loops[loop] = Pools(
            rendering=Pool("rendering", budget_seconds=BUDGET_SECONDS),
            pages=Pool("pages", max_waiting=MAX_PAGES_WAITING, budget_seconds=BUDGET_SECONDS),
            passwords=Pool("passwords", max_waiting=MAX_PASSWORDS_WAITING),
            bodies=Pool("bodies", max_waiting=MAX_BODIES_WAITING),
        )
    return found


async def close() -> None:
    """End those of the running event loop."""
    found = _of_loops.pop(asyncio.get_running_loop(), None)
    if found is not None:
        await asyncio.gather(found.rendering.close(), found.pages.close(), found.passwords.close(), found.bodies.close())
