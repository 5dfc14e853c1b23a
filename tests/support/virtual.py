"""Several processes in one test, in virtual time: each has an event loop of its own, which can be stopped, continued and killed.

Time passes only when no loop has anything to do. So a test of minutes takes seconds, and the same seed gives the same run.
"""

import asyncio
import heapq
import itertools
import random
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from tocsin.clock import SECOND, Micros

EPOCH: Micros = 1_800_000_000 * SECOND


class _NoFiles(selectors.BaseSelector):
    """Nothing is ever read or written, and nothing is waited for."""

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:  # the base's
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}


class _Loop(asyncio.SelectorEventLoop):
    """Run by the world, a turn at a time."""

    def __init__(self, world: "World") -> None:
        self._world = world
        super().__init__(_NoFiles())

    def time(self) -> float:
        return self._world.now

    @property
    def next_at(self) -> float | None:
        """When it has something to do."""
        if self._ready:  # pyright: ignore[reportAttributeAccessIssue]
            return self._world.now
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # pyright: ignore[reportAttributeAccessIssue]
        while scheduled and scheduled[0].cancelled():
            heapq.heappop(scheduled)._scheduled = False  # pyright: ignore[reportAttributeAccessIssue]
            self._timer_cancelled_count -= 1  # pyright: ignore[reportAttributeAccessIssue]
        return max(scheduled[0].when(), self._world.now) if scheduled else None

    def turn(self) -> None:
        asyncio._set_running_loop(self)
        try:
            self._run_once()  # pyright: ignore[reportAttributeAccessIssue]
        finally:
            asyncio._set_running_loop(None)


class Process:
    """One of the world's processes. `ahead`: of its own clock; `behind`: what it has learned of that."""

    def __init__(self, world: "World", name: str, ahead: float = 0.0) -> None:
        self.world = world
        self.name = name
        self.ahead = ahead
        self.behind: Micros = 0
        self.loop = _Loop(world)
        self.loop.set_exception_handler(lambda _, context: world.errors.append((name, context)))
        self.loop.set_task_factory(self._made)  # pyright: ignore[reportArgumentType]
        self._tasks: set[asyncio.Task[Any]] = set()  # of a killed process nobody else may hold them
        self.stopped_until = 0.0
        self.is_alive = True

    def own(self) -> Micros:
        """Its wall clock."""
        return EPOCH + int((self.world.now + self.ahead) * SECOND)

    def now(self) -> Micros:
        """What `clock.now()` says in it."""
        return self.own() + self.behind

    def follow(self, behind: Micros) -> None:
        self.behind = behind

    def steady(self) -> float:
        return self.world.now + 7 * self.ahead + 100.0

    def kill(self) -> None:
        self.is_alive = False

    def stop(self, seconds: float) -> None:
        """As SIGSTOP does, and SIGCONT then."""
        self.stopped_until = self.world.now + seconds

    def do(self, call: Callable[..., Any], *args: Any) -> None:
        """Call it in the process, if that lives."""
        if self.is_alive:
            self.loop.call_soon(call, *args)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        self.loop.create_task(work).add_done_callback(self._told)

    def _made(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **more: Any) -> "asyncio.Task[Any]":
        task = asyncio.Task(work, loop=loop, **more)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _told(self, task: "asyncio.Task[Any]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.world.errors.append((self.name, {"exception": error}))


class World:
    def __init__(self, seed: int) -> None:
        self.now = 1000.0
        self.dice = random.Random(seed)
        self.processes: list[Process] = []
        self.current: Process | None = None
        self.errors: list[tuple[str, dict[str, Any]]] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def process(self, name: str, ahead: float = 0.0) -> Process:
        made = Process(self, name, ahead)
        self.processes.append(made)
        return made

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Something outside of all processes, such as a server."""
        heapq.heappush(self._events, (self.now + seconds, next(self._count), call))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            at, what = self._next()
            if at > until:
                self.now = until
                return
            self.now = max(self.now, at)
            if what is None:
                heapq.heappop(self._events)[2]()
                continue
            self.current = what
            what.loop.turn()
            self.current = None

    def _next(self) -> tuple[float, Process | None]:
        """When something happens next, and to whom; None: outside."""
        best: tuple[float, Process | None] = (self._events[0][0], None) if self._events else (float("inf"), None)
        for process in self.processes:
            if process.is_alive and (at := process.loop.next_at) is not None:
                at = max(at, process.stopped_until)
                if at < best[0]:
                    best = at, process
        return best

    def close(self) -> None:
        """Drop what is left of the loops."""
        for process in self.processes:
            while tasks := asyncio.all_tasks(process.loop):
                for task in tasks:
                    task.cancel()
                process.loop.turn()
            process.loop.close()
