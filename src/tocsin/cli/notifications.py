"""`tocsin notifications`: what was sent, and what happened to it."""

from typing import Annotated

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from msgspec import Struct

from tocsin.cli import show
from tocsin.cli.client import connect
from tocsin.cli.deliveries import DeliveryRow, fate, handler_names


class NotificationRow(Struct):
    """A notification as the API has it; `deliveries` counts them by status."""

    id: int
    title: str
    message: str
    severity: str
    url: str | None
    fields: dict[str, str]
    send_at: str | None
    expires_at: str | None
    datetime: str
    deliveries: dict[str, int]


def list_notifications(*, limit: Annotated[int, Parameter(validator=Number(gte=1))] = 25, json: bool = False) -> None:
    """List notifications, newest first.

    Parameters
    ----------
    limit
        How many to list at most.
    json
        Print JSON instead of a table.
    """
    raw = list(connect().rows("/api/notifications", limit=limit))
    if json:
        show.as_json(raw)
        return
    if not raw:
        show.note("No notifications.")
        return
    show.table(
        ("ID", "ACCEPTED (UTC)", "SEVERITY", "DELIVERIES", "TITLE OR MESSAGE"),
        (
            (str(row.id), row.datetime, row.severity, _counts(row), row.title or row.message[:80])
            for row in msgspec.convert(raw, list[NotificationRow])
        ),
    )


def show_notification(notification: int, /, *, json: bool = False) -> None:
    """Show one notification and what became of its deliveries.

    Parameters
    ----------
    notification
        Id of the notification.
    json
        Print JSON as the API has it.
    """
    client = connect()
    raw = client.get(f"/api/notifications/{notification}").data
    if json:
        show.as_json(raw)
        return
    row = msgspec.convert(raw, NotificationRow)
    show.say(f"Notification {row.id}, {row.severity}, accepted {row.datetime} UTC: {_counts(row)}")
    for name, value in {"Title": row.title, "Link": row.url, "Send at": row.send_at, "Expires at": row.expires_at}.items():
        if value:
            show.say(show.one_line(f"{name}: {value}"))
    for name, value in row.fields.items():
        show.say(show.one_line(f"{name}: {value}"))
    show.lines(f"\n{row.message}\n")
    names = handler_names(client)
    found = client.rows("/api/deliveries", [("notification_id", str(row.id))])
    for delivery in sorted(msgspec.convert(list(found), list[DeliveryRow]), key=lambda one: one.id):
        show.say(fate(delivery, names))


def _counts(row: NotificationRow) -> str:
    return ", ".join(f"{count:,} {status}" for status, count in row.deliveries.items() if count) or "none"
