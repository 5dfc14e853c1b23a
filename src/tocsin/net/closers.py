"""Hosts that close kept connections just as the next request goes out on them: to these, none is kept for a while."""

MAX_HOSTS = 10_000
REMEMBERED_SECONDS = 600.0


class Closers:
    """`times`: how often a host may do this before connections to it are no longer kept. Times are of time.monotonic()."""

    def __init__(self, times: int) -> None:
        self._times = times
        self.hosts: dict[str, tuple[int, float]] = {}
        """What was seen: how often, and until when that is remembered. Nearly always empty."""

    def closed(self, host: str, now: float) -> None:
        """A kept connection to the host ended during a request, without a byte of an answer."""
        count, until = self.hosts.pop(host, (0, 0.0))
        if len(self.hosts) >= MAX_HOSTS:
            del self.hosts[next(iter(self.hosts))]
        self.hosts[host] = (count + 1 if until > now else 1, now + REMEMBERED_SECONDS)

    def keeps(self, host: str, now: float) -> bool:
        """Whether a connection to the host may be used a second time."""
        found = self.hosts.get(host)
        if found is None:
            return True
        count, until = found
        if until <= now:
            del self.hosts[host]
            return True
        return count < self._times
