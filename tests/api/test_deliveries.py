"""Watching deliveries, and sending them again."""

from typing import Any

import pytest

from api.support import hook, moment, until
from receiver import Receiver

PATH = "/api/deliveries"
KEYS = [
    *["id", "notification_id", "notification_handler_id", "status", "attempt_count", "next_attempt_datetime", "last_error"],
    *["datetime", "last_datetime"],
]


def send(client: Any, **more: Any) -> int:
    return client.post("/api/notifications", {"message": "m", **more}).data["id"]


def only(client: Any, notification_id: int) -> Any:
    rows = client.get(f"{PATH}?notification_id={notification_id}").json["data"]
    assert len(rows) == 1
    return rows[0]


@pytest.fixture
def failed(client: Any, receiver: Receiver) -> dict[str, Any]:
    """A delivery that ended failed: its receiver said 410, which also disabled the handler."""
    receiver.answer("/failing", 410, body=b"gone for good")
    receiver.answer("/failing", 200)
    hook(client, receiver.url("/failing"))
    sent = send(client, message="The disk is full", title="Disk")
    until(lambda: only(client, sent)["status"], "failed")
    return only(client, sent)


def test_waiting(client: Any) -> None:
    handler_id = hook(client)
    sent = send(client, send_at=moment(days=1))
    row = only(client, sent)
    assert list(row) == KEYS
    assert (row["notification_id"], row["notification_handler_id"], row["status"], row["attempt_count"]) == (sent, handler_id, "pending", 0)
    assert row["next_attempt_datetime"] is not None and row["next_attempt_datetime"] > row["datetime"]
    assert (row["last_error"], row["last_datetime"]) == (None, None)
    detail = client.get(f"{PATH}/{row['id']}/").data
    assert list(detail) == [*KEYS, "attempts", "events"]
    assert detail["attempts"] == [] and list(detail["events"][0]) == ["datetime", "text"]


def test_failed(client: Any, failed: dict[str, Any]) -> None:
    assert list(failed) == KEYS
    assert (failed["status"], failed["attempt_count"], failed["next_attempt_datetime"]) == ("failed", 1, None)
    assert failed["last_error"].startswith("gone") and failed["last_datetime"] is not None
    detail = client.get(f"{PATH}/{failed['id']}").data
    (attempt,) = detail["attempts"]
    assert list(attempt) == ["number", "datetime", "outcome", "reason", "detail", "provider_id", "duration_ms", "status_code", "response"]
    assert (attempt["number"], attempt["reason"], attempt["status_code"], attempt["response"]) == (1, "gone", 410, "gone for good")
    assert (attempt["detail"], attempt["provider_id"]) == ("The receiver answered 410 Gone: it wants no more messages.", None)
    assert isinstance(attempt["duration_ms"], int)
    assert len(detail["events"]) >= 2


def test_retry_one(client: Any, failed: dict[str, Any], receiver: Receiver) -> None:
    assert client.post(f"/api/notification-handlers/{failed['notification_handler_id']}", {"is_enabled": True}).status == 200
    answer = client("POST", f"{PATH}/{failed['id']}/retry")
    assert (answer.status, answer.content) == (202, b'{"data":{"retried":1}}')
    until(lambda: client.get(f"{PATH}/{failed['id']}").data["status"], "delivered")
    asked = [one for one in receiver.requests if one.path == "/failing"][-2:]
    assert asked[0].headers["webhook-id"] == asked[1].headers["webhook-id"]
    assert client.post(f"{PATH}/{failed['id']}/retry/").data == {"retried": 0}


def test_retry_by_filter(client: Any, failed: dict[str, Any]) -> None:
    """In the query, in any body, and once only under an idempotency key."""
    cancelled = [send(client, send_at=moment(days=1), handlers=[hook(client)]) for _ in range(3)]
    for one in cancelled:
        client.delete(f"/api/notifications/{one}")
    assert client.post(f"{PATH}/retry?notification_id={cancelled[0]}").data == {"retried": 1}
    assert client.form(f"{PATH}/retry", ("status", "cancelled"), ("notification_id", str(cancelled[1]))).data == {"retried": 1}
    again = [client.post(f"{PATH}/retry/", {"status": "cancelled"}, {"Idempotency-Key": "r"}) for _ in range(2)]
    assert [one.content for one in again] == [b'{"data":{"retried":1}}'] * 2
    again = client("POST", f"{PATH}/retry/?status=cancelled", None, {"Idempotency-Key": "r"})
    assert (again.status, again.data) == (202, {"retried": 1})
    assert client.post(f"{PATH}/retry", {"status": "failed"}, {"Idempotency-Key": "r"}).faults()[0][0] == "idempotency_mismatch"
    assert client.post(f"{PATH}/retry", {"search": "no such text"}).data == {"retried": 0}


