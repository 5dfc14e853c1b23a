"""Markdown as readable plain text: no marks but those that carry meaning, links as "label (url)"."""

from tocsin.markup import tree
from tocsin.markup.renderer import Renderer

_PLAIN = Renderer()


def plain(document: tree.Document) -> str:
    return _PLAIN.document(document)
