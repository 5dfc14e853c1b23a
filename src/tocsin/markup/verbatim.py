"""Plain text as a document: every character is shown as it was sent, and addresses still lead somewhere."""

from tocsin.markup import tree
from tocsin.markup.length import clean
from tocsin.markup.parse import autolinked


def verbatim(text: str) -> tree.Document:
    """The tree of a plain text; empty if nothing of it can be seen. Blank lines around it are left out."""
    lines = clean(text).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    first = next((index for index, line in enumerate(lines) if line.strip()), 0)
    nodes: list[tree.Inline] = []
    for index, line in enumerate(lines[first:]):
        if index:
            nodes.append(tree.Break(hard=True))
        if line:
            nodes.extend(_linked(line) if "://" in line else (tree.Text(line),))
    return (tree.Verbatim(tuple(nodes)),) if nodes else ()


def _linked(line: str) -> list[tree.Inline]:
    """An address that a link would show encoded stays text."""
    return [tree.Text(_label(node)) if isinstance(node, tree.Link) and _label(node) != node.url else node for node in autolinked(line)]


def _label(node: tree.Link) -> str:
    return "".join([inside.text for inside in node.inside if isinstance(inside, tree.Text)])
