"""`tocsin deliveries`: what happened to what was sent."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from tocsin import clock
from tocsin.cli import show
from tocsin.cli.admin import shown_time
from tocsin.cli.client import Client, Denied, connect
from tocsin.cli.failure import Failure, Usage
from tocsin.cli.numbers import Count, Id
from tocsin.model import adds_to

StatusWord = Literal["pending", "delivered", "failed", "expired", "cancelled", "skipped"]
_RETRIED_AT_ONCE = 10_000
_MAX_LOOKED_UP = 25  # deliveries, and notifications, whose own pages a list asks for what it does not have


class DeliveryRow(Struct):
    """A delivery as in the API's lists."""

    id: int
    notification_id: int
    notification_handler_id: int
    status: str
    attempt_count: int
    next_attempt_datetime: str | None
    last_error: str | None
    datetime: str
    last_datetime: str | None


class AttemptRow(Struct):
    number: int
    datetime: str
    outcome: str
    reason: str
    duration_ms: int
    status_code: int | None
    response: str | None
    detail: str | None = None
    provider_id: str | None = None


class EventRow(Struct):
    datetime: str
    text: str


class DetailRow(DeliveryRow):
    """A single delivery, with every attempt and decision, oldest first."""

    attempts: list[AttemptRow]
    events: list[EventRow]


class ExpiryRow(Struct):
    expires_at: str | None


class NameRow(Struct):
    id: int
    name: str


class CancelledRow(Struct):
    cancelled: int


class RetriedRow(Struct):
    retried: int


def handler_names(client: Client) -> dict[int, str]:
    """Names of the handlers by id; none if the key may not read handlers."""
    try:
        return {row.data.id: row.data.name for row in client.rows("/api/notification-handlers", NameRow)}
    except Denied:
        return {}


def list_deliveries(
    *,
    status: StatusWord | None = None,
    notification: Id | None = None,
    handler: Id | None = None,
    search: str | None = None,
    limit: Count = 25,
    json: bool = False,
) -> None:
    """List deliveries, newest first.

    Parameters
    ----------
    status
        Only those with this status.
    notification
        Only those of this notification.
    handler
        Only those to this handler.
    search
        Only those with this in title, message or last error.
    limit
        How many to list at most.
    json
        Print JSON instead of a table.
    """
    client = connect()
    filters = list(_filters(status, notification, handler, search).items())
    found = list(client.rows("/api/deliveries", DeliveryRow, filters, limit))
    if json:
        show.as_json([one.raw for one in found])
        return
    if not found:
        show.note("No deliveries.")
        return
    rows = [one.data for one in found]
    names, ends, waits = handler_names(client), _ends(client, rows), _waits(client, rows)
    show.table(
        ("ID", "NOTIFICATION", "HANDLER", "STATUS", "ATTEMPTS", "ACCEPTED (UTC)", "REMARK"),
        (
            (
                str(row.id),
                str(row.notification_id),
                names.get(row.notification_handler_id, str(row.notification_handler_id)),
                show.status_text(row.status),
                str(row.attempt_count),
                row.datetime,
                ", ".join(part for part in (waits.get(row.id), ends.get(row.id) or row.last_error) if part) or "-",
            )
            for row in rows
        ),
    )


def show_delivery(delivery: Id, /, *, json: bool = False) -> None:
    """Show one delivery: every attempt with the provider's answer, and every decision.

    Parameters
    ----------
    delivery
        Id of the delivery.
    json
        Print JSON instead of lines.
    """
    client = connect()
    answer = client.get(f"/api/deliveries/{delivery}", DetailRow)
    if json:
        show.as_json(answer.raw)
        return
    row = answer.data
    show.say(fate(row, handler_names(client)))
    show.say(f"Notification {row.notification_id}, accepted {row.datetime} UTC.")
    for event in row.events:
        show.say(show.one_line(f"{event.datetime}  {event.text}"))
    for attempt in row.attempts:
        code = "" if attempt.status_code is None else f", status {attempt.status_code}"
        outcome = "to be tried again" if attempt.outcome == "later" else attempt.outcome
        show.say(show.one_line(f"Attempt {attempt.number}, {attempt.datetime}: {outcome}{code} ({attempt.duration_ms:,} ms)."))
        if attempt.provider_id:
            show.say(show.one_line(f"Id at the provider: {attempt.provider_id}"))
        if attempt.detail and attempt.detail not in (row.last_error or "") and adds_to(attempt.detail, attempt.response):
            show.say(show.one_line(attempt.detail))
        if attempt.response:
            show.lines(attempt.response)


def cancel(delivery: Id | None = None, /, *, notification: Id | None = None, json: bool = False) -> None:
    """Cancel one waiting delivery, or all of a notification. Deliveries that are being sent right now may still arrive.

    Parameters
    ----------
    delivery
        Id of one delivery.
    notification
        Id of a notification whose waiting deliveries are cancelled.
    json
        Print JSON instead of a sentence.
    """
    if (delivery is None) == (notification is None):
        raise Usage("Name one delivery by its id, or a notification by --notification.")
    client = connect()
    if delivery is not None:
        answer = client.post(f"/api/deliveries/{delivery}/cancel", CancelledRow)
    else:
        answer = client.delete(f"/api/notifications/{notification}", CancelledRow)
    if json:
        show.as_json(answer.raw)
        return
    cancelled = answer.data.cancelled
    show.say(f"{cancelled:,} cancelled." if cancelled else "Nothing was waiting any more.")


