"""Ending another session, and saying once more who one is, in a real browser, in English and in Korean."""

import re

from playwright.sync_api import Page, expect

from e2e.service import Service
from web.conftest import PASSWORD, Surfer, an_hour_later, sign_in

OTHER, ALL, THIS, PASSWORD_LABEL, WRONG, CONFIRM = (
    {"en": "End Python-urllib", "ko": "끝내기 Python-urllib"},
    {"en": "End all other sessions", "ko": "다른 세션 모두 끝내기"},
    {"en": "this session", "ko": "현재 세션"},
    {"en": "Your password", "ko": "비밀번호"},
    {"en": "This is not the current password.", "ko": "현재 비밀번호가 아닙니다."},
    {"en": "Confirm", "ko": "확인"},
)


def test_ending_another_session_and_all_others(spoken: tuple[str, Page], base: str) -> None:
    language, page = spoken
    first, second, third = (Surfer(base) for _ in range(3))
    for other in (first, second, third):
        other.sign_in()
    page.goto("/account")
    rows = page.locator("table tbody tr")
    expect(rows).to_have_count(4)
    expect(rows.filter(has_text=THIS[language])).to_contain_text("Chrome, Linux")
    page.get_by_role("button", name=re.compile(OTHER[language])).first.click()
    expect(page.locator("p.done")).to_be_visible()
    expect(rows).to_have_count(3)
    assert [one.get("/").path for one in (first, second, third)].count("/sign-in") == 1
    page.get_by_role("button", name=ALL[language]).click()
    expect(rows).to_have_count(1)
    expect(page.get_by_role("button", name=ALL[language])).to_have_count(0)
    assert {one.get("/").path for one in (first, second, third)} == {"/sign-in"}
    page.goto("/log")
    expect(page).to_have_url(re.compile("/log$"))


def test_a_key_with_every_permission_asks_who_it_is_and_is_made_with_what_was_typed(spoken: tuple[str, Page], served: Service) -> None:
    language, page = spoken
    an_hour_later(served)
    page.goto("/keys")
    page.fill("#name", "배포 deploy")
    page.click("form.card button.primary")
    field = page.get_by_label(PASSWORD_LABEL[language], exact=True)
    expect(field).to_be_focused()
    field.fill("not this one")
    page.get_by_role("button", name=CONFIRM[language], exact=True).click()
    expect(page.locator("p.fault")).to_have_text(WRONG[language])
    field.fill(PASSWORD)
    field.press("Enter")
    key = page.locator("#new-key").inner_text()
    assert re.fullmatch(r"tk_\w{43}", key)
    expect(page.locator("table")).to_contain_text("배포 deploy")


def test_a_secret_is_shown_after_the_question_and_the_reference_makes_its_key_after_it(page: Page, served: Service) -> None:
    handler = served.first().add_handler("webhook", webhook="https://example.com/x")
    sign_in(page)
    an_hour_later(served)
    page.goto(f"/handlers/{handler}/secret")
    page.fill("#confirm_password", PASSWORD)
    page.click("main button.primary")
    expect(page.locator("#signing-secret")).to_contain_text("whsec_")
    an_hour_later(served)
    page.goto("/docs")
    page.click("#key-place button")
    page.wait_for_url("**/confirm?to=/docs")
    page.fill("#confirm_password", PASSWORD)
    page.click("main button.primary")
    page.wait_for_url("**/docs")
    page.click("#key-place button")
    expect(page.locator("#key-place pre")).to_contain_text("export TOCSIN_API_KEY=tk_")
