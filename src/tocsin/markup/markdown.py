"""Markdown as Mattermost and Rocket.Chat both read it, for Slack-type webhooks on hosts other than Slack's.

Only Mattermost decodes `&lt;`. Its server turns `<url|label>` into a link and `<!channel>` into a mention, even in code. Its pages accept
a backslash before any mark, Rocket.Chat's only before * _ ~ ` # and a dot, and both show it in addresses. So anything else that must not
be markup is broken up with a zero-width character; in code only where the server would change it, or where Rocket.Chat mentions somebody.

Whom a message mentions both servers read from its source, each in its own way. Mattermost's drops `:.-_` before a word, ends a text at a
backslash, and reads the labels of links, and addresses too where it finds no link
(https://github.com/mattermost/mattermost/blob/master/server/channels/app/mention_parser_standard.go). Rocket.Chat's looks for an @ after
white space or >, in code and addresses too
(https://github.com/RocketChat/Rocket.Chat/blob/develop/apps/meteor/app/mentions/lib/MentionsParser.ts).
"""

import re
from collections.abc import Callable, Sequence

from tocsin.markup import tree
from tocsin.markup.addresses import find, may_be_in
from tocsin.markup.remembered import Remembered
from tocsin.markup.renderer import WORD_JOINER, Renderer, bare_url, code_span, fenced, is_bare, marked

MAX_HEADING = 4
_SHORTEST_UNDERSCORED = 3  # characters: older versions of Mattermost show `_a_` as it is
_LABEL, _LABEL_END = "\x01", "\x02"  # the brackets of links; `clean` removes both from every text
_AFTER_UNDERSCORE = frozenset("!\"#$%&'()*+,-./:;<=>?@[^{|}~" + _LABEL)  # besides white space; before anything else Mattermost shows the _
_NOT_AFTER_STAR = frozenset('"<')
_ESCAPED = re.compile(r"[*~`]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")  # an underscore within a word is none of their marks
_BROKEN_UP = rf"\g<0>{WORD_JOINER}"
_NAME = r"(?<![A-Za-z0-9])@(?=[.-]*(?:\w|\Z))"
_PARTED = re.compile(
    rf"\\(?=[\\`*{{}}\[\]()#+\-.!_>~|])|\](?=[(\[:])|{_NAME}|"
    r":(?=(?:[A-Za-z0-9+-]|_)+:)|<(?=[\w!/?@#])|&(?=#?\w{1,40};)|"
    r"\|(?=\|)|(?<!\S)(?:[8B#%X](?=\)(?!\S))|D(?=:(?!\S)))"  # a spoiler and emoticons in Rocket.Chat
)
_NAME_IN_ADDRESS = re.compile(_NAME + "|&(?=(?:commat|#0*64|#[xX]0*40);)")
_NAME_IN_CODE = re.compile(r"(?<=[\s>])@(?=[.-]*\w)")
_SEAM = "\0"  # `clean` removes it from every text
_CHANGES = re.compile(r"[\\!<](?=\0[^\s\0])|([*~`|])(?=\0\1)|[A-Za-z0-9_](?=\0(?:https?:|www\.))", re.IGNORECASE)
_LINE_START = re.compile(r"^([ \t\u00a0]*)(?:(#)|([>+=-])|(\d+)(\.))", re.MULTILINE)
# Mattermost reads U+00A0 as a space.
_CODE_OR_TABLE = re.compile(r"^(?=[ \u00a0]{4}|[ \u00a0]*[|:][| :\u00a0]*-[-| :\u00a0]*$)", re.MULTILINE)
_ANGLED = re.compile(f"<{WORD_JOINER}[^ \u00a0>]*>?")
_LIKE_ADDRESS = re.compile("@|:/|www")
_ADDRESS = re.compile(r"https?://\S+", re.IGNORECASE)
_CODE = re.compile(r"(\\.)|`[^`\n]+`", re.DOTALL)  # as Rocket.Chat finds it, which ends it at any backtick
_UP_TO_END = re.compile(r"[^\n>]+>?")
_TRANSLATED = re.compile(r"<[^<|]+\|(?!>)")  # in text that ends with >; searching for that from each < would take quadratic time
_ANNOUNCED = re.compile(r"<(?=[!@])")
_PARTS = re.compile(r"[.,:;]*(?:\s|\Z)")
# What Mattermost takes for an address, and what it takes for its end.
_TAKEN = re.compile(r"(?:[^()`!\[\]{;:'\",?]|[`!\[\]{;:'\",?](?![()])|\((?:[^()]|\([^()]+\))*\))*")
_ENDING = re.compile("[()«»“”‘’\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff5e\u3001\u3002\u300c-\u3011]")
_LINK = re.compile(f"{_LABEL}([^{_LABEL}{_LABEL_END}]+){_LABEL_END}" + r"\(([^\s)]+)\)")
_IN_LABEL = str.maketrans({"<": "‹", "|": "¦", ">": "›"})
_LAST = re.compile(r".\Z", re.DOTALL)
_NOT_IN_LABEL = re.compile(r"[*_~`\[\]\\]")
_LOOKED_AT = 20  # characters after an address
_SPACES = re.compile(r"(?m)^ +| {2,}")
_TAB = "    "
_NOT_IN_DESTINATION = str.maketrans({"(": "%28", ")": "%29", "<": "%3C", "|": "%7C", ">": "%3E"})


