"""Text from arguments and standard input. Bytes that are not UTF-8, as cron jobs and old devices write, are replaced."""

import codecs
import re
import sys
from collections.abc import Sequence
from inspect import BoundArguments, Parameter
from typing import cast

from tocsin.cli import show
from tocsin.cli.failure import Failure, Usage
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
_PATHS = {"data_dir", "unix_socket"}  # beside those whose type is Path: files may have any name
_PEOPLE = {"email", "user"}  # whom no other text names


def make_readable(given: BoundArguments) -> None:
    """Replaces the unreadable bytes in a command's arguments; standard error says in which. Raises Usage where that makes no sense."""
    for name, value in given.arguments.items():
        if name in _PATHS:
            continue
        is_option = given.signature.parameters[name].kind is Parameter.KEYWORD_ONLY
        what = f"--{name.replace('_', '-')}" if is_option else f"the {name}"
        if isinstance(value, str):
            given.arguments[name] = readable = _argument(value, what)
            if name in _PEOPLE and readable.count(_REPLACEMENT) > value.count(_REPLACEMENT):
                raise Usage(f"No address contains {_REPLACEMENT}: {what} must be UTF-8.")
        elif isinstance(value, list | tuple):
            parts = cast("Sequence[object]", value)
            given.arguments[name] = [_argument(part, what) if isinstance(part, str) else part for part in parts]


def _argument(text: str, what: str) -> str:
    return _decoded(text.encode("utf-8", "surrogateescape"), what)


def hidden(prompt: str) -> str:
    """A secret that is typed on the terminal."""
    from getpass import getpass

    try:
        return getpass(prompt)
    except UnicodeDecodeError:
        raise Failure("What was typed cannot be read as text: write it to standard input, in UTF-8.") from None


def first_line() -> str:
    """The first line of standard input, in which nothing may be replaced."""
    try:
        return sys.stdin.buffer.readline().decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise Failure("Standard input cannot be read as UTF-8.") from None


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
