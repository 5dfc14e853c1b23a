"""What the dialects that are lines of text have in common: how blocks, lists, quotes and tables are laid out.

By itself it renders readable plain text; a dialect overrides what it marks up or escapes.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import TypeAlias
from urllib.parse import unquote

from tocsin.markup import tree

WORD_JOINER = "\u2060"  # has no width and allows no line break
_FENCE_RUN = re.compile("`+")
_FENCE_INSIDE = re.compile("`(?=``)")
_LINE_BREAK = re.compile(r"\n(?!\n)")
Cell: TypeAlias = tuple[str, int]  # its words, and their width in columns
_WIDEST_COLUMN = 40  # a wider cell overflows its column, so that one long cell does not widen all rows


class Renderer:
    def document(self, document: tree.Document) -> str:
        return self.blocks(document).strip("\n")

    # ----------------------------------------------------------------------------------------------- inside a line

    def inlines(self, nodes: Sequence[tree.Inline]) -> str:
        return "".join([self.inline(node) for node in nodes])

    def inline(self, node: tree.Inline) -> str:
        match node:
            case tree.Text():
                return self.text(node.text)
            case tree.Break():
                return self.line_break(node)
            case tree.Code():
                return self.code(node.text)
            case tree.Strong():
                return self.strong(node)
            case tree.Emphasis():
                return self.emphasis(node)
            case tree.Strike():
                return self.strike(node)
            case tree.Link():
                return self.link(node)
            case tree.Image():
                return self.image(node)

    def text(self, text: str) -> str:
        return text

    def line_break(self, _: tree.Break) -> str:
        """Soft breaks count as well: in an alert a line is meant as a line."""
        return "\n"

    def code(self, text: str) -> str:
        return self.text(text)

    def strong(self, node: tree.Strong) -> str:
        return self.inlines(node.inside)

    def emphasis(self, node: tree.Emphasis) -> str:
        return self.inlines(node.inside)

    def strike(self, node: tree.Strike) -> str:
        """Marked even where nothing else is: struck words that look valid would mislead."""
        return f"~{self.inlines(node.inside)}~"

    def link(self, node: tree.Link) -> str:
        """The label and the address behind it, or the address alone where they are the same."""
        if is_bare(node):
            return self.text(bare_url(node.url))
        return f"{self.inlines(node.inside)} ({self.text(bare_url(node.url))})"

    def image(self, node: tree.Image) -> str:
        return self.link(tree.Link(node.url, node.inside))

    # ------------------------------------------------------------------------------------------------------ blocks

    def blocks(self, blocks: Sequence[tree.Block], between: str = "\n\n") -> str:
        return between.join([text for text in map(self.block, blocks) if text])

    def block(self, block: tree.Block) -> str:
        match block:
            case tree.Paragraph():
                return self.paragraph(block)
            case tree.Heading():
                return self.heading(block)
            case tree.CodeBlock():
                return self.code_block(block)
            case tree.Listing():
                return self.listing(block)
            case tree.Quote():
                return self.quote(block)
            case tree.Table():
                return self.table(block)
            case tree.Rule():
                return self.rule()

    def paragraph(self, block: tree.Paragraph) -> str:
        return self.inlines(block.inside)

    def heading(self, block: tree.Heading) -> str:
        return " ".join(self.inlines(block.inside).split("\n"))

    def code_block(self, block: tree.CodeBlock) -> str:
        return self.text(block.text)

    def quote(self, block: tree.Quote) -> str:
        inner, depth = innermost(block)
        return prefixed(self.blocks(inner.inside), "> " * depth)

    def listing(self, block: tree.Listing) -> str:
        between = "\n" if block.tight else "\n\n"
        return between.join([self.item(item, self.marker(block, index), between) for index, item in enumerate(block.items)])

    def marker(self, block: tree.Listing, index: int) -> str:
        return marker(block, index)

    def item(self, item: tree.Item, marker: str, between: str) -> str:
        box = "" if item.checked is None else self.task(item.checked)
        inside = self.blocks(item.inside, between)
        return marker + box + self.indented(inside, len(marker))

    def indented(self, text: str, width: int) -> str:
        """All lines but the first, indented."""
        return _LINE_BREAK.sub("\n" + " " * width, text)

    def task(self, checked: bool) -> str:
        return "☑ " if checked else "☐ "

    def table(self, block: tree.Table) -> str:
        return self.text(self.grid(block))

    def grid(self, block: tree.Table) -> str:
        return grid(block)

    def rule(self) -> str:
        return "──────────"


# ------------------------------------------------------------------------------------------------------- small parts


def words(nodes: Sequence[tree.Inline]) -> str:
    """The visible words of a line, on one line and without any marks."""
    parts: list[str] = []
    for node in nodes:
        match node:
            case tree.Text() | tree.Code():
                parts.append(node.text)
            case tree.Break():
                parts.append(" ")
            case _:
                parts.append(words(node.inside))
    return "".join(parts)


def is_bare(node: tree.Link | tree.Image) -> bool:
    """Whether the label is the address itself, as it was written or as it had to be encoded."""
    if len(node.inside) != 1 or not isinstance(node.inside[0], tree.Text):
        return False
    label = node.inside[0].text
    return label in (node.url, bare_url(node.url), node.url.removeprefix("http://")) or unquote(label).lower() in (
        unquote(node.url).lower(),
        unquote(bare_url(node.url)).lower(),
    )


def bare_url(url: str) -> str:
    """An address as people write it: a mail address without its scheme."""
    return url.removeprefix("mailto:")


def marker(block: tree.Listing, index: int) -> str:
    return "- " if block.start is None else f"{block.start + index}. "


def innermost(block: tree.Quote) -> tuple[tree.Quote, int]:
    """The first of quotes within quotes that holds anything else, and how deep it is: all their marks are set at once."""
    depth = 1
    while len(block.inside) == 1 and isinstance(inside := block.inside[0], tree.Quote):
        block = inside
        depth += 1
    return block, depth


def prefixed(text: str, prefix: str) -> str:
    """Every line with `prefix` before it; an empty text stays empty."""
    return prefix + text.replace("\n", "\n" + prefix) if text else ""


def fenced(code: str, language: str = "") -> str:
    """A code block between fences; a fence inside is broken by characters without width."""
    return f"```{language}\n{_FENCE_INSIDE.sub('`' + WORD_JOINER, code)}\n```"


def cells(row: tree.Row) -> list[Cell]:
    """The visible words of a row's cells, each on one line, with their width."""
    texts = [" ".join(_cell(cell).split()) for cell in row]
    return [(text, display_width(text)) for text in texts]


