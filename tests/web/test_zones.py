"""A user's time zone: set on the account page, told beside every time, and read where times are typed."""

import re
from html import unescape
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Browser, Page, expect

from e2e.conftest import Starter
from e2e.service import Client, Service, in_an_hour, until
from receiver import Receiver
from tocsin.zones import shown
from web.conftest import EMAIL, SIGN_IN, Surfer, sign_in
from web.test_journeys import watched


@pytest.fixture
def client(served: Service) -> Client:
    return served.first()


def choose(surfer: Surfer, zone: str) -> str:
    return unescape(surfer.post("/account/time-zone", csrf=surfer.token(), time_zone=zone).text)


def test_the_zone_is_chosen_on_the_account_page(surfer: Surfer, served: Service) -> None:
    page = unescape(surfer.get("/account").text)
    assert "Times in UTC" in page and 'data-suggested="zone-suggested"' in page
    assert '<option value="Asia/Kathmandu">' in page and '<option value="UTC">' in page and 'value="localtime"' not in page
    page = choose(surfer, "asia/kathmandu")
    assert "Saved. Times are now shown in Asia/Kathmandu." in page and 'value="Asia/Kathmandu" placeholder' in page
    assert re.search(r"The current time is \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\+05:45\.", page) and "data-suggested=" not in page
    assert served.rows("SELECT time_zone FROM users WHERE email = ?", EMAIL) == [("Asia/Kathmandu",)]

    answer = surfer.post("/account/time-zone", csrf=surfer.token(), time_zone="Kathmando<b>")
    assert answer.status == 422 and "There is no time zone Kathmando&lt;b&gt;. Similar names: Asia/Kathmandu" in answer.text
    assert 'value="Kathmando&lt;b&gt;"' in answer.text and "Times in Asia/Kathmandu" in answer.text  # as it was before
    assert "Times in UTC" in choose(surfer, "")
    assert served.rows("SELECT time_zone FROM users WHERE email = ?", EMAIL) == [(None,)]


def test_the_browsers_zone_is_suggested_to_who_has_none(browser: Browser, base: str) -> None:
    context = browser.new_context(base_url=base, locale="en-US", timezone_id="Asia/Kathmandu")
    page = context.new_page()
    said = watched(page)
    sign_in(page)
    page.goto("/account")
    own = page.evaluate("Intl.DateTimeFormat().resolvedOptions().timeZone")  # browsers know it by its old name, too
    assert own in {"Asia/Kathmandu", "Asia/Katmandu"}
    expect(page.locator("#time_zone")).to_have_value(own)
    expect(page.locator("#zone-suggested")).to_be_visible()
    expect(page.locator("footer")).to_contain_text("Times in UTC")  # a suggestion changes nothing
    page.click("form[action='/account/time-zone'] button")
    page.wait_for_url("**/account?done=time_zone")
    expect(page.locator("footer")).to_contain_text(f"Times in {own}")
    expect(page.locator("#zone-suggested")).to_be_hidden()
    page.fill("#time_zone", "Europe/Berlin")
    page.press("#time_zone", "Enter")
    expect(page.locator("footer")).to_contain_text("Times in Europe/Berlin")
    expect(page.locator("#time_zone")).to_have_value("Europe/Berlin")
    assert said == []
    context.close()


def test_a_zone_that_is_no_longer_known_is_said_and_times_are_utc(surfer: Surfer, served: Service) -> None:
    served.change("UPDATE users SET time_zone = ?", "Gone/Away")
    page = unescape(surfer.get("/account").text)
    assert "This service no longer knows the time zone Gone/Away, so times are shown in UTC. Choose another one." in page
    assert "Times in UTC" in page and re.search(r"The current time is [\d: -]+ UTC\.", page)


