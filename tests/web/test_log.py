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
    assert "it wants no more of these." in surfer.get(f"/deliveries/{delivery['id']}").text
