"""The scenes of the selftest: each makes something go wrong, and says what was promised and what was seen."""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from tocsin.cli.selftest.points import POINTS
from tocsin.cli.selftest.receiver import Answer, Receiver
from tocsin.cli.selftest.service import Down, Service

if TYPE_CHECKING:  # it needs the driver, which most have not
    from tocsin.cli.selftest.schemas import Schemas

_SETTLE_SECONDS = 30.0
_TRIES = 3
_AT = 3  # the message at which it is killed
_SHORT = ("before-accept-commit", "after-accept-commit", "after-body", "before-outcome-commit", "after-outcome-commit")


class Finding(Struct, frozen=True):
    """One promise put to the test. `kept`: None if this kind of store could not be put to it; `seen` says why."""

    scene: str
    promise: str
    seen: str
    kept: bool | None


class Place(Struct, frozen=True):
    """Where a scene's services have their files, and their stores if those are on a PostgreSQL server."""

    folder: Path
    schemas: "Schemas | None" = None


class Books(Struct, frozen=True):
    """What the service says about everything it accepted, compared with what arrived."""

    accepted: int
    delivered: int
    waiting: int
    missing: int
    repeated: int
    unexplained: int

    @property
    def seen(self) -> str:
        return f"{self.accepted} accepted, {self.delivered} delivered, {self.missing} missing, {self.repeated} twice" + (
            f", {self.waiting} still wait" if self.waiting else ""
        )


def reconcile(accepted: Mapping[int, str], taken: Counter[int], may_repeat: Callable[[int], bool]) -> Books:
    """`accepted`: the status of each delivery; `taken`: how often a receiver answered it with 2xx."""
    delivered = [one for one, status in accepted.items() if status == "delivered"]
    repeated = [one for one, count in taken.items() if count > 1]
    return Books(
        accepted=len(accepted),
        delivered=len(delivered),
        waiting=sum(status == "pending" for status in accepted.values()),
        missing=sum(taken[one] == 0 for one in delivered),
        repeated=len(repeated),
        unexplained=sum(not may_repeat(one) for one in repeated) + sum(one not in accepted for one in taken),
    )


def _nothing_waits(statuses: dict[int, str]) -> bool:
    return "pending" not in statuses.values()


class Run:
    """One service with its receiver, and what every scene does with them."""

    def __init__(self, place: Place, name: str, receiver: Receiver) -> None:
        folder = place.folder / name
        folder.mkdir()
        self.store_url = None if place.schemas is None else place.schemas.new()
        store = {} if self.store_url is None else {"TOCSIN_DATABASE_URL": self.store_url}
        self.service = Service(folder, TOCSIN_RETRY_SCHEDULE="0.2s,0.5s,1s,1s", **store)
        self.receiver = receiver

    def add(self, path: str) -> int:
        form = {"type": "webhook", "name": path[1:], "webhook": self.receiver.url + path}
        return int(self.service.call("POST", "/api/notification-handlers", form)["data"]["id"])

    def send(self, text: str, handlers: list[int]) -> int:
        """The notification's id. The text is its idempotency key too, so it may be repeated. Raises Down."""
        content = {"message": text, "handlers": handlers}
        return int(self.service.call("POST", "/api/notifications", content, key=text)["data"]["id"])

    def insist(self, text: str, handlers: list[int]) -> int:
        """As a careful client does: again while the service says that it cannot take it now."""
        ends_at = time.monotonic() + _SETTLE_SECONDS
        while True:
            try:
                return self.send(text, handlers)
            except Down:
                if time.monotonic() > ends_at:
                    raise
                time.sleep(0.05)

    def statuses(self) -> dict[int, str]:
        found: dict[int, str] = {}
        page = 1
        while rows := self.service.call("GET", f"/api/deliveries?results_per_page=1000&page={page}")["data"]:
            found.update((row["id"], row["status"]) for row in rows)
            page += 1
        return found

    def settle(self, of: Callable[[dict[int, str]], bool] = _nothing_waits) -> dict[int, str]:
        """The statuses, once nothing is waiting any more (or `of` is satisfied), or time is up."""
        ends_at = time.monotonic() + _SETTLE_SECONDS
        while True:
            found = self.statuses()
            if of(found) or time.monotonic() > ends_at:
                return found
            time.sleep(0.05)

    def outcomes(self, delivery_id: int) -> list[str]:
        return [one["outcome"] for one in self.service.call("GET", f"/api/deliveries/{delivery_id}")["data"]["attempts"]]


