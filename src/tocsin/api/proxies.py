"""Who the client is, and under which address it reaches us, behind trusted proxies or not."""

import functools
import ipaddress
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import structlog
from msgspec import Struct

from tocsin import observe
from tocsin.settings import Settings

SHARED = "shared "  # precedes an address that many people may share
# Networks in which an undeclared proxy may be. Python calls more networks private, such as those of documentation.
_PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
)
_CHAIN = b"x-forwarded-for"
_HOST = re.compile(r"[A-Za-z0-9._~-]{1,255}(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?")
_PORT = re.compile(r"[0-9]{1,5}")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_WITH_PORT = re.compile(r'"?(?:\[([0-9A-Fa-f:.]+(?:%[^\]]*)?)\](?::[0-9]+)?|([0-9.]+):[0-9]+)"?')
_YEAR_SECONDS = 31_536_000
_DEFAULT_PORTS = {"http": 80, "https": 443}
log = structlog.get_logger(__name__)


def is_trusted(address: str, settings: Settings) -> bool:
    """Whether this is a proxy whose X-Forwarded-* headers are believed; a client on our Unix socket has no address, and counts as one."""
    if not address:
        return bool(settings.unix_socket)
    if not settings.trusted_proxies:
        return False
    ip = _ip(address)
    return ip is not None and any(ip in network for network in settings.trusted_proxies)


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def remote_user(scope: Mapping[str, Any], settings: Settings) -> str | None:
    """Whom a proxy of TOCSIN_TRUSTED_PROXIES has signed in. None: nobody, or the header came from somebody else.

    A client on our Unix socket is not believed here: anybody who may open the socket could have sent the header.
    """
    peer = (scope.get("client") or ("",))[0]
    if settings.remote_user_header is None or not peer or not is_trusted(peer, settings):
        return None
    wanted = settings.remote_user_header.encode("latin-1")
    found = [value.decode("utf-8", "replace").strip() for name, value in scope["headers"] if name == wanted]
    if len(found) > 1:  # the client's own, perhaps, which the proxy should have taken away
        observe.seldom(
            log.warning, "proxy.two_users", peer=peer, why="TOCSIN_REMOTE_USER_HEADER came more than once, so nobody is believed"
        )
        return None
    return found[0] if found and found[0] else None


def headers_of(scope: Mapping[str, Any]) -> dict[bytes, bytes]:
    """By name. Of several lines the last one counts; those of the chain of proxies are one list (RFC 9110, 5.2)."""
    lines = scope["headers"]
    found: dict[bytes, bytes] = dict(lines)
    if len(found) < len(lines) and _CHAIN in found:
        found[_CHAIN] = b",".join(value for name, value in lines if name == _CHAIN)
    return found


class _Origin(Struct, frozen=True):
    """Where a request comes from. `is_peer`: the other end of the connection, since nothing was said of anybody behind it that can be
    read and believed; `forwards`: it says that it forwards for somebody else."""

    address: str
    is_peer: bool
    forwards: bool


def client_address(scope: Mapping[str, Any], headers: Mapping[bytes, bytes], settings: Settings) -> str:
    """The real client: behind trusted proxies the last address in X-Forwarded-For that is not a trusted proxy, without its port."""
    return _origin(scope, headers, settings).address


def _origin(scope: Mapping[str, Any], headers: Mapping[bytes, bytes], settings: Settings) -> _Origin:
    peer: str = (scope.get("client") or ("",))[0]
    hops = [hop for part in headers.get(_CHAIN, b"").decode("latin-1").split(",") if (hop := part.strip())]
    address, is_peer, is_readable = _written(peer), True, True
    while hops and is_readable and is_trusted(address, settings):
        found = _ip(_without_port(hops[-1]))
        if found is None:  # whatever it is, the proxy that wrote it is known
            is_readable = False
            observe.seldom(log.warning, "proxy.address_unreadable", peer=peer, what="an entry of X-Forwarded-For is no address")
        else:
            hops.pop()
            address, is_peer = str(found), False
    return _Origin(address, is_peer, bool(hops))


def _written(address: str) -> str:
    """In one form, whatever kind of socket it came by."""
    ip = _ip(address)
    return address if ip is None else str(ip)


def counted_as(scope: Mapping[str, Any], headers: Mapping[bytes, bytes], settings: Settings) -> str:
    """What failed sign-ins count against: the client's neighbourhood, marked as shared where it may be a proxy's, with many behind it."""
    origin = _origin(scope, headers, settings)
    is_proxy = is_trusted(origin.address, settings)
    may_be_proxy = is_proxy or _is_private(origin.address)
    if not (may_be_proxy and (origin.is_peer or origin.forwards)):
        return neighbourhood(origin.address)
    if origin.forwards and not is_proxy:
        observe.seldom(
            log.warning,
            "proxy.not_trusted",
            peer=origin.address,
            why="it sends X-Forwarded-For and is not in TOCSIN_TRUSTED_PROXIES, so all that come through it count as one address",
        )
    elif scope.get("method") == "POST":  # a form: nobody who only looks counts
        _say_no_address(origin.address or "the Unix socket", is_proxy)
    return SHARED + neighbourhood(origin.address)


