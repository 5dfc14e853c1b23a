"""Markdown as readable plain text: no marks but those that carry meaning, links as "label (url)"."""

from collections.abc import Callable

from tocsin.markup import tree
from tocsin.markup.elements import Element
from tocsin.markup.remembered import Remembered
from tocsin.markup.renderer import Renderer

_PLAIN = Renderer()
_WORDS_ALONE = "plain words"
_LINES = "lines"
BECOMES = {
    Element.BOLD: _WORDS_ALONE,
    Element.ITALIC: _WORDS_ALONE,
    Element.STRIKE: "words between ~",
    Element.CODE: _WORDS_ALONE,
    Element.LINK: "its text and address",
    Element.LOCAL_LINK: "its text and address",
    Element.MAIL_LINK: "its text and address",
    Element.IMAGE: "its text and address",
    Element.HEADING: _WORDS_ALONE,
    Element.SMALL_HEADING: _WORDS_ALONE,
    Element.BULLETS: "lines with dashes",
    Element.NUMBERS: "numbered lines",
    Element.NESTED_LIST: "indented lines",
    Element.TASK: "☑ and ☐",
    Element.CODE_BLOCK: _LINES,
    Element.LANGUAGE: "nothing: the code is shown without it",
    Element.QUOTE: "lines after >",
    Element.NESTED_QUOTE: "lines after > >",
    Element.TABLE: "lines with columns",
    Element.RULE: "a line",
}


def plain(document: tree.Document) -> str:
    return _PLAIN.document(document)


def remembering() -> Callable[[tree.Document], str]:
    """`plain` for one document and its cuts."""
    return Remembered().document