def retry(
    delivery: Id | None = None,
    /,
    *,
    status: StatusWord | None = None,
    notification: Id | None = None,
    handler: Id | None = None,
    search: str | None = None,
    json: bool = False,
) -> None:
    """Send failed, expired, cancelled or skipped deliveries again: one, or all that match the filters.

    Parameters
    ----------
    delivery
        Id of one delivery.
    status
        Those with this status.
    notification
        Those of this notification.
    handler
        Those to this handler.
    search
        Those with this in title, message or last error.
    json
        Print JSON instead of a sentence.
    """
    filters = _filters(status, notification, handler, search)
    if (delivery is None) == (not filters):
        raise Usage("Name one delivery by its id, or several by --status, --notification, --handler or --search.")
    client = connect()
    path = "/api/deliveries/retry" if delivery is None else f"/api/deliveries/{delivery}/retry"
    answer = client.post(path, RetriedRow, filters)
    retried = answer.data.retried
    if json:
        show.as_json(answer.raw)
    elif retried:
        show.say(f"{retried:,} will be tried again.")
    elif delivery is not None:
        _say_why_not(client, delivery)
    else:
        show.say("Nothing to send again: no delivery matches, or the handlers are not enabled.")
    if retried == _RETRIED_AT_ONCE:
        show.note("One request takes no more than that: run the command again for the rest.")


def _say_why_not(client: Client, delivery: int) -> None:
    """Why a delivery was not sent again. Raises Failure where somebody has to do something first."""
    try:
        row = client.get(f"/api/deliveries/{delivery}", DeliveryRow).data
    except Denied:
        raise Failure("It is not sent again: it has arrived, it is waiting, or its handler is not enabled.") from None
    if row.status not in {"delivered", "pending"}:
        handler = row.notification_handler_id
        raise Failure(f"It is not sent again: handler {handler} is not enabled. Run `tocsin handlers enable {handler}` first.")
    show.say("It has arrived: nothing is sent again." if row.status == "delivered" else "It is waiting to be sent.")


def fates(client: Client, rows: Sequence[DeliveryRow], names: Mapping[int, str]) -> Iterator[str]:
    ends = _ends(client, rows)
    return (fate(row, names, ends.get(row.id)) for row in rows)


def fate(row: DeliveryRow, names: Mapping[int, str], end: str | None = None) -> str:
    """A delivery in one line: its status, its handler's name, and what went wrong. `end`: why it ended, unless its last attempt says so."""
    who = names.get(row.notification_handler_id, f"handler {row.notification_handler_id}")
    attempts = f"{row.attempt_count} attempt{'' if row.attempt_count == 1 else 's'}"
    error = end or row.last_error
    why = "" if row.status == "delivered" or not error else f": {error}"
    return show.one_line(f"{row.status:<9}  {who} (delivery {row.id}, {attempts}){why}")


def following(row: DeliveryRow, expires_at: str | None) -> str:
    """What happens next to one that waits. One that would be tried too late is due when it expires."""
    due = row.next_attempt_datetime or ""
    if expires_at == due:
        return f"expires {expires_at}"
    if expires_at is not None and (shown_time(clock.now()) or "") < expires_at < due:  # held up, or sent again, which ignores it
        return f"next attempt {due}, unless it expires {expires_at}"
    return f"next attempt {due}"


def _ends(client: Client, rows: Sequence[DeliveryRow]) -> dict[int, str]:
    """Why deliveries ended, by id, where their last attempt does not say so. Lists do not have it."""
    silent = [row.id for row in rows if row.status == "skipped" or (row.status in {"failed", "expired"} and not row.last_error)]
    ends = {one: f"`tocsin deliveries show {one}` says why" for one in silent}
    with contextlib.suppress(Failure):  # the rest has been found, and is shown; the next request would most likely fail as well
        for one in silent[:_MAX_LOOKED_UP]:
            if events := client.get(f"/api/deliveries/{one}", DetailRow).data.events:
                ends[one] = events[-1].text.partition(": ")[2] or events[-1].text
    return ends


def _waits(client: Client, rows: Sequence[DeliveryRow]) -> dict[int, str]:
    """What happens next to those that wait, by id."""
    pending = [row for row in rows if row.status == "pending" and row.next_attempt_datetime]
    waits = {row.id: f"waits until {row.next_attempt_datetime}" for row in pending}
    expiries: dict[int, str | None] = {}
    with contextlib.suppress(Failure):
        for one in list(dict.fromkeys(row.notification_id for row in pending))[:_MAX_LOOKED_UP]:
            expiries[one] = client.get(f"/api/notifications/{one}", ExpiryRow).data.expires_at
    return waits | {row.id: following(row, expiries[row.notification_id]) for row in pending if row.notification_id in expiries}


def _filters(status: str | None, notification: int | None, handler: int | None, search: str | None) -> Mapping[str, str]:
    given = {"notification_id": notification, "notification_handler_id": handler, "status": status, "search": search}
    return {name: str(value) for name, value in given.items() if value is not None}
