"""Markdown for Discord: its own dialect, everything the author did not mean as markup escaped with a backslash.

https://support.discord.com/hc/en-us/articles/210298617 (Markdown Text 101)
"""

import re
from collections.abc import Callable, Sequence

from tocsin.markup import tree
from tocsin.markup.addresses import apart, find, may_be_in
from tocsin.markup.elements import Element
from tocsin.markup.plain import plain
from tocsin.markup.remembered import Remembered, once
from tocsin.markup.renderer import Renderer, bare_url, code_span, fenced, is_bare, prefixed, words

_ESCAPES = str.maketrans({character: f"\\{character}" for character in "\\*_~|`[]()<@"})
_EMOJI = re.compile(r":(?=(?:[A-Za-z0-9+-]|\\[_~])+:)")  # what Discord may take for an emoji's name, after escaping
_LINE_START = re.compile(r"^([ \t]*)(?:([#>+-])|(\d{1,9})([.)]))", re.MULTILINE)
_TAKEN = re.compile(r"https?://[^\s<>]+", re.IGNORECASE)  # between angle brackets
# Discord shows each emoji as a picture: these, and the keycaps, by their last character (https://unicode.org/Public/emoji/latest/).
_PICTURE = re.compile(
    "[\u00a9\u00ae\u203c\u2049\u20e3\u2122\u2139\u2194-\u2199\u21a9\u21aa\u231a-\u23ff\u24c2\u25aa-\u25fe\u2600-\u27bf"
    "\u2934\u2935\u2b05-\u2b55\u3030\u303d\u3297\u3299\U0001f004-\U0001faff]"
)
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


def plainly(document: tree.Document) -> str:
    """Without any elements but emoji, for when there are more than Discord shows; even addresses become words."""
    return _escape_line_starts(_inert(plain(document)).replace("://", "\\://"))


def without_pictures(document: tree.Document) -> str:
    """The same, with emoji as characters: that is what a backslash before them does."""
    return _PICTURE.sub(r"\\\g<0>", plainly(document))


def pictures_in(document: tree.Document) -> int:
    """How many emoji `plainly` leaves."""
    text = plain(document)
    return 0 if text.isascii() else len(_PICTURE.findall(text))


def elements_in(text: str) -> int:
    """How many elements an escaped text contains: addresses and emoji."""
    addresses = sum(1 for _ in find(text)) if may_be_in(text) else 0
    return addresses + (0 if text.isascii() else len(_PICTURE.findall(text)))


class Elements:
    """Counts the elements of a document, of which Discord shows a limited number; each block is counted once, so cutting is cheap."""

    def __init__(self) -> None:
        self._block = once(self._of_block)
        self._item = once(self._of_item)
        self._inline = once(self._of_inline)

    def document(self, document: Sequence[tree.Block]) -> int:
        return sum(map(self._block, document))

    def _of_block(self, block: tree.Block) -> int:
        match block:
            case tree.Paragraph():
                return sum(map(self._inline, block.inside))
            case tree.Heading():
                return 1 + sum(map(self._inline, block.inside))
            case tree.Listing():
                return sum(map(self._item, block.items))
            case tree.Quote():
                return 1 + self.document(block.inside)
            case tree.CodeBlock() | tree.Table() | tree.Rule():
                return 1

    def _of_item(self, item: tree.Item) -> int:
        return self.document(item.inside)

    def _of_inline(self, node: tree.Inline) -> int:
        match node:
            case tree.Text():
                return 0 if node.text.isascii() and "://" not in node.text else elements_in(node.text)
            case tree.Break():
                return 0
            case tree.Code():
                return 1
            case tree.Link() if node.inside == (tree.Text(node.url),):
                return 1
            case _:
                return 1 + sum(map(self._inline, node.inside))


def escape(text: str) -> str:
    """Escapes a text so that nothing in it becomes markup, a mention or an emoji; addresses stay whole links, in angle brackets."""
    return _escape_line_starts(apart(text, _inert, linked))


def linked(address: str) -> str:
    """In angle brackets, so that nothing in it is read as markup. Where Discord makes no link of it, it is escaped as other words are."""
    address_in_brackets = address.replace(">", "%3E")
    return f"<{address_in_brackets}>" if _TAKEN.fullmatch(address_in_brackets) else _inert(address)


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
        return apart(text, _inert, linked) if "://" in text else _inert(text)

    def code(self, text: str) -> str:
        return code_span(text)

    def strong(self, node: tree.Strong) -> str:
        return _marked("**", self.inlines(node.inside))

    def emphasis(self, node: tree.Emphasis) -> str:
        return _marked("*", self.inlines(node.inside))

    def strike(self, node: tree.Strike) -> str:
        return _marked("~~", self.inlines(node.inside))

    def link(self, node: tree.Link) -> str:
        """Angle brackets keep an address from being read as markup. Discord accepts no label that looks like an address."""
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
    """Discord ends a mark at the next one, even within code and addresses: such words are sent without it."""
    bare = _ESCAPED.sub("", inside)
    is_torn = "*" in bare.replace("**", "") if mark == "*" else mark in bare
    return f"{mark}{inside}{mark}" if inside.strip() and not is_torn else inside


class _Remembering(Remembered, _Discord):
    pass


_DISCORD = _Discord()
