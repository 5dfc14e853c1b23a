"""What an operator does in a hurry: sees what fails, does nothing by accident, finds the way back."""

import re
import socket
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from e2e.conftest import Starter
from e2e.service import Client, Service, in_an_hour, until
from receiver import Receiver
from web.conftest import EMAIL, PASSWORD, SIGN_IN, Surfer, sign_in, sql
from web.test_journeys import watched


@pytest.fixture
def client(served: Service) -> Client:
    return served.first()


def hooks(client: Client, receiver: Receiver, *names: str) -> list[int]:
    return [client.add_handler("webhook", name, webhook=receiver.url(f"/{name.replace(' ', '-')}")) for name in names]


def sent(client: Client) -> int:
    return client.get("/api/notifications").json["meta"]["total"]


# ---------------------------------------------------------------------------------------------------- what is sent by whom


def test_enter_in_a_field_sends_nothing_and_everybody_is_asked_about_first(page: Page, client: Client, receiver: Receiver) -> None:
    hooks(client, receiver, "one", "two", "three")
    said = watched(page)
    sign_in(page)
    page.goto("/send")
    page.fill("#message", "hello **all**")
    page.fill("#title", "Disk")
    page.press("#title", "Enter")
    page.wait_for_load_state()
    expect(page.locator("#title")).to_have_value("Disk")
    assert sent(client) == 0
    page.click(".actions button[value=send]")
    expect(page.locator("h1")).to_have_text("Send to 3 handlers?")
    assert sent(client) == 0
    page.click("text=Go back and choose")
    expect(page.locator("#message")).to_have_value("hello **all**")
    page.click(".actions button[value=send]")
    page.click("button:has-text('Send to 3 handlers')")
    page.wait_for_url(re.compile(r"/notifications/1\?done=sent"))
    expect(page.locator(".rows .row")).to_have_count(3)
    page.goto("/send")
    page.fill("#message", "for one")
    page.check("input[name=handlers] >> nth=0")
    page.click(".actions button[value=send]")
    page.wait_for_url(re.compile(r"/notifications/2\?done=sent"))  # who was chosen needs no question
    assert said == []


def test_the_question_is_asked_again_when_there_are_more_handlers_by_now(surfer: Surfer, client: Client, receiver: Receiver) -> None:
    hooks(client, receiver, "one", "two")
    assert "Send to 2 handlers?" in surfer.post("/send", message="x", do="send").text
    hooks(client, receiver, "three")
    assert "Send to 3 handlers?" in surfer.post("/send", message="x", do="send", all="2").text
    client.add_handler("x", "Public", x_consumer_key="k", x_consumer_secret="s", x_access_token="1-t", x_access_token_secret="t")
    assert "1 of them is public" in surfer.post("/send", message="x", do="send").text
    assert sent(client) == 0


# ------------------------------------------------------------------------------------------------------- the list of handlers


def test_a_handler_that_takes_nothing_is_first_and_says_since_when_and_why(
    start_service: Starter, receiver: Receiver, browser: Browser
) -> None:
    served = start_service(TOCSIN_RETRY_SCHEDULE="1h", TOCSIN_BOOTSTRAP_EMAIL=EMAIL, TOCSIN_BOOTSTRAP_PASSWORD=PASSWORD)
    client = served.first()
    receiver.answer("/dead", 404, body=b"no such hook")
    well, dead = hooks(client, receiver, "well", "dead")
    for _ in range(2):
        client.send("x", handlers=[well, dead])
    context = browser.new_context(base_url=f"http://127.0.0.1:{served.port}", locale="en-US")
    page = context.new_page()
    sign_in(page)
    expect(page.locator(".rows .name").first).to_have_text(re.compile("dead|well"))
    for _ in range(50):
        page.goto("/")
        if page.locator(".rows .row:has-text('2 waiting')").count():
            break
        page.wait_for_timeout(100)
    first = page.locator(".rows .row").first
    expect(first).to_contain_text("dead")
    expect(first.locator(".badge")).to_have_text("Failing")
    for words in ("404 no such hook", "for ", "2 waiting", "next try in"):
        expect(first).to_contain_text(words)
    expect(page.locator(".overview")).to_contain_text("1 handler is failing")
    page.click(".overview a.badge")
    expect(page.locator(".rows .row")).to_have_count(1)
    page.click(".rows .name")
    expect(page.locator(".trouble")).to_contain_text("The target was not found.")
    expect(page.locator(".trouble")).to_contain_text("What to do: Check the target in the settings")
    page.goto("/?lang=ko")
    expect(page.locator(".rows .row").first).to_contain_text("2건 대기 중")
    context.close()


