"""Signing in and out."""

from urllib.parse import quote

import structlog
from starlette.requests import Request
from starlette.responses import Response

from tocsin import observe
from tocsin.flow.people.tries import Throttled
from tocsin.model import Busy, Fault
from tocsin.web.visit import Visit

log = structlog.get_logger(__name__)


def sign_in_path(request: Request) -> str:
    """The sign-in page, which leads back to the requested page, or says that a form was not taken."""
    if request.method != "GET":
        return "/sign-in" if request.url.path.endswith("/sign-out") else "/sign-in?done=not_taken"
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return "/sign-in" if wanted == "/" else f"/sign-in?to={quote(wanted)}"


def back(visit: Visit) -> str:
    """Where somebody wanted to go: only paths of ours."""
    wanted = visit.request.query_params.get("to", "/")
    return wanted if wanted.startswith("/") and not wanted.startswith(("//", "/\\")) and wanted.isprintable() else "/"


async def sign_in_page(visit: Visit) -> Response:
    return visit.go("/") if visit.visitor else visit.page("sign_in.html", email="")


async def sign_in(visit: Visit) -> Response:
    email = visit.text("email")
    try:
        opened = await visit.service.accounts.sign_in(email, visit.text("password"), visit.client)
    except Throttled as throttled:
        return too_often(visit, throttled, "sign_in.html", email=email)
    except Busy as busy:
        return too_many(visit, busy, "sign_in.html", email=email)
    if opened is None:
        fault = Fault("invalid", "Not signed in", "Wrong e-mail address or password.", "email")
        return visit.page("sign_in.html", status=422, email=email, faults=[fault])
    await visit.renew_session(opened)
    return visit.go(back(visit))


async def asked_again(visit: Visit) -> Response:
    """The form was open for too long, or another tab has signed in or out: a new form, with the address that was typed."""
    if visit.request.url.path == "/sign-in/code":
        return visit.go("/sign-in/code")
    is_link = visit.request.url.path.startswith("/sign-in/")
    if visit.request.url.path != "/sign-in" and not is_link:
        return visit.problem(403)
    if is_link:
        return visit.page("linked.html", status=403, faults=[Fault("invalid", "Not signed in", "This form was too old.", "email")])
    if visit.visitor is not None:
        return visit.go(back(visit))
    fault = Fault("invalid", "Not signed in", "This form was too old. Enter the password again.", "email")
    return visit.page("sign_in.html", status=403, email=visit.text("email"), faults=[fault])


def too_often(visit: Visit, throttled: Throttled, template: str, **values: object) -> Response:
    observe.seldom(log.warning, "sign_in.throttled", address=visit.address)
    fault = Fault("rate_limited", "Too often", "Too many attempts. Wait a moment, then try again.", "email")
    return _later(visit, 429, fault, int(throttled.seconds) + 1, template, **values)


def too_many(visit: Visit, busy: Busy, template: str, **values: object) -> Response:
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
        opened = await visit.service.accounts.sign_in_by_link(visit.path["token"], visit.client)
    except Throttled as throttled:
        return too_often(visit, throttled, "linked.html")
    if opened is None:
        fault = Fault("invalid", "Not signed in", "This link has been used or has expired. Ask for a new one.", "email")
        return visit.page("linked.html", status=422, faults=[fault])
    await visit.renew_session(opened)
    has_password = visit.visitor is not None and await visit.service.passwords.has_one(visit.visitor)
    return visit.go("/" if has_password else "/account?done=invited")


async def sign_out(visit: Visit) -> Response:
    await visit.end_session()
    return visit.go("/sign-in")
