"""`tocsin send`: one notification to a running service."""

import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from msgspec import Struct

from tocsin.cli import show
from tocsin.cli.client import Client, connect
from tocsin.cli.deliveries import DeliveryRow, handler_names
from tocsin.cli.failure import Failure, Usage

_FIRST_POLL_SECONDS = 0.1
_LAST_POLL_SECONDS = 2.0
_TELL_FROM_POLL_SECONDS = 0.5
_MOST_TOLD = 20  # deliveries of which it is said why they wait


class NotificationRow(Struct):
    """What waiting needs of a notification: how many of its deliveries stand where."""

    id: int
    deliveries: dict[str, int]


def send(
    message: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    title: str | None = None,
    severity: Literal["info", "success", "warning", "critical"] | None = None,
    url: str | None = None,
    field: list[str] | None = None,
    handler: list[int] | None = None,
    send_at: str | None = None,
    expires_at: str | None = None,
    text: Annotated[bool, Parameter(negative=())] = False,
    wait: bool = False,
    timeout: Annotated[float, Parameter(validator=Number(gt=0))] = 120.0,
) -> int:
    """Send a notification through a running service (TOCSIN_URL, TOCSIN_API_KEY).

    Parameters
    ----------
    message
        The message, in Markdown; `-` reads it from standard input.
    title
        Title, plain text.
    severity
        How loud it is; info unless told.
    url
        Link that belongs to it.
    field
        A fact as NAME=VALUE; may be repeated.
    handler
        Id of a handler it goes to; may be repeated. All enabled ones unless told.
    send_at
        When it is due: RFC 3339 with an offset, or "YYYY-MM-DD HH:MM:SS" in UTC.
    expires_at
        After when it must not be delivered any more; same forms.
    text
        The message is plain text, not Markdown: every character is shown as it was sent.
    wait
        Wait for the deliveries; exit code 0 only if all of them were delivered.
    timeout
        Seconds to wait at most.
    """
    given = {"title": title, "severity": severity, "url": url, "handlers": handler, "send_at": send_at, "expires_at": expires_at}
    content = content_of(message, field, format="text" if text else None, **given)
    client = connect()
    # The idempotency key makes it safe to repeat the request while the service is busy.
    answer = client.post("/api/notifications", content, idempotency_key=secrets.token_hex(16))
    notification_id = msgspec.convert(answer.data["id"], int)
    show.say(f"Accepted as notification {notification_id}.")
    return _await_deliveries(client, notification_id, timeout) if wait else 0


def content_of(message: str, fields: Sequence[str] | None, **given: object) -> dict[str, object]:
    """The body of a notification; what is None was not given."""
    content: dict[str, object] = {"message": _message(message)}
    content.update({name: value for name, value in given.items() if value is not None})
    return content | ({"fields": _fields(fields)} if fields else {})


def _message(argument: str) -> str:
    if argument != "-":
        return argument
    try:
        return sys.stdin.buffer.read().decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise Failure("Standard input is not UTF-8 text.") from None


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


def _await_deliveries(client: Client, notification_id: int, timeout_seconds: float) -> int:
    """Wait until nothing is pending any more or time is up, then print each delivery's fate."""
    names = handler_names(client)
    counts = _watch(client, notification_id, names, timeout_seconds)
    for row in _deliveries(client, notification_id):
        show.console().print(_fate(row, names), soft_wrap=True)
    if counts["pending"]:
        raise Failure(f"After {timeout_seconds:g} s {counts['pending']} of {sum(counts.values())} deliveries were still waiting.")
    return 0 if counts["delivered"] == sum(counts.values()) else 1


def _deliveries(client: Client, notification_id: int, limit: int | None = None, **filters: str) -> list[DeliveryRow]:
    rows = client.rows("/api/deliveries", [("notification_id", str(notification_id)), *filters.items()], limit)
    return sorted(msgspec.convert(list(rows), list[DeliveryRow]), key=lambda row: row.id)


def _watch(client: Client, notification_id: int, names: Mapping[int, str], timeout_seconds: float) -> Mapping[str, int]:
    """Wait for the end; whoever waits is told of every attempt that has to be repeated, once it is clear that it takes a while."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    ends_at = time.monotonic() + timeout_seconds
    poll_seconds = _FIRST_POLL_SECONDS
    said: dict[int, int] = {}  # of a delivery: its attempts that were told of
    console = show.console("stderr")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Delivering", total=None)
        while True:
            counts = msgspec.convert(client.get(f"/api/notifications/{notification_id}").data, NotificationRow).deliveries
            total = sum(counts.values())
            progress.update(task, total=total, completed=total - counts["pending"])
            left_seconds = ends_at - time.monotonic()
            if not counts["pending"] or left_seconds <= 0:
                return counts
            if poll_seconds >= _TELL_FROM_POLL_SECONDS:
                for row in _deliveries(client, notification_id, _MOST_TOLD, status="pending"):
                    if row.attempt_count > said.get(row.id, 0):
                        said[row.id] = row.attempt_count
                        console.print(f"{_fate(row, names)} (next attempt {row.next_attempt_datetime})", soft_wrap=True)
            time.sleep(min(poll_seconds, left_seconds))
            poll_seconds = min(poll_seconds * 1.5, _LAST_POLL_SECONDS)


def _fate(row: DeliveryRow, names: Mapping[int, str]) -> str:
    who = names.get(row.notification_handler_id, f"handler {row.notification_handler_id}")
    attempts = f"{row.attempt_count} attempt{'' if row.attempt_count == 1 else 's'}"
    error = "" if row.status == "delivered" or not row.last_error else f": {row.last_error}"
    return show.one_line(f"{row.status:<9}  {who} (delivery {row.id}, {attempts}){error}")
