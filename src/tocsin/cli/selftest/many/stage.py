"""A cluster under load, what is done to it, and the books of all that."""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from random import Random

from msgspec import Struct

from tocsin.cli.selftest.many.books import Books, Evidence, Row, Span, audit
from tocsin.cli.selftest.many.cluster import READY_SECONDS, Cluster, Process
from tocsin.cli.selftest.many.load import Load
from tocsin.cli.selftest.many.postgresql import Pair
from tocsin.cli.selftest.receiver import Answer, Receiver

SETTLE_SECONDS = 60.0
SLOW_SECONDS = 0.4  # that a slow receiver takes
_TEXT = re.compile(r"message \d+\.")


class Timed(Struct, frozen=True):
    """Something that has a limit, and how long it took; None: it did not end."""

    what: str
    limit: float
    seconds: float | None

    @property
    def complaint(self) -> str | None:
        if self.seconds is None or self.seconds > self.limit:
            return f"{self.what}: {shown(self.seconds)}, where {self.limit:.0f} s are allowed"
        return None


class Stage:
    """`servers`: None on a server that is not ours to stop. `complaints`: promises that were seen broken at the time."""

    def __init__(self, cluster: Cluster, receiver: Receiver, servers: Pair | None, a_second: float, seed: int = 1) -> None:
        self.cluster = cluster
        self.receiver = receiver
        self.servers = servers
        self.dice = Random(f"{seed} faults")  # noqa: S311  # to be repeated
        self.stack = ExitStack()
        """What faults leave to be closed at the end."""
        self.times: list[Timed] = []
        self.complaints: list[str] = []
        self.mishaps: list[Span] = []
        self.ended: dict[int, float] = {}
        self.handlers = self._register()
        self.load = Load(cluster, self.handlers, a_second, seed)

    def _register(self) -> dict[int, str]:
        """Receivers that are quick, slow, fail now and then, and that have a pace."""
        url, found = self.receiver.url, dict[int, str]()
        for number in range(8):
            found[self.cluster.add("webhook", f"hook{number}", f"{url}/hook{number}")] = f"hook{number}"
        for number in range(3):
            name = f"slow{number}"
            self.receiver.behave(f"/{name}", lambda _: Answer(delay_seconds=SLOW_SECONDS))
            found[self.cluster.add("webhook", name, f"{url}/{name}")] = name
        self.receiver.behave("/ill", lambda count: Answer(503 if count % 3 == 1 else 200))
        found[self.cluster.add("webhook", "ill", f"{url}/ill")] = "ill"
        for number in range(2):
            found[self.cluster.add("slack", f"slack{number}", f"{url}/slack{number}")] = f"slack{number}"
            discord = f"{url}/api/webhooks/{number + 1}/discord{number}"
            found[self.cluster.add("discord", f"discord{number}", discord)] = f"discord{number}"
        return found

    # ------------------------------------------------------------------------------------------- for those who do things

    @contextmanager
    def mishap(self) -> Generator[None, None, None]:
        """What is in flight meanwhile may arrive twice."""
        began = time.time()
        try:
            yield
        finally:
            self.mishaps.append(Span(began, time.time()))

    def timed(self, what: str, limit: float, is_so: Callable[[], bool]) -> float | None:
        """How long it takes until it is so."""
        timed = Timed(what, limit, self.cluster.until(is_so, limit + READY_SECONDS))
        self.times.append(timed)
        return timed.seconds

    def complain(self, complaint: str) -> None:
        self.complaints.append(complaint)

    def victim(self, processes: list[Process]) -> Process:
        return self.dice.choice(processes)

    def until_well(self) -> None:
        """Until every process is ready and has its share."""
        for one in self.cluster.processes:
            if one.pid is not None:
                one.wait_until_ready(READY_SECONDS)
        if self.cluster.until(self.cluster.is_shared_out, READY_SECONDS) is None:
            self.complain(f"partitions are not shared out: {self.cluster.owned()}")

    # ------------------------------------------------------------------------------------------------------- the books

    def settle(self) -> Books:
        """End the load, wait until nothing waits any more, and reconcile."""
        self.load.end()
        self.cluster.until(lambda: not self.cluster.waiting(), SETTLE_SECONDS)
        rows = self.cluster.rows()
        totals, counted = self.cluster.totals(), self.cluster.counted()
        self.evidence = Evidence(self.load.sent, rows, self._taken(rows), totals, counted, self.mishaps, self.ended)
        books = audit(self.evidence)
        return Books(books.accepted, books.delivered, books.lost, books.repeated, [*self.complaints, *books.complaints])

    def _taken(self, rows: list[Row]) -> dict[int, list[float]]:
        """When each delivery was taken. Requests to Slack and Discord name none: what they say does."""
        by_text = {(row.handler, row.text): row.id for row in rows}
        taken: defaultdict[int, list[float]] = defaultdict(list)
        for one in self.receiver.arrivals:
            if 200 <= one.status < 300:
                said = _TEXT.search(one.text)
                delivery = one.delivery_id or by_text.get((one.path.partition("?")[0].rpartition("/")[2], said[0] if said else ""), 0)
                taken[delivery].append(one.at)
        return taken


def shown(seconds: float | None) -> str:
    return "not at all" if seconds is None else f"{seconds:.1f} s"


@contextmanager
def staged(cluster: Cluster, servers: Pair | None, roles: tuple[str, ...], a_second: float, seed: int = 1) -> Generator[Stage, None, None]:
    """A cluster with these roles, under load until the end."""
    receiver = Receiver()
    with receiver.running(), cluster.running(*roles):
        stage = Stage(cluster, receiver, servers, a_second, seed)
        with stage.stack, stage.load:
            stage.until_well()
            yield stage
