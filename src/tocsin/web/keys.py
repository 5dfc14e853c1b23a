"""API keys."""

from starlette.responses import Response

from tocsin import clock, zones
from tocsin.clock import MINUTE, SECOND, Micros
from tocsin.flow.people.access import SCOPES
from tocsin.model import Fault, Invalid, Missing
from tocsin.web import confirm
from tocsin.web.visit import Visit


async def page(visit: Visit) -> Response:
    return await _keys(visit)


async def _keys(visit: Visit, status: int = 200, new_key: str = "", faults: tuple[Fault, ...] = ()) -> Response:
    now = clock.now()
    keys = sorted(await visit.service.keys.of(visit.who.id), key=lambda key: (not key.is_valid(now), -key.id))
    return visit.page("keys.html", status=status, keys=keys, new_key=new_key, faults=faults)


async def add(visit: Visit) -> Response:
    """The key is in this answer and nowhere else, so this is not a redirect."""
    if set(SCOPES) <= set(visit.texts("scopes")):
        await confirm.demand(visit)  # such a key can do what a session can, and outlives it
    try:
        key = await visit.service.keys.add(visit.who.id, visit.text("name"), tuple(visit.texts("scopes")), _expiry(visit))
    except Invalid as invalid:
        return await _keys(visit, 422, faults=invalid.faults)
    if visit.text("for") == "docs":
        return visit.page("_docs_key.html", new_key=key)
    return await _keys(visit, new_key=key)


def _expiry(visit: Visit) -> Micros | None:
    """The end of the day that was chosen, in the reader's zone. Raises Invalid."""
    if not (day := visit.text("expires").strip()):
        return None
    try:
        return zones.read(f"{day}T23:59", visit.zone).last + MINUTE - SECOND
    except ValueError:
        raise Invalid(Fault("invalid", "Not a usable value", "This is not a day.", "expires")) from None


async def revoke_page(visit: Visit) -> Response:
    """Revoke asks first, since whatever uses the key stops working at once."""
    keys = await visit.service.keys.of(visit.who.id)
    key = next((one for one in keys if one.id == visit.path["id"] and one.revoked_at is None), None)
    if key is None:
        raise Missing
    return visit.page("key_revoke.html", key=key)


async def revoke(visit: Visit) -> Response:
    await visit.service.keys.revoke(visit.who.id, visit.path["id"])
    return visit.go("/keys?done=revoked")
