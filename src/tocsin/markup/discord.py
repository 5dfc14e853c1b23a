"""Markdown for Discord: its own dialect, everything the author did not mean as markup escaped with a backslash.

https://support.discord.com/hc/en-us/articles/210298617 (Markdown Text 101)
"""

import re
from collections.abc import Callable

from tocsin.markup import tree
from tocsin.markup.addresses import find, may_be_in
from tocsin.markup.elements import Element
from tocsin.markup.remembered import Remembered
from tocsin.markup.renderer import Renderer, bare_url, fenced, is_bare, prefixed, words

_ESCAPES = str.maketrans({character: f"\\{character}" for character in "\\*_~|`[]()<@"})
_EMOJI = re.compile(r":(?=(?:[A-Za-z0-9+-]|\\[_~])+:)")  # what Discord may take for the name of one, escaped already
_LINE_START = re.compile(r"^([ \t]*)(?:([#>+-])|(\d{1,9})([.)]))", re.MULTILINE)
_TAKEN = re.compile(r"https?://[^\s<>]+", re.IGNORECASE)  # between angle brackets
_FENCE_RUN = re.compile("`+")
_ESCAPED = re.compile(r"\\.", re.DOTALL)
MAX_HEADING = 3
BECOMES = {
    Element.MAIL_LINK: "its text and address",
    Element.IMAGE: "a link",
    Element.SMALL_HEADING: "bold text",
    Element.TASK: "☑ and ☐",
    Element.NESTED_QUOTE: "part of the outer quote",
    Element.TABLE: "lines in a fixed-width font",
    Element.RULE: "a line",
}


def discord(document: tree.Document) -> str:
    return _DISCORD.document(document)


def remembering() -> Callable[[tree.Document], str]:
    """`discord` for one document and its cuts."""
    return _Remembering().document


def escape(text: str) -> str:
    """Words that nothing in turns into markup, a mention or an emoji; addresses stay links, whole, between angle brackets."""
    if not may_be_in(text):
        return _escape_line_starts(_inert(text))
    parts: list[str] = []
    done = 0
    for start, end in find(text):
        if _TAKEN.fullmatch(text, start, end):
            parts += [_inert(text[done:start]), f"<{text[start:end]}>"]
            done = end
    return _escape_line_starts("".join([*parts, _inert(text[done:])]))


def _inert(text: str) -> str:
    text = text.translate(_ESCAPES)
    return _EMOJI.sub(r"\\:", text) if text.count(":") > 1 else text


def _escape_line_starts(text: str) -> str:
    return _LINE_START.sub(lambda match: match[1] + (f"\\{match[2]}" if match[2] else f"{match[3]}\\{match[4]}"), text)


class _Discord(Renderer):
    def __init__(self, quoted: bool = False) -> None:
        self._quoted = quoted
        self._inside: _Discord = self if quoted else type(self)(True)

    def text(self, text: str) -> str:
        return _inert(text)

    def code(self, text: str) -> str:
        fence = "`" * (max((len(run) for run in _FENCE_RUN.findall(text)), default=0) + 1)
        pad = " " if text.startswith("`") or text.endswith("`") else ""
        return f"{fence}{pad}{text}{pad}{fence}"

    def strong(self, node: tree.Strong) -> str:
        return _marked("**", self.inlines(node.inside))

    def emphasis(self, node: tree.Emphasis) -> str:
        return _marked("*", self.inlines(node.inside))

    def strike(self, node: tree.Strike) -> str:
        return _marked("~~", self.inlines(node.inside))

    def link(self, node: tree.Link) -> str:
        """Angle brackets keep an address from being read as markup. A label that looks like an address is not taken as a link."""
        if node.url.startswith("mailto:"):
            address = self.text(bare_url(node.url))
            return address if is_bare(node) else f"{self.inlines(node.inside)} ({address})"
        if is_bare(node):
            return f"<{node.url}>"
        label = self.inlines(node.inside).replace("\n", " ")
        if "://" in words(node.inside):
            return f"{label} (<{node.url}>)"
        return f"[{label}]({node.url.replace('(', '%28').replace(')', '%29')})"

    def paragraph(self, block: tree.Paragraph) -> str:
        return _escape_line_starts(self.inlines(block.inside))

    def heading(self, block: tree.Heading) -> str:
        line = _escape_line_starts(super().heading(block))
        if not line:
            return ""
        return f"{'#' * block.level} {line}" if block.level <= MAX_HEADING else _marked("**", line)

    def code_block(self, block: tree.CodeBlock) -> str:
        return fenced(block.text, block.language)

    def table(self, block: tree.Table) -> str:
        return fenced(self.grid(block))

    def quote(self, block: tree.Quote) -> str:
        """Quotes do not nest in Discord: an inner one becomes part of the outer."""
        if self._quoted:
            return self.blocks(block.inside)
        return prefixed(self._inside.blocks(block.inside), "> ")


def _marked(mark: str, inside: str) -> str:
    """Discord ends a mark at the next one, even within code and addresses: there the words go without it."""
    bare = _ESCAPED.sub("", inside)
    is_torn = "*" in bare.replace("**", "") if mark == "*" else mark in bare
    return f"{mark}{inside}{mark}" if inside.strip() and not is_torn else inside


class _Remembering(Remembered, _Discord):
    pass


_DISCORD = _Discord()
