"""How notifications and their deliveries are kept: those of many callers in a few statements."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from tocsin.clock import Micros
from tocsin.model import Delivery, InFlight, Message, Notification, Reason, Severity, Status, SwitchedOff
from tocsin.ports.intake import REMEMBERED_FOR, Accept, Accepted, Answered, Idempotency, Remembered
from tocsin.store import ids
from tocsin.store.statements import insert, look, run, upsert
from tocsin.store.tables import TOTAL_NOTIFICATIONS, deliveries, idempotency, notifications
from tocsin.store.totals import Totals

_NOTIFICATION = ("id", "user_id", "created_at", "severity", "title", "text")
ADD_NOTIFICATIONS = insert(  # just a Markdown text and a title, to be sent at once
    notifications, given=_NOTIFICATION, fixed={"kind": "notification", "url": "", "fields": "[]"}
)
ADD_ANY_NOTIFICATIONS = insert(notifications, given=(*_NOTIFICATION, "kind", "url", "fields", "send_at", "expires_at", "is_text"))
_DELIVERY = ("id", "notification_id", "handler_id", "user_id", "due_at", "first_due_at", "created_at")
ADD_DELIVERIES = insert(  # to be sent; the counts begin at 0, as the table has it
    deliveries, given=_DELIVERY, fixed={"status": Status.PENDING, "is_critical": False, "last_reason": None}
)
ADD_ANY_DELIVERIES = insert(deliveries, given=(*_DELIVERY, "status", "is_critical", "last_reason"))
# Where processes share the store, the partition too.
ADD_SHARED_DELIVERIES = insert(
    deliveries, given=(*_DELIVERY, "partition"), fixed={"status": Status.PENDING, "is_critical": False, "last_reason": None}
)
ADD_ANY_SHARED_DELIVERIES = insert(deliveries, given=(*_DELIVERY, "partition", "status", "is_critical", "last_reason"))
REMEMBERED = look(idempotency, key=("user_id", "path", "key"), wanted=("user_id", "path", "key", "content", "answer", "created_at"))
_TRY_KEYS = text(
    "SELECT pg_try_advisory_xact_lock(hashtextextended(name, 1))"
    " FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS v(name, n) ORDER BY n"
)
REMEMBER = upsert(idempotency, key=("user_id", "path", "key"), given=("content", "answer", "created_at"))

BY_SERVER_CLOCK: Final = "by_server_clock"
"""The option of an engine whose fresh deliveries are due by the server's clock, where it tells one."""

_PENDING = int(Status.PENDING)
_NO_TIMES = (None, None)


class Fields(Struct, frozen=True):
    """What the column of that name holds for a notice; for all else it is a plain array of pairs."""

    fields: tuple[tuple[str, str], ...]
    handlers: tuple[SwitchedOff, ...]


def fields_text(message: Message) -> str:
    """The column `fields`, as JSON."""
    kept = Fields(message.fields, message.handlers) if message.handlers else message.fields
    return msgspec.json.encode(kept).decode()


class Asked(Struct, frozen=True):
    """A request with an idempotency key, and when it was made."""

    user_id: int
    what: Idempotency
    at: Micros


def let_in(connection: Connection, asked: Sequence[Asked]) -> list[InFlight | Answered | None]:
    """Of requests with idempotency keys what keeps each from being taken now; None: nothing, and until the commit no other process lets
    in one with the same key. They do not wait for each other: two groups with two keys each would do so in a circle."""
    if not asked or connection.dialect.name == "sqlite":  # nobody else lets any in
        return [None] * len(asked)
    names = [f"{one.user_id} {one.what.path} {one.what.key}" for one in asked]
    is_ours = [row[0] for row in connection.execute(_TRY_KEYS, {"names": names})]
    keys = [(one.user_id, one.what.path, one.what.key) for one, ours in zip(asked, is_ours, strict=True) if ours]
    at = asked[0].at
    found = {
        tuple(row[:3]): Answered(Remembered(row[3], answer_of(row[4])))
        for row in run(connection, REMEMBERED, keys)
        if abs(row[5] - at) <= REMEMBERED_FOR
    }
    return [found.get((one.user_id, one.what.path, one.what.key)) if ours else InFlight() for one, ours in zip(asked, is_ours, strict=True)]


def answer_of(kept: str) -> tuple[int, ...]:
    """As it was given, from the column `answer`."""
    return tuple([int(part) for part in kept.split(",") if part])


def remember(connection: Connection, user_id: int, at: Micros, what: Idempotency, answer: Iterable[int]) -> None:
    """Keep what an idempotency key was answered with, in place of what was kept before."""
    run(connection, REMEMBER, [(user_id, what.path, what.key, what.content, ",".join(map(str, answer)), at)])


