"""Ports that handlers' URLs may name: refused when a handler is registered, and at each send."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.support import Server, hook, serving, until
from receiver import Receiver
from tocsin.channels.contract import fields_of
from tocsin.channels.registry import CHANNELS
from tocsin.flow.people.access import SCOPES
from tocsin.settings import SettingsError, load

PATH = "/api/notification-handlers"
URLS = {channel.type: name for channel in CHANNELS.values() for name, field in fields_of(channel.settings).items() if field.is_address}
DEFAULT = "80,443,1024-65535"


def fields(type: str, url: str) -> dict[str, Any]:
    return {"name": "Elsewhere", "type": type, URLS[type]: url}


def test_every_setting_that_is_a_url_is_known_as_one() -> None:
    everything = (pair for channel in CHANNELS.values() for pair in fields_of(channel.settings).items())
    urls = {name for name, field in everything if field.example.startswith("http")}
    assert urls == {*URLS.values()} and len(urls) == 6


@pytest.mark.parametrize("type", URLS)
def test_a_closed_port_is_refused_when_it_is_registered(serve_with: Callable[..., Server], type: str) -> None:
    client = serve_with(TOCSIN_ALLOW_PORTS=DEFAULT).client(*SCOPES)
    made = client.post(PATH, fields(type, "https://chat.example.com:8443/alerts")).data["id"]
    for port in (1, 25, 79, 444, 1023):
        for path in (PATH, f"{PATH}/{made}", f"{PATH}/test"):
            refused = client.post(path, fields(type, f"https://chat.example.com:{port}/alerts"))
            assert (refused.status, refused.faults()) == (422, [("invalid", URLS[type])])
            said = refused.json["errors"][0]["detail"]
            assert said == f"Port {port} is closed to URLs. The operator can open it with TOCSIN_ALLOW_PORTS."
    for open_one in ("https://chat.example.com", "http://chat.example.com", "http://chat.example.com:1024", "https://chat.example.com:80"):
        assert client.post(PATH, fields(type, f"{open_one}/alerts")).status == 201


def test_the_list_replaces_the_default(serve_with: Callable[..., Server]) -> None:
    client = serve_with(TOCSIN_ALLOW_PORTS="25, 8000-8099").client(*SCOPES)
    for port, status in ((25, 201), (8000, 201), (8099, 201), (7999, 422), (8100, 422), (443, 422)):
        assert client.post(PATH, fields("webhook", f"https://a.example.com:{port}/")).status == status
    assert client.post(PATH, fields("webhook", "https://a.example.com/")).status == 422


def test_a_handler_whose_port_was_closed_later_sends_nothing_and_stays(tmp_path: Path, receiver: Receiver) -> None:
    url = receiver.url("/hook")
    with serving(tmp_path / "store") as server:
        client = server.client(*SCOPES)
        handler = hook(client, url)
    with serving(tmp_path / "store", TOCSIN_ALLOW_PORTS="443") as server:
        client = server.stranger(client.key)
        notification = client.post("/api/notifications", {"message": "Hello"}).data["id"]
        [delivery] = until_settled(client, notification)
        assert delivery["status"] == "failed"
        [attempt] = client.get(f"/api/deliveries/{delivery['id']}").data["attempts"]
        assert attempt["reason"] == "blocked" and f"Port {receiver.port} is closed" in attempt["detail"]
        trial = client.post(f"{PATH}/{handler}/test").data
        assert (trial["status"], trial["reason"]) == ("failed", "blocked") and "TOCSIN_ALLOW_PORTS" in trial["hint"]
        assert client.post(f"{PATH}/{handler}", {"name": "Renamed", "webhook": url}).status == 200  # what is stored may be sent back
        assert client.get(f"{PATH}/{handler}").data["is_enabled"] is True
    assert receiver.connections == 0


def until_settled(client: Any, notification: int) -> list[dict[str, Any]]:
    until(lambda: client.get(f"/api/notifications/{notification}").data["deliveries"]["pending"], 0)
    return client.get(f"/api/deliveries?notification_id={notification}").json["data"]


@pytest.mark.parametrize("text", ["0", "65536", "80-", "-80", "90-80", "http", "80;443", "80,,443", "1 2", "８０"])
def test_lists_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="TOCSIN_ALLOW_PORTS must be ports from 1 to 65535"):
        load({"TOCSIN_ALLOW_PORTS": text}, tmp_path / "none")
