"""Second factor and OpenID Connect in a real browser, in both languages, light and dark."""

import re
from collections.abc import Iterator
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from e2e.conftest import Starter
from e2e.service import Service
from support.openid import RealProvider, real_provider  # noqa: F401  # a fixture
from web.conftest import EMAIL, PASSWORD, SIGN_IN, sign_in
from web.test_journeys import AXE, RULES, watched
from web.test_second_factor import App

LOCALES = {"en": "en-US", "ko": "ko-KR"}


KO_DARK = pytest.param(("ko", "dark"), id="ko-dark", marks=pytest.mark.long)


@pytest.fixture(params=[pytest.param(("en", "light"), id="en-light"), KO_DARK])
def seen(request: pytest.FixtureRequest, browser: Browser, base: str) -> Iterator[Page]:
    language, scheme = request.param
    context = browser.new_context(base_url=base, locale=LOCALES[language], color_scheme=scheme)
    context.set_default_timeout(15_000)
    yield context.new_page()
    context.close()


def accessible(page: Page, scheme: Literal["light", "dark"]) -> None:
    """Asked of a context that lets axe in."""
    page.add_script_tag(content=AXE)
    found = page.evaluate("async rules => (await axe.run(document, {...rules, resultTypes: ['violations']})).violations", RULES[scheme])
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


def sign_out(page: Page) -> None:
    page.click("header form button")
    page.wait_for_url("**/sign-in*")


def test_a_second_factor_from_the_account_page_to_signing_in(seen: Page) -> None:
    said = watched(seen)
    sign_in(seen)
    seen.click("header .me a")
    seen.click("a[href='/account/second-factor']")
    expect(seen.locator("svg.qr path")).to_have_count(2)
    app = App(seen.locator("#secret").inner_text())
    seen.fill("#code", "000000")
    seen.click("main button.primary")
    expect(seen.locator("#fault-code")).to_be_visible()
    seen.fill("#code", app.code())
    seen.click("main button.primary")
    codes = seen.locator("#recovery-codes").inner_text().split()
    assert len(codes) == 10
    seen.click("a.button.primary")
    expect(seen.locator("#recovery-codes")).to_have_count(0)
    for code in (app.code(), codes[0]):
        sign_out(seen)
        seen.fill("#email", EMAIL)
        seen.fill("#password", PASSWORD)
        seen.click("main button.primary")
        seen.wait_for_url("**/sign-in/code")
        seen.fill("#code", code)
        seen.keyboard.press("Enter")
        seen.wait_for_url("**/")
    assert said == []


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.long), "dark"])
def test_its_pages_are_accessible_and_fit_a_phone(browser: Browser, base: str, scheme: Literal["light", "dark"]) -> None:
    context = browser.new_context(
        base_url=base, color_scheme=scheme, bypass_csp=True, viewport={"width": 360, "height": 740}, locale="ko-KR"
    )
    page = context.new_page()
    sign_in(page)

    def look() -> None:
        accessible(page, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, page.url

    page.goto("/account/second-factor")
    look()
    app = App(page.locator("#secret").inner_text())
    page.fill("#code", app.code())
    page.click("main button.primary")
    page.wait_for_selector("#recovery-codes")
    look()
    page.goto("/account/second-factor")
    look()
    sign_out(page)
    page.fill("#email", EMAIL)
    page.fill("#password", PASSWORD)
    page.click("main button.primary")
    page.wait_for_url("**/sign-in/code")
    look()
    context.close()


@pytest.fixture
def with_provider(start_service: Starter, real_provider: RealProvider) -> Service:  # noqa: F811
    service = start_service(**SIGN_IN, **real_provider.environ, TOCSIN_OIDC_DOMAINS="example.com", TOCSIN_OIDC_NAME="Example ID")
    real_provider.start(f"http://127.0.0.1:{service.port}")
    return service


@pytest.mark.parametrize(("language", "scheme"), [("en", "light"), pytest.param("ko", "dark", marks=pytest.mark.long)])
def test_signing_in_with_a_provider(browser: Browser, with_provider: Service, language: str, scheme: Literal["light", "dark"]) -> None:
    context = browser.new_context(base_url=f"http://127.0.0.1:{with_provider.port}", locale=LOCALES[language], color_scheme=scheme)
    context.set_default_timeout(15_000)
    page = context.new_page()
    page.goto("/log")
    page.wait_for_url("**/sign-in?to=/log")
    said: list[str] = []  # on our pages: those of the provider want fonts from elsewhere
    ours = f"http://127.0.0.1:{with_provider.port}/"
    page.on("console", lambda message: said.append(message.text) if message.location["url"].startswith(ours) else None)
    button = page.locator("a[href^='/sign-in/openid']")
    expect(button).to_contain_text("Example ID")
    button.click()
    page.fill("input[name=login]", "jun@example.com")
    page.fill("input[name=password]", "any")
    page.click("button[type=submit]")  # signing in
    page.click("button[type=submit]")  # consent
    page.wait_for_url("**/log")
    expect(page.locator("header .me a")).to_have_text("jun@example.com")
    sign_out(page)
    expect(page.locator(".done")).to_be_visible()
    page.click("a[href='/sign-out/openid']")
    page.click("button[name=logout]")
    page.wait_for_url("**/sign-in")
    page.click("a[href^='/sign-in/openid']")
    expect(page.locator("input[name=login]")).to_be_visible()  # signed out there, too
    page.fill("input[name=login]", "unverified@example.com")
    page.fill("input[name=password]", "any")
    page.click("button[type=submit]")
    page.click("button[type=submit]")
    page.wait_for_url(re.compile(r"/sign-in/openid/callback"))
    expect(page.locator(".fault")).to_contain_text({"en": "not verified", "ko": "확인되지 않았거나"}[language])
    page.click("main a.button")
    page.wait_for_url("**/sign-in")
    assert [one for one in said if "status of 422" not in one] == []
    context.close()
