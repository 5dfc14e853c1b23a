"""Sending from the browser, with a preview for each handler."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct, ValidationError
from starlette.responses import Response

from tocsin import clock, zones
from tocsin.api import times
from tocsin.api.bodies import Pairs
from tocsin.api.messages import read_draft
from tocsin.channels.contract import settings_of
from tocsin.channels.registry import CHANNELS
from tocsin.model import Draft, Fault, Handler, Invalid, Missing, OverQuota, Sentence
from tocsin.ports.handlers import HandlerFilter
from tocsin.web.handlers import target_of
from tocsin.web.visit import Visit

MAX_HANDLERS = 250  # to choose from
MAX_PREVIEWS = 10
MAX_NAMED = 20  # handlers, where it goes to all
_TEXTS = ("title", "message", "format", "severity", "url", "fields")
_TIMES = ("send_at", "expires_at")
_SKIPPED = "{given} does not exist in {zone}: the clocks go forward. {taken} is used instead."
_TWICE = "{given} occurs twice in {zone}: the clocks go back. The first one, {taken}, is used."


class _Form(Struct):
    """The draft that a form makes, what is wrong with it, its fields as they were `given`, and what is to be said of its times."""

    draft: Draft
    faults: list[Fault]
    given: dict[str, Any]
    notes: list[Sentence]


async def page(visit: Visit) -> Response:
    return await _page(visit, {})


async def _page(
    visit: Visit,
    given: dict[str, Any],
    status: int = 200,
    faults: Sequence[Fault] = (),
    draft: Draft | None = None,
    notes: Sequence[Sentence] = (),
) -> Response:
    """The page, with the previews of a draft if there is one."""
    rows, total = await _handlers(visit)
    return visit.page(
        "send.html",
        status=status,
        handlers=[(row, target_of(row)) for row in rows],
        total=total,
        enabled=await _enabled(visit),
        given={**dict.fromkeys((*_TEXTS, *_TIMES), ""), "handlers": [], **given},
        previews=await _previews(visit, draft, rows) if draft is not None else (),
        notes=notes,
        faults=faults,
    )


async def _handlers(visit: Visit) -> tuple[list[Handler], int]:
    return await visit.service.handlers.page(visit.who.id, HandlerFilter(), 1, MAX_HANDLERS)


def _form(visit: Visit) -> _Form:
    """The form as the API reads it: the same names, the same rules. Times are the reader's."""
    given: dict[str, Any] = {name: visit.text(name).replace("\r\n", "\n") for name in (*_TEXTS, *_TIMES)}
    body = {name: value for name, value in given.items() if value}
    unread: list[Fault] = []
    notes: list[Sentence] = []
    for name in _TIMES:
        if (text := body.pop(name, "")) and (reading := _read(text, visit, name, unread)):
            body[name] = times.show(reading.first)
            notes += _notes(text, reading, visit)
    if "fields" in body:
        body["fields"] = _fields(body["fields"])
    given["handlers"] = visit.texts("handlers")
    if given["handlers"]:
        body["handlers"] = given["handlers"]
    draft, faults = read_draft(Pairs(list(body.items())), clock.now())
    return _Form(draft, [*faults, *unread], given, notes)


def _read(text: str, visit: Visit, name: str, faults: list[Fault]) -> zones.Reading | None:
    try:
        return zones.read(text, visit.zone)
    except ValueError:
        faults.append(Fault("invalid", "Not a usable value", "Enter a date and time such as 2026-11-23 10:00.", name))
        return None


def _notes(text: str, reading: zones.Reading, visit: Visit) -> list[Sentence]:
    """Which moment is meant by a time that clocks there skip or show twice."""
    if not reading.is_skipped and not reading.is_twice:
        return []
    values = {"given": text.replace("T", " "), "zone": str(visit.zone), "taken": zones.shown(reading.first, visit.zone)}
    return [Sentence(_SKIPPED if reading.is_skipped else _TWICE, values)]


def _fields(text: str) -> Pairs:
    """A line each, `name: value`."""
    pairs = [line.partition(":") for line in text.split("\n") if line.strip()]
    return Pairs([(name.strip(), value.strip()) for name, _, value in pairs])


async def send(visit: Visit) -> Response:
    form = _form(visit)
    if visit.text("do") == "preview":
        return await _page(visit, form.given, faults=form.faults, draft=None if form.faults else form.draft, notes=form.notes)
    if form.faults:
        return await _page(visit, form.given, 422, form.faults, notes=form.notes)
    if form.draft.handlers is None and (enabled := await _enabled(visit)) > 1 and visit.text("all") != str(enabled):
        return await _ask(visit, form, enabled)
    try:
        [made] = await visit.service.accepting.accept(visit.who.id, [form.draft])
    except Invalid as invalid:
        return await _page(visit, form.given, 422, invalid.faults, notes=form.notes)
    except OverQuota as over:
        response = await _page(visit, form.given, 429, [over.fault], notes=form.notes)
        response.headers["retry-after"] = str(over.retry_after)
        return response
    send_at = form.draft.send_at
    is_scheduled = send_at is not None and send_at > form.draft.message.at
    return visit.go(f"/notifications/{made}?done={'scheduled' if is_scheduled else 'sent'}")


async def _enabled(visit: Visit) -> int:
    """How many handlers it goes to if none is chosen."""
    _, total = await visit.service.handlers.page(visit.who.id, HandlerFilter(is_enabled=True), 1, 1)
    return total


async def _ask(visit: Visit, form: _Form, enabled: int) -> Response:
    """No handler was chosen: ask whether all of them are meant."""
    rows, _ = await visit.service.handlers.page(visit.who.id, HandlerFilter(is_enabled=True), 1, MAX_HANDLERS)
    public = sum(_is_public(row) for row in rows)
    shown = [(row, target_of(row)) for row in rows[:MAX_NAMED]]
    at = form.draft.send_at
    return visit.page("send_all.html", given=form.given, send_at=at, notes=form.notes, enabled=enabled, shown=shown, public=public)


def _is_public(handler: Handler) -> bool:
    channel = CHANNELS[handler.type]
    try:
        return channel.is_public(settings_of(channel, handler.settings))
    except ValidationError:
        return False


async def preview(visit: Visit) -> Response:
    """The part of the page that changes while somebody types."""
    form = _form(visit)
    rows, _ = await _handlers(visit)
    previews = () if form.faults else await _previews(visit, form.draft, rows)
    return visit.page("_previews.html", previews=previews, notes=form.notes, faults=form.faults)


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
