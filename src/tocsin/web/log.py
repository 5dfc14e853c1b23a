"""The delivery log: what was sent, what the provider said, what happens next."""

import contextlib
import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, tzinfo
from urllib.parse import urlencode

import msgspec
from msgspec import Struct
from starlette.responses import Response, StreamingResponse

from tocsin import zones
from tocsin.flow.history.deliveries import MAX_RETRIED
from tocsin.flow.words import sentence
from tocsin.model import MASK, Delivery, Fault, Invalid, Missing, Reason, Severity, Status
from tocsin.ports.handlers import HandlerFilter
from tocsin.ports.history import DeliveryFilter, Labels
from tocsin.web.language import N_, Translate, translations
from tocsin.web.render import SEVERITY_WORDS, STATUS_WORDS
from tocsin.web.sheets import rows_of
from tocsin.web.visit import Visit

ROWS = 50
MAX_TO_CHOOSE = 100  # handlers
MAX_EXPORTED = 10_000
EXPORTED_AT_ONCE = 1000
MAX_FAN_OUT = 1000
# The query string's names for the fields of a DeliveryFilter, in their order; "": it has none.
_FIELDS = ("", "handler", "status", "from", "to", "search", "reason", "severity", "")
_REASONS = [(one.value, sentence(one)) for one in Reason if one not in (Reason.OK, Reason.PLAIN, Reason.MOVED)]
_TITLES = {
    "handler": N_("Handler"),
    "status": N_("State"),
    "severity": N_("Severity"),
    "reason": N_("Reason"),
    "from": N_("From"),
    "to": N_("To"),
    "search": N_("Text"),
}


class Filters(Struct, frozen=True):
    """The log's query string: `given` as it came, `which` as the store reads it."""

    which: DeliveryFilter
    given: Mapping[str, str]

    @property
    def is_whole(self) -> bool:
        """There is a filter, and every given one could be read: only then may deliveries be sent again by it."""
        read = {name for name, value in zip(_FIELDS, msgspec.structs.astuple(self.which), strict=True) if name and value not in (None, "")}
        return bool(read) and read == set(self.given)

    @property
    def query(self) -> str:
        return urlencode(self.given)


def _filters(visit: Visit) -> Filters:
    """Values that cannot be read are left out of `which`."""
    query = visit.request.query_params
    given = {name: query[name].strip() for name in _FIELDS if name and query.get(name)}
    which = DeliveryFilter(
        notification_handler_id=int(handler) if re.fullmatch(r"[0-9]{1,15}", handler := given.get("handler", "")) else None,
        status=Status[word] if (word := given.get("status", "").upper()) in Status.__members__ else None,
        reason=Reason(word) if (word := given.get("reason", "")) in {*Reason} else None,
        severity=Severity(word) if (word := given.get("severity", "")) in {*Severity} else None,
        datetime_start=start.first if (start := _read(given.get("from", ""), visit)) else None,
        datetime_end=end.last if (end := _read(given.get("to", ""), visit)) else None,
        search=given.get("search", "")[:200],
    )
    return Filters(which, given)


def _read(text: str, visit: Visit) -> zones.Reading | None:
    """The value of a browser's date and time field, in the reader's zone; None: it cannot be read."""
    try:
        return zones.read(text, visit.zone)
    except ValueError:
        return None


async def to_page(visit: Visit) -> Response:
    """From what is left of the address of a delivery or notification that somebody has cut short."""
    return visit.go("/log")


async def page(visit: Visit) -> Response:
    filters = _filters(visit)
    given = visit.request.query_params.get("before", "")
    before = int(given) if re.fullmatch(r"[0-9]{1,18}", given) else None
    which = msgspec.structs.replace(filters.which, before=before)
    found = await visit.service.deliveries.page(visit.who.id, which, 1, ROWS)
    labels = await visit.service.deliveries.labels(visit.who.id, found.rows)
    return visit.page(
        "_rows.html" if visit.is_fragment else "log.html",
        handlers=() if visit.is_fragment else await _choice(visit, which.notification_handler_id),
        rows=found.rows,
        labels=labels,
        filters=filters,
        before=before,
        total=found.total,
        is_exact=found.exact,
        has_older=len(found.rows) < found.total,
        reasons=_REASONS,
        is_compact=False,
    )


