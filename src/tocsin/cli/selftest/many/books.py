"""Reconciles what was accepted with what arrived and what the rows say. Pure: evidence in, complaints out."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

MAX_SHOWN = 5  # complaints of a kind
MARGIN_SECONDS = 0.005  # between the clocks of two workers
LONGEST_SECONDS = 3.0  # that a receiver takes to answer, and the store to keep the outcome
SEEN_SECONDS = 2.0  # until a change is seen everywhere
PACES = {"slack": (3, 3.0), "discord": (5, 2.0)}  # of the handlers that are paced, by the beginning of their names


class Sent(Struct, frozen=True):
    """A request that was answered with 202. `asked`, `answered`: when, by one clock, in seconds."""

    notification: int
    asked: float
    answered: float


class Tried(Struct, frozen=True):
    """An attempt. `at`: when it began, by the database's clock, in seconds."""

    number: int
    at: float
    outcome: str


class Row(Struct, frozen=True):
    """A delivery at the end. `handler`: its name. `text`: of its message."""

    id: int
    notification: int
    handler: str
    status: str
    text: str
    attempts: Sequence[Tried]


class Span(Struct, frozen=True):
    """From when to when something was so, in seconds by the database's clock."""

    began: float
    ended: float

    def may_explain(self, at: float) -> bool:
        """Whether an attempt that began then may have been in flight meanwhile."""
        return self.began - LONGEST_SECONDS <= at <= self.ended


class Evidence(Struct, frozen=True):
    """`taken`: when each delivery was answered with 2xx. `totals`, `counted`: deliveries by status, as stored and as counted.

    `mishaps`: when a process that sends was killed or cut off; what was in flight then may arrive twice, and nothing else.
    `ended`: of notifications that were cancelled, or whose handler was paused, when that was answered.
    """

    sent: Sequence[Sent]
    rows: Sequence[Row]
    taken: Mapping[int, Sequence[float]]
    totals: Mapping[str, int]
    counted: Mapping[str, int]
    mishaps: Sequence[Span] = ()
    ended: Mapping[int, float] = {}


class Books(Struct, frozen=True):
    """`complaints`: every promise that was broken."""

    accepted: int
    delivered: int
    lost: int
    repeated: int
    complaints: Sequence[str]

    @property
    def seen(self) -> str:
        """In a line."""
        return f"{self.accepted} accepted, {self.delivered} delivered, {self.lost} lost, {self.repeated} twice"


def audit(evidence: Evidence) -> Books:
    lost = list(_lost(evidence))
    checks = (lost, *(check(evidence) for check in (_never_accepted, _repeats, _late, _disorder, _haste, _wrong_totals)))
    complaints: list[str] = []
    for check in checks:
        found = list(check)
        complaints += found[:MAX_SHOWN]
        if len(found) > MAX_SHOWN:
            complaints.append(f"... and {len(found) - MAX_SHOWN} more of these")
    delivered = sum(row.status == "delivered" for row in evidence.rows)
    repeated = sum(len(times) > 1 for times in evidence.taken.values())
    return Books(len(evidence.sent), delivered, len(lost), repeated, complaints)


def _lost(evidence: Evidence) -> Iterator[str]:
    """What was accepted and did not arrive."""
    of: defaultdict[int, list[Row]] = defaultdict(list)
    for row in evidence.rows:
        of[row.notification].append(row)
    for one in evidence.sent:
        if not of[one.notification]:
            yield f"notification {one.notification} was accepted and is gone"
        for row in of[one.notification]:
            if row.status in {"cancelled", "skipped"} and one.notification in evidence.ended:
                continue
            if row.status != "delivered":
                yield f"delivery {row.id} to {row.handler} is {row.status}, after {len(row.attempts)} attempts"
            elif not evidence.taken.get(row.id):
                yield f"delivery {row.id} is delivered, and its receiver never took it"


def _never_accepted(evidence: Evidence) -> Iterator[str]:
    """A request whose answer was lost may have been accepted; a delivery without a row was not."""
    known = {row.id for row in evidence.rows}
    for delivery in evidence.taken:
        if delivery not in known:
            yield f"delivery {delivery} arrived, and there is no such row"


