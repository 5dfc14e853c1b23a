"""A Markdown document as a small tree, the one form that every dialect renders from."""

from typing import TypeAlias

from msgspec import Struct

# ------------------------------------------------------------------------------------------------------ inside a line


class Text(Struct, frozen=True):
    """Words as they are to be read: nothing in them is markup."""

    text: str


class Code(Struct, frozen=True):
    text: str


class Break(Struct, frozen=True):
    """A line break; a soft one may become a space."""

    hard: bool = False


class Strong(Struct, frozen=True):
    inside: "tuple[Inline, ...]"


class Emphasis(Struct, frozen=True):
    inside: "tuple[Inline, ...]"


class Strike(Struct, frozen=True):
    inside: "tuple[Inline, ...]"


class Link(Struct, frozen=True):
    """`inside` is what is read; it equals `url` for an autolink."""

    url: str
    inside: "tuple[Inline, ...]"


class Image(Struct, frozen=True):
    """Shown as a link everywhere: a notification loads nothing from elsewhere. `inside` is the alternative text."""

    url: str
    inside: "tuple[Inline, ...]"


Inline: TypeAlias = Text | Code | Break | Strong | Emphasis | Strike | Link | Image

# ------------------------------------------------------------------------------------------------------------- blocks


class Paragraph(Struct, frozen=True):
    inside: tuple[Inline, ...]


class Verbatim(Paragraph, frozen=True):
    """A plain text, whose line breaks and spaces stay as they are. It holds texts, hard breaks, and links whose label is their address."""


class Heading(Struct, frozen=True):
    level: int
    inside: tuple[Inline, ...]


class CodeBlock(Struct, frozen=True):
    text: str
    language: str = ""


class Quote(Struct, frozen=True):
    inside: "tuple[Block, ...]"


class Item(Struct, frozen=True):
    """One item of a list. `checked`: None unless it is a task."""

    inside: "tuple[Block, ...]"
    checked: bool | None = None


class Listing(Struct, frozen=True):
    """A list. `start` is the first number of an ordered one, None for bullets. `tight`: no blank lines between items."""

    items: tuple[Item, ...]
    start: int | None = None
    tight: bool = True


class Table(Struct, frozen=True):
    """Rows of cells; the first row is the head."""

    rows: tuple[tuple[tuple[Inline, ...], ...], ...]


class Rule(Struct, frozen=True):
    """A thematic break."""


Row: TypeAlias = tuple[tuple[Inline, ...], ...]
Block: TypeAlias = Paragraph | Heading | CodeBlock | Quote | Listing | Table | Rule
Document: TypeAlias = tuple[Block, ...]
