"""The outgoing mail wire: a few kept connections to the operator's mail server."""

import asyncio
import functools
import ipaddress
import time
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from tocsin.model import Mail, MailReply, NoReply, Reason
from tocsin.net import oauth
from tocsin.net.addresses import Address, read_named_address
from tocsin.net.dial import Dialer
from tocsin.net.oauth import Tokens
from tocsin.net.smtp import Connection, Server, Timeouts, local_name
from tocsin.net.trust import mail_context
from tocsin.net.turns import Turns
from tocsin.settings import Settings

_TEST_CONNECTIONS = 2  # at most one for each user, so that a slow test does not hold up other users'
_DOUBLES_AFTER_SECONDS = 600.0
_TOO_MANY = frozenset({421, 432})  # "service not available, closing": 432 is Exchange Online's for too many connections
_ALL = 0  # deliveries already arrive in turns, so among them it is first come, first served
_NOT_CONFIGURED = "No mail server is configured, so e-mails wait until there is one."
_BAD_SENDER = "TOCSIN_EMAIL_FROM is not an address such as `tocsin <alarm@example.com>`, so no e-mail is sent"


def server_of(url: str) -> Server:
    """What TOCSIN_SMTP_URL says; user and password are percent-decoded.

    TLS is required with a password or a host that is not this machine; `?tls=optional` uses it where the server offers it, whatever its
    certificate.
    """
    parts = urlsplit(url)
    host = parts.hostname or "localhost"
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    is_lax = parts.query == "tls=optional"
    if parts.scheme == "smtps":
        return Server(host, parts.port or 465, "at_once", user, password, verifies=not is_lax)
    port = parts.port or (587 if user else 25)
    if is_lax:
        return Server(host, port, "offered", user, password, verifies=False)
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
        found.append("no mail server is configured: set TOCSIN_SMTP_URL, until then e-mail deliveries wait")
    else:
        server = server_of(settings.smtp_url)
        found += oauth.complaints(settings, has_user=bool(server.user))
        if server.user and not server.password and not settings.smtp_oauth_token_url:
            found.append("TOCSIN_SMTP_URL names a user but no password")
        if not settings.email_from:
            found.append(f"e-mails come from {default_sender().mailbox}: set TOCSIN_EMAIL_FROM to an address your mail server may send for")
    try:
        sender(settings)
    except ValueError:
        found.append(_BAD_SENDER)
    return found


def notes(settings: Settings) -> list[str]:
    """What the operator chose but may want to know, one sentence each, without secrets."""
    server = server_of(settings.smtp_url) if settings.smtp_url else None
    if server is None or server.verifies:
        return []
    what = "e-mails and the password" if server.password else "e-mails"
    unprotected = "" if server.tls == "at_once" else "travel unencrypted where the mail server offers no STARTTLS, and "
    return [f"with ?tls=optional in TOCSIN_SMTP_URL {what} {unprotected}go to any server that answers: no certificate is checked"]


class NothingSent(asyncio.CancelledError):
    """Cancelled before the mail was out: it has certainly not arrived."""


def nobody() -> None:
    """Nobody asks to be told."""


