"""Confirming an address and unsubscribing by one click, in a real browser that nobody is signed in in, in English and in Korean."""

import email
import email.policy
import re
from collections.abc import Iterator
from email.message import EmailMessage
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from e2e.conftest import mail_server, start_service, store  # noqa: F401  # fixtures
from e2e.service import OwnedClient, Service, until
from mailserver import MailServer
from web.conftest import SIGN_IN, Surfer, sign_in

PASSWORD = "correct horse battery"
AGREE, CONFIRMED, UNSUBSCRIBE, UNSUBSCRIBED, TEST, ENABLE, HEADING, PAUSED, BADGE, ASKED, TOLD, SUBJECT = (
    {"en": "Agree", "ko": "동의"},
    {"en": "Confirmed", "ko": "확인했습니다"},
    {"en": "Unsubscribe", "ko": "수신 거부"},
    {"en": "You have unsubscribed", "ko": "수신을 거부했습니다"},
    {"en": "Send test", "ko": "테스트 보내기"},
    {"en": "Enable", "ko": "사용"},
    {"en": "The address has not been confirmed.", "ko": "주소가 아직 확인되지 않았습니다."},
    {"en": "Somebody who reads mail at its address has unsubscribed.", "ko": "이 주소에서 메일을 받는 사람이 수신을 거부했습니다."},
    {"en": "Not confirmed", "ko": "미확인"},
    {"en": "A link to confirm its address was mailed there", "ko": "주소를 확인하는 링크를 그 주소로 보냈습니다"},
    {"en": "Unsubscribed: Mine", "ko": "수신 거부: Mine"},
    {"en": "Please confirm this e-mail address", "ko": "이 이메일 주소를 확인해 주세요"},
)


@pytest.fixture
def served(start_service, mail_server: MailServer) -> Service:  # noqa: F811
    return start_service(
        TOCSIN_SMTP_URL=mail_server.url(),
        TOCSIN_BASE_URL="https://alerts.example.com",
        TOCSIN_EMAIL_TRUSTED_DOMAINS="ours.example",
        **SIGN_IN,
    )


@pytest.fixture(params=["en", pytest.param("ko", marks=pytest.mark.long)])
def reader(request: pytest.FixtureRequest, browser: Browser, base: str) -> Iterator[tuple[str, Page]]:
    """Of the mail: nobody that the service knows."""
    locale = {"en": "en-US", "ko": "ko-KR"}[request.param]
    scheme = {"en": "light", "ko": "dark"}[request.param]
    context = browser.new_context(base_url=base, locale=locale, color_scheme=scheme)
    context.set_default_timeout(15_000)
    yield request.param, context.new_page()
    context.close()


def mails_of(server: MailServer, address: str, count: int) -> list[EmailMessage]:
    until(lambda: len([one for one in server.mails if address in one.recipients]) >= count)
    found = [email.message_from_bytes(one.content, policy=email.policy.default) for one in server.mails if address in one.recipients]
    return [one for one in found if isinstance(one, EmailMessage)]


def link_in(mail: EmailMessage) -> str:
    part = mail.get_body(("plain",))
    assert part is not None
    [link] = re.findall(r"https://alerts\.example\.com(/confirm/\S+)", part.get_content())
    return link


def test_an_address_is_confirmed_and_unsubscribes(
    reader: tuple[str, Page],
    browser: Browser,
    base: str,
    served: Service,
    mail_server: MailServer,  # noqa: F811
) -> None:
    language, page = reader
    address = f"reader.{language}@example.net"
    with served.admin() as admin:
        admin.add_user("owner@example.com", is_admin=False)
        admin.set_password("owner@example.com", PASSWORD)
        client = OwnedClient(served.port, admin.add_key("owner@example.com", "test", ()), "owner@example.com")
    context = browser.new_context(base_url=base, locale={"en": "en-US", "ko": "ko-KR"}[language])
    owner = context.new_page()
    sign_in(owner, "owner@example.com", PASSWORD)
    owner.goto("/handlers/add/email")
    owner.fill("#name", "Mine")
    owner.fill("#email", address)
    owner.click("main form button.primary")
    owner.wait_for_url("**/handlers/*?done=asked")
    expect(owner.locator("p.done")).to_contain_text(ASKED[language])
    expect(owner.locator("section.trouble h2")).to_have_text(HEADING[language])
    owner.goto("/?state=unconfirmed")
    expect(owner.locator("ul.handlers .badge")).to_have_text(BADGE[language])

    [question] = mails_of(mail_server, address, 1)
    assert question["Subject"] == SUBJECT[language]
    page.goto(link_in(question))
    expect(page.locator("main")).to_contain_text("owner@example.com")
    expect(page.locator("main")).to_contain_text(address)
    page.get_by_role("button", name=AGREE[language], exact=True).click()
    expect(page.locator("h1")).to_have_text(CONFIRMED[language])

    owner.click("ul.handlers a.name")
    owner.get_by_role("button", name=TEST[language], exact=True).click()
    expect(owner.locator("#trial .badge.green")).to_be_visible()
    handler = int(urlsplit(owner.url).path.rpartition("/")[2])
    other = client.add_handler("email", name="Other", email="owner@example.com")
    assert client.settled(client.send("x", handlers=[other]))[0]["status"] == "delivered"

    test = mails_of(mail_server, address, 2)[-1]
    page.goto(urlsplit(str(test["List-Unsubscribe"]).strip("<>")).path)
    expect(page.locator("main")).to_contain_text(address)
    assert client.handler(handler)["is_enabled"] is True
    page.get_by_role("button", name=UNSUBSCRIBE[language], exact=True).click()
    expect(page.locator("h1")).to_have_text(UNSUBSCRIBED[language])
    owner.reload()
    expect(owner.locator("section.trouble h2")).to_have_text(PAUSED[language])
    until(lambda: any(one["Subject"].endswith(TOLD[language]) for one in mails_of(mail_server, "owner@example.com", 1)))
    owner.get_by_role("button", name=ENABLE[language], exact=True).click()
    expect(owner.locator("section.trouble h2")).to_have_text(HEADING[language])
    page.goto(link_in(mails_of(mail_server, address, 3)[-1]))
    page.get_by_role("button", name=AGREE[language], exact=True).click()
    expect(page.locator("h1")).to_have_text(CONFIRMED[language])
    context.close()


def test_links_need_no_session_and_no_form_of_ours(base: str) -> None:
    """A mail program sends no cookie, and another site's name or none."""
    surfer = Surfer(base)
    for path in ("/confirm/x", "/unsubscribe/x"):
        answer = surfer.post(path, csrf="", headers={"Origin": "https://mail.example", "Sec-Fetch-Site": "cross-site"})
        assert (answer.status, "location" in answer.headers) == (404, False)
        assert answer.headers["x-robots-tag"] == "noindex, nofollow"
