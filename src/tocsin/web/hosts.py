"""Under which names the pages are served: a page of ours under another name may be another site's doing (DNS rebinding)."""

import ipaddress
from urllib.parse import urlsplit

from tocsin.net.urls import ascii_host
from tocsin.settings import Settings

_ANY = "*"
_WILDCARDS = frozenset({"", "*", "0.0.0.0", "::"})  # noqa: S104  # of listening addresses


class Hosts:
    """The names in TOCSIN_BASE_URL and TOCSIN_ALLOWED_HOSTS, the address that the service listens on, and loopback's; any name
    where neither setting is there."""

    def __init__(self, settings: Settings) -> None:
        own = [] if settings.host in _WILDCARDS else [settings.host]
        base = urlsplit(settings.base_url or "").hostname
        names = {_name(one) for one in (*settings.allowed_hosts, *own, *([base] if base else []))}
        is_open = settings.base_url is None and not settings.allowed_hosts
        self._names = {_ANY} if is_open or _ANY in names else names

    def allows(self, host: str) -> bool:
        """`host`: as the client named it, perhaps with a port; empty, as clients older than HTTP/1.1 leave it, is no other site's name."""
        name = _name(without_port(host))
        if _ANY in self._names or not host or name in self._names or _is_loopback(name):
            return True
        parts = name.split(".")
        return any(f"*.{'.'.join(parts[at:])}" in self._names for at in range(1, len(parts)))


def without_port(host: str) -> str:
    """The name alone, as TOCSIN_ALLOWED_HOSTS takes it."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return host


def _name(host: str) -> str:
    """One spelling of each name and address."""
    host = host.strip("[]").removesuffix(".").lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return (ascii_host(host) or host) if not host.isascii() else host
    return str(getattr(address, "ipv4_mapped", None) or address)


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
