"""The second factor: setting it up, its recovery codes, and its code when signing in."""

from collections.abc import Sequence
from urllib.parse import quote, urlsplit

import structlog
from markupsafe import Markup
from starlette.responses import Response

from tocsin import observe
from tocsin.clock import SECOND
from tocsin.flow.people.accounts import CodeWanted
from tocsin.flow.people.second_factor import HALFWAY_LASTS, Setup
from tocsin.flow.people.tries import Throttled
from tocsin.model import Fault, Invalid
from tocsin.web import confirm
from tocsin.web.sign_in import back
from tocsin.web.visit import Visit

HALFWAY = "tocsin_halfway"  # the cookie between the password and the code
log = structlog.get_logger(__name__)


# ------------------------------------------------------------------------------------------------------------ signing in


def ask(visit: Visit, wanted: CodeWanted, to: str | None = None) -> Response:
    """To the page that asks for the code, and from there to `to`."""
    visit.set_cookie(HALFWAY, visit.service.second_factors.halfway(wanted), HALFWAY_LASTS // SECOND)
    to = back(visit) if to is None else to
    return visit.go("/sign-in/code" if to == "/" else f"/sign-in/code?to={quote(to)}")


def _halfway(visit: Visit) -> str:
    return visit.cookie(HALFWAY)


async def code_page(visit: Visit) -> Response:
    if not visit.service.second_factors.is_halfway(_halfway(visit)):
        return visit.go("/sign-in")
    return visit.page("sign_in_code.html")


async def enter_code(visit: Visit) -> Response:
    try:
        opened = await visit.service.second_factors.finish(_halfway(visit), visit.text("code"), visit.client)
    except Invalid as invalid:
        return visit.page("sign_in_code.html", status=422, faults=invalid.faults)
    except Throttled as throttled:
        return _throttled(visit, visit.page("sign_in_code.html", status=429, faults=[_TOO_OFTEN]), throttled)
    if opened is None:
        fault = Fault("invalid", "Not signed in", "This code is wrong, or was used before.", "code")
        return visit.page("sign_in_code.html", status=422, faults=[fault])
    visit.set_cookie(HALFWAY, "", 0)
    await visit.renew_session(opened)
    return visit.go(back(visit))


_TOO_OFTEN = Fault("rate_limited", "Too often", "Too many attempts. Wait a moment, then try again.", "code")


def _throttled(visit: Visit, response: Response, throttled: Throttled) -> Response:
    observe.seldom(log.warning, "sign_in.throttled", address=visit.address)
    response.headers["retry-after"] = str(int(throttled.seconds) + 1)
    return response


# --------------------------------------------------------------------------------------------------- on the account page


async def page(visit: Visit) -> Response:
    if await visit.service.second_factors.standing(visit.who.id) is None:
        await confirm.demand(visit)  # or somebody at an open session could lock its user out
    return await _page(visit)


async def _page(visit: Visit, status: int = 200, faults: Sequence[Fault] = (), sealed: str = "", codes: Sequence[str] = ()) -> Response:
    factors = visit.service.second_factors
    standing = await factors.standing(visit.who.id)
    setup = None
    if standing is None:
        host = _host(visit)
        setup = factors.again(visit.who, sealed, host) if sealed else factors.begin(visit.who, host)
    return visit.page(
        "second_factor.html",
        status=status,
        faults=faults,
        standing=standing,
        setup=setup,
        qr=_qr(setup) if setup is not None else "",
        codes=codes,
        is_required=factors.is_required(visit.who),
    )


def _host(visit: Visit) -> str:
    return urlsplit(visit.base).hostname or ""


def _qr(setup: Setup) -> Markup:
    """As SVG with attributes only, since the pages allow no styles of their own."""
    import segno

    svg = segno.make(setup.uri, error="m", micro=False).svg_inline(border=4, dark="#000", light="#fff", svgclass="qr", omitsize=True)
    return Markup(svg)  # noqa: S704  # drawn by the library: nothing of the address is in it as text


async def set_up(visit: Visit) -> Response:
    """The recovery codes are in this answer and nowhere else, so this is not a redirect."""
    await confirm.demand(visit)
    sealed = visit.text("sealed")
    try:
        codes = await visit.service.second_factors.confirm(visit.who, sealed, visit.text("code"), visit.client)
    except Invalid as invalid:
        return await _page(visit, 422, invalid.faults, sealed)
    except Throttled as throttled:
        return _throttled(visit, await _page(visit, 429, [_TOO_OFTEN], sealed), throttled)
    return await _page(visit, codes=codes)


async def renew_codes(visit: Visit) -> Response:
    """See `set_up`."""
    try:
        codes = await visit.service.second_factors.renew_codes(visit.who, visit.text("code"), visit.client)
    except Invalid as invalid:
        return await _page(visit, 422, invalid.faults)
    except Throttled as throttled:
        return _throttled(visit, await _page(visit, 429, [_TOO_OFTEN]), throttled)
    return await _page(visit, codes=codes)


async def turn_off(visit: Visit) -> Response:
    try:
        await visit.service.second_factors.remove(visit.who, visit.text("code"), visit.client)
    except Invalid as invalid:
        return await _page(visit, 422, invalid.faults)
    except Throttled as throttled:
        return _throttled(visit, await _page(visit, 429, [_TOO_OFTEN]), throttled)
    return visit.go("/account/second-factor?done=second_factor_off")


PAGES = (page, set_up, renew_codes, turn_off)
