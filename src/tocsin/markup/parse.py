"""Markdown -> tree: CommonMark with tables, strikethrough and task lists. Raw HTML is text.

What the renderers may rely on: `Text` holds no line break and no control character; a `Link` or `Image` has an http, https or mailto
URL in printable form without white space, quotes, angle brackets, backslashes or pipes, something to read inside, and no other link in
it; nothing is nested deeper than `MAX_DEPTH`, and no mark in one of its own kind.
"""

import functools
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, cast
from urllib.parse import quote, urlsplit

import pyromark

from tocsin.markup import addresses, emphasis, tree
from tocsin.markup.length import clean

_Tagged: TypeAlias = dict[str, Any]  # an event of the parser or its tag: one key, the kind
_Cells: TypeAlias = tuple[tuple[tree.Inline, ...], ...]

MAX_DEPTH = 30
MAX_LINK = 2048
MAX_SHORT = 2048  # characters: a tree takes up to 60 times the memory of its text, so few are kept of longer texts
MAX_LONG_KEPT = 4
_MAX_CELLS = 50_000
_OPTIONS = pyromark.Options.ENABLE_STRIKETHROUGH | pyromark.Options.ENABLE_TASKLISTS
_MARKDOWN = pyromark.Markdown(options=_OPTIONS | pyromark.Options.ENABLE_TABLES)
_WITHOUT_TABLES = pyromark.Markdown(options=_OPTIONS)

_WEB = frozenset({"http", "https"})
_SCHEME = re.compile(r"(?i:https?://|mailto:)")
_UNSAFE_IN_URL = re.compile(r"[\x00-\x20\x7f-\xa0\"<>\\^`{|}\u2028\u2029]")
_DEFINITION = re.compile(r"^[ \t>*+\-.)\d]*(?P<words>\[(?P<label>(?:[^\[\]\\]|\\.){1,999})\]:(?!\s*/\w*(?:\s|\Z)))", re.MULTILINE)
_LANGUAGE = re.compile(r"\s*([\w+#.-]{1,40})(?:[\s,{]|$)", re.ASCII)

_INLINE = frozenset({tree.Text, tree.Code, tree.Break, tree.Strong, tree.Emphasis, tree.Strike, tree.Link, tree.Image})
_CONTAINERS = frozenset({"BlockQuote", "List", "Item"})
_MARKS = frozenset({"Emphasis", "Strong", "Strikethrough"})
_NESTING = _CONTAINERS | _MARKS
_LINKS = frozenset({"Link", "Image"})
_OPAQUE = _LINKS | {"Code", "CodeBlock", "HtmlBlock", "Html", "InlineHtml"}  # inside these an address does not become a link
_SHOWN = _OPAQUE | {"Text"}


def _parsed(text: str) -> tree.Document:
    """The tree of a Markdown text; never raises. A text that would render as nothing is shown as it was written."""
    source = clean(text)
    written = _with_definitions(source)
    shown, known = (written, []) if addresses.whole(written) else _with_stand_ins(written)
    shown = emphasis.marked(shown)
    builder = _Builder(known, is_clean="&" not in source and shown is written)
    document = builder.build(cast("Iterable[str | _Tagged]", _flavour(source).events(shown)))
    if builder.is_visible or not source.strip():
        return document
    return (tree.Paragraph(tuple(_lines(source.strip()))),)


_short = functools.lru_cache(maxsize=256)(_parsed)
_long = functools.lru_cache(maxsize=MAX_LONG_KEPT)(_parsed)


@functools.wraps(_parsed)
def parse(text: str) -> tree.Document:
    return _short(text) if len(text) <= MAX_SHORT else _long(text)


def forget() -> None:
    """Drop everything that was kept."""
    _short.cache_clear()
    _long.cache_clear()


def _flavour(source: str) -> pyromark.Markdown:
    """Without tables if the parser would pad short rows with very many cells."""
    if source.count("|") < _MAX_CELLS // 100:
        return _MARKDOWN
    lines = source.split("\n")
    return _WITHOUT_TABLES if len(lines) * max(line.count("|") for line in lines) > _MAX_CELLS else _MARKDOWN


