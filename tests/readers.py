"""What a person reads of each dialect, told without any of its renderer's code, and in one form so that it can be compared.

That form: a link is `label (address)`, struck words stand in `~`, a bullet is `- `, a number `1. `, a rule the renderers' own line; what
is quoted is read as plain words. Lines matter no more than any other white space.
"""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from urllib.parse import unquote

from markdown_it import MarkdownIt

from tocsin.markup import tree
from tocsin.markup.discord import discord
from tocsin.markup.google_chat import google_chat
from tocsin.markup.html import html
from tocsin.markup.plain import plain
from tocsin.markup.slack import rich_text, text
from tocsin.markup.teams import teams
from tocsin.markup.telegram import telegram

RULE = "──────────"
TELEGRAM_TAGS = frozenset({"b", "i", "s", "code", "pre", "a", "blockquote"})
TELEGRAM_TAG = re.compile(r'<(/?)([a-z]+)((?: (?:href|class)="[^"<>]*")?)>')
_TELEGRAM_ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&amp;": "&"}
_BULLETS = re.compile(r"^(?:[\s☐☑]|[•>-] |\d+\. )+", re.MULTILINE)
_IN_ADDRESS = re.compile(r"(?i)(?:https?://|mailto:)\S*%\S*")


def same_form(words: str) -> str:
    """White space as single spaces, without what has no width, addresses without their percent signs."""
    words = re.sub("[\u2060\x00]", "", words)
    return _IN_ADDRESS.sub(lambda match: unquote(match[0]), " ".join(words.split()))


def labelled(label: str, url: str) -> str:
    address = re.sub("(?i)^mailto:", "", url)
    if not label.strip() or unquote(label.strip()).lower() in (unquote(address).lower(), unquote(url).lower()):
        return address
    return f"{label} ({address})" if url else label


# --------------------------------------------------------------------------------------------------------------- HTML


class HtmlReader(HTMLParser):
    """`quotes`: whether the lines of a quote begin with `> `, or only those in lists. `shows`: whether there is anything to see."""

    _BLOCKS = frozenset({"p", "pre", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "tr", "hr", "table", "div"})

    def __init__(self, quotes: bool = False, quotes_in_lists: bool = False) -> None:
        super().__init__(convert_charrefs=True)
        self._quotes_in_lists = quotes_in_lists
        self.shows = False
        self._quotes = quotes
        self._out: list[str] = []
        self._links: list[tuple[str, int]] = []
        self._lists: list[int | None] = []
        self._quoted: list[int] = []
        self._is_behind_marker = False

    def read(self, fragment: str) -> str:
        self.feed(fragment)
        self.close()
        return "".join(self._out)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in self._BLOCKS:
            self._new_line()
        if tag == "br":
            self._out.append("\n")
        elif tag in {"td", "th"}:
            self._out.append(" ")
        elif tag == "s":
            self._out.append("~")
        elif tag == "hr":
            self._put(RULE)
        elif tag == "a":
            self._links.append((values["href"], len(self._out)))
        elif tag == "img":
            self._put(values["alt"] if self._links else labelled(values["alt"], values["src"]), bool(values["alt"].strip()))
        elif tag in {"ul", "ol"}:
            self._lists.append(int(values.get("start", "1")) if tag == "ol" else None)
        elif tag == "li":
            number = self._lists[-1]
            self._out.append("- " if number is None else f"{number}. ")
            self._lists[-1] = None if number is None else number + 1
            self._is_behind_marker = True
        elif tag == "blockquote":
            self._quoted.append(len(self._out))
            self._is_behind_marker = False

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            url, start = self._links.pop()
            label = "".join(self._out[start:])
            self._out[start:] = [labelled(label, url)]
            self.shows = self.shows or url.lower().startswith(("http://", "https://", "mailto:"))
        elif tag == "s":
            self._out.append("~")
        elif tag in {"ul", "ol"}:
            self._lists.pop()
        elif tag == "blockquote":
            start = self._quoted.pop()
            lines = [line for line in "".join(self._out[start:]).split("\n") if line.strip()]
            prefix = "> " if self._quotes or (self._quotes_in_lists and self._lists) else ""
            self._out[start:] = ["\n".join(prefix + line for line in lines)]
        if tag in self._BLOCKS:
            self._is_behind_marker = False
            self._new_line()

    def handle_data(self, data: str) -> None:
        if not self._is_behind_marker or not data.isspace():
            self._put(data, bool(data.strip()))

    def _put(self, text: str, shows: bool = True) -> None:
        self._out.append(text)
        self.shows = self.shows or shows
        self._is_behind_marker = False

    def _new_line(self) -> None:
        if not self._is_behind_marker:
            self._out.append("\n")


