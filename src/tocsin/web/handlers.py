"""Handlers: the home page, adding and changing one, its own page, and test sends."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import tzinfo
from typing import Any
from urllib.parse import urlencode

from msgspec import Struct, structs
from starlette.responses import Response

from tocsin import clock, zones
from tocsin.channels.contract import AnyChannel, Field, fields_of
from tocsin.channels.registry import CHANNELS
from tocsin.clock import HOUR
from tocsin.flow import pools
from tocsin.flow.delivery.tally import summarize
from tocsin.flow.handlers.register import HandlerDraft, check, shown_settings
from tocsin.flow.handlers.states import STATES
from tocsin.model import REPLAYABLE, Fault, Handler, Invalid, Missing
from tocsin.ports.handlers import HandlerFilter
from tocsin.ports.history import DeliveryFilter
from tocsin.ports.standings import HandlerHour, Overview
from tocsin.readings import EVERY_PORT
from tocsin.web import charts, confirm, language
from tocsin.web.visit import Visit

MAX_SHOWN = 50  # handlers on a page
MAX_SEARCHED = 2000  # handlers whose type and target are searched too; beyond that only names are
MAX_AT_ONCE = 100  # handlers that one click may change or test
RECENT = 10  # deliveries on a handler's page
CHART_DAYS = 7
SORTS = {"state": ("state", False), "name": ("name", False), "last": ("last_datetime", True), "new": ("notification_handler_id", True)}


class Listed(Struct, frozen=True):
    """The query string of the list of handlers, as far as it can be used."""

    search: str
    state: str
    type: str
    sort: str

    @property
    def is_narrow(self) -> bool:
        return bool(self.search or self.state or self.type)

    @property
    def query(self) -> str:
        return urlencode({name: value for name, value in structs.asdict(self).items() if value})

    @property
    def filter(self) -> HandlerFilter:
        order_by, descending = SORTS[self.sort]
        return HandlerFilter(state=self.state or None, type=self.type or None, order_by=order_by, descending=descending)


def _listed(visit: Visit) -> Listed:
    query = visit.request.query_params
    state, type_, sort = query.get("state", ""), query.get("type", ""), query.get("sort", "")
    return Listed(
        query.get("search", "").strip()[:200],
        state if state in STATES else "",
        type_ if type_ in CHANNELS else "",
        sort if sort in SORTS else "state",
    )


async def to_home(visit: Visit) -> Response:
    """From `/handlers`, which people type, or get by cutting the address of a handler short."""
    return visit.go("/")


async def home(visit: Visit) -> Response:
    which, number = _listed(visit), _whole(visit.request.query_params.get("page"))
    rows, total = await _found(visit, which, number)
    since = clock.now() - 23 * HOUR
    hours: dict[int, list[HandlerHour]] = {}
    for hour in await visit.service.handlers.hours([row.id for row in rows], since) if rows else []:
        hours.setdefault(hour.handler_id, []).append(hour)
    states = await visit.service.handlers.states(rows)
    found = await visit.service.handlers.overview(visit.who.id, since)
    return visit.page(
        "handlers.html",
        rows=[(row, target_of(row), hours.get(row.id, []), state) for row, state in zip(rows, states, strict=True)],
        has_any=bool(found.states),
        overview=_day(found, since // HOUR, visit.zone, language.translations(visit.language).gettext),
        number=number,
        pages=-(-total // MAX_SHOWN),
        since_hour=since // HOUR,
        which=which,
        states=STATES,
    )


async def _found(visit: Visit, which: Listed, number: int) -> tuple[list[Handler], int]:
    """One page of the handlers that match by name, type or target."""
    page, user = visit.service.handlers.page, visit.who.id
    if not which.search:
        return await page(user, which.filter, number, MAX_SHOWN)
    rows, total = await page(user, which.filter, 1, MAX_SEARCHED)
    if total > MAX_SEARCHED:
        return await page(user, structs.replace(which.filter, search=which.search), number, MAX_SHOWN)
    fitting = await pools.here().pages.run(user, _fitting, rows, which.search.casefold())
    return fitting[(number - 1) * MAX_SHOWN : number * MAX_SHOWN], len(fitting)


def _fitting(rows: Sequence[Handler], search: str) -> list[Handler]:
    return [
        row for row in rows if any(search in text.casefold() for text in (row.name, CHANNELS[row.type].title, row.type, target_of(row)))
    ]


class Day(Struct, frozen=True):
    """The last 24 hours of all handlers, shown if something is wrong."""

    states: Mapping[str, int]
    delivered: int
    failed: int
    bars: charts.Chart


def _day(found: Overview, since_hour: int, zone: tzinfo, _: Callable[[str], str]) -> Day | None:
    """None: all is well."""
    delivered, failed = (sum(hour[index] for hour in found.hours) for index in (1, 2))
    states = dict.fromkeys(STATES, 0) | found.states
    if not failed and not states["failing"] and not states["switched_off"]:
        return None
    by_hour = {hour: (good, bad) for hour, good, bad in found.hours}
    rows: list[dict[str, Any]] = []
    for hour in range(since_hour, since_hour + 24):
        good, bad = by_hour.get(hour, (0, 0))
        begins = zones.local(hour * HOUR, zone)
        label = f"{begins:%H:%M}"
        tick = label if begins.hour % 3 == 0 else ""
        rows.append({"tick": tick, "title": _titled(f"{label} {zones.offset(begins)}", good, bad, _), "delivered": good, "failed": bad})
    return Day(states, delivered, failed, charts.bars(rows, ("delivered", "failed")))


def _titled(label: str, delivered: int, failed: int, _: Callable[[str], str]) -> str:
    return _("{label}: {delivered} delivered, {failed} failed").format(label=label, delivered=delivered, failed=failed)


async def many(visit: Visit) -> Response:
    """Pause, enable, test or delete the handlers that were chosen; only deleting asks first."""
    chosen = [int(one) for one in visit.texts("ids")[:MAX_AT_ONCE] if one.isdecimal() and len(one) < 16]
    if not chosen:
        raise Invalid(Fault("required", "Nothing chosen", "Choose at least one handler.", ""))
    handlers, user = visit.service.handlers, visit.who.id
    found = [await handlers.get(user, handler_id) for handler_id in dict.fromkeys(chosen)]
    do = visit.text("do")
    if do == "test":
        trials = await asyncio.gather(*(visit.service.trials.saved(user, one.id) for one in found))
        arrived = sum(one.status == "delivered" for one in trials)
        return visit.page("handlers_tested.html", trials=list(zip(found, trials, strict=True)), arrived=arrived)
    if do == "delete":
        if visit.text("sure") != "1":
            waiting = sum(state.waiting for state in await handlers.states(found))
            return visit.page("handlers_delete.html", handlers=found, waiting=waiting)
        for one in found:
            await handlers.delete(user, one.id)
        return visit.go("/?done=many_deleted")
    is_enabled = do == "enable"
    for one in found:
        if one.is_enabled is not is_enabled:
            await handlers.change(user, one.id, HandlerDraft(is_enabled=is_enabled))
    return visit.go(f"/?done={'many_enabled' if is_enabled else 'many_paused'}")


def _whole(text: str | None) -> int:
    return int(text) if text and text.isdecimal() and 0 < len(text) < 7 and int(text) else 1


def target_of(handler: Handler) -> str:
    """Where it leads, for people: never a secret."""
    try:
        channel = CHANNELS[handler.type]
        return channel.target(channel.settings(**handler.settings))
    except (TypeError, ValueError, KeyError):
        return ""  # the handler's page says if the stored settings do not fit


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
    """Stored secrets are shown masked and locked. What somebody has just typed comes back as it was, secrets too: nobody else gets this
    answer, no cache keeps it, and otherwise they would have to type everything again after each test and each typo.
    """
    fields = fields_of(channel.settings)
    shown = shown_settings(handler, clear=False) if handler is not None else {}
    for name in fields:
        if values.get(name):
            shown[name] = values[name]
    stored = {name for name, field in fields.items() if _is_locked(field, handler)}
    return visit.page(
        "handler_form.html",
        status=status,
        channel=channel,
        fields=fields,
        handler=handler,
        name=values.get("name", handler.name if handler is not None else ""),
        shown=shown,
        locked={name for name in stored if not values.get(name)},
        is_enabled=visit.request.method == "GET" or visit.text("is_enabled") == "1",
        trial=trial,
        faults=faults,
    )


def _is_locked(field: Field, handler: Handler | None) -> bool:
    """Whether an empty field keeps the stored value. An optional one shows its mask instead, so that it can be cleared."""
    return handler is not None and not handler.is_sealed and field.hide is not None and not field.is_optional


def _given(visit: Visit, channel: AnyChannel, handler: Handler | None) -> dict[str, str]:
    """The form's fields. A stored secret stays if its field was left empty."""
    given = {"name": " ".join(visit.text("name").split()), "type": channel.type}
    for name, field in fields_of(channel.settings).items():
        value = visit.text(name).strip()
        if value or not _is_locked(field, handler):
            given[name] = value
    return given


