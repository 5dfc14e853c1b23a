"""What people do at the pages, in a real browser: with JavaScript and without, in English and in Korean."""

import re
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from e2e.service import Client, Service
from receiver import Receiver
from web.conftest import an_hour_later, sign_in

AXE = (Path(__file__).parent / "axe.min.js").read_text(encoding="utf-8")
# All rules, and again those that depend on colours: the dark scheme of style.css changes nothing else.
RULES: dict[Literal["light", "dark"], dict[str, Any]] = {"light": {}, "dark": {"runOnly": ["color-contrast", "link-in-text-block"]}}
# In another language there are other words, and the same colours.
KOREAN: dict[Literal["light", "dark"], dict[str, Any]] = {"light": {"rules": {"color-contrast": {"enabled": False}}}}
FORMS = {
    "email": {"email": "hey@example.com"},
    "slack": {"slack": "{url}/services/T0/B0/xxxx"},
    "discord": {"discord": "{url}/api/webhooks/1/abc"},
    "telegram": {"telegram": "123456:AAbbCCddEEffGGhhIIjjKKllMMnnOOppQQr", "telegram_chat_id": "-1001"},
    "microsoft_teams": {"microsoft_teams": "{url}/workflows/x"},
    "x": {"x_consumer_key": "k", "x_consumer_secret": "s", "x_access_token": "1-t", "x_access_token_secret": "t"},
    "google_chat": {"google_chat": "{url}/v1/spaces/S/messages?key=k&token=t"},
    "ntfy": {"ntfy": "{url}/alerts"},
    "webhook": {"webhook": "{url}/hook"},
}


@pytest.fixture
def client(served: Service) -> Client:
    return served.first()


def watched(page: Page) -> list[str]:
    """Whatever the browser complains of from now on, but for answers that are errors on purpose."""
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text) if message.type == "error" and "status of" not in message.text else None)
    return said


def test_a_first_handler_its_test_and_what_it_says(spoken: tuple[str, Page], receiver: Receiver) -> None:
    language, page = spoken
    said = watched(page)
    page.goto("/")
    expect(page.locator("html")).to_have_attribute("lang", language)
    page.click("text=Webhook")
    page.fill("#name", "당직 엔드포인트")
    page.fill("#webhook", receiver.url("/hook"))
    receiver.answer("/hook", 500, body=b"we are broken")
    receiver.answer("/hook", 200)
    page.click("button[value=test]")
    expect(page.locator(".trial.red")).to_contain_text("we are broken")
    expect(page.locator(".trial")).to_contain_text({"en": "an error of its own", "ko": "제공자 쪽에 오류"}[language])
    page.click("button[value=test]")  # it is corrected
    expect(page.locator(".trial.green")).to_be_visible()
    page.click("button[value=save]")
    page.wait_for_url("**/handlers/1?done=added")
    expect(page.locator(".done")).to_be_visible()
    page.click(".head .actions button.primary")
    expect(page.locator("#trial .trial.green")).to_be_visible()
    page.goto("/")
    expect(page.locator(".rows .name")).to_have_text("당직 엔드포인트")
    page.click(".rows form button")
    expect(page.locator("#trial-1 .trial.green")).to_be_visible()
    assert said == []


def test_every_type_can_be_added(page: Page, receiver: Receiver) -> None:
    sign_in(page)
    for type_, settings in FORMS.items():
        page.goto("/handlers/add")
        page.click(f"a[href='/handlers/add/{type_}']")
        page.fill("#name", f"my {type_}")
        for name, value in settings.items():
            page.fill(f"#{name}", value.replace("{url}", receiver.url("")))
        page.click("button[value=save]")
        page.wait_for_url(re.compile(r"/handlers/\d+\?done=added"))
        expect(page.locator("h1")).to_contain_text(f"my {type_}")
    page.goto("/")
    expect(page.locator(".rows .row")).to_have_count(len(FORMS))


