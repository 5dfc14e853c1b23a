"""How many characters a document shows: the measure for cutting, taken once for each block however often it is cut."""

from collections.abc import Sequence
from typing import Any

from tocsin.markup import tree

BETWEEN = 2  # what a block costs besides its words: the line breaks around it


class Scale:
    """Roughly how many characters blocks, items and rows show.

    Results are remembered by identity, and the objects kept so that no other gets the same one; a scale lives for one cutting.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, int]] = {}

    def blocks(self, blocks: Sequence[tree.Block]) -> int:
        total = 0
        for block in blocks:
            total += self.block(block)
        return total

    def block(self, block: tree.Block) -> int:
        known = self._known.get(id(block))
        return known[1] if known else self._kept(block, self._weighed(block))

    def item(self, item: tree.Item) -> int:
        known = self._known.get(id(item))
        return known[1] if known else self._kept(item, self.blocks(item.inside) + BETWEEN)

    def row(self, row: tree.Row) -> int:
        known = self._known.get(id(row))
        return known[1] if known else self._kept(row, sum([line_weight(cell) + 1 for cell in row]) + BETWEEN)

    def _kept(self, weighed: tree.Block | tree.Item | tree.Row, weight: int) -> int:
        self._known[id(weighed)] = weighed, weight
        return weight

    def _weighed(self, block: tree.Block) -> int:
        match block:
            case tree.Paragraph() | tree.Heading():
                return line_weight(block.inside) + BETWEEN
            case tree.CodeBlock():
                return len(block.text) + BETWEEN
            case tree.Quote():
                return self.blocks(block.inside) + BETWEEN
            case tree.Listing():
                return sum([self.item(item) for item in block.items]) + BETWEEN
            case tree.Table():
                return sum([self.row(row) for row in block.rows]) + BETWEEN
            case tree.Rule():
                return 1 + BETWEEN


def line_weight(nodes: Sequence[tree.Inline]) -> int:
    """Roughly how many characters a line shows."""
    total = 0
    for node in nodes:
        match node:
            case tree.Text() | tree.Code():
                total += len(node.text)
            case tree.Break():
                total += 1
            case _:
                total += line_weight(node.inside)
    return total
