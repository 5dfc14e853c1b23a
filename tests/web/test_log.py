"""The delivery log as it is read without a browser."""

import re
from html import unescape

from e2e.service import Service, in_an_hour
from receiver import Receiver
from tocsin.channels.registry import CHANNELS
from web.conftest import Surfer


def test_the_log_is_read_page_by_page_while_more_arrives(surfer: Surfer, served: Service, receiver: Receiver) -> None:
    client = served.first()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))

    def send(count: int) -> None:
        wanted = [{"message": f"number {number}", "handlers": [handler]} for number in range(count)]
        assert client.post("/api/notifications/batch", {"notifications": wanted}).status == 202

    send(120)
    path, pages = "/log", []
    while path:
        page = surfer.get(path)
        pages.append([int(found) for found in re.findall(r'href="/deliveries/(\d+)"', page.text)])
        assert ("Newest" in page.text) is (len(pages) > 1)
        older = re.search(r'href="/log\?&amp;(before=\d+)">Older', page.text)
        path = f"/log?{older[1]}" if older else ""
        send(1)  # moves nothing to a page that was read already
    assert [len(page) for page in pages] == [50, 50, 20]
    assert [one for page in pages for one in page] == list(range(120, 0, -1))


def test_an_address_that_was_cut_short_leads_to_its_list(surfer: Surfer) -> None:
    found = {path: surfer.get(path).path for path in ("/handlers", "/deliveries", "/notifications")}
    assert found == {"/handlers": "/", "/deliveries": "/log", "/notifications": "/log"}


def test_a_delivery_shows_what_the_provider_calls_the_message(surfer: Surfer, served: Service, receiver: Receiver) -> None:
    client = served.first()
    receiver.answer("/", 200, body=b'{"id": "hwQ2YpKdmg", "event": "message"}')
    handler = client.add_handler("ntfy", ntfy=receiver.url("/alarms"))
    [delivery] = client.settled(client.send("full", handlers=[handler]))
    assert (delivery["status"], delivery["attempts"][0]["provider_id"]) == ("delivered", "hwQ2YpKdmg")
    page = surfer.get(f"/deliveries/{delivery['id']}").text
    assert "Id at the provider: hwQ2YpKdmg" in page
    dead = client.add_handler("webhook", webhook=receiver.url("/gone"))
    receiver.answer("/gone", 410)
    [delivery] = client.settled(client.send("full", handlers=[dead]))
    assert "it wants no more messages." in surfer.get(f"/deliveries/{delivery['id']}").text


def test_what_a_disabled_handler_was_to_get_is_not_sent_again_and_the_page_says_why(
    surfer: Surfer, served: Service, receiver: Receiver
) -> None:
    client = served.first()
    hook = client.add_handler("webhook", webhook=receiver.url("/hook"))
    notification = client.send("x", handlers=[hook], send_at=in_an_hour())
    client.change(hook, is_enabled="0")
    [delivery] = client.settled(notification)
    path = f"/deliveries/{delivery['id']}"
    page = surfer.get(path).text
    assert "Retry now" not in page and "It cannot be sent again while its handler is not enabled." in page
    answer = surfer.post(f"{path}/retry", csrf=surfer.token())
    assert answer.url.endswith(path) and "It is being sent again." not in answer.text
    asked = unescape(surfer.get(f"/log/replay?handler={hook}").text)
    assert "There is nothing to send again" in asked and "1 more goes to a handler that is not enabled" in asked
    assert client.post(f"/api{path}/retry").data == {"retried": 0}
    assert client.delivery(delivery["id"])["status"] == "skipped"

    client.change(hook, is_enabled="1")
    assert "Send 1 delivery again?" in surfer.get(f"/log/replay?handler={hook}").text
    assert surfer.post(f"{path}/retry", csrf=surfer.token()).url.endswith("?done=retried")
    [delivery] = client.settled(notification)
    told = [event["text"] for event in delivery["events"]]
    assert "To be sent again, by request." in told and told.index("Skipped: The handler is paused.") < told.index(
        "To be sent again, by request."
    )
    assert told[-1].startswith("Attempt 1: delivered")


def test_one_delivery_is_cancelled_from_its_page_and_the_others_go_on(surfer: Surfer, served: Service, receiver: Receiver) -> None:
    client = served.first()
    hooks = [client.add_handler("webhook", webhook=receiver.url(f"/{name}")) for name in ("one", "other")]
    first, second = client.deliveries(client.send("x", handlers=hooks, send_at=in_an_hour()))
    path = f"/deliveries/{first['id']}"
    page = surfer.get(path).text
    assert "Cancel this delivery" in page and "Cancel the notification" in page
    token = surfer.token()
    assert "Cancelled." in surfer.post(f"{path}/cancel", csrf=token).text
    assert [client.delivery(one["id"])["status"] for one in (first, second)] == ["cancelled", "pending"]
    assert "It was not waiting any more" in surfer.post(f"{path}/cancel", csrf=token).text
    assert "Cancel the notification" not in surfer.get(f"/deliveries/{second['id']}").text  # it would do the same
    assert surfer.post("/deliveries/987654/cancel", csrf=token).status == 404


