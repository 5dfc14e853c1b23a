"""One connection to the mail server: opening it, and mails over it, one after the other."""

import asyncio
import base64
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import cast
from urllib.parse import quote

import aiosmtplib
from msgspec import Struct

from tocsin.model import MASK, Mail, MailReply, NoReply, Reason
from tocsin.net.dial import Dialer, Unresolved, is_lack
from tocsin.net.oauth import NoToken, Tokens
from tocsin.net.trust import HINT

_SHORTEST_SCRUBBED = 6  # a shorter password would blank out ordinary words of an answer
_MAX_TEXT = 500
_QUIT_SECONDS = 5.0
_BLOCK = 65_536  # under TLS the loop accepts a single write of any size and calls it done
_LOGIN_METHODS = ("plain", "login", "cram-md5")
# RFC 2034 puts the code first; qmail writes "(#5.1.1)" at the end (https://cr.yp.to/proto/hcmssc.html).
_ENHANCED = re.compile(r"^([245]\.\d{1,3}\.\d{1,3})(?!\S)|\(#([245]\.\d{1,3}\.\d{1,3})\)")

_SENDABLE = re.compile(r"[^\s<>\x00-\x20\x7f\ud800-\udfff]+@[^\s<>@\x00-\x20\x7f\ud800-\udfff]+")


class Server(Struct, frozen=True):
    """The operator's mail server. `tls`: at_once, required (by STARTTLS), offered (used where the server has it) or off. `verifies`: its
    certificate must be good for its name."""

    host: str
    port: int
    tls: str
    user: str = ""
    password: str = ""
    verifies: bool = True

    def __repr__(self) -> str:
        return f"Server({self.host}:{self.port}, tls={self.tls})"

    def scrub(self, text: str) -> str:
        """`text` without the password, in whichever form the login sends it: some servers repeat what they refuse."""
        plain = base64.b64encode(f"\0{self.user}\0{self.password}".encode()).decode()
        forms = [plain, base64.b64encode(self.password.encode()).decode(), quote(self.password, safe=""), self.password]
        for form in forms:
            if len(form) >= _SHORTEST_SCRUBBED:
                text = text.replace(form, MASK)
        return text


class Timeouts(Struct, frozen=True):
    """`connect_seconds` is for each address of the host, `command_seconds` for each command, `final_seconds` for the answer to
    the final dot (ten minutes: https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.2.6)."""

    connect_seconds: float = 5.0
    command_seconds: float = 60.0
    final_seconds: float = 600.0


class _Ended(Exception):
    """The exchange is over, with this result."""

    def __init__(self, result: MailReply | NoReply) -> None:
        super().__init__()
        self.result = result


