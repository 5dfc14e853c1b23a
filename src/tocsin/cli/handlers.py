"""`tocsin handlers`: the handlers of a running service."""

import sys
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from tocsin.cli import show
from tocsin.cli.client import connect
from tocsin.cli.failure import Failure, Usage


class HandlerRow(Struct):
    """A handler as the API has it; its settings are left out on purpose, a full key reads them in the clear."""

    id: int
    type: str
    name: str
    is_enabled: bool
    last_datetime: str | None


class StateRow(Struct):
    """How a handler is doing, as the API has it."""

    id: int
    name: str
    type: str
    state: str
    since: str | None
    detail: str | None
    waiting: int
    next_attempt_datetime: str | None


class TrialRow(Struct):
    """The answer to a test send."""

    status: str
    reason: str
    duration_ms: int
    response: str | None = None
    hint: str | None = None


def list_handlers(*, json: bool = False) -> None:
    """List the handlers and how they are doing, failing ones first.

    Parameters
    ----------
    json
        Print JSON as the API has it: with a key that has every scope it holds the settings in the clear.
    """
    client = connect()
    if json:
        show.as_json(list(client.rows("/api/notification-handlers")))
        return
    rows = msgspec.convert(list(client.rows("/api/handler-states")), list[StateRow])
    if not rows:
        show.note("No handlers yet: `tocsin handlers add TYPE NAME FIELD=VALUE` makes one.")
        return
    show.table(
        ("ID", "TYPE", "NAME", "STATE", "SINCE (UTC)", "WAITING", "NEXT ATTEMPT (UTC)", "DETAIL"),
        (
            (
                str(row.id),
                row.type,
                row.name,
                show.state_text(row.state),
                row.since or "",
                str(row.waiting),
                row.next_attempt_datetime or "",
                row.detail or "",
            )
            for row in rows
        ),
    )


def add(type: str, name: str, /, *settings: str) -> None:
    """Add a handler.

    For example: tocsin handlers add email "Work email" email=hey@example.com

    Parameters
    ----------
    type
        What it is, such as email, slack or ntfy; the reference of the API has all types.
    name
        What it is called.
    settings
        The type's settings as FIELD=VALUE; `FIELD=-` reads the value from standard input, so that no secret shows in the
        list of processes.
    """
    fields = {"name": name, "type": type} | _settings(settings)
    answer = connect().post_form("/api/notification-handlers", fields)
    show.say(f"Added handler {msgspec.convert(answer.data['id'], int)}.")


def test(handler: int, /) -> int:
    """Send a test through a handler now, and say what the provider answered. Exit code 0 only if it was delivered.

    Parameters
    ----------
    handler
        Id of the handler.
    """
    trial = msgspec.convert(connect().post(f"/api/notification-handlers/{handler}/test").data, TrialRow)
    why = "" if trial.reason in {"", "ok"} else f", {trial.reason}"
    show.say(show.one_line(f"{trial.status.capitalize()}{why} ({trial.duration_ms:,} ms)."))
    if trial.status == "delivered":
        return 0
    for line in (trial.response and f"The provider answered: {trial.response}", trial.hint):
        if line:
            show.complain(show.one_line(line))
    return 1


def _settings(pairs: Sequence[str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for pair in pairs:
        field, equals, value = pair.partition("=")
        if not equals or not field:
            raise Usage("Settings read FIELD=VALUE, such as email=hey@example.com.")
        if field in settings or field in {"name", "type"}:
            raise Usage(f"{show.one_line(field)} is given twice.")
        settings[field] = value
    piped = [field for field, value in settings.items() if value == "-"]
    if len(piped) > 1:
        raise Usage("Only one field can be read from standard input.")
    if piped:
        settings[piped[0]] = _standard_input()
    return settings


def _standard_input() -> str:
    if sys.stdin.isatty():
        from getpass import getpass

        return getpass("Value: ")
    try:
        return sys.stdin.buffer.read().decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise Failure("Standard input is not UTF-8 text.") from None
