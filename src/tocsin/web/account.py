"""The account: its password, its time zone, and where it is signed in."""

from typing import Any

from starlette.responses import Response

from tocsin import clock
from tocsin.flow.people.tries import Throttled
from tocsin.model import Busy, Invalid
from tocsin.web import confirm, sign_in
from tocsin.web.visit import Visit


async def page(visit: Visit) -> Response:
    return visit.page("account.html", **await _about(visit))


async def _about(visit: Visit) -> dict[str, Any]:
    """What the page shows."""
    keys = await visit.service.keys.of(visit.who.id)
    return {
        "has_password": await visit.service.passwords.has_one(visit.who),
        "sessions": await visit.service.accounts.sessions(visit.who),
        "session_days": visit.service.settings.session_days,
        "quotas": await visit.service.quotas.lines(visit.who.id),
        "key_count": sum(key.is_valid(clock.now()) for key in keys),
    }


async def change_password(visit: Visit) -> Response:
    passwords = visit.service.passwords
    if not await passwords.has_one(visit.who):
        await confirm.demand(visit)  # the person who sets the first one can sign in with it from then on
    try:
        await passwords.change(visit.who, visit.text("old"), visit.text("new"), visit.client)
    except Invalid as invalid:
        return visit.page("account.html", status=422, faults=invalid.faults, **await _about(visit))
    except Throttled as throttled:
        return sign_in.too_often(visit, throttled, "account.html", **await _about(visit))
    except Busy as busy:
        return sign_in.too_many(visit, busy, "account.html", **await _about(visit))
    await visit.renew_session(await visit.service.accounts.new_session(visit.who.id, visit.who.by or "password", visit.client))
    return visit.go("/account?done=password")


async def set_time_zone(visit: Visit) -> Response:
    name = visit.text("time_zone")
    try:
        await visit.service.administration.set_time_zone(visit.who.id, name)
    except Invalid as invalid:
        return visit.page("account.html", status=422, time_zone=name, faults=invalid.faults, **await _about(visit))
    return visit.go("/account?done=time_zone")


async def end_session(visit: Visit) -> Response:
    await visit.service.accounts.end_session(visit.who, visit.text("session"))
    return visit.go("/account?done=session_ended")


async def end_other_sessions(visit: Visit) -> Response:
    await visit.service.accounts.end_other_sessions(visit.who)
    return visit.go("/account?done=sessions_ended")