def test_every_page_tells_times_in_it(surfer: Surfer, served: Service, client: Client, receiver: Receiver) -> None:
    choose(surfer, "Asia/Kathmandu")
    receiver.answer("/hook", 404)
    hook = client.add_handler("webhook", "hook", webhook=receiver.url("/hook"))
    lost = client.send("lost", title="lost", handlers=[hook])
    [delivery] = client.settled(lost)
    far = client.send("far", title="far", handlers=[hook], expires_at="9999-12-31 23:59:59")
    client.settled(far)
    served.change("UPDATE deliveries SET created_at = 1795514400000000 WHERE notification_id = 1")  # 2026-11-24 10:00:00 UTC
    served.change("UPDATE attempts SET at = 1795514401000000 + 60000000 * number WHERE delivery_id = 1")
    local = "2026-11-24 15:45:00 UTC+05:45"
    assert f'title="{local}"' in surfer.get("/log").text
    assert f'title="{local}"' in surfer.get(f"/handlers/{hook}").text
    assert f'title="{local}"' in surfer.get(f"/notifications/{lost}").text
    story = surfer.get(f"/deliveries/{delivery['id']}").text
    assert f">{local}</time> Accepted." in story  # the zone beside the first
    assert re.search(r">15:46:01</time> Attempt 1: ", story)
    assert "expires 9999-12-31 23:59:59 UTC" in surfer.get(f"/notifications/{far}").text.replace("\n", " ")
    assert "2026-11-24 10:00:00 UTC" in surfer.get("/log/export.csv").text  # for programs
    assert client.get(f"/api/deliveries/{delivery['id']}").data["datetime"] == "2026-11-24 10:00:00"
    rotated = surfer.post(f"/handlers/{hook}/secret")
    assert re.search(r"The previous secret signs too, until [\d: -]+ UTC\+05:45:", rotated.text)


def test_charts_tell_hours_in_it(surfer: Surfer, served: Service, client: Client, receiver: Receiver) -> None:
    receiver.answer("/hook", 404)
    hook = client.add_handler("webhook", "hook", webhook=receiver.url("/hook"))
    client.settled(client.send("x", handlers=[hook]))
    served.terminate()  # what the hours hold is kept
    served.start()
    surfer.base = f"http://127.0.0.1:{served.port}"
    for zone, minutes, offset in (("UTC", "00", "UTC"), ("Asia/Kolkata", "30", "UTC+05:30"), ("Asia/Kathmandu", "45", "UTC+05:45")):
        choose(surfer, zone)
        for path, label in (("/", r"\d\d"), (f"/handlers/{hook}", r"\d\d-\d\d \d\d")):
            page = unescape(surfer.get(path).text)
            assert page.count(f">Times in {zone}<") == 2  # beside the chart, and at the foot
            assert re.search(rf">{label}:{minutes} {re.escape(offset)}: 0 delivered, 1 failed</title>", page), (path, zone)
        assert re.search(rf'<td class="mono">\d\d-\d\d \d\d:{minutes} {re.escape(offset)}</td>', page), zone


