"""Markdown as the HTML of Telegram's Bot API: its tags only, always balanced (https://core.telegram.org/bots/api#html-style)."""

import re
from collections.abc import Callable

from tocsin.markup import tree
from tocsin.markup.addresses import apart
from tocsin.markup.elements import Element, is_local
from tocsin.markup.length import utf8, utf16
from tocsin.markup.plain import plain
from tocsin.markup.remembered import Remembered
from tocsin.markup.renderer import WORD_JOINER, Renderer, bare_url, is_bare, marker

_TAG = re.compile(r"<[^<>]*>")
_PREFORMATTED = re.compile(r"(<pre>.*?</pre>)", re.DOTALL)
# As TDLib finds them (td/telegram/MessageEntity.cpp), after it has removed some characters; a zero-width one after the sign prevents that.
# A sign at the end may have its name in the next node: `@**name**`.
_REMOVED = "[\u030a\u0333\u033f\u2028-\u202e]*"
_NAME = re.compile(rf"(?<!\w)@(?={_REMOVED}(?:\w|\Z))")
_FOUND = re.compile(rf"{_NAME.pattern}|(?<![\w/<>])/(?={_REMOVED}(?:[A-Za-z0-9_]{{1,64}}(?:@\w+)?(?![\w/<>])|\Z))")
# Top-level domains that most often end the name of a file, or one in code.
_FILE = re.compile(
    r"(?<![^\w-])\.(?=(?:am|app|as|cab|cc|do|info|la|md|mk|ml|mov|name|pl|pm|ps|py|rs|sh|so|st|tf|vi|zip)(?![\w@/-]|\.\w))", re.IGNORECASE
)
_BEFORE_NO_HOST = re.compile(r"[@/#][\w.~-]*\Z")  # a mail address or a path, in which Telegram sees no host
_LONGEST_HOST = 255
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_HOST = rf"(?!teiegram\.org)(?:(?:[a-z0-9](?:[a-z0-9-]{{0,61}}[a-z0-9])?\.)+[a-z]{{2,63}}|{_OCTET}(?:\.{_OCTET}){{3}})"
_PORT = r":(?:[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3})"
_IN_PATH = r"[^\s\xa0\u1680\u2000-\u206f\u3000<>\"«»)\]}]"
# An address that Telegram surely links, all of it. Behind some signs in the same word it may be taken for a part of something else.
_LINKED = re.compile(
    rf"(?<![^ \t\n])[^ \t\n./#$]*?(?<![a-z])(?P<address>https?://{_HOST}(?:{_PORT})?[/?#]{_IN_PATH}*)", re.IGNORECASE | re.ASCII
)
_TAKEN = re.compile(
    r"(?a:https?)://(?:(?:[\w.~:+-]|%[\da-f]{2})*@)?(?:[\w.-]+|\[[\da-f:.]+\])(?::0*(?P<port>\d{1,5}))?(?:[/?#]|\Z)", re.IGNORECASE
)
_MAX_PORT = 65_535
_ENTITY = re.compile(r"&(?:lt|gt|amp|quot);")
BECOMES = {
    Element.LOCAL_LINK: "its text and address: Telegram makes no link of it",
    Element.MAIL_LINK: "its text and address",
    Element.IMAGE: "a link",
    Element.HEADING: "bold text",
    Element.SMALL_HEADING: "bold text",
    Element.BULLETS: "lines with bullets",
    Element.NUMBERS: "numbered lines",
    Element.NESTED_LIST: "indented lines",
    Element.TASK: "☑ and ☐",
    Element.NESTED_QUOTE: "part of the outer quote",
    Element.TABLE: "lines in a fixed-width font",
    Element.RULE: "a line",
}


def telegram(document: tree.Document) -> str:
    return _TELEGRAM.document(document)


def remembering() -> Callable[[tree.Document], str]:
    """`telegram` for one document and its cuts."""
    return _Remembering().document


def words(text: str) -> str:
    """Escapes a text so that nothing in it becomes markup, a mention, a command or a link."""
    return escape(inert(text))


def inert(text: str) -> str:
    """The same without a parse mode. Telegram finds @names, /commands and bare hosts by itself: `deploy.sh` is one, as .sh is a domain.

    It also finds them in addresses that it does not link. Those stay whole all the same, unless somebody would be mentioned.
    """
    if "://" not in text:
        return _inert(text)
    parts: list[str] = []
    done = 0
    for match in _LINKED.finditer(text):
        parts += [_unlinked(text[done : match.start("address")]), match["address"]]
        done = match.end()
    return "".join([*parts, _unlinked(text[done:])])


