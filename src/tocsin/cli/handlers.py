"""`tocsin handlers`: the handlers of a running service."""

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

from msgspec import Struct

from tocsin.cli import reading, show
from tocsin.cli.admin import confirm
from tocsin.cli.client import Answer, Client, Made, connect
from tocsin.cli.failure import Failure, Usage
from tocsin.cli.numbers import Id

_STATE = ("state", "since", "reason", "detail", "waiting", "next_attempt_datetime")


class HandlerRow(Struct):
    """A handler as the API has it, without its settings on purpose: a full key reads them in the clear."""

    id: int
    type: str
    name: str
    is_enabled: bool
    last_datetime: str | None


class SettingsRow(HandlerRow):
    """For the names of the settings alone."""

    datetime: datetime
    settings: dict[str, str]


class HealthRow(Struct):
    disabled_reason: str | None
    hint: str | None


class ReasonRow(Struct):
    count: int
    text: str


class StatsRow(Struct):
    """How a handler has done."""

    deliveries: dict[str, int]
    reasons: list[ReasonRow]
    health: HealthRow


class SecretRow(Struct):
    """The secrets that sign a webhook handler's messages."""

    secret: str
    previous: str | None
    previous_until: str | None


class StateRow(Struct):
    """How a handler is doing, as the API has it."""

    id: int
    name: str
    type: str
    state: str
    since: str | None
    reason: str | None
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


def list_handlers(*, state: Literal["ok", "failing", "unconfirmed", "paused", "switched_off"] | None = None, json: bool = False) -> None:
    """List the handlers and how they are doing, failing ones first.

    Parameters
    ----------
    state
        Only those in this state.
    json
        Print JSON as the API has it, oldest first, each with its state: with a key that has every permission, it contains the settings
        in the clear.
    """
    client = connect()
    chosen = [] if state is None else [("state", state)]
    if json:
        found = list(client.rows("/api/notification-handlers", HandlerRow, chosen))
        states = {one.data.id: one.data for one in client.rows("/api/handler-states", StateRow, chosen)}
        show.as_json([one.raw | {name: getattr(states.get(one.data.id), name, None) for name in _STATE} for one in found])
        return
    rows = [one.data for one in client.rows("/api/handler-states", StateRow, chosen)]
    if not rows and state is not None:
        show.note(f"No handlers are {state.replace('_', ' ')}.")
        return
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


def show_handler(handler: Id, /, *, json: bool = False) -> None:
    """Show one handler: its settings, with secrets masked, and how it is doing.

    Parameters
    ----------
    handler
        Id of the handler.
    json
        Print JSON as the API has it, the handler and its statistics: with a key that has every permission, it contains the
        settings in the clear.
    """
    client = connect()
    answer = client.get(f"/api/notification-handlers/{handler}", SettingsRow)
    stats = client.get(f"/api/notification-handlers/{handler}/stats", StatsRow)
    if json:
        show.as_json(answer.raw | {"stats": stats.raw})
        return
    row, found = answer.data, stats.data
    show.say(show.one_line(f"{row.name} (handler {row.id}, {row.type})"))
    _say_state(_state_of(client, row), found.health)
    show.say(show.one_line(f"Settings: {', '.join(row.settings)} (--json shows them)"))
    show.say(f"Last delivery: {f'{row.last_datetime} UTC' if row.last_datetime else 'never'}")
    show.say(f"Deliveries: {', '.join(f'{count:,} {status}' for status, count in found.deliveries.items() if count) or 'none'}")
    for reason in found.reasons:
        show.say(show.one_line(f"Failed {reason.count:,} time{'' if reason.count == 1 else 's'}: {reason.text}"))


def _state_of(client: Client, row: SettingsRow) -> StateRow:
    """Asked for by the second in which the handler was made: the list of states cannot be asked for one of them."""
    second = [("datetime_start", str(row.datetime)), ("datetime_end", str(row.datetime + timedelta(seconds=1)))]
    for one in client.rows("/api/handler-states", StateRow, [("type", row.type), ("datetime_field", "datetime"), *second]):
        if one.data.id == row.id:
            return one.data
    raise Failure(f"There is no handler {row.id}.")


def _say_state(row: StateRow, health: HealthRow) -> None:
    show.say(f"State: {row.state.replace('_', ' ')}{f', since {row.since} UTC' if row.since else ''}")
    why = health.disabled_reason or ": ".join(part for part in (row.reason, row.detail) if part)
    for line in (why and f"Reason: {why}", health.hint):
        if line:
            show.say(show.one_line(line))
    if row.waiting:
        following = f", next attempt {row.next_attempt_datetime} UTC" if row.next_attempt_datetime else ""
        show.say(f"Waiting: {row.waiting:,}{following}")


def add(type: str, name: str, /, *settings: str, json: bool = False) -> None:
    """Add a handler.

    For example: tocsin handlers add email "Work email" email=hey@example.com

    Parameters
    ----------
    type
        Its type, such as email, slack or ntfy; the reference of the API lists them all.
    name
        Its name.
    settings
        The type's settings as FIELD=VALUE; `FIELD=-` reads the value from standard input, so that no secret shows in the
        list of processes.
    json
        Print JSON instead of a sentence.
    """
    fields = {"name": name, "type": type} | _settings(settings, {"name", "type"})
    _tell(connect().post_form("/api/notification-handlers", Made, fields), "Added", json)