@pytest.mark.parametrize(
    ("query", "body", "status", "faults"),
    [
        ("", None, 400, [("no_filter", None)]),
        ("", {}, 400, [("no_filter", None)]),
        ("?search=", {"search": ""}, 400, [("no_filter", None)]),
        ("", {"status": "lost"}, 422, [("invalid_choice", "status")]),
        ("", {"page": 1}, 422, [("unknown", "page")]),
        ("?status=lost", {"notification_id": 0}, 400, [("invalid_choice", "status"), ("invalid", "notification_id")]),
        ("?status=failed", {"status": "failed"}, 422, [("repeated", "status")]),
    ],
)
def test_bad_retries(client: Any, query: str, body: Any, status: int, faults: Any) -> None:
    answer = client.post(f"{PATH}/retry{query}", body)
    assert (answer.status, answer.faults()) == (status, faults)


def test_anothers_is_as_missing(server: Any, client: Any, failed: dict[str, Any]) -> None:
    stranger = server.client()
    for one in (failed["id"], 2**62, 0, 2**70):
        assert stranger.get(f"{PATH}/{one}").faults() == [("not_found", None)]
        assert stranger.post(f"{PATH}/{one}/retry").faults() == [("not_found", None)]
    assert stranger.get(PATH).json["data"] == []
    assert stranger.get(f"{PATH}?notification_id={failed['notification_id']}").json["data"] == []
    assert stranger.post(f"{PATH}/retry", {"status": "failed"}).data == {"retried": 0}


def test_filters(client: Any, failed: dict[str, Any]) -> None:
    handler_id = hook(client)
    waiting = only(client, send(client, message="100 % sure", send_at=moment(days=1)))
    for query, wanted in (
        ("", [waiting, failed]),
        ("status=failed", [failed]),
        ("status=pending", [waiting]),
        ("status=delivered", []),
        (f"notification_id={failed['notification_id']}", [failed]),
        (f"notification_handler_id={handler_id}", [waiting]),
        (f"notification_handler_id={handler_id}&status=failed", []),
        ("search=DISK", [failed]),
        ("search=wants+NO+more", [failed]),
        ("search=100+%25", [waiting]),
        ("search=%25", [waiting]),
        ("search=", [waiting, failed]),
        ("datetime_start=2001-01-01+00:00:00&datetime_end=2101-01-01T00:00:00Z", [waiting, failed]),
        ("datetime_end=2001-01-01+00:00:00", []),
        (f"notification_id={2**63 - 1}", []),
    ):
        answer = client.get(f"{PATH}/?{query}")
        assert answer.status == 200, answer.content
        assert [row["id"] for row in answer.json["data"]] == [row["id"] for row in wanted], query
        assert answer.json["meta"]["total"] == len(wanted) and "total_is_exact" not in answer.json["meta"]


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("status=lost", ("invalid_choice", "status")),
        ("status=0", ("invalid_choice", "status")),
        ("status=", ("empty", "status")),
        ("notification_id=0", ("invalid", "notification_id")),
        ("notification_id=9223372036854775808", ("invalid", "notification_id")),
        ("notification_handler_id=x", ("invalid", "notification_handler_id")),
        ("order_by=id", ("unknown", "order_by")),
        ("datetime_start=1", ("invalid", "datetime_start")),
    ],
)
def test_bad_queries(client: Any, query: str, fault: tuple[str, str]) -> None:
    answer = client.get(f"{PATH}?{query}")
    assert (answer.status, answer.faults()) == (400, [fault])


def test_totals_stop_at_ten_thousand(client: Any) -> None:
    handlers = [hook(client) for _ in range(10)]
    item = {"message": "m", "handlers": handlers, "send_at": moment(days=1)}
    for count in (1000, 1):
        assert client.post("/api/notifications/batch", {"notifications": [item] * count}).status == 202
    exact = client.get(f"{PATH}?status=pending&results_per_page=1000").json
    assert exact["meta"] == {"page": 1, "results_per_page": 1000, "total": 10_010, "total_pages": 11}
    answer = client.get(f"{PATH}?search=m&results_per_page=1000&page=10").json
    assert answer["meta"] == {"page": 10, "results_per_page": 1000, "total": 10_000, "total_pages": 10, "total_is_exact": False}
    assert answer["links"]["next"].endswith("&page=11")
    beyond = client.get(f"{PATH}?search=m&results_per_page=1000&page=11").json
    assert len(beyond["data"]) == 10 and beyond["links"]["next"] is None
