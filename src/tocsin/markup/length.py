"""The length of a text in a provider's units, and cuts that show.

Three units: characters (code points), UTF-16 units (Discord, Telegram) and bytes of UTF-8. A cut never separates what is shown
as one character, as far as that can be told without tables: surrogate pairs, combining marks, joined emoji, flags, Hangul syllables.
"""

import re
import unicodedata
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from tocsin.markup.unseen import closed, is_blank, without_sequences

_DROPPED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff\ud800-\udfff]")
_RETURN = re.compile("\r\n?")
_NOTE_ROOM = 300  # under this limit a count of what is missing would take too much of the text's own room
_LONGEST_CLUSTER = 32
_JOINER = "\u200d"
_BEGINNING = 30


class Cut(NamedTuple):
    """How many characters were left out of the text that begins like this."""

    beginning: str
    characters: int


class WrittenOut(NamedTuple):
    """More marks than the provider shows: links are written out as addresses, and other marks left out."""

    marks: int


_watched: ContextVar[list[Cut | WrittenOut] | None] = ContextVar("watched", default=None)


@contextmanager
def watched_cuts() -> Generator[list[Cut | WrittenOut]]:
    """What is left out of texts inside the `with` block."""
    cuts: list[Cut | WrittenOut] = []
    token = _watched.set(cuts)
    try:
        yield cuts
    finally:
        _watched.reset(token)


def left_out(text: str, characters: int) -> None:
    """Report that so many characters of `text` are left out."""
    if (cuts := _watched.get()) is not None:
        beginning = clean_line(text[: _BEGINNING + 1])
        cuts.append(Cut(f"{beginning[:_BEGINNING]}…" if len(beginning) > _BEGINNING else beginning, characters))


def written_out(marks: int) -> None:
    """Report that there are so many marks, more than the provider shows."""
    if (cuts := _watched.get()) is not None:
        cuts.append(WrittenOut(marks))


def clean(text: str) -> str:
    """`text` without terminal sequences, control characters (line feed and tab stay), byte-order marks, non-characters and surrogates.

    Overrides of the writing direction are closed at the end of their line.
    """
    text = without_sequences(text)
    if "\r" in text:
        text = _RETURN.sub("\n", text)
    return closed(_DROPPED.sub("", text))


def clean_line(text: str) -> str:
    """The same on one line: runs of white space become one space. Empty where nothing can be seen."""
    line = " ".join(clean(text).split())
    return "" if not line.isascii() and is_blank(line) else line


def utf16(text: str) -> int:
    """Length in UTF-16 units."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def utf8(text: str) -> int:
    """Length in bytes of UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def cut_characters(text: str, limit: int) -> str:
    return cut(text, limit, len)


def cut_utf16(text: str, limit: int) -> str:
    return cut(text, limit, utf16)


def cut_bytes(text: str, limit: int) -> str:
    return cut(text, limit, utf8)


def cut(text: str, limit: int, size: Callable[[str], int]) -> str:
    """`text` if its `size` is at most `limit`, else its beginning and how much is missing (an ellipsis where the limit is short).

    `size` must grow with the text; it may count what a dialect's escaping adds.
    """
    if size(text) <= limit:
        return text
    note = missing(len(text)) if limit >= _NOTE_ROOM else "…"
    kept = _longest(text, limit - size(note) - 1, size)
    while kept > 0:
        shortened = _shortened(text, kept, limit)
        if size(shortened) <= limit:
            left_out(text, len(text) - kept)
            return shortened
        kept = boundary(text, kept - 1)
    left_out(text, len(text))
    return next((word for word in ("…", ".") if size(word) <= limit), "")


def missing(characters: int) -> str:
    """The words that replace what was cut."""
    return f"… {characters:,} more characters" if characters != 1 else "… 1 more character"


def _shortened(text: str, kept: int, limit: int) -> str:
    head = text[:kept].rstrip()
    if limit < _NOTE_ROOM:
        return head + "…"
    return f"{head}\n{missing(len(text) - kept)}" if "\n" in text else f"{head} {missing(len(text) - kept)}"


def _longest(text: str, limit: int, size: Callable[[str], int]) -> int:
    """The most characters from the beginning of `text` whose size is at most `limit`, moved back to a safe place for a cut."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size(text[:middle]) <= limit else (low, middle - 1)
    return boundary(text, low)


def boundary(text: str, position: int) -> int:
    """The last place at or before `position` where `text` may be cut."""
    if position >= len(text):
        return len(text)
    position = max(0, position)
    for place in range(position, max(0, position - _LONGEST_CLUSTER), -1):
        if not _holds_together(text, place):
            return place
    return position if position > _LONGEST_CLUSTER else 0


def _holds_together(text: str, place: int) -> bool:
    if not 0 < place < len(text):
        return False
    before, after = text[place - 1], text[place]
    if after.isascii():
        return "\ud800" <= before <= "\udbff" and "\udc00" <= after <= "\udfff"
    if _JOINER in (before, after) or unicodedata.category(after) in {"Mn", "Me", "Mc"}:
        return True
    if "\U0001f3fb" <= after <= "\U0001f3ff" or "\ud800" <= before <= "\udbff":
        return True
    if "\u1160" <= after <= "\u11ff":  # vowels and tails of conjoining Hangul
        return "\u1100" <= before <= "\u11ff"
    return _is_flag(after) and _is_flag(before) and _flags_before(text, place) % 2 == 1


def _is_flag(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _flags_before(text: str, place: int) -> int:
    start = place
    while start > 0 and _is_flag(text[start - 1]):
        start -= 1
    return place - start


def share(sizes: Sequence[int], room: int) -> int:
    """The highest cap under which `sizes` together fit in `room`: short ones stay whole, long ones are cut to the same length."""
    left = room
    for index, size in enumerate(sorted(sizes)):
        cap = left // (len(sizes) - index)
        if size > cap:
            return max(0, cap)
        left -= size
    return max(sizes, default=0)
