"""`tocsin preview`: how a running service would send a notification; nothing is sent."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from msgspec import Struct

from tocsin.cli import show
from tocsin.cli.client import Client, connect
from tocsin.cli.failure import Failure
from tocsin.cli.handlers import HandlerRow
from tocsin.cli.numbers import Id
from tocsin.cli.send import content_of


class SizeRow(Struct):
    what: str
    size: int
    limit: int | None
    unit: str


class PartRow(Struct):
    request: str
    sizes: list[SizeRow]


class PreviewRow(Struct):
    """The answer to a preview."""

    type: str
    parts: list[PartRow]
    changes: list[str]


def preview(
    message: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    title: str | None = None,
    severity: Literal["info", "success", "warning", "critical"] | None = None,
    url: str | None = None,
    field: list[str] | None = None,
    handler: list[Id] | None = None,
    text: Annotated[bool, Parameter(negative=())] = False,
    json: bool = False,
) -> None:
    """Show how a notification would be sent: the native requests, their sizes against the provider's limits, and what is changed.

    Parameters
    ----------
    message
        The message, in Markdown; `-` reads it from standard input.
    title
        Title, plain text.
    severity
        Severity; the default is info.
    url
        Link that belongs to it.
    field
        A fact as NAME=VALUE; may be repeated.
    handler
        Id of a handler to show it for; may be repeated. The default is every enabled handler.
    text
        The message is plain text, not Markdown: every character is shown as it was sent.
    json
        Print JSON as the API has it: for one --handler an object, otherwise a list, with the id of the handler in each.
    """
    content = content_of(message, field, title=title, severity=severity, url=url, format="text" if text else None)
    client, named = connect(), list(dict.fromkeys(handler or ()))
    raw: list[Any] = []
    for row in _chosen(client, named):
        answer = client.post(f"/api/notification-handlers/{row.id}/preview", PreviewRow, content)
        if json:
            raw.append(answer.raw if len(named) == 1 else {"notification_handler_id": row.id} | answer.raw)
        else:
            _show(row, answer.data)
    if json:
        show.as_json(raw[0] if len(named) == 1 else raw)


def _chosen(client: Client, named: list[int]) -> Iterator[HandlerRow]:
    for one in named:
        yield client.get(f"/api/notification-handlers/{one}", HandlerRow).data
    if named:
        return
    rows = [one.data for one in client.rows("/api/notification-handlers", HandlerRow, [("is_enabled", "true")])]
    if not rows:
        raise Failure("There is no enabled handler to show it for.")
    yield from rows


def _show(row: HandlerRow, found: PreviewRow) -> None:
    for index, part in enumerate(found.parts, 1):
        of = f", part {index} of {len(found.parts)}" if len(found.parts) > 1 else ""
        show.say(show.one_line(f"{row.name} (handler {row.id}, {row.type}{of})"))
        for size in part.sizes:
            of = f" of {size.limit:,}" if size.limit is not None else ""
            show.say(show.one_line(f"{size.what}: {size.size:,}{of} {size.unit}"))
        show.lines(f"\n{part.request}\n")
    for change in found.changes:
        show.say(show.one_line(change))
