"""The delivery log as it is read without a browser."""

import re

from e2e.service import Service
from receiver import Receiver
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
