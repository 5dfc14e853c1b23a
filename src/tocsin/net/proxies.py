"""The operator's proxy: what bypasses it, and what it answers in place of the target."""

import time
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pycurl
import structlog

from tocsin.model import NoReply, Reason
from tocsin.net.heads import read_headers
from tocsin.net.routes import is_address, place_of
from tocsin.net.trust import HINT
from tocsin.settings import Settings

SILENT_SECONDS = 60.0
TROUBLE_SECONDS = 600.0  # how long the proxy counts as failing if nothing has gone through it since
SEVERAL = 3  # targets that fail alike while nothing goes through: then it is the proxy's doing
_UNAUTHORIZED = 407
_PORTS = {"http": 1080, "https": 443}  # libcurl's for a proxy whose URL names none
log = structlog.get_logger(__name__)


class Direct:
    """Which hosts are reached without the proxy: those of TOCSIN_NO_PROXY. A name includes all under it, `*` is everything, and an
    address is a network of one: however it is written, and whichever name leads to it.
    """

    def __init__(self, settings: Settings) -> None:
        networks = {part: _network(part) for part in settings.no_proxy}
        self._names = [part.strip(".") for part, network in networks.items() if network is None]
        self.networks = [network for network in networks.values() if network is not None]

    def has(self, host: str) -> bool:
        """`host`: as in a URL, an IPv6 address in brackets."""
        host = host.strip("[]").rstrip(".").lower()
        return any(name in {"*", host} or host.endswith(f".{name}") for name in self._names) or self.covers([host])

    def covers(self, addresses: Iterable[str]) -> bool:
        """Whether all of them are in the networks."""
        try:
            found = [_plain(ip_address(address.partition("%")[0])) for address in addresses]
        except ValueError:
            return False
        return bool(found) and all(any(one in network for network in self.networks) for one in found)


def _network(part: str) -> IPv4Network | IPv6Network | None:
    """None: it is a name."""
    try:
        return ip_network(part if "/" in part else _plain(ip_address(part.strip("[]"))), strict=False)
    except ValueError:
        return None


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """IPv4 as such, where it is written as IPv6."""
    return getattr(address, "ipv4_mapped", None) or address


class Proxy:
    """The state of the proxy that requests go through. `url` holds its password. `named`: its place if its host is a name."""

    def __init__(self, url: str) -> None:
        self.url = url
        place = place_of(url, _PORTS)
        self.named = None if place is None or is_address(place.host) else place
        self._unreached = _Sentence()
        self._unauthorized = _Sentence()
        self._suspicion = _Sentence()
        self._silent_until = 0.0
        self._refused = _Alike()
        self._unanswered = _Alike()

    @property
    def trouble(self) -> str | None:
        """Why nothing goes through it, in a sentence; None if something did, or nothing was tried lately."""
        return self._unreached.lately() or self._unauthorized.lately()

    @property
    def suspicion(self) -> str | None:
        """The same where it is likely rather than certain: users choose the targets, so by themselves they must not make it certain."""
        return self._suspicion.lately()

    def set_on(self, curl: pycurl.Curl) -> None:
        curl.setopt(pycurl.PROXY, self.url)
        # CONNECT for plain http too: otherwise an answer could come from the proxy or from the target.
        curl.setopt(pycurl.HTTPPROXYTUNNEL, 1)

    def passed(self) -> None:
        """A request went through."""
        self._unreached.clear()
        self._unauthorized.clear()
        self._suspicion.clear()
        self._refused.clear()
        self._unanswered.clear()

    def refusal(self, curl: pycurl.Curl, failure: NoReply, target: str, lines: Sequence[bytes]) -> NoReply:
        """The failure of a request to `target`, a host and port, that got no answer: `failure`, or the proxy's if it is to blame.
        `lines`: of the proxy's head."""
        status = int(curl.getinfo(pycurl.HTTP_CONNECTCODE))
        if failure.ours or failure.stopped or (failure.reason is Reason.SETTINGS and not status):
            return failure
        if is_tunnelled := _made_tunnel(curl, lines):
            self._unreached.clear()
            self._unauthorized.clear()
        if is_tunnelled or failure.sent:
            return self._behind(failure, target)
        is_reached = bool(curl.getinfo(pycurl.CONNECT_TIME))
        if status == _UNAUTHORIZED:
            detail = f"The operator's proxy answered {status}: it asks for a user and password."
        elif status // 100 == 2:
            detail = f"The operator's proxy answered {status}, but the rest of its answer cannot be read."
        elif status:
            detail = f"The operator's proxy answered {status} instead of connecting to the target."
        elif is_reached:
            detail = "The operator's proxy does not answer."
        else:
            detail = "The operator's proxy cannot be reached."
        are_several = self._refused.are_several(target) or self._unreached.lately() is not None
        if not (status or is_reached):
            self._certain(self._unreached, detail)
        elif status == _UNAUTHORIZED:
            self._unreached.clear()
            self._certain(self._unauthorized, detail)
        else:  # it may be about this target only: the proxy is there, but may still ask for a password
            self._unreached.clear()
            if are_several and self.trouble is None:
                self._suspicion.say(detail)
        self._say(status, detail if status else failure.detail)
        return NoReply(Reason.PROXY, sent=False, detail=detail)

    def _behind(self, failure: NoReply, target: str) -> NoReply:
        """The tunnel was made, and nothing came back. A proxy that inspects TLS or just closes does this to every target."""
        # Certificates are alike if the same is wrong with them, whatever the target's name; a connection that ends is told in many ways.
        what = failure.detail.partition(" target ")[0] if HINT in failure.detail else ""
        if not self._unanswered.are_several(target, what):
            return failure
        said = "The operator's proxy makes tunnels, but no proper answer comes back."
        if failure.reason is Reason.TLS:
            said = "The operator's proxy lets no secure connection through."
        detail = f"{said} {failure.detail}"
        self._suspicion.say(said)  # whose targets these are is nobody else's business
        self._say(0, detail)
        return NoReply(Reason.PROXY, sent=failure.sent, detail=detail)

    def _certain(self, trouble: "_Sentence", detail: str) -> None:
        """It does not depend on the target."""
        self._suspicion.clear()
        trouble.say(detail)

    def _say(self, status: int, why: str) -> None:
        """At most once a minute."""
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + SILENT_SECONDS
            log.warning("proxy.failed", status=status or None, why=why)


