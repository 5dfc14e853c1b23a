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

    def send(self, request: Request, goes_out: Callable[[], None] = nobody) -> Awaitable[Reply]:
        """Never raises, except when cancelled; `NothingSent` where a mail has surely not arrived.

        `goes_out` is told before the other side can have the message.
        """
        if isinstance(request, Mail):
            return self._mail.send(request, goes_out)
        goes_out()
        return self._http.send(request)

    async def close(self) -> None:
        await asyncio.gather(self._http.close(), self._mail.close())
