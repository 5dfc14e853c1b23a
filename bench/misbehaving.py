"""Receivers that misbehave by a seeded script: web and mail, on one event loop in a thread of its own."""

import asyncio
import contextlib
import gzip
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

from bench.distant import long_tailed_ms

LOOPBACK = "127.0.0.1"
HANGS_SECONDS = 25.0  # longer than any attempt
MAX_AFAR_MS = 8000.0
SLOW_RCPT_SECONDS = 3.0
_BOMB = gzip.compress(bytes(8 << 20))

Writer = asyncio.StreamWriter
Deed = Callable[[Writer], Awaitable[None]]


def answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def drain(writer: Writer, content: bytes) -> None:
    writer.write(content)
    await writer.drain()


def _says(status: int, *headers: str, body: bytes = b"") -> Deed:
    async def say(writer: Writer) -> None:
        await drain(writer, answer(status, *headers, body=body))

    return say


async def _slow(writer: Writer) -> None:
    await asyncio.sleep(0.5)
    await drain(writer, answer(200))


async def _from_afar(writer: Writer) -> None:
    """As far as another continent, now and then as far as a receiver that is busy."""
    dice = random.Random()  # how far it is changes nothing that is counted
    wait_ms = dice.choice((50, 200, 500, min(MAX_AFAR_MS, long_tailed_ms(dice))))
    await asyncio.sleep(wait_ms / 1000)
    await drain(writer, answer(200))


async def _dribbles(writer: Writer) -> None:
    for byte in answer(200, body=b"slowly"):
        await drain(writer, bytes([byte]))
        await asyncio.sleep(0.01)


async def hangs(_: Writer) -> None:
    await asyncio.sleep(HANGS_SECONDS)
    raise ConnectionError


async def hangs_up(_: Writer) -> None:
    raise ConnectionError


async def _breaks_off(writer: Writer) -> None:
    await drain(writer, answer(200, body=b"whole")[:-3])
    raise ConnectionError


async def resets(writer: Writer) -> None:
    writer.transport.abort()
    raise ConnectionError


async def _nonsense(writer: Writer) -> None:
    await drain(writer, b"\x00\xff nonsense \r\n\r\n")
    raise ConnectionError


async def _too_much(writer: Writer) -> None:
    writer.write(answer(200)[:-2].replace(b"Content-Length: 0", b"Content-Length: 10485760") + b"\r\n")
    for _ in range(160):
        await drain(writer, bytes(65536))


