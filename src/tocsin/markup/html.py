"""Markdown as HTML for an e-mail: everything escaped, http, https and mailto links only, nothing loaded from elsewhere."""

from collections.abc import Callable
from html import escape

from tocsin.markup import tree
from tocsin.markup.elements import Element
from tocsin.markup.remembered import Remembered
from tocsin.markup.renderer import Renderer, bare_url, is_bare

_MONO = "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:13px;"
_CODE = f'style="{_MONO}background:#f1f3f5;padding:1px 4px;border-radius:3px;"'
_PRE = f'style="{_MONO}background:#f1f3f5;padding:10px 12px;border-radius:4px;white-space:pre-wrap;overflow-wrap:anywhere;margin:0 0 14px;"'
_QUOTE = 'dir="auto" style="margin:0 0 14px;padding:0 0 0 12px;border-left:3px solid #ced4da;color:#495057;"'
_TABLE = 'dir="auto" cellpadding="0" cellspacing="0" style="border-collapse:collapse;margin:0 0 14px;"'
_CELL = 'dir="auto" style="border:1px solid #ced4da;padding:4px 8px;text-align:start;vertical-align:top;"'
_RULE = '<hr style="border:0;border-top:1px solid #ced4da;margin:18px 0;">'
_BLOCK = 'dir="auto" style="margin:0 0 14px;"'
_AS_SENT = 'dir="auto" style="white-space:pre-wrap;overflow-wrap:anywhere;margin:0 0 14px;"'
_BREAK = "<br>\n"
_ITEM = 'dir="auto" style="margin:0 0 4px;"'
_HEADING_SIZES = {1: 20, 2: 18, 3: 16}
BECOMES = {
    Element.IMAGE: "a link: nothing is loaded from elsewhere",
    Element.TASK: "☑ and ☐",
    Element.LANGUAGE: "nothing: the code is shown without it",
}
_SCHEMES = ("http://", "https://", "mailto:")


def html(document: tree.Document) -> str:
    """A fragment for the inside of a body element."""
    return _HTML.blocks(document, "\n")


def remembering() -> Callable[[tree.Document], str]:
    """`html` for one document and its cuts."""
    render = _Remembering()
    return lambda document: render.blocks(document, "\n")


class _Html(Renderer):
    def text(self, text: str) -> str:
        return escape(text)

    def line_break(self, _: tree.Break) -> str:
        return _BREAK

    def code(self, text: str) -> str:
        return f"<code {_CODE}>{escape(text)}</code>"

    def strong(self, node: tree.Strong) -> str:
        return f"<strong>{self.inlines(node.inside)}</strong>"

    def emphasis(self, node: tree.Emphasis) -> str:
        return f"<em>{self.inlines(node.inside)}</em>"

    def strike(self, node: tree.Strike) -> str:
        return f"<s>{self.inlines(node.inside)}</s>"

    def link(self, node: tree.Link) -> str:
        label = escape(bare_url(node.url)) if is_bare(node) else self.inlines(node.inside)
        if not node.url.lower().startswith(_SCHEMES):
            return label if is_bare(node) else f"{label} ({escape(node.url)})"
        return f'<a href="{escape(node.url)}">{label}</a>'

    def paragraph(self, block: tree.Paragraph) -> str:
        if isinstance(block, tree.Verbatim):
            return f"<p {_AS_SENT}>{self.inlines(block.inside).replace(_BREAK, '<br>')}</p>"
        return f"<p {_BLOCK}>{self.inlines(block.inside)}</p>"

    def heading(self, block: tree.Heading) -> str:
        size = _HEADING_SIZES.get(block.level, 15)
        look = f'dir="auto" style="font-size:{size}px;line-height:1.3;margin:0 0 10px;"'
        return f"<h{block.level} {look}>{self.inlines(block.inside)}</h{block.level}>"

    def code_block(self, block: tree.CodeBlock) -> str:
        return f"<pre {_PRE}><code>{escape(block.text)}</code></pre>"

    def quote(self, block: tree.Quote) -> str:
        return f"<blockquote {_QUOTE}>{self.blocks(block.inside, chr(10))}</blockquote>"

    def listing(self, block: tree.Listing) -> str:
        items = "".join([f"<li {_ITEM}>{self._item_inside(item, block.tight)}</li>\n" for item in block.items])
        if block.start is None:
            return f"<ul {_BLOCK}>\n{items}</ul>"
        start = "" if block.start == 1 else f' start="{block.start}"'
        return f"<ol{start} {_BLOCK}>\n{items}</ol>"

    def _item_inside(self, item: tree.Item, tight: bool) -> str:
        blocks, box = item.inside, "" if item.checked is None else self.task(item.checked)
        if box and blocks and isinstance(blocks[0], tree.Paragraph):
            blocks, box = (tree.Paragraph((tree.Text(box), *blocks[0].inside)), *blocks[1:]), ""
        parts = [self.inlines(block.inside) if tight and isinstance(block, tree.Paragraph) else self.block(block) for block in blocks]
        return box + "\n".join(parts)

    def table(self, block: tree.Table) -> str:
        rows = [self._row(row, "th" if index == 0 else "td") for index, row in enumerate(block.rows)]
        return f"<table {_TABLE}>\n{''.join(rows)}</table>"

    def _row(self, row: tuple[tuple[tree.Inline, ...], ...], tag: str) -> str:
        cells = "".join([f"<{tag} {_CELL}>{self.inlines(cell)}</{tag}>" for cell in row])
        return f"<tr>{cells}</tr>\n"

    def rule(self) -> str:
        return _RULE


class _Remembering(Remembered, _Html):
    pass


_HTML = _Html()