async def _choice(visit: Visit, chosen: int | None) -> list[tuple[int, str]]:
    """Handlers to choose from, including a deleted one that is chosen already; none if there are too many."""
    rows, total = await visit.service.handlers.page(visit.who.id, HandlerFilter(order_by="name"), 1, MAX_TO_CHOOSE)
    found = [(row.id, row.name) for row in rows]
    if total > MAX_TO_CHOOSE:
        return []
    return found if chosen is None or chosen in dict(found) else [*found, (chosen, str(chosen))]


# -------------------------------------------------------------------------------------------------------- one delivery


async def delivery(visit: Visit) -> Response:
    service, user = visit.service, visit.who.id
    row, attempts, events = await service.deliveries.get(user, visit.path["id"])
    notification, counts = await service.deliveries.notification(user, row.notification_id)
    labels = await service.deliveries.labels(user, [row])
    handler = None
    with contextlib.suppress(Missing):  # it was deleted
        handler = await service.handlers.get(user, row.handler_id)
    try:
        preview = await service.previews.of(user, row.handler_id, notification.message)
    except Missing:  # the handler was deleted: the request cannot be rendered again
        preview = None
    part = visit.request.query_params.get("part", "")
    template = {"inner": "_delivery_inner.html", "page": "_delivery_inner.html"}.get(part, "_delivery.html")
    return visit.page(
        template if visit.is_fragment else "delivery.html",
        in_drawer=visit.is_fragment and part != "page",
        row=row,
        handler=handler,
        waiting=counts[Status.PENDING],
        attempts=attempts,
        events=events,
        notification=notification,
        labels=labels,
        preview=preview,
        curl=as_curl(preview.parts[0].request) if preview is not None and preview.parts and _is_http(preview.parts[0].request) else "",
    )


def _is_http(request: str) -> bool:
    """Whether it is not a mail: its first line is a method and an address."""
    return bool(re.match(r"[A-Z]+ https?://", request))


def as_curl(request: str) -> str:
    """A shown request as a curl command; whatever is masked becomes `$SECRET`."""
    head, _, body = request.partition("\n\n")
    first, *headers = head.split("\n")
    method, _, url = first.partition(" ")
    lines = [f"curl --request {method}", f"  --url {_quoted(url)}"]
    lines += [f"  --header {_quoted(header)}" for header in headers]
    lines += [f"  --data-binary {_quoted(body)}"] if body else []
    return " \\\n".join(lines)


def _quoted(text: str) -> str:
    """Quoted for a shell: everything literal, except the secrets, which are variables."""
    parts = text.split(MASK)
    return '"$SECRET"'.join("'" + part.replace("'", "'\\''") + "'" if part else "" for part in parts) or "''"


async def retry(visit: Visit) -> Response:
    """Where it is not sent again, the page itself says why: it has arrived, or its handler is not enabled."""
    retried = await visit.service.deliveries.retry(visit.who.id, visit.path["id"])
    return visit.go(f"/deliveries/{visit.path['id']}{'?done=retried' if retried else ''}")


async def cancel_one(visit: Visit) -> Response:
    """One delivery; its notification's others go on."""
    cancelled = await visit.service.deliveries.cancel_one(visit.who.id, visit.path["id"])
    return visit.go(f"/deliveries/{visit.path['id']}?done={'cancelled' if cancelled else 'too_late'}")


async def notification(visit: Visit) -> Response:
    """Its deliveries side by side."""
    found, counts, rows, labels = await visit.service.deliveries.fan_out(visit.who.id, visit.path["id"], MAX_FAN_OUT)
    return visit.page(
        "_notification.html" if visit.is_fragment else "notification.html",
        notification=found,
        counts=counts,
        rows=rows.rows,
        labels=labels,
        total=rows.total,
        is_compact=True,
    )


