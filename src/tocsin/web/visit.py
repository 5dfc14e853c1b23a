"""One request to the pages: the user, the language, and whether a change really comes from a page of ours."""

import contextlib
import functools
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import tzinfo
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from tocsin.acting import Actor
from tocsin.api.proxies import asked_for, base_url, client_address, counted_as, headers_of, is_same_origin, known_as, prefix, remote_user
from tocsin.clock import DAY, SECOND
from tocsin.flow import pools
from tocsin.flow.people.accounts import Opened
from tocsin.flow.people.clients import Client, Visitor
from tocsin.flow.people.devices import DEVICE_LASTS
from tocsin.flow.service import Pulse, Service
from tocsin.model import Busy, Fault
from tocsin.settings import Settings
from tocsin.web import language, render
from tocsin.web.cookies import BEFORE, DEVICE, LANGUAGE, SESSION, name_of
from tocsin.zones import zone_of

MAX_FORM_BYTES, MAX_FIELDS = 1 << 20, 2000
MAX_ANONYMOUS_BYTES = 16 << 10  # the longest address and password with every letter percent-encoded, plus some room
_TIMES = re.compile(r"(?<=>)[^<]*(?=</time>)")
_SAFE_SITES = {"same-origin", "none"}


class Forged(Exception):
    """A change that did not come from a page of ours. `origin`: where the request says it comes from."""

    def __init__(self, origin: str = "") -> None:
        super().__init__()
        self.origin = origin


class Stale(Forged):
    """A form of another session, or of one that has ended."""


class TooLarge(Exception):
    """More than any form of ours sends."""


class Page(Response):
    """A page that is not rendered yet: its status and headers, and the function that renders it."""

    def __init__(self, make: Callable[[], str], status: int) -> None:
        super().__init__(status_code=status)
        self.make = make


