"""Killed at each named point of the corridor, and started again: nothing accepted is lost, nothing repeats but what the point implies,
and an attempt whose answer was lost says so."""

import contextlib
import http.client
import signal
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import Starter
from e2e.service import Client, Service, in_an_hour, until
from e2e.stores import both_stores, both_stores_long, sqlite_only
from mailserver import MailServer
from receiver import Receiver
from tocsin.cli.selftest.points import POINTS, Point
from tocsin.store import form

pytestmark = both_stores_long
AT = 3  # the message at which it dies

_TOTALS_OF_0001 = """
    CREATE TABLE totals_then (
        user_id INTEGER NOT NULL, what SMALLINT NOT NULL, n BIGINT NOT NULL, CONSTRAINT pk_totals PRIMARY KEY (user_id, what)
    ) WITHOUT ROWID;
    INSERT INTO totals_then SELECT user_id, what, sum(n) FROM totals GROUP BY user_id, what;
    DROP TABLE totals; ALTER TABLE totals_then RENAME TO totals;
    UPDATE alembic_version SET version_num = '0001';
"""


def make_older(file: Path) -> None:
    """Bring a store back to the form that the first version gave it."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.executescript(_TOTALS_OF_0001)
        then, now = form.expected("0001"), form.shape(connection)
        kinds = connection.execute("SELECT type, name FROM sqlite_master WHERE type IN ('index', 'table') ORDER BY type").fetchall()
        for kind, name in kinds:
            if name in now.keys() - then.keys():
                connection.execute(f"DROP {kind} {name}")
        for table in now.keys() & then.keys():
            for column in {name for name, *_ in now[table]} - {name for name, *_ in then[table]}:
                connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")


# Where a scene has several points, those whose neighbour shows the same promise.
LONG = {"before-accept-commit", "after-wake-up", "after-connect", "before-outcome-commit", "after-answer"}


def of(*scenes: str) -> Any:
    points = [pytest.param(one, id=one.name, marks=[pytest.mark.long] * (one.name in LONG)) for one in POINTS if one.scene in scenes]
    return pytest.mark.parametrize("point", points)


def test_every_point_has_its_scene() -> None:
    scenes = {"send", "parts", "mail", "stop", "gone", "pause", "retry", "restart", "credential", "follow", "migrate", "backup", "restore"}
    assert {one.scene for one in POINTS} == scenes


def call(client: Client, method: str, path: str, **details: Any) -> Any:
    """The answer's data; None if the service died of it."""
    try:
        return client(method, path, **details).data
    except (OSError, http.client.HTTPException):
        return None


def send(client: Client, message: str, handler: int, **fields: object) -> Any:
    """The notification's id; None if the service died before it had answered. Safe to repeat."""
    content = {"message": message, "handlers": [handler], **fields}
    answer = call(client, "POST", "/api/notifications", json=content, headers={"Idempotency-Key": message[:50]})
    return None if answer is None else answer["id"]


def settled(client: Client, notification: int) -> Any:
    """Its only delivery; None if the service died meanwhile."""
    try:
        return client.settled(notification)[0]
    except (OSError, http.client.HTTPException):
        return None


def send_until_it_dies(service: Service, client: Client, handler: int, messages: list[str]) -> dict[str, int]:
    """One after the other; ids of what was accepted, all of it once the service runs again."""
    accepted: dict[str, int] = {}
    for message in messages:
        notification = send(client, message, handler)
        if notification is None or (accepted.setdefault(message, notification) and settled(client, notification) is None):
            break
    service.dies()
    client.port = service.start().port
    for message in messages:
        notification = send(client, message, handler)
        assert accepted.setdefault(message, notification) == notification
    return accepted


def start(start_service: Starter, point: Point, count: int = AT, **environ: str) -> Service:
    return start_service(crash_at=f"{point.name}:{count}", TOCSIN_RETRY_SCHEDULE="0.1s,0.1s", **environ)


@both_stores
@of("send")
def test_killed_while_sending(start_service: Starter, receiver: Receiver, point: Point) -> None:
    service = start(start_service, point)
    client = service.first()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    messages = [f"message {number}" for number in range(AT + 2)]
    accepted = send_until_it_dies(service, client, handler, messages)
    found = {message: settled(client, notification) for message, notification in accepted.items()}
    assert [one["status"] for one in found.values()] == ["delivered"] * len(messages)
    arrived = Counter(one.json()["data"]["message"] for one in receiver.requests)
    hit = messages[AT - 1]
    assert arrived == {message: 1 + (message == hit and point.repeats) for message in messages}
    assert len({one.headers["webhook-id"] for one in receiver.requests}) == len(messages)
    outcomes = {message: [one["outcome"] for one in delivery["attempts"]] for message, delivery in found.items()}
    assert outcomes == {message: ["unknown"] * (message == hit and point.unknown) + ["delivered"] for message in messages}


