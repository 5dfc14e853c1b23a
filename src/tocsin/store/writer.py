"""Group commit: one thread takes whatever writes are waiting, runs them in one transaction, commits, and answers them all."""

import asyncio
import functools
import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, ClassVar, Protocol, TypeAlias

import structlog
from msgspec import Struct
from sqlalchemy import Connection

from tocsin import observe
from tocsin.model import Busy
from tocsin.ports.errors import Damaged, OwnerGone, WriteFailed
from tocsin.store import faults
from tocsin.store.dialects import Session, Unanswered

MAX_IN_ONE_COMMIT = 1024  # writes; keeps one commit, and so the wait of the last in it, short
MAX_GATHERED = 256  # writes that are handed to the thread at once
LOOK_EVERY_SECONDS = 0.5  # for what other processes wrote
MAX_WAITING = 20_000  # writes; more means that the disk does not keep up, and callers are told so
LOCKED_SECONDS = 10.0  # that a transaction waits for another process's, as the engine has set it
LOCKED_AGAIN_SECONDS = 0.5  # the same after one that waited in vain, until one was kept
PROBE_SECONDS = 1.0  # between two looks whether it can be written again
STALLED_SECONDS = 3.0  # that a commit takes at most while all is well
FRESH_SECONDS = 10.0  # for so long the last write says that it can be written
MAX_TRIES, MAX_TRIES_IN_CONFLICT = 2, 3  # of a commit, before its callers are told to come back
IN_DOUBT_SECONDS = 0.2  # between two looks whether a commit that was not answered was kept

log = structlog.get_logger(__name__)

Write: TypeAlias = Callable[[Connection], Any]


class Bulk(Protocol):
    """A kind of write of which many run better together than one by one. `linger_seconds`: how long one may wait for company."""

    linger_seconds: ClassVar[float]

    @staticmethod
    def run_all(connection: Connection, writes: Sequence[Any]) -> list[Any]:
        """The result of each write, in their order, within the caller's transaction."""
        ...


Done: TypeAlias = Callable[[Sequence[Any], Sequence[Any]], None]


class _Job(Struct):
    """Writes that go together, and who is told of them. `bulk`: their kind; None for a `Write`. `tickets`: what was handed in with each."""

    writes: list[Any]
    bulk: type[Bulk] | None
    done: Done
    tickets: list[Any] = []
    results: list[Any] = []


