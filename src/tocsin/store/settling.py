"""Keeps what attempts have come to: many of them in a few statements."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from msgspec import Struct
from sqlalchemy import Connection

from tocsin.clock import SECOND, Micros
from tocsin.model import Attempt, Delivery, Reason, Status
from tocsin.ports.queue import Settlement
from tocsin.store.statements import count, insert, is_alone, look, run, update
from tocsin.store.tables import attempts, deliveries, handlers
from tocsin.store.totals import Totals

# What has arrived, nearly all of them: the rest of the row stays or is known.
_ARRIVED = {"status": Status.DELIVERED, "throttles": 0, "may_have_arrived": False, "last_reason": Reason.OK, "last_error": None}
_STILL_PENDING = {"status": Status.PENDING}
_FIRST = "deliveries.attempt_count < 2"
SETTLE_AT_ONCE = update(  # in one part, with the first attempt, in time
    deliveries,
    key=("id",),
    given=("last_attempt_at",),
    fixed={**_ARRIVED, "attempt_count": 1, "late": False, "part": 1},
    guard=_STILL_PENDING,
    where=_FIRST,
    returning=("id",),
)
# Where nobody else writes meanwhile, and all are pending, their update need not say which it has found: to look takes half as long.
STILL_PENDING = count(deliveries, key=("id",), where=f"+status = {Status.PENDING:d} AND {_FIRST}")
SETTLE_ALL_AT_ONCE = SETTLE_AT_ONCE.unasked()
# A worker that was taken for dead may settle an attempt that another has noted as unknown, and may have followed by more.
_AFTER_MORE = ("last_attempt_at", "late", "part")
_COUNTED = ("attempt_count",)
SETTLE_DELIVERED = update(
    deliveries, key=("id",), given=_AFTER_MORE, raises=_COUNTED, fixed=_ARRIVED, guard=_STILL_PENDING, returning=("id",)
)
SETTLE_OTHERS = update(  # of an attempt from before a replay, or from before what is noted, only an arrival counts
    deliveries,
    key=("id", "replays"),
    given=(*_AFTER_MORE, "attempt_count", "status", "due_at", "step", "throttles", "may_have_arrived", "last_reason", "last_error"),
    guard=_STILL_PENDING,
    where="deliveries.attempt_count < {attempt_count} OR (deliveries.attempt_count = {attempt_count} AND"
    " (deliveries.may_have_arrived OR coalesce(deliveries.last_attempt_at, 0) = coalesce({last_attempt_at}, 0)))",  # see `_Seen.is_past`
    returning=("id",),
)
# Of what had ended otherwise when it came, or was replayed meanwhile, under the status that it was seen to have.
STATUSES = look(deliveries, key=("id",), wanted=("id", "status", "replays", "attempt_count", "may_have_arrived", "last_attempt_at"))
ARRIVED_LATE = update(deliveries, key=("id", "status"), given=_AFTER_MORE, raises=_COUNTED, fixed=_ARRIVED, returning=("id",))
COUNT_ATTEMPTS = update(  # a replay goes on from what has arrived, or may have
    deliveries, key=("id", "status"), given=("last_attempt_at", "may_have_arrived", "part"), raises=_COUNTED, returning=("id",)
)
_ATTEMPT = ("delivery_id", "number")
_NOTED_BY_OTHERS = {"outcome": "unknown"}  # who made the attempt knows more
ADD_LAST_ATTEMPTS = insert(  # with an answer to show
    attempts,
    given=(*_ATTEMPT, "at", "duration_us", "status_code", "response"),
    fixed={"outcome": "delivered", "reason": Reason.OK, "next_at": None, "provider_id": None, "detail": None},
    unless=_ATTEMPT,
    replacing=_NOTED_BY_OTHERS,
)
ADD_ATTEMPTS = insert(
    attempts,
    given=(*_ATTEMPT, "at", "duration_us", "outcome", "reason", "status_code", "response", "next_at", "provider_id", "detail"),
    unless=_ATTEMPT,
    replacing=_NOTED_BY_OTHERS,
)
# To the second, so that of many within one only the first writes to the handler's page: the others are only looked at, which is cheaper.
_IS_NEWS = (
    "last_delivered_at IS NULL OR last_delivered_at < {last_delivered_at} OR (failures > 0 AND last_delivered_at = {last_delivered_at})"
)
_LAST = ("last_delivered_at",)
NEWS = look(handlers, key=("id",), wanted=("id",), given=_LAST, where=_IS_NEWS)
HANDLERS_DELIVERED = update(handlers, key=("id",), given=_LAST, fixed={"failures": 0, "failing_since": None}, where=_IS_NEWS)

_PENDING, _DELIVERED = int(Status.PENDING), Status.DELIVERED  # before Python 3.12 an enum takes as long for a member as ten other look-ups


class SettleAll:
    """Keep the state of deliveries after their attempts, and the attempts' log rows. Only the in-flight ledger waits for it."""

    linger_seconds: ClassVar[float] = 0.008

    @staticmethod
    def run_all(connection: Connection, writes: Sequence[Settlement]) -> list[bool]:
        if len({write.delivery.id for write in writes}) < len(writes):  # one after the other, as they came
            return [applied for write in writes for applied in SettleAll.run_all(connection, [write])]
        _note_arrivals(connection, writes)  # before the deliveries: so does what stops a handler, and neither waits in a circle
        before = _settle_pending(connection, writes)
        noted: set[int] = set()
        if len(before) < len(writes):
            arrived, noted = _settle_others(connection, [write for write in writes if write.delivery.id not in before])
            before |= arrived
        applied: list[bool] = []
        moved: list[tuple[int, int, int]] = []  # user, status before, status
        for write in writes:
            delivery = write.delivery
            was = before.get(delivery.id)
            applied.append(was is not None)
            if was is not None:
                moved.append((delivery.user_id, was, delivery.status))
        _add_attempts(connection, [(write, was) for write, was in zip(writes, applied, strict=True) if was or write.delivery.id in noted])
        totals = Totals()
        for (user_id, was, status), n in Counter(moved).items():
            totals[user_id, was] -= n
            totals[user_id, int(status)] += n
        totals.write(connection)
        return applied