class Connection:
    """Opened by its first mail. After each mail `is_usable` says whether another may follow."""

    def __init__(self, server: Server, dialer: Dialer, timeouts: Timeouts, tokens: Tokens | None = None) -> None:
        self.mails = 0
        """How many mails it was used for, including the latest."""
        self.is_usable = False
        self.untouched = True
        """Nothing of the latest mail went out: no recipient was named, no content sent."""
        self._server = server
        self._tokens = tokens
        self._dialer = dialer
        self._timeouts = timeouts
        self._client: aiosmtplib.SMTP | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._stage = "connect"
        self._dot_sent = False
        self._needs_reset = False

    async def send(self, mail: Mail, goes_out: Callable[[], None]) -> MailReply | NoReply:
        """The decisive answer, or why there is none. Raises nothing but CancelledError; the connection is then not usable.

        `goes_out` is told before the server can take the mail.
        """
        self.is_usable, self.untouched, self._dot_sent = False, True, False
        self.mails += 1
        try:
            if self._client is None:
                await self._open_or_forget()
            result: MailReply | NoReply = await self._transfer(mail, goes_out)
        except _Ended as ended:
            result = ended.result
        except aiosmtplib.SMTPResponseException as error:
            result = self._answer(error.code, error.message)
        except (aiosmtplib.SMTPException, OSError, ValueError, RuntimeError, MemoryError) as error:
            result = self._no_answer(error)
        self._dot_sent = self._dot_sent and isinstance(result, NoReply)  # an answer leaves no doubt
        self.is_usable = isinstance(result, MailReply) and result.code != 421 and self._writer is not None and self.is_connected
        return result

    async def leave(self) -> None:
        """Sends QUIT; the connection is closed even if the server does not answer."""
        client = self._client
        try:
            if self.is_usable and client is not None:
                await client.quit(timeout=min(_QUIT_SECONDS, self._timeouts.command_seconds))
        except (aiosmtplib.SMTPException, OSError):
            pass  # the mails are done; how QUIT went does not matter
        finally:
            self.drop()

    def drop(self) -> None:
        """Closes the connection at once, without waiting for data that is not sent yet."""
        self.is_usable = False
        client, writer = self._client, self._writer
        self._client = self._writer = None
        if client is not None:
            client.close()
        if writer is not None:
            writer.transport.abort()

    @property
    def may_have_sent(self) -> bool:
        """The whole mail is out and no answer has come, so the server may have taken it."""
        return self._dot_sent

    @property
    def is_connected(self) -> bool:
        return self._client is not None and self._client.is_connected

    # ------------------------------------------------------------------------------------------------------- opening

    async def _open_or_forget(self) -> None:
        try:
            await self._open()
        except Exception:
            self._dialer.forget()  # whoever answers there may no longer be the mail server
            raise

    async def _open(self) -> None:
        server = self._server
        self._stage = "connect"
        tls = await self._dialer.tls()
        link = await self._dialer.connect()
        self._client = client = aiosmtplib.SMTP(
            hostname=server.host,
            sock=link,
            use_tls=server.tls == "at_once",
            start_tls=False,
            timeout=self._timeouts.command_seconds,
            tls_context=tls,
            local_hostname=_hello_name(link),
        )
        try:
            await client.connect()
        except BaseException:
            link.close()
            raise
        await self._hello(client)
        if server.tls in {"required", "offered"}:
            await self._start_tls(client)
        if server.user:
            await self._login(client)
        if client.protocol is None or client.transport is None:
            raise aiosmtplib.SMTPServerDisconnected("Connection lost")
        transport = cast(asyncio.WriteTransport, client.transport)
        transport.set_write_buffer_limits(high=1, low=0)  # so drain() waits until nothing is left; at 0 asyncio's TLS pauses for ever
        self._writer = asyncio.StreamWriter(transport, client.protocol, None, asyncio.get_running_loop())

    async def _hello(self, client: aiosmtplib.SMTP) -> None:
        self._stage = "hello"
        try:
            await client.ehlo()
        except aiosmtplib.SMTPHeloError as error:
            if error.code not in {500, 502} or self._server.tls == "required" or self._server.user:
                raise
            await client.helo()

    async def _start_tls(self, client: aiosmtplib.SMTP) -> None:
        self._stage = "starttls"
        if client.supports_extension("starttls"):
            try:
                await client.starttls()
            except aiosmtplib.SMTPResponseException as error:  # it said so in words, and the connection is as it was
                if self._server.tls == "required" or error.code == 421 or not 400 <= error.code < 600:
                    raise
            else:
                await self._hello(client)
        elif self._server.tls == "required":
            raise self._unable(Reason.TLS, "The mail server offers no STARTTLS; ?tls=optional in TOCSIN_SMTP_URL would send without.")

    async def _login(self, client: aiosmtplib.SMTP) -> None:
        self._stage = "auth"
        if self._tokens is not None:
            await self._login_by_token(client, self._tokens)
            return
        user, password = self._server.user, self._server.password
        methods = [method for method in _LOGIN_METHODS if method in client.server_auth_methods]
        if not methods:
            raise self._unable(Reason.MAIL_ACCOUNT, "The mail server offers no login by PLAIN, LOGIN or CRAM-MD5.")
        for method in methods:
            try:
                await _ways_in(client)[method](user, password)
            except aiosmtplib.SMTPAuthenticationError as error:
                # Some servers offer methods that they do not know; a wrong password is not tried a second time.
                if error.code not in {500, 501, 502, 503, 504} or method == methods[-1]:
                    raise
            else:
                return

    async def _login_by_token(self, client: aiosmtplib.SMTP, tokens: Tokens) -> None:
        """A token that the server rejects may have been revoked: a new one is tried, once."""
        if "xoauth2" not in client.server_auth_methods:
            raise self._unable(Reason.MAIL_ACCOUNT, "The mail server offers no login by XOAUTH2.")
        token = await self._token(tokens)
        try:
            await client.auth_xoauth2(self._server.user, token)
        except aiosmtplib.SMTPAuthenticationError as error:
            tokens.forget(token)
            fresh = await self._token(tokens)
            if fresh == token or not client.is_connected or error.code == 421:
                raise
            await client.auth_xoauth2(self._server.user, fresh)

    async def _token(self, tokens: Tokens) -> str:
        try:
            return await tokens.token()
        except NoToken as failure:
            raise self._unable(failure.reason, failure.detail) from None

    # ------------------------------------------------------------------------------------------------------ one mail

    async def _transfer(self, mail: Mail, goes_out: Callable[[], None]) -> MailReply:
        client, writer = self._client, self._writer
        if client is None or client.protocol is None or writer is None:
            raise aiosmtplib.SMTPServerDisconnected("Connection lost")
        _refuse_unsendable(mail)
        self._stage = "mail"
        await self._reset()
        content = _wire_form(mail.content)
        options = self._options(client, mail, content)
        self._needs_reset = True
        await self._ask(b"MAIL", b"FROM:<" + mail.sender.encode() + b">", *options)
        self._stage, self.untouched = "rcpt", False
        await self._ask(b"RCPT", b"TO:<" + mail.recipient.encode() + b">")
        self._stage = "data"
        await self._ask(b"DATA", wanted=3)
        await self._write(writer, _dotted(content))
        goes_out()
        client.protocol.write(b".\r\n")
        self._stage, self._dot_sent = "final", True
        response = await client.protocol.read_response(timeout=self._timeouts.final_seconds)
        self._needs_reset = not 200 <= response.code < 300
        return self._reply(response.code, response.message)

    async def _reset(self) -> None:
        """Clears the state of an earlier mail; if the server refuses even this, the connection is closed."""
        if not self._needs_reset:
            return
        try:
            await self._ask(b"RSET")
        except aiosmtplib.SMTPResponseException as error:
            raise aiosmtplib.SMTPServerDisconnected("The server refused RSET") from error

    def _options(self, client: aiosmtplib.SMTP, mail: Mail, content: bytes) -> list[bytes]:
        """The parameters of MAIL. Ends the exchange if the server has already said that it will not accept this mail."""
        options: list[bytes] = []
        if client.supports_extension("size"):
            limit = client.esmtp_extensions["size"].strip()
            if limit.isdecimal() and 0 < int(limit) < len(content):  # 0: no limit is known (RFC 1870)
                said = f"5.3.4 the mail server takes mails of {int(limit):,} bytes at most, this one has {len(content):,}"
                raise _Ended(MailReply(552, said, "mail", "5.3.4"))
            options.append(b"SIZE=%d" % len(content))
        if not content.isascii() and client.supports_extension("8bitmime"):
            options.append(b"BODY=8BITMIME")
        if not (mail.sender + mail.recipient).isascii():
            if not client.supports_extension("smtputf8"):
                said = "5.6.7 the mail server takes no addresses outside ASCII (SMTPUTF8)"
                raise _Ended(MailReply(553, said, "rcpt", "5.6.7"))
            options.append(b"SMTPUTF8")
        return options

    async def _ask(self, *words: bytes, wanted: int = 2) -> None:
        if self._client is None:
            raise aiosmtplib.SMTPServerDisconnected("Connection lost")
        response = await self._client.execute_command(*words)
        if response.code // 100 != wanted:
            raise aiosmtplib.SMTPResponseException(response.code, response.message)

    async def _write(self, writer: asyncio.StreamWriter, content: bytes) -> None:
        """Returns once all content is handed to the kernel, so that a connection that breaks before the dot is recognized as such."""
        for start in range(0, len(content), _BLOCK):
            async with asyncio.timeout(self._timeouts.command_seconds):
                writer.write(content[start : start + _BLOCK])
                await writer.drain()

    # ------------------------------------------------------------------------------------------------------- results

    def _answer(self, code: int, message: str) -> MailReply | NoReply:
        if code < 0:  # how aiosmtplib marks an answer that is not SMTP
            return NoReply(Reason.BAD_ANSWER, self._dot_sent, self._text(f"{self._stage}: {message}"))
        return self._reply(code, message)

    def _reply(self, code: int, message: str) -> MailReply:
        text = self._text(message)
        found = _ENHANCED.search(text)
        return MailReply(code, text, self._stage, (found[1] or found[2]) if found else "")

    def _text(self, message: str) -> str:
        readable = message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        scrubbed = self._server.scrub(readable)
        if self._tokens is not None:
            scrubbed = self._tokens.scrub(scrubbed, self._server.user)
        return " ".join(scrubbed.split())[:_MAX_TEXT]

    def _unable(self, reason: Reason, why: str) -> _Ended:
        return _Ended(NoReply(reason, False, why))

    def _no_answer(self, error: Exception) -> NoReply:
        reason, why = _reason_of(error, self._stage)
        where = f"{self._server.host}:{self._server.port}"
        is_ours = not self._dot_sent and (is_lack(error) or is_lack(error.__cause__))
        return NoReply(reason, self._dot_sent, self._text(f"Mail server {where}, {self._stage}: {why}"), ours=is_ours)