async def endless_head(writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 Said\r\n")
    for number in range(20_000):
        await drain(writer, b"X-%d: %s\r\n" % (number, b"y" * 200))
    raise ConnectionError


async def _storm(writer: Writer) -> None:
    await drain(writer, b"HTTP/1.1 102 Processing\r\n\r\n" * 500 + answer(200))


async def _broken_chunks(writer: Writer) -> None:
    await drain(writer, b"HTTP/1.1 200 Said\r\nTransfer-Encoding: chunked\r\n\r\nfive\r\nabc")
    raise ConnectionError


async def _later_by_date(writer: Writer) -> None:
    await drain(writer, answer(429, f"Retry-After: {formatdate(time.time() + 2, usegmt=True)}"))


# What may happen instead of a plain 200, and how often among such.
_MISCHIEF: tuple[tuple[int, Deed], ...] = (
    (8, _slow),
    (4, _dribbles),
    (1, hangs),
    (6, hangs_up),
    (4, _breaks_off),
    (4, resets),
    (3, _nonsense),
    (1, _too_much),
    (1, endless_head),
    (3, _storm),
    (3, _broken_chunks),
    (8, _says(500)),
    (4, _says(502, body=b"<html>bad gateway</html>")),
    (4, _says(503, "Retry-After: 1")),
    (4, _says(429, "Retry-After: 1")),
    (2, _says(429, "Retry-After: soon")),
    (2, _says(429, "Retry-After: -5")),
    (2, _later_by_date),
    (2, _says(302, "Location: http://127.0.0.1:1/")),
    (2, _says(400, body=b'{"error": "no"}')),
    (1, _says(200, "Content-Encoding: gzip", body=_BOMB)),
)
_WEIGHTS = [weight for weight, _ in _MISCHIEF]
_DEEDS = [deed for _, deed in _MISCHIEF]


class Receivers:
    """Paths that begin with /well behave; /ill misbehave now and then, /hangs never answer, /far take their time, mailboxes whose
    address begins with slow too. `calm` ends all of it; but /dead never answer, whatever happens.

    `answered`: how often a delivery's answer was a 2xx, begun at least.
    """

    def __init__(self, seed: int) -> None:
        self.answered: Counter[int] = Counter()
        self.calm = False
        self._seed = seed
        self._counts: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        web = self._loop.run_until_complete(asyncio.start_server(self._serve, LOOPBACK, 0, limit=1 << 22, backlog=1000))
        mail = self._loop.run_until_complete(
            self._loop.create_server(lambda: SMTP(_Mailbox(self), enable_SMTPUTF8=True, timeout=600), LOOPBACK, 0)
        )
        self.url = f"http://{LOOPBACK}:{web.sockets[0].getsockname()[1]}"
        self.smtp_url = f"smtp://{LOOPBACK}:{mail.sockets[0].getsockname()[1]}"
        thread = threading.Thread(target=self._loop.run_forever, name="receivers", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            if left:
                self._loop.run_until_complete(asyncio.wait(left))
            self._loop.close()

    def dice(self, path: str) -> random.Random:
        """The dice of the next request on a path: the same ones for the same seed."""
        self._counts[path] += 1
        return random.Random(f"{self._seed} {path} {self._counts[path]}")

    async def _serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        # Ours, or the service was killed; or all is over, and asyncio's streams would complain of a cancelled one.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                length = next(int(line[15:]) for line in lines if line.lower().startswith("content-length:"))
                await self.act(lines[0].split()[1], lines[1:], await reader.readexactly(length), writer)
        writer.close()

    async def act(self, path: str, headers: list[str], body: bytes, writer: Writer) -> None:  # noqa: ARG002  # for subclasses
        """Answer a request, or do what is done instead."""
        deed = self.deed(path)
        if deed in TAKES:
            self.answered[int(json.loads(body)["data"]["delivery_id"] or 0)] += 1
        await deed(writer)

    def deed(self, path: str) -> Deed:
        """What is done with the next request on this path."""
        dice = self.dice(path)
        calm = self.calm and not path.startswith("/dead")
        if calm or path.startswith("/well") or (path.startswith("/ill") and dice.random() < 0.6):
            return takes
        if path.startswith("/far"):
            return _from_afar
        if path.startswith(("/hangs", "/dead")):
            return hangs
        return dice.choices(_DEEDS, _WEIGHTS)[0]

    def mail_fate(self) -> float:
        """A number from 0 to 1, low for what goes wrong."""
        return 1.0 if self.calm else self.dice("mail").random()

    def mailed(self, content: bytes, verdict: str) -> None:
        """A whole mail came, and was `taken`, `refused` or `lost`: nobody said what became of it."""
        if verdict == "taken":
            self.answered[_delivery_of(content)] += 1


takes = _says(200)
# These say 2xx, at least in the line that decides.
TAKES = {takes, _from_afar, _slow, _dribbles, _breaks_off, _broken_chunks, _too_much, _storm, _DEEDS[-1]}


class _Mailbox:
    """Takes most mails, refuses some, and drops the connection behind the last dot of a few."""

    def __init__(self, receivers: Receivers) -> None:
        self._receivers = receivers

    async def handle_RCPT(  # noqa: N802  # aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address.startswith("slow") and not self._receivers.calm:
            await asyncio.sleep(SLOW_RCPT_SECONDS)
        envelope.rcpt_tos.append(address)
        return "250 fine"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802  # aiosmtpd's name
        assert isinstance(envelope.content, bytes)
        fate = self._receivers.mail_fate()
        verdict = "refused" if fate < 0.06 else "lost" if fate < 0.08 else "taken"
        self._receivers.mailed(envelope.content, verdict)
        if verdict == "lost":
            transport: Any = server.transport
            transport.close()
        return "451 later" if fate < 0.05 else "552 too much" if fate < 0.06 else "250 taken"


def _delivery_of(content: bytes) -> int:
    """By the Message-ID, which ends with the delivery's id."""
    line = next(line for line in content.split(b"\r\n") if line.lower().startswith(b"message-id:"))
    return int(line.partition(b"<")[2].partition(b"@")[0].rpartition(b"_")[2])
