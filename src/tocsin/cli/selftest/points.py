"""A service with a crash built in: `python -m tocsin.cli.selftest.points after-answer:3 serve`.

It is the `tocsin` command, and kills itself as `kill -9` would when it reaches the named point for the third time. The service knows
nothing about these points: they wrap its functions in this process only, so they cost nothing elsewhere.
"""

import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import pycurl
from msgspec import Struct

from tocsin import alone, upkeep
from tocsin.cli import run
from tocsin.engine.holdings import Holdings
from tocsin.engine.ledger import Ledger
from tocsin.engine.local import LocalEngine
from tocsin.engine.moving import Moving
from tocsin.engine.pump import Pump
from tocsin.flow.delivery import health
from tocsin.flow.delivery.attempt import Attempt
from tocsin.flow.handlers import register as handlers
from tocsin.net import http, smtp
from tocsin.store import handlers as handler_rows
from tocsin.store import history, migrations
from tocsin.store.accepting import AcceptAll
from tocsin.store.settling import SettleAll
from tocsin.store.writer import Writer

_DATA_OUT = 4  # CURLINFO_DATA_OUT: https://curl.se/libcurl/c/CURLOPT_DEBUGFUNCTION.html


Scene: TypeAlias = Literal[
    "send", "parts", "mail", "stop", "gone", "pause", "retry", "restart", "credential", "follow", "migrate", "backup", "restore"
]


class Point(Struct, frozen=True):
    """Where the process dies. `scene` is what has to happen to get there; `repeats`: whether a message may arrive twice then;
    `unknown`: whether an attempt's answer is lost, so that its log must say so.
    """

    name: str
    sentence: str
    lay: Callable[["Crash"], None]
    scene: Scene = "send"
    repeats: bool = False
    unknown: bool = False


class Crash:
    """Dies at the `count`-th visit."""

    def __init__(self, count: int) -> None:
        self._left = count

    def visit(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: Any, name: str) -> Callable[[Crash], None]:
    def lay(crash: Crash) -> None:
        whole = getattr(owner, name)

        @functools.wraps(whole)
        def visited(*args: Any, **kwargs: Any) -> Any:
            crash.visit()
            return whole(*args, **kwargs)

        setattr(owner, name, visited)

    return lay


def _after(owner: Any, name: str) -> Callable[[Crash], None]:
    def lay(crash: Crash) -> None:
        whole = getattr(owner, name)

        @functools.wraps(whole)
        def visited(*args: Any, **kwargs: Any) -> Any:
            result = whole(*args, **kwargs)
            crash.visit()
            return result

        is_static = isinstance(inspect.getattr_static(owner, name), staticmethod)
        setattr(owner, name, staticmethod(visited) if is_static else visited)

    return lay


def _after_end_of(owner: Any, name: str) -> Callable[[Crash], None]:
    """Of what is awaited."""

    def lay(crash: Crash) -> None:
        whole = getattr(owner, name)

        @functools.wraps(whole)
        async def visited(*args: Any, **kwargs: Any) -> Any:
            result = await whole(*args, **kwargs)
            crash.visit()
            return result

        setattr(owner, name, visited)

    return lay


def _each(*lays: Callable[[Crash], None]) -> Callable[[Crash], None]:
    """The same point in different places: a service reaches one of them."""

    def lay(crash: Crash) -> None:
        for one in lays:
            one(crash)

    return lay


def _after_commit_of(kind: type[Any]) -> Callable[[Crash], None]:
    def lay(crash: Crash) -> None:
        whole = Writer._commit  # pyright: ignore[reportPrivateUsage]

        def visited(self: Writer, session: Any, jobs: list[Any]) -> None:
            whole(self, session, jobs)
            if any(job.bulk is kind for job in jobs):
                crash.visit()

        Writer._commit = visited  # pyright: ignore[reportPrivateUsage]

    return lay


def _on_libcurl(option: int, is_there: Callable[..., bool], verbose: bool = False) -> Callable[[Crash], None]:
    """Visits when libcurl calls back."""

    def lay(crash: Crash) -> None:
        class Visited(http.Exchange):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args)

                def called(*details: Any) -> int:
                    if is_there(*details):
                        crash.visit()
                    return 0

                self.curl.setopt(option, called)
                self.curl.setopt(pycurl.VERBOSE, verbose)

        http.Exchange = Visited

    return lay


