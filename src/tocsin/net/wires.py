"""The two outgoing wires as one."""

import asyncio
from collections.abc import Awaitable, Callable

from tocsin.model import HttpRequest, Mail, Reply, Request
from tocsin.net.http import HttpWire
from tocsin.net.mail import MailWire


class Wires:
    def __init__(self, http: HttpWire, mail: MailWire) -> None:
        self._http = http
        self._mail = mail
        self.start: Callable[[HttpRequest, Callable[[Reply], None]], None] = http.start
        self.cut: Callable[[], None] = http.cut

    def send(self, request: Request) -> Awaitable[Reply]:
        """Never raises, except when cancelled; `NothingSent` where a mail has surely not arrived."""
        return self._mail.send(request) if isinstance(request, Mail) else self._http.send(request)

    async def close(self) -> None:
        await asyncio.gather(self._http.close(), self._mail.close())