def grid(block: tree.Table, cells: Callable[[tree.Row], list[Cell]] = cells) -> str:
    """A table as lines whose columns align in a fixed-width font, with a rule under the head."""
    rows = [cells(row) for row in block.rows]
    columns = max(map(len, rows), default=0)
    widths = [0] * columns
    for row in rows:
        for column, (_, width) in enumerate(row):
            if width > widths[column]:
                widths[column] = min(_WIDEST_COLUMN, width)
    lines = [" | ".join([text + " " * (widths[column] - width) for column, (text, width) in enumerate(row)]).rstrip() for row in rows]
    if len(lines) > 1:
        lines.insert(1, "-+-".join("-" * width for width in widths))
    return "\n".join(lines)


def _cell(nodes: Sequence[tree.Inline]) -> str:
    return "".join([_cell_words(node) for node in nodes])


def _cell_words(node: tree.Inline) -> str:
    if isinstance(node, tree.Link | tree.Image) and not is_bare(node):
        return f"{words(node.inside)} ({bare_url(node.url)})"
    return words((node,))


def display_width(text: str) -> int:
    """Columns that a text takes in a fixed-width font: wide East Asian characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(_width(character) for character in text)


def _width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def code_span(text: str) -> str:
    """Code within a line, in one backtick more than its longest run of them."""
    fence = "`" * (max((len(run) for run in _FENCE_RUN.findall(text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def marked(mark: str, inside: str) -> str:
    """Marks that touch their words and close on the same line: others would be shown."""
    return "\n".join(_marked_line(mark, line) for line in inside.split("\n"))


def _marked_line(mark: str, line: str) -> str:
    words = line.strip()
    if not words:
        return line
    before, _, after = line.partition(words)
    return f"{before}{mark}{words}{mark}{after}"
