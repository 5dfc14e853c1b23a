"""What users who are no administrators may use, and how much of it they have.

It is counted in memory and kept every few seconds, so accepting a notification costs no write more. What was counted in the last seconds
before a crash is forgotten. Days are those of UTC. Where several processes share the store, each sees within seconds what the others have
counted in a day; of a minute each counts only its own.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Sequence

import structlog
from msgspec import Struct

from tocsin import clock, observe
from tocsin.clock import DAY, SECOND, Micros
from tocsin.model import Busy, Draft, Fault, Invalid, OverQuota
from tocsin.net.addresses import mailbox_of
from tocsin.ports.usage import ROW_BYTES, UsageRows, Used, What
from tocsin.settings import Settings
from tocsin.vault import Vault

KEEP_SECONDS = 3.0
MINUTE_SECONDS = 60.0
MEASURE_AGAIN_SECONDS = 60.0  # what is stored, where it seemed to be too much
MEASURED_FOR_SECONDS = 600.0
MAX_REMEMBERED = 20_000  # users
MB = 1_000_000
_MINUTE = "You may send {most} notifications a minute. Wait {seconds} s."
_DAY = "You may send {most} notifications a day (UTC), and {used} were sent today."
_STORED = "You may store {most} MB, and {used} MB are stored. What is older than the retention goes by itself."
_HANDLERS = "You may have {most} handlers. Delete one first, or ask the operator to raise the quota."
_KEYS = "You may have {most} API keys. Revoke one first, or ask the operator to raise the quota."
log = structlog.get_logger(__name__)


class Line(Struct, frozen=True):
    """A quota, and how much of it is used. `unit`: of both, if it is not pieces."""

    what: str
    used: int
    most: int
    unit: str = ""


class Policy(Struct, frozen=True):
    """A quota over time, as clients are told of it."""

    name: str
    most: int
    seconds: int
    left: int
    reset_seconds: int


class _Minute(Struct):
    """From when on it counts, until when, and how many."""

    until: float = 0.0
    n: int = 0


class _Stored(Struct):
    """`bytes`: as measured, and what was accepted since then."""

    bytes: int
    measured_at: float


class Quotas:
    def __init__(self, rows: UsageRows, vault: Vault, settings: Settings, *, is_shared: bool = False) -> None:
        self._rows = rows
        self._vault = vault
        self._is_shared = is_shared
        self._a_minute = settings.quota_notifications_minute
        self._a_day = settings.quota_notifications_day
        self._mails = settings.quota_mails_day
        self._mails_to = settings.quota_mails_address_day
        self._stored_bytes = settings.quota_stored_mb * MB
        self._handlers, self._keys = settings.quota_handlers, settings.quota_keys
        self._counts_requests = bool(self._a_minute or self._a_day or self._stored_bytes)
        self._admins: dict[int, bool] = {}
        self._changes = 0
        self._day = 0
        self._today: Counter[tuple[int, int, str]] = Counter()
        self._unkept: Counter[tuple[int, int, int, str]] = Counter()
        self._minutes: dict[int, _Minute] = {}
        self._stored: dict[int, _Stored] = {}

    # --------------------------------------------------------------------------------------------------- whom it concerns

    def knows_exempt(self, user_id: int) -> bool:
        """Whether nothing needs to be counted of what they send, as far as that is known without asking."""
        return not self._counts_requests or self._admins.get(user_id) is True

    async def is_exempt(self, user_id: int) -> bool:
        """Raises Busy."""
        known = self._admins.get(user_id)
        if known is not None:
            return known
        changes = self._changes
        found = await self._rows.is_admin(user_id)
        if changes == self._changes:
            if len(self._admins) >= MAX_REMEMBERED:
                self._admins.clear()
            self._admins[user_id] = found
        return found

    def forget_user(self, user_id: int) -> None:
        """Their role may be another."""
        self._changes += 1
        self._admins.pop(user_id, None)

    def forget_all(self) -> None:
        self._changes += 1
        self._admins.clear()

    # --------------------------------------------------------------------------------------------------------- requests

    async def take(self, user_id: int, drafts: Sequence[Draft], deliveries: int) -> int:
        """Count notifications that are about to be kept; what `give_back` takes. Raises OverQuota, Invalid, Busy."""
        if self.knows_exempt(user_id) or await self.is_exempt(user_id):
            return 0
        count = len(drafts)
        self.check(user_id, count)
        if self._stored_bytes:
            await self._store(user_id, sum([len(one.message.text) for one in drafts]) + ROW_BYTES * (count + deliveries))
            self.check(user_id, count)  # others may have been faster meanwhile
        self.add(user_id, count)
        return count

    def check(self, user_id: int, count: int = 1) -> None:
        """Raises OverQuota."""
        now = clock.now()
        used = self._used(now, user_id, What.SENT)
        if self._a_day and used + count > self._a_day:
            seconds = math.ceil((DAY - now % DAY) / SECOND)
            values = {"most": f"{self._a_day:,}", "used": f"{used:,}"}
            raise OverQuota(Fault("rate_limited", "Too many requests", _DAY, status=429, values=values), seconds)
        minute = self._minutes.get(user_id)
        left = minute.until - time.monotonic() if minute is not None else 0.0
        # One that is larger than the quota goes alone, and then keeps others waiting for longer.
        if self._a_minute and minute is not None and left > 0 and minute.n + count > self._a_minute:
            seconds = math.ceil(left)
            values = {"most": f"{self._a_minute:,}", "seconds": str(seconds)}
            raise OverQuota(Fault("rate_limited", "Too many requests", _MINUTE, status=429, values=values), seconds)

    def add(self, user_id: int, count: int) -> None:
        """So many were sent, or sent again."""
        self._count(clock.now(), user_id, What.SENT, count)
        if not self._a_minute:
            return
        now = time.monotonic()
        minute = self._minutes.get(user_id)
        if minute is None or minute.until <= now:
            if len(self._minutes) >= MAX_REMEMBERED:
                self._minutes = {user: one for user, one in self._minutes.items() if one.until > now}
            minute = self._minutes[user_id] = _Minute(now + MINUTE_SECONDS)
        minute.n += count
        minute.until = max(minute.until, now + MINUTE_SECONDS * (minute.n / self._a_minute - 1))

    def give_back(self, user_id: int, count: int) -> None:
        """They were not kept after all."""
        if count:
            self._count(clock.now(), user_id, What.SENT, -count)
            if (minute := self._minutes.get(user_id)) is not None:
                minute.n -= count

    async def check_again(self, user_id: int) -> bool:
        """Before deliveries are sent again; whether they are to be counted. Raises OverQuota, Busy."""
        if not self._counts_requests or await self.is_exempt(user_id):
            return False
        self.check(user_id)
        return True

    async def _store(self, user_id: int, size: int) -> None:
        """Measured only now and then: what was accepted since is added, what has gone since is not."""
        now = time.monotonic()
        kept = self._stored.get(user_id)
        is_over = kept is not None and kept.bytes + size > self._stored_bytes
        if kept is None or now - kept.measured_at > (MEASURE_AGAIN_SECONDS if is_over else MEASURED_FOR_SECONDS):
            if len(self._stored) >= MAX_REMEMBERED:
                self._stored.clear()
            try:
                kept = _Stored((await self._rows.owned(user_id)).stored_bytes, now)
            except Busy as busy:  # the store has too much to do for that: a quota is no reason to refuse what it takes
                observe.seldom(log.warning, "usage.not_measured", user=user_id, why=str(busy))
                return
            self._stored[user_id] = kept
        if kept.bytes + size > self._stored_bytes:
            values = {"most": f"{self._stored_bytes // MB:,}", "used": f"{kept.bytes / MB:,.1f}"}
            raise Invalid(Fault("quota", "Quota used up", _STORED, values=values))
        kept.bytes += size

    # ------------------------------------------------------------------------------------------------------ what they own

    async def most_handlers(self, user_id: int) -> int:
        """How many they may have; 0: any number. Raises Busy."""
        return 0 if not self._handlers or await self.is_exempt(user_id) else self._handlers

    async def most_keys(self, user_id: int) -> int:
        return 0 if not self._keys or await self.is_exempt(user_id) else self._keys

    # -------------------------------------------------------------------------------------------------------------- mails

    def mail(self, user_id: int, address: str) -> bool:
        """One more mail to that address; False: it is one too many, and is not counted."""
        now = clock.now()
        mark = self._vault.mark(f"mailbox {mailbox_of(address)}").hex()[:32]
        if self._mails and self._used(now, user_id, What.MAILED) >= self._mails:
            return False
        if self._mails_to and self._used(now, user_id, What.MAILED_TO, mark) >= self._mails_to:
            return False
        self._count(now, user_id, What.MAILED, 1)
        self._count(now, user_id, What.MAILED_TO, 1, mark)
        return True

    # ------------------------------------------------------------------------------------------------------------ counting

    def _used(self, now: Micros, user_id: int, what: What, mark: str = "") -> int:
        if now // DAY != self._day:
            self._day = now // DAY
            self._today.clear()
        return self._today[user_id, what, mark]

    def _count(self, now: Micros, user_id: int, what: What, count: int, mark: str = "") -> None:
        used = self._used(now, user_id, what, mark)
        self._today[user_id, what, mark] = max(0, used + count)
        self._unkept[user_id, self._day, what, mark] += count

    async def load(self) -> None:
        """What was counted today, by the process before this one and by all others. Raises Busy."""
        day = clock.now() // DAY
        found = await self._rows.of(day)
        if day != clock.now() // DAY:
            return
        _ = self._used(clock.now(), 0, What.SENT)
        today = Counter({(one.user_id, one.what, one.mark): one.n for one in found})
        for (user_id, counted_on, what, mark), count in self._unkept.items():
            if counted_on == day:
                today[user_id, what, mark] += count
        self._today = today

    async def keep(self) -> None:
        """Raises Busy."""
        unkept, self._unkept = self._unkept, Counter()
        rows = [Used(*key, count) for key, count in unkept.items() if count]
        try:
            if rows:
                await self._rows.add(rows)
        except BaseException:
            self._unkept.update(unkept)
            raise
        if self._is_shared:
            await self.load()

    async def keep_now_and_then(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            try:
                await self.keep()
            except Busy as busy:
                observe.seldom(log.warning, "usage.not_kept", why=str(busy))

    # ------------------------------------------------------------------------------------------------------ what is told

    def policies(self, user_id: int) -> list[Policy]:
        """What clients are told beside an answer, of a user whose role is known."""
        if self._admins.get(user_id) is not False:
            return []
        now, found = clock.now(), list[Policy]()
        if self._a_minute:
            minute = self._minutes.get(user_id)
            left = minute.until - time.monotonic() if minute is not None else 0.0
            used, reset = (minute.n, math.ceil(left)) if minute is not None and left > 0 else (0, int(MINUTE_SECONDS))
            found.append(Policy("notifications-minute", self._a_minute, int(MINUTE_SECONDS), max(0, self._a_minute - used), reset))
        if self._a_day:
            used = self._used(now, user_id, What.SENT)
            reset = math.ceil((DAY - now % DAY) / SECOND)
            found.append(Policy("notifications-day", self._a_day, DAY // SECOND, max(0, self._a_day - used), reset))
        return found

    async def lines(self, user_id: int) -> list[Line]:
        """All of a user's; none if none is set, or they are an administrator. Raises Busy."""
        if await self.is_exempt(user_id):
            return []
        now, owned = clock.now(), await self._rows.owned(user_id)
        sent, mailed = (self._used(now, user_id, what) for what in (What.SENT, What.MAILED))
        lines = (
            Line("handlers", owned.handlers, self._handlers),
            Line("keys", owned.keys, self._keys),
            Line("stored", round(owned.stored_bytes / MB), self._stored_bytes // MB, "MB"),
            Line("minute", self._this_minute(user_id), self._a_minute),
            Line("day", sent, self._a_day),
            Line("mails", mailed, self._mails),
            Line("address", self._most_to_one(user_id), self._mails_to),
        )
        return [line for line in lines if line.most]

    def _this_minute(self, user_id: int) -> int:
        minute = self._minutes.get(user_id)
        return minute.n if minute is not None and minute.until > time.monotonic() else 0

    def _most_to_one(self, user_id: int) -> int:
        return max((n for (user, what, _), n in self._today.items() if user == user_id and what == What.MAILED_TO), default=0)


def too_many_handlers(most: int) -> Invalid:
    return Invalid(Fault("quota", "Quota used up", _HANDLERS, values={"most": f"{most:,}"}))


def too_many_keys(most: int) -> Invalid:
    return Invalid(Fault("quota", "Quota used up", _KEYS, "name", values={"most": f"{most:,}"}))
