"""What can be read at each width: words that matter are not cut, and nothing runs under its neighbour."""

import pytest
from playwright.sync_api import Browser, Page

from e2e.conftest import Starter
from e2e.service import Client, Service
from receiver import Receiver
from web.conftest import SIGN_IN, sign_in

WIDTHS = (375, 900, 1100, 1280, 1920)
LONG = "The provider answered with a redirect, which is not followed."  # among the longest reasons
CUT = "elements => elements.filter(e => e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight + 1).map(e => e.innerText)"


@pytest.fixture
def served(start_service: Starter) -> Service:
    return start_service(TOCSIN_RETRY_SCHEDULE="10h", **SIGN_IN)


@pytest.fixture
def client(served: Service) -> Client:
    return served.first()


def failing(client: Client, served: Service, receiver: Receiver) -> None:
    """Three, for some minutes and seconds, so that all there is to say of them is as long as it gets."""
    receiver.answer("/dead", 404, body=b"no such hook: it was deleted by its owner")
    receiver.answer("/moved", 302)
    hooks = [client.add_handler("webhook", name, webhook=receiver.url(f"/{name}")) for name in ("dead", "moved")]
    mail = client.add_handler("email", "mail", email="hey@example.com")
    client.attempted(client.send("x", title="Disk of db-1", handlers=[hooks[0]]))
    client.attempted(client.send("x", title="Disk of db-1", handlers=[hooks[1]]))
    client.attempted(client.send("x", title="Disk of db-1", handlers=[mail]))
    for change in ("deliveries SET created_at = created_at - 142000000", "attempts SET at = at - 103000000"):
        served.change(f"UPDATE {change}")


@pytest.fixture(params=["en-US", "ko-KR"])
def page(request: pytest.FixtureRequest, browser: Browser, base: str) -> Page:
    context = browser.new_context(base_url=base, locale=request.param)
    request.addfinalizer(context.close)
    context.set_default_timeout(15_000)
    found = context.new_page()
    sign_in(found)
    return found


def test_why_a_handler_fails_is_read_in_the_list(page: Page, client: Client, served: Service, receiver: Receiver) -> None:
    failing(client, served, receiver)
    page.goto("/")
    said = page.locator(".rows .said")
    assert said.count() == 3
    assert page.locator("html").get_attribute("lang") != "en" or LONG in said.all_inner_texts()
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.locator(".rows :is(.said, .why, .facts-line)").evaluate_all(CUT) == [], width
        # Each in a place of its own: whatever follows a cell begins behind its end.
        for row in page.locator(".rows .row").all():
            how, last = row.locator(".how").bounding_box(), row.locator(".last").bounding_box()
            assert how is not None and (last is None or how["x"] + how["width"] <= last["x"]), width


def test_times_do_not_run_under_what_follows_them(page: Page, client: Client, served: Service, receiver: Receiver) -> None:
    failing(client, served, receiver)
    for path in ("/log", "/notifications/1", "/handlers/1"):
        page.goto(path)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.locator(".rows .row > :is(time, .badge)").evaluate_all(CUT) == [], (path, width)
            if width == 900 and path == "/log":  # narrow, but the reason has a line of its own
                assert min(page.locator(".rows .why").evaluate_all("elements => elements.map(e => e.clientWidth)")) > 500
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto("/log")
    page.click(".rows .name >> nth=0")
    page.wait_for_selector("#drawer article")
    for width in WIDTHS[1:]:  # a drawer covers the log of a narrow screen
        page.set_viewport_size({"width": width, "height": 900})
        assert page.locator(".rows .row > :is(time, .badge)").evaluate_all(CUT) == [], width
        assert page.locator(".rows .name").evaluate_all(CUT) == [], width
