"""How X counts: weights instead of characters (https://docs.x.com/resources/fundamentals/counting-characters).

The count is an upper bound: X's lists of top-level domains and emoji change without notice, and a post one over the limit is refused.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import TypeAlias

from tocsin.markup.length import left_out
from tocsin.markup.renderer import WORD_JOINER

LIMIT = 280
URL_WEIGHT = 23  # X replaces every link by one of t.co, whatever its length
ELLIPSIS = "…"
_ELLIPSIS_WEIGHT = 2
_NEAR = 20  # characters that a cut may go back to end with a whole word
_SHORTEST_URL = 4  # a.kr

Piece: TypeAlias = tuple[str, int]  # a text that must not be torn apart, and its weight

_LIGHT = re.compile("[\u0000-\u10ff\u2000-\u200d\u2010-\u201f\u2032-\u2037]")  # these weigh 1, all others 2

# Two-letter domains are countries; of the others, those that are met in practice.
_COUNTRIES = (
    "ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw by bz ca cc cd cf cg ch ci ck "
    "cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo fr ga gd ge gf gg gh gi gl gm gn gp gq gr "
    "gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls "
    "lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg "
    "ph pk pl pm pn pr ps pt pw py qa re ro rs ru rw sa sb sc sd se sg sh si sk sl sm sn so sr st su sv sx sy sz tc td tf tg th tj tk "
    "tl tm tn to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw"
)
_OTHERS = (
    "com net org edu gov mil int info biz name pro aero asia cat coop jobs mobi museum post tel travel academy agency app art blog "
    "camp chat city cloud club codes community company design dev digital email events exchange foundation fun games garden global "
    "group guide help host ink institute land life link live media moe network news ninja one online page party place press rocks run "
    "science services shop show site social software solutions space store studio support systems team tech technology today tools "
    "top town video vip website wiki works world wtf xyz zone"
)
_KNOWN = frozenset(f"{_COUNTRIES} {_OTHERS}".split())

# An emoji of several characters weighs 2 in all. Only the common ones are recognized here; of the others each character counts.
_SIGNS = (  # those that a selector turns into an emoji
    "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2194-\u2199\u21a9\u21aa\u23ed-\u23ef\u23f1\u23f2\u23f8-\u23fa\u25b6\u25c0\u2600-\u2604\u260e\u2611"
    "\u2620\u2622\u2623\u2638-\u263a\u2640\u2642\u265f\u2660\u2663\u2665\u2666\u2668\u267b\u2692-\u2697\u2699\u26a0\u26a1\u26c8\u26d4\u2702"
    "\u2708\u2709\u270f\u2714\u2716\u2744\u2757\u2764\u27a1\u2b05-\u2b07\u2b50\U0001f321\U0001f324-\U0001f32c\U0001f3d4-\U0001f3df\U0001f3f3\U0001f4fd"
    "\U0001f5a5\U0001f5a8\U0001f5c2-\U0001f5c4\U0001f5d1-\U0001f5d3\U0001f5dc-\U0001f5de\U0001f6cd-\U0001f6cf\U0001f6e0-\U0001f6e5\U0001f6f0"
)
_HANDS = "\u270a-\u270d\U0001f442\U0001f443\U0001f446-\U0001f450\U0001f466-\U0001f469\U0001f4aa"
_PEOPLE = (
    "\U0001f46e\U0001f471\U0001f473\U0001f477\U0001f481\U0001f482\U0001f486\U0001f487\U0001f645-\U0001f647\U0001f64b"
    "\U0001f64d\U0001f64e\U0001f926\U0001f937"
)
_TOOLS = (
    "\u2695\u2696\u2708\U0001f33e\U0001f373\U0001f393\U0001f3a4\U0001f3a8\U0001f3eb\U0001f3ed\U0001f4bb\U0001f4bc\U0001f527"
    "\U0001f52c\U0001f680\U0001f692"
)
_SKIN = "[\U0001f3fb-\U0001f3ff]"
_EMOJI = (
    "[0-9#*]\ufe0f?\u20e3"  # keycaps
    "|[\U0001f1e6-\U0001f1ff]{2}"  # flags of countries
    "|\U0001f3f3\ufe0f\u200d\U0001f308"
    "|[\U0001f468\U0001f469](?:\u200d[\U0001f468\U0001f469])?(?:\u200d[\U0001f466\U0001f467]){1,2}"  # families
    f"|[\U0001f468\U0001f469]{_SKIN}?\u200d[{_TOOLS}]\ufe0f?"  # professions
    f"|[{_PEOPLE}]{_SKIN}?(?:\u200d[\u2640\u2642]\ufe0f?)?"
    f"|[{_HANDS}]{_SKIN}?"
    f"|[{_SIGNS}]\ufe0f"
    "|[\u00a9\u00ae]"  # X's own two counters differ on these two
)
# Every repetition is bounded, so that no text takes more than linear time.
_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_BARE = rf"{_LABEL}(?:\.(?!https?://){_LABEL}){{1,12}}"
_IN_HOST = r"[^\s!-,/:-@\[-^`{-~]"  # after http:// X takes nearly anything for a host
# The part of a path and query that X takes for part of the link in any case: no brackets, no closing punctuation.
_PATH = (
    r"(?::[0-9]{1,5})?(?:/(?:[A-Za-z0-9!*';:=+,.$/%#_~@|&-]{0,2000}[A-Za-z0-9=_#/+-])?)?"
    r"(?:\?[A-Za-z0-9!?*'@;:&=+$/%#_.,~|-]{0,2000}[A-Za-z0-9_&=#/-])?"
)
_PIECE = re.compile(
    rf"(?P<scheme>https?://)(?P<host>{_IN_HOST}{{0,250}}\.{_IN_HOST}{{1,250}})(?P<path>{_PATH})"
    rf"|(?P<bare>{_BARE})|(?P<emoji>{_EMOJI})|(?P<plain>.)",
    re.DOTALL | re.IGNORECASE,
)
_ASCII_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9-]{1,63}"
_SURE_HOST = re.compile(_ASCII_HOST)
_TOP_LEVEL = re.compile(r"[a-z]{2,}(?:-[a-z0-9-]*)?", re.IGNORECASE)  # of `com-` the first three letters
_BEFORE_URL = re.compile("[A-Za-z0-9@$#\uff20\uff03\u202a-\u202e]")  # directly after one of these X sees no link
# Behind a dot in the same word X may take an address for the path of another one, or for nothing.
_LINKED = re.compile(
    rf"(?<![^ \n])[^ \n.]*?(?<!{_BEFORE_URL.pattern})(?P<address>https?://(?P<host>{_ASCII_HOST}){_PATH})", re.IGNORECASE | re.ASCII
)
# As X's own library finds them (validMentionPrecedingChars): after nothing that a name may hold, and after the "rt" of a retweet.
_MENTION = re.compile("(?:(?<![A-Za-z0-9_])|(?<=[Rr][Tt])(?<![A-Za-z0-9_+~.-][Rr][Tt]))[@\uff20](?=[A-Za-z0-9_])")

_FREE_BEFORE = re.compile(r"[\s(\[{<\"'“‘「『—–]")


def clean(text: str) -> str:
    """NFC, in which X counts, without the three characters that X refuses."""
    return unicodedata.normalize("NFC", re.sub("[\ufffe\ufeff\uffff]", "", text))


def weight(text: str) -> int:
    """The weight of a post's text, at least what X will count."""
    return sum(weight for _, weight in _pieces(clean(text)))