async def add_page(visit: Visit) -> Response:
    return _form(visit, _channel(visit), None, {})


async def add(visit: Visit) -> Response:
    channel = _channel(visit)
    given = _given(visit, channel, None)
    draft, faults = check(given, visit.text("is_enabled") == "1", None, visit.service.settings.allow_ports)
    if faults:
        return _form(visit, channel, None, given, faults, status=422)
    if visit.text("do") == "test":
        return _form(visit, channel, None, given, trial=await visit.service.trials.draft(visit.who.id, draft))
    try:
        made = await visit.service.handlers.create(visit.who.id, draft)
    except Invalid as invalid:
        return _form(visit, channel, None, given, invalid.faults, status=422)
    [state] = await visit.service.handlers.states([await visit.service.handlers.get(visit.who.id, made)])
    is_asked = state.word == "unconfirmed" and visit.service.consenting.can_ask
    return visit.go(f"/handlers/{made}?done={'asked' if is_asked else 'added'}")


async def edit_page(visit: Visit) -> Response:
    handler = await _handler(visit)
    return _form(visit, CHANNELS[handler.type], handler, {})


async def edit(visit: Visit) -> Response:
    handler = await _handler(visit)
    channel = CHANNELS[handler.type]
    given = _given(visit, channel, handler)
    draft, faults = check(given, None, handler, visit.service.settings.allow_ports)
    if faults:
        return _form(visit, channel, handler, given, faults, status=422)
    if visit.text("do") == "test":
        whole, _ = check({**given, **handler.settings, **(draft.settings or {})}, None, None, EVERY_PORT)
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
    about, _ = await service.deliveries.labels(user, recent.rows)
    [state] = await service.handlers.states([handler])
    now_hour = clock.now() // HOUR
    by_hour = {hour.hour: hour for hour in facts.hours}
    chart: list[dict[str, Any]] = []
    words = language.translations(visit.language).gettext
    for first in range(now_hour - CHART_DAYS * 24 + 1, now_hour + 1, 3):
        some = [by_hour[hour] for hour in range(first, first + 3) if hour in by_hour]
        summary = summarize(some)
        begins = zones.local(first * HOUR, visit.zone)
        is_new_day = begins.date() != zones.local((first - 3) * HOUR, visit.zone).date()
        chart.append(
            {
                "label": (label := f"{begins:%m-%d %H:%M} {zones.offset(begins)}"),
                "tick": label[:5] if is_new_day else "",  # at the beginning of a day
                "title": _titled(label, summary.delivered, summary.failed + summary.expired, words),
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
        undelivered=sum(facts.counts.get(one, 0) for one in REPLAYABLE),
        week=summarize([hour for hour in facts.hours if hour.hour > now_hour - CHART_DAYS * 24]),
        chart_rows=chart,
        bars=charts.bars(chart, ("delivered", "failed")),
        recent=recent.rows,
        about=about,
        state=state,
        can_ask=visit.service.consenting.can_ask,
        trial=trial,
    )


async def test(visit: Visit) -> Response:
    trial = await visit.service.trials.saved(visit.who.id, visit.path["id"])
    if visit.is_fragment:
        return visit.page("_trial.html", trial=trial)
    return await _one(visit, trial)


async def switch(visit: Visit) -> Response:
    handler = await _handler(visit)
    draft, _ = check({}, visit.text("enabled") == "1", handler, EVERY_PORT)
    await visit.service.handlers.change(visit.who.id, handler.id, draft)
    return visit.go(f"/handlers/{handler.id}?done={'enabled' if draft.is_enabled else 'paused'}")


async def secret_page(visit: Visit) -> Response:
    await confirm.demand(visit)
    handler = await _handler(visit)
    return visit.page("handler_secret.html", handler=handler, secret=await visit.service.handlers.secret(visit.who.id, handler.id))


async def rotate_secret(visit: Visit) -> Response:
    await confirm.demand(visit)
    await visit.service.handlers.rotate_secret(visit.who.id, visit.path["id"])
    return visit.go(f"/handlers/{visit.path['id']}/secret?done=rotated")


async def delete_page(visit: Visit) -> Response:
    handler, facts = await visit.service.handlers.stats(visit.who.id, visit.path["id"])
    return visit.page("handler_delete.html", handler=handler, facts=facts)


async def delete(visit: Visit) -> Response:
    await visit.service.handlers.delete(visit.who.id, visit.path["id"])
    return visit.go("/?done=deleted")