def test_faults_stand_beside_their_fields_and_what_was_typed_stays(page: Page) -> None:
    sign_in(page)
    page.goto("/handlers/add/telegram")
    page.fill("#name", "my bot")
    page.fill("#telegram", "nonsense")
    page.fill("#telegram_chat_id", "12")
    page.click("button[value=save]")
    expect(page.locator("#fault-telegram")).to_be_visible()
    expect(page.locator("#telegram")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#name")).to_have_value("my bot")
    expect(page.locator("#telegram_chat_id")).to_have_value("12")


def test_sending_with_a_preview_and_watching_it_arrive(spoken: tuple[str, Page], client: Client, receiver: Receiver) -> None:
    """It waits, is tried again, arrives, and the page tells all of it by itself; then it is opened from its own address."""
    language, page = spoken
    said = watched(page)
    receiver.answer("/hook", 503, body=b"in a moment")
    receiver.answer("/hook", 200)
    client.add_handler("webhook", "endpoint", webhook=receiver.url("/hook"))
    page.goto("/send")
    page.fill("#title", "Disk")
    page.fill("#message", "**91 %** full")
    expect(page.locator("#previews pre").first).to_contain_text("91 %")
    page.click("button[value=send]")
    page.wait_for_url(re.compile(r"/notifications/1\?done=sent"))
    expect(page.locator(".rows .badge")).to_have_text({"en": "Delivered", "ko": "전송됨"}[language], timeout=20_000)
    expect(page.locator(".counts .badge")).to_have_text({"en": "1 Delivered", "ko": "1 전송됨"}[language])  # the head of the page, too
    page.click(".rows .name")
    page.wait_for_url("**/deliveries/1")
    story = page.locator(".story li")
    expect(story).to_have_count(3)
    expect(story.nth(1)).to_contain_text("503")
    expect(story.nth(2)).to_contain_text("200")
    assert said == []


@pytest.mark.parametrize(
    ("path", "fields", "button", "end"),
    [
        ("/handlers/add/webhook", {"#name": "another", "#webhook": "https://example.com/hook"}, "button.primary", "**done=added"),
        ("/send", {"#message": "once"}, "button[value=send]", "**done=sent"),
        ("/handlers/1", {}, "text=Send test", None),
    ],
)
def test_a_double_click_sends_a_form_once(
    page: Page, client: Client, receiver: Receiver, path: str, fields: dict[str, str], button: str, end: str | None
) -> None:
    client.add_handler("webhook", "hook", webhook=receiver.url("/hook"))
    sign_in(page)
    page.goto(path)
    for field, value in fields.items():
        page.fill(field, value)
    held: list[Route] = []
    page.route("**", lambda route: held.append(route) if route.request.method == "POST" else route.continue_())
    page.locator(button).scroll_into_view_if_needed()
    box = page.locator(button).bounding_box()
    assert box is not None
    with page.expect_request(lambda request: request.method == "POST"):
        page.mouse.click(box["x"] + 5, box["y"] + 5)
    page.mouse.click(box["x"] + 5, box["y"] + 5)
    page.mouse.move(0, 0)  # once this is done, so is what the click has set off
    [request] = held
    request.continue_()
    if end is None:
        expect(page.locator("#trial")).to_contain_text("It arrived.")
    else:
        page.wait_for_url(end)
    assert len(held) == 1
    if path == "/send":
        page.unroute("**")
        page.go_back()  # a page that is shown again sends again
        page.fill("#message", "twice")
        page.click(button)
        page.wait_for_url("**/notifications/2?done=sent")


def test_what_is_written_is_kept_when_the_session_has_ended(page: Page, client: Client, receiver: Receiver) -> None:
    client.add_handler("webhook", "endpoint", webhook=receiver.url("/hook"))
    sign_in(page)
    page.goto("/send")
    page.context.clear_cookies()
    page.fill("#message", "written for an hour")
    expect(page.locator("#signed-out")).to_be_visible()
    expect(page.locator("#message")).to_have_value("written for an hour")
    page.click("button[value=send]")
    expect(page.locator(".warning")).to_have_text("You had been signed out: nothing was sent or saved. Sign in, then try again.")


def test_plain_text_is_previewed_and_sent_as_such(page: Page, client: Client, receiver: Receiver) -> None:
    sign_in(page)
    client.add_handler("webhook", "endpoint", webhook=receiver.url("/hook"))
    page.goto("/send")
    page.check("input[name=format]")
    page.fill("#message", "a*b*c")
    expect(page.locator("#previews pre").first).to_contain_text(re.compile(r'"format": ?"text"'))
    page.click("button[value=send]")
    page.wait_for_url(re.compile(r"/notifications/1\?done=sent"))
    [sent] = receiver.wait(1)
    assert (sent.json()["data"]["message"], sent.json()["data"]["format"]) == ("a*b*c", "text")


def test_the_log_with_its_drawer_filters_and_replay(page: Page, client: Client, receiver: Receiver) -> None:
    said = watched(page)
    receiver.answer("/bad", 400, body=b"no")
    good = client.add_handler("webhook", "good", webhook=receiver.url("/good"))
    bad = client.add_handler("webhook", "bad", webhook=receiver.url("/bad"))
    client.settled(client.send("about disks", title="Disk", handlers=[good, bad]), 20)
    client.settled(client.send("about nets", title="Net", severity="critical", handlers=[good]))
    sign_in(page)
    for query, count in ((f"handler={bad}&reason=rejected", 1), (f"handler={good}&reason=rejected", 0), ("reason=timeout", 0)):
        page.goto(f"/log?{query}")
        expect(page.locator(".rows .row")).to_have_count(count)
    page.goto("/log")
    expect(page.locator(".rows .row")).to_have_count(3)
    page.click(".rows .name >> nth=0")
    expect(page.locator("#drawer article")).to_contain_text("Net")
    page.select_option("select[name=status]", "failed")
    page.click(".filters button")
    expect(page.locator(".rows .row")).to_have_count(1)
    assert "status=failed" in page.url
    page.click("text=Send these again…")
    expect(page.locator("h1")).to_have_text("Send 1 delivery again?")
    receiver.answer("/bad", 200)
    receiver.answer("/bad", 200)
    page.click("button.primary")
    page.wait_for_url("**done=replayed")
    page.goto("/log?severity=critical")
    expect(page.locator(".rows .row")).to_have_count(1)
    page.goto("/log?search=disks")
    expect(page.locator(".rows .row")).to_have_count(2)
    assert said == []


def test_keys_and_signing_out(page: Page, served: Service) -> None:
    sign_in(page)
    page.goto("/keys")
    page.fill("#name", "deploy script")
    page.click("form.card button.primary")
    key = page.locator("#new-key").inner_text()
    client = served.first()
    client.key = key
    assert client.get("/api/notification-handlers").status == 200
    page.reload()
    expect(page.locator("#new-key")).to_have_count(0)
    expect(page.locator("tr", has_text="deploy script")).to_have_count(1)  # a reload makes no other one
    page.goto("/keys")
    page.get_by_role("link", name="Revoke… deploy script").click()
    expect(page.locator("h1")).to_have_text("Revoke deploy script?")
    assert client.get("/api/notification-handlers").status == 200  # a click asks
    page.click("main button.danger")
    page.wait_for_url("**done=revoked")
    assert client.get("/api/notification-handlers").status == 401
    page.goto("/docs")
    page.click("#key-place button")
    expect(page.locator("#key-place pre")).to_contain_text("export TOCSIN_API_KEY=tk_")
    page.click("text=Sign out")
    page.wait_for_url("**/sign-in")
    page.goto("/log")
    expect(page).to_have_url(re.compile(r"/sign-in\?to=/log$"))


def test_pausing_deleting_and_what_they_take_along(page: Page, client: Client, receiver: Receiver) -> None:
    client.add_handler("webhook", "endpoint", webhook=receiver.url("/hook"))
    sign_in(page)
    page.goto("/handlers/1")
    page.click("text=Pause")
    expect(page.locator(".badge >> nth=0")).to_have_text("Paused by you")
    page.click("main .actions button:has-text('Enable')")
    expect(page.locator(".badge >> nth=0")).to_have_text("Ready")
    page.click("text=Delete")
    expect(page.locator("main")).to_contain_text("cannot be restored")
    page.click("button.danger")
    page.wait_for_url("**/?done=deleted")
    assert client.get("/api/notification-handlers").json["meta"]["total"] == 0


def test_without_javascript_everything_works(browser: Browser, base: str, client: Client, receiver: Receiver) -> None:
    receiver.answer("/bad", 400)
    client.add_handler("webhook", "endpoint", webhook=receiver.url("/hook"))
    bad = client.add_handler("webhook", "bad", webhook=receiver.url("/bad"))
    client.settled(client.send("x", title="Disk", handlers=[bad]), 20)
    context = browser.new_context(base_url=base, java_script_enabled=False)
    page = context.new_page()
    sign_in(page)
    page.goto("/log?status=failed")
    page.click(".rows .name")
    page.wait_for_url("**/deliveries/1")
    receiver.answer("/bad", 200)
    receiver.answer("/bad", 200)
    page.click("text=Retry now")
    page.wait_for_url("**/deliveries/1?done=retried")
    page.goto("/handlers/1")
    page.click(".head .actions button.primary")
    expect(page.locator(".trial.green")).to_be_visible()
    page.goto("/send")
    page.fill("#message", "hello")
    page.check("input[name=handlers] >> nth=0")
    page.click(".actions button[value=preview]")
    expect(page.locator("#previews pre").first).to_contain_text("hello")
    expect(page.locator("#message")).to_have_value("hello")
    page.click("button[value=send]")
    page.wait_for_url("**/notifications/2?done=sent")
    page.click(".languages a[lang=ko]")
    expect(page.locator("html")).to_have_attribute("lang", "ko")
    context.close()


def test_the_keyboard_goes_all_the_way(page: Page, client: Client, receiver: Receiver) -> None:
    client.add_handler("webhook", "endpoint", webhook=receiver.url("/hook"))
    sign_in(page)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    for _ in range(10):  # add a handler, four filters and their button, all of them, its box, its name, its test
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#trial-1 .trial.green")).to_be_visible()


def test_no_page_has_an_accessibility_violation(browser: Browser, served: Service, base: str, client: Client, receiver: Receiver) -> None:
    """In the light scheme and in the dark one, which changes nothing but colours."""
    receiver.answer("/bad", 410, body=b"no more")
    good = client.add_handler("webhook", "good", webhook=receiver.url("/good"))
    bad = client.add_handler("webhook", "bad", webhook=receiver.url("/bad"))
    client.settled(client.send("about **disks**", title="Disk", handlers=[good, bad], fields={"host": "db-1"}))
    context = browser.new_context(base_url=base, bypass_csp=True)  # for axe itself
    context.add_init_script(AXE)
    page = context.new_page()
    found: dict[tuple[str, str], list[str]] = {}

    def look(name: str) -> None:
        for scheme, rules in (KOREAN if name.startswith("/ko/") else RULES).items():
            page.emulate_media(color_scheme=scheme)
            violations = page.evaluate(
                "async rules => (await axe.run(document, {...rules, resultTypes: ['violations']})).violations", rules
            )
            if violations:
                found[name, scheme] = [f"{one['id']}: {one['nodes'][0]['html'][:120]}" for one in violations]

    page.goto("/sign-in")
    look("/sign-in")
    sign_in(page)
    for path in (
        *(
            "/",
            "/handlers/add",
            "/handlers/add/x",
            f"/handlers/{good}",
            f"/handlers/{bad}",
            f"/handlers/{good}/edit",
            f"/handlers/{bad}/delete",
        ),
        *("/log", "/log?status=expired", "/log/replay?status=failed", "/deliveries/1", "/deliveries/2", "/notifications/1"),
        *("/send", "/keys", "/account", "/users", "/workers", "/docs", "/ko/docs", "/docs/channels/slack", "/nowhere"),
    ):
        page.goto(path)
        look(path)
    an_hour_later(served)
    page.goto("/confirm?to=/keys")
    page.fill("#confirm_password", "not this one")
    page.click("main button.primary")
    look("a question who it is, with a fault")
    page.goto("/log")
    page.click(".rows .name >> nth=0")
    expect(page.locator("#drawer article")).to_be_visible()
    look("the drawer")
    page.goto("/handlers/add/telegram")
    page.fill("#name", "x")
    page.fill("#telegram", "x")
    page.fill("#telegram_chat_id", "x")
    page.click("button[value=save]")
    look("a form with faults")
    page.goto(f"/handlers/{good}")
    page.click(".head .actions button.primary")
    expect(page.locator("#trial .trial")).to_be_visible()
    look("a test")
    context.close()
    assert found == {}


def test_nothing_sticks_out_at_360_pixels(browser: Browser, base: str, client: Client, receiver: Receiver) -> None:
    client.add_handler("webhook", "a name without any space in it " + "x" * 80, webhook=receiver.url("/" + "y" * 200))
    client.settled(client.send("z" * 400, title="t" * 200))
    context = browser.new_context(base_url=base, viewport={"width": 360, "height": 800})
    page = context.new_page()
    sign_in(page)
    widths: dict[str, int] = {}
    for path in ("/", "/handlers/1", "/log", "/deliveries/1", "/send", "/keys", "/account", "/users", "/docs", "/docs/channels/telegram"):
        page.goto(path)
        widths[path] = page.evaluate("document.documentElement.scrollWidth")
    context.close()
    assert {path: width for path, width in widths.items() if width > 360} == {}


def test_the_first_page_is_small(shared_base: str, browser: Browser) -> None:
    context = browser.new_context(base_url=shared_base)
    page = context.new_page()
    sizes: list[int] = []
    page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"] + request.sizes()["responseHeadersSize"]))
    sign_in(page)
    assert 0 < sum(sizes) < 60_000, sizes
    context.close()
