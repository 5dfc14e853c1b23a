"""What an administrator sees: users, invitations."""

from starlette.responses import Response

from tocsin.flow.words import sentence
from tocsin.model import Fault, Invalid
from tocsin.web import confirm
from tocsin.web.visit import Visit

MAX_TROUBLED = 100  # handlers that are shown


async def page(visit: Visit) -> Response:
    return await _page(visit)


async def _page(
    visit: Visit, status: int = 200, link: str = "", email: str = "", is_admin: bool = False, faults: tuple[Fault, ...] = ()
) -> Response:
    users = await visit.service.administration.users()
    troubled = [
        {
            "email": owner,
            "type": handler.type,
            "name": handler.name,
            "state": state.word,
            "since": state.since,
            "reason": sentence(state.reason) if state.reason is not None else "",
            "waiting": state.waiting,
        }
        for owner, handler, state in await visit.service.handlers.troubled(MAX_TROUBLED)
    ]
    return visit.page("users.html", status=status, users=users, troubled=troubled, link=link, email=email, is_admin=is_admin, faults=faults)


async def invite(visit: Visit) -> Response:
    """The link is in this answer and nowhere else, so this is not a redirect."""
    is_admin = visit.text("is_admin") == "1"
    if is_admin:
        await confirm.demand(visit)
    try:
        email, token = await visit.service.administration.invite(visit.text("email"), is_admin)
    except Invalid as invalid:
        return await _page(visit, 422, email=visit.text("email"), is_admin=is_admin, faults=invalid.faults)
    return await _page(visit, link=f"{visit.base}/sign-in/{token}", email=email, is_admin=is_admin)


async def set_role(visit: Visit) -> Response:
    is_admin = visit.text("is_admin") == "1"
    if is_admin:
        await confirm.demand(visit)
    await visit.service.administration.set_role(visit.who, visit.path["id"], is_admin)
    return visit.go("/users?done=role")


async def disable(visit: Visit) -> Response:
    await visit.service.administration.disable(visit.who, visit.path["id"])
    return visit.go("/users?done=disabled")
