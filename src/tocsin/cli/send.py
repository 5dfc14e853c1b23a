"""`tocsin send`: one notification to a running service."""

import re
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from cyclopts import Parameter

from tocsin.cli import reading, show
from tocsin.cli.client import Client, Made, connect
from tocsin.cli.deliveries import DeliveryRow, fate, fates, following, handler_names
from tocsin.cli.failure import StillWaiting, Usage
from tocsin.cli.notifications import NotificationRow
from tocsin.cli.numbers import Id, Seconds

_FIRST_POLL_SECONDS = 0.1
_LAST_POLL_SECONDS = 2.0
_TELL_FROM_POLL_SECONDS = 0.5
_MAX_TOLD = 20  # deliveries for which it says why they wait
_IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}")


def send(
    message: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    title: str | None = None,
    severity: Literal["info", "success", "warning", "critical"] | None = None,
    url: str | None = None,
    field: list[str] | None = None,
    handler: list[Id] | None = None,
    send_at: str | None = None,
    expires_at: str | None = None,
    idempotency_key: str | None = None,
    text: bool = False,
    wait: bool = False,
    timeout: Seconds = 120.0,
    json: bool = False,
) -> int:
    """Send a notification through a running service (TOCSIN_URL, TOCSIN_API_KEY).

    Exit codes: 0 accepted (with --wait: delivered), 1 failed or refused, 2 wrong usage, 3 still waiting, 4 API key refused,
    5 no connection.

    Parameters
    ----------
    message
        The message, in Markdown; `-` reads it from standard input. Put `--` before one that looks like an option.
    title
        Title, plain text.
    severity
        Severity; the default is info.
    url
        Link to more about it.
    field
        A fact as NAME=VALUE; may be repeated.
    handler
        Id of a handler to send to; may be repeated. The default is every enabled handler.
    send_at
        When to send it: RFC 3339 with an offset, or "YYYY-MM-DD HH:MM:SS" in UTC.
    expires_at
        When it expires: after that it is no longer sent; same formats.
    idempotency_key
        The same key and content send once within 24 hours, however often the command runs.
    text
        The message is plain text, not Markdown: every character is shown as it was sent.
    wait
        Wait until every delivery has ended; exit code 0 only if all were delivered.
    timeout
        How many seconds to wait at most.
    json
        Print JSON: the notification's id, with --wait its deliveries too.
    """
    given = {"title": title, "severity": severity, "url": url, "handlers": handler, "send_at": send_at, "expires_at": expires_at}
    if idempotency_key is None:
        idempotency_key = secrets.token_hex(16)  # makes it safe to repeat the request while the service is busy
    elif not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):  # also an empty one, from a shell variable that is not set
        raise Usage("--idempotency-key must be 1 to 255 printable ASCII characters.")
    content = content_of(message, field, format="text" if text else None, **given)
    client = connect()
    notification_id = client.post("/api/notifications", Made, content, idempotency_key=idempotency_key).data.id
    if not json:
        show.say(f"Accepted as notification {notification_id}.")
    elif not wait:
        show.as_json({"id": notification_id})
    return _await_deliveries(client, notification_id, timeout, json) if wait else 0


def content_of(message: str, fields: Sequence[str] | None, **given: object) -> dict[str, object]:
    """The body of a notification; None means not given."""
    text = reading.standard_input() if message == "-" else message
    content: dict[str, object] = {"message": reading.cut_to_limit(text)}
    content |= {name: value for name, value in given.items() if value is not None}
    return content | ({"fields": _fields(fields)} if fields else {})


def _fields(pairs: Sequence[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise Usage(f"--field {show.one_line(pair)} must read NAME=VALUE.")
        if name in fields:
            raise Usage(f"--field {show.one_line(name)} is given twice.")
        fields[name] = value
    return fields


def _await_deliveries(client: Client, notification_id: int, timeout_seconds: float, json: bool) -> int:
    """Wait until nothing is pending any more or time is up, then print each delivery's fate."""
    names = handler_names(client)
    _watch(client, notification_id, names, timeout_seconds)
    found = sorted(client.rows("/api/deliveries", DeliveryRow, [("notification_id", str(notification_id))]), key=lambda one: one.data.id)
    if json:
        show.as_json({"id": notification_id, "deliveries": [one.raw for one in found]})
    else:
        for line in fates(client, [one.data for one in found], names):
            show.say(line)
    statuses = Counter(one.data.status for one in found)
    waiting, total = statuses["pending"], statuses.total()
    if waiting:
        late = StillWaiting(f"After {timeout_seconds:g} s {waiting} of {total} deliveries were still waiting.")
        if waiting + statuses["delivered"] == total:
            raise late
        show.complain(str(late))
    return 0 if statuses["delivered"] == total else 1


def _watch(client: Client, notification_id: int, names: Mapping[int, str], timeout_seconds: float) -> None:
    """Wait for the end; if it takes a while, report every attempt that has to be repeated."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    ends_at = time.monotonic() + timeout_seconds
    poll_seconds = _FIRST_POLL_SECONDS
    said: dict[int, int] = {}  # by delivery: the number of attempts reported
    console = show.console("stderr")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Delivering", total=None)
        while True:
            notification = client.get(f"/api/notifications/{notification_id}", NotificationRow).data
            total, waiting = sum(notification.deliveries.values()), notification.deliveries.get("pending", 0)
            progress.update(task, total=total, completed=total - waiting)
            left_seconds = ends_at - time.monotonic()
            if not waiting or left_seconds <= 0:
                return
            if poll_seconds >= _TELL_FROM_POLL_SECONDS:
                which = [("notification_id", str(notification_id)), ("status", "pending")]
                pending = client.rows("/api/deliveries", DeliveryRow, which, _MAX_TOLD)
                for row in sorted((one.data for one in pending), key=lambda row: row.id):
                    if row.attempt_count > said.get(row.id, 0):
                        said[row.id] = row.attempt_count
                        console.print(f"{fate(row, names)} ({following(row, notification.expires_at)})", soft_wrap=True)
            time.sleep(min(poll_seconds, left_seconds))
            poll_seconds = min(poll_seconds * 1.5, _LAST_POLL_SECONDS)
