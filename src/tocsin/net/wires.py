"""The two outgoing wires as one."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec, Protocol, TypeAlias

import structlog

from tocsin.model import HttpRequest, Mail, NoReply, Reason, Reply, Request
from tocsin.net.exchange import STOPPED
from tocsin.net.http import HttpWire
from tocsin.net.mail import MailWire, NothingSent

P = ParamSpec("P")
Replied: TypeAlias = Callable[[Reply], None]


class Sender(Protocol):
    """Who sends something, and is told how it goes."""

    def goes_out(self) -> None:
        """Called before the other side can have any of it; a mail may go out twice."""
        ...

    def replied(self, reply: Reply, /) -> None:
        """The answer, or why there is none: called once, never from within `start`."""
        ...


_CUT = "The service was stopped while it waited for the answer."
_FAULT = NoReply(Reason.INTERNAL, sent=True, detail="This is a fault of the service; it is in the log.")
log = structlog.get_logger(__name__)


class _Tasks:
    """Exchanges that take a task each."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Reply]] = set()

    def follow(self, replied: Replied, send: Callable[P, Awaitable[Reply]], *args: P.args, **kwargs: P.kwargs) -> None:
        task = asyncio.get_running_loop().create_task(_until_answered(functools.partial(send, *args, **kwargs)))
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._ended, replied))

    def _ended(self, replied: Replied, task: asyncio.Task[Reply]) -> None:
        self._tasks.discard(task)
        if task.cancelled():  # before its first step
            replied(STOPPED)
        elif error := task.exception():
            log.error("wire.failed", exc_info=error)
            replied(_FAULT)
        else:
            replied(task.result())

    def cut(self) -> None:
        for task in self._tasks:
            task.cancel()


async def _until_answered(send: Callable[[], Awaitable[Reply]]) -> Reply:
    try:
        return await send()
    except asyncio.CancelledError as cut:
        return NoReply(Reason.CUT, not isinstance(cut, NothingSent), _CUT, stopped=True)


class Wires:
    def __init__(self, http: HttpWire, mail: MailWire) -> None:
        self._http = http
        self._mail = mail
        self._mails = _Tasks()

    def start(self, request: Request, sender: Sender) -> None:
        """Send it, and tell the attempt how it went."""
        if isinstance(request, HttpRequest):
            sender.goes_out()
            self._http.start(request, sender.replied)
        else:
            self._mails.follow(sender.replied, self._mail.send, request, sender.goes_out)

    def cut(self) -> None:
        """End what is under way; the replies say whether anything of it went out."""
        self._http.cut()
        self._mails.cut()

    def for_tests(self, user_id: int) -> "TestWires":
        """The same for one test send of a user, whose mail does not wait behind deliveries."""
        return TestWires(self._http, self._mail, user_id)

    async def close(self) -> None:
        await asyncio.gather(self._http.close(), self._mail.close())


class TestWires:
    def __init__(self, http: HttpWire, mail: MailWire, user_id: int) -> None:
        self._http = http
        self._mail = mail
        self._user_id = user_id
        self._tasks = _Tasks()

    def start(self, request: Request, sender: Sender) -> None:
        """See `Wires.start`."""
        if isinstance(request, Mail):
            self._tasks.follow(sender.replied, self._mail.test, request, self._user_id)
        else:
            sender.goes_out()
            self._tasks.follow(sender.replied, self._http.send, request)

    def cut(self) -> None:
        """End the exchange that is under way, if there is one."""
        self._tasks.cut()
