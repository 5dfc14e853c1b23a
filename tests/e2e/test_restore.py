"""After a restore no id means another message than before, whatever the lost store had handed out meanwhile."""

import contextlib
import json
import shutil
import sqlite3
import tarfile
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import Starter
from e2e.service import Client, OwnedClient, Service, in_an_hour, until
from e2e.stores import both_stores
from mailserver import MailServer
from receiver import Receiver
from tocsin import __version__, datadir, upkeep
from tocsin.settings import load
from tocsin.store import ids

STORES = Path(__file__).parent.parent / "stores"
MILLION, HUGE = 10**6, 2**32


def tocsin(service: Service, *words: object) -> str:
    """What the command said, having ended with 0."""
    done = service.run("tocsin", *map(str, words))
    assert done.returncode == 0, done.stderr
    return " ".join((done.stdout + done.stderr).split())


def sent(receiver: Receiver, message: str) -> tuple[str, Any]:
    """The webhook-id and the data that came with the first request of a message."""
    [request, *_] = [one for one in receiver.requests if one.json()["data"]["message"] == message]
    return request.headers["webhook-id"], request.json()["data"]


def mail_id(server: MailServer, subject: str) -> str:
    [found, *_] = [parsed for parsed in (message_from_bytes(one.content) for one in server.mails) if subject in parsed["Subject"]]
    return found["Message-ID"]


def send_now(client: Client, text: str, *handlers: int) -> list[Any]:
    return client.settled(client.send(text, title=text, handlers=list(handlers)))


def test_no_id_means_another_message_after_a_restore(
    start_service: Starter, receiver: Receiver, mail_server: MailServer, tmp_path: Path
) -> None:
    service = start_service(
        TOCSIN_SMTP_URL=mail_server.url(), TOCSIN_EMAIL_FROM="tocsin <alarm@example.com>", TOCSIN_RETRY_SCHEDULE="0.2s,1h"
    )
    client = service.first()
    hook, mailbox = client.add_handler("webhook", webhook=receiver.url("/hook")), client.add_handler("email", email="ids@example.com")
    receiver.answer("/waits", 500)
    waits = client.add_handler("webhook", webhook=receiver.url("/waits"))
    send_now(client, "first", hook, mailbox)
    waiting = client.send("waits", handlers=[waits], send_at=in_an_hour())
    copy = tmp_path / "copy.db"
    tocsin(service, "backup", copy)
    highest = {name: int(seq) for name, seq in service.rows("SELECT name, seq FROM sqlite_sequence")}
    lost = send_now(client, "lost", hook, mailbox)
    lost_handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    with service.admin() as admin:
        admin.add_user("lost@example.com", is_admin=False)
    service.kill()
    due = "UPDATE deliveries SET due_at = 1, first_due_at = 1 WHERE status = 0"

    for turn in (1, 2):  # the same copy twice: the second time it is behind the first restored store too
        tocsin(service, "restore", copy, "--replace")
        client.port = service.start().port
        new = send_now(client, f"new {turn}", hook, mailbox)
        assert {one["status"] for one in new} == {"delivered"}
        assert min(one["id"] for one in new) == highest["deliveries"] + turn * HUGE + 1
        assert new[0]["notification_id"] == highest["notifications"] + turn * HUGE + 1
        assert client.add_handler("webhook", webhook=receiver.url("/hook")) == highest["handlers"] + turn * MILLION + 1
        with service.admin() as admin:
            assert admin.add_user("new@example.com", is_admin=False)[0] == highest["users"] + turn * MILLION + 1
        service.terminate()
    assert lost_handler == highest["handlers"] + 1 and min(one["id"] for one in lost) == highest["deliveries"] + 1
    texts = ("first", "lost", "new 1", "new 2")
    assert len({sent(receiver, text)[0] for text in texts}) == len({mail_id(mail_server, text) for text in texts}) == 4
    stores = [sent(receiver, text)[0].split("_")[1] for text in texts]
    assert stores[0] == stores[1] and len(set(stores)) == 3  # and not by the number alone
    service.change(due)
    client.port = service.start().port
    assert client.attempted(waiting)["status"] == "pending"
    name, data = sent(receiver, "waits")
    assert name == f"msg_{stores[0]}_{data['delivery_id']}", "what waited in the copy keeps the id that it had"