class Visit:
    """`visitor`: who is signed in. `form`: the fields of a POST."""

    def __init__(self, service: Service, request: Request) -> None:
        self.service = service
        self.request = request
        self.visitor: Visitor | None = None
        self.pulse: Pulse | None = None
        self.form: Mapping[str, list[str]] = {}
        self.path: Mapping[str, Any] = request.path_params
        self._session = self.cookie(SESSION)
        # Before anybody is signed in there is no session to tie a form to, so a separate cookie takes its place.
        self._before = self.cookie(BEFORE) or secrets.token_urlsafe(16)
        self._cookies: dict[str, tuple[str, int]] = {}
        asked = request.query_params.get("lang")
        self.language = language.choose(asked or request.cookies.get(LANGUAGE), request.headers.get("accept-language", ""))
        self._asked_language = asked in language.LANGUAGES
        if asked in language.LANGUAGES:
            self.set_cookie(LANGUAGE, asked, 365 * 86_400)

    # --------------------------------------------------------------------------------------------------------- who is there

    async def recognize(self) -> None:
        """Find out who is signed in."""
        if self._session:
            self.visitor = self._believed(await self.service.accounts.visitor(self._session, self.client))
        if self.visitor is not None and self.visitor.by == "header" and not self._is_still_named(self.visitor):
            self.visitor = None
        if self.visitor is not None and self.visitor.language != self.language and (self.visitor.language is None or self._asked_language):
            with contextlib.suppress(Busy):
                await self.service.administration.set_language(self.visitor.id, self.language)
        if self.visitor is not None and not self.is_fragment:
            self.pulse = await self.service.pulse(self.visitor.id, self.visitor.is_admin)

    def _is_still_named(self, visitor: Visitor) -> bool:
        """A session that a proxy's header began lasts as long as the proxy names the same user."""
        return self.remote_user is not None and self.service.single_sign_on.is_named(visitor.email, self.remote_user)

    @property
    def remote_user(self) -> str | None:
        """Whom a proxy in front has signed in."""
        return remote_user(self.request.scope, self.service.settings)

    @property
    def proxys_way_out(self) -> str:
        """Where to sign out at the proxy in front; empty: the settings do not say. A path is one of its own, not of ours."""
        url = self.service.settings.remote_user_sign_out_url or ""
        return urljoin(f"{self.base}/", url) if url else ""

    @property
    def who(self) -> Visitor:
        """The signed-in user; pages behind the sign-in are served only to signed-in users."""
        if self.visitor is None:
            raise LookupError("nobody is signed in")
        return self.visitor

    @property
    def actor(self) -> Actor:
        """Whom the audit log names for what is done now."""
        return Actor("page", self.visitor.id if self.visitor is not None else None, address=self.address)

    @property
    def zone(self) -> tzinfo:
        """In which times are told and read; UTC for who has none."""
        return zone_of(self.visitor.time_zone if self.visitor is not None else None)

    @property
    def address(self) -> str:
        return client_address(*self._origin)

    @property
    def _origin(self) -> tuple[Mapping[str, Any], dict[bytes, bytes], Settings]:
        """What says where the request comes from."""
        return self.request.scope, headers_of(self.request.scope), self.service.settings

    def _believed(self, visitor: Visitor | None) -> Visitor | None:
        """Over TLS a session whose cookie has a plain name counts only if an older version made it: that one goes on under the new name."""
        is_tls = self.is_secure and urlsplit(self.base).scheme == "https"  # an Origin alone may be made up
        if visitor is None or not is_tls or self._secure_name(SESSION) in self.request.cookies:
            return visitor
        if visitor.by is not None:
            self._session = ""
            return None
        self._set_session(self._session)
        return visitor

    @property
    def client(self) -> Client:
        """Where the request comes from."""
        origin, agent = self._origin, self.request.headers.get("user-agent", "")
        return Client(client_address(*origin), counted_as(*origin), self.cookie(DEVICE), agent, known_as(*origin))

    @property
    def asked_for(self) -> tuple[str, str]:
        """The scheme and the host that the browser used."""
        return asked_for(self.request.scope, headers_of(self.request.scope), self.service.settings)

    @property
    def prefix(self) -> str:
        """The path under which the service is reached; empty at the root."""
        return prefix(self.request.scope, headers_of(self.request.scope), self.service.settings)

    @property
    def base(self) -> str:
        return base_url(self.request.scope, headers_of(self.request.scope), self.service.settings)

    @property
    def is_fragment(self) -> bool:
        """Whether htmx asks for a part of a page."""
        return self.request.headers.get("hx-request") == "true"

    async def renew_session(self, opened: Opened) -> None:
        """The browser has this session from now on; its previous one has ended."""
        if self._session:
            await self.service.accounts.sign_out(self._session)
        self._session = opened.token
        self._set_session(opened.token)
        self.set_cookie(DEVICE, opened.device, DEVICE_LASTS // SECOND)
        self.visitor = await self.service.accounts.visitor(opened.token, self.client)

    def _set_session(self, token: str) -> None:
        self.set_cookie(SESSION, token, self.service.settings.session_days * DAY // SECOND)

    async def end_session(self) -> None:
        if self._session:
            await self.service.accounts.sign_out(self._session)
        self._session, self.visitor = "", None
        self.set_cookie(SESSION, "", 0)

    # ------------------------------------------------------------------------------------------------------------- cookies

    def _secure_name(self, cookie: str) -> str:
        return name_of(cookie, is_secure=True, prefix=self.prefix)

    def cookie(self, cookie: str) -> str:
        """The value of one of ours, by its plain name; empty: there is none. Its name over TLS comes first, as nobody else can set that."""
        found = self.request.cookies
        return found.get(self._secure_name(cookie)) or found.get(cookie, "")

    def set_cookie(self, cookie: str, value: str, seconds: int) -> None:
        """With the next answer, by its plain name; 0 seconds: take it away."""
        name = name_of(cookie, self.is_secure, self.prefix)
        self._cookies[name] = (value, seconds)
        if name != cookie and cookie in self.request.cookies:
            self._cookies[cookie] = ("", 0)  # its value is under the new name now

    # ---------------------------------------------------------------------------------------------------- forged requests

    @property
    def csrf(self) -> str:
        """The token in every form, known only to pages rendered for this session."""
        tied_to = self._session if self.visitor is not None else self._before
        return hashlib.sha256(f"csrf {tied_to}".encode()).hexdigest()

    async def read_nothing(self) -> None:
        """What the body says does not matter. Raises TooLarge and ClientDisconnect."""
        _ = await self._read(MAX_ANONYMOUS_BYTES)

    async def _read(self, limit: int) -> bytearray:
        content = bytearray()
        async for piece in self.request.stream():
            content += piece
            if len(content) > limit:
                raise TooLarge
        return content

    async def read_form(self) -> None:
        """Strangers may send only a few KB. Raises Forged, TooLarge and ClientDisconnect."""
        content = await self._read(MAX_ANONYMOUS_BYTES if self.visitor is None else MAX_FORM_BYTES)
        try:
            # What browsers send for our forms; bytes that are not UTF-8 become replacement characters, and NUL cannot be stored.
            text = content.decode("latin-1").replace("%00", "")
            self.form = parse_qs(text, keep_blank_values=True, errors="replace", max_num_fields=MAX_FIELDS)
        except ValueError:
            raise TooLarge from None
        given = self.request.headers.get("x-csrf") or self.text("csrf")
        if self._is_foreign():
            raise Forged(self.request.headers.get("origin", ""))
        if not hmac.compare_digest(given.encode(), self.csrf.encode()):
            raise Stale

    def _is_foreign(self) -> bool:
        """Whether the browser says that another site sent it. Over plain HTTP it may send nothing but the Origin."""
        site, origin = self.request.headers.get("sec-fetch-site"), self.request.headers.get("origin")
        if site is not None:
            return site not in _SAFE_SITES
        return origin is not None and not any(is_same_origin(origin, one) for one in (self.base, f"//{self.host}"))

    @property
    def host(self) -> str:
        """The host that the request names; behind a proxy it may differ from the browser's."""
        return self.request.headers.get("host", "")

    def text(self, name: str) -> str:
        return next(iter(self.form.get(name, ())), "")

    def texts(self, name: str) -> list[str]:
        return list(self.form.get(name, ()))

    # ------------------------------------------------------------------------------------------------------------- answers

    def page(self, template: str, /, *, status: int = 200, faults: Sequence[Fault] = (), **values: Any) -> Response:
        """A template as this visitor sees it; it is made by `finished`."""
        return Page(functools.partial(self._rendered, template, faults, values), status)

    async def finished(self, response: Response) -> Response:
        """The answer with its page rendered in the pool for pages, where visitors take turns. Raises Busy, and what the template raises."""
        if not isinstance(response, Page):
            return response
        whose = self.visitor.id if self.visitor is not None else self.address
        return self._answer(await pools.here().pages.run(whose, response.make), response)

    def problem(self, code: int, *, faults: Sequence[Fault] = (), **values: Any) -> Response:
        """What is wrong, on a page so short that it needs no pool."""
        content = self._rendered("problem.html", faults, {"code": code, **values})
        return self._answer(content, Response(status_code=code))

    def _rendered(self, file: str, faults: Sequence[Fault], values: Mapping[str, Any]) -> str:
        """With what every page has: the visitor, the form token, and how the service is."""
        pulse = {"pulse": self.pulse, "troubles": self.service.unready()} if self.pulse is not None else {}
        return render.template(
            self.language,
            file,
            faults=faults,
            visit=self,
            visitor=self.visitor,
            csrf=self.csrf,
            path=self.request.url.path,
            done=self.request.query_params.get("done", ""),
            zone=self.zone,
            has_mail=bool(self.service.settings.smtp_url),
            is_shared=self.service.workers is not None,
            **pulse,
            **values,
        )

    def _answer(self, content: str, so_far: Response) -> Response:
        if found := self.prefix:
            content = render.under_prefix(content, found)
        response = HTMLResponse(content, so_far.status_code)
        if self.is_fragment and self.request.method == "GET":
            # Times are relative to now: their change alone is not news.
            tag = f'"{hashlib.sha256(_TIMES.sub("", content).encode()).hexdigest()[:24]}"'
            if self.request.headers.get("if-none-match") == tag:
                response = Response(status_code=304)
            response.headers["etag"] = tag
        for name, value in so_far.headers.items():
            if name != "content-length":  # of a page that was not made yet
                response.headers.setdefault(name, value)
        return self._with_cookies(response)

    def go(self, path: str) -> Response:
        """To another page of ours, with GET."""
        path = f"{self.prefix}{path}"
        response = RedirectResponse(path, 303)
        if self.is_fragment:
            response = Response(status_code=204, headers={"HX-Redirect": path})
        return self._with_cookies(response)

    def leave_for(self, url: str) -> Response:
        """To another site."""
        return self._with_cookies(RedirectResponse(url, 303))

    def _with_cookies(self, response: Response) -> Response:
        if self.visitor is None and not self.cookie(BEFORE):
            self.set_cookie(BEFORE, self._before, 86_400)
        for name, (value, seconds) in self._cookies.items():
            response.set_cookie(name, value, max_age=seconds, httponly=True, samesite="lax", secure=self.is_secure, path=self.prefix or "/")
        return response

    @property
    def is_secure(self) -> bool:
        """Whether the browser reaches us over TLS: otherwise it would drop a TLS-only cookie, and nobody could sign in."""
        base, origin = urlsplit(self.base), self.request.headers.get("origin", "null")
        if "sec-fetch-site" not in self.request.headers:  # it is sent over TLS only, and to this machine itself
            if origin != "null":
                return urlsplit(origin).scheme == "https"
            if self.service.settings.base_url and urlsplit(f"//{self.host}").hostname not in {
                base.hostname,
                "127.0.0.1",
                "::1",
                "localhost",
            }:
                return False  # under a name other than the base URL's, such as an address in the local network
        return base.scheme == "https"
