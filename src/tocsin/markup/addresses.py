"""Bare addresses: where they begin and end in a text, and how they are kept whole while Markdown is parsed.

An address ends where GFM's extended autolinks do (https://github.github.com/gfm/#autolinks-extension-), which is decided before
emphasis is looked for. GFM expects a space after an address, but Korean, Chinese and Japanese continue without one. So an
address ends where such text follows an ASCII host, a port or an unmatched closing mark; after / = ? & - _ it belongs to the address.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]

MARK = "\ufffe"  # encloses a stand-in; `clean` removes it from every text
STAND_IN = re.compile(f"{MARK}([0-9]{{1,5}}){MARK}")

_WRITTEN_MARK = re.compile("&#(?:[xX]0*[fF]{3}[eE]|0*65534);")
_LETTERS = "\u1100-\u11ff\u3040-\u30ff\u3105-\u318f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
CJK = f"\u2e80-\u3000{_LETTERS}\u3001-\u303f\uff01-\uffee\U00020000-\U0003ffff"
_OPENING = frozenset("「『【《〈〔（［｛｢")
_START = re.compile(  # the first letter is looked at first since that is several times as fast
    r"(?=[fhw])(?:(?<![A-Za-z])(?:https?|ftp)://|(?:(?<=[\s*_~(])|(?<![^\n]))www\.(?=\w))", re.IGNORECASE
)
_UNSEEN = "\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069"  # set around words, as by programs that isolate directions
_IN_ADDRESS = rf"[^\s{_UNSEEN}<、。，；！？：」』】》〉〕］｝｣）”’»…]"
_LOOKED_AT = 2100  # characters: a little longer than any URL that can be opened
_TAIL = re.compile(_IN_ADDRESS + f"{{0,{_LOOKED_AT}}}")
_REST = re.compile(_IN_ADDRESS + "*")
_SIMPLE = re.compile(r"[A-Za-z0-9](?:[\w./:?&=%#@+-]*[A-Za-z0-9/])?(?=\s|$)", re.ASCII)  # nearly all addresses, which need no closer look
_BEGINS = re.compile(r"\w|[\[:~%+-]")
_FIRST_CJK = re.compile(f"(?<=[!-~])[{CJK}]")
_IN_HOST = re.compile(f"[{CJK}]")
_RUN = re.compile(f"[{CJK}]+")
_HIRAGANA = re.compile("[\u3041-\u309f]")
_PATH = re.compile("[/?#]")
_SPECIAL = re.compile(r"[*_~`\[\]&\\!|]")  # what the parser may take for markup
_ENTITY = re.compile(r"&[A-Za-z]+\Z")
_MARKS = frozenset("*~'\"`|")
_BRACKETS = {")": "(", "]": "[", "}": "{", ">": "<"}
_LOOKED_BACK = 200
# Korean endings, which are attached to an address as to any noun.
_PARTICLES = frozenset(
    re.split(
        " ",
        "을 를 이 가 은 는 의 에 도 만 로 와 과 나 라 께 야 에서 에게 으로 까지 부터 처럼 보다 마다 이나 라고 이라고 에는 에도 에서는 "
        "에서도 으로는 로는 입니다 이다 이며 이고 인데 이에요 예요 에요 임 한테 조차 밖에 라는 이라는 랑 이랑 하고 로부터 으로부터 에서의 "
        "에서만 에서부터 에만 에게서 로도 으로도 로만 으로만 까지의 까지는 까지도 부터는 보다는 이지만 이었습니다 였습니다 입니까 이라면 "
        "라면 이라도 라도 이라며 라며 마저 뿐",
    )
)


def find(text: str, skipped: Sequence[Span] = (), cells: Sequence[Span] = ()) -> Iterator[Span]:
    """The addresses in a text, in order. None begins within `skipped` or extends past the end of the cell (`cells`) it begins in.

    Both are sorted and do not overlap. Takes linear time.
    """
    skips, inside = iter(skipped), iter(cells)
    skip, cell = next(skips, None), next(inside, None)
    at = 0
    while (match := _START.search(text, at)) is not None:
        start = match.start()
        while skip is not None and skip[1] <= start:
            skip = next(skips, None)
        if skip is not None and skip[0] <= start:
            at = skip[1]
            continue
        while cell is not None and cell[1] <= start:
            cell = next(inside, None)
        limit = cell[1] if cell is not None and cell[0] <= start else len(text)
        begin = at = match.end()
        if (simple := _SIMPLE.match(text, begin)) is not None:
            at = simple.end()
            yield start, at
        elif _BEGINS.match(text, begin):
            before = text[max(0, start - _LOOKED_BACK) : start].rpartition("\n")[2]
            stop = _tail_end(text, start, begin, limit)
            end = begin + _end(text[begin:stop], before)
            if end == stop and end - begin == _LOOKED_AT:  # too long to be opened, but still an address
                end = min(limit, _REST.match(text, end).end())  # type: ignore[union-attr]
            if end > begin:
                yield start, end
                at = end


def may_be_in(text: str) -> bool:
    """Whether it is worth looking for addresses."""
    return "://" in text or "www." in text or "WWW." in text


def apart(text: str, words: Callable[[str], str], address: Callable[[str], str]) -> str:
    """The text with `words` applied to what is between the addresses, and `address` to the addresses."""
    if not may_be_in(text):
        return words(text)
    parts: list[str] = []
    done = 0
    for start, end in find(text):
        parts += [words(text[done:start]), address(text[start:end])]
        done = end
    return "".join([*parts, words(text[done:])])


def whole(source: str) -> bool:
    """Whether Markdown leaves all addresses of a text intact, or nothing can be done about it."""
    if not may_be_in(source) or _WRITTEN_MARK.search(source):  # a text that could be confused with stand-ins gets none
        return True
    at = 0
    while (match := _START.search(source, at)) is not None:
        at = _TAIL.match(source, match.end()).end()  # type: ignore[union-attr]  # it matches anywhere
        if _SPECIAL.search(source, match.end(), at):
            return False
    return True


def stand_ins(source: str, spans: Sequence[Span]) -> tuple[str, list[str]]:
    """The text with a stand-in for each address, and the addresses."""
    parts: list[str] = []
    done = 0
    for number, (start, end) in enumerate(spans):
        parts += [source[done:start], f"{MARK}{number}{MARK}"]
        done = end
    return "".join([*parts, source[done:]]), [source[start:end] for start, end in spans]


def in_characters(content: bytes, spans: Iterable[Span]) -> list[Span]:
    """Spans of UTF-8 bytes as spans of characters."""
    found: list[Span] = []
    done = characters = 0
    for start, end in spans:
        characters += len(content[done:start].decode())
        length = len(content[start:end].decode())
        found.append((characters, characters + length))
        characters += length
        done = end
    return found


def restored(text: str, addresses: Sequence[str]) -> str:
    """The text with the addresses put back."""
    return STAND_IN.sub(lambda match: addresses[int(match[1])], text)


def _tail_end(text: str, start: int, begin: int, limit: int) -> int:
    """How far an address may extend: to white space, or to the mark that closes what it is written in."""
    stop = min(_TAIL.match(text, begin).end(), limit)  # type: ignore[union-attr]
    closing = {"<": ">", '"': '"', "`": "`"}.get(text[start - 1 : start])
    if closing is not None and (found := text.find(closing, begin, stop)) >= 0:
        stop = found
    if text[stop - 1 : stop] == "\\":  # a hard line break
        stop -= 1
    return stop


def _end(tail: str, before: str) -> int:
    """How much of what follows the scheme belongs to the address; 0: it is not an address. `before`: the text before it on its line."""
    if not tail.isascii():
        tail = tail[: _foreign_end(tail, before)]
    return _trimmed(_within_brackets(tail))


def _within_brackets(tail: str) -> str:
    """Without what follows a ] that closes a [ before the address."""
    if "]" not in tail:
        return tail
    depth = 0
    for index, character in enumerate(tail):
        depth += (character == "[") - (character == "]")
        if depth < 0:
            return tail[:index]
    return tail


def _trimmed(tail: str) -> int:
    """GFM's rule: punctuation, an entity and unmatched closing brackets at the end belong to the sentence."""
    extra = tail.count(")") - tail.count("(")
    end = len(tail)
    while end:
        last = tail[end - 1]
        if last == ")" and extra > 0:
            extra -= 1
        elif last == ";" and (entity := _ENTITY.search(tail, max(0, end - 40), end - 1)):
            end = entity.start() + 1
        elif last not in "?!.,:;*_~'\"":
            break
        end -= 1
    return end


# ---------------------------------------------------------------------------------------------- beyond ASCII


def _foreign_end(tail: str, before: str) -> int:
    """Where Korean, Chinese or Japanese words begin that do not belong to the address."""
    path = _PATH.search(tail)
    host_end = path.start() if path else len(tail)
    host = tail.rfind("@", 0, host_end) + 1
    for match in _IN_HOST.finditer(tail, host, host_end):
        label = max(host, tail.rfind(".", host, match.start()) + 1)
        if tail[label].isascii():
            return match.start()
    for match in _FIRST_CJK.finditer(tail, host_end):
        if _ends_before(tail, match.start(), before):
            return match.start()
    return len(tail)


def _ends_before(tail: str, start: int, before: str) -> bool:
    last, first = tail[start - 1], tail[start]
    if last in _MARKS:  # it closes what was opened before the address
        return before.count(last) % 2 == 1 or before.endswith(last)
    if last in _BRACKETS and tail.count(last, 0, start) > tail.count(_BRACKETS[last], 0, start):
        return True
    if not last.isalnum() and last not in _BRACKETS:
        return False
    if first in _OPENING or _HIRAGANA.match(first):
        return True
    run = _RUN.match(tail, start)
    return run is not None and run[0] in _PARTICLES
