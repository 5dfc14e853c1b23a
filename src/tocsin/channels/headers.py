"""Headers that a user adds to the requests of their webhook: one text with a `Name: value` on each line. The values are secrets."""

import base64
import binascii
import re

from tocsin import caches
from tocsin.model import MASK, Hidden
from tocsin.net.urls import is_token, is_word

MAX_HEADERS = 10
MAX_VALUE = 4096  # characters: receivers accept about 8 KB of headers
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}", re.ASCII)  # a token: RFC 9110 5.6.2
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?", re.ASCII)
# What belongs to the connection or to a proxy (RFC 9110 7.6.1 and 11.7), to the message that is sent, or to its signature.
_TAKEN = re.compile(
    r"host|connection|proxy-.*|keep-alive|te|trailer|transfer-encoding|upgrade|expect|http2-settings|content-.*|webhook-.*", re.IGNORECASE
)
_WITHIN = re.compile(r"[\s=;,\"]+")  # `Token token="…"`, `Cookie: session=…; …`
_MIN_WORD = 8  # characters: from this length a part of a value, such as the token after `Bearer`, is a secret by itself


def _pairs(text: str) -> list[tuple[str, str]]:
    """Names and values as written, unchecked. A line without a colon has an empty name."""
    pairs: list[tuple[str, str]] = []
    for line in text.split("\n"):
        name, colon, value = line.partition(":")
        pairs.append((name, value.strip(" \t")) if colon else ("", line))
    return pairs


def check(text: str) -> str | None:
    pairs = _pairs(text)
    if len(pairs) > MAX_HEADERS:
        return "At most 10 headers are allowed, one on each line."
    if not all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in pairs):
        return "Each line reads Name: value; the name is letters, digits and hyphens, the value printable ASCII."
    if any(len(value) > MAX_VALUE for _, value in pairs):
        return "A header's value takes at most 4,096 characters."
    if any(_TAKEN.fullmatch(name) for name, _ in pairs):
        return "The service itself sets Host, Content-…, webhook-… and what belongs to the connection, such as Transfer-Encoding."
    return "Each header may be given once." if len({name.lower() for name, _ in pairs}) < len(pairs) else None


def hide(text: str) -> Hidden:
    """The names stay visible. The values are secret, and so are parts of them that an answer may repeat alone."""
    pairs = _pairs(text)
    secrets: dict[str, None] = {}
    for _, value in pairs:
        scheme, _, rest = value.partition(" ")
        words = [word for word in (*value.split(), *_WITHIN.split(value)) if len(word) >= _MIN_WORD or is_token(word)]
        for secret in (value, *words, *(_basic(rest) if scheme.lower() == "basic" else ())):
            if secret:
                secrets[secret] = None
    return Hidden("\n".join(f"{name}: {MASK}" if name else MASK for name, _ in pairs), tuple(secrets))


def _basic(credentials: str) -> tuple[str, ...]:
    """User and password of `Basic` credentials (RFC 7617), together and alone."""
    try:
        pair = base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, ValueError):
        return ()
    user, colon, password = pair.partition(":")
    return (pair, password, *(() if is_word(user) else (user,))) if colon else ()


def restore(given: str, stored: str) -> str:
    """`given`, with the stored value put back into each masked line."""
    known = {name.lower(): value for name, value in _pairs(stored)}
    lines: list[str] = []
    for line, (name, value) in zip(given.split("\n"), _pairs(given), strict=True):
        lines.append(f"{name}: {known[name.lower()]}" if value == MASK and name.lower() in known else line)
    return "\n".join(lines)


@caches.of_secrets(1000)
def of(text: str) -> tuple[tuple[str, str], ...]:
    """The headers of a text that was checked."""
    return tuple(_pairs(text))


def without(ours: tuple[tuple[str, str], ...], own: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Our headers, except those that the user's own replace."""
    names = {name.lower() for name, _ in own}
    return tuple(header for header in ours if header[0] not in names)