def _with_definitions(source: str) -> str:
    """The text in which definitions that nothing refers to are words: a log's `[ERROR]: db-1` is one, and would not be shown.

    One that leads to a path of one part, as in `[foo]: /url`, was written for a site's pages, and stays a definition.
    """
    if "]:" not in source or not (found := list(_DEFINITION.finditer(source))):
        return source
    shown: list[addresses.Span] = []  # no definition begins in these
    used: set[str] = set()
    for event, place in _flavour(source).events_with_range(source):
        kind, data = _begun(event)
        if kind in _LINKS:
            used.add(_label(data["id"]))
        if kind in _SHOWN and (not shown or place["start"] >= shown[-1][1]):
            shown.append((place["start"], place["end"]))
    if not source.isascii():
        shown = addresses.in_characters(source.encode(), shown)
    ends = [end for _, end in shown]
    parts: list[str] = []
    done = 0
    for match in found:
        start = match.start("words")
        around = bisect_right(ends, start)
        is_shown = around < len(shown) and shown[around][0] <= start
        if not is_shown and _label(match["label"]) not in used:
            parts.append(source[done:start])
            done = start
    return "\\".join([*parts, source[done:]])


def _begun(event: Any) -> tuple[str, Any]:
    """The kind of what an event of the parser begins or is, and its data."""
    if isinstance(event, str):
        return event, None
    ((kind, data),) = cast(_Tagged, event).items()
    if kind != "Start":
        return kind, data
    return (data, None) if isinstance(data, str) else next(iter(data.items()))


def _label(written: str) -> str:
    return " ".join(written.split()).casefold()


def _with_stand_ins(source: str) -> tuple[str, list[str]]:
    """The text with stand-ins for the addresses that are in words, not in code, links and raw HTML; and these addresses.

    Parsers read code before emphasis, so the places of code are right even if the emphasis is not yet.
    """
    skipped: list[addresses.Span] = []
    cells: list[addresses.Span] = []
    for event, place in _flavour(source).events_with_range(source):
        kind, _ = _begun(event)
        if kind in _OPAQUE and (not skipped or place["start"] >= skipped[-1][1]):
            skipped.append((place["start"], place["end"]))
        elif kind == "TableCell":
            cells.append((place["start"], place["end"]))
    if not source.isascii():
        content = source.encode()
        skipped, cells = addresses.in_characters(content, skipped), addresses.in_characters(content, cells)
    shown, known = addresses.stand_ins(source, list(addresses.find(source, skipped, cells)))
    return shown, [one.replace("\\|", "|") for one in known] if cells else known


class _Frame:
    """One open element. `kind` is empty for an element that is left out: its content goes to the element around it."""

    __slots__ = ("checked", "data", "kind", "loose", "nodes", "words")

    def __init__(self, kind: str, data: Any = None) -> None:
        self.kind = kind
        self.data = data
        self.nodes: list[Any] = []
        self.words = 0  # texts that it was given
        self.loose = False
        self.checked: bool | None = None


