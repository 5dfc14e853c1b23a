"""The two outgoing wires as one."""

import asyncio
from collections.abc import Awaitable, Callable

from tocsin.model import HttpRequest, Mail, Reply, Request
from tocsin.net.http import HttpWire
from tocsin.net.mail import MailWire, nobody


class Wires:
    def __init__(self, http: HttpWire, mail: MailWire) -> None:
        self._http = http
        self._mail = mail
        self.start: Callable[[HttpRequest, Callable[[Reply], None]], None] = http.start
        self.cut: Callable[[], None] = http.cut

    def send(self, request: Request, goes_out: Callable[[], None] = nobody, starts: Callable[[], None] = nobody) -> Awaitable[Reply]:
        """Never raises, except when cancelled: `NothingSent` if it is certain that no mail was accepted.

        `starts` is called when the wire has room for it, `goes_out` before the other side can have the message.
        """
        if isinstance(request, Mail):
            return self._mail.send(request, goes_out, starts)
        starts()
        goes_out()
        return self._http.send(request)

    def for_tests(self, user_id: int) -> "TestWires":
        """The same for a user's test sends, whose mails do not wait behind deliveries."""
        return TestWires(self._http, self._mail, user_id)

    async def close(self) -> None:
        await asyncio.gather(self._http.close(), self._mail.close())


class TestWires:
    def __init__(self, http: HttpWire, mail: MailWire, user_id: int) -> None:
        self._http = http
        self._mail = mail
        self._user_id = user_id

    def send(self, request: Request) -> Awaitable[Reply]:
        return self._mail.test(request, self._user_id) if isinstance(request, Mail) else self._http.send(request)