async def cancel(visit: Visit) -> Response:
    await visit.service.deliveries.cancel(visit.who.id, visit.path["id"])
    return visit.go(f"/notifications/{visit.path['id']}?done=cancelled")


# ------------------------------------------------------------------------------------------------- many of them at once


async def replay_page(visit: Visit) -> Response:
    filters = _filters(visit)
    names = dict(await _choice(visit, filters.which.notification_handler_id))
    count = await visit.service.deliveries.replayable(visit.who.id, filters.which)
    return visit.page(
        "replay.html",
        filters=filters,
        shown=_shown(filters, names, visit.zone, translations(visit.language).gettext),
        count=count,
        left_out=await visit.service.deliveries.undelivered(visit.who.id, filters.which) - count if count < MAX_RETRIED else 0,
    )


def _shown(filters: Filters, names: Mapping[int, str], zone: tzinfo, _: Translate) -> list[tuple[str, str]]:
    """The filters in the reader's words; a value that cannot be read stays as it was given."""
    which = filters.which
    read = {
        "handler": names.get(which.notification_handler_id or 0),
        "status": _(STATUS_WORDS[which.status]) if which.status is not None else None,
        "severity": _(SEVERITY_WORDS[which.severity]) if which.severity is not None else None,
        "reason": _(sentence(which.reason)) if which.reason is not None else None,
        "from": zones.shown(which.datetime_start, zone) if which.datetime_start is not None else None,
        "to": zones.shown(which.datetime_end, zone) if which.datetime_end is not None else None,
    }
    return [(_(_TITLES[name]), read.get(name) or value) for name, value in filters.given.items()]


async def replay(visit: Visit) -> Response:
    filters = _filters(visit)
    if not filters.is_whole:
        raise Invalid(Fault("no_filter", "No filter", "Choose a valid filter, so that not everything is sent again."))
    await visit.service.deliveries.retry(visit.who.id, filters.which)
    return visit.go(f"/log?{filters.query}{'&' if filters.given else ''}done=replayed")


async def export(visit: Visit) -> Response:
    """The newest rows of a filtered log, as CSV or as JSON lines; for programs, so in UTC."""
    form = visit.path["form"]
    if form not in {"csv", "jsonl"}:
        raise Missing
    filters = _filters(visit)
    headers = {"content-disposition": f'attachment; filename="deliveries.{form}"', "cache-control": "no-store"}
    kind = "text/csv; charset=utf-8" if form == "csv" else "application/jsonl"
    return StreamingResponse(_lines(visit, filters.which, form), headers=headers, media_type=kind)


_COLUMNS = (
    "id",
    "notification_id",
    "title",
    "handler_id",
    "handler",
    "type",
    "status",
    "attempts",
    "accepted",
    "last_attempt",
    "last_error",
)


async def _lines(visit: Visit, which: DeliveryFilter, form: str) -> AsyncGenerator[str, None]:
    if form == "csv":
        yield rows_of([_COLUMNS])
    for number in range(1, MAX_EXPORTED // EXPORTED_AT_ONCE + 1):
        found = await visit.service.deliveries.page(visit.who.id, which, number, EXPORTED_AT_ONCE)
        labels = await visit.service.deliveries.labels(visit.who.id, found.rows)
        rows = [_values(row, labels) for row in found.rows]
        yield rows_of(rows) if form == "csv" else "".join(map(_line, rows))
        if len(found.rows) < EXPORTED_AT_ONCE:
            return


def _line(values: Sequence[object]) -> str:
    return json.dumps(dict(zip(_COLUMNS, values, strict=True)), ensure_ascii=False) + "\n"


def _values(row: Delivery, labels: Labels) -> tuple[object, ...]:
    about, handlers = labels
    label = about.get(row.notification_id)
    type_, name = handlers.get(row.handler_id, ("", ""))
    last = zones.shown(row.last_attempt_at, UTC) if row.last_attempt_at else None
    title = label.title or label.text if label else ""
    fixed = (row.status.word, row.attempt_count, zones.shown(row.created_at, UTC), last, row.last_error)
    return (row.id, row.notification_id, title, row.handler_id, name, type_, *fixed)
