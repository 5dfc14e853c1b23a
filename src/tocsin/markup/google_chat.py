"""Markdown as the text of a Google Chat card: a small subset of HTML, in which what an author writes can be escaped.

https://developers.google.com/workspace/chat/format-messages#format-cards: bold, italic, strikethrough, links, line breaks. The markup of
text messages has code and lists, but no escape.
"""

import re
from collections.abc import Callable
from html import escape

from tocsin.markup import tree
from tocsin.markup.elements import Element
from tocsin.markup.remembered import Remembered
from tocsin.markup.renderer import Renderer, bare_url, innermost, is_bare, marker, prefixed

_SPACES = re.compile(r"(?m)^ +| {2,}")
_TAB = "    "  # a card shows a tab as one space
_LINES = "lines, without a fixed-width font"
BECOMES = {
    Element.CODE: "plain words",
    Element.IMAGE: "a link",
    Element.HEADING: "bold text",
    Element.SMALL_HEADING: "bold text",
    Element.BULLETS: "lines with bullets",
    Element.NUMBERS: "numbered lines",
    Element.NESTED_LIST: "indented lines",
    Element.TASK: "☑ and ☐",
    Element.CODE_BLOCK: _LINES,
    Element.LANGUAGE: "nothing: the code is shown without it",
    Element.QUOTE: "lines after >",
    Element.NESTED_QUOTE: "lines after > >",
    Element.TABLE: _LINES,
    Element.RULE: "a line",
}


def google_chat(document: tree.Document) -> str:
    return lines(_GOOGLE_CHAT.document(document))


def remembering() -> Callable[[tree.Document], str]:
    """`google_chat` for one document and its cuts."""
    render = _Remembering().document
    return lambda document: lines(render(document))


def lines(html: str) -> str:
    """HTML in which line breaks and runs of spaces are kept."""
    return _SPACES.sub(lambda run: "\u00a0" * len(run[0]), html).replace("\n", "<br>")


class _GoogleChat(Renderer):
    def text(self, text: str) -> str:
        return escape(text)

    def strong(self, node: tree.Strong) -> str:
        return f"<b>{self.inlines(node.inside)}</b>"

    def emphasis(self, node: tree.Emphasis) -> str:
        return f"<i>{self.inlines(node.inside)}</i>"

    def strike(self, node: tree.Strike) -> str:
        return f"<s>{self.inlines(node.inside)}</s>"

    def link(self, node: tree.Link) -> str:
        label = escape(bare_url(node.url)) if is_bare(node) else self.inlines(node.inside)
        return f'<a href="{escape(node.url)}">{label}</a>'

    def paragraph(self, block: tree.Paragraph) -> str:
        text = super().paragraph(block)
        return text.replace("\t", _TAB) if isinstance(block, tree.Verbatim) else text

    def heading(self, block: tree.Heading) -> str:
        line = super().heading(block)
        return f"<b>{line}</b>" if line else ""

    def table(self, block: tree.Table) -> str:
        return escape(self.grid(block))

    def quote(self, block: tree.Quote) -> str:
        inner, depth = innermost(block)
        return prefixed(self.blocks(inner.inside), "&gt; " * depth)

    def marker(self, block: tree.Listing, index: int) -> str:
        return "• " if block.start is None else marker(block, index)


class _Remembering(Remembered, _GoogleChat):
    pass


_GOOGLE_CHAT = _GoogleChat()
