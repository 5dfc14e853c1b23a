"""How libcurl reads a URL: the form that it is given, and the place that it leads to. Pure."""

import ipaddress
from collections.abc import Mapping
from typing import Any, cast

import pycurl
from msgspec import Struct

from tocsin import caches
from tocsin.net.names import Place
from tocsin.net.urls import wire_url

_PORTS = {"http": 80, "https": 443}


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
    return Route(url, None if is_address(named.host) else named, "%" in url, origin, host)


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def place_of(url: str, ports: Mapping[str, int] = _PORTS) -> Place | None:
    """The host and port as libcurl itself reads the URL, so that there are not two readings; None if it cannot be read. `ports`: those
    that a URL leaves out."""
    try:
        parts = cast(Any, pycurl).CurlUrl(wire_url(url))
        port = int(parts.port or ports[parts.scheme])
    except (KeyError, ValueError, pycurl.error):
        return None
    return Place(parts.host, port)
