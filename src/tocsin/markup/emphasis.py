"""Emphasis in Korean, Chinese and Japanese, which continue after it without a space.

CommonMark closes no `**` between punctuation and a letter, which is how Korean is written: `**마크다운(Markdown)**을`. The rule proposed
in https://github.com/commonmark/commonmark-spec/pull/839 lets `*` and `~~` open and close there: beside a CJK character punctuation
counts as a letter, and CJK punctuation always does. Ours differs in one point: a run does not close after an opening bracket or quotation
mark, and does not open before a closing one, so `(**가**)` means the same as in CommonMark.

Of runs in a row, as in `**_(가)_**는`, only the outer one is beside the CJK character, and the inner one must still see punctuation after
it. So the outer one gets punctuation between itself and that character, which has the same effect.
"""

import re
import unicodedata

from tocsin.markup.addresses import CJK

MARK = "\uffff"  # neither punctuation nor white space, so a run beside it counts as beside a letter; `clean` removes it from every text
_AFTER, _BEFORE = f"·{MARK}{MARK}", f"{MARK}{MARK}·"  # punctuation after a run and before one, told from the author's by two marks

_RUN = re.compile(r"\*+|(?<!~)~{1,2}(?!~)")
_BESIDE = re.compile(f"[*~][{CJK}]|[{CJK}][*~]")
_CJK = re.compile(f"(?!\u3000)[{CJK}]")  # a letter or punctuation, not a space
_IN_RUNS = frozenset("*~_")
_OPENING = frozenset({"Ps", "Pi"})
_CLOSING = frozenset({"Pe", "Pf"})


def marked(source: str) -> str:
    """The text with marks beside those runs of * and ~ that CJK writers mean as emphasis."""
    if source.isascii() or not _BESIDE.search(source):
        return source
    parts: list[str] = []
    done = 0
    for match in _RUN.finditer(source):
        start, end = match.span()
        before, after = source[start - 1 : start], source[end : end + 1]
        if not _is_punctuation(before) and not _is_punctuation(after):
            continue
        if before == "\\" and _is_escaped(source, start):
            before, start = source[start], start + 1
        if start == end:
            continue
        follows, precedes = _CJK.match(before), _CJK.match(after)
        if (precedes and before in _IN_RUNS) or (follows and after in _IN_RUNS):
            if source[start:end] != "~":  # `1시~**2시**`: a single one is mostly no mark
                at, added = (end, _AFTER) if precedes else (start, _BEFORE)
                parts += [source[done:at], added]
                done = at
        elif follows or precedes:
            if _is_punctuation(before) and unicodedata.category(before) not in _OPENING:
                parts += [source[done:start], MARK]
                done = start
            if _is_punctuation(after) and unicodedata.category(after) not in _CLOSING:
                parts += [source[done:end], MARK]
                done = end
    return "".join([*parts, source[done:]])


def unmarked(text: str) -> str:
    """The text without what `marked` added."""
    return text.replace(_AFTER, "").replace(_BEFORE, "").replace(MARK, "") if MARK in text else text


def _is_escaped(source: str, at: int) -> bool:
    first = at
    while first and source[first - 1] == "\\":
        first -= 1
    return (at - first) % 2 == 1


def _is_punctuation(character: str) -> bool:
    return character != "" and not character.isalnum() and not character.isspace()