def _settle_pending(connection: Connection, writes: Iterable[Settlement], *, is_again: bool = False) -> dict[int, int]:
    """The status before of those that were pending, in the life that the attempt belongs to, and are settled now."""
    at_once: list[Any] = []
    delivered: list[Any] = []
    others: list[Any] = []
    for write in writes:
        delivery = write.delivery
        if delivery.status is not _DELIVERED:
            others.append(_other(delivery))
        elif delivery.attempt_count == delivery.part == 1 and not delivery.late and not is_again:
            at_once.append((delivery.id, delivery.last_attempt_at))
        else:
            delivered.append((delivery.id, *_after_more(delivery)))
    settled = _settle_at_once(connection, at_once)
    settled += run(connection, SETTLE_DELIVERED, delivered)
    settled += run(connection, SETTLE_OTHERS, others)
    return dict.fromkeys([delivery_id for (delivery_id,) in settled], _PENDING)


def _settle_at_once(connection: Connection, rows: Sequence[tuple[int, Micros]]) -> list[tuple[int]]:
    if is_alone(connection):
        ids = [(row[0],) for row in rows]
        if sum([n for (n,) in run(connection, STILL_PENDING, ids)]) == len(ids):
            run(connection, SETTLE_ALL_AT_ONCE, rows)
            return ids
    return run(connection, SETTLE_AT_ONCE, rows)


def _settle_others(connection: Connection, writes: Sequence[Settlement]) -> tuple[dict[int, int], set[int]]:
    """The rest. An arrival counts, even if somebody cancelled it meanwhile: the status before of those. All else that was tried is only
    noted: the ids of those.

    Each is written under the status that it was seen to have. If another writer has changed that since, it is looked at again.
    """
    before: dict[int, int] = {}
    noted: set[int] = set()
    rest: list[Settlement] = list(writes)
    while rest:
        seen = {row[0]: _Seen(*row[1:]) for row in run(connection, STATUSES, [(write.delivery.id,) for write in rest])}
        arrived: list[Any] = []
        tried: list[Any] = []
        pending: list[Settlement] = []  # again: it was sent once more meanwhile
        for write in rest:
            delivery, attempt = write.delivery, write.attempt
            row = seen.get(delivery.id)
            if row is None:
                continue
            if row.status == _PENDING and (delivery.status is _DELIVERED or not row.is_past(delivery)):
                pending.append(write)
            elif delivery.status is _DELIVERED:
                arrived.append((delivery.id, row.status, *_after_more(delivery)))
            elif attempt is not None and row.knows(attempt.number):
                noted.add(delivery.id)
            elif attempt is not None:
                tried.append((delivery.id, row.status, attempt.at, 1 if delivery.may_have_arrived else 0, delivery.part, attempt.number))
        before |= _settle_pending(connection, pending, is_again=True)
        before |= {delivery_id: seen[delivery_id].status for (delivery_id,) in run(connection, ARRIVED_LATE, arrived)}
        noted |= {delivery_id for (delivery_id,) in run(connection, COUNT_ATTEMPTS, tried)}
        known = before.keys() | noted
        wanted = {write.delivery.id for write in pending}.union(row[0] for row in arrived + tried)
        rest = [write for write in rest if write.delivery.id in wanted - known]
    return before, noted