class _Builder:
    """`known`: the addresses for which the text has stand-ins. `is_clean`: nothing in it has to be cleaned again."""

    def __init__(self, known: Sequence[str], is_clean: bool) -> None:
        self._known = known
        self._is_clean = is_clean
        self.is_visible = False
        self._stack = [_Frame("Document")]
        self._open_links = 0
        self._on: dict[str, Callable[[Any], None]] = {
            "Text": self._text,
            "Start": self._start,
            "End": self._end,
            "Code": self._code,
            "Html": self._html,
            "InlineHtml": self._html,
            "TaskListMarker": self._task,
        }

    def build(self, events: Iterable[str | _Tagged]) -> tree.Document:
        on, stack = self._on, self._stack
        for event in events:
            if not isinstance(event, str):
                ((key, value),) = event.items()
                on[key](value)
            elif event == "Rule":
                self.is_visible = True
                stack[-1].nodes.append(tree.Rule())
            else:
                stack[-1].nodes.append(tree.Break(hard=event == "HardBreak"))
        return tuple(_blocks(stack[0].nodes))

    def _text(self, text: str) -> None:
        frame = self._stack[-1]
        frame.words += 1
        if self._known and addresses.STAND_IN.search(text):
            if frame.kind != "CodeBlock" and not self._open_links:
                self._with_addresses(text)
                return
            text = addresses.restored(text, self._known)
        if not self._is_clean:  # an entity may stand for a control character or a line break
            text = clean(emphasis.unmarked(text))
        self.is_visible = self.is_visible or (text != "" and not text.isspace())
        if frame.kind == "CodeBlock":
            frame.nodes.append(text)
        elif "\n" in text:
            frame.nodes.extend(_lines(text))
        elif not self._open_links and addresses.may_be_in(text):
            frame.nodes.extend(autolinked(text))
        elif text:
            frame.nodes.append(tree.Text(text))

    def _with_addresses(self, text: str) -> None:
        """Text that may contain stand-ins for addresses."""
        for index, part in enumerate(addresses.STAND_IN.split(text)):
            if index % 2:
                self.is_visible = True
                self._stack[-1].nodes.append(_bare_link(self._known[int(part)]))
            elif part:
                self._text(part)

    def _as_written(self, text: str) -> str:
        """Without the marks that were added for the parser."""
        if self._is_clean:
            return text
        return emphasis.unmarked(addresses.restored(text, self._known) if self._known else text)

    def _code(self, text: str) -> None:
        self.is_visible = self.is_visible or not text.isspace()
        self._stack[-1].nodes.append(tree.Code(self._as_written(text)))

    def _html(self, text: str) -> None:
        self.is_visible = True
        self._stack[-1].nodes.extend(_lines(self._as_written(text)))

    def _task(self, checked: bool) -> None:
        for frame in reversed(self._stack):
            if frame.kind == "Item":
                frame.checked = checked
                return

    def _start(self, tag: str | _Tagged) -> None:
        kind, data = (tag, None) if isinstance(tag, str) else next(iter(tag.items()))
        if kind in _LINKS:
            self._open_links += 1
        stack = self._stack
        is_nothing_more = kind in _MARKS and any(frame.kind == kind for frame in stack)  # bold in bold is bold
        is_too_deep = len(stack) > MAX_DEPTH and kind in _NESTING
        stack.append(_Frame("" if is_nothing_more or is_too_deep else kind, (kind, data)))

    def _end(self, _: Any) -> None:
        stack = self._stack
        frame = stack.pop()
        if frame.words > 1:
            frame.nodes = _joined(frame.nodes)
        kind, data = frame.data
        around = stack[-1]
        if kind in _LINKS:
            self._open_links -= 1
        if not frame.kind:
            around.words += frame.words
            around.nodes.extend(_blocks(frame.nodes) if kind in _CONTAINERS else frame.nodes)
        elif kind == "Table":
            around.nodes.extend(_table(frame.nodes))
        elif kind in _LINKS:
            around.nodes.extend(self._link(frame, self._as_written(data["dest_url"]), data["link_type"] == "Email"))
        elif kind in _MARKS and not frame.nodes:  # it held nothing but a control character
            pass
        else:
            if kind == "Paragraph" or (kind == "Item" and frame.loose):
                around.loose = True
            around.nodes.append(_CLOSERS[kind](frame, data))

    def _link(self, frame: _Frame, url: str, is_mail: bool) -> Sequence[tree.Inline]:
        inside = tuple(frame.nodes)
        if self._open_links:  # no link inside a link
            return inside
        if not is_mail and _SCHEME.match(url) is None:
            return (*inside, *_unlinked(inside, url))
        target = _link_url(f"mailto:{url}" if is_mail else url)
        if target is None:
            return (*inside, *_unlinked(inside, url))
        self.is_visible = True
        inside = inside or (tree.Text(target.removeprefix("mailto:")),)
        return (tree.Image(target, inside),) if frame.kind == "Image" else (tree.Link(target, inside),)


# ------------------------------------------------------------------------------------------------------------- links


def _link_url(url: str) -> str | None:
    """A URL in the form that the renderers rely on, None if it cannot be opened: browsers no longer open ftp."""
    url = _UNSAFE_IN_URL.sub(lambda match: quote(match[0]), clean(url).strip())
    if len(url) > MAX_LINK or not url.isprintable():
        return None
    if url[:7].lower() == "mailto:":
        return "mailto:" + url[7:] if "@" in url else None
    scheme, _, rest = url.partition("://")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return f"{scheme.lower()}://{rest}" if parts.hostname and scheme.lower() in _WEB else None


def _unlinked(inside: Sequence[tree.Inline], url: str) -> list[tree.Inline]:
    """What a link that cannot be opened shows: its address, as words. Embedded data is left out."""
    shown = " ".join(clean(url).split())
    if not shown or shown[:5].lower() == "data:" or inside == (tree.Text(shown),):
        return []
    return [tree.Text(f" ({shown})" if inside else shown)]


def autolinked(text: str) -> list[tree.Inline]:
    """One line of words, the bare URLs in it as links."""
    nodes: list[tree.Inline] = []
    done = 0
    for start, end in addresses.find(text):
        link = _bare_link(text[start:end])
        if type(link) is tree.Text:  # it stays with the words around it
            continue
        if start > done:
            nodes.append(tree.Text(text[done:start]))
        nodes.append(link)
        done = end
    if done < len(text):
        nodes.append(tree.Text(text[done:]))
    return nodes


