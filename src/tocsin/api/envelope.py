"""Answers out: data, meta and links, in the contract's key order."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from msgspec import UNSET, Struct, UnsetType, json

from tocsin.api.endpoint import Call
from tocsin.api.errors import Answer

NOTHING = Answer(200, b"", ((b"cache-control", b"no-store"),))


class Meta(Struct):
    """Position and size of the page. `total_is_exact` is present, and false, if `total` was counted only to 10,000."""

    page: int
    results_per_page: int
    total: int
    total_pages: int
    total_is_exact: bool | UnsetType = UNSET


class Links(Struct):
    """Addresses of this page and its neighbours; null if there is none."""

    first: str
    last: str
    next: str | None
    prev: str | None
    self: str


class _Data(Struct):
    data: Any


class _Page(Struct):
    data: Sequence[Any]
    meta: Meta
    links: Links


def data(value: object, status: int = 200) -> Answer:
    return Answer(status, json.encode(_Data(value)))


def plain(value: object, status: int = 200) -> Answer:
    """A document of its own, without the envelope."""
    return Answer(status, json.encode(value))


def page(call: Call, rows: Sequence[object], total: int, *, exact: bool = True) -> Answer:
    """A page of a list; `page` and `results_per_page` are among the call's values."""
    number, size = call.values["page"], call.values["results_per_page"]
    pages = -(-total // size)
    meta = Meta(number, size, total, pages, UNSET if exact else False)
    is_more = number < pages or (not exact and len(rows) == size)
    return Answer(200, json.encode(_Page(rows, meta, _links(call, number, max(pages, 1), is_more=is_more))))


def _links(call: Call, number: int, last: int, *, is_more: bool) -> Links:
    others = urlencode([pair for pair in call.pairs if pair[0] != "page"])
    start = f"{call.base}{call.path}?{others}&page="
    before = min(number - 1, last)
    return Links(
        first=f"{start}1",
        last=f"{start}{last}",
        next=f"{start}{number + 1}" if is_more else None,
        prev=f"{start}{before}" if before else None,
        self=f"{start}{number}",
    )
