"""Who is at the pages: the client that a request comes from, and the user who is signed in there."""

import re

from msgspec import Struct

from tocsin.clock import Micros
from tocsin.ports.people import By

# The first that is found in a User-Agent header counts: most browsers name those that they descend from too.
# https://developer.mozilla.org/docs/Web/HTTP/Guides/Browser_detection_using_the_user_agent
_BROWSERS = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Whale/", "Whale"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
)
_SYSTEMS = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)


class Client(Struct, frozen=True):
    """Where a request comes from. `counted_as`: the address as failed tries count against it. `device`: the cookie of a browser in which
    somebody has signed in before; `agent`: what it says it is. `known_as`: the address by which users are known who have signed in from it,
    empty where it says nothing about who they are.
    """

    address: str
    counted_as: str
    device: str = ""
    agent: str = ""
    known_as: str = ""


class Visitor(Struct, frozen=True):
    """Who is signed in, and in which session, by its token's hash. `time_zone`: the one they chose. `by`: how they signed in.
    `confirmed_at`: when they last proved in this session who they are. `language`: in which they are written to.
    """

    id: int
    email: str
    is_admin: bool
    time_zone: str | None = None
    by: By | None = None
    session: bytes = b""
    confirmed_at: Micros | None = None
    language: str | None = None


def device_of(agent: str) -> str:
    """Browser and system, as people name them: `Firefox, Linux`. Empty if it names neither."""
    found = (next((name for mark, name in names if mark in agent), "") for names in (_BROWSERS, _SYSTEMS))
    return ", ".join(filter(None, found)) or _first_word(agent)


def _first_word(agent: str) -> str:
    match = re.match(r"[A-Za-z][A-Za-z0-9 ._-]{0,38}", agent)
    return match[0].strip() if match else ""