def edit(handler: Id, /, *settings: str, name: str | None = None, type: str | None = None, json: bool = False) -> None:
    """Change a handler's name or settings. Everything else stays as it is.

    For example: tocsin handlers edit 4 slack=- --name "Operations"

    Parameters
    ----------
    handler
        Id of the handler.
    settings
        Settings as FIELD=VALUE; `FIELD=-` reads the value from standard input.
    name
        Its new name.
    type
        Its new type, which requires all settings of that type.
    json
        Print JSON instead of a sentence.
    """
    fields = {field: value for field, value in {"name": name, "type": type}.items() if value is not None}
    fields |= _settings(settings, set(fields))
    if not fields:
        raise Usage("Name what changes: --name, --type, or settings as FIELD=VALUE.")
    _tell(_change(connect(), handler, fields), "Changed", json)


def enable(handler: Id, /, *, json: bool = False) -> None:
    """Enable a handler; its failure count starts over.

    Parameters
    ----------
    handler
        Id of the handler.
    json
        Print JSON instead of a sentence.
    """
    _tell(_change(connect(), handler, {"is_enabled": "1"}), "Enabled", json)


def disable(handler: Id, /, *, json: bool = False) -> None:
    """Disable a handler. Deliveries that wait for it end as skipped; they can be retried later.

    Parameters
    ----------
    handler
        Id of the handler.
    json
        Print JSON instead of a sentence.
    """
    _tell(_change(connect(), handler, {"is_enabled": "0"}), "Disabled", json)


def delete(handler: Id, /, *, yes: bool = False, json: bool = False) -> None:
    """Delete a handler. Deliveries that wait for it are cancelled and its secrets are erased; its history stays.

    Parameters
    ----------
    handler
        Id of the handler.
    yes
        Do not ask on a terminal.
    json
        Print JSON instead of a sentence.
    """
    client = connect()
    if not yes:
        row = client.get(f"/api/notification-handlers/{handler}", HandlerRow).data
        confirm(f"Delete {show.one_line(row.name)} (handler {row.id}, {row.type})? Its settings are erased for good.", yes)
    client.delete(f"/api/notification-handlers/{handler}", type(None))
    _tell(Answer({"id": handler}, Made(handler)), "Deleted", json)


def secret(handler: Id, /, *, rotate: bool = False, json: bool = False) -> None:
    """Print the secret that signs a webhook handler's messages.

    Parameters
    ----------
    handler
        Id of the handler.
    rotate
        Make a new secret first. Both sign for 24 hours.
    json
        Print JSON: with the previous secret, and until when it signs.
    """
    client, path = connect(), f"/api/notification-handlers/{handler}/secret"
    answer = client.post(path, SecretRow) if rotate else client.get(path, SecretRow)
    if json:
        show.as_json(answer.raw)
        return
    row = answer.data
    show.say(row.secret)
    if row.previous_until:
        show.note(f"The previous secret signs too until {row.previous_until} UTC.")


def test(handler: Id, /, *, json: bool = False) -> int:
    """Send a test through a handler now, and say what the provider answered. Exit code 0 only if it was delivered.

    Parameters
    ----------
    handler
        Id of the handler.
    json
        Print JSON as the API has it.
    """
    answer = connect().post(f"/api/notification-handlers/{handler}/test", TrialRow)
    trial = answer.data
    if json:
        show.as_json(answer.raw)
        return 0 if trial.status == "delivered" else 1
    why = "" if trial.reason in {"", "ok"} else f", {trial.reason}"
    show.say(show.one_line(f"{trial.status.capitalize()}{why} ({trial.duration_ms:,} ms)."))
    if trial.status == "delivered":
        return 0
    for line in (trial.response and f"The provider answered: {trial.response}", trial.hint):
        if line:
            show.complain(show.one_line(line))
    return 1


def _change(client: Client, handler: int, fields: Mapping[str, str]) -> Answer[Made]:
    return client.post_form(f"/api/notification-handlers/{handler}", Made, fields)


def _tell(answer: Answer[Made], done: str, json: bool) -> None:
    if json:
        show.as_json(answer.raw)
    else:
        show.say(f"{done} handler {answer.data.id}.")


def _settings(pairs: Sequence[str], taken: set[str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for pair in pairs:
        field, equals, value = pair.partition("=")
        if not equals or not field:
            raise Usage("Settings read FIELD=VALUE, such as email=hey@example.com.")
        if field in settings or field in taken:
            raise Usage(f"{show.one_line(field)} is given twice.")
        settings[field] = value
    piped = [field for field, value in settings.items() if value == "-"]
    if len(piped) > 1:
        raise Usage("Only one field can be read from standard input.")
    if piped:
        settings[piped[0]] = _standard_input()
    return settings


def _standard_input() -> str:
    return reading.hidden("Value: ") if sys.stdin.isatty() else reading.standard_input()
