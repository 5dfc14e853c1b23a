"""Who is there, and under which address they reach us, behind trusted proxies or not."""

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from tocsin.settings import Settings

_HOST = re.compile(r"[A-Za-z0-9._~-]{1,255}(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?")


def is_trusted(address: str, settings: Settings) -> bool:
    """Whether this is a proxy whose X-Forwarded-* headers are believed."""
    if not settings.trusted_proxies:
        return False
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return any(ip in network for network in settings.trusted_proxies)


def client_address(scope: Mapping[str, Any], headers: Mapping[bytes, bytes], settings: Settings) -> str:
    """Who is really there: behind trusted proxies the last address in X-Forwarded-For that is none of them."""
    peer: str = (scope.get("client") or ("",))[0]
    if not is_trusted(peer, settings):
        return peer
    for hop in reversed(headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")):
        if not hop.strip():
            break
        peer = hop.strip()
        if not is_trusted(peer, settings):
            break
    return peer


def base_url(scope: Mapping[str, Any], headers: Mapping[bytes, bytes], settings: Settings) -> str:
    """TOCSIN_BASE_URL, else the request's own scheme and host (those that a trusted proxy tells)."""
    if settings.base_url:
        return settings.base_url
    scheme, host = scope["scheme"], headers.get(b"host", b"").decode("latin-1")
    if is_trusted((scope.get("client") or ("",))[0], settings):
        scheme, host = _forwarded(headers, b"x-forwarded-proto") or scheme, _forwarded(headers, b"x-forwarded-host") or host
    if not _HOST.fullmatch(host):
        address, port = scope.get("server") or ("localhost", None)
        host = (f"[{address}]" if ":" in address else address) + (f":{port}" if port else "")
    return f"{'https' if scheme == 'https' else 'http'}://{host}"


def _forwarded(headers: Mapping[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1").rpartition(",")[2].strip()


def neighbourhood(address: str) -> str:
    """What is counted together: an IPv4 address, or the /64 that one IPv6 host has for itself."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is None:
        return str(ipaddress.IPv6Network((ip, 64), strict=False))
    return str(ip)
