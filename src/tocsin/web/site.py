"""The ASGI application of the pages: routes, sign-in, and the headers that every page has."""

import hashlib
import mimetypes
import secrets
from collections.abc import Awaitable, Callable
from gzip import compress
from pathlib import Path
from typing import TypeAlias

import structlog
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from tocsin.api.kinds import MAX_ID
from tocsin.flow.service import Service
from tocsin.model import Busy, Invalid, Missing
from tocsin.web import account, handlers, log, reference, send, users
from tocsin.web.visit import Forged, TooLarge, Visit

Handle: TypeAlias = Callable[[Visit], Awaitable[Response]]

STATIC = Path(__file__).parent / "static"
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_logger = structlog.get_logger(__name__)

# Method, path, what serves it, and for whom: anybody, whoever is signed in, administrators.
ROUTES: tuple[tuple[str, str, Handle, str], ...] = (
    ("GET", "/sign-in", account.sign_in_page, "anybody"),
    ("POST", "/sign-in", account.sign_in, "anybody"),
    ("GET", "/invited/{token}", account.invited_page, "anybody"),
    ("POST", "/invited/{token}", account.invited, "anybody"),
    ("GET", "/docs", reference.page, "anybody"),
    ("GET", "/ko/docs", reference.korean_page, "anybody"),
    ("POST", "/sign-out", account.sign_out, "signed in"),
    ("GET", "/", handlers.home, "signed in"),
    ("GET", "/handlers/add", handlers.types, "signed in"),
    ("GET", "/handlers/add/{type}", handlers.add_page, "signed in"),
    ("POST", "/handlers/add/{type}", handlers.add, "signed in"),
    ("GET", "/handlers/{id:int}", handlers.one, "signed in"),
    ("GET", "/handlers/{id:int}/edit", handlers.edit_page, "signed in"),
    ("POST", "/handlers/{id:int}/edit", handlers.edit, "signed in"),
    ("POST", "/handlers/{id:int}/test", handlers.test, "signed in"),
    ("POST", "/handlers/{id:int}/state", handlers.switch, "signed in"),
    ("GET", "/handlers/{id:int}/delete", handlers.delete_page, "signed in"),
    ("POST", "/handlers/{id:int}/delete", handlers.delete, "signed in"),
    ("GET", "/log", log.page, "signed in"),
    ("GET", "/log/export.{form}", log.export, "signed in"),
    ("GET", "/log/replay", log.replay_page, "signed in"),
    ("POST", "/log/replay", log.replay, "signed in"),
    ("GET", "/deliveries/{id:int}", log.delivery, "signed in"),
    ("POST", "/deliveries/{id:int}/retry", log.retry, "signed in"),
    ("GET", "/notifications/{id:int}", log.notification, "signed in"),
    ("POST", "/notifications/{id:int}/cancel", log.cancel, "signed in"),
    ("GET", "/send", send.page, "signed in"),
    ("POST", "/send", send.send, "signed in"),
    ("POST", "/send/preview", send.preview, "signed in"),
    ("GET", "/keys", account.keys_page, "signed in"),
    ("POST", "/keys", account.add_key, "signed in"),
    ("POST", "/keys/{id:int}/revoke", account.revoke_key, "signed in"),
    ("GET", "/account", account.page, "signed in"),
    ("POST", "/account/password", account.change_password, "signed in"),
    ("POST", "/account/sign-out-everywhere", account.sign_out_everywhere, "signed in"),
    ("GET", "/users", users.page, "administrators"),
    ("POST", "/users", users.invite, "administrators"),
    ("POST", "/users/{id:int}/disable", users.disable, "administrators"),
)


class Site:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._routes: list[tuple[Route, Handle, str]] = []
        for method, path, handle, whom in ROUTES:
            self._routes.append((Route(path, _unused, methods=[method]), handle, whom))
        self._static = {f"/static/{file.name}": _Static(file) for file in STATIC.iterdir() if file.is_file()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        static = self._static.get(scope["path"])
        response = static.response(request) if static is not None else await self._answer(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        if static is None:
            response.headers.setdefault("cache-control", "no-store")
            response.headers.setdefault("vary", "Cookie, Accept-Language")
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        visit = Visit(self._service, request)
        try:
            return await self._served(visit)
        except Missing:
            return visit.page("problem.html", status=404, code=404)
        except Forged:
            return visit.page("problem.html", status=403, code=403)
        except TooLarge:
            return visit.page("problem.html", status=413, code=413)
        except Invalid as invalid:
            return visit.page("problem.html", status=422, code=422, faults=invalid.faults)
        except Busy as busy:
            response = visit.page("problem.html", status=503, code=503)
            response.headers["retry-after"] = str(busy.retry_after)
            return response
        except Exception:
            reference_id = secrets.token_hex(6)
            _logger.exception("page.failed", path=request.url.path, reference=reference_id)
            return visit.page("problem.html", status=500, code=500, reference=reference_id)

    async def _served(self, visit: Visit) -> Response:
        """Raises whatever is wrong."""
        request = visit.request
        handle, whom, allowed = self._find(request)
        if allowed:
            return PlainTextResponse("Method not allowed.\n", 405, {"allow": allowed})
        if handle is None:
            await visit.recognize()
            raise Missing
        visit.path = request.path_params
        await visit.recognize()
        if request.method == "POST":
            await visit.read_form()
        if whom != "anybody" and visit.visitor is None:
            if visit.is_fragment:
                return Response(status_code=204, headers={"HX-Redirect": "/sign-in"})
            return visit.go(account.sign_in_path(request))
        if whom == "administrators" and not visit.who.is_admin:
            raise Missing
        return await handle(visit)

    def _find(self, request: Request) -> tuple[Handle | None, str, str]:
        """What serves it and for whom; the methods that the path takes instead, if it takes others only."""
        others: list[str] = []
        method = "GET" if request.method == "HEAD" else request.method
        for route, handle, whom in self._routes:
            match, child = route.matches({**request.scope, "method": method})
            if match is Match.FULL:
                if child["path_params"].get("id", 0) > MAX_ID:
                    break  # no row can have it
                request.scope["path_params"] = child["path_params"]
                return handle, whom, ""
            if match is Match.PARTIAL:
                others += route.methods or ()
        return None, "", ", ".join(sorted(set(others)))


async def _unused(_: Request) -> Response:
    raise AssertionError("routes only find; Site serves")


class _Static:
    """A file that is sent packed where that is welcome, and kept by browsers until its address changes."""

    def __init__(self, file: Path) -> None:
        self._content = file.read_bytes()
        self._packed = compress(self._content, mtime=0)
        self._type = mimetypes.guess_type(file.name)[0] or "text/plain"

    def response(self, request: Request) -> Response:
        is_packed = "gzip" in request.headers.get("accept-encoding", "")
        headers = {"cache-control": "public, max-age=31536000, immutable", "vary": "Accept-Encoding"}
        if is_packed:
            headers["content-encoding"] = "gzip"
        return Response(self._packed if is_packed else self._content, headers=headers, media_type=self._type)


def static_version() -> str:
    """Changes whenever one of the files does."""
    digest = hashlib.sha256()
    for file in sorted(STATIC.iterdir()):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:10]
