"""Signing in at an OpenID provider, or as whom a proxy in front names."""

from starlette.responses import Response

from tocsin.clock import SECOND
from tocsin.flow.people.accounts import CodeWanted
from tocsin.flow.people.single_sign_on import AWAY_LASTS
from tocsin.model import Invalid, Missing
from tocsin.ports.audit import Act
from tocsin.ports.people import By
from tocsin.web import second_factor, sign_in
from tocsin.web.visit import Visit

AWAY = "tocsin_away"  # the cookie while somebody is at the provider
CALLBACK = "/sign-in/openid/callback"
SIGNED_OUT = "signed_out"


async def _begin(visit: Visit, user: int, by: By, to: str) -> Response:
    try:
        opened = await visit.service.accounts.begin(user, by, visit.client)
    except CodeWanted as wanted:
        return second_factor.ask(visit, wanted, to)
    await visit.renew_session(opened)
    return visit.go(to)


async def _refused(visit: Visit, invalid: Invalid, by: By) -> Response:
    client = visit.client
    await visit.service.failures.note(Act.SIGN_IN_FAILED, client.address, client.counted_as, by=by)
    status = invalid.faults[0].status
    return visit.page("sign_on_refused.html", status=status, faults=invalid.faults, by_header=by == "header")


# ------------------------------------------------------------------------------------------------- at the OpenID provider


async def leave(visit: Visit) -> Response:
    """A link and no form: the pages' policy lets forms lead nowhere else, not even by a redirect."""
    _see_that_there_is_one(visit)
    again = visit.visitor.id if visit.visitor is not None and visit.request.query_params.get("again") == "1" else None
    try:
        away = await visit.service.single_sign_on.leave(f"{visit.base}{CALLBACK}", sign_in.back(visit), again)
    except Invalid as invalid:
        return await _refused(visit, invalid, "openid")
    visit.set_cookie(AWAY, away.kept, AWAY_LASTS // SECOND)
    return visit.leave_for(away.url)


async def come_back(visit: Visit) -> Response:
    _see_that_there_is_one(visit)
    kept = visit.cookie(AWAY)
    visit.set_cookie(AWAY, "", 0)
    try:
        back = await visit.service.single_sign_on.come_back(visit.request.query_params, kept)
    except Invalid as invalid:
        return await _refused(visit, invalid, "openid")
    if not back.again:
        return await _begin(visit, back.user, "openid", back.to)
    if visit.visitor is not None and visit.visitor.id == back.user:
        await visit.service.confirming.note(visit.visitor)
    return visit.go(back.to)


async def way_out(visit: Visit) -> Response:
    """Offered after signing out here."""
    _see_that_there_is_one(visit)
    url = await visit.service.single_sign_on.way_out(f"{visit.base}/sign-in")
    return visit.go("/sign-in") if url is None else visit.leave_for(url)


def _see_that_there_is_one(visit: Visit) -> None:
    if not visit.service.single_sign_on.name:
        raise Missing


# --------------------------------------------------------------------------------------------------- named by a proxy


async def sign_in_page(visit: Visit) -> Response:
    """Somebody whom a proxy names needs no form; but somebody who has just signed out is not signed in again."""
    named, has_signed_out = visit.remote_user, visit.request.query_params.get("done") == SIGNED_OUT
    if named is None or has_signed_out or visit.visitor is not None or visit.request.method != "GET":
        return await sign_in.sign_in_page(visit)
    try:
        user = await visit.service.single_sign_on.arrive_by_header(named)
    except Invalid as invalid:
        return await _refused(visit, invalid, "header")
    return await _begin(visit, user, "header", sign_in.back(visit))


async def sign_out(visit: Visit) -> Response:
    """Here only: after it a page offers to sign out elsewhere, too."""
    by = visit.who.by
    response = await sign_in.sign_out(visit)
    return visit.go(f"/sign-in?done={SIGNED_OUT}") if by in {"openid", "header"} else response
