"""The outgoing mail wire: up to four kept connections to the operator's mail server."""

import asyncio
import functools
import ipaddress
import ssl
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from tocsin.model import Mail, MailReply, NoReply, Reason
from tocsin.net.addresses import Address, read_named_address
from tocsin.net.smtp import Connection, Server, Timeouts, local_name
from tocsin.settings import Settings

_NOT_CONFIGURED = "no mail server is configured: set TOCSIN_SMTP_URL, until then e-mail deliveries wait"
_BAD_SENDER = "TOCSIN_EMAIL_FROM is no address such as `tocsin <alarm@example.com>`, so no e-mail is sent"


def server_of(url: str) -> Server:
    """What TOCSIN_SMTP_URL says; user and password are percent-decoded.

    TLS is required with a password or a host that is not this machine; `?tls=optional` uses it where the server offers it.
    """
    parts = urlsplit(url)
    host = parts.hostname or "localhost"
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.scheme == "smtps":
        return Server(host, parts.port or 465, "at_once", user, password)
    port = parts.port or (587 if user else 25)
    if parts.query == "tls=optional":
        return Server(host, port, "offered", user, password)
    return Server(host, port, "required" if user or not _is_this_machine(host) else "off", user, password)


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


@functools.cache
def default_sender() -> Address:
    """tocsin@ this machine."""
    return Address("tocsin", local_name() or "localhost", "tocsin")


def sender(settings: Settings) -> Address:
    """Who e-mails are from: TOCSIN_EMAIL_FROM, else tocsin@ this machine. Raises ValueError where that is no address."""
    return read_named_address(settings.email_from) if settings.email_from else default_sender()


def complaints(settings: Settings) -> list[str]:
    """What is misconfigured about mail, one sentence each, without secrets."""
    found: list[str] = []
    if not settings.smtp_url:
        found.append(_NOT_CONFIGURED)
    else:
        server = server_of(settings.smtp_url)
        if server.user and not server.password:
            found.append("TOCSIN_SMTP_URL names a user but no password")
        if not settings.email_from:
            found.append(f"e-mails come from {default_sender().mailbox}: set TOCSIN_EMAIL_FROM to an address your mail server may send for")
    try:
        sender(settings)
    except ValueError:
        found.append(_BAD_SENDER)
    return found


class NothingSent(asyncio.CancelledError):
    """Cancelled before the mail was out: it has surely not arrived."""


def nobody() -> None:
    """Nobody asks to be told."""


class MailWire:
    """Sends mails over kept connections. A connection ends after `mails_per_connection` mails or `idle_seconds` without one."""

    def __init__(
        self,
        settings: Settings,
        *,
        timeouts: Timeouts | None = None,
        connections: int = 4,
        mails_per_connection: int = 100,
        idle_seconds: float = 30.0,
    ) -> None:
        self._server = server_of(settings.smtp_url) if settings.smtp_url else None
        self._hindrance = _hindrance(settings)
        self._timeouts = timeouts or Timeouts()
        self._mails_per_connection = mails_per_connection
        self._idle_seconds = idle_seconds
        self._slots = asyncio.Semaphore(connections)
        self._idle: dict[Connection, asyncio.TimerHandle] = {}
        self._goodbyes: set[asyncio.Task[None]] = set()
        self._tls: ssl.SSLContext | None = None
        self._is_closed = False

    async def send(self, mail: Mail, goes_out: Callable[[], None] = nobody) -> MailReply | NoReply:
        """The server's decisive answer, or why there is none. `goes_out` is told before the server can take the mail.

        Raises nothing but CancelledError, which aborts the transfer; it is NothingSent where that is certain.
        """
        if self._server is None or self._hindrance:
            return NoReply(Reason.MAIL_NOT_CONFIGURED, False, self._hindrance)
        connection: Connection | None = None
        try:
            async with self._slots:
                connection = self._take()
                if connection is not None:
                    result = await self._send_over(connection, mail, goes_out)
                    if not _found_dead(connection, result):
                        return result
                connection = Connection(self._server, await self._tls_context(), self._timeouts)
                return await self._send_over(connection, mail, goes_out)
        except asyncio.CancelledError:
            if connection is None or not connection.may_have_sent:
                raise NothingSent from None
            raise

    async def close(self) -> None:
        """Says goodbye on the idle connections; one still in use ends after its mail."""
        self._is_closed = True
        while (connection := self._take()) is not None:
            self._part_from(connection)
        await asyncio.gather(*self._goodbyes)

    async def _send_over(self, connection: Connection, mail: Mail, goes_out: Callable[[], None]) -> MailReply | NoReply:
        try:
            return await connection.send(mail, goes_out)
        finally:
            self._put_back(connection)

    async def _tls_context(self) -> ssl.SSLContext:
        """Verifies names and certificates; OpenSSL reads SSL_CERT_FILE for the operator's own authority."""
        if self._tls is None:
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        return self._tls

    def _take(self) -> Connection | None:
        """The connection used last, of those still open."""
        while self._idle:
            connection, timer = self._idle.popitem()
            timer.cancel()
            if connection.is_connected:
                return connection
            connection.drop()
        return None

    def _put_back(self, connection: Connection) -> None:
        if not connection.is_usable:
            connection.drop()
        elif self._is_closed or connection.mails >= self._mails_per_connection:
            self._part_from(connection)
        else:
            self._idle[connection] = asyncio.get_running_loop().call_later(self._idle_seconds, self._expire, connection)

    def _expire(self, connection: Connection) -> None:
        del self._idle[connection]
        self._part_from(connection)

    def _part_from(self, connection: Connection) -> None:
        goodbye = asyncio.get_running_loop().create_task(connection.leave())
        self._goodbyes.add(goodbye)
        goodbye.add_done_callback(self._goodbyes.discard)


def _hindrance(settings: Settings) -> str:
    if not settings.smtp_url:
        return _NOT_CONFIGURED
    try:
        sender(settings)
    except ValueError:
        return _BAD_SENDER
    return ""


def _found_dead(connection: Connection, result: MailReply | NoReply) -> bool:
    """A kept connection that the server had given up meanwhile: nothing of the mail went out, so a fresh one may try."""
    return connection.untouched and (isinstance(result, NoReply) or result.code == 421)
