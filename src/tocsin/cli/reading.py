"""Text from arguments and standard input. Bytes that are not UTF-8, as cron jobs and old devices write, are replaced."""

import codecs
import re
import sys

from tocsin.cli import show
from tocsin.model import MAX_MESSAGE_BYTES

_MARKED_ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_UNREADABLE = re.compile("[\udc80-\udcff\0]")  # an undecodable byte, or the one character that a text may not contain
_MAX_READ = 64 * MAX_MESSAGE_BYTES


def argument(text: str, what: str) -> str:
    """An argument whose unreadable bytes are replaced; `what` names it on standard error."""
    return _decoded(text.encode("utf-8", "surrogateescape"), what)


def standard_input() -> str:
    """The text on standard input, without line ends at its end. A byte order mark names the encoding."""
    content = sys.stdin.buffer.read(_MAX_READ)
    while sys.stdin.buffer.read(_MAX_READ):
        pass  # read to its end, or the program that writes it would fail
    return _decoded(content, "standard input").rstrip("\r\n")


def cut_to_limit(message: str) -> str:
    """The message, cut to what fits, at the end of a line if possible: its last line and standard error say so."""
    encoded = message.encode()
    if len(encoded) <= MAX_MESSAGE_BYTES:
        return message
    last_line = f"(The message was cut here: a notification takes {MAX_MESSAGE_BYTES:,} bytes.)"
    kept = encoded[: MAX_MESSAGE_BYTES - len(last_line) - 2]
    line_end = kept.rfind(b"\n")
    if line_end > len(kept) // 2:
        kept = kept[:line_end]
    show.note(f"The message is longer than the {MAX_MESSAGE_BYTES:,} bytes that a notification takes: only its beginning was sent.")
    return f"{kept.decode(errors='ignore')}\n\n{last_line}"


def _decoded(content: bytes, what: str) -> str:
    encoding = "utf-8"
    for mark, marked_encoding in _MARKED_ENCODINGS:
        if content.startswith(mark):
            encoding, content = marked_encoding, content[len(mark) :]
            break
    if encoding == "utf-8":
        text, replaced = _UNREADABLE.subn(_REPLACEMENT, content.decode("utf-8", "surrogateescape"))
    else:
        text = content.decode(encoding, "replace").replace("\0", _REPLACEMENT)
        replaced = text.count(_REPLACEMENT)
    if replaced:
        how_many = "1 byte" if replaced == 1 else f"{replaced:,} bytes"
        show.note(f"{how_many} of {what} could not be read as {encoding.upper()} and became {_REPLACEMENT}.")
    return text
