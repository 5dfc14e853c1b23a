"""The ASGI application of the pages: routes, sign-in, and the headers that every page has."""

import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import structlog
from starlette.convertors import Convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send

from tocsin import acting, observe
from tocsin.api.kinds import MAX_ID
from tocsin.api.proxies import transport_security
from tocsin.flow.people.accounts import CodeWanted
from tocsin.flow.service import Service
from tocsin.model import Busy, Invalid, Missing, OverQuota
from tocsin.ports.errors import OwnerGone
from tocsin.web import (
    account,
    assets,
    audit,
    confirm,
    consents,
    guides,
    handlers,
    keys,
    log,
    reference,
    second_factor,
    send,
    sign_in,
    single_sign_on,
    users,
    workers,
)
from tocsin.web.hosts import Hosts, without_port
from tocsin.web.visit import Forged, Stale, TooLarge, Visit

Handle: TypeAlias = Callable[[Visit], Awaitable[Response]]
_Route: TypeAlias = tuple[str, str, re.Pattern[str], dict[str, Convertor[Any]], Handle, str]

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types tocsin default"
    ),
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_ROUTE = "tocsin.route"  # in the request's scope: the path as `ROUTES` has it
_logger = structlog.get_logger(__name__)

# Method, path, what serves it, and for whom: everyone, signed-in users, administrators.
ROUTES: tuple[tuple[str, str, Handle, str], ...] = (
    ("GET", "/sign-in", single_sign_on.sign_in_page, "anybody"),
    ("POST", "/sign-in", sign_in.sign_in, "anybody"),
    ("GET", "/sign-in/openid", single_sign_on.leave, "anybody"),
    ("GET", "/sign-in/openid/callback", single_sign_on.come_back, "anybody"),
    ("GET", "/sign-out/openid", single_sign_on.way_out, "anybody"),
    ("GET", "/sign-in/code", second_factor.code_page, "anybody"),
    ("POST", "/sign-in/code", second_factor.enter_code, "anybody"),
    ("GET", "/sign-in/{token}", sign_in.linked_page, "anybody"),
    ("POST", "/sign-in/{token}", sign_in.linked, "anybody"),
    ("GET", "/confirm/{token}", consents.agree_page, "anybody"),
    ("POST", "/confirm/{token}", consents.agree, "anybody"),
    ("GET", "/unsubscribe/{token}", consents.unsubscribe_page, "anybody"),
    ("POST", "/unsubscribe/{token}", consents.unsubscribe, "anybody"),
    ("GET", "/docs", reference.page, "anybody"),
    ("GET", "/ko/docs", reference.korean_page, "anybody"),
    ("GET", "/docs/channels/{type}", guides.page, "anybody"),
    ("POST", "/sign-out", single_sign_on.sign_out, "signed in"),
    ("GET", "/", handlers.home, "signed in"),
    ("GET", "/handlers", handlers.to_home, "signed in"),
    ("GET", "/handlers/add", handlers.types, "signed in"),
    ("GET", "/handlers/add/{type}", handlers.add_page, "signed in"),
    ("POST", "/handlers/add/{type}", handlers.add, "signed in"),
    ("GET", "/handlers/{id:int}", handlers.one, "signed in"),
    ("GET", "/handlers/{id:int}/edit", handlers.edit_page, "signed in"),
    ("POST", "/handlers/{id:int}/edit", handlers.edit, "signed in"),
    ("POST", "/handlers/{id:int}/test", handlers.test, "signed in"),
    ("POST", "/handlers/{id:int}/state", handlers.switch, "signed in"),
    ("GET", "/handlers/{id:int}/secret", handlers.secret_page, "signed in"),
    ("POST", "/handlers/{id:int}/secret", handlers.rotate_secret, "signed in"),
    ("POST", "/handlers/many", handlers.many, "signed in"),
    ("GET", "/handlers/{id:int}/delete", handlers.delete_page, "signed in"),
    ("POST", "/handlers/{id:int}/delete", handlers.delete, "signed in"),
    ("GET", "/log", log.page, "signed in"),
    ("GET", "/log/export.{form}", log.export, "signed in"),
    ("GET", "/log/replay", log.replay_page, "signed in"),
    ("POST", "/log/replay", log.replay, "signed in"),
    ("GET", "/deliveries", log.to_page, "signed in"),
    ("GET", "/deliveries/{id:int}", log.delivery, "signed in"),
    ("POST", "/deliveries/{id:int}/retry", log.retry, "signed in"),
    ("POST", "/deliveries/{id:int}/cancel", log.cancel_one, "signed in"),
    ("GET", "/notifications", log.to_page, "signed in"),
    ("GET", "/notifications/{id:int}", log.notification, "signed in"),
    ("POST", "/notifications/{id:int}/cancel", log.cancel, "signed in"),
    ("GET", "/send", send.page, "signed in"),
    ("POST", "/send", send.send, "signed in"),
    ("POST", "/send/preview", send.preview, "signed in"),
    ("GET", "/keys", keys.page, "signed in"),
    ("POST", "/keys", keys.add, "signed in"),
    ("GET", "/keys/{id:int}/revoke", keys.revoke_page, "signed in"),
    ("POST", "/keys/{id:int}/revoke", keys.revoke, "signed in"),
    ("GET", "/account", account.page, "signed in"),
    ("POST", "/account/password", account.change_password, "signed in"),
    ("POST", "/account/time-zone", account.set_time_zone, "signed in"),
    ("POST", "/account/sessions/end", account.end_session, "signed in"),
    ("POST", "/account/sessions/end-others", account.end_other_sessions, "signed in"),
    ("GET", "/account/audit", audit.own_page, "signed in"),
    ("GET", "/account/audit/export.jsonl", audit.own_export, "signed in"),
    ("GET", "/confirm", confirm.page, "signed in"),
    ("POST", "/confirm", confirm.answer, "signed in"),
    ("GET", "/account/second-factor", second_factor.page, "signed in"),
    ("POST", "/account/second-factor", second_factor.set_up, "signed in"),
    ("POST", "/account/second-factor/codes", second_factor.renew_codes, "signed in"),
    ("POST", "/account/second-factor/off", second_factor.turn_off, "signed in"),
    ("GET", "/users", users.page, "administrators"),
    ("POST", "/users", users.invite, "administrators"),
    ("POST", "/users/{id:int}/role", users.set_role, "administrators"),
    ("POST", "/users/{id:int}/disable", users.disable, "administrators"),
    ("GET", "/audit", audit.page, "administrators"),
    ("GET", "/audit/export.jsonl", audit.export, "administrators"),
    ("GET", "/workers", workers.page, "administrators"),
)