def test_a_failing_handlers_page_says_each_thing_once_and_when_what_waits_goes_out(start_service: Starter) -> None:
    service = start_service(TOCSIN_RETRY_SCHEDULE="5m", **SIGN_IN)
    client, surfer = service.first(), Surfer(f"http://127.0.0.1:{service.port}")
    surfer.sign_in()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and listens to nothing
        hook = client.add_handler("webhook", "hook", webhook=f"http://127.0.0.1:{nobody.getsockname()[1]}/")
        client.attempted(client.send("now", title="Now", handlers=[hook]))
        client.send("later", title="Later", handlers=[hook], send_at=in_an_hour())
        page = unescape(re.sub(r"<[^>]+>", "", surfer.get(f"/handlers/{hook}").text))
    trouble, _, latest = page.partition("Latest deliveries")
    assert trouble.count("No connection could be made.") == 1
    assert re.search(r"Nownext try in (5 min( \d+ s)?|6 min) · No connection could be made\. Connection refused\.", latest)
    assert re.search(r"Laterto be sent in (59 min|1 h)", latest)


def test_an_expiry_hides_no_cause_and_is_no_attempt(start_service: Starter, receiver: Receiver) -> None:
    """Of a handler and of a delivery, before and after it has expired, in both languages."""
    service = start_service(TOCSIN_RETRY_SCHEDULE="1h", **SIGN_IN)
    client, surfer = service.first(), Surfer(f"http://127.0.0.1:{service.port}")
    surfer.sign_in()
    for _ in range(2):
        receiver.answer("/down", 500, body=b"answer <b>500</b>")
    [down] = hooks(client, receiver, "down")
    notification = client.send("x", title="Disk", handlers=[down], expires_at=in_an_hour())
    delivery = client.attempted(notification)
    service.change("UPDATE notifications SET expires_at = (SELECT due_at FROM deliveries)")

    def told(path: str) -> str:
        return " ".join(unescape(re.sub(r"<[^>]+>", " ", surfer.get(path).text)).split())

    lists = ("/log", f"/deliveries/{delivery['id']}", f"/notifications/{notification}", f"/handlers/{down}")
    for query, expires, tried in (("?lang=en", r"expires in [0-9]", "next try"), ("?lang=ko", "[분간] 후 만료", "다음 시도 [0-9]")):
        for path in lists:
            text = told(path + query)
            assert re.search(expires, text) and not re.search(tried, text), (path, query, text)
        assert not re.search(tried, told(f"/{query}"))
    soon = (datetime.now(UTC) + timedelta(seconds=3)).strftime("%Y-%m-%d %H:%M:%S")
    [expired] = client.settled(client.send("x", title="Net", handlers=[down], expires_at=soon))
    assert (expired["status"], expired["attempt_count"]) == ("expired", 1)
    health = client.get(f"/api/notification-handlers/{down}/stats").data["health"]
    assert (health["state"], health["reason"], health["detail"]) == ("failing", "server_error", "500 answer <b>500</b>")
    for query, words in (
        ("?lang=en", ("The provider had an error of its own.", "its latest message has expired", "What to do: Look at the answer")),
        ("?lang=ko", ("제공자 쪽에 오류가 있었습니다.", "마지막 메시지는 만료됨", "해결 방법: 응답과 받는 쪽의 로그를 확인하세요.")),
    ):
        for path in ("/", *lists):
            assert "server_error" not in re.sub(r'<option value="\w+">', "", surfer.get(path + query).text), (path, query)
        page = told(f"/handlers/{down}{query}")
        assert [one for one in words if one not in page] == []


def test_without_a_mail_server_that_is_said_once(surfer: Surfer, client: Client) -> None:
    mail = client.add_handler("email", "mail", email="hey@example.com")
    client.attempted(client.send("x", handlers=[mail]))
    why, detail = "E-mail is not set up.", "No mail server is configured, so e-mails wait until there is one."
    for path in ("/", "/log"):
        assert f'title="{why} {detail}"' in surfer.get(path).text
    trouble = surfer.get(f"/handlers/{mail}").text.partition("Latest deliveries")[0]
    assert (trouble.count(why), trouble.count(detail)) == (1, 1)
    trial = surfer.post("/handlers/add/email", name="m", email="hey@example.com", do="test").text
    assert f"{detail} The operator has to set TOCSIN_SMTP_URL to the mail server, and TOCSIN_EMAIL_FROM to an address." in trial


