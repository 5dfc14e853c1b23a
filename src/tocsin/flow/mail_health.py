"""Whether the operator's mail server takes mails at all: users cannot change that, so the operator is told."""

import asyncio
import contextlib
import time

import msgspec
import structlog
from msgspec import Struct

from tocsin import clock, observe
from tocsin.clock import SECOND, Micros
from tocsin.model import Busy, Reason
from tocsin.ports.values import Values

FAILS_AFTER: Micros = 300 * SECOND  # without a mail that was taken; a restart of the server takes less
LOOK_SECONDS = 30.0
STATE = "mail"  # its row of `meta`, for `tocsin check`
_ABOUT_THE_SERVER = {Reason.MAIL_SERVER, Reason.MAIL_ACCOUNT}
log = structlog.get_logger(__name__)


class MailState(Struct, frozen=True):
    """`since`: when the first mail failed by the server's or our account's fault; 0: one has been taken since, or none was tried."""

    since: Micros = 0
    is_account: bool = False

    def complaints(self, now: Micros) -> list[str]:
        """A sentence, or none; nothing in it is the server's own word, which may name people."""
        if not self.since or now - self.since < FAILS_AFTER:
            return []
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.since // SECOND))
        if self.is_account:
            why = (
                "it refuses this service; check user and password in TOCSIN_SMTP_URL, or TOCSIN_SMTP_OAUTH_…, TOCSIN_EMAIL_FROM, "
                "that domain's SPF, DKIM and DMARC records, and how much the account may send"
            )
        else:
            why = "it cannot be reached, or it fails; check it, and TOCSIN_SMTP_URL"
        return [f"The mail server has taken no e-mail since {since} UTC: {why}."]


def read_state(kept: bytes | None) -> MailState:
    """What the store keeps of it. Where that means nothing it is as if nothing were known."""
    with contextlib.suppress(msgspec.MsgspecError):
        return msgspec.json.decode(kept or b"{}", type=MailState)
    return MailState()


class MailHealth:
    """What all mails show of the server, those of tests too. What it says of a recipient or of a mail shows that it works."""

    def __init__(self) -> None:
        self.state = MailState()
        self._worked_at: Micros = 0

    def heard(self, reason: Reason, status_code: int | None, at: Micros) -> None:
        """An attempt that began `at` has ended."""
        if reason in _ABOUT_THE_SERVER:
            if at >= self._worked_at:  # else one that was under way for long
                self.state = MailState(self.state.since or at, reason is Reason.MAIL_ACCOUNT)
        elif status_code is not None:
            self.state = MailState()
            self._worked_at = max(at, self._worked_at)

    def complaints(self) -> list[str]:
        """Sentences to the operator; empty while nothing is wrong."""
        return self.state.complaints(clock.now())

    async def keep_now_and_then(self, values: Values) -> None:
        """Until cancelled: say it in the log when it begins, and keep it for `tocsin check`."""
        kept: MailState | None = None
        while True:
            with contextlib.suppress(Busy):
                now = self.state if self.complaints() else MailState()
                if kept != now:
                    await values.write(STATE, msgspec.json.encode(now))
                    kept = now
                    for complaint in self.complaints():
                        observe.seldom(log.error, "mail", complaint=complaint)
            await asyncio.sleep(LOOK_SECONDS)