class Writer:
    """The only writer of the service's own process. `changed` is called, on the event loop, when another process wrote."""

    def __init__(self, open_session: Callable[[], Session], changed: Callable[[], None], probe: Write) -> None:
        """`open_session` is called in the thread. `probe`: a small write that changes a row, to see whether it can be done."""
        self._open_session = open_session
        self._session: Session | None = None
        self._changed = changed
        self._probe = probe
        self._trouble: str | None = None  # what kept the last write from being kept, if none was kept since
        self._written_at = time.monotonic()
        self._probe_at = 0.0
        self._is_asked = False
        self._began_at: float | None = None  # the commit that is under way
        self._queue: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._gathered: dict[Done, _Job] = {}
        self._gathered_count = 0  # writes in them
        self._flush: asyncio.Handle | None = None
        self._is_flush_soon = False
        self._loop = asyncio.get_running_loop()
        self._waiting = 0
        self._look_at = 0.0
        self.is_alive = True
        self._thread = threading.Thread(target=self._run, name="tocsin-writer", daemon=True)
        self._thread.start()

    def submit(self, write: Any, bulk: type[Bulk] | None = None, committed: Callable[[Any], None] | None = None) -> "asyncio.Future[Any]":
        """Queue a write: a `Write`, or a value that `bulk` knows how to run. The future is done after the commit. Raises Busy.

        Code that awaits the future runs a little later; `committed` is told before the next write is answered.
        """
        future = self._loop.create_future()
        self.submit_then(write, bulk, functools.partial(_resolve, future, committed))
        return future

    def submit_then(self, write: Any, bulk: type[Bulk] | None, done: Done, ticket: Any = None) -> None:
        """Like `submit`, but `done` is told the tickets of the writes that were handed in with it, as many as go together, and for each
        of them its result or the exception. All writes with the same `done` are of one kind."""
        if self._waiting >= MAX_WAITING:
            raise Busy("the store does not keep up", 1)
        if not self.is_alive:
            raise Busy("the store takes no writes", 60)
        self._waiting += 1
        self._gathered_count += 1
        job = self._gathered.get(done)
        if job is not None:
            job.writes.append(write)  # the first one has seen to the flush
            job.tickets.append(ticket)
        else:
            self._gathered[done] = _Job([write], bulk, done, [ticket])
            linger_seconds = bulk.linger_seconds if bulk else 0.0
            if self._flush is None or linger_seconds == 0.0:
                self._flush_within(linger_seconds)
        if self._gathered_count >= MAX_GATHERED:
            self._hand_over()

    def _flush_within(self, seconds: float) -> None:
        """What one turn of the event loop asks for, or what may linger, goes to the thread at once: waking it costs more than a row."""
        if seconds == 0.0:
            if not self._is_flush_soon:
                self._is_flush_soon = True
                if self._flush is not None:
                    self._flush.cancel()
                self._flush = self._loop.call_soon(self._hand_over)
        else:
            self._flush = self._loop.call_later(seconds, self._hand_over)

    def _hand_over(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
        self._flush, self._is_flush_soon = None, False
        if self._gathered:
            self._queue.put(list(self._gathered.values()))
            self._gathered, self._gathered_count = {}, 0

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written, in a sentence; None if the last write was kept. Asking makes it check again soon."""
        self._is_asked, began_at = True, self._began_at
        if self._trouble is None and began_at is not None and time.monotonic() - began_at > STALLED_SECONDS:
            return "The store has been busy with one write for some time: the disk stalls, or another process holds it."
        return self._trouble or (faults.FULL if self._session is not None and self._session.is_full else None)

    async def close(self) -> None:
        """Commit what is queued, then end the thread."""
        self._hand_over()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    # ------------------------------------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self.is_alive = False

    def _work(self) -> None:
        session = self._session = self._open_session()
        try:
            last = False
            while not last:
                jobs, last = self._take()
                self._began_at = time.monotonic()
                if jobs:
                    self._commit(session, jobs)
                    self._loop.call_soon_threadsafe(self._answer, jobs)
                self._look_whether_it_writes(session)
                self._look_for_others(session)
                self._began_at = None
        finally:
            session.close()

    def _take(self, seconds: float = 1.0) -> tuple[list[_Job], bool]:
        """Whatever waits, and whether it is the last."""
        jobs: list[_Job] = []
        try:
            gathered = self._queue.get(timeout=seconds)
            while gathered is not None and _count(jobs) < MAX_IN_ONE_COMMIT:
                jobs.extend(gathered)
                gathered = self._queue.get_nowait()
        except queue.Empty:
            return jobs, False
        if gathered is not None:
            jobs.extend(gathered)
        return jobs, gathered is None

    def _commit(self, session: Session, jobs: list[_Job]) -> None:
        """Every job has its results afterwards."""
        if session.is_short_of_room():
            self._note_trouble(faults.FULL if session.is_full else faults.NO_ROOM, "no room for the log to be folded in")
            _refuse(jobs)
            return
        try:
            self._keep(session, jobs)
            session.wait_for_others(LOCKED_SECONDS)
        except Exception as error:  # noqa: BLE001  # whatever it was belongs to the write that caused it: found one by one
            if isinstance(error, Unanswered) or faults.is_for_all(error):
                session.wait_for_others(LOCKED_AGAIN_SECONDS)  # nobody's answer and no stop waits for many of them
                for job in jobs:
                    job.results = [self._known(error)] * len(job.writes)
                return
            if _count(jobs) == 1:
                jobs[0].results = [self._known(error)]
                session.after(error)
                return
            for job in jobs:
                alone = [_Job([write], job.bulk, job.done) for write in job.writes]
                for one in alone:
                    self._commit(session, [one])
                job.results = [one.results[0] for one in alone]

    def _known(self, error: Exception) -> Exception:
        """As the callers know it. A disk that is full or locked is a reason to ask again."""
        if isinstance(error, Unanswered):
            return _busy()
        if faults.is_damage(error):
            self._note_trouble(faults.sentence(error), faults.words_of(error))
            return Damaged(faults.sentence(error))
        if faults.is_passing(error):
            self._note_trouble(faults.sentence(error), faults.words_of(error))
            return _busy()
        if faults.is_of_driver(error):
            failed = (OwnerGone if faults.is_orphan(error) else WriteFailed)(faults.words_of(error))
            failed.__cause__ = error
            return failed
        return error

    def _note_trouble(self, sentence: str, why: str) -> None:
        self._trouble = sentence
        observe.seldom(log.error, "store.write_failed", error=why)

    def _keep(self, session: Session, jobs: list[_Job]) -> None:
        """Again, if a connection broke before the commit, which has kept nothing and is another one now; if there is room now; or if it
        met another transaction, such as of a command beside the service."""
        for tries in itertools.count(1):
            try:
                self._transaction(session, jobs)
            except Unanswered as unanswered:
                if self._was_kept(session, unanswered):
                    break
                if tries >= MAX_TRIES:
                    raise unanswered.why from None
            except Exception as error:
                if not _may_go_better(error, tries, session):
                    raise
            else:
                break

    def _was_kept(self, session: Session, unanswered: Unanswered) -> bool:
        """Those who wait are told the truth, so they wait until the database is there again; all others are told to come back."""
        while True:
            try:
                if (was_kept := session.was_kept()) is not None:
                    return was_kept
            except Unanswered as never:
                log.error("store.commit_unknown", why=str(never.why))
                raise
            except Exception as error:
                if not faults.is_passing(error):
                    raise
                self._note_trouble(faults.sentence(error), faults.words_of(error))
            jobs, last = self._take(IN_DOUBT_SECONDS)
            _refuse(jobs)
            self._loop.call_soon_threadsafe(self._answer, jobs)
            if last:  # nobody can be told any more: what was kept is found by the next start
                self._queue.put(None)
                raise unanswered

    def _look_whether_it_writes(self, session: Session) -> None:
        """While it could not be written, or somebody asks and nothing was written lately: a real write says whether it can be."""
        now = time.monotonic()
        is_doubted = self._trouble is not None or (self._is_asked and now - self._written_at > FRESH_SECONDS)
        if not is_doubted or now < self._probe_at:
            return
        self._probe_at, self._is_asked = now + PROBE_SECONDS, False
        self._commit(session, [_Job([self._probe], None, _nobody)])

    def _transaction(self, session: Session, jobs: list[_Job]) -> None:
        kinds: dict[type[Bulk], list[_Job]] = {}
        before = session.changes()
        with session.transaction() as connection:
            for job in jobs:
                if job.bulk is None:
                    job.results = [write(connection) for write in job.writes]
                else:
                    kinds.setdefault(job.bulk, []).append(job)
            for bulk, alike in kinds.items():
                results = bulk.run_all(connection, list(chain.from_iterable(job.writes for job in alike)))
                start = 0
                for job in alike:
                    end = start + len(job.writes)
                    job.results, start = results[start:end], end
        if session.changes() != before:  # what changes nothing is kept on a full disk too
            self._trouble, self._written_at = None, time.monotonic()

    def _look_for_others(self, session: Session) -> None:
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_SECONDS
        try:
            if session.others_wrote():
                self._loop.call_soon_threadsafe(self._changed)
        except Exception as error:
            if not faults.is_gone(error):
                log.exception("store.others_wrote")
                return
            self._note_trouble(faults.sentence(error), faults.words_of(error))

    # --------------------------------------------------------------------------------------------- on the event loop

    def _answer(self, jobs: list[_Job]) -> None:
        self._waiting -= _count(jobs)
        for job in jobs:
            try:
                job.done(job.tickets, job.results)
            except Exception:
                log.exception("store.answer_failed")  # the others are answered all the same


def _may_go_better(error: Exception, tries: int, session: Session) -> bool:
    if faults.is_conflict(error):
        return tries < MAX_TRIES_IN_CONFLICT
    return tries < MAX_TRIES and (faults.is_gone(error) or (faults.is_full(error) and session.make_room()))


def _busy() -> Busy:
    return Busy("the store cannot be written now", 5)


def _refuse(jobs: list[_Job]) -> None:
    for job in jobs:
        job.results = [_busy()] * len(job.writes)


def _nobody(_: Sequence[Any], __: Sequence[Any]) -> None:
    """Whom a probe tells."""


def _count(jobs: list[_Job]) -> int:
    return sum([len(job.writes) for job in jobs])


def _resolve(future: "asyncio.Future[Any]", committed: Callable[[Any], None] | None, _: Sequence[Any], results: Sequence[Any]) -> None:
    (result,) = results
    if isinstance(result, BaseException):
        if not future.done():
            future.set_exception(result)
        return
    if not future.done():  # else nobody waits for it any more
        future.set_result(result)
    if committed is not None:
        committed(result)
