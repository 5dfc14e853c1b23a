"""How libcurl reads a URL: the form that it is given, and the place that it leads to. Pure."""

import ipaddress
from typing import Any, cast

import pycurl
from msgspec import Struct

from tocsin import caches
from tocsin.net.names import Place
from tocsin.net.urls import wire_url


class Route(Struct, frozen=True, gc=False):
    """A URL as libcurl is given it.

    `named`: its place if its host is a name; None for an address, which needs no look-up. `origin`: host and port of an
    https URL; None for others. `host`: host and port, empty where the URL cannot be read.
    """

    url: str
    named: Place | None
    is_escaped: bool
    origin: str | None = None
    host: str = ""


@caches.of_secrets(10_000)
def route_of(url: str) -> Route:
    """Never raises: a URL that cannot be read is refused when it is set."""
    named = place_of(url)
    if named is None:
        return Route(url, None, False)
    url = wire_url(url)
    host = f"{named.host}:{named.port}"
    origin = host if url[:6].lower() == "https:" else None
    try:
        ipaddress.ip_address(named.host.strip("[]"))
    except ValueError:
        return Route(url, named, "%" in url, origin, host)
    return Route(url, None, "%" in url, origin, host)


def place_of(url: str) -> Place | None:
    """The host and port as libcurl itself reads the URL, so that there are not two readings; None if it cannot be read."""
    try:
        parts = cast(Any, pycurl).CurlUrl(wire_url(url))
        port = int(parts.port or {"http": 80, "https": 443}[parts.scheme])
    except (KeyError, ValueError, pycurl.error):
        return None
    return Place(parts.host, port)
