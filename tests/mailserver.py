"""A real SMTP server on loopback (aiosmtpd) that refuses, hangs or hangs up where a test wants, and remembers what it took.

It runs in a thread of its own:

    with MailServer(starttls=True, user="me", password="secret") as server:
        server.answer("rcpt", "450 4.2.0 later")        # the first RCPT; all that follow are answered as a good server does
        ...                                             # send mails to server.url()
        assert server.wait(1)[0].recipients == ["root@nas"]

Stages: connect, hello, starttls, auth, mail, rcpt, data (in place of the 354), body (after the 354), final, rset.
Answers: a reply line (or several, joined by a line feed), `DROP` (closes the connection) or `HANG` (never answers).
"""

import asyncio
import hmac
import ssl
import threading
from base64 import b64decode, b64encode
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

DROP = "drop"
HANG = "hang"
METHODS = ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2")
STAGES = ("connect", "hello", "starttls", "auth", "mail", "rcpt", "data", "body", "final", "rset")


@dataclass(frozen=True)
class Received:
    """One mail that was taken. `connection` counts from 1; `user`: who had logged in."""

    sender: str
    recipients: list[str]
    content: bytes
    mail_options: list[str]
    connection: int
    has_tls: bool
    user: str | None


class MailServer:
    """The server. `mails`: all taken so far; `commands`: (connection, verb) of every command; `connections`: how many were opened."""

    def __init__(
        self,
        *,
        tls: bool = False,
        starttls: bool = False,
        user: str = "",
        password: str = "",
        methods: tuple[str, ...] = ("PLAIN", "LOGIN"),
        tokens: set[str] | None = None,
        size: int = 32 << 20,
        smtputf8: bool = False,
        names: tuple[str, ...] = ("127.0.0.1", "localhost"),
        host: str = "127.0.0.1",
        session: tuple[int, str, str] | None = None,
        most_connections: tuple[int, str, str] | None = None,
        refuses_slowly: bool = False,
    ) -> None:
        self.host = host
        self.session = session
        """How many mails it takes over one connection, and the stage and answer of any more."""
        self.most_connections = most_connections
        """How many connections it takes at the same time, and the stage and answer of any more."""
        self.refuses_slowly = refuses_slowly
        """A connection too many is told so only after a mail was taken over another one, and it is not closed."""
        self.refused = 0
        """Mails that were more than a session may have."""
        self.port = 0
        self.mails: list[Received] = []
        self.commands: list[tuple[int, str]] = []
        self.greetings: list[str] = []
        """What clients called themselves in EHLO or HELO."""
        self.connections = 0
        self.open_connections = 0
        self.authority = trustme.CA() if tls or starttls else None
        """Signs the certificate; `authority.cert_pem.write_to_path(...)` gives clients something to trust."""
        self.tls, self.starttls = tls, starttls
        self.user, self.password, self.methods = user, password, methods
        self.tokens = tokens or set()
        """Access tokens that XOAUTH2 lets in."""
        self.size, self.smtputf8 = size, smtputf8
        self._names = names
        self._script: dict[str, list[str]] = defaultdict(list)
        self._changed = threading.Condition()
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._open: set[_Session] = set()
        self._thread = threading.Thread(target=self._run, name="mail server", daemon=True)

    # ------------------------------------------------------------------------------------------------------ for the test

    def url(self, query: str = "", host: str | None = None) -> str:
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@" if self.user else ""
        return f"{'smtps' if self.tls else 'smtp'}://{login}{host or self.host}:{self.port}{query}"

    def answer(self, stage: str, *answers: str) -> None:
        """Queue answers for a stage; each is used once."""
        assert stage in STAGES, f"stage must be one of {', '.join(STAGES)}"
        with self._changed:
            self._script[stage].extend(answers)

    def forget(self) -> None:
        """Answer as a good server from now on."""
        with self._changed:
            self._script.clear()

    def verbs(self, connection: int | None = None) -> list[str]:
        with self._changed:
            return [verb for number, verb in self.commands if connection in (None, number)]

    def wait(self, count: int, timeout: float = 10.0) -> list[Received]:
        """The mails, once there are at least `count`."""
        self._wait(lambda: len(self.mails) >= count, timeout, f"fewer than {count} mails came")
        return list(self.mails)

    async def wait_verb(self, verb: str, timeout: float = 10.0) -> None:
        """Until the command has come."""
        await asyncio.to_thread(self._wait, lambda: any(each == verb for _, each in self.commands), timeout, f"{verb} did not come")

    async def wait_closed(self, timeout: float = 10.0) -> None:
        """Until no connection is open any more."""
        await asyncio.to_thread(self._wait, lambda: self.open_connections == 0, timeout, "a connection stayed open")

    def close_connections(self) -> None:
        """Close every open connection from this side; returns once that is done."""
        assert self._loop
        asyncio.run_coroutine_threadsafe(self._end_connections(), self._loop).result(10)

    def start(self) -> Self:
        self._thread.start()
        self._started.wait(10)
        if self._failure:
            raise self._failure
        return self

    def stop(self) -> None:
        if self._loop and self._stop and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the mail server did not stop"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait(self, condition: Any, timeout: float, complaint: str) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, timeout), f"{complaint} within {timeout} s"

    # -------------------------------------------------------------------------------------------------------- the server

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
            self._started.set()
            raise

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        context = None
        if self.authority:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.authority.issue_cert(*self._names).configure_cert(context)
        server = await self._loop.create_server(
            lambda: _Session(self, context if self.starttls else None), self.host, self.port, ssl=context if self.tls else None
        )
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        await self._end_connections()

    async def _end_connections(self) -> None:
        sessions = list(self._open)
        for session in sessions:
            session.drop()
        await asyncio.gather(*(session.gone.wait() for session in sessions))

    def took(self, session: "_Session", envelope: Envelope) -> None:
        assert session.session
        received = Received(
            envelope.mail_from or "",
            [str(recipient) for recipient in envelope.rcpt_tos],
            bytes(envelope.original_content or b""),
            list(envelope.mail_options),
            session.number,
            session.session.ssl is not None or self.tls,
            (session.session.auth_data.login or b"").decode() if session.session.auth_data else None,
        )
        session.mails += 1
        with self._changed:
            self.mails.append(received)
            self._changed.notify_all()

    def note(self, session: "_Session", verb: str) -> None:
        with self._changed:
            self.commands.append((session.number, verb))
            self._changed.notify_all()

    def count(self, session: "_Session", change: int) -> None:
        with self._changed:
            if change > 0:
                self.connections += 1
                session.number = self.connections
                self._open.add(session)
            else:
                self._open.discard(session)
            self.open_connections += change
            self._changed.notify_all()

    def scripted(self, stage: str, session: "_Session | None" = None) -> str | None:
        with self._changed:
            if self.session and session and stage == self.session[1] and session.mails >= self.session[0]:
                self.refused += 1
                return self.session[2]
            return self._script[stage].pop(0) if self._script[stage] else None


