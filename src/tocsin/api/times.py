"""Times as the API reads and writes them."""

import re
from datetime import UTC, datetime, timedelta, timezone

from tocsin.clock import SECOND, Micros

WANTED = "{name} must read like 2026-11-23 10:00:00 (UTC), or like 2026-11-23T10:00:00+01:00."

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = ((moment.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1) for moment in (datetime.min, datetime.max))
_PLAIN = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}) ([0-9]{2}:[0-9]{2}:[0-9]{2})")
_RFC_3339 = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,30})?([Zz]|[+-][0-9]{2}:[0-9]{2})")


def show(at: Micros) -> str:
    """`YYYY-MM-DD HH:MM:SS`, UTC."""
    return (_EPOCH + timedelta(seconds=at // SECOND)).isoformat(" ")[:19]


def show_if(at: Micros | None) -> str | None:
    return None if at is None else show(at)


def read(text: str) -> Micros:
    """RFC 3339 with an offset, or `YYYY-MM-DD HH:MM:SS` in UTC. Raises ValueError."""
    fraction, offset = "", "Z"
    match = _PLAIN.fullmatch(text)
    if not match:
        match = _RFC_3339.fullmatch(text)
        if not match:
            raise ValueError(WANTED)
        fraction, offset = match[3] or "", match[4]
    return _micros(match[1], match[2], fraction, offset)


def _micros(date: str, clock: str, fraction: str, offset: str) -> Micros:
    leap = clock.endswith(":60")  # RFC 3339 5.6 allows a leap second
    moment = datetime.fromisoformat(f"{date}T{clock[:6]}59" if leap else f"{date}T{clock}").replace(tzinfo=_zone(offset))
    micros = (moment - _EPOCH) // timedelta(microseconds=1) + SECOND * leap
    micros += int(fraction[1:7].ljust(6, "0"))
    if not _FIRST <= micros <= _LAST:
        raise ValueError(WANTED)
    return micros


def _zone(offset: str) -> timezone:
    if offset in {"Z", "z"}:
        return UTC
    hours, minutes = int(offset[1:3]), int(offset[4:6])
    if hours > 23 or minutes > 59:
        raise ValueError(WANTED)
    return timezone((-1 if offset[0] == "-" else 1) * timedelta(hours=hours, minutes=minutes))
