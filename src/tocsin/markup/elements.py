"""The elements of Markdown that a provider may or may not have, and which of them a document holds."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from urllib.parse import urlsplit

from tocsin.markup import tree


class Element(StrEnum):
    """The values are the words that people see."""

    BOLD = "bold"
    ITALIC = "italic"
    STRIKE = "strikethrough"
    CODE = "code"
    LINK = "link"
    LOCAL_LINK = "link to a host without a dot"
    MAIL_LINK = "link to an e-mail address"
    IMAGE = "image"
    HEADING = "heading"
    SMALL_HEADING = "heading of level 4 to 6"
    BULLETS = "list"
    NUMBERS = "numbered list"
    NESTED_LIST = "list in a list"
    TASK = "task"
    CODE_BLOCK = "code block"
    LANGUAGE = "language of a code block"
    QUOTE = "quote"
    NESTED_QUOTE = "quote in a quote"
    TABLE = "table"
    RULE = "horizontal rule"


SAMPLES: dict[Element, str] = {
    Element.BOLD: "a **bold** word",
    Element.ITALIC: "an *italic* word",
    Element.STRIKE: "a ~~struck~~ word",
    Element.CODE: "some `code()`",
    Element.LINK: "[the docs](https://example.com/docs)",
    Element.LOCAL_LINK: "[the NAS](http://nas:5000/)",
    Element.MAIL_LINK: "<ops@example.com>",
    Element.IMAGE: "![load of db-1](https://example.com/load.png)",
    Element.HEADING: "## Disk",
    Element.SMALL_HEADING: "#### Disk",
    Element.BULLETS: "- one\n- two",
    Element.NUMBERS: "7. one\n8. two",
    Element.NESTED_LIST: "- one\n  - inner\n- two",
    Element.TASK: "- [x] done\n- [ ] open",
    Element.CODE_BLOCK: "```\na = 1\n```",
    Element.LANGUAGE: "```python\na = 1\n```",
    Element.QUOTE: "> they said",
    Element.NESTED_QUOTE: "> they said\n> > he said",
    Element.TABLE: "| host | free |\n|---|---|\n| db-1 | 2 % |",
    Element.RULE: "above\n\n---\n\nbelow",
}
"""Markdown that shows each element."""


def elements_of(document: tree.Document) -> set[Element]:
    """The elements that a document holds."""
    return set(_of_blocks(document))


def is_local(url: str) -> bool:
    """Whether a link leads to a host without a dot (localhost, nas), which some providers do not recognize as one."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return True
    return "." not in host.strip(".") and ":" not in host


def _of_blocks(blocks: Sequence[tree.Block], in_list: bool = False, in_quote: bool = False) -> Iterator[Element]:
    for block in blocks:
        match block:
            case tree.Paragraph():
                yield from _of_line(block.inside)
            case tree.Heading():
                yield Element.HEADING if block.level <= 3 else Element.SMALL_HEADING
                yield from _of_line(block.inside)
            case tree.CodeBlock():
                yield from (Element.CODE_BLOCK, Element.LANGUAGE) if block.language else (Element.CODE_BLOCK,)
            case tree.Quote():
                yield Element.NESTED_QUOTE if in_quote else Element.QUOTE
                yield from _of_blocks(block.inside, in_list, True)
            case tree.Listing():
                yield Element.NESTED_LIST if in_list else Element.BULLETS if block.start is None else Element.NUMBERS
                yield from (Element.TASK for item in block.items if item.checked is not None)
                yield from _of_blocks([inner for item in block.items for inner in item.inside], True, in_quote)
            case tree.Table():
                yield Element.TABLE
                yield from _of_line([node for row in block.rows for cell in row for node in cell])
            case tree.Rule():
                yield Element.RULE


def _of_line(nodes: Sequence[tree.Inline]) -> Iterator[Element]:
    for node in nodes:
        match node:
            case tree.Strong():
                yield Element.BOLD
                yield from _of_line(node.inside)
            case tree.Emphasis():
                yield Element.ITALIC
                yield from _of_line(node.inside)
            case tree.Strike():
                yield Element.STRIKE
                yield from _of_line(node.inside)
            case tree.Code():
                yield Element.CODE
            case tree.Link() | tree.Image():
                yield _kind_of_link(node)
                yield from _of_line(node.inside)
            case tree.Text() | tree.Break():
                pass


def _kind_of_link(node: tree.Link | tree.Image) -> Element:
    if isinstance(node, tree.Image):
        return Element.IMAGE
    if node.url.startswith("mailto:"):
        return Element.MAIL_LINK
    return Element.LOCAL_LINK if is_local(node.url) else Element.LINK