class _Seen(Struct, frozen=True):
    """A delivery as it was found."""

    status: int
    replays: int
    attempt_count: int
    may_have_arrived: bool
    last_attempt_at: Micros | None

    def knows(self, number: int) -> bool:
        """Whether what came of that attempt is noted, or of a later one."""
        return self.attempt_count > number or (self.attempt_count == number and not self.may_have_arrived)

    def is_past(self, decided: Delivery) -> bool:
        """Whether what was decided is of an earlier life, or of an attempt that something else is known of already. Of one that is only
        noted as unknown, it says more."""
        if self.replays != decided.replays or self.attempt_count > decided.attempt_count:
            return True
        is_same = (self.last_attempt_at or 0) == (decided.last_attempt_at or 0)
        return self.attempt_count == decided.attempt_count and not self.may_have_arrived and not is_same


def _after_more(delivery: Delivery) -> tuple[Any, ...]:
    return delivery.last_attempt_at, 1 if delivery.late else 0, delivery.part, delivery.attempt_count


def _other(delivery: Delivery) -> tuple[Any, ...]:
    return SETTLE_OTHERS.row(
        id=delivery.id,
        replays=delivery.replays,
        status=int(delivery.status),
        due_at=delivery.due_at,
        attempt_count=delivery.attempt_count,
        step=delivery.step,
        throttles=delivery.throttles,
        last_attempt_at=delivery.last_attempt_at,
        late=delivery.late,
        may_have_arrived=1 if delivery.may_have_arrived else 0,
        part=delivery.part,
        last_reason=None if delivery.last_reason is None else delivery.last_reason.value,
        last_error=delivery.last_error,
    )


def _add_attempts(connection: Connection, found: Iterable[tuple[Settlement, bool]]) -> None:
    plain: list[Any] = []
    others: list[Any] = []
    ok = Reason.OK
    for write, is_applied in found:
        one = write.attempt
        if one is None:
            continue
        if one.outcome == "delivered" and one.reason is ok and one.response is not None and one.provider_id is one.detail is None:
            plain.append((one.delivery_id, one.number, one.at, one.duration_us, one.status_code, one.response))
        else:
            others.append(_attempt(one, one.next_at if is_applied else None))
    run(connection, ADD_ATTEMPTS, others)
    run(connection, ADD_LAST_ATTEMPTS, plain)


def _attempt(one: Attempt, next_at: Micros | None) -> tuple[Any, ...]:
    return ADD_ATTEMPTS.row(
        delivery_id=one.delivery_id,
        number=one.number,
        at=one.at,
        duration_us=one.duration_us,
        outcome=one.outcome,
        reason=one.reason.value,
        status_code=one.status_code,
        response=one.response,
        next_at=next_at,
        provider_id=one.provider_id,
        detail=one.detail,
    )


def _note_arrivals(connection: Connection, writes: Iterable[Settlement]) -> None:
    latest: dict[int, Micros] = {}
    for write in writes:
        delivery, at = write.delivery, write.at
        if delivery.status is _DELIVERED and at > latest.get(delivery.handler_id, 0):  # one that had to wait for the store may come late
            latest[delivery.handler_id] = at
    rows = [(handler_id, at - at % SECOND) for handler_id, at in sorted(latest.items())]
    news = {handler_id for (handler_id,) in run(connection, NEWS, rows)}
    run(connection, HANDLERS_DELIVERED, [row for row in rows if row[0] in news])
