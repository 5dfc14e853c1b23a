"""Whom Mattermost and Rocket.Chat wake: models of how their servers find mentions in a message's source.

Mattermost: server/public/shared/markdown (inlines.go, autolink.go) and server/channels/app/mention_parser_standard.go; blocks are told
only as far as code blocks and paragraphs go. Rocket.Chat: apps/meteor/app/mentions/lib/MentionsParser.ts.
"""

import re
import unicodedata
from html import unescape
from typing import Any, NamedTuple

_ESCAPABLE = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_SLACK_LINK = re.compile(r"<([^\n<|>]+)\|([^\n>]+)>")
_ANNOUNCEMENT = re.compile(r"<!(all|channel|here)>")
_BEFORE_BLOCK = re.compile(r"(?:[ \u00a0]*(?:>|-|\d+\.)(?=[ ]))*[ ]*")
_DESTINATION = re.compile(r"\([ \n]*((?:[^\s()\\]|\\.|\((?:[^\s()\\]|\\.)*\))*)[ \n]*\)")
_REFERENCE = re.compile(r"&(?:#[xX][0-9a-fA-F]{1,7}|#\d{1,7}|\w+);")
_BACKTICKS = re.compile("`+")
_SPECIAL = re.compile(r"[\n\\`&!\[\]wW:]")
_SCHEMES = frozenset({"http", "https", "ftp", "mailto", "tel", "gemini"})
_NAMED = re.compile(r"@[\w.-]*[^\W_][\w.-]*")


def rocket_chat(source: str) -> list[str]:
    return re.findall(r"(?:^|[\s>])(@[0-9a-zA-Z_.-]*[0-9a-zA-Z])", source, re.MULTILINE)


def mattermost(source: str) -> list[str]:
    """All words that could name somebody. Older versions read neighbouring texts as one, newer ones each by itself."""
    source = _SLACK_LINK.sub(r"[\2](\1)", _ANNOUNCEMENT.sub(r"@\1", source))
    found: list[str] = []
    for paragraph in _paragraphs(source):
        texts = _texts(paragraph)
        found += [name for run in texts for text in run for name in _mentioned(text)]
        found += [name for run in texts for name in _mentioned("".join(run))]
    return found


def _paragraphs(source: str) -> list[str]:
    """The paragraphs, without what stands before quotes and items, and without code blocks."""
    paragraphs: list[list[str]] = [[]]
    in_code = False
    for line in source.split("\n"):
        words = line[_BEFORE_BLOCK.match(line).end() :]
        if words.startswith("```"):
            in_code = not in_code
            paragraphs.append([])
        elif not in_code:
            if words:
                paragraphs[-1].append(words)
            else:
                paragraphs.append([])
    return ["\n".join(lines) for lines in paragraphs if lines]


class _Text(NamedTuple):
    words: str
    start: int
    end: int


class _Opener(NamedTuple):
    place: int
    mark: str
    is_active: bool = True


def _texts(raw: str) -> list[list[str]]:
    """The texts of a paragraph, in runs between which there is something else. A link's label is among them, a found address is not."""
    inlines: list[Any] = []  # texts, and lists: something else, with what is in it
    openers: list[_Opener] = []
    at = 0
    while at < len(raw):
        after = None
        match raw[at]:
            case "\n":
                inlines.append([])
                after = at + 1
            case "`":
                after = _code_end(raw, at)
                inlines += [] if after is None else [[]]
            case "]":
                after = _closed(raw, at, inlines, openers)
            case "w" | "W" | ":" if not any(opener.is_active for opener in openers) and (link := _autolink(raw, at)) is not None:
                if link[0] < at:
                    before = inlines.pop()
                    inlines.append(_Text(before.words[: link[0] - at], before.start, link[0]))
                inlines.append([])
                after = link[1]
            case _:
                pass
        if after is None:
            text, after = _text_at(raw, at)
            if text.words in ("[", "!["):
                openers.append(_Opener(len(inlines), text.words))
            inlines.append(text)
        at = after
    return _runs(inlines)