def read_plain(words: str) -> str:
    """Without the lines of a quote that are empty."""
    return same_form(re.sub(r"(?m)^(?:> ?)+$", "", words) if words.strip("> \n") else words)


def read_html(fragment: str) -> str:
    return same_form(HtmlReader().read(fragment))


# ----------------------------------------------------------------------------------------------------------- Telegram


def read_telegram(message: str) -> str:
    parts: list[str] = []
    link = ("", 0)
    done = 0
    for match in TELEGRAM_TAG.finditer(message):
        parts.append(_telegram_words(message[done : match.start()]))
        done = match.end()
        is_end, tag, attribute = match.groups()
        if tag == "s":
            parts.append("~")
        elif tag == "a" and not is_end:
            link = (_telegram_words(attribute[len(' href="') : -1]), len(parts))
        elif tag == "a":
            url, start = link
            parts[start:] = [labelled("".join(parts[start:]), url)]
        elif tag in {"blockquote", "pre"}:
            parts.append("\n")
    parts.append(_telegram_words(message[done:]))
    return same_form(_as_bullets("".join(parts)))


def _telegram_words(words: str) -> str:
    return re.sub("&(?:lt|gt|quot|amp);", lambda match: _TELEGRAM_ENTITIES[match[0]], words)


def _as_bullets(words: str) -> str:
    return _BULLETS.sub(lambda match: match[0].replace("• ", "- "), words)


# -------------------------------------------------------------------------------------------------------------- Slack


def read_slack_text(message: str) -> str:
    """Only a link or a quote has angle brackets that are not escaped. Backticks are left out: Slack has no escape for the author's."""
    words = re.sub(r"<([^<>|]+)(?:\|([^<>|]*))?>", lambda link: labelled((link[2] or "").replace("¦", "|"), link[1]), message)
    words = words.replace(">", "").replace("`", "").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return same_form(words).replace("`", "")


def read_slack_rich_text(elements: list[dict]) -> str:
    return same_form("\n".join(_rich_element(element) for element in elements))


def _rich_element(element: dict) -> str:
    inside = element["elements"]
    if element["type"] == "rich_text_list":
        first = element.get("offset", 0) + 1
        markers = [f"{first + index}. " if element["style"] == "ordered" else "- " for index in range(len(inside))]
        return "\n".join(marker + _rich_element(line) for marker, line in zip(markers, inside, strict=True))
    words = "".join(_rich_words(part) for part in inside)
    return _as_bullets(words) if element["type"] == "rich_text_quote" else words


def _rich_words(part: dict) -> str:
    words = labelled(part["text"], part["url"]) if part["type"] == "link" else part["text"]
    return f"~{words}~" if part.get("style", {}).get("strike") else words


# ------------------------------------------------------------------------------------------------------------ Discord

_DISCORD_QUOTE = re.compile(r"(?:^> ?.*\n?)+", re.MULTILINE)
_DISCORD_LINE = re.compile(r"(?:\s|[☐☑] |- |\d+\. |> )*(?:#{1,3} )?")
_DISCORD_FENCE = re.compile(r"```(?:[\w+.#-]*\n)(.*?)```", re.DOTALL)
_DISCORD_CODE = re.compile(r"(`+)(.*?[^`])\1(?!`)", re.DOTALL)
_DISCORD_URL = re.compile(r"<(https?://[^\s<>]+)>", re.IGNORECASE)
_DISCORD_LINK = re.compile(r"\[((?:\\.|\[[^\]]*\]|[^\]\\])*)\]\(([^\s()]+)\)", re.DOTALL)
_DISCORD_STRONG = re.compile(r"\*\*((?:\\.|[^\\])+?)\*\*(?!\*)", re.DOTALL)
_DISCORD_EMPHASIS = re.compile(r"\*(?=\S)((?:\*\*|\\.|\s+(?:\\.|[^\s*\\]|\*\*)|[^\s*\\])+?)\*(?!\*)", re.DOTALL)
_DISCORD_STRIKE = re.compile(r"~~((?:\\.|[^\\])+?)~~", re.DOTALL)
_PLAIN_RUN = re.compile(r"[^\\`<\[*~\n]+")