def markdown(document: tree.Document) -> str:
    return untranslated(_MARKDOWN.document(document))


def remembering() -> Callable[[tree.Document], str]:
    """`markdown` for one document and its cuts."""
    render = _Remembering().document
    return lambda document: untranslated(render(document))


def escape(text: str) -> str:
    """Escapes a text so that nothing in it becomes markup, a picture, an emoji or a mention; addresses stay links."""
    return untranslated(_lines(_words(text), is_verbatim=True))


def address(url: str, after: str = "") -> str:
    """An address and what separates it from `after`: bare unless both servers would take letters that follow for a part of it, or the
    server of Mattermost might mention somebody who is named in it."""
    url = url.replace("<", "%3C")  # Mattermost's server would take it for one of its own marks
    ends = _PARTS.match(after) is not None
    if ends and not _NAME_IN_ADDRESS.search(url):
        return _plain(url)
    if not _NOT_IN_LABEL.search(url):
        return _link(_NAME_IN_ADDRESS.sub(_BROKEN_UP, url), url)
    return _plain(_NAME_IN_ADDRESS.sub(_encoded, url)) + ("" if ends else " ")


def _link(label: str, url: str) -> str:
    return f"{_LABEL}{label}{_LABEL_END}({url.translate(_NOT_IN_DESTINATION)})"


def _plain(url: str) -> str:
    """As Mattermost takes it whole. Punctuation at the end would be taken for the sentence's."""
    if not _TAKEN.fullmatch(url) or not _ends_well(url):
        url = _ENDING.sub(_encoded, url)
    return url if _ends_well(url) else _LAST.sub(_encoded, url)


def _encoded(match: re.Match[str]) -> str:
    return "".join([f"%{byte:02X}" for byte in match[0].encode()])


def _ends_well(url: str) -> bool:
    return url[-1:].isalnum() or url[-1:] in "/=&#%+-}|^$@"


def untranslated(text: str) -> str:
    """The whole text, in which Mattermost's server finds nothing to translate."""
    if "<" not in text:
        return text
    return _UP_TO_END.sub(_without_label, _ANNOUNCED.sub("<" + WORD_JOINER, text))


def _without_label(match: re.Match[str]) -> str:
    text = match[0]
    if text[-1] != ">" or (found := _TRANSLATED.search(text)) is None:
        return text
    label = _ADDRESS.sub(lambda address: address[0].replace("|", "%7C"), text[found.start() :])
    return text[: found.start()] + label.replace("|", "¦")


def with_links_apart(text: str) -> str:
    """The whole message, put together from what this module renders: only here do its links get their brackets.

    Rocket.Chat takes all from a [ to the next link for that link's label, over lines too, and knows no escape for it. So links that
    follow a [ are written as Slack does, which Mattermost's server translates.
    """
    if _LABEL not in text:
        return text
    parts: list[str] = []
    done, bracket = 0, text.find("[")
    for match in _LINK.finditer(text, bracket) if bracket >= 0 else ():
        label, url = match.groups()
        parts += [_without_beginning(text[done : match.start()]), f"<{url}|{label.translate(_IN_LABEL)}>"]
        done = match.end()
    return "".join([*parts, text[done:]]).replace(_LABEL, "[").replace(_LABEL_END, "]")


def _without_beginning(text: str) -> str:
    """A text before a link as Slack writes it, in which Mattermost's server finds no beginning of one."""
    line = max(text.rfind("\n"), text.rfind(">")) + 1
    before, bar, after = text[line:].rpartition("|")
    return text[:line] + before.replace("<", "‹") + bar + after


def _words(text: str, after: str = "") -> str:
    """Words in which nothing is markup. `after`: what follows them."""
    if not may_be_in(text):
        return _inert(text)
    parts: list[str] = []
    done = 0
    for start, end in find(text):
        parts += [_inert(text[done:start]), address(text[start:end], (text[end : end + _LOOKED_AT] + after)[:_LOOKED_AT])]
        done = end
    return _joined([*parts, _inert(text[done:])])


def _joined(parts: Sequence[str]) -> str:
    """The parts of a line, of which none changes what the next one means."""
    return _CHANGES.sub(_BROKEN_UP, _SEAM.join(parts)).replace(_SEAM, "")


def _inert(text: str) -> str:
    return _ESCAPED.sub(r"\\\g<0>", _PARTED.sub(_BROKEN_UP, text))


