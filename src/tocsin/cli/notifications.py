"""`tocsin notifications`: what was sent, and what happened to it."""

from msgspec import Struct

from tocsin.cli import show
from tocsin.cli.client import connect
from tocsin.cli.deliveries import DeliveryRow, fates, handler_names
from tocsin.cli.numbers import Count, Id


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


def list_notifications(*, limit: Count = 25, json: bool = False) -> None:
    """List notifications, newest first.

    Parameters
    ----------
    limit
        How many to list at most.
    json
        Print JSON instead of a table.
    """
    found = list(connect().rows("/api/notifications", NotificationRow, limit=limit))
    if json:
        show.as_json([one.raw for one in found])
        return
    if not found:
        show.note("No notifications.")
        return
    show.table(
        ("ID", "ACCEPTED (UTC)", "SEVERITY", "DELIVERIES", "TITLE OR MESSAGE"),
        ((str(row.id), row.datetime, row.severity, _counts(row), row.title or row.message[:80]) for row in (one.data for one in found)),
    )


def show_notification(notification: Id, /, *, json: bool = False) -> None:
    """Show one notification and what became of its deliveries.

    Parameters
    ----------
    notification
        Id of the notification.
    json
        Print JSON as the API has it.
    """
    client = connect()
    answer = client.get(f"/api/notifications/{notification}", NotificationRow)
    if json:
        show.as_json(answer.raw)
        return
    row = answer.data
    show.say(f"Notification {row.id}, {row.severity}, accepted {row.datetime} UTC: {_counts(row)}")
    for name, value in {"Title": row.title, "Link": row.url, "Send at": row.send_at, "Expires at": row.expires_at}.items():
        if value:
            show.say(show.one_line(f"{name}: {value}"))
    for name, value in row.fields.items():
        show.say(show.one_line(f"{name}: {value}"))
    show.lines(f"\n{row.message}\n")
    found = client.rows("/api/deliveries", DeliveryRow, [("notification_id", str(row.id))])
    for line in fates(client, sorted((one.data for one in found), key=lambda one: one.id), handler_names(client)):
        show.say(line)


def _counts(row: NotificationRow) -> str:
    return ", ".join(f"{count:,} {status}" for status, count in row.deliveries.items() if count) or "none"
