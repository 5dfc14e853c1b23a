"""Markdown for Slack: `rich_text` elements, in which nothing is escaped, and a text that reads well by itself.

https://docs.slack.dev/reference/block-kit/blocks/rich-text-block
https://docs.slack.dev/messaging/formatting-message-text (only & < > are escaped; mrkdwn has no escape for * _ ~ and backticks)
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from tocsin.markup import tree
from tocsin.markup.elements import Element
from tocsin.markup.length import boundary
from tocsin.markup.remembered import once
from tocsin.markup.renderer import WORD_JOINER, Renderer, bare_url, cells, fenced, grid, is_bare, marker, words

MAX_TEXT = 3000  # characters of one text object
MAX_INDENT = 8
_RULE = "──────────"
_BULLETS = "• "
_WORDS = frozenset({tree.Paragraph, tree.Verbatim, tree.Heading, tree.Rule})  # blocks that share a section with others
BECOMES = {
    Element.IMAGE: "a link",
    Element.HEADING: "bold text",
    Element.SMALL_HEADING: "bold text",
    Element.TASK: "☑ and ☐",
    Element.LANGUAGE: "nothing: the code is shown without it",
    Element.NESTED_QUOTE: "part of the outer quote",
    Element.TABLE: "lines in a fixed-width font",
    Element.RULE: "a line",
}
# Mattermost notifies everybody at a plain "@all"; Slack itself does not.
_PING = re.compile(r"(?<![\w.])@(?=(?:all|channel|everyone|here)\b)")

RichElement: TypeAlias = dict[str, Any]
Style: TypeAlias = Mapping[str, bool]
_NO_STYLE: Style = {}


def escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def neutral(text: str) -> str:
    """Words for `text`: escaped, and without mentions."""
    text = escape(text)
    return _PING.sub("@" + WORD_JOINER, text) if "@" in text else text


def link(url: str, label: str = "") -> str:
    """`<url|label>`, which compatible servers read too."""
    target = escape(url.replace("|", "%7C").replace(">", "%3E").replace("<", "%3C"))
    label = neutral(" ".join(label.replace("|", "¦").split()))
    return f"<{target}|{label}>" if label else f"<{target}>"


# --------------------------------------------------------------------------------------------------------------- text


def text(document: tree.Document) -> str:
    return _TEXT.document(document)


class _Text(Renderer):
    def text(self, text: str) -> str:
        return neutral(text)

    def code(self, text: str) -> str:
        return self.text(text) if "`" in text else f"`{self.text(text)}`"

    def link(self, node: tree.Link) -> str:
        if node.url.startswith("mailto:"):
            return super().link(node)
        return link(node.url, "" if is_bare(node) else words(node.inside))

    def code_block(self, block: tree.CodeBlock) -> str:
        return fenced(self.text(block.text))

    def table(self, block: tree.Table) -> str:
        return fenced(self.text(grid(block)))


_TEXT = _Text()

# ---------------------------------------------------------------------------------------------------------- rich_text


def rich_text(document: Iterable[tree.Block]) -> list[RichElement]:
    """The elements of `rich_text` blocks, none with more than about `MAX_TEXT` characters."""
    builder = _RichText()
    builder.blocks(document)
    builder.end_section()
    return builder.elements


def section(inside: Sequence[RichElement]) -> RichElement:
    return {"type": "rich_text_section", "elements": list(inside)}


def words_element(text: str, **style: bool) -> RichElement:
    return _element(text, style)


def length(elements: Iterable[RichElement]) -> int:
    """Characters in elements, addresses included."""
    total = 0
    for element in elements:
        total += length(element["elements"]) if "elements" in element else len(element["text"]) + len(element.get("url", ""))
    return total


class _RichText:
    def __init__(self) -> None:
        self.elements: list[RichElement] = []
        self._section: list[RichElement] = []

    def blocks(self, blocks: Iterable[tree.Block]) -> None:
        for block in blocks:
            self.block(block)

    def block(self, block: tree.Block) -> None:
        match block:
            case tree.Paragraph():
                self._words(_inlines(block.inside, _NO_STYLE))
            case tree.Heading():
                self._words(_inlines(block.inside, {"bold": True}))
            case tree.Rule():
                self._words([_element(_RULE, _NO_STYLE)])
            case tree.CodeBlock():
                self._preformatted(block.text)
            case tree.Table():
                self._preformatted(grid(block))
            case tree.Quote():
                self._add("rich_text_quote", _flat(block.inside, _NO_STYLE))
            case tree.Listing():
                self._listing(block, 0)

    def end_section(self) -> None:
        inside, self._section = self._section, []
        self._add("rich_text_section", inside)

    def _words(self, inside: list[RichElement]) -> None:
        if self._section and inside:
            self._section.append(_element("\n\n", _NO_STYLE))
        self._section.extend(inside)

    def _preformatted(self, text: str) -> None:
        self._add("rich_text_preformatted", _texts(text, _NO_STYLE))

    def _add(self, kind: str, inside: Sequence[RichElement]) -> None:
        if kind != "rich_text_section":
            self.end_section()
        for part in _parts(_merged(inside)):
            self.elements.append({"type": kind, "elements": part})

    def _listing(self, block: tree.Listing, indent: int) -> None:
        """Nested lists, code and quotes are elements of their own after their item: a list holds nothing but lines."""
        self.end_section()
        pending: list[RichElement] = []
        first = used = 0
        for index, item in enumerate(block.items):
            inside, rest = _item_words(item)
            line = section(_merged(inside))
            size = length([line])
            if pending and used + size > MAX_TEXT:
                self._list(block, indent, first, pending)
                pending, first, used = [], index, 0
            pending.append(line)
            used += size
            if rest:
                self._list(block, indent, first, pending)
                pending, first, used = [], index + 1, 0
                for inner in rest:
                    if isinstance(inner, tree.Listing):
                        self._listing(inner, indent + 1)
                    else:
                        self.block(inner)
                self.end_section()
        if pending:
            self._list(block, indent, first, pending)

    def _list(self, block: tree.Listing, indent: int, first: int, lines: list[RichElement]) -> None:
        style = "bullet" if block.start is None else "ordered"
        element: RichElement = {"type": "rich_text_list", "style": style, "indent": min(indent, MAX_INDENT), "elements": lines}
        if block.start is not None and block.start + first > 1:
            element["offset"] = block.start + first - 1
        self.elements.append(element)


def _item_words(item: tree.Item) -> tuple[list[RichElement], Sequence[tree.Block]]:
    """The words an item begins with, and the blocks after them."""
    inside = [] if item.checked is None else [_element("☑ " if item.checked else "☐ ", _NO_STYLE)]
    count = 0
    for block in item.inside:
        if not isinstance(block, tree.Paragraph | tree.Heading):
            break
        if count:
            inside.append(_element("\n", _NO_STYLE))
        inside.extend(_inlines(block.inside, {"bold": True} if isinstance(block, tree.Heading) else _NO_STYLE))
        count += 1
    return inside or [_element(" ", _NO_STYLE)], item.inside[count:]


def _flat(blocks: Iterable[tree.Block], style: Style, between: str = "\n\n") -> list[RichElement]:
    """Blocks as words and line breaks, for a quote, which holds nothing else."""
    inside: list[RichElement] = []
    for block in blocks:
        if inside:
            inside.append(_element(between, _NO_STYLE))
        match block:
            case tree.Paragraph():
                inside.extend(_inlines(block.inside, style))
            case tree.Heading():
                inside.extend(_inlines(block.inside, {**style, "bold": True}))
            case tree.CodeBlock():
                inside.extend(_texts(block.text, {**style, "code": True}))
            case tree.Table():
                inside.extend(_texts(grid(block), {**style, "code": True}))
            case tree.Quote():
                inside.extend(_flat(block.inside, style))
            case tree.Listing():
                inside.extend(_flat_listing(block, style))
            case tree.Rule():
                inside.append(_element(_RULE, style))
    return inside


def _flat_listing(block: tree.Listing, style: Style) -> list[RichElement]:
    inside: list[RichElement] = []
    for index, item in enumerate(block.items):
        box = "" if item.checked is None else ("☑ " if item.checked else "☐ ")
        bullet = _BULLETS if block.start is None else marker(block, index)
        inside.append(_element(("\n" if index else "") + bullet + box, style))
        inside.extend(_flat(item.inside, style, "\n"))
    return inside


# ------------------------------------------------------------------------------------------------------------ lengths


class Measure:
    """`length` of what `rich_text` makes of documents, without making it; each node is measured once, so cuts of one document are cheap."""

    def __init__(self) -> None:
        self._block = once(self._of_block)
        self._flat_block = once(self._flat_of_block)
        self._item = once(self._of_item)
        self._flat_item = once(self._flat_of_item)
        self._inline = once(self._of_inline)
        self._cells = once(cells)

    def document(self, document: Sequence[tree.Block]) -> int:
        total, has_words = 0, False
        for block in document:
            size = self._block(block)
            total += size
            if type(block) not in _WORDS:
                has_words = False
            elif size:
                total += 2 if has_words else 0  # the blank line between the words of one section
                has_words = True
        return total

    def _of_block(self, block: tree.Block) -> int:
        match block:
            case tree.Quote():
                return self._flat(block.inside)
            case tree.Listing():
                return sum(map(self._item, block.items))
            case _:
                return self._flat_of_block(block)

    def _of_item(self, item: tree.Item) -> int:
        words: list[tree.Block] = []
        for block in item.inside:
            if not isinstance(block, tree.Paragraph | tree.Heading):
                break
            words.append(block)
        total = sum(map(self._block, words)) + max(0, len(words) - 1) + (2 if item.checked is not None else 0)
        return max(1, total) + self.document(item.inside[len(words) :])

    def _flat(self, blocks: Iterable[tree.Block], between: int = 2) -> int:
        total = 0
        for block in blocks:
            total += self._flat_block(block) + (between if total else 0)
        return total

    def _flat_of_block(self, block: tree.Block) -> int:
        match block:
            case tree.Paragraph() | tree.Heading():
                return sum(map(self._inline, block.inside))
            case tree.CodeBlock():
                return len(block.text)
            case tree.Table():
                return len(grid(block, self._cells))
            case tree.Quote():
                return self._flat(block.inside)
            case tree.Listing():
                bullets = (
                    len(_BULLETS) * len(block.items)
                    if block.start is None
                    else sum(len(marker(block, index)) for index in range(len(block.items)))
                )
                return bullets + sum(map(self._flat_item, block.items)) + max(0, len(block.items) - 1)
            case tree.Rule():
                return len(_RULE)

    def _flat_of_item(self, item: tree.Item) -> int:
        return self._flat(item.inside, 1) + (2 if item.checked is not None else 0)

    def _of_inline(self, node: tree.Inline) -> int:
        match node:
            case tree.Text() | tree.Code():
                return len(node.text)
            case tree.Break():
                return 1
            case tree.Link() | tree.Image():
                return length([_link(node, _NO_STYLE)])
            case _:
                return sum(map(self._inline, node.inside))


# ------------------------------------------------------------------------------------------------------ inside a line


def _inlines(nodes: Iterable[tree.Inline], style: Style) -> list[RichElement]:
    inside: list[RichElement] = []
    for node in nodes:
        match node:
            case tree.Text():
                inside.extend(_texts(node.text, style))
            case tree.Break():
                inside.append(_element("\n", _NO_STYLE))
            case tree.Code():
                inside.extend(_texts(node.text, {**style, "code": True}))
            case tree.Strong():
                inside.extend(_inlines(node.inside, {**style, "bold": True}))
            case tree.Emphasis():
                inside.extend(_inlines(node.inside, {**style, "italic": True}))
            case tree.Strike():
                inside.extend(_inlines(node.inside, {**style, "strike": True}))
            case tree.Link() | tree.Image():
                inside.append(_link(node, style))
    return inside


def _link(node: tree.Link | tree.Image, style: Style) -> RichElement:
    label = words(node.inside)
    label = label[: boundary(label, MAX_TEXT)].strip() or bare_url(node.url)
    element: RichElement = {"type": "link", "url": node.url, "text": label}
    return {**element, "style": dict(style)} if style else element


def _element(text: str, style: Style) -> RichElement:
    return {"type": "text", "text": text, "style": dict(style)} if style else {"type": "text", "text": text}


def _texts(text: str, style: Style) -> list[RichElement]:
    """A text as elements of at most `MAX_TEXT` characters; none for an empty one."""
    if 0 < len(text) <= MAX_TEXT:
        return [_element(text, style)]
    elements: list[RichElement] = []
    while text:
        end = boundary(text, MAX_TEXT)
        elements.append(_element(text[:end], style))
        text = text[end:]
    return elements


def _merged(elements: Iterable[RichElement]) -> list[RichElement]:
    """Neighbours of the same style as one, as long as they fit."""
    merged: list[RichElement] = []
    for element in elements:
        last = merged[-1] if merged else None
        fits = last is not None and last["type"] == element["type"] == "text" and last.get("style") == element.get("style")
        if fits and last is not None and len(last["text"]) + len(element["text"]) <= MAX_TEXT:
            merged[-1] = {**last, "text": last["text"] + element["text"]}
        else:
            merged.append(element)
    return merged


def _parts(elements: Iterable[RichElement]) -> list[list[RichElement]]:
    """Runs of elements of at most about `MAX_TEXT` characters each."""
    parts: list[list[RichElement]] = []
    room = 0
    for element in elements:
        size = len(element["text"])
        if not parts or size > room:
            parts.append([])
            room = MAX_TEXT
        parts[-1].append(element)
        room -= size
    return parts
