"""Rows as CSV that a spreadsheet takes for text only, whatever users and providers wrote.

https://owasp.org/www-community/attacks/CSV_Injection: a cell that begins with one of a few characters is a formula. Quoting is not enough:
where the separator is a semicolon, as in many countries, our quotes do not keep a text together, and each of its pieces is a cell.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence

_BEGINS_FORMULA = "=+\\-@|＝＋－＠｜﹦﹢﹣﹫﹪−"
_UNSEEN = (
    r"\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202f\u205f-\u206f"
    r"\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0"
)
_CELL = re.compile(rf"(^|[;|\t\r\n\"])([{_UNSEEN}'\"]*)(?=[{_BEGINS_FORMULA}])|^(?=[\t\r\n])")


def rows_of(rows: Iterable[Sequence[object]]) -> str:
    """Every field in quotes, every line ended with CRLF (RFC 4180)."""
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([harmless(value) for value in row] for row in rows)
    return out.getvalue()


def harmless(value: object) -> object:
    """A text with an apostrophe where a spreadsheet would begin a formula; anything else as it is."""
    return _CELL.sub(_apart, value) if isinstance(value, str) else value


def _apart(found: re.Match[str]) -> str:
    return f"{found[0]}'"