def test_where_all_is_well_there_is_no_overview(surfer: Surfer, client: Client, receiver: Receiver) -> None:
    [one] = hooks(client, receiver, "one")
    client.settled(client.send("x", handlers=[one]))
    assert 'class="card overview"' not in surfer.get("/").text


def test_handlers_are_found_by_type_and_target_and_many_are_changed_at_once(page: Page, client: Client, receiver: Receiver) -> None:
    hooks(client, receiver, "one", "two", "three")
    client.add_handler("email", "Boss", email="boss@example.org")
    client.add_handler("ntfy", "Phone", ntfy=receiver.url("/alerts"))
    sign_in(page)

    def found(query: str) -> list[str]:
        page.goto(f"/?{query}")
        return page.locator(".rows .name").all_inner_texts()

    assert found("search=example.ORG") == ["Boss"]
    assert found("search=e-mail") == ["Boss"]
    assert found("type=ntfy") == ["Phone"]
    assert found("sort=name") == ["Boss", "one", "Phone", "three", "two"]
    assert found("sort=new")[0] == "Phone"
    assert found("state=nonsense&type=nonsense&sort=nonsense&page=nonsense") == ["one", "two", "three", "Boss", "Phone"]
    assert found("search=nothing+has+this") == []
    page.goto("/")
    page.check("input[aria-label='Choose one']")
    page.check("input[aria-label='Choose two']")
    page.click("#many button[value=pause]")
    page.wait_for_url("**done=many_paused")
    assert found("state=paused") == ["one", "two"]
    page.check("input[data-all]")
    page.click("#many button[value=test]")
    expect(page.locator("h1")).to_have_text("2 of 2 tests arrived")
    found("state=paused")
    page.check("input[data-all]")
    page.click("#many button[value=delete]")
    expect(page.locator("h1")).to_have_text("Delete 2 handlers?")
    assert len(found("")) == 5  # it asks
    found("state=paused")
    page.check("input[data-all]")
    page.click("#many button[value=delete]")
    page.click("main button.danger")
    page.wait_for_url("**done=many_deleted")
    assert found("") == ["three", "Boss", "Phone"]


def test_many_are_ones_own_only(surfer: Surfer, served: Service, receiver: Receiver) -> None:
    other = served.client("handlers:write", "handlers:read")
    [theirs] = hooks(other, receiver, "theirs")
    for do in ("pause", "delete", "test"):
        assert surfer.post("/handlers/many", csrf=surfer.token(), do=do, ids=[theirs], sure="1").status == 404
    assert surfer.post("/handlers/many", csrf=surfer.token(), do="delete").status == 422
    assert other.handler(theirs)["is_enabled"]


# ------------------------------------------------------------------------------------------------------------------- secrets


def test_the_signing_secret_is_shown_and_rotated_on_its_page(surfer: Surfer, served: Service, client: Client, receiver: Receiver) -> None:
    [hook] = hooks(client, receiver, "hook")
    mail = client.add_handler("email", "mail", email="hey@example.com")
    assert f'href="/handlers/{hook}/secret"' in surfer.get(f"/handlers/{hook}").text
    secret = client.get(f"/api/notification-handlers/{hook}/secret").json["data"]["secret"]
    assert secret in unescape(surfer.get(f"/handlers/{hook}/secret").text)
    assert secret not in surfer.get(f"/handlers/{hook}").text
    rotated = surfer.post(f"/handlers/{hook}/secret")
    assert rotated.path == f"/handlers/{hook}/secret"
    now = client.get(f"/api/notification-handlers/{hook}/secret").json["data"]
    assert now["previous"] == secret and all(one in unescape(rotated.text) for one in (now["secret"], secret))
    assert surfer.get(f"/handlers/{mail}/secret").status == 404
    other = served.client("handlers:write")
    [theirs] = hooks(other, receiver, "theirs")
    assert surfer.get(f"/handlers/{theirs}/secret").status == 404


