"""Markdown as Mattermost and Rocket.Chat both read it, for Slack-type webhooks on hosts other than Slack's.

Neither decodes `&lt;`. Mattermost's server turns `<url|label>` into a link and `<!channel>` into a mention, even in code. Its pages accept
a backslash before any mark, Rocket.Chat's only before * _ ~ ` # and a dot. So anything else that must not be markup is broken up with
a zero-width character; in code only where the server would change it.
"""

import re
from collections.abc import Sequence

from tocsin.markup import tree
from tocsin.markup.addresses import find, may_be_in
from tocsin.markup.renderer import WORD_JOINER, Renderer, bare_url, code_span, fenced, is_bare, marked

MAX_HEADING = 4
_SHORTEST_UNDERSCORED = 3  # characters: Mattermost shows `_a_` as it is
_ESCAPES = str.maketrans({character: f"\\{character}" for character in "*_~`"})
_PARTED = re.compile(r"\\(?=[\\`*{}\[\]()#+\-.!_>~|])|\](?=[(\[:])|(?<!\w)@(?=\w)|:(?=(?:[A-Za-z0-9+-]|_)+:)|<(?=[A-Za-z!/?@#])")
_LINE_START = re.compile(r"^([ \t]*)(?:(#)|([>+=-])|(\d{1,9})(\.))", re.MULTILINE)
_UP_TO_END = re.compile(r"[^\n>]+>?")
_TRANSLATED = re.compile(r"<[^<|]+\|(?!>)")  # in text that ends with >; searching for that from each < would take quadratic time
_ANNOUNCED = re.compile(r"<(?=[!@])")
_PARTS = re.compile(r"[.,:;]*(?:\s|\Z)")
_MARKS = re.compile(r"[*_~`]")
_LOOKED_AT = 20  # characters after an address
_SPACES = re.compile(r"(?m)^ +| {2,}")
_TAB = "    "
_PARENTHESES = str.maketrans({"(": "%28", ")": "%29"})


def markdown(document: tree.Document) -> str:
    return untranslated(_MARKDOWN.document(document))


def escape(text: str) -> str:
    """Escapes a text so that nothing in it becomes markup, a picture, an emoji or a mention; addresses stay links."""
    return untranslated(_spaced(_line_starts(_words(text))))


def address(url: str, after: str = "") -> str:
    """A bare address, and what separates it from `after`: both servers would take letters that follow for a part of it."""
    if not _PARTS.match(after):
        return f"{_plain(url)} " if _MARKS.search(url) else f"[{url}]({url.translate(_PARENTHESES)})"
    return _plain(url)


def _plain(url: str) -> str:
    """Punctuation at the end would be taken for the sentence's."""
    if _ends_well(url):
        return url
    url = url.translate(_PARENTHESES)
    return url if _ends_well(url) else f"{url[:-1]}%{ord(url[-1]):02X}"


def _ends_well(url: str) -> bool:
    return url[-1:].isalnum() or url[-1:] in "/=&#%+-"


def untranslated(text: str) -> str:
    """The whole text, in which Mattermost's server finds nothing to translate."""
    if "<" not in text:
        return text
    return _UP_TO_END.sub(_without_label, _ANNOUNCED.sub("<" + WORD_JOINER, text))


def _without_label(match: re.Match[str]) -> str:
    text = match[0]
    if text[-1] != ">" or (found := _TRANSLATED.search(text)) is None:
        return text
    return text[: found.start()] + text[found.start() :].replace("|", "¦")


def _words(text: str) -> str:
    if not may_be_in(text):
        return _inert(text)
    parts: list[str] = []
    done = 0
    for start, end in find(text):
        parts += [_inert(text[done:start]), address(text[start:end], text[end : end + _LOOKED_AT])]
        done = end
    return "".join([*parts, _inert(text[done:])])


def _inert(text: str) -> str:
    return _PARTED.sub(rf"\g<0>{WORD_JOINER}", text).translate(_ESCAPES)


def _spaced(text: str) -> str:
    """Keeps spaces: runs of them would shrink to one, and four at the start of a line would make it code."""
    return _SPACES.sub(lambda run: "\u00a0" * len(run[0]), text.replace("\t", _TAB))


def _line_starts(text: str) -> str:
    return _LINE_START.sub(_escaped_start, text)


def _escaped_start(match: re.Match[str]) -> str:
    if match[3]:
        return f"{match[1]}{WORD_JOINER}{match[3]}"
    return f"{match[1]}\\#" if match[2] else f"{match[1]}{match[4]}\\."


class _Markdown(Renderer):
    def inlines(self, nodes: Sequence[tree.Inline]) -> str:
        parts = [self.inline(node) for node in nodes]
        for index, node in enumerate(nodes):
            before, after = "".join(parts[max(0, index - 1) : index])[-1:], "".join(parts[index + 1 : index + 2])[:_LOOKED_AT]
            if isinstance(node, tree.Emphasis):
                parts[index] = _emphasis(self.inlines(node.inside), before, after[:1])
            elif isinstance(node, tree.Link | tree.Image) and is_bare(node) and not node.url.startswith("mailto:"):
                parts[index] = address(node.url, after)
        return "".join(parts)

    def text(self, text: str) -> str:
        return _inert(text)

    def code(self, text: str) -> str:
        return code_span(text)

    def strong(self, node: tree.Strong) -> str:
        return marked("**", self.inlines(node.inside))

    def strike(self, node: tree.Strike) -> str:
        return marked("~~", self.inlines(node.inside))

    def link(self, node: tree.Link) -> str:
        if node.url.startswith("mailto:"):
            return bare_url(node.url) if is_bare(node) else f"{self.inlines(node.inside)} ({bare_url(node.url)})"
        if is_bare(node):
            return address(node.url)
        label = self.inlines(node.inside).replace("\n", " ")
        return f"[{label}]({node.url.translate(_PARENTHESES)})"

    def paragraph(self, block: tree.Paragraph) -> str:
        text = _line_starts(self.inlines(block.inside))
        return _spaced(text) if isinstance(block, tree.Verbatim) else text

    def heading(self, block: tree.Heading) -> str:
        line = super().heading(block)
        if not line:
            return ""
        return f"{'#' * block.level} {line}" if block.level <= MAX_HEADING else marked("**", line)

    def code_block(self, block: tree.CodeBlock) -> str:
        return fenced(block.text, block.language)

    def table(self, block: tree.Table) -> str:
        return fenced(self.grid(block))


def _emphasis(inside: str, before: str, after: str) -> str:
    """Underscores, as single stars are bold in Rocket.Chat; within a word they would be shown."""
    is_within = any(one == "_" or (one.isascii() and one.isalnum()) for one in (before, after)) or before.isalnum()
    return marked("*" if is_within or len(inside) < _SHORTEST_UNDERSCORED or "_" in inside else "_", inside)


_MARKDOWN = _Markdown()