def _lines(text: str, is_verbatim: bool = False) -> str:
    """Lines of a paragraph, none of which begins another block."""
    text = _ANGLED.sub(_without_autolink, _LINE_START.sub(_escaped_start, text))
    return _CODE_OR_TABLE.sub(WORD_JOINER, _spaced(text) if is_verbatim else text)


def _without_autolink(match: re.Match[str]) -> str:
    """Between < and > Mattermost takes anything without a space for an address if it looks like one."""
    text = match[0]
    return f"{text[:-1]} >" if text[-1] == ">" and _LIKE_ADDRESS.search(text) else text


def _spaced(text: str) -> str:
    """Keeps spaces: Rocket.Chat would show runs of them as one."""
    return _SPACES.sub(lambda run: "\u00a0" * len(run[0]), text.replace("\t", _TAB))


def _escaped_start(match: re.Match[str]) -> str:
    if match[3]:
        return f"{match[1]}{WORD_JOINER}{match[3]}"
    return f"{match[1]}\\#" if match[2] else f"{match[1]}{match[4]}\\."


class _Markdown(Renderer):
    """`is_label`: in the label of a link no address is a link by itself. `is_bold`: within bold a single star would end it."""

    def __init__(self, is_label: bool = False, is_bold: bool = False) -> None:
        self._is_label = is_label
        self._is_bold = is_bold
        self._in_label = self if is_label else _Markdown(True, is_bold)
        self._in_bold = self if is_bold else _Markdown(is_label, True)

    def inlines(self, nodes: Sequence[tree.Inline], behind: str = "") -> str:
        """`behind`: what follows them."""
        parts = [*[self.inline(node) for node in nodes], behind]
        for index, node in enumerate(nodes):
            before, after = parts[index - 1][-1:] if index else "", parts[index + 1][:_LOOKED_AT]
            match node:
                case tree.Text():
                    parts[index] = self.text(node.text, after)
                case tree.Strong() | tree.Strike() | tree.Emphasis():
                    parts[index] = self._marked(node, before, after)
                case tree.Link() | tree.Image() if is_bare(node) and not node.url.startswith("mailto:"):
                    parts[index] = address(node.url, after)
                case _:
                    pass
        return _joined(parts).removesuffix(behind)

    def text(self, text: str, after: str = "") -> str:
        return _inert(text) if self._is_label else _words(text, after)

    def code(self, text: str) -> str:
        return _NAME_IN_CODE.sub(_BROKEN_UP, code_span(text))

    def _marked(self, node: tree.Strong | tree.Strike | tree.Emphasis, before: str, after: str) -> str:
        inside = (self._in_bold if isinstance(node, tree.Strong) else self).inlines(node.inside)
        match node:
            case tree.Strong():
                shown = _marked("**", inside)
            case tree.Strike():
                shown = _marked("~~", inside)
            case tree.Emphasis():
                shown = _emphasis(inside, before, after[:1], self._is_bold)
        return self.inlines(node.inside, after) if shown == inside else shown

    def link(self, node: tree.Link) -> str:
        if node.url.startswith("mailto:"):
            mail = _inert(bare_url(node.url))
            return mail if is_bare(node) else f"{self.inlines(node.inside)} ({mail})"
        if is_bare(node):
            return address(node.url)
        return _link(self._in_label.inlines(node.inside).replace("\n", " "), node.url)

    def paragraph(self, block: tree.Paragraph) -> str:
        return _lines(self.inlines(block.inside), isinstance(block, tree.Verbatim))

    def heading(self, block: tree.Heading) -> str:
        line = _lines(super().heading(block))
        if not line:
            return ""
        if block.level > MAX_HEADING:
            return _marked("**", line)
        return f"{'#' * block.level} {line}{WORD_JOINER if line.endswith('#') else ''}"

    def code_block(self, block: tree.CodeBlock) -> str:
        return _NAME_IN_CODE.sub(_BROKEN_UP, fenced(block.text, block.language))

    def table(self, block: tree.Table) -> str:
        return _NAME_IN_CODE.sub(_BROKEN_UP, fenced(self.grid(block)))


def _emphasis(inside: str, before: str, after: str, is_bold: bool) -> str:
    """Underscores, as single stars are bold in Rocket.Chat; within a word they would be shown."""
    is_within = before == "_" or before.isalnum() or not (after.isspace() or after in _AFTER_UNDERSCORE or not after)
    if not is_within and len(inside) >= _SHORTEST_UNDERSCORED and "_" not in inside:
        return marked("_", inside)
    return inside if is_bold else _marked("*", inside)


def _marked(mark: str, inside: str) -> str:
    """Mattermost ends a mark at the next one, even in code, and Rocket.Chat at half of it, even escaped: such words are sent without it."""
    is_torn = mark[0] in inside and (mark in inside or mark[0] in _CODE.sub(r"\1", inside))
    if is_torn:
        return inside
    return marked(mark, f"{WORD_JOINER}{inside}" if mark == "*" and inside[:1] in _NOT_AFTER_STAR else inside)


class _Remembering(Remembered, _Markdown):
    pass


_MARKDOWN = _Markdown()