def _unlinked(text: str) -> str:
    return apart(text, _inert, lambda address: _NAME.sub(rf"\g<0>{WORD_JOINER}", address))


def _inert(text: str) -> str:
    if "@" in text or "/" in text:
        text = _FOUND.sub(rf"\g<0>{WORD_JOINER}", text)
    return _FILE.sub(_apart, text) if "." in text else text


def _apart(match: re.Match[str]) -> str:
    is_no_host = _BEFORE_NO_HOST.search(match.string, max(0, match.start() - _LONGEST_HOST), match.start())
    return match[0] if is_no_host else match[0] + WORD_JOINER


def plainly(document: tree.Document) -> str:
    """Without any marks, for when there are more than Telegram shows."""
    return words(plain(document))


def marks(html: str) -> tuple[int, int]:
    """How many entities our own HTML has, and the bytes of their addresses."""
    tags = [tag for tag in _TAG.findall(html) if not tag.startswith("</")]
    addresses = "".join(tag[len('<a href="') : -2] for tag in tags if tag.startswith("<a "))
    return len(tags), utf8(_ENTITY.sub("x", addresses))


def escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def link(url: str, label: str) -> str:
    """A link with `label`, which is escaped already; address and label as text where Telegram would silently drop the link."""
    if not takes_link(url):
        address = bare_url(url)
        shown = escape(_unlinked(address))
        return shown if label == escape(address) else f"{label} ({shown})"
    return f'<a href="{escape(url).replace(chr(34), "&quot;")}">{label}</a>'


def takes_link(url: str) -> bool:
    """Telegram makes no link of an address whose host has no dot (localhost, nas) or is malformed, and says nothing."""
    match = _TAKEN.match(url)
    return match is not None and 0 < int(match["port"] or 80) <= _MAX_PORT and not is_local(url)


def visible(html: str) -> int:
    """UTF-16 units of our own HTML once Telegram has parsed it."""
    return utf16(_ENTITY.sub("x", _TAG.sub("", html)))


class _Telegram(Renderer):
    def __init__(self, quoted: bool = False) -> None:
        self._quoted = quoted
        self._inside: _Telegram = self if quoted else type(self)(True)

    def text(self, text: str) -> str:
        """Addresses that Telegram links are links already."""
        return escape(_unlinked(text))

    def code(self, text: str) -> str:
        return f"<code>{escape(text)}</code>"

    def strong(self, node: tree.Strong) -> str:
        return f"<b>{self.inlines(node.inside)}</b>"

    def emphasis(self, node: tree.Emphasis) -> str:
        return f"<i>{self.inlines(node.inside)}</i>"

    def strike(self, node: tree.Strike) -> str:
        return f"<s>{self.inlines(node.inside)}</s>"

    def link(self, node: tree.Link) -> str:
        return link(node.url, escape(bare_url(node.url)) if is_bare(node) else self.inlines(node.inside))

    def heading(self, block: tree.Heading) -> str:
        line = super().heading(block)
        return f"<b>{line}</b>" if line else ""

    def code_block(self, block: tree.CodeBlock) -> str:
        if not block.text:
            return ""
        if not block.language:
            return f"<pre>{escape(block.text)}</pre>"
        return f'<pre><code class="language-{escape(block.language)}">{escape(block.text)}</code></pre>'

    def table(self, block: tree.Table) -> str:
        return f"<pre>{escape(self.grid(block))}</pre>"

    def quote(self, block: tree.Quote) -> str:
        """Quotes must not nest in Telegram: an inner one becomes part of the outer."""
        if self._quoted:
            return self.blocks(block.inside)
        inside = self._inside.blocks(block.inside)
        return f"<blockquote>{inside}</blockquote>" if inside else ""

    def marker(self, block: tree.Listing, index: int) -> str:
        return "• " if block.start is None else marker(block, index)

    def indented(self, text: str, width: int) -> str:
        """Code keeps its own indentation."""
        parts = _PREFORMATTED.split(text)
        return "".join([part if index % 2 else super(_Telegram, self).indented(part, width) for index, part in enumerate(parts)])


class _Remembering(Remembered, _Telegram):
    pass


_TELEGRAM = _Telegram()