def _always(*_: object) -> bool:
    return True


def _is_body(kind: int, _: bytes) -> bool:
    return kind == _DATA_OUT


def _at_last_dot(crash: Crash) -> None:
    whole = smtp.Connection.send

    async def visited(self: smtp.Connection, mail: Any, goes_out: Callable[[], None]) -> Any:
        def told() -> None:
            goes_out()
            crash.visit()

        return await whole(self, mail, told)

    smtp.Connection.send = visited


_RECOVERED = _each(_before(alone, "end_stopped"), _before(Holdings, "begin"))  # alone, or as one of several processes
_CHANGED = _after_end_of(handler_rows.SqlHandlers, "change")
_FOLLOWED = _after_end_of(Moving, "_rehome")
POINTS = (
    Point("before-accept-commit", "the rows are written, their commit is not", _after(AcceptAll, "run_all")),
    Point("after-accept-commit", "committed, and nobody has heard of it", _after_commit_of(AcceptAll)),
    Point("after-wake-up", "the engine knows, the 202 is not out", _after(LocalEngine, "hand_over")),
    Point("after-connect", "connected, nothing sent", _on_libcurl(pycurl.PREREQFUNCTION, _always), repeats=False, unknown=True),
    Point(
        "after-body",
        "the request is out, no answer yet",
        _on_libcurl(pycurl.DEBUGFUNCTION, _is_body, verbose=True),
        repeats=True,
        unknown=True,
    ),
    Point("after-answer", "the answer is there, nothing decided", _before(Attempt, "replied"), repeats=True, unknown=True),
    Point("before-outcome-commit", "the outcome is written, not committed", _after(SettleAll, "run_all"), repeats=True, unknown=True),
    Point("after-outcome-commit", "the outcome is committed, the ledger not told", _after_commit_of(SettleAll)),
    Point("between-parts", "the first part of a message has arrived", _before(Attempt, "_take_turn"), "parts", repeats=True, unknown=True),
    Point("mail-connected", "connected to the mail server, no mail out", _before(smtp.Connection, "_transfer"), "mail"),
    Point("mail-last-dot", "the whole mail is out but for its last dot", _at_last_dot, "mail", repeats=True, unknown=True),
    Point("draining", "told to stop, attempts in flight", _before(Pump, "is_idle_within"), "stop", repeats=True, unknown=True),
    Point("before-switch-off-commit", "a dead handler is being switched off", _after(handler_rows, "switch_off"), "gone"),
    Point("after-switch-off-commit", "a dead handler is switched off", _before(health, "end_waiting"), "gone"),
    Point("before-pause-commit", "its owner's pause is not committed", _after(handler_rows, "change_handler"), "pause"),
    Point("after-pause-commit", "its owner's pause is committed", _before(handlers, "end_waiting"), "pause"),
    Point("after-change-commit", "a handler's change is committed, and nobody has heard of it", _CHANGED, "credential"),
    Point("before-following", "what waits has not followed its handler to another partition", _before(Moving, "_rehome"), "follow"),
    Point("after-following", "what waits has followed its handler, whose owner was not told", _FOLLOWED, "follow"),
    Point("before-retry-commit", "a replay is not committed", _after(history, "retry"), "retry"),
    Point("recovering", "lost attempts are being settled at a start", _before(Ledger, "clear"), "restart", repeats=True, unknown=True),
    Point("recovered", "lost attempts are settled, nothing runs yet", _RECOVERED, "restart", repeats=True, unknown=True),
    Point("migrating", "the store is being brought to a newer form", _after(migrations, "upgrade"), "migrate"),
    Point("restoring", "the old store is kept, the copy has not taken its place", _after(upkeep, "_set_aside"), "restore"),
    Point("backing-up", "the copy is written, not yet under its name", _before(upkeep, "_check_whole"), "backup"),
)
BY_NAME = {point.name: point for point in POINTS}


def main() -> None:
    where, _, count = sys.argv[1].partition(":")
    BY_NAME[where].lay(Crash(int(count or "1")))
    sys.exit(run(sys.argv[2:]))


if __name__ == "__main__":
    main()
