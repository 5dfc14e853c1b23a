"""What is left of the quotas, on the account page of who has some."""

import pytest
from playwright.sync_api import Page, expect

from e2e.conftest import start_service, store  # noqa: F401  # fixtures
from e2e.service import OwnedClient, Service
from web.conftest import SIGN_IN, Surfer, sign_in

PASSWORD = "correct horse battery"


@pytest.fixture
def served(start_service) -> Service:  # noqa: F811
    return start_service(TOCSIN_QUOTA_HANDLERS="2", TOCSIN_QUOTA_KEYS="2", TOCSIN_QUOTA_NOTIFICATIONS_DAY="1", **SIGN_IN)


@pytest.fixture
def owner(served: Service) -> OwnedClient:
    with served.admin() as admin:
        admin.add_user("owner@example.com", is_admin=False)
        admin.set_password("owner@example.com", PASSWORD)
        return OwnedClient(served.port, admin.add_key("owner@example.com", "test", ()), "owner@example.com")


def test_quotas_are_shown_before_they_bite_and_said_where_they_do(page: Page, base: str, owner: OwnedClient, surfer: Surfer) -> None:
    owner.add_handler("webhook", webhook="https://hooks.example/x")
    sign_in(page, "owner@example.com", PASSWORD)
    page.goto("/account")
    rows = page.locator("section.card", has=page.get_by_role("heading", name="Quotas", exact=True)).locator("tbody tr")
    expect(rows).to_contain_text(["Handlers1 2", "API keys1 2", "Notifications today0 1"])
    owner.add_handler("webhook", webhook="https://hooks.example/y")
    page.goto("/account?lang=ko")
    expect(page.locator("main")).to_contain_text("할당량")
    page.goto("/handlers/add/webhook")
    page.fill("#name", "one more")
    page.fill("#webhook", "https://hooks.example/z")
    page.click("main form button.primary")
    expect(page.locator("main")).to_contain_text("핸들러는 2개까지 둘 수 있습니다.")
    assert "Quotas" not in surfer.get("/account").text  # an administrator has none
    person = Surfer(base)
    person.sign_in("owner@example.com", PASSWORD)
    assert person.post("/keys", csrf=person.token(), name="one", scopes="handlers:read").status == 200
    refused = person.post("/keys", csrf=person.token(), name="two", scopes="handlers:read")
    assert (refused.status, "You may have 2 API keys" in refused.text) == (422, True)
    assert owner.send("first")
    over = person.post("/send", csrf=person.token(), message="second", all="2")
    assert (over.status, "You may send 1 notifications a day" in over.text, "second" in over.text) == (429, True, True)
