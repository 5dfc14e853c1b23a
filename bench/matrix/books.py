"""Reconciles what was accepted with what the receivers saw, the rows, the totals and the log. Pure: evidence in, complaints out."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct

from bench.matrix.evidence import Accepted, Arrival, Attempt, Evidence, Kill, Restore, Row, Span
from bench.matrix.witness import MARK

MAX_SHOWN = 5  # complaints of a kind
MAY_HAVE_ARRIVED = {"delivered", "unknown"}
SHIFT_SECONDS = 0.5  # between a start that is counted and its arrival
PACES = {  # of each handler: so many within so many seconds
    "slack": ((3, 3.0),),
    "discord": ((5, 2.0), (30, 60.0)),
    "group": ((1, 1.0), (20, 60.0)),
    "person": ((1, 1.0),),
    "x": ((100, 900.0),),
}


class Books(Struct, frozen=True):
    """`figures`: what was looked at, for the report. `complaints`: every promise that was broken."""

    figures: dict[str, int]
    complaints: list[str]


def token_of(mark: str) -> str:
    return mark.partition("m")[0]


def stands(at: float, restores: list[Restore], on: Callable[[Restore], tuple[float, float, float]]) -> bool | None:
    """Whether what happened then is in the store at the end; None: it happened while the copy was made.

    `on`: a restore, and the beginning and end of its copy, on the axis of `at`: moments, or places in the log.
    """
    until = float("inf")
    for restore in reversed(restores):
        restored, began, ended = on(restore)
        if restored > until or at >= restored:
            continue  # of a time that the copy knows nothing of, or before what happened
        if at > ended:
            return False
        if at >= began:
            return None
        until = began
    return True


def in_flight(kills: Iterable[Kill], of: str) -> set[int]:
    """Deliveries that were, at any kill of the service or of the server."""
    return {delivery for kill in kills if kill.of == of for delivery in kill.in_flight}


def arrivals(evidence: Evidence) -> dict[int, int]:
    """How often each delivery of what was accepted has arrived."""
    accepted = {one.notification for one in evidence.accepted}
    came = Counter(one.delivery for one in evidence.arrivals)
    return {row.id: came[row.id] for row in evidence.rows.deliveries.values() if row.notification in accepted}


def by_moment(restore: Restore) -> tuple[float, float, float]:
    return restore.at, restore.copy.began, restore.copy.ended


def by_place(restore: Restore) -> tuple[float, float, float]:
    return restore.log_bytes, restore.copy.log_began, restore.copy.log_ended


class _Auditor:
    def __init__(self, evidence: Evidence) -> None:
        self.of = evidence
        self.marks = {notification: sorted(set(MARK.findall(text))) for notification, text in evidence.rows.notifications.items()}
        self.accepted: defaultdict[str, list[Accepted]] = defaultdict(list)
        for one in evidence.accepted:
            self.accepted[one.token].append(one)
        self.verdicts: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for arrival in evidence.arrivals:
            for mark in arrival.marks:
                self.verdicts[arrival.key, mark][arrival.verdict] += 1
        self.keys = evidence.rows.handlers
        self.in_rows = {(one.delivery, one.number): one for one in evidence.rows.attempts}

    def lines_that(self, expected: bool | None) -> Iterator[tuple[tuple[int, int], str]]:
        for line in self.of.log.attempts:
            if stands(line.place, self.of.restores, by_place) is expected:
                yield (line.delivery, line.number), line.outcome

    # -------------------------------------------------------------------------------------------- accepted against rows

    def what_was_accepted_is_there(self) -> Iterator[str]:
        by_notification: defaultdict[int, list[int]] = defaultdict(list)
        for row in self.of.rows.deliveries.values():
            by_notification[row.notification].append(row.handler)
        for one in self.of.accepted:
            is_there = stands(one.at, self.of.restores, by_moment)
            text = self.of.rows.notifications.get(one.notification)
            if text is None:
                if is_there and stands(one.began, self.of.restores, by_moment):
                    yield f"notification {one.notification} ({one.token}) was accepted and is gone"
            elif one.token not in map(token_of, MARK.findall(text)):
                yield f"notification {one.notification} was {one.token}, and is another one now"
            elif sorted(by_notification[one.notification]) != sorted(one.handlers):
                yield f"notification {one.notification} has deliveries to {by_notification[one.notification]}, not {one.handlers}"

    def what_is_there_was_accepted(self) -> Iterator[str]:
        seen: Counter[str] = Counter()
        for notification, marks in self.marks.items():
            for token in {token_of(mark) for mark in marks}:
                seen[token] += 1
                known = [one for one in self.accepted[token] if one.notification == notification or one.may_repeat]
                if not known and token not in self.of.dropped:
                    yield f"notification {notification} ({token}) is in the store, and nobody was told so"
        for token, count in seen.items():
            if count > 1 and not any(one.may_repeat for one in self.accepted[token]):
                yield f"{token} is in the store {count} times"

    def everything_has_ended(self) -> Iterator[str]:
        for row in self.of.rows.deliveries.values():
            if row.status == "pending":
                yield f"delivery {row.id} to {self.keys[row.handler]} still waits, after {row.attempt_count} attempts ({row.reason})"
            elif not row.reason and row.status != "cancelled":
                yield f"delivery {row.id} is {row.status}, and nothing says why"

    # ------------------------------------------------------------------------------------------- rows against receivers

    def what_is_delivered_arrived_as_often_as_it_may(self) -> Iterator[str]:
        sure, perhaps = dict(self.lines_that(True)), dict(self.lines_that(None))
        least: defaultdict[int, Counter[str]] = defaultdict(Counter)  # attempts of all lives that are on record
        for line in self.of.log.attempts:
            least[line.delivery][line.outcome] += 1
        most = defaultdict(Counter, {delivery: Counter(counts) for delivery, counts in least.items()})
        for attempt in self.of.rows.attempts:
            name = (attempt.delivery, attempt.number)
            least[attempt.delivery][attempt.outcome] += name not in sure and name not in perhaps
            most[attempt.delivery][attempt.outcome] += name not in sure  # a line that is perhaps gone with a restore may be of another one
        for row in self.of.rows.deliveries.values():
            for mark in self.marks.get(row.notification, []):
                came = self.verdicts[self.keys[row.handler], mark]
                yield from self._of_mark(row, mark, least[row.id], most[row.id], came)

    def _of_mark(self, row: Row, mark: str, least: Counter[str], most: Counter[str], came: Counter[str]) -> Iterator[str]:
        is_long = len(self.marks[row.notification]) > 1
        yes, delivered = came["taken"] + came["maybe"] + came["duplicate"], least["delivered"]
        if yes < (min(delivered, 1) if is_long else delivered):
            yield f"delivery {row.id} ({mark}) has {delivered} attempts that arrived, and its receiver took {yes}"
        may = sum(most[outcome] for outcome in MAY_HAVE_ARRIVED)
        if is_long:
            may = max(may, 1)
        if came["taken"] > may + self._unrecorded(token_of(mark), is_long):
            yield f"delivery {row.id} ({mark}) arrived {came['taken']} times, and {may} attempts say that it may have: {dict(most)}"

    def _unrecorded(self, token: str, is_long: bool) -> int:
        """How many arrivals may be on no record that is left: of attempts in flight at the kill before a restore, whose copy knows
        nothing of them, and of a notification that a client was not told of, before it asked for another one."""
        began = min((one.began for one in self.accepted[token]), default=0.0)
        count = sum(one.may_repeat for one in self.accepted[token])
        for restore in self.of.restores:
            was_killed = any(restore.copy.began - 1 < kill.ended <= restore.at for kill in self.of.kills)
            count += restore.at > began and (is_long or was_killed)
            count += any(one.began < restore.at < one.at for one in self.accepted[token])
        return count

    def what_repeats_was_in_flight(self) -> Iterator[str]:
        """Where nothing but a kill of the service keeps an answer from being kept. The server's end loses none: the service holds them."""
        if self.of.nothing_but is None:
            return
        cut_off = in_flight(self.of.nothing_but, "service")
        for delivery, count in arrivals(self.of).items():
            if not count:
                yield f"delivery {delivery} was accepted and never arrived"
            elif count > 1 and delivery not in cut_off:
                yield f"delivery {delivery} arrived {count} times, and was not in flight at any kill of the service"

    def what_arrived_was_accepted(self) -> Iterator[str]:
        for arrival in self.of.arrivals:
            for token in {token_of(mark) for mark in arrival.marks}:
                if not self.accepted[token] and token not in self.of.dropped:
                    yield f"{token} came to {arrival.key}, and was accepted from nobody"

    def an_id_means_one_message(self) -> Iterator[str]:
        meanings: defaultdict[tuple[str, object], set[object]] = defaultdict(set)
        for arrival in self.of.arrivals:
            tokens = {token_of(mark) for mark in arrival.marks}
            for token in tokens:
                if arrival.identity:
                    meanings["identity", arrival.identity].add((arrival.key, token))
                if arrival.delivery:
                    meanings["delivery", arrival.delivery].add((arrival.key, token))
                    meanings["notification", arrival.notification].add(token)
            if arrival.delivery and arrival.identity:
                meanings["identity of delivery", arrival.delivery].add(arrival.identity)
        for one in self.of.accepted:
            meanings["notification", one.notification].add(one.token)
        for handler, key in self.of.names:
            meanings["handler", handler].add(key)
        for (what, name), found in meanings.items():
            if len(found) > 1:
                yield f"{what} {name} means {sorted(map(str, found))}"

    # -------------------------------------------------------------------------------------------------- statistics, log

    def totals_are_what_rows_say(self) -> Iterator[str]:
        rows = self.of.rows
        for name in rows.totals.keys() | rows.counted.keys():
            if rows.totals.get(name, 0) != rows.counted.get(name, 0):
                yield f"there are {rows.counted.get(name, 0)} rows of {name}, and their total says {rows.totals.get(name, 0)}"

    def hours_are_what_rows_say(self) -> Iterator[str]:
        """Less, at most, what a kill or a restore took of the last seconds of counting."""
        delivered: Counter[int] = Counter()
        may_lack: Counter[int] = Counter()
        spans = [Span(one.began - 6, one.ended) for one in self.of.kills]
        spans += [Span(one.copy.began - 9, one.copy.ended) for one in self.of.restores]
        for attempt in self.of.rows.attempts:
            row = self.of.rows.deliveries.get(attempt.delivery)
            if row is not None and attempt.outcome == "delivered":
                delivered[row.handler] += 1
                may_lack[row.handler] += self._has_ended_in(attempt, spans)
        for handler in delivered.keys() | self.of.rows.hours.keys():
            told, count = self.of.rows.hours.get(handler, 0), delivered[handler]
            if not count - may_lack[handler] <= told <= count:
                yield f"handler {handler} took {count} ({may_lack[handler]} of them near a kill), its hours say {told}"

    def the_log_tells_what_rows_tell(self) -> Iterator[str]:
        standing = dict(self.lines_that(True))
        for name, outcome in standing.items():
            row = self.in_rows.get(name)
            if row is None:
                yield f"the log tells of attempt {name[1]} of delivery {name[0]} ({outcome}), and no row does"
            elif row.outcome != outcome:
                yield f"attempt {name[1]} of delivery {name[0]} is {row.outcome}, and the log says {outcome}"
        perhaps = dict(self.lines_that(None))
        lacking = [one for name, one in self.in_rows.items() if name not in standing and name not in perhaps]
        unexplained = [one for one in lacking if one.outcome != "unknown" and not self._has_ended_in(one, self.of.kills)]
        if len(unexplained) > self.of.log.dropped + self.of.log.torn:
            for one in unexplained:
                yield f"the log tells nothing of attempt {one.number} of delivery {one.delivery} ({one.outcome})"

    def _has_ended_in(self, attempt: Attempt, spans: list[Span]) -> bool:
        took = (attempt.ended - attempt.at) / 1e6  # by a clock that nobody steps
        return any(span.has(moment + took) for moment in self.of.clock.moments(attempt.at) for span in spans)

    def no_pace_is_broken(self) -> Iterator[str]:
        times: defaultdict[str, list[float]] = defaultdict(list)
        last: dict[tuple[str, tuple[str, ...]], Arrival] = {}
        for arrival in self.of.arrivals:
            before = last.get((arrival.key, arrival.marks))
            last[arrival.key, arrival.marks] = arrival
            if before is None or before.verdict != "lost":  # else it may be the same start: its kept connection ended without an answer
                times[arrival.key].append(arrival.at)
        for key, came in times.items():
            for count, seconds in PACES.get(key.rstrip("0123456789"), ()):
                for first, last in zip(sorted(came), sorted(came)[count:], strict=False):
                    is_uneven = any(span.began < last and first < span.ended for span in self.of.uneven)
                    if last - first < seconds - SHIFT_SECONDS and not is_uneven:
                        yield f"{key} got {count + 1} within {last - first:.2f} s, where {count} in {seconds:.0f} s are allowed"