def test_what_the_provider_said_is_told_once_beside_its_answer(surfer: Surfer, served: Service, receiver: Receiver) -> None:
    client = served.first()
    for _ in range(4):
        receiver.answer("/hook", 404, body=b"no such hook")
    hook = client.add_handler("webhook", webhook=receiver.url("/hook"))
    [delivery] = client.settled(client.send("x", handlers=[hook]))
    page = surfer.get(f"/deliveries/{delivery['id']}").text
    assert page.count("404 no such hook") == 1  # why it failed
    assert page.count('<pre tabindex="0">no such hook</pre>') == 3  # the answers
    trial = client.post(f"/api/notification-handlers/{hook}/test").data
    assert trial["response"] == "no such hook"
    assert "HTTP 404." in trial["hint"] and "no such hook" not in trial["hint"]


def test_the_whole_notification_is_shown_with_its_link_and_fields(surfer: Surfer, served: Service, receiver: Receiver) -> None:
    client = served.first()
    hook = client.add_handler("webhook", webhook=receiver.url("/hook"))
    fields = {"host": "db-<1>"}
    [delivery] = client.settled(client.send("full", handlers=[hook], url="https://status.example.com/7?a=1&b=2", fields=fields))
    for path in (f"/notifications/{delivery['notification_id']}", f"/deliveries/{delivery['id']}"):
        page = surfer.get(path).text
        assert '<a href="https://status.example.com/7?a=1&amp;b=2" rel="noopener noreferrer">' in page
        assert "<dt>host</dt><dd>db-&lt;1&gt;</dd>" in page
    assert "link to this delivery" not in page  # it is this page
    assert "link to this delivery" in surfer.get(f"/deliveries/{delivery['id']}", hx_request="true").text


def test_after_an_outage_everything_since_the_first_failure_is_sent_again(surfer: Surfer, served: Service, receiver: Receiver) -> None:
    """From the page of a delivery, and from the handler's."""
    client = served.first()
    down = client.add_handler("webhook", webhook=receiver.url("/down"))
    assert "Send again what did not arrive…" not in surfer.get(f"/handlers/{down}").text
    receiver.answer("/down", 410)
    [lost] = client.settled(client.send("lost", handlers=[down]))
    [skipped] = client.settled(client.send("skipped", handlers=[down]))
    assert "Send again what did not arrive…" not in surfer.get(f"/handlers/{down}").text  # it takes nothing yet
    client.change(down, is_enabled="1")
    assert f'href="/log/replay?handler={down}"' in surfer.get(f"/handlers/{down}").text
    page = unescape(surfer.get(f"/deliveries/{lost['id']}").text)
    [query] = re.findall(rf'href="/log/replay\?(handler={down}&from=[0-9T:-]+)"', page)
    receiver.forget("/down")
    assert "Send 2 deliveries again?" in surfer.get(f"/log/replay?{query}").text
    assert "done=replayed" in surfer.post(f"/log/replay?{query}", csrf=surfer.token()).url
    for one in (lost, skipped):
        assert client.settled(one["notification_id"])[0]["status"] == "delivered"


def test_each_type_says_where_it_leads(surfer: Surfer) -> None:
    cards = surfer.get("/handlers/add").text
    assert cards.count("<small>") >= len(CHANNELS) and "Mattermost and Rocket.Chat too." in cards


def test_pages_in_korean_tell_reasons_and_filters_in_korean(surfer: Surfer, served: Service, receiver: Receiver) -> None:
    client = served.first()
    receiver.answer("/gone", 410)
    dead = client.add_handler("webhook", "죽은 웹훅", webhook=receiver.url("/gone"))
    [delivery] = client.settled(client.send("full", handlers=[dead]))
    for path in (f"/deliveries/{delivery['id']}", f"/handlers/{dead}"):
        page = surfer.get(path, accept_language="ko").text
        assert "대상이 사라졌습니다." in page and "410 Gone으로 응답했습니다." in page, path
        assert "The receiver answered" not in page and "The target is gone" not in page, path
    shown = surfer.get(f"/log/replay?status=failed&reason=gone&severity=info&handler={dead}&search=full", accept_language="ko").text
    found = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", shown)
    assert sorted(found) == sorted(
        [("상태", "실패"), ("이유", "대상이 사라졌습니다."), ("심각도", "정보"), ("핸들러", "죽은 웹훅"), ("텍스트", "full")]
    )
    unread = surfer.get("/log/replay?status=nonsense", accept_language="ko").text
    assert re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", unread) == [("상태", "nonsense")]