def test_a_key_is_copied_over_plain_http_too(page: Page) -> None:
    """Where there is no clipboard, the text is selected, and the button says what has happened."""
    page.add_init_script("Object.defineProperty(Navigator.prototype, 'clipboard', {get: () => undefined})")
    sign_in(page)
    page.goto("/keys")
    page.fill("#name", "deploy script")
    page.click("form.card button.primary")
    key = page.locator("#new-key").inner_text()
    button = page.locator(".card.green button[data-copy]")
    expect(button).to_be_visible()
    button.click()
    expect(button).to_have_text(re.compile("Copied|Selected"))
    assert page.evaluate("document.getSelection().toString()").strip() == key


def test_what_is_hidden_is_not_seen(browser: Browser, base: str, client: Client) -> None:
    """Without JavaScript a button that copies nothing is not there."""
    context = browser.new_context(base_url=base, java_script_enabled=False)
    page = context.new_page()
    sign_in(page)
    page.goto("/docs")
    assert page.locator("button[data-copy]").count() > 40
    expect(page.locator("button[data-copy]").first).to_be_hidden()
    context.close()


# ------------------------------------------------------------------------------------------------------------------- the log


def test_the_log_goes_on_beside_its_drawer_which_closes_three_ways(page: Page, client: Client, receiver: Receiver) -> None:
    said = watched(page)
    [hook] = hooks(client, receiver, "hook")
    client.settled(client.send("x", title="First", handlers=[hook]))
    sign_in(page)
    page.goto("/log")
    row, drawer = page.locator(".rows .name >> nth=0"), page.locator("#drawer article")
    row.click()
    expect(drawer.locator("h1")).to_be_focused()
    expect(page).to_have_url(re.compile("/deliveries/1$"))
    client.settled(client.send("x", title="Second", handlers=[hook]))
    expect(page.locator(".rows .row")).to_have_count(2)  # by itself
    expect(drawer).to_contain_text("First")
    page.keyboard.press("Escape")
    expect(drawer).to_have_count(0)
    expect(page).to_have_url(re.compile("/log$"))
    expect(page.locator(".rows .name", has_text="First")).to_be_focused()
    page.locator(".rows .name", has_text="Second").click()
    expect(drawer).to_contain_text("Second")
    page.locator(".rows .name", has_text="First").click()
    expect(drawer).to_contain_text("First")
    page.go_back()
    expect(drawer).to_have_count(0)
    expect(page).to_have_url(re.compile("/log$"))
    page.go_forward()
    expect(drawer).to_contain_text("First")
    drawer.locator("[data-close]").click()
    expect(drawer).to_have_count(0)
    page.locator(".rows .name", has_text="First").focus()
    client.settled(client.send("x", title="Third", handlers=[hook]))
    expect(page.locator(".rows .row")).to_have_count(3)  # beside a link that has the focus
    expect(page.locator(".rows .name", has_text="First")).to_be_focused()
    assert said == []


def test_back_leads_from_a_page_that_the_drawer_led_to_into_the_log(page: Page, client: Client, receiver: Receiver) -> None:
    [hook] = hooks(client, receiver, "hook")
    client.settled(client.send("x", title="First", handlers=[hook]))
    sign_in(page)
    page.goto("/log")
    page.click(".rows .name")
    page.click("#drawer a[href^='/notifications/']")
    page.wait_for_url("**/notifications/1")
    page.go_back()
    expect(page.locator("main h1")).to_be_visible()
    page.go_back()
    expect(page).to_have_url(re.compile("/log$"))
    expect(page.locator("h1")).to_have_text("Log")
    page.go_forward()
    expect(page.locator("article")).to_contain_text("First")


def test_a_row_that_is_clicked_before_the_last_one_is_there_takes_its_place(page: Page, client: Client, receiver: Receiver) -> None:
    [hook] = hooks(client, receiver, "hook")
    for title in ("First", "Second"):
        client.settled(client.send("x", title=title, handlers=[hook]))
    sign_in(page)
    page.goto("/log")
    held: list[Route] = []
    page.route("**/deliveries/1", lambda route: held.append(route))
    page.locator(".rows .name", has_text="First").click()
    page.locator(".rows .name", has_text="Second").click()
    drawer = page.locator("#drawer article")
    expect(drawer).to_contain_text("Second")
    expect(page).to_have_url(re.compile("/deliveries/2$"))
    with page.expect_response("**/deliveries/1"):
        held[0].continue_()
    expect(drawer).to_contain_text("Second")
    page.keyboard.press("Escape")
    expect(drawer).to_have_count(0)
    expect(page).to_have_url(re.compile("/log$"))