# ------------------------------------------------------------------------------------------------------------ the scenes


def killed_at_points(place: Place, receiver: Receiver, quick: bool) -> list[Finding]:
    """kill -9 at named points of the corridor."""
    points = [point for point in POINTS if point.scene == "send" and (not quick or point.name in _SHORT)]
    return [_killed_at(place, receiver, point.name) for point in points]


def _killed_at(place: Place, receiver: Receiver, name: str) -> Finding:
    point = next(one for one in POINTS if one.name == name)
    run = Run(place, name, receiver)
    before = receiver.taken()
    try:
        run.service.start()
        handler = run.add(f"/{name}")
        run.service.stop()
        run.service.start(f"{name}:{_AT}")
        texts = [f"{name} {number}" for number in range(_AT + 2)]
        for text in texts:
            try:
                run.send(text, [handler])
                run.settle()
            except Down:
                break
        has_died = run.service.died()
        run.service.start()
        for text in texts:
            run.send(text, [handler])
        statuses = run.settle()
        came = [one.delivery_id for one in receiver.arrivals if one.path == f"/{name}" and one.status == 200]
        books = reconcile(statuses, Counter(came), lambda _: point.repeats)
        lost = any("unknown" in run.outcomes(one) for one in statuses)
    finally:
        run.service.kill()
    kept = (
        has_died
        and books.accepted == books.delivered == len(texts)
        and not books.missing
        and not books.unexplained
        and books.repeated == point.repeats
        and lost == point.unknown
        and receiver.taken() >= before
    )
    promise = f"{point.sentence}: everything arrives, {'the one in flight twice' if point.repeats else 'once'}"
    seen = books.seen + (", its attempt says unknown" if lost else "") + ("" if has_died else "; it did not die")
    return Finding(f"killed {name}", promise, seen, kept)


def killed_under_load(place: Place, receiver: Receiver, quick: bool) -> list[Finding]:
    """kill -9 at any moment, again and again."""
    kills = 3 if quick else 6
    receiver.behave("/load", lambda _: Answer(delay_seconds=0.02))
    run = Run(place, "load", receiver)
    texts = [f"load {number}" for number in range(60 * kills)]
    try:
        run.service.start()
        handlers = [run.add("/load") for _ in range(5)]
        for index, text in enumerate(texts):
            if index % 60 == 45:
                run.service.kill()
                run.service.start()
            run.send(text, [handlers[index % 5]])
        statuses = run.settle()
        came = Counter(one.delivery_id for one in receiver.arrivals if one.path == "/load")
        books = reconcile(statuses, came, lambda one: "unknown" in run.outcomes(one))
    finally:
        run.service.kill()
    kept = books.accepted == books.delivered == len(texts) and not books.missing and not books.unexplained
    promise = f"{kills} kills under load: every id arrives, what repeats says unknown"
    return [Finding("killed under load", promise, books.seen, kept)]


def slow_beside_healthy(place: Place, receiver: Receiver, quick: bool) -> list[Finding]:
    """Endpoints that never answer, beside one that does. A busy machine may stall for a moment; a service that waits stalls every time."""
    hanging = 20 if quick else 60
    messages = 40 if quick else 120
    receiver.behave("/hangs", lambda _: Answer(status=0))
    run = Run(place, "slow", receiver)

    def latencies(path: str, handler: int) -> list[float]:
        sent: dict[int, float] = {}
        for number in range(messages):
            at = time.time()
            notification = run.send(f"{path} of {handler} {number}", [handler])
            [row] = run.service.call("GET", f"/api/deliveries?notification_id={notification}")["data"]
            sent[row["id"]] = at
        run.settle(lambda statuses: all(statuses[one] == "delivered" for one in sent))
        return [one.at - sent[one.delivery_id] for one in receiver.arrivals if one.path == path and one.delivery_id in sent]

    try:
        run.service.start()
        healthy = run.add("/alone")
        alone = latencies("/alone", healthy)
        for number in range(hanging):
            handler = run.add("/hangs")
            for backlog in range(3):
                run.send(f"hangs {number} {backlog}", [handler])
        bound = max(2 * _p99(alone), 0.05)
        beside: list[float] = []
        for _ in range(_TRIES):
            beside = latencies("/alone", run.add("/alone"))
            if _p99(beside) <= bound:
                break
    finally:
        run.service.kill()
    kept = len(alone) == len(beside) == messages and _p99(beside) <= bound
    promise = f"{hanging} endpoints that hang delay a healthy one by nothing: 99 % within {bound * 1000:.0f} ms"
    return [Finding("slow endpoints", promise, f"alone {_p99(alone) * 1000:.0f} ms, beside them {_p99(beside) * 1000:.0f} ms", kept)]


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98] if len(values) > 1 else float("inf")