class _Handler:
    """aiosmtpd calls this when a mail is complete."""

    async def handle_DATA(self, server: "_Session", session: Session, envelope: Envelope) -> str:
        answer = server.owner.scripted("final", server)
        if answer in (DROP, HANG):
            server.owner.took(server, envelope)
            await server.misbehave(answer)
        if answer is None or answer.startswith("2"):
            server.owner.took(server, envelope)
        return (answer or "250 2.0.0 Ok: queued as 4F2A1").replace("\n", "\r\n")


class _Session(SMTP):
    """aiosmtpd's own protocol, asking the script before each stage."""

    def __init__(self, owner: MailServer, tls: ssl.SSLContext | None) -> None:
        self.owner = owner
        self.number = 0
        self.mails = 0
        self.place = 0
        """How many connections were open when it was opened, itself included."""
        self.gone = asyncio.Event()
        super().__init__(
            _Handler(),
            hostname="mail.test",
            ident="loopback",
            data_size_limit=owner.size,
            enable_SMTPUTF8=owner.smtputf8,
            tls_context=tls,
            authenticator=self._check,
            auth_require_tls=False,
            auth_exclude_mechanism=[name for name in METHODS if name not in owner.methods or not owner.user],
            loop=asyncio.get_running_loop(),
        )

    def _check(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword) -> AuthResult:
        right = data.login == self.owner.user.encode() and data.password == self.owner.password.encode()
        return AuthResult(success=right, handled=False, auth_data=data)

    async def auth_XOAUTH2(self, _: SMTP, args: list[str]) -> AuthResult:
        """https://developers.google.com/workspace/gmail/imap/xoauth2-protocol: a refusal says why first, and waits for an empty line."""
        fields = dict(part.split("=", 1) for part in b64decode(args[1]).decode().split("\1") if part)
        token = fields["auth"].removeprefix("Bearer ")
        if fields["user"] == self.owner.user and token in self.owner.tokens:
            return AuthResult(success=True, auth_data=LoginPassword(fields["user"].encode(), b""))
        await self.push(b"334 " + b64encode(b'{"status":"401","schemes":"bearer"}'))
        assert await self._reader.readline() == b"\r\n"
        await self.push(f"535 5.7.8 not accepted: {token} {args[1]}")
        return AuthResult(success=False, handled=True)

    async def auth_CRAM__MD5(self, _: SMTP, args: list[str]) -> AuthResult:
        challenge = f"<{self.number}.1@mail.test>"
        answer = await self.challenge_auth(challenge)
        digest = hmac.new(self.owner.password.encode(), challenge.encode(), "md5").hexdigest()
        right = answer == f"{self.owner.user} {digest}".encode()
        return AuthResult(success=right, handled=False, auth_data=LoginPassword(self.owner.user.encode(), b""))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not self.number:
            self.owner.count(self, 1)
            self.place = self.owner.open_connections
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if not self.gone.is_set():
            self.gone.set()
            self.owner.count(self, -1)

    def drop(self) -> None:
        if self.transport:
            self.transport.abort()

    async def misbehave(self, answer: str) -> None:
        """Ends only with the connection."""
        if answer == DROP:
            self.drop()
        await asyncio.Event().wait()

    def is_one_too_many(self, stage: str) -> str | None:
        """The answer, where it is."""
        most = self.owner.most_connections
        return most[2] if most and most[1] == stage and self.place > most[0] else None

    async def _handle_client(self) -> None:
        answer = self.is_one_too_many("connect") or self.owner.scripted("connect")
        if answer in (DROP, HANG):
            await self.misbehave(answer)
        if answer:
            await self.push(answer)
            self._writer.close()
            return
        await super()._handle_client()

    async def _staged(self, stage: str, verb: str, arg: str) -> bool:
        """Whether the script answered this command."""
        self.owner.note(self, verb)
        answer = self.is_one_too_many(stage) or self.owner.scripted(stage, self)
        if answer is None:
            return False
        if answer in (DROP, HANG):
            await self.misbehave(answer)
        while self.owner.refuses_slowly and not self.owner.mails:
            await asyncio.sleep(0.005)
        await self.push(answer.replace("\n", "\r\n"))
        if answer.startswith(("421", "432")) and not self.owner.refuses_slowly:
            self._writer.close()
        return True

    async def smtp_EHLO(self, hostname: str) -> None:
        self.owner.greetings.append(hostname)
        if not await self._staged("hello", "EHLO", hostname):
            await super().smtp_EHLO(hostname)

    async def smtp_HELO(self, hostname: str) -> None:
        self.owner.greetings.append(hostname)
        if not await self._staged("hello", "HELO", hostname):
            await super().smtp_HELO(hostname)

    async def smtp_STARTTLS(self, arg: str) -> None:
        if not await self._staged("starttls", "STARTTLS", arg):
            await super().smtp_STARTTLS(arg)

    async def smtp_AUTH(self, arg: str) -> None:
        if not await self._staged("auth", "AUTH " + arg.split(" ")[0], arg):
            await super().smtp_AUTH(arg)

    async def smtp_MAIL(self, arg: str | None) -> None:
        assert self.session
        if await self._staged("mail", "MAIL", arg or ""):
            return
        if self.owner.user and not self.session.authenticated:
            await self.push("530 5.7.0 log in first")
        else:
            await super().smtp_MAIL(arg)

    async def smtp_RCPT(self, arg: str | None) -> None:
        if not await self._staged("rcpt", "RCPT", arg or ""):
            await super().smtp_RCPT(arg)

    async def smtp_DATA(self, arg: str) -> None:
        if await self._staged("data", "DATA", arg):
            return
        answer = self.owner.scripted("body")
        if answer:
            await self.push("354 go ahead")
            await self.misbehave(answer)
        await super().smtp_DATA(arg)

    async def smtp_RSET(self, arg: str) -> None:
        if not await self._staged("rset", "RSET", arg):
            await super().smtp_RSET(arg)

    async def smtp_QUIT(self, arg: str) -> None:
        self.owner.note(self, "QUIT")
        await super().smtp_QUIT(arg)