def test_what_waited_in_a_copy_of_a_restored_store_keeps_its_id(start_service: Starter, receiver: Receiver, tmp_path: Path) -> None:
    receiver.answer("/hook", 500)
    service = start_service(TOCSIN_RETRY_SCHEDULE="1h")
    client = service.first()
    hook = client.add_handler("webhook", webhook=receiver.url("/hook"))
    client.attempted(client.send("1", handlers=[hook]))
    for turn in (2, 3):
        tocsin(service, "backup", tmp_path / f"{turn}.db")
        service.kill()
        tocsin(service, "restore", tmp_path / f"{turn}.db", "--replace")
        client.port = service.start().port
        receiver.answer("/hook", 500)
        client.attempted(client.send(f"{turn}", handlers=[hook]))
    before = {text: sent(receiver, text)[0] for text in ("1", "2", "3")}
    assert len({name.split("_")[1] for name in before.values()}) == 3
    service.terminate()
    service.change("UPDATE deliveries SET due_at = 1")
    count = len(receiver.requests)
    service.start()
    receiver.wait(count + 3)
    assert {one.json()["data"]["message"]: one.headers["webhook-id"] for one in receiver.requests[count:]} == before


def test_a_copy_that_was_put_back_by_hand_is_noticed(start_service: Starter, receiver: Receiver, tmp_path: Path) -> None:
    service = start_service()
    client = service.first()
    hook = client.add_handler("webhook", webhook=receiver.url("/hook"))
    send_now(client, "first", hook)
    assert service.terminate() == 0
    shutil.copy(service.data / "tocsin.db", tmp_path)
    client.port = service.start().port
    [lost] = send_now(client, "lost", hook)
    assert service.terminate() == 0
    shutil.copy(tmp_path / "tocsin.db", service.data)
    client.port = service.start().port
    [new] = send_now(client, "new", hook)
    assert new["id"] == lost["id"] - 1 + HUGE + 1 and sent(receiver, "new")[0] != sent(receiver, "lost")[0]
    until(lambda: service.log().count("store.is_older") == 1, what="it was not logged")
    client.port = _again(service)
    [after] = send_now(client, "after", hook)
    assert after["id"] == new["id"] + 1 and service.log().count("store.is_older") == 1


def _again(service: Service) -> int:
    assert service.terminate() == 0
    return service.start().port


def test_ids_that_would_become_too_large_are_refused(start_service: Starter, tmp_path: Path) -> None:
    service = start_service()
    copy = tmp_path / "copy.db"
    tocsin(service, "backup", copy)
    service.terminate()
    with contextlib.closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('deliveries', ?)", (2**53 - HUGE,))
    before = (service.data / "tocsin.db").read_bytes()
    refused = service.run("tocsin", "restore", str(copy), "--replace")
    assert refused.returncode == 1 and "ids of deliveries cannot move any further" in refused.stderr and "Traceback" not in refused.stderr
    assert (service.data / "tocsin.db").read_bytes() == before and not list(service.data.glob("tocsin.db.*"))


@pytest.mark.parametrize("commit", ["a4449ea", "5d42c9d"])
def test_a_store_of_an_earlier_commit_opens_and_goes_on(start_service: Starter, receiver: Receiver, tmp_path: Path, commit: str) -> None:
    """It holds a handler, a delivery that failed and one that waits, and is of version 0.1.0. Its copy can be restored too."""
    service = Service(tmp_path / "old", TOCSIN_RETRY_SCHEDULE=",".join(["1s"] * 60))
    service.data.mkdir(parents=True)
    with tarfile.open(STORES / f"{commit}.tar.gz") as packed:
        packed.extractall(service.data, filter="data")
    [(store_id,)] = service.rows("SELECT value FROM meta WHERE name = 'store_id'")
    for arguments in (["keys", "list"], ["users", "add", "kim@example.com"], ["secrets", "rotate"], ["audit"]):
        refused = service.run("tocsin", *arguments)
        assert refused.returncode == 1 and "start `tocsin serve` of this version first" in refused.stderr, refused.stderr
    tocsin(service, "backup", tmp_path / "before.db")  # one takes it before an upgrade
    try:
        client = service.start().first()
        assert client.get("/readyz").status == 200
        [line] = [json.loads(line) for line in service.log().splitlines() if '"upgraded"' in line]
        assert (line["before"], line["after"], line["seconds"] > 0) == ("0.1.0", __version__, True)
        assert client.handler(1)["settings"]["webhook"].startswith("http://127.0.0.1:")
        assert [one["id"] for one in client.get("/api/notifications").data] == [2, 1]
        waiting, failed = client.get("/api/deliveries").data
        assert (waiting["status"], failed["status"]) == ("pending", "failed")
        assert client.get(f"/api/deliveries/{failed['id']}").data["attempts"]
        client.change(1, webhook=receiver.url("/hook"))
        until(lambda: client.get(f"/api/deliveries/{waiting['id']}").data["status"] == "delivered")
        assert sent(receiver, "waits since then")[0] == f"msg_{store_id.decode()}_{waiting['id']}"
        assert client.get(f"/api/deliveries/{failed['id']}").data["status"] == "failed"
        [new] = send_now(client, "new", 1)
        assert new["id"] == 3 and sent(receiver, "new")[0] == f"msg_{store_id.decode()}_3"
        tocsin(service, "backup", tmp_path / "copy.db")
        service.kill()
        tocsin(service, "restore", tmp_path / "copy.db", "--replace")
        client = service.start().first()
        assert service.log().count('"upgraded"') == 1  # and not at every start
        [newer] = send_now(client, "newer", 1)
        assert newer["id"] == 3 + HUGE + 1
    finally:
        service.kill()


