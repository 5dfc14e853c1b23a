"""`tocsin deliveries`: what happened to what was sent."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from msgspec import Struct

from tocsin.cli import show
from tocsin.cli.client import Client, Denied, connect
from tocsin.cli.failure import Failure, Usage
from tocsin.model import adds_to

StatusWord = Literal["pending", "delivered", "failed", "expired", "cancelled", "skipped"]
_RETRIED_AT_ONCE = 10_000


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


def handler_names(client: Client) -> dict[int, str]:
    """Names of the handlers by id; none if the key may not read handlers."""
    try:
        return {row["id"]: row["name"] for row in client.rows("/api/notification-handlers")}
    except Denied:
        return {}


def list_deliveries(
    *,
    status: StatusWord | None = None,
    notification: int | None = None,
    handler: int | None = None,
    search: str | None = None,
    limit: Annotated[int, Parameter(validator=Number(gte=1))] = 25,
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
    raw = list(client.rows("/api/deliveries", list(_filters(status, notification, handler, search).items()), limit))
    if json:
        show.as_json(raw)
        return
    if not raw:
        show.note("No deliveries.")
        return
    names = handler_names(client)
    rows = msgspec.convert(raw, list[DeliveryRow])
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
                _remark(row),
            )
            for row in rows
        ),
    )


def show_delivery(delivery: int, /, *, json: bool = False) -> None:
    """Show one delivery: every attempt with the provider's answer, and every decision.

    Parameters
    ----------
    delivery
        Id of the delivery.
    json
        Print JSON instead of lines.
    """
    client = connect()
    raw = client.get(f"/api/deliveries/{delivery}").data
    if json:
        show.as_json(raw)
        return
    row = msgspec.convert(raw, DetailRow)
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


def cancel(delivery: int | None = None, /, *, notification: int | None = None, json: bool = False) -> None:
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
        raw = client.post(f"/api/deliveries/{delivery}/cancel").data
    else:
        raw = client.delete(f"/api/notifications/{notification}").data
    if json:
        show.as_json(raw)
        return
    cancelled = msgspec.convert(raw["cancelled"], int)
    show.say(f"{cancelled:,} cancelled." if cancelled else "Nothing was waiting any more.")


def retry(
    delivery: int | None = None,
    /,
    *,
    status: StatusWord | None = None,
    notification: int | None = None,
    handler: int | None = None,
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
    answer = client.post(f"/api/deliveries/{delivery}/retry") if delivery is not None else client.post("/api/deliveries/retry", filters)
    retried = msgspec.convert(answer.data["retried"], int)
    if json:
        show.as_json(answer.data)
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
        row = msgspec.convert(client.get(f"/api/deliveries/{delivery}").data, DeliveryRow)
    except Denied:
        raise Failure("It is not sent again: it has arrived, it is waiting, or its handler is not enabled.") from None
    if row.status not in {"delivered", "pending"}:
        handler = row.notification_handler_id
        raise Failure(f"It is not sent again: handler {handler} is not enabled. Run `tocsin handlers enable {handler}` first.")
    show.say("It has arrived: nothing is sent again." if row.status == "delivered" else "It is waiting to be sent.")


def fate(row: DeliveryRow, names: Mapping[int, str]) -> str:
    """A delivery in one line: its status, its handler's name, and what went wrong."""
    who = names.get(row.notification_handler_id, f"handler {row.notification_handler_id}")
    attempts = f"{row.attempt_count} attempt{'' if row.attempt_count == 1 else 's'}"
    error = "" if row.status == "delivered" or not row.last_error else f": {row.last_error}"
    return show.one_line(f"{row.status:<9}  {who} (delivery {row.id}, {attempts}){error}")


def _remark(row: DeliveryRow) -> str:
    """When a waiting delivery is tried next, and what went wrong with its last attempt."""
    following = f"next attempt {row.next_attempt_datetime}" if row.status == "pending" and row.next_attempt_datetime else ""
    return ", ".join(part for part in (following, row.last_error) if part) or "-"


def _filters(status: str | None, notification: int | None, handler: int | None, search: str | None) -> Mapping[str, str]:
    given = {"notification_id": notification, "notification_handler_id": handler, "status": status, "search": search}
    return {name: str(value) for name, value in given.items() if value is not None}