class Learned:
    """How many mails over one connection, or how many connections, the server accepts: fewer once it says so, until that is forgotten.

    Doubling checks whether the limit still holds, at the cost of one more try every ten minutes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._learned = most
        self._learned_at = 0.0

    def count(self, now: float) -> int:
        doublings = min(30, int((now - self._learned_at) / _DOUBLES_AFTER_SECONDS))
        return min(self._most, self._learned * 2**doublings)

    def learn(self, count: int, now: float) -> None:
        """The server took `count` and refused one more."""
        self._learned, self._learned_at = max(1, min(count, self.count(now))), now


class MailWire:
    """Sends mails over kept connections. A connection ends after `mails_per_connection` mails or `idle_seconds` without one.

    Eight `connections` for deliveries: at most six for one user, five for new mailboxes, four for slow ones and two for silent
    ones, so that a slow mailbox leaves room for others. Together with the two for test sends that is far below what servers allow
    one client (50 in Postfix: https://www.postfix.org/postconf.5.html#smtpd_client_connection_count_limit). Exchange Online takes
    three mails at the same time and 30 a minute: TOCSIN_SMTP_RATE=0.5 keeps within both. With `tokens` it logs in by OAuth.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        tokens: Tokens | None = None,
        timeouts: Timeouts | None = None,
        connections: int = 8,
        mails_per_connection: int = 100,
        idle_seconds: float = 30.0,
    ) -> None:
        self.connections = connections
        """Mails of deliveries on the wire at the same time; more wait in `send`."""
        self._server = server_of(settings.smtp_url) if settings.smtp_url else None
        self._tokens = tokens
        self._hindrance = _hindrance(settings)
        self._timeouts = timeouts or Timeouts()
        self._dialer = _dialer(self._server, self._timeouts.connect_seconds, settings.ca_file) if self._server else None
        self._reuse = Learned(mails_per_connection)
        self._room = Learned(connections)
        self._in_use = 0  # connections, including those for test sends
        self._idle_seconds = idle_seconds
        self._places = Turns(connections, connections)
        self._test_places = Turns(_TEST_CONNECTIONS, 1)
        self._idle: dict[Connection, asyncio.TimerHandle] = {}
        self._goodbyes: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def send(self, mail: Mail, goes_out: Callable[[], None] = nobody) -> MailReply | NoReply:
        """The server's decisive answer, or why there is none.

        `goes_out` is called before the server can accept the mail, twice if a fresh connection is tried as well. Raises nothing but
        CancelledError, which aborts the transfer; NothingSent if it is certain that no mail was accepted.
        """
        return await self._send(mail, goes_out, self._places, _ALL)

    async def test(self, mail: Mail, user_id: int) -> MailReply | NoReply:
        """The same for a test send, over connections of their own: it waits for no delivery, and for no other user's slow test."""
        return await self._send(mail, nobody, self._test_places, user_id)

    async def close(self) -> None:
        """Quits the idle connections; one still in use ends after its mail."""
        self._is_closed = True
        while (connection := self._take()) is not None:
            self._part_from(connection)
        await asyncio.gather(*self._goodbyes)
        if self._tokens is not None:
            await self._tokens.close()
        if self._dialer is not None:
            self._dialer.close()

    async def _send(self, mail: Mail, goes_out: Callable[[], None], places: Turns, key: int) -> MailReply | NoReply:
        server, dialer = self._server, self._dialer
        if server is None or dialer is None or self._hindrance:
            return NoReply(Reason.MAIL_NOT_CONFIGURED, False, self._hindrance)
        asked_idle = False
        while True:
            self._places.resize(self._room.count(time.monotonic()))
            try:
                await places.take(key)
            except asyncio.CancelledError:
                raise NothingSent from None
            self._in_use += 1
            try:
                connection, result = await self._send_now(server, dialer, mail, goes_out)
                others = self._in_use - 1
                # The server may have counted it in addition to one that is idle by now: that one gets the mail, but is tried only once.
                may_wait = others or (self._idle and not asked_idle)
                if not may_wait or not _is_one_too_many(connection, result):
                    return result
                asked_idle = not others
                self._room.learn(max(1, others), time.monotonic())
                self._places.resize(self._room.count(time.monotonic()))  # before the place is given to the next
            finally:
                self._in_use -= 1
                places.give(key)
            places = self._places  # test sends, too, now wait until a delivery has been sent

    async def _send_now(
        self, server: Server, dialer: Dialer, mail: Mail, goes_out: Callable[[], None]
    ) -> tuple[Connection, MailReply | NoReply]:
        """Over a kept connection if there is one, and over a fresh one if that may help."""
        kept = self._take()
        refusal: MailReply | NoReply | None = None
        if kept is not None:
            refusal = await self._send_over(kept, mail, goes_out)
            if not _was_kept_too_long(kept, refusal):
                return kept, refusal
        connection = Connection(server, dialer, self._timeouts, self._tokens)
        result = await self._send_over(connection, mail, goes_out)
        if kept is not None and isinstance(refusal, MailReply) and not _is_temporary(result):
            self._reuse.learn(kept.mails - 1, time.monotonic())
        return connection, result

    async def _send_over(self, connection: Connection, mail: Mail, goes_out: Callable[[], None]) -> MailReply | NoReply:
        try:
            result = await connection.send(mail, goes_out)
        except asyncio.CancelledError:
            may_have_sent = connection.may_have_sent
            connection.drop()
            if not may_have_sent:
                raise NothingSent from None
            raise
        except BaseException:
            connection.drop()
            raise
        self._put_back(connection, result)
        return result

    def _take(self) -> Connection | None:
        """The most recently used of the open connections."""
        while self._idle:
            connection, timer = self._idle.popitem()
            timer.cancel()
            if connection.is_connected:
                return connection
            connection.drop()
        return None

    def _put_back(self, connection: Connection, result: MailReply | NoReply) -> None:
        if not connection.is_usable:
            connection.drop()
        elif (
            self._is_closed
            or connection.mails >= self._reuse.count(time.monotonic())
            or _was_kept_too_long(connection, result)
            or _is_one_too_many(connection, result)  # the server may take its time to close it, or leave it open
        ):
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


def _dialer(server: Server, seconds: float, ca_file: str | None) -> Dialer:
    tls = functools.partial(mail_context, ca_file, server.verifies) if server.tls != "off" else None
    return Dialer(server.host, server.port, seconds, tls=tls)


def _hindrance(settings: Settings) -> str:
    if not settings.smtp_url:
        return _NOT_CONFIGURED
    try:
        sender(settings)
    except ValueError:
        return _BAD_SENDER
    return ""


def _is_temporary(result: MailReply | NoReply) -> bool:
    return isinstance(result, NoReply) or 400 <= result.code < 500


def _is_one_too_many(connection: Connection, result: MailReply | NoReply) -> bool:
    """Whether the server refused a fresh connection, perhaps because it accepts no more than are open already."""
    return connection.mails == 1 and connection.untouched and isinstance(result, MailReply) and result.code in _TOO_MANY


def _was_kept_too_long(connection: Connection, result: MailReply | NoReply) -> bool:
    """Whether a fresh connection may help: the mail was certainly not accepted, and the refusal may be about this connection.

    Servers end or refuse a session for its age, its number of mails or recipients, or their load. What they say about the address (4.1.x)
    or the mailbox (4.2.x) would be the same over any other.
    """
    if connection.mails == 1:
        return False
    if isinstance(result, NoReply):
        return not result.sent and (connection.untouched or result.reason is Reason.CUT)
    return result.code == 421 or (400 <= result.code < 500 and result.enhanced[:4] not in {"4.1.", "4.2."})
