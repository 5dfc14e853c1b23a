"""Markdown for Microsoft Teams: the elements of an Adaptive Card, their texts in the card's own small subset of Markdown.

https://learn.microsoft.com/microsoftteams/platform/task-modules-and-cards/cards/cards-format: bold, italic, lists and links; headings,
tables, code, quotes and HTML would be shown as they are written.
"""

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

from tocsin.markup import tree
from tocsin.markup.elements import Element
from tocsin.markup.remembered import Remembered
from tocsin.markup.renderer import WORD_JOINER, Renderer, bare_url, is_bare, marked

CardElement: TypeAlias = dict[str, object]

_ESCAPES = str.maketrans({character: f"\\{character}" for character in "\\*_[]()"})
_LINE_START = re.compile(r"^([ \t]*)(?:([#+-])|(\d{1,9})(\.))", re.MULTILINE)
_ENTITY = re.compile(r"&(?=#?\w{1,40};)")  # a card shows `&lt;` as <
_PARENTHESES = str.maketrans({"(": "%28", ")": "%29"})
_SPACES = re.compile(r"(?m)^ +| {2,}")
_TAB = "    "
_PARAGRAPH = "\n\n"  # what begins a new line in a text
_LIST_LINE = "\r"  # and in a list
BECOMES = {
    Element.STRIKE: "words between ~",
    Element.CODE: "plain words",
    Element.IMAGE: "a link",
    Element.HEADING: "larger or bold text",
    Element.SMALL_HEADING: "bold text",
    Element.TASK: "☑ and ☐",
    Element.CODE_BLOCK: "lines in a fixed-width font",
    Element.LANGUAGE: "nothing: the code is shown without it",
    Element.QUOTE: "a shaded box",
    Element.NESTED_QUOTE: "a shaded box in a shaded box",
    Element.TABLE: "lines in a fixed-width font",
    Element.RULE: "a line",
}


def teams(document: tree.Document) -> list[CardElement]:
    """The elements for the body of a card."""
    return _elements(document, _TEXT)


def remembering() -> Callable[[tree.Document], list[CardElement]]:
    """`teams` for one document and its cuts."""
    text = _Remembering()
    return lambda document: _elements(document, text)


def escape(text: str) -> str:
    """Escapes one or more lines so that nothing in them becomes markup."""
    return _lines(_LINE_START.sub(_escaped_start, _inert(text)))


def text_block(text: str, **looks: object) -> CardElement:
    """A text that wraps; `text` is in the card's Markdown already."""
    return {"type": "TextBlock", "text": text, "wrap": True, **looks}


def _inert(text: str) -> str:
    # The parentheses disarm {{DATE(...)}} too: https://learn.microsoft.com/adaptive-cards/authoring-cards/text-features
    text = text.translate(_ESCAPES)
    return _ENTITY.sub(r"\\&", text) if "&" in text else text


def _escaped_start(match: re.Match[str]) -> str:
    return match[1] + (f"\\{match[2]}" if match[2] else f"{match[3]}\\.")


def _lines(text: str) -> str:
    return _PARAGRAPH.join(line for line in text.split("\n") if line.strip())


# -------------------------------------------------------------------------------------------------------------- blocks


def _elements(blocks: Sequence[tree.Block], text: "_Text") -> list[CardElement]:
    return [element for block in blocks for element in _elements_of(block, text)]


def _elements_of(block: tree.Block, text: "_Text") -> Sequence[CardElement]:
    match block:
        case tree.Verbatim():
            return _unless_empty(_spaced(text.paragraph(block)))
        case tree.Paragraph():
            return _unless_empty(_lines(text.paragraph(block)))
        case tree.Heading():
            return _unless_empty(text.heading(block), weight="Bolder", size="Medium" if block.level <= 2 else "Default")
        case tree.Listing():
            return _unless_empty(_LIST_LINE.join(line for line in text.listing(block).split("\n") if line.strip()))
        case tree.CodeBlock():
            return _unless_empty(_fixed_width(block.text), fontType="Monospace")
        case tree.Table():
            return _unless_empty(_fixed_width(text.grid(block)), fontType="Monospace")
        case tree.Quote():
            inside = _elements(block.inside, text)
            return [{"type": "Container", "style": "emphasis", "items": inside}] if inside else []
        case tree.Rule():
            return [text_block(text.rule(), isSubtle=True)]


def _unless_empty(text: str, **looks: object) -> list[CardElement]:
    return [text_block(text, **looks)] if text.strip() else []


def _fixed_width(text: str) -> str:
    return _spaced(_LINE_START.sub(_escaped_start, _inert(text)))


def _spaced(text: str) -> str:
    """Lines that keep their spaces in the card's Markdown: runs would shrink to one, and empty lines would vanish."""
    hard = _SPACES.sub(lambda run: "\u00a0" * len(run[0]), text.replace("\t", _TAB))
    return _PARAGRAPH.join(line if line.strip() else "\u00a0" for line in hard.split("\n"))


# -------------------------------------------------------------------------------------------------------------- inline


class _Text(Renderer):
    """The inside of a text; its lines end in a plain line feed until it is known what they are part of."""

    def inlines(self, nodes: Sequence[tree.Inline], before: bool = False, after: bool = False) -> str:
        """`before`, `after`: whether a word touches the marks around these."""
        parts = [self.inline(node) for node in nodes]
        for index, node in enumerate(nodes):
            if isinstance(node, tree.Emphasis | tree.Strong):
                follows = _is_word(parts[index - 1][-1:]) if index else before
                precedes = _is_word(parts[index + 1][:1]) if index + 1 < len(parts) else after
                if follows or precedes:
                    parts[index] = _beside_words(node, self.inlines(node.inside, follows, precedes), follows, precedes)
        return "".join(parts)

    def text(self, text: str) -> str:
        return _inert(text)

    def strong(self, node: tree.Strong) -> str:
        return marked("**", self.inlines(node.inside))

    def emphasis(self, node: tree.Emphasis) -> str:
        return marked("_", self.inlines(node.inside))

    def link(self, node: tree.Link) -> str:
        label = self.text(bare_url(node.url)) if is_bare(node) else self.inlines(node.inside).replace("\n", " ")
        return f"[{label}]({_ENTITY.sub('&amp;', node.url.translate(_PARENTHESES))})"

    def paragraph(self, block: tree.Paragraph) -> str:
        return _LINE_START.sub(_escaped_start, self.inlines(block.inside))

    def heading(self, block: tree.Heading) -> str:
        return _LINE_START.sub(_escaped_start, super().heading(block))

    def code_block(self, block: tree.CodeBlock) -> str:
        return _LINE_START.sub(_escaped_start, _inert(block.text))


def _is_word(character: str) -> bool:
    return character.isalnum()


def _beside_words(node: tree.Emphasis | tree.Strong, inside: str, before: bool, after: bool) -> str:
    """Korean endings follow directly: underscores within a word would be shown, and so would marks between punctuation and a letter."""
    if before and inside and not _is_word(inside[0]):
        inside = WORD_JOINER + inside
    if after and inside and not _is_word(inside[-1]):
        inside += WORD_JOINER
    return marked("*" if isinstance(node, tree.Emphasis) else "**", inside)


class _Remembering(Remembered, _Text):
    pass


_TEXT = _Text()