def test_escape_before_the_drawer_is_there_stays_in_the_log(page: Page, client: Client, receiver: Receiver) -> None:
    [hook] = hooks(client, receiver, "hook")
    client.settled(client.send("x", title="First", handlers=[hook]))
    sign_in(page)
    page.goto("/log")
    page.route("**/deliveries/1", lambda route: (page.keyboard.press("Escape"), route.continue_()))
    page.click(".rows .name")
    expect(page.locator("#drawer article")).to_contain_text("First")


def test_previews_that_are_overtaken_are_no_errors(page: Page, client: Client, receiver: Receiver) -> None:
    hooks(client, receiver, "one")
    said = watched(page)
    sign_in(page)
    page.goto("/send")
    for number in range(5):
        page.locator("#message").press_sequentially(f"word {number} ", delay=60)
        page.wait_for_timeout(350)
    expect(page.locator("#previews pre").first).to_contain_text("word 4")
    assert said == []


def test_reasons_are_sentences_in_both_languages(surfer: Surfer, client: Client, receiver: Receiver) -> None:
    receiver.answer("/bad", 410, body=b"we moved out")
    [bad] = hooks(client, receiver, "bad")
    [delivery] = client.settled(client.send("x", handlers=[bad]))
    for query, sentence in (("", "The target is gone."), ("?lang=ko", "대상이 사라졌습니다.")):
        for path in ("/log", f"/deliveries/{delivery['id']}", f"/notifications/{delivery['notification_id']}"):
            text = unescape(surfer.get(path + query).text)
            assert sentence in text and "gone:" not in text, (path, query)
    text = unescape(surfer.get("/log?lang=ko").text)
    assert '<option value="gone">대상이 사라졌습니다.</option>' in text


# --------------------------------------------------------------------------------------------------------------- who sees what


def test_the_footer_speaks_of_ones_own_due_deliveries(surfer: Surfer, served: Service, base: str, receiver: Receiver) -> None:
    client = served.first()
    [hook] = hooks(client, receiver, "hook")
    for _ in range(5):
        client.send("x", handlers=[hook], send_at="2027-06-01 00:00:00")
    assert "Nothing is due · all users: 5 waiting" in surfer.get("/").text  # scheduled ones are not due
    invited = surfer.post("/users", csrf=surfer.token("/users"), email="second@example.com")
    link = re.search(r"http://[^<\s]+/sign-in/[\w-]+", unescape(invited.text))
    assert link
    other = Surfer(base)
    other.post(link[0].removeprefix(base))
    footer = other.get("/").text.partition("<footer>")[2]
    assert "Nothing is due" in footer and "5" not in footer.partition("tocsin 0")[0]


def test_an_administrator_sees_whose_handlers_fail(surfer: Surfer, served: Service, receiver: Receiver) -> None:
    other = served.client("handlers:write", "handlers:read", "notifications:send", "deliveries:read")
    receiver.answer("/their-secret-path", 410, body=b"private words")
    hook = other.add_handler("webhook", "Their pager", webhook=receiver.url("/their-secret-path"))
    other.settled(other.send("x", handlers=[hook]))
    until(lambda: not other.handler(hook)["is_enabled"])
    text = unescape(surfer.get("/users").text)
    assert other.email in text and "Their pager" in text and "Switched off" in text and "The target is gone." in text
    assert "private words" not in text and "their-secret-path" not in text


# -------------------------------------------------------------------------------------------------------------------- the forms


def test_settings_are_typed_and_leave_no_trace_in_the_browser(shared_surfer: Surfer) -> None:
    def field(type_: str, name: str) -> str:
        [found] = re.findall(rf'<input id="{name}"[^>]*>', shared_surfer.get(f"/handlers/add/{type_}").text)
        return found

    assert 'type="url"' in field("webhook", "webhook") and 'type="email"' in field("email", "email")
    assert 'type="text"' in field("telegram", "telegram_chat_id")
    for type_, name in (("webhook", "webhook"), ("telegram", "telegram"), ("x", "x_consumer_secret"), ("email", "name")):
        assert 'autocomplete="off"' in field(type_, name)
    assert "No mail server is set" in shared_surfer.get("/handlers/add").text


