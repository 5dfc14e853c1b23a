"""Handlers: the home page, adding and changing one, its own page, and test sends."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from tocsin import observe
from tocsin.channels.contract import AnyChannel, Field, fields_of
from tocsin.channels.registry import CHANNELS
from tocsin.flow.handlers import check, shown_settings
from tocsin.flow.tally import HOUR, summarize
from tocsin.model import Fault, Handler, Missing
from tocsin.store import DeliveryFilter, HandlerFilter, HandlerHour
from tocsin.web.render import exact
from tocsin.web.visit import Visit

MOST_SHOWN = 100  # handlers on a page
RECENT = 10  # deliveries on a handler's page
CHART_DAYS = 7


async def home(visit: Visit) -> Response:
    number = _whole(visit.request.query_params.get("page"))
    search = visit.request.query_params.get("search", "")
    rows, total = await visit.service.handlers.page(visit.who.id, HandlerFilter(search=search), number, MOST_SHOWN)
    since = observe.now() - 23 * HOUR
    hours: dict[int, list[HandlerHour]] = {}
    for hour in await visit.service.handlers.hours([row.id for row in rows], since) if rows else []:
        hours.setdefault(hour.handler_id, []).append(hour)
    return visit.page(
        "handlers.html",
        rows=[(row, target_of(row), hours.get(row.id, [])) for row in rows],
        total=total,
        number=number,
        pages=-(-total // MOST_SHOWN),
        since_hour=since // HOUR,
        search=search,
    )


def _whole(text: str | None) -> int:
    return int(text) if text and text.isdecimal() and 0 < len(text) < 7 and int(text) else 1


def target_of(handler: Handler) -> str:
    """Where it leads, for people: never a secret."""
    try:
        channel = CHANNELS[handler.type]
        return channel.target(channel.settings(**handler.settings))
    except (TypeError, ValueError, KeyError):
        return ""  # stored settings that do not fit are told on the handler's page


async def types(visit: Visit) -> Response:
    return visit.page("handler_types.html")


# --------------------------------------------------------------------------------------------------------- the form


def _channel(visit: Visit) -> AnyChannel:
    channel = CHANNELS.get(visit.path["type"])
    if channel is None:
        raise Missing
    return channel


def _form(
    visit: Visit,
    channel: AnyChannel,
    handler: Handler | None,
    values: Mapping[str, str],
    faults: Sequence[Fault] = (),
    trial: Any = None,
    status: int = 200,
) -> Response:
    """Stored secrets are shown masked and locked; what somebody has just typed comes back as they typed it, but for secrets."""
    fields = fields_of(channel.settings)
    shown = shown_settings(handler, clear=False) if handler is not None else {}
    for name in fields:
        if values.get(name):
            shown[name] = values[name]
    stored = {name for name, field in fields.items() if handler is not None and _is_locked(field)}
    return visit.page(
        "handler_form.html",
        status=status,
        channel=channel,
        fields=fields,
        handler=handler,
        name=values.get("name", handler.name if handler is not None else ""),
        shown=shown,
        locked={name for name in stored if not values.get(name)},
        trial=trial,
        faults=faults,
    )


def _is_locked(field: Field) -> bool:
    """Whether an empty field keeps what is stored. An optional one shows its mask, so that it can be cleared."""
    return field.hide is not None and not field.is_optional


def _given(visit: Visit, channel: AnyChannel, handler: Handler | None) -> dict[str, str]:
    """The form's fields. A stored secret whose field was left empty stays."""
    given = {"name": " ".join(visit.text("name").split()), "type": channel.type}
    for name, field in fields_of(channel.settings).items():
        value = visit.text(name).strip()
        if value or handler is None or not _is_locked(field):
            given[name] = value
    return given


async def add_page(visit: Visit) -> Response:
    return _form(visit, _channel(visit), None, {})


async def add(visit: Visit) -> Response:
    channel = _channel(visit)
    given = _given(visit, channel, None)
    draft, faults = check(given, None, None)
    if faults:
        return _form(visit, channel, None, given, faults, status=422)
    if visit.text("do") == "test":
        return _form(visit, channel, None, given, trial=await visit.service.trials.draft(visit.who.id, draft))
    made = await visit.service.handlers.create(visit.who.id, draft)
    return visit.go(f"/handlers/{made}?done=added")


async def edit_page(visit: Visit) -> Response:
    handler = await _handler(visit)
    return _form(visit, CHANNELS[handler.type], handler, {})


async def edit(visit: Visit) -> Response:
    handler = await _handler(visit)
    channel = CHANNELS[handler.type]
    given = _given(visit, channel, handler)
    draft, faults = check(given, None, handler)
    if faults:
        return _form(visit, channel, handler, given, faults, status=422)
    if visit.text("do") == "test":
        whole, _ = check({**given, **handler.settings, **(draft.settings or {})}, None, None)
        return _form(visit, channel, handler, given, trial=await visit.service.trials.draft(visit.who.id, whole))
    await visit.service.handlers.change(visit.who.id, handler.id, draft)
    return visit.go(f"/handlers/{handler.id}?done=changed")


async def _handler(visit: Visit) -> Handler:
    return await visit.service.handlers.get(visit.who.id, visit.path["id"])


# ------------------------------------------------------------------------------------------------- one handler's page


async def one(visit: Visit) -> Response:
    return await _one(visit)


async def _one(visit: Visit, trial: Any = None) -> Response:
    service, user = visit.service, visit.who.id
    handler, facts = await service.handlers.stats(user, visit.path["id"])
    recent = await service.deliveries.page(user, DeliveryFilter(notification_handler_id=handler.id), 1, RECENT)
    now_hour = observe.now() // HOUR
    by_hour = {hour.hour: hour for hour in facts.hours}
    chart: list[dict[str, Any]] = []
    for first in range(now_hour - CHART_DAYS * 24 + 1, now_hour + 1, 3):
        some = [by_hour[hour] for hour in range(first, first + 3) if hour in by_hour]
        summary = summarize(some)
        chart.append(
            {
                "label": exact(first * HOUR)[:16],
                "delivered": summary.delivered,
                "failed": summary.failed + summary.expired,
                "p50": summary.p50,
                "p95": summary.p95,
            }
        )
    return visit.page(
        "handler.html",
        handler=handler,
        channel=CHANNELS[handler.type],
        target=target_of(handler),
        shown=shown_settings(handler, clear=False),
        fields=fields_of(CHANNELS[handler.type].settings),
        facts=facts,
        week=summarize([hour for hour in facts.hours if hour.hour > now_hour - CHART_DAYS * 24]),
        chart=chart,
        recent=recent.rows,
        trial=trial,
    )


async def test(visit: Visit) -> Response:
    trial = await visit.service.trials.saved(visit.who.id, visit.path["id"])
    if visit.is_fragment:
        return visit.page("_trial.html", trial=trial)
    return await _one(visit, trial)


async def switch(visit: Visit) -> Response:
    handler = await _handler(visit)
    draft, _ = check({}, visit.text("enabled") == "1", handler)
    await visit.service.handlers.change(visit.who.id, handler.id, draft)
    return visit.go(f"/handlers/{handler.id}?done={'enabled' if draft.is_enabled else 'paused'}")


async def delete_page(visit: Visit) -> Response:
    handler, facts = await visit.service.handlers.stats(visit.who.id, visit.path["id"])
    return visit.page("handler_delete.html", handler=handler, facts=facts)


async def delete(visit: Visit) -> Response:
    await visit.service.handlers.delete(visit.who.id, visit.path["id"])
    return visit.go("/?done=deleted")
