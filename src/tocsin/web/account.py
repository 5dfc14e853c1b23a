"""Signing in and out, the account, and API keys."""

from urllib.parse import quote

import structlog
from starlette.requests import Request
from starlette.responses import Response

from tocsin import observe
from tocsin.flow.people.accounts import Throttled
from tocsin.model import Busy, Fault, Invalid, Missing
from tocsin.web.visit import Visit

log = structlog.get_logger(__name__)


def sign_in_path(request: Request) -> str:
    """The sign-in page, which leads back to the requested page."""
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return "/sign-in" if wanted == "/" or request.method != "GET" else f"/sign-in?to={quote(wanted)}"


def back(visit: Visit) -> str:
    """Where somebody wanted to go: only paths of ours."""
    wanted = visit.request.query_params.get("to", "/")
    return wanted if wanted.startswith("/") and not wanted.startswith(("//", "/\\")) and wanted.isprintable() else "/"


async def sign_in_page(visit: Visit) -> Response:
    return visit.go("/") if visit.visitor else visit.page("sign_in.html", email="")


async def sign_in(visit: Visit) -> Response:
    email = visit.text("email")
    try:
        token = await visit.service.accounts.sign_in(email, visit.text("password"), visit.counted_as)
    except Throttled as throttled:
        return _too_often(visit, throttled, "sign_in.html", email=email)
    except Busy as busy:
        return _too_many(visit, busy, "sign_in.html", email=email)
    if token is None:
        log.warning("sign_in.failed", address=visit.address)
        fault = Fault("invalid", "Not signed in", "Wrong e-mail address or password.", "email")
        return visit.page("sign_in.html", status=422, email=email, faults=[fault])
    await visit.renew_session(token)
    return visit.go(back(visit))


async def asked_again(visit: Visit) -> Response:
    """The form was open for too long, or another tab has signed in or out: a new form, with the address that was typed."""
    is_link = visit.request.url.path.startswith("/sign-in/")
    if visit.request.url.path != "/sign-in" and not is_link:
        return visit.problem(403)
    if is_link:
        return visit.page("linked.html", status=403, faults=[Fault("invalid", "Not signed in", "This form was too old.", "email")])
    if visit.visitor is not None:
        return visit.go(back(visit))
    fault = Fault("invalid", "Not signed in", "This form was too old. Enter the password again.", "email")
    return visit.page("sign_in.html", status=403, email=visit.text("email"), faults=[fault])


def _too_often(visit: Visit, throttled: Throttled, template: str, **values: object) -> Response:
    observe.seldom(log.warning, "sign_in.throttled", address=visit.address)
    fault = Fault("rate_limited", "Too often", "Too many attempts. Wait a moment, then try again.", "email")
    return _later(visit, 429, fault, int(throttled.seconds) + 1, template, **values)


def _too_many(visit: Visit, busy: Busy, template: str, **values: object) -> Response:
    fault = Fault("busy", "Busy", "Many people are signing in at this moment. Wait a moment, then try again.", "email")
    return _later(visit, 503, fault, busy.retry_after, template, **values)


def _later(visit: Visit, status: int, fault: Fault, seconds: int, template: str, **values: object) -> Response:
    response = visit.page(template, status=status, faults=[fault], **values)
    response.headers["retry-after"] = str(seconds)
    return response


async def linked_page(visit: Visit) -> Response:
    """A link is used up by a click on its button, not by opening it."""
    return visit.page("linked.html")


async def linked(visit: Visit) -> Response:
    try:
        token = await visit.service.accounts.sign_in_by_link(visit.path["token"], visit.counted_as)
    except Throttled as throttled:
        return _too_often(visit, throttled, "linked.html")
    if token is None:
        log.warning("sign_in.failed", address=visit.address, by="link")
        fault = Fault("invalid", "Not signed in", "This link has been used or has expired. Ask for a new one.", "email")
        return visit.page("linked.html", status=422, faults=[fault])
    await visit.renew_session(token)
    visitor = await visit.service.accounts.visitor(token)
    has_password = visitor is not None and await visit.service.accounts.has_password(visitor)
    return visit.go("/" if has_password else "/account?done=invited")


async def sign_out(visit: Visit) -> Response:
    await visit.end_session()
    return visit.go("/sign-in")


async def page(visit: Visit) -> Response:
    return visit.page("account.html", has_password=await visit.service.accounts.has_password(visit.who))


async def change_password(visit: Visit) -> Response:
    accounts = visit.service.accounts
    try:
        token = await accounts.change_password(visit.who, visit.text("old"), visit.text("new"), visit.counted_as)
    except Invalid as invalid:
        has_password = await accounts.has_password(visit.who)
        return visit.page("account.html", status=422, has_password=has_password, faults=invalid.faults)
    except Throttled as throttled:
        return _too_often(visit, throttled, "account.html", has_password=True)
    except Busy as busy:
        return _too_many(visit, busy, "account.html", has_password=True)
    await visit.renew_session(token)
    return visit.go("/account?done=password")


async def set_time_zone(visit: Visit) -> Response:
    name = visit.text("time_zone")
    try:
        await visit.service.accounts.set_time_zone(visit.who.id, name)
    except Invalid as invalid:
        has_password = await visit.service.accounts.has_password(visit.who)
        return visit.page("account.html", status=422, has_password=has_password, time_zone=name, faults=invalid.faults)
    return visit.go("/account?done=time_zone")


async def sign_out_everywhere(visit: Visit) -> Response:
    await visit.service.accounts.sign_out_everywhere(visit.who.id)
    await visit.end_session()
    return visit.go("/sign-in")


# ----------------------------------------------------------------------------------------------------------------- keys


async def keys_page(visit: Visit) -> Response:
    return await _keys(visit)


async def _keys(visit: Visit, status: int = 200, new_key: str = "", faults: tuple[Fault, ...] = ()) -> Response:
    keys = sorted(await visit.service.accounts.keys(visit.who.id), key=lambda key: (key.revoked_at is not None, -key.id))
    return visit.page("keys.html", status=status, keys=keys, new_key=new_key, faults=faults)


async def add_key(visit: Visit) -> Response:
    """The key is in this answer and nowhere else, so this is not a redirect."""
    try:
        key = await visit.service.accounts.add_key(visit.who.id, visit.text("name"), tuple(visit.texts("scopes")))
    except Invalid as invalid:
        return await _keys(visit, 422, faults=invalid.faults)
    if visit.text("for") == "docs":
        return visit.page("_docs_key.html", new_key=key)
    return await _keys(visit, new_key=key)


async def revoke_page(visit: Visit) -> Response:
    """Revoke asks first, since whatever uses the key stops working at once."""
    keys = await visit.service.accounts.keys(visit.who.id)
    key = next((one for one in keys if one.id == visit.path["id"] and one.revoked_at is None), None)
    if key is None:
        raise Missing
    return visit.page("key_revoke.html", key=key)


async def revoke_key(visit: Visit) -> Response:
    await visit.service.accounts.revoke_key(visit.who.id, visit.path["id"])
    return visit.go("/keys?done=revoked")
