"""A service with a user who can sign in, a plain client for its pages, and a real browser."""

import http.cookiejar
import re
import shutil
import sqlite3
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from typing import Any

import pytest
from msgspec import Struct
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from e2e.conftest import receiver, start_service, store  # noqa: F401  # fixtures
from e2e.service import Service

EMAIL, PASSWORD = "operator@example.com", "correct horse battery"


class Answer(Struct):
    status: int
    headers: Message
    text: str
    url: str

    @property
    def path(self) -> str:
        return urllib.parse.urlsplit(self.url).path


class _Stays(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


class _Tells(urllib.request.HTTPRedirectHandler):
    def __init__(self, surfer: "Surfer") -> None:
        self._surfer = surfer

    def redirect_request(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        self._surfer.watch(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Surfer:
    """A browser without JavaScript: cookies, forms, redirects. `watch` is told where redirects lead."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.watch: Callable[[str], object] = bool
        self.cookies = http.cookiejar.CookieJar()
        opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(self.cookies), urllib.request.ProxyHandler({}), _Tells(self)
        )
        self._open = opener.open
        staying = (urllib.request.HTTPCookieProcessor(self.cookies), urllib.request.ProxyHandler({}), _Stays())
        self._stay = urllib.request.build_opener(*staying).open

    def get(self, path: str, *, stay: bool = False, **headers: str) -> Answer:
        return self.ask(urllib.request.Request(self.base + path, headers=_names(headers)), stay)

    def get_url(self, url: str) -> Answer:
        """Of another site."""
        return self.ask(urllib.request.Request(url))

    def post(
        self, path: str, *, csrf: str | None = None, stay: bool = False, headers: dict[str, str] | None = None, **form: object
    ) -> Answer:
        """With the form token of the page at this path, unless another is given."""
        token = self.token(path) if csrf is None else csrf
        content = urllib.parse.urlencode({"csrf": token, **form}, doseq=True).encode()
        return self.ask(urllib.request.Request(self.base + path, content, headers or {}), stay)

    def token(self, path: str = "/account") -> str:
        page = self.get(path).text
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', page) or re.search(r'"X-CSRF": "([0-9a-f]{64})"', page)
        assert found, page[:500]
        return found[1]

    def ask(self, request: urllib.request.Request, stay: bool = False) -> Answer:
        try:
            with (self._stay if stay else self._open)(request, timeout=20) as reply:
                return Answer(reply.status, reply.headers, reply.read().decode(), reply.url)
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error.read().decode(), error.url)

    def sign_in(self, email: str = EMAIL, password: str = PASSWORD) -> Answer:
        return self.post("/sign-in", email=email, password=password)


def _names(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def sql(served: Service, statement: str) -> None:
    """Beside the service, which keeps no session in memory."""
    connection = sqlite3.connect(served.data / "tocsin.db", timeout=20)
    with connection:
        connection.execute(statement)
    connection.close()


def an_hour_later(served: Service) -> None:
    """Since everybody has signed in, or proved who they are."""
    sql(served, "UPDATE sessions SET confirmed_at = confirmed_at - 3600000000")


SIGN_IN = {"TOCSIN_BOOTSTRAP_EMAIL": EMAIL, "TOCSIN_BOOTSTRAP_PASSWORD": PASSWORD}


@pytest.fixture
def served(start_service) -> Service:  # noqa: F811
    return start_service(TOCSIN_RETRY_SCHEDULE="1s,1s", **SIGN_IN)


@pytest.fixture(scope="module")
def shared_base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a service is for all tests of a module that leave nothing behind which another one would see."""
    service = Service(tmp_path_factory.mktemp("shared"), **SIGN_IN)
    try:
        yield f"http://127.0.0.1:{service.start().port}"
    finally:
        service.kill()


@pytest.fixture
def base(served: Service) -> str:
    return f"http://127.0.0.1:{served.port}"


@pytest.fixture
def surfer(base: str) -> Surfer:
    """Signed in."""
    found = Surfer(base)
    assert found.sign_in().path == "/"
    return found


@pytest.fixture
def shared_surfer(shared_base: str) -> Surfer:
    """Signed in at the shared service."""
    found = Surfer(shared_base)
    assert found.sign_in().path == "/"
    return found


# The shell has no windows to draw, so a journey takes half as long in it.
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For a module only: while it is there an event loop runs in this thread, and other tests want one of their own."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium-headless-shell)")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=arguments)
        yield found
        found.close()


@pytest.fixture
def context(browser: Browser, base: str) -> Iterator[BrowserContext]:
    found = browser.new_context(base_url=base, locale="en-US")
    found.set_default_timeout(15_000)
    yield found
    found.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


@pytest.fixture(params=["en", pytest.param("ko", marks=pytest.mark.long)])
def spoken(request: pytest.FixtureRequest, browser: Browser, base: str) -> Iterator[tuple[str, Page]]:
    """A browser that prefers this language, somebody signed in."""
    context = browser.new_context(base_url=base, locale={"en": "en-US", "ko": "ko-KR"}[request.param])
    context.set_default_timeout(15_000)
    page = context.new_page()
    sign_in(page)
    yield request.param, page
    context.close()


def sign_in(page: Page, email: str = EMAIL, password: str = PASSWORD) -> None:
    page.goto("/sign-in")
    page.fill("#email", email)
    page.fill("#password", password)
    page.click("main button.primary")
    page.wait_for_url("**/")
