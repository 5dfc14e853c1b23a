"""Stores that are damaged, empty, foreign or of another version: one sentence from every command, and the running service says it."""

import contextlib
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.conftest import Starter
from e2e.namespace import in_a_namespace
from e2e.service import Service, until
from e2e.stores import both_stores
from e2e.test_datadir import copied, hashes, is_one_sentence
from receiver import Receiver
from tocsin import upkeep
from tocsin.cli.selftest.pages import Damage
from tocsin.ports.errors import StoreError
from tocsin.settings import load


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Service:
    service = Service(tmp_path_factory.mktemp("stopped")).start()
    try:
        service.first().add_handler("webhook", webhook="https://example.com/")
        assert service.terminate() == 0
    finally:
        service.kill()
    return service


def run_sql(file: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def sql(*statements: str) -> Callable[[Path], None]:
    return lambda file: run_sql(file, *statements)


def another(*statements: str) -> Callable[[Path], None]:
    def make(file: Path) -> None:
        file.unlink()
        run_sql(file, *statements)

    return make


def directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def damage_root(file: Path, name: str) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    content = bytearray(file.read_bytes())
    content[(page - 1) * 4096 : page * 4096] = random.Random(1).randbytes(4096)
    file.write_bytes(content)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda file: file.write_bytes(b""), "is empty"),
    "no tables": (another("CREATE TABLE t (x)", "DROP TABLE t"), "is empty"),
    "directory": (directory, "not a file"),
    "text": (lambda file: file.write_text("Dear diary, this is no database.\n" * 200), "is not a tocsin store"),
    "foreign": (another("CREATE TABLE bookmarks (url TEXT)"), "is not a tocsin store"),
    "alembic of others": (another("CREATE TABLE alembic_version (version_num)", "CREATE TABLE t (x)"), "is not a tocsin store"),
    "newer": (sql("UPDATE alembic_version SET version_num = '9999'"), "made by a newer version"),
    "unknown": (sql("UPDATE alembic_version SET version_num = '0000'"), "made by an unknown version"),
    "words for a version": (sql("UPDATE alembic_version SET version_num = '0abc'"), "made by an unknown version"),
    "no version": (sql("DELETE FROM alembic_version"), "does not say which version it has"),
    "no version table": (sql("DROP TABLE alembic_version"), "does not say which version it has"),
    "development": (sql("ALTER TABLE deliveries DROP COLUMN replays"), "deliveries differs in replays"),
    "older in name only": (sql("UPDATE alembic_version SET version_num = '0001'"), "deliveries differs in"),
    "an index less": (sql("DROP INDEX ix_deliveries_pending"), "ix_deliveries_pending is missing"),
    "no identity": (sql("INSERT INTO meta (name, value) VALUES ('eras', x'00')"), "its identity cannot be read"),
    "an identity of none": (sql("INSERT INTO meta (name, value) VALUES ('eras', '[]')"), "its identity cannot be read"),
    "no text for an identity": (sql("UPDATE meta SET value = x'ff' WHERE name = 'store_id'"), "its identity cannot be read"),
    "types of a later version": (sql("UPDATE handlers SET type = 'pigeon_post'"), "types that this version does not know (pigeon_post)"),
    "damaged": (lambda file: damage_root(file, "deliveries"), "is damaged"),
    "damaged index": (lambda file: damage_root(file, "ix_deliveries_pending"), "is damaged"),
    "half a file": (lambda file: file.write_bytes(file.read_bytes()[: 4096 * 3]), "is damaged"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_store_is_said_in_one_sentence_by_every_command(stopped: Service, tmp_path: Path, kind: str) -> None:
    make, sentence = BAD[kind]
    service = copied(stopped, tmp_path)
    file = service.data / "tocsin.db"
    make(file)
    before = hashes(service.data) if file.is_file() else {}
    said = service.refused()
    assert is_one_sentence(said) and sentence in said, said
    checked = service.run("tocsin", "check")
    found = " ".join((checked.stdout + checked.stderr).split())
    assert checked.returncode == 1 and said.removeprefix("tocsin: ") in found and "Traceback" not in found, found
    settings = load(service.environ, dotenv=tmp_path / "none.env")
    with pytest.raises(StoreError) as refused:
        upkeep.back_up(settings, tmp_path / "copy.db")
    assert str(refused.value) == said.removeprefix("tocsin: ") and not (tmp_path / "copy.db").exists()
    if file.is_file():
        assert hashes(service.data) == before, "it was left as it was"
        shutil.copytree(stopped.data, tmp_path / "whole" / "data")
        whole = load({"TOCSIN_DATA_DIR": str(tmp_path / "whole" / "data")}, dotenv=tmp_path / "none.env")
        with pytest.raises(StoreError) as refused:
            upkeep.restore(whole, file, replace=True)
        assert ("\n" not in str(refused.value) and str(file) in str(refused.value)) or "damaged" in str(refused.value)
    copy = tmp_path / "good.db"
    upkeep.back_up(load({"TOCSIN_DATA_DIR": str(stopped.data)}, dotenv=tmp_path / "none.env"), copy)
    upkeep.restore(settings, copy, replace=True)  # and a backup heals it
    assert service.start().first().handler(1)["type"] == "webhook"
    service.kill()


def test_commands_say_it_as_one_sentence_too(stopped: Service, tmp_path: Path) -> None:
    service = copied(stopped, tmp_path)
    (service.data / "tocsin.db").write_bytes(b"")
    for words in (("backup", str(tmp_path / "copy.db")), ("restore", str(service.data / "tocsin.db"), "--replace")):
        done = service.run("tocsin", *words)
        assert done.returncode == 1 and is_one_sentence(done.stderr.strip()) and "empty" in done.stderr, done.stderr


def test_an_empty_store_is_begun_anew_once_its_file_is_deleted(stopped: Service, tmp_path: Path) -> None:
    service = copied(stopped, tmp_path)
    file = service.data / "tocsin.db"
    file.write_bytes(b"")
    assert f"delete {file} first" in service.refused()
    file.unlink()
    try:
        assert service.start().first().get("/api/notification-handlers").json["meta"]["total"] == 0
    finally:
        service.kill()


@pytest.mark.parametrize("name", ["in-flight", "starts", "tocsin.lock"])
def test_what_is_no_file_beside_the_store_is_said(stopped: Service, tmp_path: Path, name: str) -> None:
    service = copied(stopped, tmp_path)
    (service.data / name).unlink()
    (service.data / name).mkdir()
    said = service.refused()
    assert is_one_sentence(said) and str(service.data / name) in said
    checked = service.run("tocsin", "check")
    assert checked.returncode == 1 and said.removeprefix("tocsin: ") in " ".join(checked.stdout.split())
    restored = service.run("tocsin", "restore", str(service.data / "tocsin.db"), "--replace")
    assert restored.returncode == 1 and is_one_sentence(restored.stderr.strip())


def test_what_cannot_be_kept_is_not_sent_again(start_service: Starter, receiver: Receiver, tmp_path: Path) -> None:
    """The table of attempts is damaged: each handler gets what was in flight and no more, `readyz` says why, as `check` does."""
    service = start_service()
    client = service.first()
    handlers = [client.add_handler("webhook", webhook=receiver.url(f"/{number}")) for number in range(3)]
    client.settled(client.send("before", handlers=handlers))
    service.terminate()
    whole = tmp_path / "whole.db"
    shutil.copy(service.data / "tocsin.db", whole)
    damage_root(service.data / "tocsin.db", "attempts")
    client.port = service.start().port
    count = len(receiver.requests)
    ids = [client.send(f"{number}", handlers=handlers) for number in range(5)]
    receiver.wait(count + 3)
    until(lambda: client.get("/readyz").status == 503, what="readyz says that all is well")
    said = client.get("/readyz").json["complaints"]
    assert any(one.startswith("The store is damaged (") and one.endswith("restore a backup.") for one in said), said
    checked = service.run("tocsin", "check")
    assert checked.returncode == 1 and "The store is damaged (" in " ".join(checked.stdout.split()), checked.stdout
    lines = service.log().count("settle.waits")
    tries = service.log().count("attempt.failed")
    until(lambda: tocsin_writes(client) == 0)
    assert lines == 1 and tries == 0
    sent = [(one.path, one.json()["data"]["message"]) for one in receiver.requests[count:]]
    assert len(sent) == len(set(sent)), "something was sent twice"

    # It is as it was before the damage, but for what went out, which the ledger knows.
    service.kill()
    with contextlib.closing(sqlite3.connect(service.data / "tocsin.db")) as broken:
        broken.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        broken.execute("PRAGMA writable_schema=ON")
        broken.execute("DELETE FROM sqlite_master WHERE name = 'attempts'")
        broken.commit()
    run_sql(service.data / "tocsin.db", _ATTEMPTS)
    client.port = service.start().port
    for one in ids:
        client.settled(one)
    rows = service.rows("SELECT outcome, count(*) FROM attempts WHERE delivery_id > 3 GROUP BY outcome")
    assert dict(rows)["unknown"] == len(sent) and client.get("/readyz").status == 200


def test_a_page_that_is_whole_again_is_read_anew(start_service: Starter, receiver: Receiver) -> None:
    """Without a restart: what SQLite remembers of the page is as bad as the page was."""
    service = start_service()
    client = service.first()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    client.settled(client.send("before", handlers=[handler]))
    service.terminate()
    damage = Damage(service.data / "tocsin.db", "attempts", random.Random(1))
    client.port = service.start().port
    held = client.send("held", handlers=[handler])
    until(lambda: client.get("/readyz").status == 503, what="readyz says that all is well")
    damage.undo()
    [delivery] = client.settled(held, 20)
    assert (delivery["status"], delivery["attempt_count"]) == ("delivered", 1)
    assert [one.json()["data"]["message"] for one in receiver.requests] == ["before", "held"]


def test_readyz_says_damage_until_what_found_it_can_be_read(start_service: Starter, receiver: Receiver) -> None:
    """However seldom that is read, and however much else can be read meanwhile."""
    service = start_service()
    client = service.first()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    client.settled(client.send("before", handlers=[handler]))
    service.terminate()
    damage = Damage(service.data / "tocsin.db", "notifications", random.Random(1))
    client.port = service.start().port
    assert client.get("/api/notifications").status == 503
    assert client.get("/api/notification-handlers").json["meta"]["total"] == 1
    assert client.get("/readyz").status == client.get("/readyz").status == 503
    damage.undo()
    until(lambda: client.get("/readyz").status == 200, what="readyz still says that it is damaged")
    assert client.get("/api/notifications").json["meta"]["total"] == 1


def tocsin_writes(client: object) -> int:
    """Writes that wait for their commit."""
    text = client.get("/metrics").content.decode()  # type: ignore[attr-defined]
    return int(float(next(line for line in text.splitlines() if line.startswith("tocsin_store_writes_waiting ")).split()[1]))


_ATTEMPTS = (
    "CREATE TABLE attempts (delivery_id INTEGER NOT NULL, number INTEGER NOT NULL, at BIGINT NOT NULL, duration_us BIGINT NOT NULL,"
    " outcome TEXT NOT NULL, reason TEXT NOT NULL, status_code INTEGER, response TEXT, next_at BIGINT, provider_id TEXT, detail TEXT,"
    " PRIMARY KEY (delivery_id, number)) WITHOUT ROWID"
)


@both_stores
def test_an_outcome_that_breaks_a_rule_is_held_until_the_rule_is_gone(start_service: Starter, receiver: Receiver) -> None:
    """A constraint: only that handler waits, and what it got is kept once the fault is gone, without being sent again."""
    service = start_service()
    client = service.first()
    bad, good = (client.add_handler("webhook", webhook=receiver.url(path)) for path in ("/bad", "/good"))
    client.settled(client.send("before", handlers=[bad, good]))
    when = f"CREATE TRIGGER refuse BEFORE UPDATE ON deliveries {{}} WHEN (new.handler_id = {bad}) {{}}"
    if "TOCSIN_DATABASE_URL" in service.environ:
        service.change("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'a rule'; END $$")
        service.change(when.format("FOR EACH ROW", "EXECUTE FUNCTION refuse()"))
    else:
        service.change(when.format("", "BEGIN SELECT RAISE(ABORT, 'a rule'); END"))
    held = client.send("held", handlers=[bad])
    until(lambda: client.get("/readyz").status == 503, what="readyz says that all is well")
    assert "a rule" in client.get("/readyz").json["complaints"][0]
    waits = client.send("waits", handlers=[bad])
    for number in range(3):
        assert client.settled(client.send(f"good {number}", handlers=[good]))[0]["status"] == "delivered"
    assert [one.json()["data"]["message"] for one in receiver.requests if one.path == "/bad"] == ["before", "held"]
    service.change("DROP TRIGGER refuse ON deliveries" if "TOCSIN_DATABASE_URL" in service.environ else "DROP TRIGGER refuse")
    assert [client.settled(one, 40)[0]["attempt_count"] for one in (held, waits)] == [1, 1]
    assert [one.json()["data"]["message"] for one in receiver.requests if one.path == "/bad"] == ["before", "held", "waits"]
    until(lambda: client.get("/readyz").status == 200)


@in_a_namespace
def test_a_ledger_that_can_only_be_read_is_said(tmp_path: Path) -> None:
    service = Service(tmp_path / "service").start()
    service.terminate()
    ledger = service.data / "in-flight"
    subprocess.run(["mount", "--bind", str(ledger), str(ledger)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(ledger)], check=True)
    said = service.refused()
    assert is_one_sentence(said) and str(ledger) in said and "read-only" in said.lower(), said
    checked = service.run("tocsin", "check")
    assert checked.returncode == 1 and said.removeprefix("tocsin: ") in " ".join(checked.stdout.split())


def test_what_housekeeping_knows_may_be_damaged(stopped: Service, tmp_path: Path) -> None:
    service = copied(stopped, tmp_path)
    run_sql(service.data / "tocsin.db", "INSERT OR REPLACE INTO meta (name, value) VALUES ('housekeeping', '{\"seen\": \"yesterday\"}')")
    checked = service.run("tocsin", "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_fault_that_lasts_keeps_no_stop_from_its_end(start_service: Starter, receiver: Receiver) -> None:
    """Constraints that nothing gets over: what is kept at a stop is tried, each for itself, and the log names no value of any row."""
    service = start_service()
    client = service.first()
    handler = client.add_handler("webhook", name="a name", webhook=receiver.url("/hook"))
    client.settled(client.send("before", handlers=[handler]))
    rules = {"keys": "UPDATE", "handler_hours": "INSERT", "handlers": "INSERT"}
    run_sql(
        service.data / "tocsin.db",
        *(f"CREATE TRIGGER no_{table} BEFORE {what} ON {table} BEGIN SELECT RAISE(ABORT, 'a rule'); END" for table, what in rules.items()),
    )
    refused = client("POST", "/api/notification-handlers", form={"name": "another name", "type": "webhook", "webhook": receiver.url("/x")})
    assert refused.status == 500
    assert service.terminate() == 0
    log = service.log()
    assert log.count("stop.failed") == 2 and "a rule" in log and "another name" not in log
