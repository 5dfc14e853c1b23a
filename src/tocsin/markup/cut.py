"""Cutting a document so that its rendered form fits, whatever the dialect adds: the tree is cut, never the finished markup."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from tocsin.markup import tree
from tocsin.markup.length import boundary, missing

T = TypeVar("T")
_BETWEEN = 2  # what a block costs beside its words: the line breaks around it


def fit(document: tree.Document, limit: int, render: Callable[[tree.Document], T], size: Callable[[T], int]) -> T:
    """The document rendered to at most `limit` by `size`; what does not fit is left out, and a last paragraph says how much.

    `limit` must leave room for that paragraph (60 or more); `size` counts at least about a unit for each character that is read.
    """
    total = weight(document)
    if total <= limit:
        rendered = render(document)
        if size(rendered) <= limit:
            return rendered
    kept = min(total, limit)
    while True:
        head = head_of(document, kept)
        rendered = render((*head, tree.Paragraph((tree.Text(missing(max(1, total - weight(head)))),))))
        got = size(rendered)
        if got <= limit or kept <= 0:
            return rendered
        kept = max(0, min(kept - 1 - kept // 50, kept * limit // got))


def weight(document: Sequence[tree.Block]) -> int:
    """About how many characters a document is read as."""
    return sum(_block_weight(block) for block in document)


def head_of(document: Sequence[tree.Block], room: int) -> tuple[tree.Block, ...]:
    """The beginning of a document, at most about `room` characters."""
    kept: list[tree.Block] = []
    for block in document:
        size = _block_weight(block)
        if size > room:
            part = _block_head(block, room - _BETWEEN)
            return (*kept, part) if part is not None else tuple(kept)
        kept.append(block)
        room -= size
    return tuple(kept)


# ----------------------------------------------------------------------------------------------------------- weights


def _block_weight(block: tree.Block) -> int:
    match block:
        case tree.Paragraph() | tree.Heading():
            return _line_weight(block.inside) + _BETWEEN
        case tree.CodeBlock():
            return len(block.text) + _BETWEEN
        case tree.Quote():
            return weight(block.inside) + _BETWEEN
        case tree.Listing():
            return sum(_item_weight(item) for item in block.items) + _BETWEEN
        case tree.Table():
            return sum(_row_weight(row) for row in block.rows) + _BETWEEN
        case tree.Rule():
            return 1 + _BETWEEN


def _item_weight(item: tree.Item) -> int:
    return weight(item.inside) + _BETWEEN


def _row_weight(row: Sequence[Sequence[tree.Inline]]) -> int:
    return sum(_line_weight(cell) + 1 for cell in row) + _BETWEEN


def _line_weight(nodes: Sequence[tree.Inline]) -> int:
    total = 0
    for node in nodes:
        match node:
            case tree.Text() | tree.Code():
                total += len(node.text)
            case tree.Break():
                total += 1
            case _:
                total += _line_weight(node.inside)
    return total


# ------------------------------------------------------------------------------------------------------------- heads


def _block_head(block: tree.Block, room: int) -> tree.Block | None:
    """The beginning of a block that does not fit as a whole; None if nothing of it does."""
    if room <= 0:
        return None
    match block:
        case tree.Paragraph():
            return _unless_empty(tree.Paragraph(_line_head(block.inside, room)))
        case tree.Heading():
            return _unless_empty(tree.Heading(block.level, _line_head(block.inside, room)))
        case tree.CodeBlock():
            return tree.CodeBlock(block.text[: boundary(block.text, room)], block.language)
        case tree.Quote():
            return _unless_empty(tree.Quote(head_of(block.inside, room)))
        case tree.Listing():
            return _listing_head(block, room)
        case tree.Table():
            return _table_head(block, room)
        case tree.Rule():
            return None


def _unless_empty(block: tree.Paragraph | tree.Heading | tree.Quote) -> tree.Block | None:
    return block if block.inside else None


def _listing_head(block: tree.Listing, room: int) -> tree.Block | None:
    items: list[tree.Item] = []
    for item in block.items:
        size = _item_weight(item)
        if size > room:
            if inside := head_of(item.inside, room - _BETWEEN):
                items.append(tree.Item(inside, item.checked))
            break
        items.append(item)
        room -= size
    return tree.Listing(tuple(items), block.start, block.tight) if items else None


def _table_head(block: tree.Table, room: int) -> tree.Block | None:
    """Whole rows only: half a row would mislead."""
    rows: list[tuple[tuple[tree.Inline, ...], ...]] = []
    for row in block.rows:
        room -= _row_weight(row)
        if room < 0:
            break
        rows.append(row)
    return tree.Table(tuple(rows)) if rows else None


def _line_head(nodes: Sequence[tree.Inline], room: int) -> tuple[tree.Inline, ...]:
    kept: list[tree.Inline] = []
    for node in nodes:
        size = _line_weight((node,))
        if size > room:
            if (part := _inline_head(node, room)) is not None:
                kept.append(part)
            break
        kept.append(node)
        room -= size
    return tuple(kept)


def _inline_head(node: tree.Inline, room: int) -> tree.Inline | None:
    """The beginning of an element that does not fit as a whole. A link stays whole or goes: half of one opens something else."""
    match node:
        case tree.Text():
            text = node.text[: boundary(node.text, room)]
            return tree.Text(text) if text else None
        case tree.Code():
            text = node.text[: boundary(node.text, room)]
            return tree.Code(text) if text else None
        case tree.Strong() | tree.Emphasis() | tree.Strike():
            inside = _line_head(node.inside, room)
            return type(node)(inside) if inside else None
        case tree.Break() | tree.Link() | tree.Image():
            return None
