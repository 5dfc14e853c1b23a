"""One user's mails beside another's single one, and quick mailboxes beside slow ones."""

import asyncio
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

from aiosmtpd.smtp import SMTP, Envelope, Session

from bench.filling import MINE, OTHER, Planned
from bench.scenes.stage import MAX_WATCH_SECONDS, Goal, Place, send
from bench.service import Service

MAIL_SECONDS = 0.2
NOTIFICATIONS = 8  # to each of the many mailboxes
RCPT_SECONDS, SLOW_MAILBOXES, SLOW_MAILS = 5.0, 6, 8
QUICK_MAILS, QUICK_EVERY_SECONDS = 10, 0.5
MORE_SECONDS = 1.0


class MailServer:
    """Takes so many seconds for each mail, and for each recipient whose address begins with slow."""

    def __init__(self, mail_seconds: float, rcpt_seconds: float) -> None:
        self._mail_seconds = mail_seconds
        self._rcpt_seconds = rcpt_seconds
        self.arrived: dict[str, list[int]] = {}  # by address: nanoseconds since 1970

    async def handle_RCPT(  # noqa: N802  # aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address.startswith("slow"):
            await asyncio.sleep(self._rcpt_seconds)
        envelope.rcpt_tos.append(address)
        return "250 fine"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802  # aiosmtpd's name
        await asyncio.sleep(self._mail_seconds)
        for address in envelope.rcpt_tos:
            self.arrived.setdefault(address, []).append(time.time_ns())
        return "250 taken"

    @contextmanager
    def running(self) -> Generator[str, None, None]:
        """Its URL."""
        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(loop.create_server(lambda: SMTP(self, timeout=600), "127.0.0.1", 0, backlog=1000))
        thread = threading.Thread(target=loop.run_forever, name="mail server", daemon=True)
        thread.start()
        try:
            yield f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


def _mailbox(user: int, address: str) -> Planned:
    return Planned(user, "email", {"email": address})


def _environ(url: str) -> dict[str, str]:
    return {"TOCSIN_SMTP_URL": url, "TOCSIN_EMAIL_FROM": "bench@example.com", "TOCSIN_EMAIL_TRUSTED_DOMAINS": "*"}


def single_beside(place: Place, count: int) -> list[Goal]:
    """A user's single mail alone, and after another's notifications to so many mailboxes."""
    server = MailServer(MAIL_SECONDS, 0)
    planned = [_mailbox(OTHER, "single@example.com"), *(_mailbox(MINE, f"m{number}@example.com") for number in range(count))]
    with server.running() as url, place.serving(planned, _environ(url)) as running:
        alone = _seconds(running, server, "single@example.com", 1)
        for _ in range(NOTIFICATIONS):
            send(running, range(2, 2 + count))
        time.sleep(1)
        beside = _seconds(running, server, "single@example.com", 2)
    place.say(f"  alone {alone:.2f} s, beside {count} mailboxes {beside:.2f} s")
    return [Goal(f"another user's single mail beside {count} mailboxes", beside, alone + MORE_SECONDS, " s")]


def _seconds(running: Service, server: MailServer, address: str, count: int) -> float:
    _, sent_at = send(running, [1], user=OTHER)
    ends_at = time.monotonic() + MAX_WATCH_SECONDS
    while len(server.arrived.get(address, ())) < count:
        if time.monotonic() > ends_at:
            return float("inf")
        time.sleep(0.02)
    return (server.arrived[address][count - 1] - sent_at) / 1e9


def tarpit(place: Place) -> list[Goal]:
    """Mails to a quick mailbox while six others of the same user take 5 s to be named and have eight mails each."""
    server = MailServer(0, RCPT_SECONDS)
    planned = [_mailbox(MINE, "quick@example.com"), *(_mailbox(MINE, f"slow{number}@example.com") for number in range(SLOW_MAILBOXES))]
    with server.running() as url, place.serving(planned, _environ(url)) as running:
        for _ in range(SLOW_MAILS):
            send(running, range(2, 2 + SLOW_MAILBOXES))
        time.sleep(RCPT_SECONDS + 1)  # who is slow has shown it by then
        sent: list[int] = []
        for _ in range(QUICK_MAILS):
            sent.append(send(running, [1])[1])
            time.sleep(QUICK_EVERY_SECONDS)
        ends_at = time.monotonic() + MAX_WATCH_SECONDS
        while len(server.arrived.get("quick@example.com", ())) < QUICK_MAILS and time.monotonic() < ends_at:
            time.sleep(0.05)
        came = server.arrived.get("quick@example.com", [])
    place.say(
        f"  {len(came)} of {QUICK_MAILS} arrived, after {', '.join(f'{(a - b) / 1e9:.1f}' for a, b in zip(came, sent, strict=False))} s"
    )
    worst = max((a - b) / 1e9 for a, b in zip(came, sent, strict=True)) if len(came) == QUICK_MAILS else float("inf")
    # Which mailboxes are slow is not known before each was tried once, and more are tried than there are connections for.
    return [Goal("a quick mailbox's slowest mail beside a tarpit", worst, RCPT_SECONDS, " s")]