class AcceptAll:
    """Keep notifications and their deliveries. Somebody waits for the answer, so it does not linger."""

    linger_seconds: ClassVar[float] = 0.0

    @staticmethod
    def run_all(connection: Connection, writes: Sequence[Accept]) -> list[list[Accepted]]:
        asked = [Asked(one.user_id, one.idempotency, one.at) for one in writes if one.idempotency is not None]
        kept_out = let_in(connection, asked)
        if any(kept_out):
            return _without(connection, writes, iter(kept_out))
        rows = _Rows(connection, writes)
        results = [rows.add(accept) for accept in writes]
        rows.write(connection)
        for accept, accepted in zip(writes, results, strict=True):
            if accept.idempotency is not None:
                remember(connection, accept.user_id, accept.at, accept.idempotency, [one.id for one in accepted])
        return results


def _without(connection: Connection, writes: Sequence[Accept], kept_out: Iterator[Exception | None]) -> list[Any]:
    """The results of all; of those that may not be taken it is why."""
    results: list[Any] = [None if one.idempotency is None else next(kept_out) for one in writes]
    places = [n for n, result in enumerate(results) if result is None]
    accepted = AcceptAll.run_all(connection, [writes[n] for n in places]) if places else []
    for n, one in zip(places, accepted, strict=True):
        results[n] = one
    return results


class _Rows:
    """The rows of one transaction: made once, as they are written and handed on."""

    def __init__(self, connection: Connection, writes: Sequence[Accept]) -> None:
        planned = [one for accept in writes for one in accept.planned]
        users = {accept.user_id for accept in writes}
        taken = ids.take(connection, users, len(planned), sum([len(one.deliveries) for one in planned]))
        self._notification_ids, self._delivery_ids = iter(taken.notifications), iter(taken.deliveries)
        self._now = taken.now if connection.get_execution_options().get(BY_SERVER_CLOCK) else None
        self._has_partitions = connection.dialect.name == "postgresql"
        self._notifications: list[Any] = []
        self._any_notifications: list[Any] = []
        self._deliveries: list[Any] = []
        self._any_deliveries: list[Any] = []
        self._totals = Totals()

    def write(self, connection: Connection) -> None:
        run(connection, ADD_NOTIFICATIONS, self._notifications)
        run(connection, ADD_ANY_NOTIFICATIONS, self._any_notifications)
        run(connection, ADD_SHARED_DELIVERIES if self._has_partitions else ADD_DELIVERIES, self._deliveries)
        run(connection, ADD_ANY_SHARED_DELIVERIES if self._has_partitions else ADD_ANY_DELIVERIES, self._any_deliveries)
        self._totals.write(connection)

    def add(self, accept: Accept) -> list[Accepted]:
        user_id, at = accept.user_id, accept.at
        accepted: list[Accepted] = []
        plain, now, has_partitions = self._deliveries, self._now, self._has_partitions
        before, pending, critical = len(plain), Status.PENDING, Severity.CRITICAL
        for planned in accept.planned:
            message = planned.message
            notification = Notification(next(self._notification_ids), user_id, message, planned.send_at, planned.expires_at)
            self._add_notification(notification, at)
            notification_id, is_critical = notification.id, message.severity is critical
            deliveries: list[Delivery] = []
            for one in planned.deliveries:
                delivery_id, handler_id, status, due_at = next(self._delivery_ids), one.handler_id, one.status, one.due_at
                made_at = at
                if now is not None and due_at == at:  # fresh ones are due in the order of their commits
                    due_at = made_at = now
                values: tuple[int, ...] = (delivery_id, notification_id, handler_id, user_id, due_at, due_at, made_at)
                if has_partitions:
                    partition = one.partition
                    values = (*values, partition)
                    row = Delivery(*values[:4], status, due_at, due_at, made_at, partition=partition)
                else:
                    row = Delivery(delivery_id, notification_id, handler_id, user_id, status, due_at, due_at, made_at)
                if status is pending and one.reason is None and not is_critical:
                    plain.append(values)
                else:
                    row = self._add_any_delivery(row, values, one.reason, is_critical)
                deliveries.append(row)
            accepted.append(Accepted(notification_id, notification, deliveries))
        self._totals[user_id, _PENDING] += len(plain) - before
        self._totals[user_id, TOTAL_NOTIFICATIONS] += len(accepted)
        return accepted

    def _add_notification(self, row: Notification, at: Micros) -> None:
        message, times = row.message, (row.send_at, row.expires_at)
        url, kind = message.url, message.kind
        values = (row.id, row.user_id, at, message.severity._value_, message.title, message.text)  # `value` is a call
        if url or message.fields or kind != "notification" or message.is_text or times != _NO_TIMES:
            self._any_notifications.append((*values, kind, url, fields_text(message), *times, 1 if message.is_text else 0))
        else:
            self._notifications.append(values)

    def _add_any_delivery(self, row: Delivery, values: tuple[int, ...], reason: Reason | None, is_critical: bool) -> Delivery:
        self._any_deliveries.append((*values, row.status._value_, is_critical, None if reason is None else reason._value_))
        self._totals[row.user_id, row.status._value_] += 1
        return row if reason is None else msgspec.structs.replace(row, last_reason=reason)