def read_discord(message: str) -> str:
    return same_form("".join(words for _, words in discord_pieces(message)))


def discord_pieces(message: str) -> list[tuple[str, str]]:
    """A message in pieces: what it is (words, escaped, code, address) and what is read."""
    pieces: list[tuple[str, str]] = []
    at = 0
    while at < len(message):
        if at == 0 or message[at - 1] == "\n":
            if quote := _DISCORD_QUOTE.match(message, at):
                pieces += [*discord_pieces(re.sub("(?m)^> ?", "", quote[0])), ("words", "\n")]
                at = quote.end()
                continue
            start = _DISCORD_LINE.match(message, at)
            if start and start[0]:
                pieces.append(("words", re.sub("> |#", "", start[0])))
                at = start.end()
                continue
        inside, at = _discord_inline(message, at)
        pieces += inside
    return pieces


def _discord_inside(message: str) -> list[tuple[str, str]]:
    pieces: list[tuple[str, str]] = []
    at = 0
    while at < len(message):
        inside, at = _discord_inline(message, at)
        pieces += inside
    return pieces


def _discord_inline(message: str, at: int) -> tuple[list[tuple[str, str]], int]:
    """What is at a place, and where it ends. Of bold and italic that begin at one place the longer is taken."""
    if run := _PLAIN_RUN.match(message, at):
        return [("words", run[0])], run.end()
    if re.compile(r"\\[^0-9A-Za-z\s]").match(message, at):
        return [("escaped", message[at + 1])], at + 2
    if code := _DISCORD_FENCE.match(message, at):
        return [("code", f"\n{code[1]}\n")], code.end()
    if code := _DISCORD_CODE.match(message, at):
        return [("code", code[2])], code.end()
    if address := _DISCORD_URL.match(message, at):
        return [("address", address[1])], address.end()
    if link := _DISCORD_LINK.match(message, at):
        label = _discord_inside(link[1])
        shown = labelled("".join(words for _, words in label), link[2])
        return [*label, ("address", f" ({link[2]})" if shown.endswith(")") else "")], link.end()
    if strike := _DISCORD_STRIKE.match(message, at):
        return [("words", "~"), *_discord_inside(strike[1]), ("words", "~")], strike.end()
    marked = [match for mark in (_DISCORD_EMPHASIS, _DISCORD_STRONG) if (match := mark.match(message, at))]
    if marked:
        longest = max(marked, key=lambda match: match.end())
        return _discord_inside(longest[1]), longest.end()
    return [("words", message[at])], at + 1


# -------------------------------------------------------------------------------------------------------------- Teams

_TEAMS_MARKDOWN = MarkdownIt("zero").enable(["emphasis", "link", "list", "escape"])
_TEAMS_MARKDOWN.validateLink = lambda _: True


def read_teams(elements: list[dict]) -> str:
    return same_form("\n".join(_teams_element(element) for element in elements))


def _teams_element(element: dict) -> str:
    if element["type"] == "Container":
        return "\n".join(_teams_element(inner) for inner in element["items"])
    return HtmlReader().read(_TEAMS_MARKDOWN.render(element["text"].replace("\r", "\n")))


# -------------------------------------------------------------------------------------------------------- Google Chat


def read_google_chat(card_text: str) -> str:
    return read_plain(_as_bullets(HtmlReader().read(card_text.replace("\u00a0", " "))))


# ---------------------------------------------------------------------------------------------------------------- all

DIALECTS: dict[str, tuple[Callable[[tree.Document], object], Callable[..., str]]] = {
    "plain": (plain, read_plain),
    "html": (html, read_html),
    "slack text": (text, read_slack_text),
    "slack rich_text": (rich_text, read_slack_rich_text),
    "discord": (discord, read_discord),
    "telegram": (telegram, read_telegram),
    "teams": (teams, read_teams),
    "google chat": (google_chat, read_google_chat),
}
