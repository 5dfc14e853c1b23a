"""User-given URLs: what is accepted, what may be shown, and the form that goes on the wire."""

import base64
import re
from urllib.parse import SplitResult, quote, unquote, urlsplit

import idna

from tocsin.model import MASK, Hidden

MAX_URL = 2048
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")
_PART = re.compile(r"([/?&=#]?)([^/?&=#]+)")
_JOINTS = str.maketrans("", "", "-_")
_SHORTEST_PART = 3  # characters, where it follows its slash
_SHORTEST_TELLING = 6  # characters of a number, or of a word at a path's end, that are a secret
_SHORTEST_TOKEN = 4  # characters of what is neither
_LONGEST_WORD = 12  # characters: what is as long is hardly a word
_COMMON = (
    "account accounts admin alarm alarms alert alerts api app auth bot callback callbacks channel chat client default endpoint error"
    " errors event events forward health hook hooks http https inbound incoming index ingest invoke json key login manual message messages"
    " monitor monitoring notification notifications notifier notify paths ping post public publish push receive receiver relay request"
    " root rooms secret send server service services slack spaces status system team teams test token topic triggers user users web webhook"
    " webhooks workflow workflows"
)
_WORDS = frozenset(_COMMON.split())
_HOST = re.compile(r"[^\s/?#@\\<>\"^`{|}%\x00-\x20\x7f]+")


def check_url(value: str) -> str | None:
    """What is wrong with a URL that a user gave, as a sentence without the URL itself; None if nothing is.

    Nothing is resolved here: the egress guard decides at connect which addresses may be reached.
    """
    if len(value) > MAX_URL:
        return f"The URL takes at most {MAX_URL:,} characters."
    if _UNPRINTABLE.search(value):
        return "The URL must not contain spaces or control characters."
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "The URL cannot be read."
    if parts.scheme not in {"http", "https"}:
        return "The URL must begin with http:// or https://."
    if not host or "\\" in value:
        return "The URL must name a host."
    if ascii_host(host) is None:
        return "The URL's host name is not valid."
    return None


def ascii_host(host: str) -> str | None:
    """A host name as the wire wants it (IDNA), None if it cannot be one. Addresses pass as they are."""
    if ":" in host:
        return host
    if not _HOST.fullmatch(host):
        return None
    if host.isascii():
        return host.lower() if len(host) <= 253 else None
    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError:
        return None


def wire_url(value: str) -> str:
    """The same URL in ASCII: host in IDNA, what is not ASCII in path and query percent-encoded, the rest byte for byte."""
    if value.isascii():
        return value
    parts = urlsplit(value)
    netloc = _netloc(parts)
    path, query = (re.sub(r"[^\x21-\x7e]+", lambda match: quote(match[0]), text) for text in (parts.path, parts.query))
    return parts._replace(netloc=netloc, path=path, query=query, fragment="").geturl()


def _netloc(parts: SplitResult) -> str:
    host = ascii_host(parts.hostname or "") or ""
    userinfo, separator, _ = parts.netloc.rpartition("@")
    host = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port is not None else ""
    return f"{quote(userinfo, safe=':%!$&*+,;=-._~()')}{separator}{host}{port}"


def origin(value: str) -> str:
    """Scheme, host and port of a URL, without userinfo: the part that is never secret."""
    parts = urlsplit(value)
    netloc = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{netloc}"


def hide_after_host(value: str) -> Hidden:
    """Only scheme and host stay visible; the rest is secret as a whole and in its parts: an answer may repeat the path or a token alone.

    Parts that are words are secret only where they follow their slash, except for the path's last one and values of parameters.
    """
    shown = origin(value)
    if value.removesuffix("/") == shown:
        return Hidden(value, ())
    parts = urlsplit(value)
    userinfo = parts.netloc.rpartition("@")[0]
    rest = value.partition("://")[2][len(parts.netloc) :].lstrip("/")
    whole = [text for text in (rest, parts.path.lstrip("/"), parts.query) if len(_PART.findall(text)) > 1]
    last = parts.path.rstrip("/").rpartition("/")[2]
    found = [secret for sign, part in _PART.findall(f"/{rest}") for secret in _secrets_in(sign, part, sign == "=" or part == last)]
    secrets = dict.fromkeys((*whole, *_credentials(userinfo), *found))
    return Hidden(f"{shown}/{MASK}", tuple(secret for secret in secrets if secret))


def _secrets_in(sign: str, part: str, is_end: bool) -> tuple[str, ...]:
    """What of a part, which follows a sign, may appear nowhere. `is_end`: the path's last part, or the value of a parameter."""
    plain = unquote(part)
    if is_token(plain) or (is_end and len(plain) >= _SHORTEST_TELLING and not is_word(plain)):
        return (part, plain)
    return (f"/{part}",) if sign == "/" and len(part) >= _SHORTEST_PART else ()


def _credentials(userinfo: str) -> tuple[str, ...]:
    """User and password, together, alone, decoded, and as they are sent in the Authorization header."""
    if not userinfo:
        return ()
    user, _, password = userinfo.partition(":")
    basic = base64.b64encode(unquote(userinfo).encode()).decode()
    return (userinfo, basic, password, unquote(password), *(() if is_word(user) else (user, unquote(user))))


def is_token(part: str) -> bool:
    """Whether a part of a secret is one by itself, and not a word or a number that answers use, too."""
    if part.lower() in _WORDS or re.fullmatch(r"v\d+", part, re.IGNORECASE):
        return False
    if len(part) >= _LONGEST_WORD:
        return True
    if part.isdecimal():
        return len(part) >= _SHORTEST_TELLING
    is_wordlike = part.translate(_JOINTS).isalpha() and part in {part.lower(), part.upper(), part.title()}
    return len(part) >= _SHORTEST_TOKEN and not is_wordlike


def is_word(part: str) -> bool:
    """Whether it is one that URLs and answers have in common, so that it can be no secret."""
    return part.lower() in _WORDS


def hide_after(value: str, public: int) -> Hidden:
    """The first `public` characters (scheme, host, public ids) stay visible; everything after them is secret."""
    secret = value[public:]
    return Hidden(value[:public] + MASK, (secret,)) if secret else Hidden(value, ())
