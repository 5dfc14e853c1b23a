"""Why a delivery has not gone out, asked of a process that does not send it: the true reason, or who knows it and does not answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.service import in_an_hour
from receiver import Receiver
from support import postgresql
from support.shared import beside
from tocsin import __version__
from tocsin.cli.selftest.many.cluster import Cluster


@pytest.fixture
def cluster(postgresql_server: None, tmp_path: Path) -> Iterator[Cluster]:
    """An api process."""
    with (
        postgresql.database(postgresql.shared_url(postgresql.shared_folder())) as url,
        Cluster(tmp_path, url).running("api") as made,
    ):
        yield made


def send(cluster: Cluster, text: str, *handlers: int) -> int:
    return cluster.ask("POST", "/api/notifications", {"message": text, "handlers": list(handlers)})["data"]["id"]


def delivery(cluster: Cluster, notification: int) -> dict[str, Any]:
    [row] = cluster.ask("GET", f"/api/deliveries?notification_id={notification}")["data"]
    return cluster.ask("GET", f"/api/deliveries/{row['id']}")["data"]


def told(cluster: Cluster, notification: int) -> str:
    return delivery(cluster, notification)["events"][-1]["text"]


def says(cluster: Cluster, notification: int, what: str) -> None:
    assert cluster.until(lambda: what in told(cluster, notification), 15) is not None, told(cluster, notification)


def test_pauses_and_full_windows_are_told_by_a_process_that_does_not_send(cluster: Cluster, receiver: Receiver) -> None:
    cluster.join("worker")
    receiver.answer("/paused", 429, headers={"Retry-After": "90000"})
    paused = cluster.add("webhook", "paused", receiver.url("/paused"))
    first = send(cluster, "first", paused)
    assert cluster.until(lambda: delivery(cluster, first)["status"] == "failed", 15) is not None
    second = send(cluster, "second", paused)
    says(cluster, second, "Webhook asked for a pause")

    assert delivery(cluster, second)["next_attempt_datetime"] > in_an_hour()
    for path in (f"/api/deliveries?notification_id={second}", "/api/handler-states"):
        [one] = cluster.ask("GET", path)["data"]
        assert one["next_attempt_datetime"] > in_an_hour(), path

    receiver.answer("/", 200, body=b'{"id":"abcdefghijkl","event":"message"}')
    ntfy = cluster.add("ntfy", "full", receiver.url("/topic"))
    sent = [send(cluster, f"number {number}", ntfy) for number in range(11)]
    says(cluster, sent[-1], "ntfy gets at most 10 in 50 s.")
    assert len([one for one in receiver.requests if one.path == "/"]) == 10


def test_a_process_that_does_not_answer_or_is_missing_is_named_as_the_reason(cluster: Cluster, receiver: Receiver) -> None:
    handler = cluster.add("webhook", "hook", receiver.url("/hook"))
    waits = send(cluster, "waits", handler)
    says(cluster, waits, "Waits for a process that sends: none is running.")
    with beside(cluster.url, __version__, "silent-1") as silent:
        cluster.query("UPDATE partitions SET owner = %s RETURNING 1", silent)
        cluster.query("UPDATE ownership SET version = version + 1 RETURNING 1")
        says(cluster, waits, "silent-1 sends for this handler, but did not say within a second what this waits for")
        cluster.query("UPDATE partitions SET owner = NULL RETURNING 1")
        cluster.query("UPDATE ownership SET version = version + 1 RETURNING 1")
        says(cluster, waits, "Waits for another process to take over")
    cluster.join("worker")
    assert cluster.until(lambda: delivery(cluster, waits)["status"] == "delivered", 15) is not None
