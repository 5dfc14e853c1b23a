"""Days and times as they are typed after an option, in UTC."""

import re
from datetime import UTC, datetime

from tocsin.cli.failure import Usage
from tocsin.clock import DAY, SECOND, Micros

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}(?::\d{2})?")


def read_moment(text: str, option: str, *, is_end: bool = False) -> Micros:
    """`is_end`: a day alone means its end. Raises Usage."""
    is_day = _DAY.fullmatch(text) is not None
    if not is_day and not _TIME.fullmatch(text):
        raise Usage(f"{option} takes a day such as 2027-01-31, or a time such as 2027-01-31 18:30:00, in UTC.")
    try:
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        raise Usage(f"{option}: there is no such day or time.") from None
    return int(moment.timestamp()) * SECOND + (DAY - SECOND if is_day and is_end else 0)
