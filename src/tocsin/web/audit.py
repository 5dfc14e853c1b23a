"""The audit log: all of it for administrators, their own part of it for everybody."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from functools import partial
from typing import TypeAlias, get_args
from urllib.parse import urlencode

from msgspec.structs import replace
from starlette.responses import Response, StreamingResponse

from tocsin import zones
from tocsin.acting import Via
from tocsin.flow.history.audit import line_of
from tocsin.ports.audit import Act, AuditFilter, Entry
from tocsin.web.audit_words import ACT_WORDS
from tocsin.web.visit import Visit

ROWS = 50
MAX_EXPORTED, EXPORTED_AT_ONCE = 100_000, 1000
_FIELDS = ("act", "via", "user", "address", "from", "to")
_MAX_TYPED = 320
Read: TypeAlias = Callable[[AuditFilter, int], Awaitable[list[Entry]]]


def _own(visit: Visit) -> Read:
    return partial(visit.service.audit.own_page, visit.who.id)


async def page(visit: Visit) -> Response:
    return await _page(visit, visit.service.audit.page, "/audit")


async def own_page(visit: Visit) -> Response:
    return await _page(visit, _own(visit), "/account/audit")


async def _page(visit: Visit, read: Read, path: str) -> Response:
    given = _given(visit)
    before = visit.request.query_params.get("before", "")
    before = before if before.isascii() and before.isdigit() and len(before) <= 18 else ""  # what a column holds
    which = replace(_filter(visit, given), before=int(before) if before else None)
    found = await read(which, ROWS + 1)
    return visit.page(
        "audit.html",
        base=path,
        is_own=path != "/audit",
        rows=found[:ROWS],
        has_older=len(found) > ROWS,
        before=before,
        given=given,
        days=visit.service.settings.audit_days,
        query=urlencode(given),
        acts=list(ACT_WORDS),
        ways=get_args(Via),
    )


def _given(visit: Visit) -> dict[str, str]:
    query = visit.request.query_params
    return {name: query[name].strip()[:_MAX_TYPED] for name in _FIELDS if query.get(name)}


def _filter(visit: Visit, given: Mapping[str, str]) -> AuditFilter:
    """Values that cannot be read are left out."""
    start, end = _read(given.get("from", ""), visit), _read(given.get("to", ""), visit)
    act, via = given.get("act", ""), given.get("via", "")
    return AuditFilter(
        act=act if act in {*Act} else "",
        via=via if via in get_args(Via) else "",
        user=given.get("user", ""),
        address=given.get("address", ""),
        start=None if start is None else start.first,
        end=None if end is None else end.last,
    )


def _read(text: str, visit: Visit) -> zones.Reading | None:
    try:
        return zones.read(text, visit.zone)
    except ValueError:
        return None


async def export(visit: Visit) -> Response:
    return _export(visit, visit.service.audit.page)


async def own_export(visit: Visit) -> Response:
    return _export(visit, _own(visit))


def _export(visit: Visit, read: Read) -> Response:
    """The newest entries as JSON lines; for programs, so in UTC."""
    headers = {"content-disposition": 'attachment; filename="audit.jsonl"', "cache-control": "no-store"}
    return StreamingResponse(_lines(read, _filter(visit, _given(visit))), headers=headers, media_type="application/jsonl")


async def _lines(read: Read, which: AuditFilter) -> AsyncGenerator[str, None]:
    for _ in range(MAX_EXPORTED // EXPORTED_AT_ONCE):
        found = await read(which, EXPORTED_AT_ONCE)
        yield "".join(map(line_of, found))
        if len(found) < EXPORTED_AT_ONCE:
            return
        which = replace(which, before=found[-1].id)