def _ways_in(client: aiosmtplib.SMTP) -> Mapping[str, Callable[[str, str], Awaitable[object]]]:
    return {"plain": client.auth_plain, "login": client.auth_login, "cram-md5": client.auth_crammd5}


def _reason_of(error: BaseException, stage: str) -> tuple[Reason, str]:
    """Why there is no answer, and the same in words. aiosmtplib keeps the real error as the cause."""
    cause = error.__cause__ if isinstance(error, aiosmtplib.SMTPException) and isinstance(error.__cause__, OSError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Reason.TLS, f"{cause.verify_message}; {HINT}"
    if isinstance(cause, ssl.SSLError):
        return Reason.TLS, cause.reason or "the TLS connection failed"
    if isinstance(error, Unresolved):
        return Reason.DNS, str(error)
    if isinstance(error, TimeoutError) or isinstance(cause, TimeoutError):
        return Reason.TIMEOUT, "no answer in time"
    if stage == "connect":
        return Reason.CONNECT, getattr(cause, "strerror", None) or str(cause)
    return Reason.CUT, "the connection was lost"


def _refuse_unsendable(mail: Mail) -> None:
    """Addresses were checked when they were given; one that could smuggle a command in is stopped here all the same."""
    for address, stage, enhanced in ((mail.sender, "mail", "5.1.7"), (mail.recipient, "rcpt", "5.1.3")):
        if not _SENDABLE.fullmatch(address):
            raise _Ended(MailReply(553, f"{enhanced} this address cannot be sent over SMTP", stage, enhanced))


def _wire_form(content: bytes) -> bytes:
    """Every line end as CRLF, the last line too: a bare LF or CR would let a text end the mail early."""
    content = re.sub(rb"\r\n|\r|\n", b"\r\n", content)
    return content if content.endswith(b"\r\n") else content + b"\r\n"


def _dotted(content: bytes) -> bytes:
    return re.sub(rb"(?m)^\.", b"..", content)


def _hello_name(link: socket.socket) -> str:
    """This machine's full name, else its address as RFC 5321 4.1.3 writes it. DNS is not queried."""
    name = local_name()
    if name:
        return name
    address = str(link.getsockname()[0]).partition("%")[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def local_name() -> str:
    """This machine's full host name, empty if it has none."""
    name = socket.gethostname().rstrip(".").lower()
    return name if re.fullmatch(r"(?=.{4,253}$)[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+", name) else ""