def cut(text: str, limit: int) -> str:
    """`text`, or its beginning with an ellipsis where its weight is over `limit`; links, words and emoji stay whole if possible."""
    text, total, fitting, kept = clean(text), 0, 0, 0
    for piece, piece_weight in _pieces(text):
        total += piece_weight
        if total > limit:
            return _shortened(text, kept, limit)
        fitting += len(piece)
        if total <= limit - _ELLIPSIS_WEIGHT:
            kept = fitting
    return text


def _shortened(text: str, kept: int, limit: int) -> str:
    cut_text = _at_word(text, kept) + ELLIPSIS
    while kept and weight(cut_text) > limit:  # the ellipsis itself may turn the text before it into an address
        kept -= 1
        cut_text = _at_word(text, kept) + ELLIPSIS
    left_out(text, len(text) - len(cut_text) + 1)
    return cut_text


def _at_word(text: str, kept: int) -> str:
    """The first `kept` characters, back to the last space where that is near, and never ending before a combining mark."""
    while 0 < kept < len(text) and unicodedata.combining(text[kept]):
        kept -= 1
    space = max(text.rfind(" ", 0, kept + 1), text.rfind("\n", 0, kept + 1))
    return text[: space if space > 0 and kept - space < _NEAR else kept].rstrip()


