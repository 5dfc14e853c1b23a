"""A handler whose settings no key of the service opens, beside others that are well."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select, update

from api.support import Client, Server, hook, serving, until
from receiver import Receiver
from tocsin.cli import check, upkeep
from tocsin.datadir import open_existing
from tocsin.flow.directory import Directory
from tocsin.flow.handlers.sealed import Sealed
from tocsin.flow.people.access import SCOPES
from tocsin.settings import Settings, load
from tocsin.store.sql import write_now
from tocsin.store.tables import handlers
from tocsin.vault import Vault

OLD, NEW = "the-key-that-was-there-first", "the-key-that-was-taken-away"
COMPLAINT = (
    "No key of the service opens the settings of a handler, so nothing is sent to it: put back the key that they were stored with,"
    " beside the present one, or have them entered again."
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def settings(folder: Path, keys: str) -> Settings:
    return load({"TOCSIN_DATA_DIR": str(folder), "TOCSIN_SECRET_KEY": keys}, folder / "no.env")


def before(folder: Path, url: str) -> tuple[Client, int, int]:
    """A handler under the old key, and one under the new key, which is taken away again."""
    with serving(folder, TOCSIN_SECRET_KEY=OLD) as server:
        client = server.client(*SCOPES)
        well = hook(client, url)
    with serving(folder, TOCSIN_SECRET_KEY=f"{NEW},{OLD}") as server:
        client.port = server.port
        return client, well, hook(client, url)


def complaints(client: Client) -> list[str]:
    answer = client.get("/readyz")
    assert answer.status == 200
    return answer.json["complaints"]


def states(client: Client) -> dict[int, tuple[str, str | None, str | None]]:
    return {one["id"]: (one["state"], one["reason"], one["detail"]) for one in client.get("/api/handler-states").data}


def test_the_others_go_on_and_its_settings_can_be_entered_again(folder: Path, receiver: Receiver) -> None:
    url = receiver.url("/hook")
    client, well, sealed = before(folder, url)
    with serving(folder, TOCSIN_SECRET_KEY=OLD) as server:
        client.port = server.port
        until(lambda: complaints(client), [COMPLAINT])  # by itself: nothing was sent yet
        listed = client.get("/api/notification-handlers").data
        assert {one["id"]: one["settings"] for one in listed} == {well: {"webhook": url}, sealed: {"webhook": ""}}
        assert client.get(f"/api/notification-handlers/{sealed}").data["settings"] == {"webhook": ""}
        lost = ("failing", "settings", "The stored settings cannot be opened with the service's key.")
        assert states(client) == {well: ("ok", None, None), sealed: lost}
        assert client.get(f"/api/notification-handlers/{sealed}/stats").data["health"]["hint"] == "Enter the handler's settings again."

        assert client.post("/api/notifications", {"message": "waits", "handlers": [well, sealed]}).status == 202
        until(lambda: [one["status"] for one in client.get(f"/api/deliveries?notification_handler_id={well}").data], ["delivered"])
        [waits] = client.get(f"/api/deliveries?notification_handler_id={sealed}").data
        assert (waits["status"], waits["attempt_count"]) == ("pending", 0)

        assert client.post(f"/api/notification-handlers/{sealed}", {"name": "Another name"}).status == 200
        part = client.post(f"/api/notification-handlers/{sealed}", {"webhook_headers": "X-One: 1"})
        assert part.faults() == [("required", "webhook")]
        assert client.get(f"/api/notification-handlers/{sealed}/secret").status == 503
        again = receiver.url("/again")
        assert client.post(f"/api/notification-handlers/{sealed}", {"webhook": again}).status == 200
        found = client.get(f"/api/notification-handlers/{sealed}").data
        assert (found["name"], found["settings"]) == ("Another name", {"webhook": again})
        assert client.get(f"/api/notification-handlers/{sealed}/secret").data["secret"].startswith("whsec_")
        assert (states(client)[sealed], complaints(client)) == (("ok", None, None), [])
        assert client.post(f"/api/notification-handlers/{sealed}/test").data["status"] == "delivered"


def test_only_what_no_key_opens_is_made_anew(folder: Path) -> None:
    """Here the signing secret is under a key that is there: receivers know it."""
    with serving(folder, TOCSIN_SECRET_KEY=OLD) as server:
        client = server.client(*SCOPES)
        handler = hook(client)
        secret = client.get(f"/api/notification-handlers/{handler}/secret").data
        seal(server, handler)
        assert client.get(f"/api/notification-handlers/{handler}").data["settings"] == {"webhook": ""}
        assert client.post(f"/api/notification-handlers/{handler}", {"webhook": "http://127.0.0.1:9/new"}).status == 200
        assert client.get(f"/api/notification-handlers/{handler}/secret").data == secret


def test_one_that_mails_can_be_entered_again(folder: Path) -> None:
    with serving(folder, TOCSIN_SECRET_KEY=OLD) as server:
        client = server.client(*SCOPES)
        handler = client.post("/api/notification-handlers", {"name": "Mail", "type": "email", "email": "a@example.com"}).data["id"]
        seal(server, handler)
        assert client.post(f"/api/notification-handlers/{handler}", {"email": "b@example.com"}).status == 200
        assert client.get(f"/api/notification-handlers/{handler}").data["settings"] == {"email": "b@example.com"}


def test_check_says_so(folder: Path) -> None:
    before(folder, "http://127.0.0.1:9/")
    assert [one.text for one in check.secret_key(settings(folder, OLD))] == [COMPLAINT]
    assert list(check.secret_key(settings(folder, f"{NEW},{OLD}"))) == []


def test_a_new_key_leaves_what_no_key_opens(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of another the secret alone is under a key that is there: that one is encrypted under the new key."""
    with serving(folder, TOCSIN_SECRET_KEY=OLD) as server:
        hooks = [hook(server.client(*SCOPES)) for _ in range(3)]
        with server.engine.connect() as connection:
            secret = connection.scalar(select(handlers.c.secret).where(handlers.c.id == hooks[1]))
        seal(server, hooks[1])
        lost = Vault([NEW]).seal({})
        both = update(handlers).where(handlers.c.id == hooks[0]).values(settings=lost, secret=lost)
        write_now(server.engine, lambda connection: connection.execute(both))
    monkeypatch.setenv("TOCSIN_SECRET_KEY", f"a-key-that-is-newer-than-both,{OLD}")
    upkeep.rotate(data_dir=folder)
    said = capsys.readouterr().err
    assert "2 handlers have their secrets encrypted under the new key." in said
    assert "No key opens the secrets of 2 more, which were left as they are: their owners can enter the settings again." in said
    engine, vault = open_existing(settings(folder, "a-key-that-is-newer-than-both"))
    with engine.connect() as connection:
        rows = connection.execute(select(handlers.c.settings, handlers.c.secret).order_by(handlers.c.id)).all()
    engine.dispose()
    assert tuple(rows[0]) == (lost, lost) and secret is not None and not vault.opens(secret)
    assert [(vault.opens(one.settings), vault.opens(one.secret)) for one in rows] == [(False, False), (False, True), (True, True)]


def test_all_are_looked_at_again_for_other_keys_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after each write of another process."""
    told: list[str] = []
    monkeypatch.setattr(Directory, "forget_all", lambda _: told.append("forget"))
    monkeypatch.setattr(Sealed, "look_again", lambda _: told.append("look again"))
    with serving(folder):
        note_elsewhere(folder)
        until(lambda: told, ["forget"])
        file = folder / "secret.key"
        file.write_text(f"{NEW}\n{file.read_text()}")
        note_elsewhere(folder)
        until(lambda: told, ["forget", "forget", "look again"])


def note_elsewhere(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "tocsin.db")) as connection:
        connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('a test', randomblob(8))")
        connection.commit()


def seal(server: Server, handler: int) -> None:
    """Its settings are under another key from now on."""
    sealed = Vault([NEW]).seal({"webhook": "http://127.0.0.1:9/"})
    write_now(
        server.engine, lambda connection: connection.execute(update(handlers).where(handlers.c.id == handler).values(settings=sealed))
    )
