"""How handlers are doing, told from what their deliveries met."""

from collections.abc import Callable
from typing import Any

import pytest

from api.support import Client, Server, hook, moment, until
from receiver import Receiver
from support.store import STORES, stores_environ
from tocsin.flow.people.access import SCOPES
from tocsin.store.sql import write_now

KEYS = ["id", "name", "type", "state", "since", "reason", "detail", "waiting", "next_attempt_datetime"]


store_environ = pytest.fixture(params=STORES)(stores_environ)


@pytest.fixture
def slow(serve_with: Callable[..., Server]) -> Server:
    """Where a second attempt comes after an hour."""
    return serve_with(TOCSIN_RETRY_SCHEDULE="1h,1h")


def send(client: Client, *handlers: int, times: int = 1) -> None:
    for number in range(times):
        assert client.post("/api/notifications", {"message": f"number {number}", "handlers": list(handlers)}).status == 202


def states(client: Client, query: str = "") -> list[Any]:
    answer = client.get(f"/api/handler-states{query}")
    assert answer.status == 200, answer.content
    assert all(list(one) == KEYS for one in answer.data)
    return answer.data


def words(client: Client, query: str = "") -> list[tuple[int, str]]:
    return [(one["id"], one["state"]) for one in states(client, query)]


def test_one_that_takes_nothing_is_failing_from_its_first_attempt_on(slow: Server, receiver: Receiver) -> None:
    client = slow.client(*SCOPES)
    receiver.answer("/dead", 404, body=b"no such hook")
    receiver.answer("/dead", 404, body=b"no such hook")
    well, dead, idle = hook(client, receiver.url("/well")), hook(client, receiver.url("/dead")), hook(client)
    assert words(client) == [(well, "ok"), (dead, "ok"), (idle, "ok")]
    send(client, well, dead, times=2)
    until(lambda: [one["attempt_count"] for one in client.get(f"/api/deliveries?notification_handler_id={dead}").data], [1, 1])
    first, *others = states(client)
    assert (first["id"], first["state"], first["reason"], first["waiting"]) == (dead, "failing", "not_found", 2)
    assert "404 no such hook" in first["detail"]
    assert first["since"] <= first["next_attempt_datetime"]
    assert [(one["id"], one["state"], one["since"], one["reason"]) for one in others] == [
        (well, "ok", None, None),
        (idle, "ok", None, None),
    ]
    health = client.get(f"/api/notification-handlers/{dead}/stats").data["health"]
    assert (health["state"], health["reason"], health["waiting"], health["failures"]) == ("failing", "not_found", 2, 0)
    assert health["failing_since"] == first["since"] and health["next_attempt_datetime"] == first["next_attempt_datetime"]
    assert "404" in health["detail"] and health["hint"]


def test_states_are_a_filter_and_an_order_of_both_lists(slow: Server, receiver: Receiver) -> None:
    client = slow.client(*SCOPES)
    receiver.answer("/gone", 410, body=b"gone")
    receiver.answer("/dead", 500)
    ok, paused, gone, dead = (hook(client, receiver.url(path)) for path in ("/ok", "/paused", "/gone", "/dead"))
    client.post(f"/api/notification-handlers/{paused}", {"is_enabled": False})
    send(client, ok, gone, dead)
    wanted = [(dead, "failing"), (gone, "switched_off"), (ok, "ok"), (paused, "paused")]
    until(lambda: words(client), wanted)
    for handler, state in wanted:
        assert words(client, f"?state={state}") == [(handler, state)]
        assert [one["id"] for one in client.get(f"/api/notification-handlers?state={state}").data] == [handler]
    assert [one["id"] for one in states(client, "?order_by=notification_handler_id")] == [ok, paused, gone, dead]
    assert [one["id"] for one in states(client, "?results_per_page=10&page=2")] == []
    by_state = {one["state"]: one for one in states(client)}
    assert by_state["switched_off"]["reason"] == "gone" and by_state["switched_off"]["since"]
    assert by_state["paused"]["since"] and by_state["paused"]["reason"] is None
    assert client.get("/api/handler-states?state=nonsense").faults() == [("invalid_choice", "state")]
    assert slow.narrowed(client, "deliveries:read").get("/api/handler-states").status == 403
    assert words(slow.client(*SCOPES)) == []