def throttled(place: Place, receiver: Receiver, quick: bool) -> list[Finding]:
    """429 to everything for a while."""
    messages = 20 if quick else 60
    receiver.behave("/throttles", lambda count: Answer(429, "1") if count < 5 else Answer())
    run = Run(place, "throttled", receiver)
    try:
        run.service.start()
        handler = run.add("/throttles")
        for number in range(messages):
            run.send(f"throttled {number}", [handler])
        statuses = run.settle()
        came = [one for one in receiver.arrivals if one.path == "/throttles"]
        refused = [one for one in came if one.status == 429]
        books = reconcile(statuses, Counter(one.delivery_id for one in came if one.status == 200), lambda _: False)
    finally:
        run.service.kill()
    kept = books.accepted == books.delivered == messages and not books.missing and not books.unexplained and len(refused) <= 5
    promise = "a provider that answers 429 is waited for; nothing is dropped, nothing sent twice"
    return [Finding("429 storm", promise, f"{len(refused)} times refused; {books.seen}", kept)]


def restarted(place: Place, receiver: Receiver, quick: bool) -> list[Finding]:  # noqa: ARG001  # every scene takes the same
    """SIGTERM with attempts in flight, and a start."""
    receiver.behave("/restarted", lambda _: Answer(delay_seconds=0.2))
    run = Run(place, "restarted", receiver)
    try:
        run.service.start()
        handlers = [run.add("/restarted") for _ in range(4)]
        for number in range(40):
            run.send(f"restarted {number}", [handlers[number % 4]])
        in_order = run.service.stop()
        run.service.start()
        statuses = run.settle()
        came = Counter(one.delivery_id for one in receiver.arrivals if one.path == "/restarted")
        books = reconcile(statuses, came, lambda _: False)
    finally:
        run.service.kill()
    kept = in_order and books.accepted == books.delivered == 40 and not books.missing and not books.unexplained
    return [Finding("restart", "it stops in order, goes on where it was, and sends nothing twice", books.seen, kept)]


def sessions_ended(place: Place, receiver: Receiver, quick: bool) -> list[Finding]:
    """The server ends every session of the service, again and again under load."""
    times = 3 if quick else 8
    receiver.behave("/sessions", lambda _: Answer(delay_seconds=0.02))
    run = Run(place, "sessions", receiver)
    assert place.schemas is not None and run.store_url is not None  # noqa: S101  # see SERVER_SCENES
    texts = [f"sessions {number}" for number in range(40 * times)]
    try:
        run.service.start()
        handlers = [run.add("/sessions") for _ in range(5)]
        for index, text in enumerate(texts):
            if index % 40 == 20:
                place.schemas.end_sessions(run.store_url)
            run.insist(text, [handlers[index % 5]])
        statuses = run.settle()
        came = Counter(one.delivery_id for one in receiver.arrivals if one.path == "/sessions")
        books = reconcile(statuses, came, lambda _: False)
    finally:
        run.service.kill()
    kept = books.accepted == books.delivered == len(texts) and not books.missing and not books.repeated and not books.unexplained
    promise = f"the server ends all sessions {times} times under load: nothing is lost, nothing sent twice"
    return [Finding("sessions ended", promise, books.seen, kept)]


Scene = Callable[[Place, Receiver, bool], list[Finding]]
SCENES: tuple[tuple[str, Scene], ...] = (
    ("kill -9 at named points", killed_at_points),
    ("kill -9 under load", killed_under_load),
    ("slow endpoints beside a healthy one", slow_beside_healthy),
    ("429 storm", throttled),
    ("restart", restarted),
)
SERVER_SCENES: tuple[tuple[str, Scene], ...] = (("sessions that end", sessions_ended),)
"""Only where the store is on a PostgreSQL server."""