def test_a_user_that_was_made_after_the_copy_is_nobody_after_it(start_service: Starter, tmp_path: Path) -> None:
    """A key of a lost user opens nothing, and the next user is another one."""
    service = start_service()
    tocsin(service, "backup", tmp_path / "copy.db")
    lost = service.client()
    assert lost.get("/api/notifications").status == 200
    service.kill()
    tocsin(service, "restore", tmp_path / "copy.db", "--replace")
    service.start()
    assert OwnedClient(service.port, lost.key, "").get("/api/notifications").status == 401


@both_stores
def test_ids_move_on_after_a_recovery_by_other_means(start_service: Starter, receiver: Receiver) -> None:
    service = start_service()
    client = service.first()
    hook = client.add_handler("webhook", webhook=receiver.url("/hook"))
    [first] = send_now(client, "first", hook)
    running = service.run("tocsin", "restore", "--after-recovery")
    assert running.returncode == 1 and "serving the data directory" in running.stderr
    service.terminate()
    assert service.run("tocsin", "restore").returncode == service.run("tocsin", "restore", "x.db", "--after-recovery").returncode == 2
    assert "moved on" in tocsin(service, "restore", "--after-recovery")
    client.port = service.start().port
    [after] = send_now(client, "after", hook)
    assert after["id"] == first["id"] + HUGE + 1
    assert sent(receiver, "after")[0].split("_")[1] != sent(receiver, "first")[0].split("_")[1]
    assert client.add_handler("webhook", webhook=receiver.url("/hook")) == hook + MILLION + 1


def test_what_is_still_in_the_log_beside_a_copy_is_restored_too(start_service: Starter, receiver: Receiver, tmp_path: Path) -> None:
    """A store that was copied as files, after a kill: its last commits are in its log."""
    service = start_service()
    client = service.first()
    notification = client.send("in the log", handlers=[client.add_handler("webhook", webhook=receiver.url("/hook"))])
    client.settled(notification)
    service.kill()
    for ending in ("", "-wal"):
        shutil.copy(service.data / f"tocsin.db{ending}", tmp_path / f"copy.db{ending}")
    assert (tmp_path / "copy.db-wal").stat().st_size
    tocsin(service, "restore", tmp_path / "copy.db", "--replace")
    client.port = service.start().port
    assert [one["status"] for one in client.settled(notification)] == ["delivered"]


def test_no_restore_overwrites_what_an_earlier_one_has_kept(start_service: Starter, tmp_path: Path) -> None:
    service = start_service()
    tocsin(service, "backup", tmp_path / "copy.db")
    service.terminate()
    settings = load(service.environ, dotenv=tmp_path / "none.env")
    kept = [upkeep.restore(settings, tmp_path / "copy.db", replace=True) for _ in range(4)]  # some within the same second
    assert len(set(kept)) == 4 and all(one is not None and one.stat().st_size for one in kept)


def test_a_note_of_ids_is_read_though_the_end_of_a_longer_one_is_behind_it(tmp_path: Path) -> None:
    """A kill between the two steps of writing it."""
    mark = ids.Mark("origin", "store", {"deliveries": 7})
    settings = load({"TOCSIN_DATA_DIR": str(tmp_path)}, dotenv=tmp_path / "none.env")
    (tmp_path / "tocsin.lock").touch()
    datadir.note_ids(settings, mark)
    with (tmp_path / "tocsin.lock").open("ab") as lock:
        lock.write(b"000}}\n")
    assert datadir.noted_ids(tmp_path) == mark