@of("parts")
def test_killed_between_the_parts_of_a_message(start_service: Starter, receiver: Receiver, point: Point) -> None:
    service = start(start_service, point, 1)
    client = service.first()
    handler = client.add_handler("slack", slack=receiver.url("/slack"))
    text = "\n\n".join(f"Paragraph {number}. " + "word " * 400 for number in range(10))
    [notification] = send_until_it_dies(service, client, handler, [text]).values()
    delivery = settled(client, notification)
    assert [one["outcome"] for one in delivery["attempts"]] == ["unknown", "delivered"]
    texts = [one.json()["text"] for one in receiver.requests]
    parts = len(set(texts))
    assert parts > 1
    assert texts == [texts[0], *texts[1:]] and texts[1:] == list(dict.fromkeys(texts)), "the first part again, then the others in order"


@of("mail")
def test_killed_while_mailing(start_service: Starter, mail_server: MailServer, point: Point) -> None:
    before = len(mail_server.mails)  # of other tests
    service = start(start_service, point, TOCSIN_SMTP_URL=mail_server.url(), TOCSIN_EMAIL_FROM="alarm@example.com", TOCSIN_UNKNOWN="stop")
    client = service.first()
    handler = client.add_handler("email", email="root@nas")
    messages = [f"{point.name} {number}" for number in range(AT + 1)]
    accepted = send_until_it_dies(service, client, handler, messages)
    hit = messages[AT - 1]
    for message, notification in accepted.items():
        delivery = settled(client, notification)
        lost = message == hit and point.unknown
        assert (delivery["status"], [one["outcome"] for one in delivery["attempts"]]) == (
            ("failed", ["unknown"]) if lost else ("delivered", ["delivered"])
        )
        arrived = sum(message.encode() in one.content for one in list(mail_server.mails)[before:])
        assert arrived <= 1 if lost else arrived == 1


@of("stop")
def test_killed_while_draining(start_service: Starter, receiver: Receiver, point: Point) -> None:
    receiver.answer("/hook", 200, hold=True)
    service = start(start_service, point, 1)
    client = service.first()
    notification = client.send("Hello", handlers=[client.add_handler("webhook", webhook=receiver.url("/hook"))])
    receiver.wait(1)
    assert service.terminate() == -9
    receiver.release()
    client.port = service.start().port
    assert [one["outcome"] for one in settled(client, notification)["attempts"]] == ["unknown", "delivered"]
    assert len(receiver.requests) == 2


@of("gone")
def test_killed_while_a_handler_is_switched_off(start_service: Starter, receiver: Receiver, point: Point) -> None:
    receiver.answer("/dead", 410)
    service = start(start_service, point, 1)
    client = service.first()
    dead, _ = (client.add_handler("webhook", name, webhook=receiver.url(f"/{name}")) for name in ("dead", "witness"))
    later = client.send("later", handlers=[dead], send_at=in_an_hour())
    client.send("now", handlers=[dead])
    service.dies()
    client.port = service.start().port
    receiver.answer("/dead", 410)
    settled(client, client.send("once more", handlers=[dead]))
    until(lambda: not client.handler(dead)["is_enabled"])
    assert settled(client, later)["status"] == "failed"
    until(lambda: client.get("/api/deliveries?status=pending").json["meta"]["total"] == 0)
    until(lambda: any(one.path == "/witness" for one in receiver.requests), what="its owner was not told")
    assert [one.json()["type"] for one in receiver.requests if one.path == "/witness"] == ["handler.disabled"], "told, and once"
    history = client.get(f"/api/notification-handlers/{dead}/stats").data["history"]
    assert [one["event"] for one in history] == ["switched_off"]


@of("pause")
def test_killed_while_its_owner_pauses_or_deletes_a_handler(start_service: Starter, receiver: Receiver, point: Point) -> None:
    service = start(start_service, point, 1)
    client = service.first()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    later = client.send("later", handlers=[handler], send_at=in_an_hour())
    assert call(client, "POST", f"/api/notification-handlers/{handler}", form={"is_enabled": "0"}) is None
    service.dies()
    client.port = service.start().port
    [delivery] = client.deliveries(later)
    is_paused = not client.handler(handler)["is_enabled"]
    assert is_paused == (point.name == "after-pause-commit")
    assert delivery["status"] == ("skipped" if is_paused else "pending")


def test_what_a_crash_left_waiting_for_a_stopped_handler_ends_at_the_start(start_service: Starter, receiver: Receiver) -> None:
    """A backlog too long for one commit: the crash came between its steps."""
    service = start_service()
    client = service.first()
    handlers = [client.add_handler("webhook", webhook=receiver.url("/hook")) for _ in range(3)]
    later = client.send("later", handlers=handlers, send_at=in_an_hour())
    service.kill()
    service.change("UPDATE handlers SET is_enabled = FALSE, deleted_at = 1 WHERE id = ?", handlers[0])
    service.change("UPDATE handlers SET is_enabled = FALSE, disabled_reason = 'gone' WHERE id = ?", handlers[1])
    service.change("UPDATE handlers SET is_enabled = FALSE WHERE id = ?", handlers[2])
    client.port = service.start().port
    assert [one["status"] for one in client.deliveries(later)] == ["cancelled", "failed", "skipped"]