def test_the_logs_filters_are_in_it(surfer: Surfer, served: Service, client: Client, receiver: Receiver) -> None:
    """Clocks in Berlin went from 02:00 to 03:00 on 29 March 2026, and back from 03:00 to 02:00 on 25 October 2026."""
    hook = client.add_handler("webhook", "hook", webhook=receiver.url("/hook"))
    moments = {
        "before the gap": 1774745999,  # 00:59:59 UTC, 01:59:59 there
        "behind the gap": 1774746000,  # 01:00:00 UTC, 03:00:00 there
        "the first half past two": 1792888200,  # 00:30:00 UTC
        "the second half past two": 1792891800,  # 01:30:00 UTC
    }
    for title, second in moments.items():
        notification = client.send(title, title=title, handlers=[hook])
        client.settled(notification)
        served.change("UPDATE deliveries SET created_at = ? * 1000000 WHERE notification_id = ?", second, notification)

    def found(**times: str) -> list[str]:
        query = "&".join(f"{name}={value}" for name, value in times.items())
        return [title for title in moments if f">{title}</a>" in surfer.get(f"/log?{query}").text]

    assert "From (UTC)" in surfer.get("/log").text
    assert found(**{"from": "2026-03-29T01:00", "to": "2026-03-29T01:00"}) == ["behind the gap"]
    choose(surfer, "Europe/Berlin")
    page = surfer.get("/log").text
    assert "From (Europe/Berlin)" in page and "To (Europe/Berlin)" in page
    assert found(**{"from": "2026-03-29T03:00", "to": "2026-03-29T03:00"}) == ["behind the gap"]
    assert found(**{"from": "2026-03-29T02:15", "to": "2026-04-01T00:00"}) == ["behind the gap"]
    assert found(**{"from": "2026-03-01T00:00", "to": "2026-03-29T02:45"}) == ["before the gap", "behind the gap"]
    assert found(**{"from": "2026-10-25T02:30", "to": "2026-10-25T02:30"}) == ["the first half past two", "the second half past two"]
    asked = surfer.get("/log/replay?from=2026-03-29T02:15&to=2026-10-25T02:30").text  # the moments that they mean
    assert "<dd>2026-03-29 03:00:00 UTC+02:00</dd>" in asked and "<dd>2026-10-25 02:30:00 UTC+01:00</dd>" in asked
    assert found(**{"from": "2026-10-25T02:31", "to": "2026-10-25T02:59"}) == ["the second half past two"]


@pytest.mark.parametrize(
    ("zone", "given", "taken", "note"),
    [
        ("", "2027-03-28T02:30", "2027-03-28 02:30:00", ""),
        ("Asia/Kathmandu", "2027-03-28T02:30", "2027-03-27 20:45:00", ""),
        (
            "Europe/Berlin",
            "2027-03-28T02:30",
            "2027-03-28 01:00:00",
            "2027-03-28 02:30 does not exist in Europe/Berlin: the clocks go forward. 2027-03-28 03:00:00 UTC+02:00 is used instead.",
        ),
        (
            "America/New_York",
            "2027-11-07T01:30:30",
            "2027-11-07 05:30:30",
            "2027-11-07 01:30:30 occurs twice in America/New_York: the clocks go back."
            " The first one, 2027-11-07 01:30:30 UTC-04:00, is used.",
        ),
    ],
)
def test_the_send_page_reads_times_in_it_and_says_which_it_takes(
    surfer: Surfer, client: Client, receiver: Receiver, zone: str, given: str, taken: str, note: str
) -> None:
    hook = client.add_handler("webhook", "hook", webhook=receiver.url("/hook"))
    client.add_handler("webhook", "other", webhook=receiver.url("/other"))
    choose(surfer, zone)
    name = zone or "UTC"
    page = surfer.get("/send").text
    assert f"Send at ({name})" in page and f"Expires at ({name})" in page
    form = {"message": "later", "send_at": given}
    previewed = unescape(surfer.post("/send", do="preview", handlers=hook, **form).text)
    assert f'value="{given}"' in previewed and note in previewed and previewed.count('<p class="warning">') == bool(note)
    asked = unescape(surfer.post("/send", do="send", **form).text)
    assert note in asked and f"It will be sent at {told(taken, zone)}." in asked
    done = unescape(surfer.post("/send", do="send", handlers=hook, **form).text)
    assert f"to be sent {told(taken, zone)}" in done
    assert "Accepted. It will be sent at the time below." in done and "on its way" not in done
    [made] = client.get("/api/notifications").data
    assert made["send_at"] == taken  # the API keeps to UTC


def told(taken: str, zone: str) -> str:
    return {
        "": f"{taken} UTC",
        "Asia/Kathmandu": "2027-03-28 02:30:00 UTC+05:45",
        "Europe/Berlin": "2027-03-28 03:00:00 UTC+02:00",
        "America/New_York": "2027-11-07 01:30:30 UTC-04:00",
    }[zone]


