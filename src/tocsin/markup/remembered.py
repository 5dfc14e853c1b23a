"""Renderings of nodes, kept while one document is cut: each try renders only what the cut itself created."""

from collections.abc import Callable
from typing import Any, TypeVar

from tocsin.markup import tree
from tocsin.markup.renderer import Renderer, cells, grid

MAX_KEPT = 2000  # characters: longer ones are cut themselves, and what they are made of is kept

N = TypeVar("N")
T = TypeVar("T")


class Remembered(Renderer):
    """A mixin, listed before the dialect's class, that keeps what is rendered.

    Nodes are known by their identity, and kept so that no other object gets the same one. An instance lives for one cutting.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._inlines: dict[int, tuple[tree.Inline, str]] = {}
        self._blocks: dict[int, tuple[tree.Block, str]] = {}
        self._cells = once(cells)
        self._items: dict[tuple[int, str, str], tuple[tree.Item, str]] = {}

    def inline(self, node: tree.Inline) -> str:
        if (known := self._inlines.get(id(node))) is not None:
            return known[1]
        text = super().inline(node)
        if len(text) <= MAX_KEPT:
            self._inlines[id(node)] = node, text
        return text

    def block(self, block: tree.Block) -> str:
        if (known := self._blocks.get(id(block))) is not None:
            return known[1]
        text = super().block(block)
        if len(text) <= MAX_KEPT:
            self._blocks[id(block)] = block, text
        return text

    def item(self, item: tree.Item, marker: str, between: str) -> str:
        key = id(item), marker, between
        if (known := self._items.get(key)) is not None:
            return known[1]
        text = super().item(item, marker, between)
        if len(text) <= MAX_KEPT:
            self._items[key] = item, text
        return text

    def grid(self, block: tree.Table) -> str:
        return grid(block, self._cells)


def once(measure: Callable[[N], T]) -> Callable[[N], T]:
    """`measure`, taken once of each node."""
    known: dict[int, tuple[N, T]] = {}

    def measured(node: N) -> T:
        found = known.get(id(node))
        if found is None:
            found = known[id(node)] = node, measure(node)
        return found[1]

    return measured
