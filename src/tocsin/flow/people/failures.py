"""What strangers fail at: a line of the log each, and entries of the audit log as far as these are bounded.

People without an account can fail as often as their addresses allow, so of one address and of all together only so many become entries in
an hour. The others are counted, and are one more entry at its end.
"""

from collections import Counter

import structlog

from tocsin import clock
from tocsin.clock import HOUR, Micros
from tocsin.model import Busy
from tocsin.ports.audit import Act, AuditLog

MAX_OF_ADDRESS, MAX_ENTRIES = 10, 100  # in an hour, in each process
log = structlog.get_logger(__name__)


class Failures:
    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        self._hour: Micros = 0
        self._written = 0
        self._by_address: Counter[str] = Counter()
        self._left_out: Counter[Act] = Counter()

    async def note(self, act: Act, address: str, counted_as: str, owner: int | None = None, **detail: object) -> None:
        """`address` goes into the log, for programs that block such addresses; `counted_as`: the unit that is counted. What was typed in
        goes nowhere: people take the field of the address for that of the password.
        """
        log.warning(str(act), address=address, **({} if owner is None else {"user": owner}), **detail)
        await self.count(act, counted_as, owner, **detail)

    async def count(self, act: Act, counted_as: str, owner: int | None = None, **detail: object) -> None:
        """An entry of the audit log, if there is room for one more. The line of the log is the caller's."""
        self._begin_hour()
        if self._written >= MAX_ENTRIES or self._by_address[counted_as] >= MAX_OF_ADDRESS:
            self._left_out[act] += 1
            return
        self._written += 1
        self._by_address[counted_as] += 1
        try:
            await self._audit.add(act, owner, detail=detail)
        except Busy:  # the failure is answered all the same
            self._left_out[act] += 1

    def _begin_hour(self) -> None:
        if clock.now() // HOUR != self._hour:
            self._hour, self._written = clock.now() // HOUR, 0
            self._by_address.clear()

    async def sum_up(self, *, is_end: bool = False) -> None:
        """Once the hour is over, or the service ends, write down how many had no entry of their own. Raises Busy."""
        if clock.now() // HOUR == self._hour and not is_end:
            return
        for act, count in list(self._left_out.items()):
            await self._audit.add(act, detail={"more": count})
            self._left_out[act] -= count
        self._left_out = +self._left_out