def _repeats(evidence: Evidence) -> Iterator[str]:
    """What arrived more often than attempts say that it may have."""
    for row in evidence.rows:
        count = len(evidence.taken.get(row.id, ()))
        outcomes = Counter(one.outcome for one in row.attempts)
        if count > outcomes["delivered"] + outcomes["unknown"]:
            yield f"delivery {row.id} arrived {count} times, and its attempts say {dict(outcomes)}"
        elif count > 1 and not any(span.may_explain(at) for at in _given_up(row) for span in evidence.mishaps):
            yield f"delivery {row.id} arrived {count} times, though nothing had gone wrong while it was in flight"


def _given_up(row: Row) -> list[float]:
    """Attempts after which another was made, though they may have arrived, or had: a worker that was given up for dead told so later."""
    return [one.at for one in row.attempts[:-1] if one.outcome in {"unknown", "delivered"}]


def _late(evidence: Evidence) -> Iterator[str]:
    """What was begun although it had been cancelled everywhere."""
    for row in evidence.rows:
        ended = evidence.ended.get(row.notification)
        for one in row.attempts:
            if ended is not None and one.at > ended + SEEN_SECONDS:
                yield f"delivery {row.id} to {row.handler} began {one.at - ended:.1f} s after it was cancelled"


def _disorder(evidence: Evidence) -> Iterator[str]:
    """To one handler goes first what was accepted before the other was asked for."""
    sent = {one.notification: one for one in evidence.sent}
    of: defaultdict[str, list[tuple[Sent, float, Row]]] = defaultdict(list)
    for row in evidence.rows:
        if row.attempts and row.notification in sent:
            of[row.handler].append((sent[row.notification], row.attempts[0].at, row))
    for handler, rows in of.items():
        yield from _overtaken(handler, rows)


def _overtaken(handler: str, rows: list[tuple[Sent, float, Row]]) -> Iterator[str]:
    """In the order in which they began: whatever began later must not have been answered before an earlier one was asked for."""
    rows.sort(key=lambda one: one[1])
    asked_last: tuple[float, float, Row] | None = None
    for sent, began, row in rows:
        if asked_last is not None and sent.answered < asked_last[0] and began - asked_last[1] > MARGIN_SECONDS:
            yield f"delivery {row.id} to {handler} began {began - asked_last[1]:.3f} s after {asked_last[2].id}, which was sent later"
        if asked_last is None or sent.asked > asked_last[0]:
            asked_last = sent.asked, began, row


def _haste(evidence: Evidence) -> Iterator[str]:
    """More starts than the pace of a handler allows."""
    of: defaultdict[str, list[float]] = defaultdict(list)
    for row in evidence.rows:
        arrivals = sorted(evidence.taken.get(row.id, ()))
        more = max(0, len(arrivals) - sum(one.outcome == "delivered" for one in row.attempts))
        # An attempt whose end is unknown began between its claim, which is what its row says, and its arrival.
        of[row.handler] += [one.at for one in row.attempts if one.outcome != "unknown"] + arrivals[:more]
    for handler, starts in of.items():
        pace = next((pace for name, pace in PACES.items() if handler.startswith(name)), None)
        if pace is not None:
            yield from _too_many(handler, sorted(starts), *pace)


def _too_many(handler: str, starts: Sequence[float], count: int, seconds: float) -> Iterable[str]:
    for first, last in zip(starts, starts[count:], strict=False):
        if last - first < seconds - MARGIN_SECONDS:
            yield f"{handler} got {count + 1} within {last - first:.3f} s, where {count} in {seconds:.0f} s are allowed"


def _wrong_totals(evidence: Evidence) -> Iterator[str]:
    for status in sorted(evidence.totals.keys() | evidence.counted.keys()):
        stored, counted = evidence.totals.get(status, 0), evidence.counted.get(status, 0)
        if stored != counted:
            yield f"there are {counted} {status} deliveries, and their total says {stored}"
