"""Asking who somebody is before what would outlive their session: `await confirm.demand(visit)` in a page's function, first thing.

Where the answer is not recent, the page's function does not go on: the visitor gets a form instead. Sent from a form, that one carries
along what was typed and goes to the same address; else it leads back to the page that was asked for.
"""

from typing import Any
from urllib.parse import quote, urlsplit

from starlette.responses import Response

from tocsin.flow.people.tries import Throttled
from tocsin.model import Fault
from tocsin.ports.audit import Act
from tocsin.web import sign_in
from tocsin.web.language import N_
from tocsin.web.visit import Visit

FIELD = "confirm_"  # how the names of our own fields begin; the rest is that of a `Way`
PATH = "/confirm"
_WRONG = {
    "password": N_("This is not the current password."),
    "code": N_("This code is wrong, or was used before."),
}


class Asked(Exception):
    """The visitor has to answer first: `response` asks them."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


async def demand(visit: Visit) -> None:
    """Returns if the visitor has proved lately, or proves with this form, who they are. Raises Asked, Busy."""
    confirming = visit.service.confirming
    if confirming.is_recent(visit.who):
        return
    if visit.is_fragment:
        raise Asked(visit.go(f"{PATH}?to={quote(_page_of(visit))}"))
    ways = await confirming.ways(visit.who)
    for way in ways:
        if not (given := visit.text(f"{FIELD}{way}")):
            continue
        try:
            if await confirming.confirm(visit.who, way, given, visit.client):
                return
        except Throttled as throttled:
            raise Asked(sign_in.too_often(visit, throttled, "confirm.html", **_form(visit, ways))) from None
        client = visit.client
        await visit.service.failures.note(Act.NOT_CONFIRMED, client.address, client.counted_as, visit.who.id, by=way)
        fault = Fault("invalid", "Wrong", _WRONG[way], f"{FIELD}{way}")
        raise Asked(visit.page("confirm.html", status=422, faults=[fault], **_form(visit, ways)))
    raise Asked(visit.page("confirm.html", status=403, **_form(visit, ways)))


def _form(visit: Visit, ways: list[str]) -> dict[str, Any]:
    """Where the form leads, and what it carries along."""
    request = visit.request
    if request.method == "POST":
        carried = [(name, one) for name, values in visit.form.items() if name != "csrf" and not name.startswith(FIELD) for one in values]
        action = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return {"ways": ways, "action": action, "carried": carried, "to": _page_of(visit, "referer")}
    return {"ways": ways, "action": f"{PATH}?to={quote(request.url.path)}", "carried": [], "to": request.url.path}


def _page_of(visit: Visit, header: str = "hx-current-url") -> str:
    """The page that a fragment is asked for from, as htmx names it, or that a form was on."""
    path = urlsplit(visit.request.headers.get(header, "")).path
    return path.removeprefix(visit.prefix) or "/"


async def page(visit: Visit) -> Response:
    """Asked for by itself, by a page that has no form to carry along."""
    if visit.service.confirming.is_recent(visit.who):
        return visit.go(sign_in.back(visit))
    action = f"{PATH}?to={quote(sign_in.back(visit))}"
    ways = await visit.service.confirming.ways(visit.who)
    return visit.page("confirm.html", ways=ways, action=action, carried=[], to=sign_in.back(visit))


async def answer(visit: Visit) -> Response:
    await demand(visit)
    return visit.go(sign_in.back(visit))
