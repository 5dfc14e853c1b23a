"""Handlers whose receivers are far away: how much of an offered rate arrives in time, beside a bare client loop."""

import time

from msgspec import Struct

from bench import bare
from bench.distant import Distant
from bench.filling import MINE, webhook
from bench.load import Figures, Load, judged, run, watch
from bench.machine import run_pinned
from bench.scenes.stage import Goal, Place, send
from bench.service import Service

BARE_IDS = 1_000_000_000_000
IN_TIME = 0.97
MAX_MB = 130.0
TLS_MB_A_CONNECTION = 0.15  # what libcurl and OpenSSL hold for a handle in flight
MIX = -1  # in place of milliseconds


class Cell(Struct, frozen=True):
    """`each`: messages a second to each of the handlers. `answers_ms`: how long the receivers take, MIX for the long-tailed ones."""

    handlers: int
    each: float
    answers_ms: int
    seconds: float = 8.0
    tls: bool = False
    cold: bool = False

    @property
    def name(self) -> str:
        answers = "long-tailed" if self.answers_ms == MIX else f"{self.answers_ms} ms"
        kind = f"{'TLS' if self.tls else 'plain'}, {'cold' if self.cold else 'warm'}"
        return f"{self.handlers:,} x {self.each:g}/s, {answers}, {kind}"

    def urls(self, distant: Distant) -> list[str]:
        answer, wait_ms = ("mix", 0) if self.answers_ms == MIX else ("wait", self.answers_ms)
        return [distant.url(number, answer, wait_ms, self.tls) for number in range(self.handlers)]


class Measured(Struct):
    cell: Cell
    ours: Figures
    bare: Figures


def measure(place: Place, cell: Cell, name: str = "service") -> Measured:
    """The bare client loop, then the service, with the same receivers at the same rate."""
    with place.distant(cell.handlers if cell.tls else 0) as distant:
        loop = _bare(place, distant, cell)
        environ = {"SSL_CERT_FILE": str(distant.authority)} if cell.tls else {}
        with place.serving([webhook(MINE, url) for url in cell.urls(distant)], environ, name) as running:
            handlers = list(range(1, cell.handlers + 1))
            if not cell.cold:
                _warm(running, distant, handlers)
            [ours] = run(running, distant, Load(handlers, cell.handlers * cell.each, cell.seconds))
    return Measured(cell, ours, loop)


def _warm(running: Service, distant: Distant, handlers: list[int]) -> None:
    """One message to each: its connection is open then, and how many it takes at a time still to be found out."""
    distant.take()
    send(running, handlers)
    ends_at = time.monotonic() + 20
    while distant.seen().requests < len(handlers) and time.monotonic() < ends_at:
        time.sleep(0.05)
    running.wait_until_settled(20)


def _bare(place: Place, distant: Distant, cell: Cell) -> Figures:
    rate = cell.handlers * cell.each
    distant.take()
    distant.forget_peak()
    authority = str(distant.authority) if cell.tls else ""
    sent_at, cpu = run_pinned(place.core, bare.run_at, cell.urls(distant), BARE_IDS, rate, cell.seconds / 2, authority)
    arrived = watch(distant, sent_at, 1.0)
    figures = judged(sent_at, arrived, len(sent_at), max(sent_at.values()), time.time_ns())
    figures.cpu_seconds, figures.seconds = cpu, cell.seconds / 2
    figures.peak_connections = distant.seen().peak_connections
    return figures


def goals(found: Measured) -> list[Goal]:
    cell, ours = found.cell, found.ours
    memory = MAX_MB + (ours.peak_connections * TLS_MB_A_CONNECTION if cell.tls else 0)
    return [
        Goal(f"{cell.name}: in time", 100 * ours.in_time, 100 * IN_TIME, " %", at_least=True),
        Goal(f"{cell.name}: memory", ours.peak_mb, memory, " MB"),
    ]


def scene(cell: Cell, place: Place) -> list[Goal]:
    found = measure(place, cell)
    place.say(f"  {cell.name}: {found.ours.line()}")
    place.say(f"  the bare loop: {found.bare.line()}")
    return goals(found)


# The first rows of what was found, and the two goals beyond them.
ROWS = {
    "hundred-200ms": Cell(100, 20, 200),
    "hundred-500ms": Cell(100, 10, 500),
    "one-200ms": Cell(1, 200, 200),
    "one-500-a-second": Cell(1, 500, 200),
    "thousand-200ms": Cell(1000, 5, 200),
}
