"""Sending, one and many, and reading what was sent."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.support import hook, moment, until
from receiver import Receiver
from tocsin import clock
from tocsin.api import notifications

PATH = "/api/notifications"
JSON = {"Content-Type": "application/json"}
COUNTS = ["pending", "delivered", "failed", "expired", "cancelled", "skipped"]


FULL: dict[str, Any] = {
    "message": "Disk of **db-1** is 91 % full — 가득",
    "title": "Disk",
    "severity": "warning",
    "url": "https://example.com/db?1",
    "fields": {"host": "db-1", "up": True, "count": 5, "load": 0.5},
}
SHOWN = {**FULL, "format": "markdown", "fields": {"host": "db-1", "up": "true", "count": "5", "load": "0.5"}}


def test_sent_and_delivered(client: Any, receiver: Receiver) -> None:
    handler_id = hook(client, receiver.url("/full"))
    answer = client.post(PATH, FULL)
    notification_id = answer.data["id"]
    assert (answer.status, answer.content) == (202, b'{"data":{"id":%d}}' % notification_id)
    path = f"{PATH}/{notification_id}"
    until(lambda: client.get(path).data["deliveries"], {**dict.fromkeys(COUNTS, 0), "delivered": 1})
    row = client.get(path + "/").data
    assert list(row) == ["id", "title", "message", "format", "severity", "url", "fields", "send_at", "expires_at", "datetime", "deliveries"]
    assert list(row["deliveries"]) == COUNTS
    assert {name: row[name] for name in SHOWN} == SHOWN
    assert list(row["fields"]) == list(SHOWN["fields"])
    assert (row["send_at"], row["expires_at"]) == (None, None)
    assert client.get(PATH).json["data"] == [row]
    request = next(one for one in receiver.requests if one.path == "/full")
    sent = request.json()["data"]
    assert (sent["id"], sent["handler_id"], sent["message"]) == (notification_id, handler_id, FULL["message"])
    last = client.get(f"/api/notification-handlers/{handler_id}").data["last_datetime"]
    assert last is not None and abs(datetime.fromisoformat(last) - datetime.now(UTC).replace(tzinfo=None)) < timedelta(minutes=1)


def test_three_bodies_are_equal(client: Any) -> None:
    ids = [hook(client), hook(client), hook(client)]
    given = {"message": "m & ö", "title": "a\r\nb", "url": "http://a.b/?c=d", "send_at": moment(days=3), "expires_at": moment(days=4)}
    common = list(given.items())
    form = [*common, ("handlers", f"{ids[0]}"), ("handlers", f"{ids[2]},{ids[0]}"), ("fields[host]", "db-1"), ("fields[n]", "5")]
    listed = [*common, ("handlers[]", f"{ids[0]}"), ("handlers[]", f"{ids[2]}"), ("fields", '{"host": "db-1", "n": 5}')]
    answers = [
        client.form(PATH, *form),
        client.form(PATH, *listed),
        client("POST", PATH, urlencoded(form), {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}),
        client("POST", PATH, urlencoded(listed), {"Content-Type": "application/x-www-form-urlencoded"}),
        client.post(PATH, {**given, "handlers": [ids[0], ids[2], ids[0]], "fields": {"host": "db-1", "n": 5}}),
        client.post(PATH, {**given, "handlers": f"{ids[0]},{ids[2]}", "fields": '{"host": "db-1", "n": 5}'}),
    ]
    assert [answer.status for answer in answers] == [202] * 6, [answer.content for answer in answers]
    rows = [client.get(f"{PATH}/{answer.data['id']}").data for answer in answers]
    for row in rows:
        assert row.pop("id") and row.pop("datetime")
    assert all(row == rows[0] for row in rows)
    assert (rows[0]["title"], rows[0]["fields"], rows[0]["deliveries"]["pending"]) == ("a b", {"host": "db-1", "n": "5"}, 2)
    assert (rows[0]["send_at"], rows[0]["expires_at"]) == (given["send_at"], given["expires_at"])


def test_plain_text_is_kept_and_sent_as_such(client: Any, receiver: Receiver) -> None:
    """In each body type, in a batch, and when it is sent again."""
    handler_id = hook(client, receiver.url("/text"))
    message = "  __init__.py  *a*\n1986. b\n"
    given = {"message": message, "format": "text", "handlers": [handler_id]}
    form = [("message", message), ("format", "text"), ("handlers", str(handler_id))]
    ids = [
        client.post(PATH, given).data["id"],
        client.form(PATH, *form).data["id"],
        client("POST", PATH, urlencoded(form), {"Content-Type": "application/x-www-form-urlencoded"}).data["id"],
        client.post(f"{PATH}/batch", {"notifications": [given]}).data[0]["id"],
    ]
    for one in ids:
        until(lambda one=one: client.get(f"{PATH}/{one}").data["deliveries"]["delivered"], 1)
        assert {name: client.get(f"{PATH}/{one}").data[name] for name in ("message", "format")} == {"message": message, "format": "text"}
    sent = [one.json()["data"] for one in receiver.requests if one.path == "/text"]
    assert [(one["message"], one["format"]) for one in sent] == [(message, "text")] * 4
    unsaid = client.post(PATH, {"message": message, "format": "", "handlers": [handler_id]}).data["id"]
    assert client.get(f"{PATH}/{unsaid}").data["format"] == "markdown"


def test_plain_text_goes_out_again_as_such(client: Any, receiver: Receiver) -> None:
    handler_id = hook(client, receiver.url("/again"))
    receiver.answer("/again", 410)
    receiver.answer("/again", 200)
    made = client.post(PATH, {"message": "*a*", "format": "text", "handlers": [handler_id]}).data["id"]
    until(lambda: client.get(f"{PATH}/{made}").data["deliveries"]["failed"], 1)
    client.post(f"/api/notification-handlers/{handler_id}", {"is_enabled": True})
    assert client.post(f"/api/deliveries/retry?notification_id={made}", {}).data == {"retried": 1}
    until(lambda: client.get(f"{PATH}/{made}").data["deliveries"]["delivered"], 1)
    assert [one.json()["data"]["format"] for one in receiver.requests if one.path == "/again"] == ["text", "text"]


def urlencoded(pairs: list[tuple[str, str]]) -> str:
    from urllib.parse import urlencode

    return urlencode(pairs)


def test_defaults_and_empty_values(client: Any) -> None:
    hook(client)
    empty = {"title": "", "severity": "", "url": "", "fields": "", "send_at": "", "expires_at": ""}
    for given in ({}, empty, dict.fromkeys([*empty, "handlers"])):
        answer = client.post(PATH, {"message": "m", **given})
        assert answer.status == 202, answer.content
        row = client.get(f"{PATH}/{answer.data['id']}").data
        assert [row[name] for name in ("title", "severity", "url", "fields", "send_at")] == ["", "info", None, {}, None]
    assert client.form(PATH, ("message", "m"), *empty.items()).status == 202


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"message": None}, ("required", "message")),
        ({"message": ""}, ("required", "message")),
        ({"message": " \n\t "}, ("required", "message")),
        ({"message": "\u200b\ufe0f\u202e \u3164"}, ("required", "message")),
        ({"message": "\x1b[31m\x1b[0m"}, ("required", "message")),
        ({"message": "m" * 65_537}, ("too_long", "message")),
        ({"message": "가" * 21_846}, ("too_long", "message")),
        ({"message": "a\0"}, ("unusable_text", "message")),
        ({"message": "a\ud83d"}, ("unusable_text", "message")),
        ({"message": 5}, ("invalid", "message")),
        ({"title": "t" * 257}, ("too_long", "title")),
        ({"title": "\0"}, ("unusable_text", "title")),
        ({"severity": "loud"}, ("invalid_choice", "severity")),
        ({"severity": "INFO"}, ("invalid_choice", "severity")),
        ({"url": "ftp://example.com"}, ("invalid", "url")),
        ({"url": "http://a b"}, ("invalid", "url")),
        ({"url": "https://example.com/" + "a" * 2048}, ("invalid", "url")),
        ({"fields": []}, ("invalid", "fields")),
        ({"fields": {str(n): "" for n in range(26)}}, ("too_long", "fields")),
        ({"fields": {"a": "v" * 1025}}, ("too_long", "fields[a]")),
        ({"fields": {"a": None}}, ("invalid", "fields[a]")),
        ({"fields": {"": "x"}}, ("invalid", "fields[]")),
        ({"fields": {"a": "\0"}}, ("unusable_text", "fields[a]")),
        ({"handlers": []}, ("no_handlers", "handlers")),
        ({"handlers": ""}, ("no_handlers", "handlers")),
        ({"handlers": [2**62]}, ("unknown_handler", "handlers")),
        ({"handlers": [0]}, ("invalid", "handlers")),
        ({"handlers": "all"}, ("invalid", "handlers")),
        ({"handlers": list(range(1, 10_002))}, ("too_many_deliveries", "handlers")),
        ({"send_at": "soon"}, ("invalid", "send_at")),
        ({"send_at": "2026-11-23T10:00:00"}, ("invalid", "send_at")),
        ({"send_at": moment(days=367)}, ("invalid", "send_at")),
        ({"expires_at": moment(days=-1)}, ("invalid", "expires_at")),
        ({"expires_at": moment(days=2), "send_at": moment(days=2)}, ("invalid", "expires_at")),
        ({"colour": "red"}, ("unknown", "colour")),
        ({"format": "html"}, ("invalid_choice", "format")),
        ({"format": True}, ("invalid_choice", "format")),
    ],
)
def test_one_fault(client: Any, given: dict[str, Any], fault: tuple[str, str]) -> None:
    hook(client)
    answer = client.post(PATH, {"message": "m", **given})
    assert (answer.status, answer.faults()) == (422, [fault])
    answer = client.post(f"{PATH}/batch", {"notifications": [{"message": "fine"}, {"message": "m", **given}]})
    assert (answer.status, answer.faults()) == (422, [(fault[0], f"notifications[1].{fault[1]}")])
    assert client.get(PATH).json["meta"]["total"] == 0


def test_all_faults_at_once(server: Any, client: Any) -> None:
    theirs = hook(server.client())
    given = {"title": "t" * 300, "severity": "x", "url": "x", "fields": {"a": [], "b": None}, "handlers": [theirs], "send_at": "x", "y": 1}
    wanted = [
        *[("unknown", "y"), ("required", "message"), ("too_long", "title"), ("invalid_choice", "severity"), ("invalid", "url")],
        *[("invalid", "fields[a]"), ("invalid", "fields[b]"), ("invalid", "send_at"), ("unknown_handler", "handlers")],
    ]
    assert client.post(PATH, given).faults() == wanted
    faults = client.post(f"{PATH}/batch", {"notifications": [given, 5, {"message": "m"}], "colour": "red"}).faults()
    assert set(faults) == {
        ("unknown", "colour"),
        *((code, f"notifications[0].{name}") for code, name in wanted),
        ("invalid", "notifications[1]"),
        ("no_handlers", "notifications[2].handlers"),
    }
    twice = client("POST", PATH, '{"message": "a", "message": "b", "fields": {"x": 1, "x": 2}}', JSON)
    assert set(twice.faults()) == {("repeated", "message"), ("repeated", "fields[x]"), ("no_handlers", "handlers")}


def test_limits_fit(client: Any) -> None:
    hook(client)
    fields = {"n" * 255 + chr(97 + n): "v" * 1024 for n in range(25)}
    for message in ("m" * 65_536, "가" * 21_845):
        given = {"message": message, "title": "t" * 254 + "\r\n" + "x", "fields": fields, "send_at": moment(days=364)}
        assert client.post(PATH, given).status == 202
    for text in ("\x07\x1b[0m", "\ufeff", "\u202e", "<script>"):
        answer = client.post(PATH, {"message": f"a{text}", "title": text, "fields": {"a": text}})
        assert client.get(f"{PATH}/{answer.data['id']}").data["message"] == f"a{text}"
    assert client.post(PATH, {"message": "m", "send_at": "2001-01-01 00:00:00"}).status == 202


def test_where_it_goes(server: Any, client: Any) -> None:
    assert client.post(PATH, {"message": "m"}).faults() == [("no_handlers", "handlers")]
    paused = hook(client, is_enabled=False)
    assert client.post(PATH, {"message": "m"}).faults() == [("no_handlers", "handlers")]
    skipped = client.post(PATH, {"message": "m", "handlers": [paused, paused]}).data["id"]
    assert client.get(f"{PATH}/{skipped}").data["deliveries"] == {**dict.fromkeys(COUNTS, 0), "skipped": 1}
    first, second = hook(client), hook(client)
    to_all = client.post(PATH, {"message": "m", "send_at": moment(days=1)}).data["id"]
    assert client.get(f"{PATH}/{to_all}").data["deliveries"]["pending"] == 2
    named = [row["notification_handler_id"] for row in client.get(f"/api/deliveries?notification_id={to_all}").json["data"]]
    assert sorted(named) == [first, second]
    stranger = server.client()
    assert stranger.post(PATH, {"message": "m", "handlers": [first]}).faults() == [("unknown_handler", "handlers")]
    for method, path in (("GET", f"{PATH}/{to_all}"), ("DELETE", f"{PATH}/{to_all}")):
        assert stranger(method, path).faults() == [("not_found", None)]
    assert stranger.get(PATH).json["data"] == []


def test_cancel(client: Any) -> None:
    hook(client), hook(client)
    sent = client.post(PATH, {"message": "m", "send_at": moment(days=1)}).data["id"]
    answer = client.delete(f"{PATH}/{sent}/")
    assert (answer.status, answer.content) == (200, b'{"data":{"id":%d,"cancelled":2}}' % sent)
    assert client.get(f"{PATH}/{sent}").data["deliveries"] == {**dict.fromkeys(COUNTS, 0), "cancelled": 2}
    assert client.delete(f"{PATH}/{sent}").data == {"id": sent, "cancelled": 0}


def test_list_is_newest_first(server: Any, client: Any) -> None:
    hook(client)
    items = [{"message": f"m{number}", "send_at": moment(days=1)} for number in range(12)]
    ids = [one["id"] for one in client.post(f"{PATH}/batch", {"notifications": items}).data]
    answer = client.get(f"{PATH}?results_per_page=10")
    assert [row["id"] for row in answer.json["data"]] == ids[:1:-1]
    assert answer.json["meta"] == {"page": 1, "results_per_page": 10, "total": 12, "total_pages": 2}
    assert answer.json["links"]["next"] == f"{server.base}{PATH}?results_per_page=10&page=2"
    assert [row["id"] for row in client.get(f"{PATH}/?results_per_page=10&page=2").json["data"]] == ids[1::-1]
    assert client.get(f"{PATH}?search=x").faults() == [("unknown", "search")]


# ------------------------------------------------------------------------------------------------------------------ batch


def test_batch(client: Any) -> None:
    hook(client)
    items = [{**FULL, "message": f"m{number}"} for number in range(1000)]
    answer = client.post(f"{PATH}/batch/", {"notifications": items})
    ids = [one["id"] for one in answer.data]
    assert answer.status == 202 and ids == sorted(set(ids)) and len(ids) == 1000
    assert answer.content.startswith(b'{"data":[{"id":%d},{"id":%d},' % (ids[0], ids[1]))
    assert client.get(f"{PATH}/{ids[999]}").data["message"] == "m999"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({}, ("required", "notifications")),
        ({"notifications": []}, ("invalid", "notifications")),
        ({"notifications": {}}, ("invalid", "notifications")),
        ({"notifications": [{"message": "m"}] * 1001}, ("too_long", "notifications")),
        ({"notifications": [{"message": "m"}], "x": 1}, ("unknown", "x")),
    ],
)
def test_bad_batch(client: Any, body: Any, fault: tuple[str, str]) -> None:
    hook(client)
    answer = client.post(f"{PATH}/batch", body)
    assert (answer.status, answer.faults()) == (422, [fault])


def test_all_faults_of_a_batch_at_once(client: Any) -> None:
    """Those of its handlers too, each at its own place."""
    hook(client)
    given = ["no object", {"message": "m", "handlers": [10**6]}, {"severity": "loud"}, {"message": "m", "handlers": "a"}]
    answer = client.post(f"{PATH}/batch", {"notifications": given})
    assert (answer.status, sorted(answer.faults())) == (
        422,
        [
            ("invalid", "notifications[0]"),
            ("invalid", "notifications[3].handlers"),
            ("invalid_choice", "notifications[2].severity"),
            ("required", "notifications[2].message"),
            ("unknown_handler", "notifications[1].handlers"),
        ],
    )


def test_a_large_batch_is_read_in_its_pool_and_answered_alike(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    where: list[str] = []
    read_batch = notifications._read_batch

    def noting(*arguments: Any) -> Any:
        where.append(threading.current_thread().name)
        return read_batch(*arguments)

    monkeypatch.setattr(notifications, "_read_batch", noting)
    hook(client)
    large = {"notifications": [{"message": f"{number} " + "x" * 13_000} for number in range(20)]}
    made = client.post("/api/notifications/batch", large)
    assert made.status == 202 and len(made.data) == 20
    assert client.get(f"/api/notifications/{made.data[19]['id']}").data["message"].startswith("19 x")
    large["notifications"][7]["severity"] = "loud"
    assert client.post("/api/notifications/batch", large).faults() == [("invalid_choice", "notifications[7].severity")]
    assert where == ["tocsin-bodies"] * 2


def test_batch_is_json_only(client: Any) -> None:
    answer = client.form(f"{PATH}/batch", ("notifications", "[]"))
    assert (answer.status, answer.faults()) == (415, [("unsupported_media_type", None)])


def test_too_many_deliveries(client: Any) -> None:
    for _ in range(11):
        hook(client)
    answer = client.post(f"{PATH}/batch", {"notifications": [{"message": "m"}] * 1000})
    assert (answer.status, answer.faults()) == (422, [("too_many_deliveries", None)])
    assert client.get(PATH).json["meta"]["total"] == 0


# -------------------------------------------------------------------------------------------------------- idempotency keys


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def test_the_same_again(server: Any, client: Any) -> None:
    handler_id = hook(client)
    given = {"message": "m", "fields": {"a": "1", "b": "2"}, "handlers": [handler_id]}
    first = client.post(PATH, given, keyed("k1"))
    other_order = {"handlers": str(handler_id), "fields": {"b": 2, "a": 1}, "message": "m"}
    form = [("fields[b]", "2"), ("message", "m"), ("handlers[]", str(handler_id)), ("fields[a]", "1")]
    again = [
        client.post(PATH, given, keyed("k1")),
        client.post(f"{PATH}/", other_order, keyed("k1")),
        client.form(PATH, *form, headers=keyed("k1")),
    ]
    assert [(one.status, one.content) for one in again] == [(202, first.content)] * 3
    assert client.get(PATH).json["meta"]["total"] == 1
    assert client.post(PATH, {**given, "format": "markdown"}, keyed("k1")).content == first.content
    for change in ({"message": "n"}, {"format": "text"}):
        other = client.post(PATH, {**given, **change}, keyed("k1"))
        assert (other.status, other.faults()) == (422, [("idempotency_mismatch", "Idempotency-Key")])
    assert client.post(PATH, given, keyed("k2")).data != first.data
    # Per user and path.
    batch = client.post(f"{PATH}/batch", {"notifications": [given]}, keyed("k1"))
    assert batch.status == 202 and batch.data != [first.data]
    assert client.post(f"{PATH}/batch", {"notifications": [other_order]}, keyed("k1")).content == batch.content
    stranger = server.client()
    hook(stranger)
    assert stranger.post(PATH, {"message": "m"}, keyed("k1")).status == 202


@pytest.mark.parametrize("batch", [False, True])
def test_the_same_again_when_its_times_have_passed(client: Any, monkeypatch: pytest.MonkeyPatch, batch: bool) -> None:
    """The content was in order when it came first, so it gets the answer that it got then; without a key it is refused."""
    hook(client)
    one = {"message": "m", "expires_at": moment(minutes=30)}
    path, given = (f"{PATH}/batch", {"notifications": [one, one]}) if batch else (PATH, one)
    place = "notifications[0].expires_at" if batch else "expires_at"
    first = client.post(path, given, keyed("late"))
    assert first.status == 202
    real = clock.now
    monkeypatch.setattr(clock, "now", lambda: real() + clock.HOUR)
    again = client.post(path, given, keyed("late"))
    assert (again.status, again.content) == (202, first.content)
    assert client.post(path, given).faults()[0] == ("invalid", place)
    assert client.post(path, given, keyed("other")).faults()[0] == ("invalid", place)
    changed = {**given, "notifications": [one]} if batch else {**given, "message": "n"}
    assert client.post(path, changed, keyed("late")).faults() == [("idempotency_mismatch", "Idempotency-Key")]
    assert client.get(PATH).json["meta"]["total"] == len(given.get("notifications", [one]))


def test_refused_requests_are_not_remembered(client: Any) -> None:
    assert client.post(PATH, {"message": "m"}, keyed("k")).status == 422
    hook(client)
    assert client.post(PATH, {"message": "m"}, keyed("k")).status == 202


@pytest.mark.parametrize("key", ["", "k" * 256, "a\tb", "schlüssel"])
def test_unusable_keys(client: Any, key: str) -> None:
    hook(client)
    answer = client.post(PATH, {"message": "m"}, keyed(key))
    assert (answer.status, answer.faults()) == (400, [("idempotency_key", "Idempotency-Key")])


def test_a_key_may_be_long_and_odd(client: Any) -> None:
    hook(client)
    key = "".join(map(chr, range(0x21, 0x7F))) + " " + "k" * 160
    assert len(key) == 255
    answers = [client.post(PATH, {"message": "m"}, keyed(key)) for _ in range(2)]
    assert answers[0].status == 202 and answers[0].content == answers[1].content


def test_at_the_same_time(client: Any) -> None:
    hook(client)
    start = threading.Barrier(16)

    def send(_: int) -> Any:
        start.wait()
        return client.post(PATH, {"message": "m"}, keyed("race"))

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(send, range(16)))
    accepted = {one.content for one in answers if one.status == 202}
    assert len(accepted) == 1
    assert all(one.faults() == [("in_flight", None)] for one in answers if one.status != 202)
    assert client.get(PATH).json["meta"]["total"] == 1


def test_in_flight_is_409(server: Any, client: Any) -> None:
    """Both requests stand in the socket before the server reads either, so the second meets the first in flight."""
    hook(client)
    body = b'{"message": "m"}'
    head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {client.key}\r\nIdempotency-Key: both\r\n"
    request = head.encode() + b"Content-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    found: set[int] = set()
    for number in range(50):
        twice = request.replace(b": both", b": both%d" % number)
        sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
        for one in sockets:
            one.sendall(twice)
        answers = [b"".join(iter(lambda one=one: one.recv(65536), b"")) for one in sockets]
        found |= {int(answer[9:12]) for answer in answers}
        if 409 in found:
            refused = next(answer for answer in answers if b" 409 " in answer[:16])
            assert json.loads(refused.partition(b"\r\n\r\n")[2])["errors"][0]["code"] == "in_flight"
            break
    assert found == {202, 409}
