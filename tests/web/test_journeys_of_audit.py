"""Reading the audit log in a real browser, in English and in Korean, light and dark, on a desk and on a phone."""

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from e2e.service import Service
from web.conftest import EMAIL, Surfer

LOG, ADDED, SHOW, ALL, NOTHING, OWN = (
    {"en": "Audit log", "ko": "감사 로그"},
    {"en": "API key added", "ko": "API 키 추가"},
    {"en": "Show", "ko": "보기"},
    {"en": "Show all", "ko": "모두 보기"},
    {"en": "There is no such entry.", "ko": "해당하는 기록이 없습니다."},
    {"en": "What you did", "ko": "내가 한 일"},
)
PICTURES = os.environ.get("TOCSIN_TEST_PICTURES")  # a folder for who wants to look


def pictured(page: Page, name: str) -> None:
    """In both colour schemes and both widths nothing is wider than the window."""
    for scheme in ("light", "dark"):
        for width in (1200, 390):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, width)
            if PICTURES:
                page.screenshot(path=Path(PICTURES) / f"{name}-{scheme}-{width}.png")
    page.set_viewport_size({"width": 1200, "height": 900})


def test_reading_the_audit_log_and_ones_own_part_of_it(spoken: tuple[str, Page], served: Service, base: str) -> None:
    language, page = spoken
    Surfer(base).post("/sign-in", email=EMAIL, password="a wrong one")
    handler = served.first().add_handler("webhook", name="당직 on call", webhook="https://hooks.example/a")
    served.first().change(handler, name="당직", webhook="https://hooks.example/b")
    with served.admin() as admin:
        for number in range(60):
            admin.add_key(EMAIL, f"number {number}", ("handlers:read", "handlers:write"))
    page.get_by_role("link", name=LOG[language], exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(LOG[language])
    rows = page.locator("table.audit tbody tr")
    expect(rows).to_have_count(50)
    expect(rows.first).to_contain_text("number 59")
    expect(rows.first).to_contain_text(ADDED[language])
    pictured(page, f"audit-{language}")
    page.locator("nav.pages a", has_text=re.compile("Older|이전")).click()
    expect(rows.filter(has_text="당직 on call")).to_have_count(1)
    pictured(page, f"audit-older-{language}")
    page.get_by_role("link", name=re.compile("Newest|최신")).click()
    page.select_option("select[name=act]", "handler.changed")
    page.get_by_role("button", name=SHOW[language], exact=True).click()
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("webhook")
    page.fill("input[name=user]", "nobody")
    page.keyboard.press("Enter")
    expect(page.locator("p.nothing")).to_have_text(NOTHING[language])
    page.get_by_role("link", name=ALL[language]).click()
    expect(rows).to_have_count(50)
    with page.expect_download() as download:
        page.locator("nav.pages .right a").click()
    assert Path(download.value.path()).read_text(encoding="utf-8").count("\n") > 60
    page.goto("/account")
    page.locator('a[href="/account/audit"]').click()
    expect(page.locator("main p").first).to_contain_text(OWN[language])
    pictured(page, f"own-{language}")
    page.goto("/keys")
    pictured(page, f"keys-{language}")


@pytest.mark.parametrize("path", ["/audit", "/account/audit", "/keys"])
def test_its_pages_are_accessible(page: Page, served: Service, path: str) -> None:
    from web.conftest import sign_in

    with served.admin() as admin:
        admin.add_key(EMAIL, "cron", ())
    sign_in(page)
    page.goto(path)
    page.evaluate((Path(__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa']})")
    assert [(one["id"], [node["html"] for node in one["nodes"]][:2]) for one in found["violations"]] == []
