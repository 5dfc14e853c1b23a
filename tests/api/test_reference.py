"""Every request of the reference document, byte for byte as curl sends it, and the answers that it shows."""

import json
import re
from typing import Any

import pytest

BOUNDARY = "------------------------d74496d66958873e"
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


def curl_form(*pairs: tuple[str, str]) -> tuple[bytes, dict[str, str]]:
    parts = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in pairs]
    # curl keeps the boundary when the media type is given by --header as well.
    return "".join([*parts, f"--{BOUNDARY}--\r\n"]).encode(), {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture(params=["", "/"], ids=["plain", "slash"])
def slash(request: Any) -> str:
    return request.param


def create(client: Any, *pairs: tuple[str, str], slash: str = "") -> Any:
    body, headers = curl_form(*pairs)
    return client("POST", f"/api/notification-handlers{slash}", body, headers)


def work_email(client: Any, slash: str = "") -> int:
    answer = create(client, ("name", "Work email"), ("type", "email"), ("email", "hey@example.com"), slash=slash)
    return answer.data["id"]


def test_list(server: Any, client: Any, slash: str) -> None:
    handler_id = work_email(client)
    answer = client.get(f"/api/notification-handlers{slash}")
    assert answer.status == 200
    text = answer.content.decode()
    shown = re.search(r'"datetime":"(.*?)"', text)
    assert shown and re.fullmatch(TIME, shown[1])
    link = f'"{server.base}/api/notification-handlers?&page=1"'
    # Raw bytes, so that the order of the keys is the document's.
    assert text == (
        f'{{"data":[{{"id":{handler_id},"type":"email","name":"Work email","settings":{{"email":"hey@example.com"}},"is_enabled":true,'
        f'"last_datetime":null,"datetime":"{shown[1]}"}}],"meta":{{"page":1,"results_per_page":25,"total":1,"total_pages":1}},'
        f'"links":{{"first":{link},"last":{link},"next":null,"prev":null,"self":{link}}}}}'
    )
    assert answer.headers["cache-control"] == "no-store"


def test_read(client: Any, slash: str) -> None:
    handler_id = work_email(client)
    answer = client.get(f"/api/notification-handlers/{handler_id}{slash}")
    shown = answer.data["datetime"]
    assert re.fullmatch(TIME, shown)
    assert answer.status == 200
    assert answer.content.decode() == (
        f'{{"data":{{"id":{handler_id},"type":"email","name":"Work email","settings":{{"email":"hey@example.com"}},"is_enabled":true,'
        f'"last_datetime":null,"datetime":"{shown}"}}}}'
    )


def test_create(client: Any, slash: str) -> None:
    answer = create(client, ("name", "Example"), ("type", "email"), ("email", "hello@example.com"), slash=slash)
    assert answer.status == 201
    assert answer.content == b'{"data":{"id":%d}}' % answer.data["id"]


def test_change(client: Any, slash: str) -> None:
    handler_id = work_email(client)
    body, headers = curl_form(("name", "Example new name"), ("is_enabled", "1"))
    answer = client("POST", f"/api/notification-handlers/{handler_id}{slash}", body, headers)
    assert (answer.status, answer.content) == (200, b'{"data":{"id":%d}}' % handler_id)
    row = client.get(f"/api/notification-handlers/{handler_id}").data
    assert (row["name"], row["is_enabled"], row["settings"]) == ("Example new name", True, {"email": "hey@example.com"})


def test_delete(client: Any, slash: str) -> None:
    handler_id = work_email(client)
    answer = client("DELETE", f"/api/notification-handlers/{handler_id}{slash}")
    assert (answer.status, answer.content, answer.headers["content-length"]) == (200, b"", "0")
    assert client.get(f"/api/notification-handlers/{handler_id}").faults() == [("not_found", None)]
    assert client.delete(f"/api/notification-handlers/{handler_id}").status == 404


SETTINGS: dict[str, dict[str, str]] = {
    "email": {"email": "root@nas"},
    "webhook": {"webhook": "https://example.com/hooks/1?a=b"},
    "slack": {"slack": "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX"},
    "discord": {"discord": "https://discord.com/api/webhooks/123456789012345678/" + "a" * 68},
    "telegram": {"telegram": "123456:" + "A" * 35, "telegram_chat_id": "-1001234567890"},
    "microsoft_teams": {"microsoft_teams": "https://teams.example.com/workflows/1/triggers/manual/paths/invoke?sig=abc"},
    "x": {"x_consumer_key": "ck", "x_consumer_secret": "cs", "x_access_token": "at", "x_access_token_secret": "ats"},
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_type_in_every_body(client: Any, kind: str) -> None:
    fields = {"name": f"My {kind}", "type": kind, **SETTINGS[kind]}
    by_form = create(client, *fields.items())
    by_json = client.post("/api/notification-handlers", fields)
    encoded = "&".join(f"{name}={value.replace('&', '%26').replace('+', '%2B')}" for name, value in fields.items())
    by_url = client("POST", "/api/notification-handlers", encoded, {"Content-Type": "application/x-www-form-urlencoded"})
    assert [one.status for one in (by_form, by_json, by_url)] == [201, 201, 201], by_form.content
    rows = [client.get(f"/api/notification-handlers/{one.data['id']}").data for one in (by_form, by_json, by_url)]
    assert [row["settings"] for row in rows] == [SETTINGS[kind]] * 3
    assert list(rows[0]["settings"]) == list(SETTINGS[kind])
    assert list(rows[0]) == ["id", "type", "name", "settings", "is_enabled", "last_datetime", "datetime"]
    assert json.dumps(rows[0]["is_enabled"]) == "true"
