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
        says(cluster, waits, "silent-1 sends for this handler, but has not said what this waits for")
        cluster.query("UPDATE partitions SET owner = NULL RETURNING 1")
        cluster.query("UPDATE ownership SET version = version + 1 RETURNING 1")
        says(cluster, waits, "Waits for another process to take over")
    cluster.join("worker")
    assert cluster.until(lambda: delivery(cluster, waits)["status"] == "delivered", 15) is not None


def test_a_pause_of_a_realm_holds_for_all_processes_and_for_those_that_come_after(cluster: Cluster, receiver: Receiver) -> None:
    """And the pauses of credentials for the process that takes over, after a stop and after a kill."""
    first, second = cluster.join("worker"), cluster.join("worker")
    paths = {cluster.add("discord", f"hook {number}", receiver.url(f"/api/webhooks/1/t{number}")): number for number in range(16)}
    assert cluster.until(cluster.is_shared_out, 15) is not None
    owners = dict(cluster.query("SELECT h.id, p.owner FROM handlers h JOIN partitions p ON p.partition = h.partition"))
    one, other = (next(handler for handler in paths if owners[handler] == cluster.id_of(worker)) for worker in (first, second))
    headers = {"Retry-After": "600", "X-RateLimit-Global": "true"}
    receiver.answer(f"/api/webhooks/1/t{paths[one]}", 429, headers=headers)
    send(cluster, "is told to wait", one)
    receiver.wait(1)
    assert cluster.until(lambda: len(cluster.query("SELECT key FROM pauses")) == 2, 15) is not None, "of the credential and the realm"
    says(cluster, send(cluster, "at the other worker", other), "Discord asked for a pause")

    cluster.join("worker")
    assert first.stop()
    says(cluster, send(cluster, "after a stop", one), "Discord asked for a pause")
    second.kill()
    for handler in (one, other):
        says(cluster, send(cluster, "after a kill", handler), "Discord asked for a pause")
    assert len(receiver.requests) == 1
