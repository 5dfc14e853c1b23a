"""What becomes of each handler's deliveries, hour by hour, for charts and rates.

Counted in memory and added to the store every few seconds, so that it costs a delivery next to nothing: a killed process takes the
last few seconds of these numbers with it, never a delivery.
"""

import asyncio
import itertools
import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, zip_longest

import structlog
from msgspec import Struct

from tocsin import clock, observe
from tocsin.clock import HOUR, Micros
from tocsin.model import Busy, Status
from tocsin.ports.standings import HandlerHour, Standings

KEPT_EVERY_SECONDS = 5.0
HANDLERS_AT_ONCE = 500  # in one write: 20 ms
BUCKETS = 54  # of latencies, two for each doubling of a millisecond, up to a day
_BEGIN_AT = [math.ceil(1000 * 2 ** ((n - 1) / 2)) for n in range(1, BUCKETS)]
log = structlog.get_logger(__name__)


def bucket(latency: Micros) -> int:
    """Which of the buckets a latency falls in: 0 is under a millisecond, n is from 2^((n-1)/2) ms on."""
    return bisect_right(_BEGIN_AT, latency)


def percentile(latencies: Sequence[int], share: float) -> float | None:
    """Seconds within which that share of the deliveries arrived, to about a fifth; None without any. The middle of their bucket."""
    sums = list(accumulate(latencies))
    if not sums or sums[-1] == 0:
        return None
    wanted = share * sums[-1]
    index = next(index for index, total in enumerate(sums) if total >= wanted)
    return 0.0005 if index == 0 else 2 ** (index / 2 - 0.25) / 1000


class Summary(Struct, frozen=True):
    """Some hours taken together. `success_rate`: delivered of all that arrived, failed or expired; `p50`, `p95`: latency in seconds."""

    delivered: int
    failed: int
    expired: int
    success_rate: float | None
    p50: float | None
    p95: float | None


def summarize(hours: Sequence[HandlerHour]) -> Summary:
    """All of these hours as one; the handlers may differ."""
    delivered, failed, expired = (
        sum(counts) for counts in zip((0, 0, 0), *((one.delivered, one.failed, one.expired) for one in hours), strict=True)
    )
    ended = delivered + failed + expired
    latencies = [sum(counts) for counts in zip_longest(*(one.latencies for one in hours), fillvalue=0)]
    rate = round(delivered / ended, 4) if ended else None
    return Summary(delivered, failed, expired, rate, percentile(latencies, 0.5), percentile(latencies, 0.95))


class _Hour:
    __slots__ = ("delivered", "expired", "failed", "latencies")

    def __init__(self) -> None:
        self.delivered = self.failed = self.expired = 0
        self.latencies = [0] * BUCKETS


class Tally:
    """Counts by handler that are not stored yet."""

    def __init__(self, standings: Standings) -> None:
        self._standings = standings
        self._counts: dict[int, _Hour] = {}

    def delivered(self, arrived: Sequence[tuple[int, Micros]]) -> None:
        """Handlers and latencies."""
        known = self._counts
        for handler_id, latency in arrived:
            counts = known.get(handler_id) or self._of(handler_id)
            counts.delivered += 1
            counts.latencies[bucket(latency)] += 1

    def ended(self, handler_id: int, status: Status) -> None:
        """A delivery failed or expired; the rest is its owner's doing, and not counted here."""
        counts = self._counts.get(handler_id) or self._of(handler_id)
        counts.failed += status is Status.FAILED
        counts.expired += status is Status.EXPIRED

    def _of(self, handler_id: int) -> _Hour:
        counts = self._counts[handler_id] = _Hour()
        return counts

    async def keep_now_and_then(self) -> None:
        """Run until cancelled."""
        while True:
            await asyncio.sleep(KEPT_EVERY_SECONDS)
            try:
                await self.keep()
            except Busy as busy:
                observe.seldom(log.warning, "tally.waits", why=str(busy))
            except Exception as error:  # noqa: BLE001  # and it goes on: it may be kept the next time
                observe.seldom(log.error, "tally.failed", exc_info=error)

    async def keep(self) -> None:
        """Add what was counted to the store. Whatever it raises, Busy for one, it is counted still, then."""
        counted, self._counts = self._counts, {}
        hour = clock.now() // HOUR
        while counted:
            some = [(handler_id, counted.pop(handler_id)) for handler_id in list(itertools.islice(counted, HANDLERS_AT_ONCE))]
            hours = [HandlerHour(one, hour, of.delivered, of.failed, of.expired, tuple(of.latencies)) for one, of in some]
            try:
                await self._standings.add_hours(hours)
            except BaseException as error:
                is_cut = isinstance(error, asyncio.CancelledError)  # what the store was given, it keeps all the same
                for handler_id, one in (*(() if is_cut else some), *counted.items()):
                    self._count_again(handler_id, one)
                raise

    def _count_again(self, handler_id: int, one: _Hour) -> None:
        now = self._counts.get(handler_id) or self._of(handler_id)
        now.delivered += one.delivered
        now.failed += one.failed
        now.expired += one.expired
        now.latencies = [sum(both) for both in zip(now.latencies, one.latencies, strict=True)]
