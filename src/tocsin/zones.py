"""Time zones of the tz database: which there are, and how times are written and read in them."""

import functools
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from difflib import get_close_matches
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from tocsin.clock import Micros
from tocsin.model import Value

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)
_FIRST, _LAST = ((moment.replace(tzinfo=UTC) - _EPOCH) // _MICRO for moment in (datetime.min, datetime.max))
_NO_PLACES = {"localtime", "Factory"}  # the machine's own zone, and the placeholder for one that was never set
_MAX_LIKE = 3


class Reading(Value, frozen=True):
    """The moments that a clock's time may mean: the same where it comes once. Where clocks go back it comes twice; where they go forward it
    is skipped, and means the moment at which they do.

    So nothing lies between a time and `first` that a clock shows as that time or a later one, and the same for `last` and earlier ones.
    """

    first: Micros
    last: Micros
    is_skipped: bool = False

    @property
    def is_twice(self) -> bool:
        return self.first != self.last


@functools.cache
def names() -> tuple[str, ...]:
    """Those that can be chosen. Looks at some 600 files, once."""
    return tuple(sorted(available_timezones() - _NO_PLACES))


def canonical(name: str) -> str | None:
    """The name in its right case; None: there is no such zone."""
    wanted = name.strip().casefold()
    return next((one for one in names() if one.casefold() == wanted), None)


def like(name: str) -> list[str]:
    """A few zones that may have been meant, by the whole name or the place alone, the likeliest first.

    Not those like Etc/GMT+9, which is UTC-09:00: signs are reversed in their names.
    """
    known = {part.lower(): one for one in names() if not one[-1].isdecimal() for part in (one.rpartition("/")[2], one)}
    found = get_close_matches(name.strip().lower().replace(" ", "_"), known, _MAX_LIKE)
    return list(dict.fromkeys(known[one] for one in found))


@functools.lru_cache(1024)
def zone_of(name: str | None) -> tzinfo:
    """UTC where there is no name, or one that this machine no longer knows."""
    if name is None:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def local(at: Micros, zone: tzinfo) -> datetime:
    """What clocks there show. In UTC where that is beyond the calendar."""
    moment = _EPOCH + at * _MICRO
    try:
        return moment.astimezone(zone)
    except OverflowError:
        return moment


def offset(moment: datetime) -> str:
    """`UTC+09:00`, or `UTC`."""
    return str(timezone(moment.utcoffset() or timedelta()))


def shown(at: Micros, zone: tzinfo) -> str:
    """`YYYY-MM-DD HH:MM:SS UTC+09:00`."""
    moment = local(at, zone)
    return f"{moment.replace(microsecond=0, tzinfo=None).isoformat(' ')} {offset(moment)}"


def read(text: str, zone: tzinfo) -> Reading:
    """A time as a browser's field for one gives it. An offset of its own counts. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    clocks = [moment] if moment.tzinfo is not None else [moment.replace(tzinfo=zone, fold=fold) for fold in (0, 1)]
    first, *_, last = sorted((clock - _EPOCH) // _MICRO for clock in [*clocks, clocks[0]])
    if not _FIRST <= first <= last <= _LAST:
        raise ValueError("beyond the calendar")
    if first == last or local(first, zone).replace(tzinfo=None) == moment:
        return Reading(first, last)
    jump = _change(first, last, zone)
    return Reading(jump, jump, is_skipped=True)


def _change(before: Micros, after: Micros, zone: tzinfo) -> Micros:
    """When clocks are set between two moments."""
    old = local(before, zone).utcoffset()
    while after - before > 1:
        middle = (before + after) // 2
        if local(middle, zone).utcoffset() == old:
            before = middle
        else:
            after = middle
    return after