class _Sentence:
    """Why nothing goes out, as long as it was seen lately."""

    def __init__(self) -> None:
        self._said = ""
        self._said_at = 0.0

    def say(self, detail: str) -> None:
        self._said, self._said_at = f"Nothing goes out: {detail[:1].lower()}{detail[1:]}", time.monotonic()

    def clear(self) -> None:
        self._said = ""

    def lately(self) -> str | None:
        return self._said if self._said and time.monotonic() - self._said_at < TROUBLE_SECONDS else None


class _Alike:
    """Different targets that have failed in the same way, one after the other."""

    def __init__(self) -> None:
        self._targets: set[str] = set()
        self._how = ""

    def are_several(self, target: str, how: str = "") -> bool:
        """Whether they are several now that this one has failed too."""
        if how != self._how:
            self._how = how
            self._targets.clear()
        if len(self._targets) < SEVERAL:
            self._targets.add(target)
        return len(self._targets) >= SEVERAL

    def clear(self) -> None:
        self._targets.clear()


def _made_tunnel(curl: pycurl.Curl, lines: Sequence[bytes]) -> bool:
    """Its head has to be whole: libcurl knows the status as soon as the first line is there."""
    return int(curl.getinfo(pycurl.HTTP_CONNECTCODE)) // 100 == 2 and read_headers(lines) is not None


def complaint(url: str, target: str) -> str | None:
    """Asks the proxy to connect to the target; returns what is wrong with it, None if nothing is."""
    curl = pycurl.Curl()
    lines: list[bytes] = []
    try:
        Proxy(url).set_on(curl)
        curl.setopt(pycurl.HEADERFUNCTION, lines.append)
        for option, value in ((pycurl.URL, target), (pycurl.CONNECT_ONLY, 1), (pycurl.TIMEOUT, 5), (pycurl.NOSIGNAL, 1)):
            curl.setopt(option, value)
        curl.setopt(pycurl.SSL_VERIFYPEER, 0)  # nothing is sent to the target
        curl.perform()
    except pycurl.error:
        if _made_tunnel(curl, lines):
            return None
        status = int(curl.getinfo(pycurl.HTTP_CONNECTCODE))
        if status // 100 == 2:
            return f"it answers {status} when asked to connect to {target}, but the rest of its answer cannot be read"
        return f"it answers {status} when asked to connect to {target}" if status else "it cannot be reached, or does not answer"
    finally:
        curl.close()
    return None
