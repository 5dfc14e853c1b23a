"""How commands print: tables and plain lines for people, JSON for programs, complaints on standard error.

rich is imported where something is printed: the service itself prints nothing that way.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")

Stream = Literal["stdout", "stderr"]
STYLES = {
    "delivered": "green",
    "pending": "yellow",
    "failed": "red",
    "expired": "red",
    "cancelled": "dim",
    "skipped": "dim",
    "unknown": "yellow",
}


def console(stream: Stream = "stdout") -> Console:
    """A console that takes text literally: names of handlers are never markup."""
    from rich.console import Console

    return Console(stderr=stream == "stderr", markup=False, emoji=False, highlight=False)


def one_line(text: str) -> str:
    """Text from elsewhere made fit for a terminal: no control characters, no line breaks."""
    return _CONTROL.sub(" ", text).strip()


def say(text: str) -> None:
    """One line of result on standard output."""
    console().print(text, soft_wrap=True)


def lines(text: str) -> None:
    """Text from elsewhere on standard output, keeping its line breaks but no other control characters."""
    console().print("\n".join(_CONTROL.sub(" ", line) for line in text.split("\n")), soft_wrap=True)


def complain(text: str) -> None:
    """One line on standard error."""
    console("stderr").print(f"tocsin: {text}", soft_wrap=True)


def note(text: str) -> None:
    """One line for people on standard error, so that standard output contains only the result."""
    console("stderr").print(text, soft_wrap=True)


def as_json(value: object) -> None:
    """The value as indented JSON on standard output."""
    try:
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    except (UnicodeEncodeError, OverflowError):  # bytes that are not UTF-8, in paths; numbers of more than 64 bits
        text = json.dumps(msgspec.to_builtins(value), indent=2)
    write_json(f"{text}\n")


def write_json(text: str) -> None:
    """JSON on standard output; letters that its encoding lacks are escaped, so that nothing is lost."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)
    sys.stdout.write(text)


def status_text(status: str) -> Text:
    from rich.text import Text

    return Text(status, style=STYLES.get(status, ""))


_STATES = {"ok": "green", "failing": "red", "switched_off": "red", "unconfirmed": "yellow", "paused": "dim"}


def state_text(state: str) -> Text:
    """A handler's state."""
    from rich.text import Text

    return Text(state.replace("_", " "), style=_STATES.get(state, ""))


def table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Rows under their headings on standard output. Nothing is cut: a narrow terminal wraps the lines itself."""
    from rich.text import Text

    lines = [[Text(heading, style="bold") for heading in headings]]
    lines += [[cell if isinstance(cell, Text) else Text(one_line(cell)) for cell in row] for row in rows]
    widths = [max(cell.cell_len for cell in column) for column in zip(*lines, strict=True)]
    out = console()
    for *first, last in lines:
        line = Text()
        for cell, width in zip(first, widths, strict=False):
            line.append_text(cell).append(" " * (width - cell.cell_len + 2))
        out.print(line.append_text(last), soft_wrap=True)