def defuse(text: str) -> str:
    """`text` without anything that X would turn into a link, which costs more; `https://example.com/x` reads `example[.]com/x`.

    Brackets around the dots are how security reports write addresses that must not be clicked: readable, and easily undone.
    Everything shaped like a domain is treated this way, even `main.py`: .py is Paraguay, and X links it.
    """
    before, text = "", clean(text)
    while text != before:
        before, text = text, _PIECE.sub(_defused, text)
    return text


def _defused(match: re.Match[str]) -> str:
    host, path = match["host"] or match["bare"], match["path"] or ""
    if not host:
        return match[0]
    if not _may_be_domain(host):  # a version, an IP address
        return (match["scheme"] or "") + host + _PIECE.sub(_defused, path)
    return host.replace(".", "[.]") + path


def _is_known(host: str) -> bool:
    return bool(_SURE_HOST.fullmatch(host)) and host.rpartition(".")[2].lower() in _KNOWN


def _may_be_domain(host: str) -> bool:
    return not _SURE_HOST.fullmatch(host) or any(_TOP_LEVEL.fullmatch(label) for label in host.split(".")[1:])


def mentioning_nobody(text: str) -> str:
    """`text` with a character without width in all mentions; only an address that X surely links stays as it is, as it mentions nobody."""
    text = clean(text)
    if "@" not in text and "\uff20" not in text:
        return text
    parts: list[str] = []
    done = 0
    for match in _LINKED.finditer(text):
        if _is_known(match["host"]) and match["host"].lower() != "t.co":
            parts += [_unmentioned(text[done : match.start("address")]), match["address"]]
            done = match.end()
    return "".join([*parts, _unmentioned(text[done:])])


def _unmentioned(text: str) -> str:
    return _MENTION.sub("\\g<0>" + WORD_JOINER, text)


def _pieces(text: str) -> Iterator[Piece]:
    """The text in pieces that must not be torn apart, each with its weight."""
    for match in _PIECE.finditer(text):
        if match["plain"]:
            yield match[0], _plain_weight(match[0])
        elif match["emoji"]:
            yield match[0], 2 * len(match[0]) if _is_no_flag(match[0]) else 2
        else:
            yield from _address(text, match)


def _is_no_flag(emoji: str) -> bool:
    """Two flag letters that make no flag: X counts each."""
    letters = "".join(chr(ord(letter) - 0x1F1E6 + ord("a")) for letter in emoji if "\U0001f1e6" <= letter <= "\U0001f1ff")
    return len(letters) == 2 and letters not in _KNOWN


def _address(text: str, match: re.Match[str]) -> Iterator[Piece]:
    host = match["host"] or match["bare"]
    end = match.end("host" if match["host"] else "bare")
    is_sure = _is_known(host) and text[end : end + 1] not in {"@", "+", "-"}
    # In the paths of its own shortener X accepts letters and digits only.
    if match["scheme"] and is_sure and host.lower() != "t.co" and not (match.start() and _BEFORE_URL.match(text[match.start() - 1])):
        # Directly after other text it may be taken for a part of that, with every character counted.
        is_free = match.start() == 0 or _FREE_BEFORE.match(text[match.start() - 1])
        yield match[0], URL_WEIGHT if is_free else max(URL_WEIGHT, _plain_weight(match[0]))
        return
    address = (match["scheme"] or "") + host
    yield address, _at_most(address, host, is_sure)
    if match["path"]:
        yield from _pieces(match["path"])


def _at_most(address: str, host: str, is_sure: bool) -> int:
    """What X counts at most, where it may link all of an address, parts of it, or nothing."""
    plain = _plain_weight(address)
    if not _SURE_HOST.fullmatch(host):
        return plain + host.count(".") * (URL_WEIGHT - _SHORTEST_URL)
    if not _may_be_domain(host):
        return plain
    return max(URL_WEIGHT, plain) if is_sure or host.count(".") == 1 else plain + URL_WEIGHT - _SHORTEST_URL


def _plain_weight(text: str) -> int:
    return 2 * len(text) - len(_LIGHT.findall(text))
