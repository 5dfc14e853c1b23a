"""Cutting and splitting a document so that its rendered form fits, whatever the dialect adds: the tree is cut, never the finished markup.

So whatever a cut leaves open is closed and opened again by itself: bold stays bold, code stays code, a list continues its numbers.
"""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from tocsin.markup import tree
from tocsin.markup.length import boundary, left_out, missing
from tocsin.markup.scale import BETWEEN, Scale, line_weight

T = TypeVar("T")
_SENTENCE_END = re.compile("[.!?…。！？][\"'”’)\\]]*(?=\\s)|[。！？]")


def fit(
    document: tree.Document, limit: int, render: Callable[[tree.Document], T], size: Callable[[T], int], what: str = "the message"
) -> T:
    """The document rendered to at most `limit` by `size`; what does not fit is left out, and a last paragraph says how much.

    `limit` must leave room for that paragraph (60 or more); `size` counts at least about one unit for each visible character.
    `what` the text is, for those who watch cuts.
    """
    return _fit(document, limit, render, size, what, Scale())


def _fit(document: tree.Document, limit: int, render: Callable[[tree.Document], T], size: Callable[[T], int], what: str, scale: Scale) -> T:
    total = scale.blocks(document)
    if total <= limit:
        rendered = render(document)
        if size(rendered) <= limit:
            return rendered
    kept = min(total, limit)
    while True:
        head = _head_of(document, kept, scale)
        gone = max(1, total - scale.blocks(head))
        rendered = render((*head, tree.Paragraph((tree.Text(missing(gone)),))))
        got = size(rendered)
        if got <= limit or kept <= 0:
            left_out(what, gone)
            return rendered
        kept = max(0, min(kept - 1 - kept // 50, kept * limit // got))


def split(document: tree.Document, size: Callable[[tree.Document], int], limit: int, last: int, most: int) -> list[tree.Document]:
    """At most `most` documents of at most `limit` by `size`, the last of at most `last`. Joined, they are the whole document.

    What goes beyond `most` is left out, and a last paragraph says how much. A table repeats its head. Both limits as in `fit`.
    """
    parts: list[tree.Document] = []
    rest, scale = document, Scale()
    while len(parts) < most - 1 and (scale.blocks(rest) > last or size(rest) > last):
        head, rest = _taken(rest, limit, size, scale)
        parts.append(head)
        if not rest and size(head) <= last:
            return parts
    parts.append(_fit(rest, last, tuple, size, "the message", scale))
    return parts


def _taken(document: tree.Document, limit: int, size: Callable[[tree.Document], int], scale: Scale) -> tuple[tree.Document, tree.Document]:
    """A beginning of at most `limit`, and the rest."""
    room, whole, got_whole = limit, scale.blocks(document), 0
    while True:
        head, rest = _split_at(document, room, scale) if room < whole else (document, ())
        # A dialect's markup may make even a short document too large: it is rendered once for all tries that leave it whole.
        got = size(head) if rest or not got_whole else got_whole
        if not rest:
            got_whole = got
        if got <= limit or room <= 1:
            return head, rest
        room = max(1, min(room - 1 - room // 50, room * limit // got))


def split_at(document: Sequence[tree.Block], room: int) -> tuple[tree.Document, tree.Document]:
    """A beginning of about `room` characters, never empty, and the rest: cut between blocks unless that wastes half the room."""
    return _split_at(document, room, Scale())


def _split_at(document: Sequence[tree.Block], room: int, scale: Scale) -> tuple[tree.Document, tree.Document]:
    head: list[tree.Block] = []
    left = room
    for index, block in enumerate(document):
        size = scale.block(block)
        if size <= left:
            head.append(block)
            left -= size
            continue
        rest = document[index:]
        if not head or left > room // 2:
            first, others = _block_split(block, max(1, left - BETWEEN), scale)
            head.append(first)
            rest = (*others, *rest[1:])
        end = _without_last_headings(head, rest)
        return tuple(head[:end]), (*head[end:], *rest)
    return tuple(document), ()


def _without_last_headings(head: Sequence[tree.Block], rest: Sequence[tree.Block]) -> int:
    """Where a part ends, so that headings stay with what is below them: text, or headings of a lower rank.

    Of a run of equal headings only the last one is moved, or most of a part would be empty.
    """
    end = len(head)
    below = rest[0] if rest else None
    while end > 1 and isinstance(last := head[end - 1], tree.Heading):
        if isinstance(below, tree.Heading) and below.level <= last.level:
            break
        below, end = last, end - 1
    return end


def weight(document: Sequence[tree.Block]) -> int:
    """Roughly how many characters a document shows."""
    return Scale().blocks(document)


def head_of(document: Sequence[tree.Block], room: int) -> tuple[tree.Block, ...]:
    """The beginning of a document, at most about `room` characters."""
    return _head_of(document, room, Scale())


# ------------------------------------------------------------------------------------------------------------- heads


def _head_of(document: Sequence[tree.Block], room: int, scale: Scale) -> tuple[tree.Block, ...]:
    kept: list[tree.Block] = []
    for block in document:
        size = scale.block(block)
        if size > room:
            part = _block_head(block, room - BETWEEN, scale)
            return (*kept, part) if part is not None else tuple(kept)
        kept.append(block)
        room -= size
    return tuple(kept)


def _block_head(block: tree.Block, room: int, scale: Scale) -> tree.Block | None:
    """The beginning of a block that does not fit as a whole; None if nothing of it does."""
    if room <= 0:
        return None
    match block:
        case tree.Paragraph():
            return _unless_empty(type(block)(_line_head(block.inside, room)))
        case tree.Heading():
            return _unless_empty(tree.Heading(block.level, _line_head(block.inside, room)))
        case tree.CodeBlock():
            return tree.CodeBlock(block.text[: boundary(block.text, room)], block.language)
        case tree.Quote():
            return _unless_empty(tree.Quote(_head_of(block.inside, room, scale)))
        case tree.Listing():
            return _listing_head(block, room, scale)
        case tree.Table():
            return _table_head(block, room, scale)
        case tree.Rule():
            return None


def _unless_empty(block: tree.Paragraph | tree.Heading | tree.Quote) -> tree.Block | None:
    return block if block.inside else None


def _listing_head(block: tree.Listing, room: int, scale: Scale) -> tree.Block | None:
    items: list[tree.Item] = []
    for item in block.items:
        size = scale.item(item)
        if size > room:
            if inside := _head_of(item.inside, room - BETWEEN, scale):
                items.append(tree.Item(inside, item.checked))
            break
        items.append(item)
        room -= size
    return tree.Listing(tuple(items), block.start, block.tight) if items else None


def _table_head(block: tree.Table, room: int, scale: Scale) -> tree.Block | None:
    """Whole rows only: half a row would mislead."""
    rows: list[tree.Row] = []
    for row in block.rows:
        room -= scale.row(row)
        if room < 0:
            break
        rows.append(row)
    return tree.Table(tuple(rows)) if rows else None


def _line_head(nodes: Sequence[tree.Inline], room: int) -> tuple[tree.Inline, ...]:
    kept: list[tree.Inline] = []
    for node in nodes:
        size = line_weight((node,))
        if size > room:
            if (part := _inline_head(node, room)) is not None:
                kept.append(part)
            break
        kept.append(node)
        room -= size
    return tuple(kept)


def _inline_head(node: tree.Inline, room: int) -> tree.Inline | None:
    """The beginning of an element that does not fit as a whole. A link stays whole or is left out: half of one opens something else."""
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


# ------------------------------------------------------------------------------------------------------------- splits


def _block_split(block: tree.Block, room: int, scale: Scale) -> tuple[tree.Block, tuple[tree.Block, ...]]:
    match block:
        case tree.Verbatim():
            head, rest = _verbatim_split(block.inside, room)
            return tree.Verbatim(head), (tree.Verbatim(rest),) if rest else ()
        case tree.Paragraph():
            head, rest = _line_split(block.inside, room)
            return tree.Paragraph(head), (tree.Paragraph(rest),) if rest else ()
        case tree.Heading():
            head, rest = _line_split(block.inside, room)
            return tree.Heading(block.level, head), (tree.Heading(block.level, rest),) if rest else ()
        case tree.CodeBlock():
            end, on = _code_place(block.text, room)
            rest_text = block.text[on:]
            return tree.CodeBlock(block.text[:end], block.language), (tree.CodeBlock(rest_text, block.language),) if rest_text else ()
        case tree.Quote():
            head, rest = _split_at(block.inside, room, scale)
            return tree.Quote(head), (tree.Quote(rest),) if rest else ()
        case tree.Listing():
            return _listing_split(block, room, scale)
        case tree.Table():
            return _table_split(block, room, scale)
        case tree.Rule():
            return block, ()


def _code_place(text: str, room: int) -> tuple[int, int]:
    """Where a code block is cut and where it continues: at a line's end, unless that wastes half the room."""
    if len(text) <= room:
        return len(text), len(text)
    line_end = text.rfind("\n", 0, room + 1)
    if line_end > room // 2:
        return line_end, line_end + 1
    end = _at_least_one(text, room)
    return end, end


def _listing_split(block: tree.Listing, room: int, scale: Scale) -> tuple[tree.Block, tuple[tree.Block, ...]]:
    """An item that is cut continues under its own number."""
    head: list[tree.Item] = []
    left = room
    for index, item in enumerate(block.items):
        size = scale.item(item)
        if size <= left:
            head.append(item)
            left -= size
            continue
        rest = block.items[index:]
        if not head or left > room // 2:
            first, others = _split_at(item.inside, max(1, left - BETWEEN), scale)
            head.append(tree.Item(first, item.checked))
            rest = (tree.Item(others, item.checked), *rest[1:]) if others else rest[1:]
            index += 0 if others else 1
        start = None if block.start is None else block.start + index
        return tree.Listing(tuple(head), block.start, block.tight), (tree.Listing(rest, start, block.tight),) if rest else ()
    return block, ()


def _table_split(block: tree.Table, room: int, scale: Scale) -> tuple[tree.Block, tuple[tree.Block, ...]]:
    """Whole rows, each time under the head. If a row is too long by itself, its cells become a paragraph."""
    title, *rows = block.rows
    left = room - scale.row(title)
    count = 0
    for row in rows:
        left -= scale.row(row)
        if left < 0:
            break
        count += 1
    if count == len(rows) and left >= 0:
        return block, ()
    if count:
        return tree.Table((title, *rows[:count])), (tree.Table((title, *rows[count:])),)
    first, rest = _split_at([_as_paragraph(row) for row in block.rows[:2]], room, scale)
    left_over = (tree.Table((title, *rows[1:])),) if len(rows) > 1 else ()
    return (first[0], (*first[1:], *rest, *left_over)) if first else (block, ())


def _as_paragraph(row: Sequence[Sequence[tree.Inline]]) -> tree.Paragraph:
    nodes: list[tree.Inline] = []
    for index, cell in enumerate(row):
        nodes += ([tree.Text(" | ")] if index else []) + list(cell)
    return tree.Paragraph(tuple(nodes))


def _line_split(nodes: Sequence[tree.Inline], room: int) -> tuple[tuple[tree.Inline, ...], tuple[tree.Inline, ...]]:
    """A beginning, empty only if there is nothing, and the rest, without the white space at the cut."""
    head: list[tree.Inline] = []
    left = room
    for index, node in enumerate(nodes):
        size = line_weight((node,))
        if size <= left:
            head.append(node)
            left -= size
            continue
        first, others = _inline_split(node, max(1, left), is_forced=not head or left > room // 2)
        kept = [*head, first] if first is not None else head
        rest = [*([others] if others is not None else []), *nodes[index + 1 :]]
        return _trimmed(kept, -1), _trimmed(rest, 0)
    return tuple(nodes), ()


def _verbatim_split(nodes: Sequence[tree.Inline], room: int) -> tuple[tuple[tree.Inline, ...], tuple[tree.Inline, ...]]:
    """The same for a plain text: between lines, unless that wastes half the room, and with every space in its place."""
    used, line_end = 0, 0
    for index, node in enumerate(nodes):
        if isinstance(node, tree.Break) and room // 2 < used <= room:
            line_end = index
        size = line_weight((node,))
        if used + size <= room:
            used += size
            continue
        if line_end:
            return tuple(nodes[:line_end]), tuple(nodes[line_end + 1 :])
        first, others = _inline_split(node, max(1, room - used), is_forced=not index or room - used > room // 2)
        head = (*nodes[:index], first) if first is not None else tuple(nodes[:index])
        return head, (*([others] if others is not None else []), *nodes[index + 1 :])
    return tuple(nodes), ()


def _inline_split(node: tree.Inline, room: int, is_forced: bool) -> tuple[tree.Inline | None, tree.Inline | None]:
    """Both sides of a cut. Unless it `is_forced`, words and links stay whole, and the first side may be None."""
    match node:
        case tree.Text() | tree.Code():
            place = _word_place(node.text, room) or (_at_least_one(node.text, room) if is_forced else 0)
            head, rest = node.text[:place], node.text[place:]
            return type(node)(head) if head else None, type(node)(rest) if rest else None
        case tree.Break():
            return node, None
        case tree.Link() | tree.Image():
            if not is_forced:
                return None, node
            head, rest = _line_split(node.inside, room)
            return type(node)(node.url, head), type(node)(node.url, rest) if rest else None
        case tree.Strong() | tree.Emphasis() | tree.Strike():
            if not is_forced and _word_place(_first_words(node), room) == 0:
                return None, node
            head, rest = _line_split(node.inside, room)
            return type(node)(head), type(node)(rest) if rest else None


def _first_words(node: tree.Strong | tree.Emphasis | tree.Strike) -> str:
    first = node.inside[0] if node.inside else None
    return first.text if isinstance(first, tree.Text | tree.Code) else ""


def _word_place(text: str, room: int) -> int:
    """Where to cut between sentences, else between words; 0 if neither is in the later half of the room."""
    least = room // 2
    window = text[: room + 1]
    sentences = [match.end() for match in _SENTENCE_END.finditer(window) if least < match.end() <= room]
    if sentences:
        return sentences[-1]
    space = max(window.rfind(" "), window.rfind("\t"))
    return space if space > least else 0


def _at_least_one(text: str, room: int) -> int:
    """Where to cut within a word: never inside what is shown as one character, and never at the very beginning."""
    place = boundary(text, room)
    while place == 0 and room < len(text):
        room += 1
        place = boundary(text, room)
    return place or len(text)


def _trimmed(nodes: Sequence[tree.Inline], side: int) -> tuple[tree.Inline, ...]:
    """Without line breaks and spaces at one end: 0 is the beginning, -1 the end."""
    start, end = 0, len(nodes)
    while start < end:
        node = nodes[start if side == 0 else end - 1]
        if isinstance(node, tree.Text):
            if text := node.text.lstrip() if side == 0 else node.text.rstrip():
                words = (tree.Text(text),)
                return (*words, *nodes[start + 1 : end]) if side == 0 else (*nodes[start : end - 1], *words)
        elif not isinstance(node, tree.Break):
            break
        start, end = (start + 1, end) if side == 0 else (start, end - 1)
    return tuple(nodes[start:end])