def test_an_expiry_is_in_it_and_what_is_no_time_is_refused(surfer: Surfer, client: Client, receiver: Receiver) -> None:
    hook = client.add_handler("webhook", "hook", webhook=receiver.url("/hook"))
    choose(surfer, "Asia/Seoul")
    surfer.post("/send", do="send", handlers=hook, message="x", send_at="2027-01-01T09:00", expires_at="2027-01-01T10:00")
    [made] = client.get("/api/notifications").data
    assert (made["send_at"], made["expires_at"]) == ("2027-01-01 00:00:00", "2027-01-01 01:00:00")
    for given, fault in (
        ("tomorrow", "Enter a date and time such as 2026-11-23 10:00."),
        ("0001-01-01T00:00", "Enter a date and time such as 2026-11-23 10:00."),
        ("2999-01-01T00:00", "send_at must be at most a year ahead."),
    ):
        answer = surfer.post("/send", do="send", handlers=hook, message="x", send_at=given)
        assert answer.status == 422 and fault in answer.text and f'value="{given}"' in answer.text
    assert client.get("/api/notifications").json["meta"]["total"] == 1


def test_it_is_previewed_while_it_is_typed(page: Page, surfer: Surfer, client: Client, receiver: Receiver) -> None:
    client.add_handler("webhook", "hook", webhook=receiver.url("/hook"))
    choose(surfer, "Europe/Berlin")
    said = watched(page)
    sign_in(page)
    page.goto("/send")
    page.fill("#message", "later")
    page.click("text=Fields and times")
    page.fill("#send_at", "2027-03-28T02:30")
    expect(page.locator("#previews .warning")).to_contain_text("does not exist in Europe/Berlin")
    page.fill("#send_at", "2027-03-28T04:30")
    expect(page.locator("#previews .warning")).to_have_count(0)
    assert said == []


def test_it_is_told_in_korean(surfer: Surfer) -> None:
    surfer.get("/account?lang=ko")
    page = choose(surfer, "Asia/Seoul")
    assert "이제 시각을 Asia/Seoul 기준으로 표시합니다." in page and re.search(r"현재 시각은 [\d: -]+ UTC\+09:00입니다\.", page)
    page = choose(surfer, "Seoul")
    assert "Seoul이라는 시간대는 없습니다. 비슷한 이름: Asia/Seoul" in page


def test_late_is_said_in_the_owners_zone_from_the_next_attempt_on(start_service: Starter, receiver: Receiver) -> None:
    service = start_service(TOCSIN_RETRY_SCHEDULE=",".join(["0.3s"] * 60), **SIGN_IN)
    client = service.first()
    receiver.answer("/slack", 500)
    handler = client.add_handler("slack", slack=receiver.url("/slack"))
    notification = client.send("Hello", handlers=[handler], send_at=in_an_hour())
    service.kill()
    service.change("UPDATE deliveries SET due_at = created_at - 600000000, first_due_at = created_at - 600000000")
    client.port = service.start().port
    surfer = Surfer(f"http://127.0.0.1:{service.port}")
    surfer.sign_in()

    def stamp_from_now_on() -> str:
        """Of an attempt that began after now; one may have been on its way."""
        seen = len(receiver.requests)
        until(lambda: len(receiver.requests) >= seen + 2)
        return receiver.requests[seen + 1].json()["text"].splitlines()[1]

    [[due]] = service.rows("SELECT first_due_at FROM deliveries")
    for zone in ("UTC", "Asia/Kathmandu", "America/St_Johns"):
        if zone != "UTC":
            choose(surfer, zone)
        assert stamp_from_now_on() == f"Late: this was meant for {shown(due, ZoneInfo(zone))}"
    with service.admin() as admin:  # another process
        admin.set_user(EMAIL, "Asia/Seoul", None)
    until(lambda: f"Late: this was meant for {shown(due, ZoneInfo('Asia/Seoul'))}" in receiver.requests[-1].json()["text"], 5)
    assert client.deliveries(notification)[0]["status"] == "pending"
