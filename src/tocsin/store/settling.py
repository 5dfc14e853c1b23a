"""How deliveries stand after their attempts: what many of them bring is kept in a few statements."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from sqlalchemy import Connection

from tocsin.clock import SECOND, Micros
from tocsin.model import Delivery, Reason, Status
from tocsin.ports.queue import Settlement
from tocsin.store.statements import Statement, Totals, run

# What has arrived, nearly all of them: the rest of the row stays or is known.
_SETTLE = "UPDATE deliveries SET status = 1, throttles = 0, may_have_arrived = 0, last_reason = 'ok', last_error = NULL"
SETTLE_AT_ONCE = Statement(  # in one part, with the first attempt, in time
    f"{_SETTLE}, attempt_count = 1, last_attempt_at = v.column2, late = 0, part = 1"
    " FROM (VALUES {}) AS v WHERE deliveries.id = v.column1",
    "(?, ?)",
)
SETTLE_DELIVERED = Statement(
    f"{_SETTLE}, attempt_count = v.column2, last_attempt_at = v.column3, late = v.column4, part = v.column5"
    " FROM (VALUES {}) AS v WHERE deliveries.id = v.column1",
    "(?, ?, ?, ?, ?)",
)
SETTLE_OTHERS = Statement(
    "UPDATE deliveries SET status = v.column2, due_at = v.column3, attempt_count = v.column4, step = v.column5, throttles = v.column6,"
    " last_attempt_at = v.column7, late = v.column8, may_have_arrived = v.column9, part = v.column10, last_reason = v.column11,"
    " last_error = v.column12 FROM (VALUES {}) AS v WHERE deliveries.id = v.column1",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
)
COUNT_ATTEMPTS = Statement(  # of what has ended otherwise meanwhile: a replay goes on from what has arrived, or may have
    "UPDATE deliveries SET attempt_count = v.column2, last_attempt_at = v.column3, may_have_arrived = v.column4, part = v.column5"
    " FROM (VALUES {}) AS v WHERE deliveries.id = v.column1",
    "(?, ?, ?, ?, ?)",
)
_ADD_ATTEMPTS = (
    "INSERT INTO attempts (delivery_id, number, at, duration_us, outcome, reason, status_code, response, next_at, provider_id, detail)"
    " VALUES {} ON CONFLICT (delivery_id, number) DO NOTHING"
)
ADD_LAST_ATTEMPTS = Statement(_ADD_ATTEMPTS, "(?, ?, ?, ?, 'delivered', 'ok', ?, ?, NULL, NULL, NULL)")  # with an answer to show
ADD_ATTEMPTS = Statement(_ADD_ATTEMPTS, "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
HANDLERS_DELIVERED = Statement(  # to the second, so that of many within one only the first writes to the handler's page
    "UPDATE handlers SET last_delivered_at = v.column2, failures = 0, failing_since = NULL FROM (VALUES {}) AS v"
    " WHERE handlers.id = v.column1 AND (last_delivered_at IS NULL OR last_delivered_at < v.column2"
    " OR (failures > 0 AND last_delivered_at = v.column2))",
    "(?, ?)",
)
COUNT_PENDING = Statement("SELECT count(*) FROM deliveries WHERE status = 0 AND id IN (VALUES {})", "(?)")
STATUSES = Statement("SELECT id, status FROM deliveries WHERE id IN (VALUES {})", "(?)")

_PENDING = int(Status.PENDING)


class SettleAll:
    """Keep how deliveries stand after their attempts, and the attempts' log rows. Nobody waits for it but the in-flight ledger."""

    linger_seconds: ClassVar[float] = 0.008

    @staticmethod
    def run_all(connection: Connection, writes: Sequence[Settlement]) -> list[bool]:
        statuses = _statuses(connection, [write.delivery.id for write in writes])
        at_once: list[Any] = []
        delivered: list[Any] = []
        others: list[Any] = []
        counted: list[Any] = []
        attempts: list[Any] = []
        last_attempts: list[Any] = []
        arrived: dict[int, Micros] = {}
        moved: list[tuple[int, int, int]] = []  # user, status before, status
        applied: list[bool] = []
        is_delivered, ok = Status.DELIVERED, Reason.OK
        for write in writes:
            delivery, attempt = write.delivery, write.attempt
            delivery_id, status = delivery.id, delivery.status
            before = statuses.get(delivery_id)
            if before is None:
                applied.append(False)
                continue
            # What has arrived has arrived, even if somebody cancelled it meanwhile.
            wanted = status is is_delivered or before == _PENDING
            applied.append(wanted)
            if wanted and before != status:
                moved.append((delivery.user_id, before, status))
                statuses[delivery_id] = status
            if status is is_delivered:
                number, at, late, part = delivery.attempt_count, delivery.last_attempt_at, delivery.late, delivery.part
                if number == part == 1 and not late:
                    at_once += (delivery_id, at)
                else:
                    delivered += (delivery_id, number, at, 1 if late else 0, part)
                if write.at > arrived.get(delivery.handler_id, 0):  # one that had to wait for the store may come late
                    arrived[delivery.handler_id] = write.at
            elif wanted:
                others += _settled_row(delivery)
            elif attempt is not None:
                counted += (delivery_id, attempt.number, attempt.at, 1 if delivery.may_have_arrived else 0, delivery.part)
            if attempt is not None:
                number, at, duration_us, outcome, reason = attempt.number, attempt.at, attempt.duration_us, attempt.outcome, attempt.reason
                code, response = attempt.status_code, attempt.response
                named, detail = attempt.provider_id, attempt.detail
                if outcome == "delivered" and reason is ok and response is not None and named is detail is None:
                    last_attempts += (delivery_id, number, at, duration_us, code, response)
                else:
                    next_at = attempt.next_at if wanted else None
                    attempts += (delivery_id, number, at, duration_us, outcome, reason._value_, code, response, next_at, named, detail)
        run(connection, SETTLE_AT_ONCE, at_once)
        run(connection, SETTLE_DELIVERED, delivered)
        run(connection, SETTLE_OTHERS, others)
        run(connection, COUNT_ATTEMPTS, counted)
        run(connection, ADD_ATTEMPTS, attempts)
        run(connection, ADD_LAST_ATTEMPTS, last_attempts)
        run(connection, HANDLERS_DELIVERED, [value for handler_id, at in arrived.items() for value in (handler_id, at - at % SECOND)])
        totals = Totals()
        for (user_id, before, status), n in Counter(moved).items():
            totals[user_id, before] -= n
            totals[user_id, int(status)] += n
        totals.write(connection)
        return applied


def _settled_row(delivery: Delivery) -> tuple[Any, ...]:
    return (
        delivery.id,
        int(delivery.status),
        delivery.due_at,
        delivery.attempt_count,
        delivery.step,
        delivery.throttles,
        delivery.last_attempt_at,
        delivery.late,
        delivery.may_have_arrived,
        delivery.part,
        None if delivery.last_reason is None else delivery.last_reason._value_,
        delivery.last_error,
    )


def _statuses(connection: Connection, ids: Sequence[int]) -> dict[int, int]:
    """The status of each delivery that is there. Nearly always all are pending, and one number says so."""
    found = dict.fromkeys(ids, _PENDING)
    different = list(found)
    if sum(count for (count,) in run(connection, COUNT_PENDING, different)) == len(different):
        return found
    return dict(run(connection, STATUSES, different))
