"""Emphasis in Korean, Chinese and Japanese, which continue after it without a space.

CommonMark closes no `**` between punctuation and a letter, which is how Korean is written: `**마크다운(Markdown)**을`. The rule proposed
in https://github.com/commonmark/commonmark-spec/pull/839 lets `*` and `~~` open and close there: beside a CJK character punctuation
counts as a letter, and CJK punctuation always does. Ours differs in one point: a run does not close after an opening bracket or quotation
mark, and does not open before a closing one, so `(**가**)` means the same as in CommonMark.
"""

import re
import unicodedata

from tocsin.markup.addresses import CJK

MARK = "\uffff"  # neither punctuation nor white space, so a run beside it counts as beside a letter; `clean` removes it from every text

_RUN = re.compile(r"\*+|(?<!~)~{1,2}(?!~)")
_BESIDE = re.compile(f"[*~][{CJK}]|[{CJK}][*~]")
_CJK = re.compile(f"[{CJK}]")
_OPENING = frozenset({"Ps", "Pi"})
_CLOSING = frozenset({"Pe", "Pf"})


def marked(source: str) -> str:
    """The text with `MARK` between punctuation and those runs of * and ~ that CJK writers mean as emphasis."""
    if source.isascii() or not _BESIDE.search(source):
        return source
    parts: list[str] = []
    done = 0
    for match in _RUN.finditer(source):
        start, end = match.span()
        if _is_escaped(source, start):
            start += 1
            if start == end:
                continue
        before, after = source[start - 1 : start], source[end : end + 1]
        if _counts_as_letter(before, after, _OPENING):
            parts += [source[done:start], MARK]
            done = start
        if _counts_as_letter(after, before, _CLOSING):
            parts += [source[done:end], MARK]
            done = end
    return "".join([*parts, source[done:]])


def _is_escaped(source: str, at: int) -> bool:
    first = at
    while first and source[first - 1] == "\\":
        first -= 1
    return (at - first) % 2 == 1


def _counts_as_letter(one: str, other: str, but: frozenset[str]) -> bool:
    """Whether `one`, beside a run with `other` on its other side, is punctuation that counts as a letter there."""
    if not one or one.isspace() or one.isalnum() or unicodedata.category(one) in but:
        return False
    return bool(_CJK.match(one) or _CJK.match(other))
