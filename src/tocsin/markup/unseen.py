"""What a terminal would act on and what nobody can see: terminal sequences, overstrike, invisible characters, overrides left open."""

import re

# ECMA-48 (https://ecma-international.org/publications-and-standards/standards/ecma-48/), with ESC or as a character of its own. Control
# strings end with ST, an OSC with BEL, too; without an end only the beginning is removed, so that no words are lost with it. None contains
# another C1 control character, which keeps the time linear.
_SEQUENCE = re.compile(
    r"(?:\x1b\]|\x9d)8;[^;\x07\x1b\x80-\x9f\n]*;(?P<url>[^\x07\x1b\x80-\x9f\n]*)(?:\x07|\x1b\\|\x9c)"  # a link begins; empty: it ends
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x80-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|(?:\x1b[PX^_k]|[\x90\x98\x9e\x9f])[^\x1b\x80-\x9f]*(?:\x1b\\|\x9c)"
    r"|(?:\x1b\]|\x9d)(?:[0-9]{1,4};)?"
    r"|\x1b\[[0-?]*[ -/]*[@-~]?|\x9b[0-?]*[ -/]*[mABCDEFGHJKSTfhlnrsu]"
    r"|\x1b[ -/]*[0-~]?"
)
_SEAM = "\x1b"  # which no sequence leaves behind
_ADDRESS_END = re.compile(rf"{_SEAM}(?P<is_end>[.,:;!?)\]*_~'\"]*(?:\s|\Z))?")
_SIGNS = "\x1b\x08\x90\x98\x9b\x9d\x9e\x9f"
_OVERSTRUCK = re.compile(r"^.*\x08.*$", re.MULTILINE)
_PDF, _PDI = "\u202c", "\u2069"
_EMBEDDINGS = frozenset("\u202a\u202b\u202d\u202e")
_ISOLATES = frozenset("\u2066\u2067\u2068")
_TURNING = "\u202a\u202b\u202d\u202e\u2066\u2067\u2068"
_TURNED_LINE = re.compile(f"^.*[{_TURNING}].*$", re.MULTILINE)
_MARKS_AT_END = " \t|\\*_~`"
# White space, control characters, and what Unicode calls ignorable by default; fillers and the blank Braille pattern have no ink either.
_VISIBLE = re.compile(
    "[^\\s\x00-\x20\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ud800-\udfff"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def without_sequences(text: str) -> str:
    """The text without terminal sequences; a link becomes its words and address, and what was overstruck is there once."""
    if not any(sign in text for sign in (_SIGNS[:2] if text.isascii() else _SIGNS)):
        return text
    parts: list[str] = []
    done = begun = 0
    url = ""
    for match in _SEQUENCE.finditer(text):
        parts.append(text[done : match.start()])
        done = match.end()
        if match["url"] is None:
            continue
        if url:
            parts.append(_address(url, "".join(parts[begun:])))
        url, begun = match["url"], len(parts)
    parts.append(text[done:])
    if url:
        parts.append(_address(url, "".join(parts[begun:])))
    shown = _ADDRESS_END.sub(lambda seam: " " if seam["is_end"] is None else seam["is_end"], "".join(parts))
    return _OVERSTRUCK.sub(lambda line: _struck_once(line[0]), shown)


def _address(url: str, words: str) -> str:
    """Ends with a seam: what follows directly would become a part of the address."""
    if words.strip() == url:
        return ""
    return f" ({url}){_SEAM}" if words.strip() else f"{url}{_SEAM}"


def _struck_once(line: str) -> str:
    """What is seen once a terminal or printer has gone back and written over it."""
    shown: list[str] = []
    at = 0
    for character in line:
        if character == "\x08":
            at = max(0, at - 1)
        elif at == len(shown):
            shown.append(character)
            at += 1
        else:
            shown[at] = shown[at] if character == "_" and shown[at] != " " else character
            at += 1
    return "".join(shown)


def closed(text: str) -> str:
    """The text with each override, embedding and isolate closed at the end of its line, so that it turns nothing after that."""
    if text.isascii() or not any(one in text for one in _TURNING):
        return text
    return _TURNED_LINE.sub(lambda line: _closed_line(line[0]), text)


def _closed_line(line: str) -> str:
    ends: list[str] = []
    isolates = 0
    for character in line:
        if character in _EMBEDDINGS:
            ends.append(_PDF)
        elif character in _ISOLATES:
            ends.append(_PDI)
            isolates += 1
        elif character == _PDF and ends[-1:] == [_PDF]:
            ends.pop()
        elif character == _PDI and isolates:
            isolates -= 1
            while ends.pop() != _PDI:
                pass
    if not ends:
        return line
    words = line.rstrip(_MARKS_AT_END)
    return f"{words}{''.join(reversed(ends))}{line[len(words) :]}"


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen."""
    return not _VISIBLE.search(without_sequences(text))
