"""What an administrator sees: users, invitations."""

from starlette.responses import Response

from tocsin.flow.words import sentence
from tocsin.model import Fault, Invalid
from tocsin.web.visit import Visit

MAX_TROUBLED = 100  # handlers that are shown


async def page(visit: Visit) -> Response:
    return await _page(visit)


async def _page(visit: Visit, status: int = 200, link: str = "", email: str = "", faults: tuple[Fault, ...] = ()) -> Response:
    users = await visit.service.accounts.users()
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
    return visit.page("users.html", status=status, users=users, troubled=troubled, link=link, email=email, faults=faults)


async def invite(visit: Visit) -> Response:
    """The link is in this answer and nowhere else, so this is not a redirect."""
    try:
        email, token = await visit.service.accounts.invite(visit.text("email"), visit.text("is_admin") == "1")
    except Invalid as invalid:
        return await _page(visit, 422, email=visit.text("email"), faults=invalid.faults)
    return await _page(visit, link=f"{visit.base}/sign-in/{token}", email=email)


async def disable(visit: Visit) -> Response:
    await visit.service.accounts.disable(visit.who, visit.path["id"])
    return visit.go("/users?done=disabled")