def _bare_link(address: str) -> tree.Inline:
    """An address in the text; kept whole even if it cannot be opened."""
    url = _link_url(address if "://" in address[:8] else f"http://{address}")
    return tree.Text(address) if url is None else tree.Link(url, (tree.Text(address),))


# ------------------------------------------------------------------------------------------------------------- nodes


def _joined(nodes: list[Any]) -> list[Any]:
    """Neighbouring texts as one: the parser splits them at every possible mark, but a dialect must see `:a_b:` and `@a_b` whole."""
    joined: list[Any] = []
    words: list[str] = []
    for node in (*nodes, None):
        if type(node) is tree.Text:
            words.append(node.text)
            continue
        if words:
            joined.append(tree.Text("".join(words)))
            words = []
        if node is not None:
            joined.append(node)
    return joined


def _lines(text: str) -> list[tree.Inline]:
    nodes: list[tree.Inline] = []
    for index, line in enumerate(text.split("\n")):
        if index:
            nodes.append(tree.Break(hard=True))
        if line:
            nodes.append(tree.Text(line))
    return nodes


def _blocks(nodes: list[Any]) -> list[tree.Block]:
    """Blocks as they are, and runs of words between them (a tight list has such) as paragraphs."""
    blocks: list[tree.Block] = []
    words: list[tree.Inline] = []
    for node in nodes:
        if type(node) in _INLINE:
            words.append(node)
            continue
        if words:
            blocks.append(tree.Paragraph(_trimmed(words)))
            words = []
        blocks.append(node)
    if words:
        blocks.append(tree.Paragraph(_trimmed(words)))
    return blocks


def _trimmed(words: Sequence[tree.Inline]) -> tuple[tree.Inline, ...]:
    """Without line breaks at either end."""
    start, end = 0, len(words)
    while start < end and isinstance(words[start], tree.Break):
        start += 1
    while end > start and isinstance(words[end - 1], tree.Break):
        end -= 1
    return tuple(words[start:end])


def _code_block(frame: _Frame, kind: Any) -> tree.CodeBlock:
    fence: str = "" if kind == "Indented" else kind["Fenced"]
    match = _LANGUAGE.match(fence)
    return tree.CodeBlock("".join(frame.nodes).removesuffix("\n"), match[1] if match else "")


def _listing(frame: _Frame, start: int | None) -> tree.Listing:
    items = tuple(node if isinstance(node, tree.Item) else tree.Item((node,)) for node in frame.nodes)  # not an Item: nested too deeply
    return tree.Listing(items, start, not frame.loose)


def _item(frame: _Frame, _: Any) -> tree.Item:
    return tree.Item(tuple(_blocks(frame.nodes)), frame.checked)


def _table(nodes: list[Any]) -> list[tree.Block]:
    """The table, followed by the words that the parser leaves in it once it gives up on its size."""
    rows = cast("list[_Cells]", [node for node in nodes if type(node) is tuple])
    return [tree.Table(tuple(rows)), *_blocks([node for node in nodes if type(node) is not tuple])]


def _row(frame: _Frame, _: Any) -> _Cells:
    """The cells of a row, without the empty ones that the parser adds at the end of a short one."""
    cells = frame.nodes
    while cells and not cells[-1]:
        cells.pop()
    return tuple(cells)


_CLOSERS: dict[str, Callable[[_Frame, Any], Any]] = {
    "Paragraph": lambda frame, _: tree.Paragraph(_trimmed(frame.nodes)),
    "HtmlBlock": lambda frame, _: tree.Paragraph(_trimmed(frame.nodes)),
    "Heading": lambda frame, data: tree.Heading(int(data["level"][1]), _trimmed(frame.nodes)),
    "CodeBlock": _code_block,
    "BlockQuote": lambda frame, _: tree.Quote(tuple(_blocks(frame.nodes))),
    "List": _listing,
    "Item": _item,
    "TableHead": _row,
    "TableRow": _row,
    "TableCell": lambda frame, _: tuple(frame.nodes),
    "Emphasis": lambda frame, _: tree.Emphasis(tuple(frame.nodes)),
    "Strong": lambda frame, _: tree.Strong(tuple(frame.nodes)),
    "Strikethrough": lambda frame, _: tree.Strike(tuple(frame.nodes)),
}