def test_a_handler_can_be_added_without_enabling_it(page: Page, client: Client) -> None:
    sign_in(page)
    for name, is_enabled in (("off", False), ("on", True)):
        page.goto("/handlers/add/email")
        page.fill("#name", name)
        page.fill("#email", "nonsense")
        if not is_enabled:
            page.uncheck("input[name=is_enabled]")
        page.click("button[value=save]")
        expect(page.locator("#fault-email")).to_be_visible()
        assert page.is_checked("input[name=is_enabled]") is is_enabled  # it stays as it was
        page.fill("#email", "hey@example.com")
        page.click("button[value=save]")
        page.wait_for_url("**done=added")
    assert [row["is_enabled"] for row in client.get("/api/notification-handlers").json["data"]] == [False, True]


def test_advice_to_send_a_test_goes_once_one_was_sent(page: Page, client: Client, receiver: Receiver) -> None:
    sign_in(page)
    page.goto("/handlers/add/webhook")
    page.fill("#name", "pager")
    page.fill("#webhook", receiver.url("/hook"))
    page.click("button[value=save]")
    expect(page.locator(".done")).to_contain_text("Send a test to see it arrive.")
    receiver.answer("/hook", 410)
    page.click("text=Send test")
    expect(page.locator("#trial .badge")).to_have_text("Failed")
    expect(page.locator(".done")).to_have_count(0)


def test_korean_lines_break_between_words(page: Page) -> None:
    page.goto("/ko/docs")
    assert page.evaluate("getComputedStyle(document.querySelector('main p')).wordBreak") == "keep-all"


def test_nothing_scrolls_sideways_on_a_phone(browser: Browser, base: str, client: Client, surfer: Surfer, receiver: Receiver) -> None:
    receiver.answer("/dead", 410, body=b"y" * 300)
    names = [f"handler with a name {number}" for number in range(12)]
    handlers = hooks(client, receiver, *names, "dead")
    client.settled(client.send("z" * 400, title="t" * 200, handlers=[handlers[0], handlers[-1]]))
    for number in range(3):
        surfer.post("/keys", csrf=surfer.token(), name=f"a long name of a key {number} " + "k" * 60, scopes="handlers:read")
    surfer.post("/users", csrf=surfer.token(), email="somebody.with.a.very.long.address@department.example.com")
    found: dict[tuple[int, str], int] = {}
    for width in (360, 375):
        context = browser.new_context(base_url=base, viewport={"width": width, "height": 800})
        page = context.new_page()
        sign_in(page)
        paths = ("/", "/handlers/1", "/handlers/13", "/handlers/add", "/handlers/1/secret", "/log", "/deliveries/1", "/notifications/1")
        for path in (*paths, "/send", "/keys", "/users", "/account", "/docs", "/ko/docs", "/log/replay?status=failed"):
            page.goto(path)
            if (wide := page.evaluate("document.documentElement.scrollWidth")) > width:
                found[width, path] = wide
        page.goto("/log")
        assert page.locator(".rows.log .target").first.is_visible()  # or the rows of one notification would look the same
        for path in ("/keys", "/users"):  # nor does a table in its own box
            page.goto(path)
            assert page.evaluate("[...document.querySelectorAll('.scroll')].every(one => one.scrollWidth <= one.clientWidth)"), path
        context.close()
    assert found == {}


def test_settings_that_no_key_opens_are_said_to_be_lost_and_can_be_entered_again(
    client: Client, served: Service, surfer: Surfer, receiver: Receiver
) -> None:
    well, lost = hooks(client, receiver, "well", "lost")
    sql(served, f"UPDATE handlers SET settings = x'00', secret = x'00' WHERE id = {lost}")
    listed = surfer.get("/")
    assert listed.status == 200 and f"/handlers/{well}" in listed.text
    assert "The handler&#39;s stored settings cannot be used." in listed.text
    assert "Enter the handler&#39;s settings again." in surfer.get(f"/handlers/{lost}").text
    form = surfer.get(f"/handlers/{lost}/edit")
    assert form.status == 200 and "stored, locked" not in form.text
    assert surfer.post(f"/handlers/{lost}/edit", csrf=surfer.token(), name="lost", webhook="", do="save").status == 422
    assert surfer.post(f"/handlers/{lost}/edit", csrf=surfer.token(), name="lost", webhook=receiver.url("/found"), do="save").status == 200
    assert client.settled(client.send("found again", handlers=[lost]))[0]["status"] == "delivered"