def _text_at(raw: str, at: int) -> tuple[_Text, int]:
    """The text that begins here, and where what follows it begins."""
    character = raw[at]
    if character == "\\" and raw[at + 1 : at + 2] and raw[at + 1] in _ESCAPABLE:
        return _Text(raw[at + 1], at + 1, at + 2), at + 2
    if character == "&" and (entity := _REFERENCE.match(raw, at)) and (words := unescape(entity[0])) != entity[0]:
        return _Text(words, at, at + len(words)), entity.end()
    if character == "`":
        words = _BACKTICKS.match(raw, at)[0]
    elif character in "\\&![]":
        words = "![" if raw.startswith("![", at) else character
    else:
        found = _SPECIAL.search(raw, at + 1)
        words = raw[at : found.start() if found else len(raw)]
    return _Text(words, at, at + len(words)), at + len(words)


def _code_end(raw: str, at: int) -> int | None:
    run = _BACKTICKS.match(raw, at)[0]
    closing = re.compile(rf"(?<!`){run}(?!`)").search(raw, at + len(run))
    return closing and closing.end()


def _closed(raw: str, at: int, inlines: list[Any], openers: list[_Opener]) -> int | None:
    """Where what follows a link begins; None if this ] ends none."""
    if not openers:
        return None
    opener = openers.pop()
    if not opener.is_active or (destination := _DESTINATION.match(raw, at + 1)) is None:
        return None
    inlines[opener.place :] = [inlines[opener.place + 1 :]]
    if opener.mark == "[":
        openers[:] = [other._replace(is_active=other.is_active and other.mark != "[") for other in openers]
    return destination.end()


def _autolink(raw: str, at: int) -> tuple[int, int] | None:
    """The span of the address whose scheme ends at the colon, or which begins with the w, at this place."""
    if raw[at] == ":":
        scheme = re.search(r"[A-Za-z0-9]*\Z", raw[:at])[0]
        if not raw.startswith("://", at) or scheme.lower() not in _SCHEMES or not _is_in_host(raw[at + 3 : at + 4]):
            return None
        start, host = at - len(scheme), at + 3
    else:
        if (at > 1 and not (raw[at - 1].isspace() or raw[at - 1] in "*_~)<(>")) or not re.match(r"www\d{0,3}\.", raw[at:]):
            return None
        start = host = at
    end = host + 1
    while end < len(raw) - 1 and (raw[end] in ".-" or _is_in_host(raw[end])):
        end += 1
    if raw[end : end + 1] == "_":
        return None
    while end < len(raw) and raw[end] not in " \t\n\r\f\v":
        end += 1
    return start, start + len(_trimmed(raw[start:end]))


def _trimmed(link: str) -> str:
    link = re.split("[<>]", link)[0]
    while link:
        if link[-1] in "?!.,:*_~'\"":
            link = link[:-1]
        elif link[-1] == ";":
            link = re.sub(r"(?:&[A-Za-z]+)?;\Z", "", link)
        elif link[-1] == ")" and link.count(")") > link.count("("):
            link = link[:-1]
        else:
            break
    return link


def _is_in_host(character: str) -> bool:
    return character != "" and not character.isspace() and unicodedata.category(character)[0] != "P"


def _runs(inlines: list[Any]) -> list[list[str]]:
    runs: list[list[str]] = [[]]
    last = -1
    for inline in inlines:
        if isinstance(inline, list):
            runs += [*_runs(inline), []]
            last = -1
        elif inline.start == last:
            runs[-1][-1] += inline.words
            last = inline.end
        else:
            runs[-1].append(inline.words)
            last = inline.end
    return [run for run in runs if run]


def _mentioned(text: str) -> list[str]:
    found: list[str] = []
    for word in "".join([character if _is_in_word(character) else " " for character in text]).split(" "):
        if not word or (word[0] == word[-1] == ":"):
            continue
        name = word.lstrip(":.-_")
        found += [name, name.rstrip(":.-_")]
        if not name.startswith("@"):
            found += re.split("[.:-]", name)
    return [name for name in found if _NAMED.fullmatch(name)]


def _is_in_word(character: str) -> bool:
    return character in ":.-_@" or unicodedata.category(character)[0] in "LN"
