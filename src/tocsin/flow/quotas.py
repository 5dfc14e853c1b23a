"""What users who are no administrators may use, and how much of it they have.

It is counted in memory and kept every few seconds, so accepting a notification costs no write more. What was counted in the last seconds
before a crash is forgotten. Days are those of UTC. Where several processes share the store, each sees within seconds what the others have
counted in a day; of a minute each counts only its own.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence

import structlog
from msgspec import Struct, field

from tocsin import clock, observe
from tocsin.clock import DAY, SECOND, Micros
from tocsin.flow.windows import WINDOW_SECONDS, Window, one_process, share_of
from tocsin.model import Busy, Draft, Fault, Invalid, OverQuota
from tocsin.net.addresses import mailbox_of
from tocsin.ports.usage import ROW_BYTES, UsageRows, Used, What
from tocsin.settings import Settings
from tocsin.vault import Vault

KEEP_SECONDS = 3.0
MEASURE_AGAIN_SECONDS = 60.0  # what is stored, where it seemed to be too much
MEASURED_FOR_SECONDS = 600.0
MAX_REMEMBERED = 20_000  # users
MB = 1_000_000
SENT, MAILED, MAILED_TO = map(int, What)  # an enum's own hash takes ten times as long
_A_DAY = "notifications-day"
_MINUTE = "You may send {most} notifications a minute. Wait {seconds} s."
_MINUTE_SHARED = (
    "You may send {most} notifications a minute. Several processes share this limit, and each allows {share} of them. Wait {seconds} s."
)
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
    """A quota over time, as clients are told of it: so many within so many seconds."""

    name: str
    most: int
    seconds: int


class _Sender(Struct):
    """What a user has sent: `today` (on that day, and `unkept` of it), and within a minute. `stored`: bytes as measured, and what was
    accepted since then; -1: not measured yet."""

    day: int
    today: int
    unkept: int = 0
    minute: Window = field(default_factory=Window)
    stored: int = -1
    measured_at: float = 0.0


class Quotas:
    def __init__(
        self,
        rows: UsageRows,
        vault: Vault,
        settings: Settings,
        *,
        is_shared: bool = False,
        api_processes: Callable[[], int] = one_process,
    ) -> None:
        self._api_processes = api_processes
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
        self._senders: dict[int, _Sender] = {}
        self._day = 0
        self._today: Counter[tuple[int, int, str]] = Counter()  # as it was kept, and mails as they are
        self._unkept: Counter[tuple[int, int, int, str]] = Counter()
        self.over_time = tuple(policy for policy in (_minute(self._a_minute), _day(self._a_day)) if policy.most)
        """The quotas that clients are told of."""

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
        count, now = len(drafts), clock.now()
        sender = self._sender(user_id, now)
        self._check(sender, count, now)
        if self._stored_bytes:
            size = sum([len(one.message.text) for one in drafts]) + ROW_BYTES * (count + deliveries)
            if self._is_to_be_measured(sender, size):
                await self._measure(user_id, sender)
                self._check(sender, count, now)  # others may have been faster meanwhile
            self._store(sender, size)
        self._add(sender, count)
        return count

    def give_back(self, user_id: int, count: int) -> None:
        """They were not kept after all."""
        if count:
            sender = self._sender(user_id, clock.now())
            sender.today, sender.unkept = sender.today - count, sender.unkept - count
            self._count_minute(sender.minute, -count)

    async def check_again(self, user_id: int) -> bool:
        """Before deliveries are sent again; whether they are to be counted. Raises OverQuota, Busy."""
        if not self._counts_requests or await self.is_exempt(user_id):
            return False
        now = clock.now()
        self._check(self._sender(user_id, now), 1, now)
        return True

    def sent_again(self, user_id: int, count: int) -> None:
        """So many deliveries."""
        self._add(self._sender(user_id, clock.now()), count)

    def _sender(self, user_id: int, now: Micros) -> _Sender:
        """As of today."""
        sender, day = self._senders.get(user_id), now // DAY
        if sender is None:
            if len(self._senders) >= MAX_REMEMBERED:
                for other in self._senders:
                    self._put_down(other, self._senders[other])
                self._senders.clear()
            sender = self._senders[user_id] = _Sender(day, self._used(now, user_id, SENT))
        elif sender.day != day:
            self._put_down(user_id, sender)
            sender.day, sender.today = day, 0
        return sender

    def _put_down(self, user_id: int, sender: _Sender) -> None:
        """What is to be kept of it, apart from it."""
        if sender.unkept:
            self._unkept[user_id, sender.day, SENT, ""] += sender.unkept
            if sender.day == self._day:
                self._today[user_id, SENT, ""] += sender.unkept
            sender.unkept = 0

    def _check(self, sender: _Sender, count: int, now: Micros) -> None:
        """Raises OverQuota."""
        if self._a_day and sender.today + count > self._a_day:
            values = {"most": f"{self._a_day:,}", "used": f"{sender.today:,}"}
            raise OverQuota(Fault("rate_limited", "Too many requests", _DAY, status=429, values=values), _until_midnight(now))
        # A request that is larger than the share goes alone, and then keeps others waiting for longer.
        used, share = sender.minute.used(moment := time.monotonic()), self._share
        if self._a_minute and used and used + count > share:
            left = math.ceil(sender.minute.ends_at - moment)
            values = {"most": f"{self._a_minute:,}", "share": f"{share:,}", "seconds": str(left)}
            detail = _MINUTE if share == self._a_minute else _MINUTE_SHARED
            raise OverQuota(Fault("rate_limited", "Too many requests", detail, status=429, values=values), left)

    def _add(self, sender: _Sender, count: int) -> None:
        sender.today += count
        sender.unkept += count
        if self._a_minute:
            sender.minute.count(0, time.monotonic())
            self._count_minute(sender.minute, count)

    def _count_minute(self, minute: Window, count: int) -> None:
        """What is over the share makes the minute longer, by the time in which so many may be sent."""
        was, share = minute.counted, self._share
        minute.counted += count
        if share:
            minute.ends_at += WINDOW_SECONDS * (max(0, minute.counted - share) - max(0, was - share)) / share

    @property
    def _share(self) -> int:
        """What of a minute's quota is this process's."""
        return share_of(self._a_minute, self._api_processes())

    def _is_to_be_measured(self, sender: _Sender, size: int) -> bool:
        """Only now and then: what was accepted since is added, what has gone since is not."""
        if sender.stored < 0:
            return True
        is_over = sender.stored + size > self._stored_bytes
        return time.monotonic() - sender.measured_at > (MEASURE_AGAIN_SECONDS if is_over else MEASURED_FOR_SECONDS)

    async def _measure(self, user_id: int, sender: _Sender) -> None:
        try:
            found = await self._rows.owned(user_id)
        except Busy as busy:  # the store has too much to do for that: a quota is no reason to refuse what it takes
            observe.seldom(log.warning, "usage.not_measured", user=user_id, why=str(busy))
        else:
            sender.stored, sender.measured_at = found.stored_bytes, time.monotonic()

    def _store(self, sender: _Sender, size: int) -> None:
        if sender.stored < 0:
            return
        if sender.stored + size > self._stored_bytes:
            values = {"most": f"{self._stored_bytes // MB:,}", "used": f"{sender.stored / MB:,.1f}"}
            raise Invalid(Fault("quota", "Quota used up", _STORED, values=values))
        sender.stored += size

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
        if self._mails and self._used(now, user_id, MAILED) >= self._mails:
            return False
        if self._mails_to and self._used(now, user_id, MAILED_TO, mark) >= self._mails_to:
            return False
        self._count(now, user_id, MAILED)
        self._count(now, user_id, MAILED_TO, mark)
        return True

    # ------------------------------------------------------------------------------------------------------------ counting

    def _used(self, now: Micros, user_id: int, what: int, mark: str = "") -> int:
        if now // DAY != self._day:
            self._day = now // DAY
            self._today.clear()
        return self._today[user_id, what, mark]

    def _count(self, now: Micros, user_id: int, what: int, mark: str = "") -> None:
        self._today[user_id, what, mark] = self._used(now, user_id, what, mark) + 1
        self._unkept[user_id, self._day, what, mark] += 1

    async def load(self) -> None:
        """What was counted today, by the process before this one and by all others. Raises Busy."""
        day = clock.now() // DAY
        found = await self._rows.of(day)
        now = clock.now()
        if day != now // DAY:
            return
        _ = self._used(now, 0, SENT)  # of today
        self._today = Counter({(one.user_id, one.what, one.mark): one.n for one in found})
        for (user_id, counted_on, what, mark), count in self._unkept.items():
            if counted_on == day:
                self._today[user_id, what, mark] += count
        for user_id, sender in self._senders.items():
            if sender.day == day:
                sender.today = self._today[user_id, SENT, ""] + sender.unkept

    async def keep(self) -> None:
        """Raises Busy."""
        _ = self._used(clock.now(), 0, SENT)  # of today
        for user_id, sender in self._senders.items():
            self._put_down(user_id, sender)
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

    def left(self, user_id: int) -> list[tuple[str, int, int]]:
        """Of the policies `over_time`, how many are left and in how many seconds they start over; nothing for administrators."""
        if self._admins.get(user_id, user_id not in self._senders):  # those whose role is looked up again were counted before
            return []
        now = clock.now()
        sender, found = self._sender(user_id, now), list[tuple[str, int, int]]()
        for policy in self.over_time:
            if policy.name == _A_DAY:
                found.append((policy.name, max(0, policy.most - sender.today), _until_midnight(now)))
            else:
                used = sender.minute.used(moment := time.monotonic())
                left = math.ceil(sender.minute.ends_at - moment) if used else policy.seconds
                found.append((policy.name, max(0, self._share - used), left))
        return found

    async def lines(self, user_id: int) -> list[Line]:
        """All of a user's; none if none is set, or they are an administrator. Raises Busy."""
        if await self.is_exempt(user_id):
            return []
        now, owned = clock.now(), await self._rows.owned(user_id)
        sender = self._sender(user_id, now)
        to_one = max((n for (user, what, _), n in self._today.items() if user == user_id and what == MAILED_TO), default=0)
        lines = (
            Line("handlers", owned.handlers, self._handlers),
            Line("keys", owned.keys, self._keys),
            Line("stored", round(owned.stored_bytes / MB), self._stored_bytes // MB, "MB"),
            Line("minute", sender.minute.used(time.monotonic()), self._a_minute),
            Line("day", sender.today, self._a_day),
            Line("mails", self._used(now, user_id, MAILED), self._mails),
            Line("address", to_one, self._mails_to),
        )
        return [line for line in lines if line.most]


def _minute(most: int) -> Policy:
    return Policy("notifications-minute", most, int(WINDOW_SECONDS))


def _day(most: int) -> Policy:
    return Policy(_A_DAY, most, DAY // SECOND)


def _until_midnight(now: Micros) -> int:
    return -((now % DAY - DAY) // SECOND)


def too_many_handlers(most: int) -> Invalid:
    return Invalid(Fault("quota", "Quota used up", _HANDLERS, values={"most": f"{most:,}"}))


def too_many_keys(most: int) -> Invalid:
    return Invalid(Fault("quota", "Quota used up", _KEYS, "name", values={"most": f"{most:,}"}))
