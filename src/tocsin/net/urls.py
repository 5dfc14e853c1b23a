"""User-given URLs: what is accepted, what may be shown, and the form that goes on the wire."""

import base64
import re
from urllib.parse import SplitResult, quote, unquote, urlsplit

import idna

from tocsin.model import MASK, Hidden

MAX_URL = 2048
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")
_SHORTEST_TOKEN = 12  # shorter parts of a path are words such as "webhooks", which answers use, too
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
    """Only scheme and host stay visible; the rest is secret as a whole and in its parts: an answer may repeat the path or a token alone."""
    shown = origin(value)
    if value.removesuffix("/") == shown:
        return Hidden(value, ())
    parts = urlsplit(value)
    userinfo = parts.netloc.rpartition("@")[0]
    rest = value.partition("://")[2][len(parts.netloc) :].lstrip("/")
    tokens = [part for part in re.split("[/?&=#]", rest) if len(part) >= _SHORTEST_TOKEN]
    basic = base64.b64encode(unquote(userinfo).encode()).decode() if userinfo else ""  # as sent in the Authorization header
    secrets = dict.fromkeys((rest, parts.path.lstrip("/"), parts.query, userinfo, userinfo.partition(":")[2], basic, *tokens))
    return Hidden(f"{shown}/{MASK}", tuple(secret for secret in secrets if secret))


def hide_after(value: str, public: int) -> Hidden:
    """The first `public` characters (scheme, host, public ids) stay visible; everything after them is secret."""
    secret = value[public:]
    return Hidden(value[:public] + MASK, (secret,)) if secret else Hidden(value, ())