def audit(evidence: Evidence) -> Books:
    auditor = _Auditor(evidence)
    checks: tuple[Callable[[], Iterable[str]], ...] = (
        auditor.what_was_accepted_is_there,
        auditor.what_is_there_was_accepted,
        auditor.everything_has_ended,
        auditor.what_is_delivered_arrived_as_often_as_it_may,
        auditor.what_repeats_was_in_flight,
        auditor.what_arrived_was_accepted,
        auditor.an_id_means_one_message,
        auditor.totals_are_what_rows_say,
        auditor.hours_are_what_rows_say,
        auditor.the_log_tells_what_rows_tell,
        auditor.no_pace_is_broken,
    )
    complaints = list(evidence.complaints)
    for check in checks:
        found = list(check())
        complaints += found[:MAX_SHOWN]
        if len(found) > MAX_SHOWN:
            complaints.append(f"... and {len(found) - MAX_SHOWN} more of these")
    return Books(_figures(evidence), complaints)


def _figures(evidence: Evidence) -> dict[str, int]:
    return _figures_of_all(evidence) if evidence.nothing_but is None else _figures_of_kills(evidence, evidence.nothing_but)


def _figures_of_kills(evidence: Evidence, kills: list[Kill]) -> dict[str, int]:
    came = arrivals(evidence)
    return {
        "kills of the service": sum(kill.of == "service" for kill in kills),
        "kills of the server": sum(kill.of == "server" for kill in kills),
        "accepted": len(evidence.accepted),
        "deliveries": sum(len(one.handlers) for one in evidence.accepted),
        "arrived": sum(count > 0 for count in came.values()),
        "lost": sum(len(one.handlers) for one in evidence.accepted) - sum(count > 0 for count in came.values()),
        "in flight at kills of the service": len(in_flight(kills, "service")),
        "in flight at kills of the server": len(in_flight(kills, "server")),
        "repeated": sum(count > 1 for count in came.values()),
        "unknown": sum(one.outcome == "unknown" for one in evidence.rows.attempts),
    }


def _figures_of_all(evidence: Evidence) -> dict[str, int]:
    gone = sum(stands(one.at, evidence.restores, by_moment) is False for one in evidence.accepted)
    verdicts = Counter(arrival.verdict for arrival in evidence.arrivals)
    statuses = Counter(row.status for row in evidence.rows.deliveries.values())
    outcomes = Counter(attempt.outcome for attempt in evidence.rows.attempts)
    taken = Counter((arrival.key, mark) for arrival in evidence.arrivals if arrival.verdict == "taken" for mark in arrival.marks)
    return {
        **evidence.done,
        "accepted": len(evidence.accepted),
        "gone with a restore": gone,
        "accepted and lost": sum(one.notification not in evidence.rows.notifications for one in evidence.accepted) - gone,
        "taken more than once": sum(count > 1 for count in taken.values()),
        "deliveries": len(evidence.rows.deliveries),
        **statuses,
        "attempts": len(evidence.rows.attempts),
        "unknown": outcomes["unknown"],
        "requests": len(evidence.arrivals),
        **verdicts,
        "lines": len(evidence.log.attempts),
        "lines dropped": evidence.log.dropped,
    }
