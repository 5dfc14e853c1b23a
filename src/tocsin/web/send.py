"""Sending from the browser, with a preview for each handler."""

from typing import Any

from msgspec import ValidationError
from starlette.responses import Response

from tocsin import clock
from tocsin.api.bodies import Pairs
from tocsin.api.messages import read_draft
from tocsin.channels.contract import settings_of
from tocsin.channels.registry import CHANNELS
from tocsin.model import Draft, Fault, Handler, Invalid, Missing
from tocsin.ports.handlers import HandlerFilter
from tocsin.web.handlers import target_of
from tocsin.web.visit import Visit

MAX_HANDLERS = 250  # to choose from
MAX_PREVIEWS = 10
MAX_NAMED = 20  # handlers, where it goes to all
_TEXTS = ("title", "message", "format", "severity", "url", "fields")


async def page(visit: Visit) -> Response:
    return await _page(visit, {})


async def _page(
    visit: Visit, given: dict[str, Any], status: int = 200, faults: tuple[Fault, ...] = (), draft: Draft | None = None
) -> Response:
    """The page, with the previews of a draft if there is one."""
    rows, total = await _handlers(visit)
    return visit.page(
        "send.html",
        status=status,
        handlers=[(row, target_of(row)) for row in rows],
        total=total,
        enabled=await _enabled(visit),
        given={**dict.fromkeys((*_TEXTS, "send_at", "expires_at"), ""), "handlers": [], **given},
        previews=await _previews(visit, draft, rows) if draft is not None else (),
        faults=faults,
    )


async def _handlers(visit: Visit) -> tuple[list[Handler], int]:
    return await visit.service.handlers.page(visit.who.id, HandlerFilter(), 1, MAX_HANDLERS)


def _draft(visit: Visit) -> tuple[Draft, list[Fault], dict[str, Any]]:
    """The form as the API reads it: the same names, the same rules."""
    given: dict[str, Any] = {name: visit.text(name).replace("\r\n", "\n") for name in _TEXTS}
    for name in ("send_at", "expires_at"):
        value = visit.text(name)
        given[name] = value
    body = {name: value for name, value in given.items() if value}
    body.update({name: f"{body[name]}Z" for name in ("send_at", "expires_at") if name in body})
    if "fields" in body:
        body["fields"] = _fields(body["fields"])
    given["handlers"] = visit.texts("handlers")
    if given["handlers"]:
        body["handlers"] = given["handlers"]
    draft, faults = read_draft(Pairs(list(body.items())), clock.now())
    return draft, faults, given


def _fields(text: str) -> Pairs:
    """A line each, `name: value`."""
    pairs = [line.partition(":") for line in text.split("\n") if line.strip()]
    return Pairs([(name.strip(), value.strip()) for name, _, value in pairs])


async def send(visit: Visit) -> Response:
    draft, faults, given = _draft(visit)
    if visit.text("do") == "preview":
        return await _page(visit, given, faults=tuple(faults), draft=None if faults else draft)
    if faults:
        return await _page(visit, given, 422, tuple(faults))
    if draft.handlers is None and (enabled := await _enabled(visit)) > 1 and visit.text("all") != str(enabled):
        return await _ask(visit, given, enabled)
    try:
        [made] = await visit.service.accepting.accept(visit.who.id, [draft])
    except Invalid as invalid:
        return await _page(visit, given, 422, invalid.faults)
    return visit.go(f"/notifications/{made}?done=sent")


async def _enabled(visit: Visit) -> int:
    """How many handlers it goes to if none is chosen."""
    _, total = await visit.service.handlers.page(visit.who.id, HandlerFilter(is_enabled=True), 1, 1)
    return total


async def _ask(visit: Visit, given: dict[str, Any], enabled: int) -> Response:
    """No handler was chosen: ask whether all of them are meant."""
    rows, _ = await visit.service.handlers.page(visit.who.id, HandlerFilter(is_enabled=True), 1, MAX_HANDLERS)
    public = sum(_is_public(row) for row in rows)
    shown = [(row, target_of(row)) for row in rows[:MAX_NAMED]]
    return visit.page("send_all.html", given=given, enabled=enabled, shown=shown, public=public)


def _is_public(handler: Handler) -> bool:
    channel = CHANNELS[handler.type]
    try:
        return channel.is_public(settings_of(channel, handler.settings))
    except ValidationError:
        return False


async def preview(visit: Visit) -> Response:
    """The part of the page that changes while somebody types."""
    draft, faults, _ = _draft(visit)
    rows, _ = await _handlers(visit)
    return visit.page("_previews.html", previews=() if faults else await _previews(visit, draft, rows), faults=faults)


async def _previews(visit: Visit, draft: Draft, rows: list[Handler]) -> list[tuple[str, Any]]:
    """What each chosen handler would get, or every one where none was chosen."""
    chosen = [row for row in rows if (row.id in draft.handlers if draft.handlers is not None else row.is_enabled)]
    found: list[tuple[str, Any]] = []
    for row in chosen[:MAX_PREVIEWS]:
        try:
            found.append((row.name, await visit.service.previews.of(visit.who.id, row.id, draft.message)))
        except Missing:
            continue  # deleted a moment ago
    return found
