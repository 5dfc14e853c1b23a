"""The egress guard: which addresses and ports a user's URL may reach. It judges resolved addresses, never names."""

import errno
import socket
from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

from msgspec import Struct

from tocsin.readings import Networks, Ports

Address: TypeAlias = IPv4Address | IPv6Address
Closed: TypeAlias = Callable[[], Collection[tuple[str, int]]]

# https://www.iana.org/assignments/iana-ipv4-special-registry, and one more
_NOT_PUBLIC_4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata service
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's own service to its machines: looks public and is not
        "169.254.0.0/16",  # link-local; the metadata service of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# Of IPv6 only global unicast is public, less these: https://www.iana.org/assignments/iana-ipv6-special-registry
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))

_MAPPED = IPv6Network("::ffff:0:0/96")
_COMPATIBLE = IPv6Network("::/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")


def is_public(address: Address) -> bool:
    """Whether an address is one of the open Internet. An address that only wraps a public IPv4 address counts where it leads there."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    if address in _MAPPED or address in _NAT64:
        return is_public(_last_four_bytes(address))
    return address in _GLOBAL_UNICAST and not any(address in network for network in _NOT_PUBLIC_6)


def embedded(address: Address) -> tuple[IPv4Address, ...]:
    """Every IPv4 address that an IPv6 address may lead to, on any reading of it; none for ordinary addresses."""
    if isinstance(address, IPv4Address):
        return ()
    if address in _MAPPED or address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return (_last_four_bytes(address),)
    if address in _LOCAL_NAT64:
        # A translator may use this block as prefixes of 48, 56, 64 or 96 bits: https://datatracker.ietf.org/doc/html/rfc6052#section-2.2
        wire = address.packed
        forms = (wire[6:8] + wire[9:11], wire[7:8] + wire[9:12], wire[9:13], wire[12:16])
        return tuple(IPv4Address(form) for form in forms)
    if address.sixtofour:
        return (address.sixtofour,)
    return address.teredo or ()


class Objection(Struct, frozen=True):
    """Why no connection may be opened. `said`: for the user, who must not learn what names of the operator's network resolve to.
    `address`: for the operator's log; empty if none was looked up.
    """

    said: str
    address: str = ""


class Guard:
    """What users' URLs may reach: public addresses and the networks the operator opened, at open ports, but never the service itself.

    `closed` gives the (address, port) pairs that stay closed in every network.
    """

    def __init__(self, allowed: Networks, ports: Ports, closed: Closed) -> None:
        self._allowed = allowed
        self._ports = ports
        self._closed = closed

    def objection(self, text: str, port: int) -> Objection | None:
        """Why no connection to this address may be opened; None if it may. Raises nothing, whatever the text."""
        if (closed := closed_port(port, self._ports)) is not None:
            return Objection(closed, text)
        try:
            address = ip_address(text.partition("%")[0])
        except ValueError:
            return Objection("The egress guard could not read the address of the host name.", text)
        shown = " = ".join(str(each) for each in (address, *embedded(address)))
        if not (is_public(address) or self._is_allowed(address)):
            return Objection("The URL's address is not public. The operator can open its network with TOCSIN_ALLOW_NETWORKS.", shown)
        if self._is_closed(address, port):
            return Objection("The URL leads to the service's own listener, which URLs must not reach.", shown)
        return None

    def objection_to_port(self, port: int) -> Objection | None:
        """The same where the address is not known here."""
        closed = closed_port(port, self._ports)
        return None if closed is None else Objection(closed)

    def _is_allowed(self, address: Address) -> bool:
        inner = embedded(address)
        return self._opened(address) or (bool(inner) and all(self._opened(each) for each in inner))

    def _opened(self, address: Address) -> bool:
        return any(address in network for network in self._allowed)

    def _is_closed(self, address: Address, port: int) -> bool:
        listeners = [host for host, closed_port in self._closed() if closed_port == port]
        targets = (address, *embedded(address))
        return any(_reaches(target, host) for host in listeners for target in targets)


def closed_port(port: int, ports: Ports) -> str | None:
    """Why users' URLs may not use this port, as a sentence; None if they may."""
    if any(port in opened for opened in ports):
        return None
    return f"Port {port} is closed to URLs. The operator can open it with TOCSIN_ALLOW_PORTS."


def _reaches(target: Address, listener: str) -> bool:
    try:
        host = ip_address(listener.partition("%")[0])
    except ValueError:
        return _is_local(target)
    if target.is_unspecified or host.is_unspecified:
        return _is_local(target)  # connecting to 0.0.0.0 or :: means this machine
    return target == host or target in embedded(host)


def _is_local(address: Address) -> bool:
    """Whether the address is one of this machine: only those can be bound to."""
    if address.is_unspecified or address.is_loopback or address.is_link_local:
        return True
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        return error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
    return True


def _last_four_bytes(address: IPv6Address) -> IPv4Address:
    return IPv4Address(address.packed[-4:])