def test_a_success_ends_it_and_what_failed_before_it_is_past(serve_with: Callable[..., Server], receiver: Receiver) -> None:
    server = serve_with(TOCSIN_RETRY_SCHEDULE="1s,1s")
    client = server.client(*SCOPES)
    receiver.answer("/hook", 500)
    receiver.answer("/hook", 200)
    handler = hook(client, receiver.url("/hook"))
    send(client, handler)
    until(lambda: words(client), [(handler, "failing")])
    until(lambda: words(client), [(handler, "ok")])
    assert states(client)[0]["waiting"] == 0

    def retried_long_ago(connection: Any) -> None:
        """A delivery that failed an hour before the last success and waits for its second attempt."""
        connection.exec_driver_sql("UPDATE deliveries SET status = 0, step = 1, due_at = due_at + 3600000000, last_attempt_at = 1")

    write_now(server.engine, retried_long_ago)
    assert words(client) == [(handler, "ok")]
    assert states(client)[0]["waiting"] == 1


def test_what_is_due_and_paced_is_not_due_in_the_past(slow: Server, receiver: Receiver) -> None:
    """Behind a throttle everything of that credential waits, whatever its row says."""
    client = slow.client(*SCOPES)
    receiver.answer("/hook", 429, headers=[("Retry-After", "3600")])
    handler = hook(client, receiver.url("/hook"))
    send(client, handler)
    until(lambda: client.get("/api/deliveries").data[0]["attempt_count"], 1)
    send(client, handler)
    soon = moment(minutes=30)
    assert [one["next_attempt_datetime"] > soon for one in client.get("/api/deliveries").data] == [True, True]
    newest = client.get("/api/deliveries").data[0]["id"]
    assert client.get(f"/api/deliveries/{newest}").data["next_attempt_datetime"] > soon
    assert states(client)[0]["next_attempt_datetime"] > soon
    [state] = states(client)
    assert (state["state"], state["reason"], state["waiting"]) == ("failing", "throttled", 2)
    assert words(client, "?state=failing") == [(handler, "failing")]


def test_a_throttle_that_lasts_or_is_one_of_many_is_a_failure_and_a_short_one_is_not(
    serve_with: Callable[..., Server], receiver: Receiver
) -> None:
    client = serve_with().client(*SCOPES)
    for _ in range(2):
        receiver.answer("/hook", 429, headers=[("Retry-After", "1")])
    receiver.answer("/hook", 200)
    for _ in range(20):
        receiver.answer("/never", 429, headers=[("Retry-After", "1")])
    once, never = hook(client, receiver.url("/hook")), hook(client, receiver.url("/never"))
    send(client, once, never)
    seen: set[str] = set()

    def state_of_never() -> str:
        found = dict(words(client))
        seen.add(found[once])
        return found[never]

    until(state_of_never, "failing")
    assert seen == {"ok"}


def test_an_expiry_is_no_attempt_and_hides_no_cause(slow: Server, receiver: Receiver) -> None:
    client = slow.client(*SCOPES)
    receiver.answer("/down", 500, body=b"busy")
    down = hook(client, receiver.url("/down"))
    body = {"message": "x", "handlers": [down], "expires_at": moment(minutes=30)}
    assert client.post("/api/notifications", body).status == 202
    until(lambda: [(one["state"], one["waiting"], one["next_attempt_datetime"]) for one in states(client)], [("failing", 1, None)])

    def has_expired(connection: Any) -> None:
        error = "expired: server_error: 500 busy"
        connection.exec_driver_sql(f"UPDATE deliveries SET status = 3, last_reason = 'expired', last_error = '{error}'")

    write_now(slow.engine, has_expired)
    [found] = states(client)
    assert (found["state"], found["reason"], found["detail"], found["waiting"]) == ("failing", "server_error", "500 busy", 0)
    assert client.get(f"/api/notification-handlers/{down}/stats").data["health"]["hint"]


@pytest.mark.parametrize(("word", "state"), [("nonsense", "failing"), ("invalid_blocks", "ok")])
def test_what_was_given_up_tells_too_unless_the_message_was_at_fault(
    serve_with: Callable[..., Server], receiver: Receiver, word: str, state: str
) -> None:
    server = serve_with(TOCSIN_RETRY_SCHEDULE="0s", TOCSIN_DISABLE_AFTER_FAILURES="0")  # failures in a row are not counted
    client = server.client(*SCOPES)
    receiver.answer("/hook", 400, body=word.encode())
    slack = {"name": "S", "type": "slack", "slack": receiver.url("/hook")}
    handler = client.post("/api/notification-handlers", slack).data["id"]
    send(client, handler)
    until(lambda: client.get("/api/deliveries").data[0]["status"], "failed")
    [found] = states(client)
    assert (found["state"], found["waiting"], found["next_attempt_datetime"]) == (state, 0, None)
    assert client.get(f"/api/handler-states?state={state}").data == [found]
    client.post(f"/api/notification-handlers/{handler}", {"slack": receiver.url("/other")})
    assert words(client) == [(handler, "ok")]  # its owner has changed it: a fresh start