# What a link from a mail is enough for: the mail program that presses the button has no form of ours.
_BY_LINK = {consents.agree, consents.unsubscribe}
# What those may reach who must set up a second factor first, beside what anybody may.
_FREE = {*second_factor.PAGES, confirm.page, confirm.answer, single_sign_on.sign_out}


class Misdirected(Exception):
    """The request names a host that is not ours."""


class Site:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._hosts = Hosts(service.settings)
        self._routes: list[_Route] = []
        for method, path, handle, whom in ROUTES:
            pattern, _, converters = compile_path(path)
            self._routes.append((method, path, pattern, converters, handle, whom))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        asset = assets.assets().get(scope["path"])
        response = asset.response(request) if asset is not None else await self._answer(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        if asset is None:
            response.headers.setdefault("cache-control", "no-store")
            response.headers.setdefault("vary", "Cookie, Accept-Language")
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        visit = Visit(self._service, request)
        response = await self._answer_to(visit)
        if visit.is_secure:  # elsewhere browsers ignore it, and complain on their consoles
            response.headers["cross-origin-opener-policy"] = "same-origin"
            if not self._service.settings.base_url and (value := transport_security(visit.base)):  # else every answer has it
                response.headers["strict-transport-security"] = value
        return response

    async def _answer_to(self, visit: Visit) -> Response:
        try:
            return await visit.finished(await self._served_or_asked(visit))
        except Missing:
            return visit.problem(404)
        except Misdirected:
            host = without_port(visit.asked_for[1])[:200]
            observe.seldom(_logger.warning, "host.not_allowed", address=visit.address, host=host)
            return visit.problem(421, host=host)
        except Forged as forged:
            expected = visit.base
            _logger.warning("form.foreign", address=visit.address, origin=forged.origin[:200], expected=expected, host=visit.host[:200])
            return visit.problem(403, origin=forged.origin, expected=expected)
        except OverQuota as over:
            response = visit.problem(429, faults=[over.fault])
            response.headers["retry-after"] = str(over.retry_after)
            return response
        except consents.TooOften as often:
            response = visit.problem(429)
            response.headers["retry-after"] = str(often.seconds)
            return response
        except TooLarge:
            return visit.problem(413)
        except OwnerGone:
            return _to_sign_in(visit)
        except Invalid as invalid:
            return visit.problem(422, faults=invalid.faults)
        except Busy as busy:
            response = visit.problem(503)
            response.headers["retry-after"] = str(busy.retry_after)
            return response
        except ClientDisconnect:
            return Response(status_code=400)  # nobody receives it; not our fault, so not in the log
        except Exception:
            reference_id = secrets.token_hex(6)
            route = visit.request.scope.get(_ROUTE, "")  # and not the path: what a link ends in signs somebody in
            _logger.exception("page.failed", path=route, id=visit.path.get("id"), reference=reference_id)
            return visit.problem(500, reference=reference_id)

    async def _served_or_asked(self, visit: Visit) -> Response:
        try:
            return await self._served(visit)
        except confirm.Asked as asked:
            return asked.response
        except CodeWanted as wanted:
            return second_factor.ask(visit, wanted)

    async def _served(self, visit: Visit) -> Response:
        """Raises whatever is wrong."""
        request = visit.request
        if not self._hosts.allows(visit.asked_for[1]):
            raise Misdirected
        handle, whom, allowed = self._find(request)
        if allowed:
            return PlainTextResponse("Method not allowed.\n", 405, {"allow": allowed})
        if handle is None:
            await visit.recognize()
            raise Missing
        visit.path = request.path_params
        await visit.recognize()
        acting.act_as(visit.actor)
        if whom != "anybody" and visit.visitor is None:
            return _to_sign_in(visit)
        if handle in _BY_LINK:
            await visit.read_nothing()
        elif request.method == "POST":
            try:
                await visit.read_form()
            except Stale:
                return await sign_in.asked_again(visit)
        if whom == "administrators" and not visit.who.is_admin:
            raise Missing
        if whom != "anybody" and handle not in _FREE and await visit.service.second_factors.is_missing(visit.who):
            return visit.go("/account/second-factor?done=needed")
        return await handle(visit)

    def _find(self, request: Request) -> tuple[Handle | None, str, str]:
        """What serves it and for whom; or the methods that the path accepts instead."""
        others: set[str] = set()
        wanted = "GET" if request.method == "HEAD" else request.method
        for method, path, pattern, converters, handle, whom in self._routes:
            match = pattern.match(request.scope["path"])
            if match is None:
                continue
            if method != wanted:
                others.add(method)
                continue
            values = {name: converters[name].convert(value) for name, value in match.groupdict().items()}
            if values.get("id", 0) > MAX_ID:
                break  # no row can have such an id
            request.scope["path_params"], request.scope[_ROUTE] = values, path
            return handle, whom, ""
        return None, "", ", ".join(sorted(others))


def _to_sign_in(visit: Visit) -> Response:
    """They are nobody, or nobody any more."""
    if visit.is_fragment:
        where = "/sign-in" if visit.request.method == "GET" else sign_in.sign_in_path(visit.request)
        return Response(status_code=204, headers={"HX-Redirect": f"{visit.prefix}{where}"})
    return visit.go(sign_in.sign_in_path(visit.request))