def known_as(scope: Mapping[str, Any], headers: Mapping[bytes, bytes], settings: Settings) -> str:
    """The address by which users are recognized once they have signed in from it: the client's neighbourhood. Empty where strangers come
    from the same address: a proxy's, and loopback, where a proxy is likelier than a person.
    """
    origin = _origin(scope, headers, settings)
    is_proxy = is_trusted(origin.address, settings)
    is_forwarder = (is_proxy and origin.is_peer) or (origin.forwards and (is_proxy or _is_private(origin.address)))
    return "" if is_forwarder or _is_loopback(origin.address) else neighbourhood(origin.address)


def _is_private(address: str) -> bool:
    ip = _ip(address)
    return ip is not None and any(ip in network for network in _PRIVATE)


def _is_loopback(address: str) -> bool:
    ip = _ip(address)
    return ip is not None and ip.is_loopback


@functools.lru_cache(maxsize=256)
def _say_no_address(peer: str, is_proxy: bool) -> None:
    """Once for each."""
    why = "it sends no X-Forwarded-For that can be read" if is_proxy else "if it is a proxy, it sends no X-Forwarded-For"
    say = log.warning if is_proxy else log.info
    say("proxy.no_client_address", peer=peer, why=f"{why}, so all that come through it count as one address")


def _without_port(hop: str) -> str:
    match = _WITH_PORT.fullmatch(hop)
    return (match[1] or match[2]) if match else hop.strip('"')


def base_url(scope: Mapping[str, Any], headers: Mapping[bytes, bytes], settings: Settings) -> str:
    """TOCSIN_BASE_URL, else the request's own scheme and host (as a trusted proxy forwards them)."""
    if settings.base_url:
        return settings.base_url
    scheme, host = asked_for(scope, headers, settings)
    if not _HOST.fullmatch(host):
        address, port = scope.get("server") or ("localhost", None)
        address = "localhost" if "/" in address else address
        host = (f"[{address}]" if ":" in address else address) + (f":{port}" if port else "")
    return f"{'https' if scheme == 'https' else 'http'}://{host}{prefix(scope, headers, settings)}"


def asked_for(scope: Mapping[str, Any], headers: Mapping[bytes, bytes], settings: Settings) -> tuple[str, str]:
    """The scheme and the host that the client used, the latter as it was sent."""
    scheme, host = scope["scheme"], headers.get(b"host", b"").decode("latin-1")
    if is_trusted((scope.get("client") or ("",))[0], settings):
        scheme = _forwarded_scheme(headers) or scheme
        host = _forwarded_host(headers) or host
    return scheme, host


def _forwarded(headers: Mapping[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1").rpartition(",")[2].strip()


def _forwarded_scheme(headers: Mapping[bytes, bytes]) -> str:
    return _forwarded(headers, b"x-forwarded-proto").lower() or ("https" if _forwarded(headers, b"x-forwarded-ssl").lower() == "on" else "")


def _forwarded_host(headers: Mapping[bytes, bytes]) -> str:
    """Empty if none was forwarded, or if it cannot be read."""
    host, port = _forwarded(headers, b"x-forwarded-host"), _forwarded(headers, b"x-forwarded-port")
    if not host:
        return ""
    if not _HOST.fullmatch(host):
        observe.seldom(log.warning, "proxy.host_unreadable", what="X-Forwarded-Host names no host: the Host header is taken")
        return ""
    has_port = re.search(r":[0-9]+$", host) is not None and not host.endswith("]")
    return f"{host}:{port}" if _PORT.fullmatch(port) and not has_port and int(port) not in _DEFAULT_PORTS.values() else host


def prefix(scope: Mapping[str, Any], headers: Mapping[bytes, bytes], settings: Settings) -> str:
    """The path under which the service is reached, such as `/tocsin`, as it is in requests; empty at the root."""
    if settings.base_url:
        return _path_of(settings.base_url)
    if b"x-forwarded-prefix" not in headers or not is_trusted((scope.get("client") or ("",))[0], settings):
        return ""
    found = _forwarded(headers, b"x-forwarded-prefix").rstrip("/")
    return found if _PREFIX.fullmatch(found) and "/../" not in f"{found}/" else ""


@functools.lru_cache(maxsize=8)
def _path_of(base: str) -> str:
    return quote(urlsplit(base).path.rstrip("/"), safe="/%:@!$&'()*+,;=~")


def transport_security(base: str) -> str:
    """Strict-Transport-Security for a service that is reached there; empty if it must not be sent.

    It covers all ports of a host, so at a port of its own, where the host serves other things too, it would make those unreachable.
    """
    parts = urlsplit(base)
    return f"max-age={_YEAR_SECONDS}" if parts.scheme == "https" and parts.port in {None, _DEFAULT_PORTS["https"]} else ""


def is_same_origin(origin: str, base: str) -> bool:
    """Whether an Origin header names the host and port of this address; a default port may be left out of either."""
    try:
        theirs, ours = urlsplit(origin), urlsplit(base)
        default = _DEFAULT_PORTS.get(theirs.scheme)
        named, own = (theirs.hostname, theirs.port or default), (ours.hostname, ours.port or default)
    except ValueError:
        return False
    return named == own and theirs.hostname is not None


def neighbourhood(address: str) -> str:
    """The unit for counting: an IPv4 address, or the /64 that one IPv6 host usually has."""
    ip = _ip(address)
    if ip is None:
        return address[:64]
    return str(ipaddress.IPv6Network((ip, 64), strict=False)) if ip.version == 6 else str(ip)
