"""The log never stops the service, whatever becomes of what it is written to."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from e2e.service import FIRST_KEY, Client, Service, until
from receiver import Receiver

COUNT = 10_000  # messages, to two handlers: their lines are more than a pipe and the service's own queue hold


def started(service: Service, *, descriptors: str = "") -> "subprocess.Popen[bytes]":
    """The service with one pipe for standard output and error, or by a shell that closes some of them."""
    command = [sys.executable, "-m", "tocsin", "serve"]
    if descriptors:
        command = ["/bin/sh", "-c", f'exec "$@" {descriptors}', "sh", *command]
    environ = {"PATH": os.environ["PATH"], "HOME": str(service.folder), **service.environ}
    process = subprocess.Popen(command, cwd=service.folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    service.process = process  # pyright: ignore[reportAttributeAccessIssue]
    return process


def port_said(process: "subprocess.Popen[bytes]") -> int:
    assert process.stdout
    for line in process.stdout:
        if line.startswith(b"tocsin serves http://"):
            return int(line.rpartition(b":")[2])
    raise AssertionError("it did not start")


def test_a_log_that_nobody_reads_stops_nothing(tmp_path: Path, receiver: Receiver) -> None:
    service = Service(tmp_path / "service", TOCSIN_LOG_FORMAT="json")
    process = started(service)
    try:
        client = Client(port_said(process), FIRST_KEY)
        handlers = [client.add_handler("webhook", webhook=receiver.url(f"/{name}")) for name in "ab"]
        for start in range(0, COUNT, 1000):
            batch = [{"message": f"{start + number}", "handlers": handlers} for number in range(1000)]
            assert client.post("/api/notifications/batch", {"notifications": batch}).status == 202
        until(lambda: len(receiver.requests) >= 2 * COUNT, 120, "not all arrived")
        assert client.get("/healthz").status == 200
        dropped = [
            line for line in client.get("/metrics").content.decode().splitlines() if line.startswith("tocsin_log_lines_dropped_total")
        ]
        assert float(dropped[0].split()[1]) > 0
        assert process.stdout
        out: list[bytes] = []
        reader = threading.Thread(target=lambda: out.append(process.stdout.read()))  # pyright: ignore[reportOptionalMemberAccess]
        reader.start()
        until(lambda: client.send("one more", handlers=handlers[:1]), 15)
        assert service.terminate() == 0
        reader.join(15)
        lines = [json.loads(line) for line in out[0].splitlines()]
        told = sum(line["lines"] for line in lines if line["event"] == "log.dropped")
        attempts = sum(line["event"] == "attempt" for line in lines)
        assert told > 0
        assert attempts + told >= 2 * COUNT  # none is missing without a word
        assert lines[-1]["event"] == "stopped"
    finally:
        service.kill()


def test_a_stop_ends_in_time_though_nobody_reads(tmp_path: Path, receiver: Receiver) -> None:
    service = Service(tmp_path / "service", TOCSIN_LOG_FORMAT="json")
    process = started(service)
    try:
        client = Client(port_said(process), FIRST_KEY)
        handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
        for _ in range(2):
            batch = [{"message": f"{number}", "handlers": [handler]} for number in range(1000)]
            assert client.post("/api/notifications/batch", {"notifications": batch}).status == 202
        until(lambda: len(receiver.requests) >= 2000, 60, "not all arrived")
        assert service.terminate() == 0
    finally:
        service.kill()


@pytest.mark.parametrize("descriptors", [">&-", "2>&-", "<&- >&- 2>&-"], ids=["no output", "no error", "none"])
def test_it_starts_without_the_descriptors_that_others_have(tmp_path: Path, receiver: Receiver, own_port: int, descriptors: str) -> None:
    service = Service(tmp_path / "service")
    service.environ["TOCSIN_PORT"] = str(own_port)
    started(service, descriptors=descriptors)
    try:

        def answers() -> bool:
            try:
                return Client(own_port, FIRST_KEY).get("/healthz").status == 200
            except OSError:
                return False

        until(answers, 40, "it did not start")
        client = Client(own_port, FIRST_KEY)
        handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
        [delivery] = client.settled(client.send("hello", handlers=[handler]))
        assert delivery["status"] == "delivered"
        assert service.terminate() == 0
        assert service.rows("PRAGMA integrity_check") == [("ok",)]
    finally:
        service.kill()