@both_stores
@of("credential")
def test_killed_while_a_credential_is_changed(start_service: Starter, receiver: Receiver, point: Point) -> None:
    """What waits goes where the handler leads now, though a change of its credential may lead to another partition."""
    old, new = "/api/webhooks/1/old", "/api/webhooks/1/new"
    receiver.answer(old, 429, headers={"Retry-After": "600"})
    service = start(start_service, point, 1)
    client = service.first()
    handler = client.add_handler("discord", discord=receiver.url(old))
    client.attempted(client.send("throttled", handlers=[handler]))
    waiting = [client.send(f"message {number}", handlers=[handler]) for number in range(5)]
    assert call(client, "POST", f"/api/notification-handlers/{handler}", json={"discord": receiver.url(new)}) is None
    service.dies()
    client.port = service.start().port
    assert [settled(client, one)["status"] for one in waiting] == ["delivered"] * 5
    assert [one.path for one in receiver.requests] == [old, *[new] * 5]


@both_stores
@of("retry")
def test_killed_during_a_replay(start_service: Starter, receiver: Receiver, point: Point) -> None:
    for _ in range(3):
        receiver.answer("/hook", 500)
    service = start(start_service, point, 1)
    client = service.first()
    notification = client.send("Hello", handlers=[client.add_handler("webhook", webhook=receiver.url("/hook"))])
    failed = settled(client, notification)
    assert (failed["status"], len(receiver.requests)) == ("failed", 3)
    receiver.forget("/hook")
    replay = ("POST", f"/api/deliveries/{failed['id']}/retry")
    assert call(client, *replay, headers={"Idempotency-Key": "again"}) is None
    service.dies()
    client.port = service.start().port
    assert client.delivery(failed["id"]) == failed
    for _ in range(2):
        assert call(client, *replay, headers={"Idempotency-Key": "again"}) == {"retried": 1}
    assert settled(client, notification)["status"] == "delivered"
    assert len(receiver.requests) == 4


@of("restart")
def test_killed_while_it_recovers_from_a_kill(start_service: Starter, receiver: Receiver, point: Point) -> None:
    receiver.answer("/hook", 200, hold=True)
    service = start_service(TOCSIN_RETRY_SCHEDULE="0.1s,0.1s")
    client = service.first()
    notification = client.send("Hello", handlers=[client.add_handler("webhook", webhook=receiver.url("/hook"))])
    receiver.wait(1)
    service.kill()
    receiver.release()
    service.crash_at = point.name
    service.launch()
    service.dies()
    client.port = service.start().port
    assert [one["outcome"] for one in settled(client, notification)["attempts"]] == ["unknown", "delivered"]
    assert len(receiver.requests) == 2


@sqlite_only
@of("migrate")
def test_killed_during_a_migration(start_service: Starter, receiver: Receiver, point: Point) -> None:
    service = start_service()
    client = service.first()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    later = client.send("later", handlers=[handler], send_at=in_an_hour())
    service.terminate()
    make_older(service.data / "tocsin.db")
    service.crash_at = point.name
    service.launch()
    service.dies()
    assert service.rows("SELECT version_num FROM alembic_version") == [("0001",)]
    client.port = service.start().port
    assert [one["status"] for one in client.deliveries(later)] == ["pending"]
    assert settled(client, client.send("now", handlers=[handler]))["status"] == "delivered"
    assert service.rows("SELECT what, sum(n) FROM totals WHERE what < 100 GROUP BY what") == [(0, 1), (1, 1)]


@sqlite_only
@of("backup")
def test_killed_during_a_backup(start_service: Starter, receiver: Receiver, point: Point) -> None:
    """There is no file that looks like a backup and is none, the service has noticed nothing, and the next backup is made."""
    service = start_service()
    client = service.first()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    client.settled(client.send("before", handlers=[handler]))
    copy = service.folder / "copy.db"
    died = service.run("tocsin.cli.selftest.points", point.name, "backup", str(copy))
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not copy.exists()
    assert settled(client, client.send("after", handlers=[handler]))["status"] == "delivered"
    made = service.run("tocsin", "backup", str(copy))
    assert (made.returncode, copy.exists()) == (0, True), made.stderr
    assert not list(service.folder.glob("copy.db?*"))


@sqlite_only
@of("restore")
def test_killed_during_a_restore(start_service: Starter, receiver: Receiver, point: Point) -> None:
    """There is a store at every moment: the old one, until the copy has taken its place."""
    service = start_service()
    client = service.first()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    copy = service.folder / "copy.db"
    assert service.run("tocsin", "backup", str(copy)).returncode == 0
    notification = client.send("after the copy", handlers=[handler])
    client.settled(notification)
    service.kill()
    died = service.run("tocsin.cli.selftest.points", point.name, "restore", str(copy), "--replace")
    assert died.returncode == -signal.SIGKILL, died.stderr
    client.port = service.start().port
    assert [one["status"] for one in client.settled(notification)] == ["delivered"]
    service.terminate()
    assert service.run("tocsin", "restore", str(copy), "--replace").returncode == 0
    client.port = service.start().port
    assert client.get("/api/notifications").json["meta"]["total"] == 0
