"""Commands that root runs beside a service of another user: whatever they write, the service goes on reading.

On PostgreSQL the key and what a process notes are still files in the data directory.
"""

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.service import Client, Service, until
from e2e.stores import both_stores, both_stores_long, sqlite_only, stores_of
from receiver import Receiver

USER = 12345
SOCKET = re.compile(r"[?&]host=(/[^&]+)")
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a service as another user and commands beside it as itself")
pytestmark = [AS_ROOT, both_stores_long]


@pytest.fixture
def folder() -> Iterator[Path]:
    """That the other user may enter, which pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="tocsin-owners-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def service(folder: Path, store: str, request: pytest.FixtureRequest) -> Iterator[Service]:
    with stores_of(store, request) as stores:
        service = stores.service(folder, TOCSIN_RETRY_SCHEDULE="1h")
        if socket := SOCKET.search(service.environ.get("TOCSIN_DATABASE_URL", "")):
            Path(socket[1]).chmod(0o711)  # of the tests' own server; its data are in a folder further down
        service.data.mkdir(mode=0o700, exist_ok=True)
        for path in (service.data, *service.data.iterdir()):
            os.chown(path, USER, USER)
        service.user = USER
        try:
            yield service
        finally:
            service.kill()


def as_root(service: Service, *words: object) -> tuple[int, str]:
    done = service.run("tocsin", *map(str, words), PATH="/usr/bin:/bin", HOME="/root")
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def as_user(service: Service, user: int, *words: object) -> tuple[int, str]:
    done = service.run("e2e.as_user", str(user), *map(str, words), PYTHONPATH=str(Path(__file__).parents[1]))
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def has_file(service: Service) -> bool:
    """Its store is one."""
    return "TOCSIN_DATABASE_URL" not in service.environ


def write(service: Service) -> None:
    """Another process writes to the store, so that the service looks what has changed."""
    if has_file(service):
        service.change("INSERT OR REPLACE INTO meta (name, value) VALUES ('a test', randomblob(8))")
    else:
        service.change("NOTIFY tocsin_changes")


def owners(folder: Path) -> set[tuple[int, int]]:
    return {(one.stat().st_uid, one.stat().st_gid) for one in folder.iterdir()}


@both_stores
def test_root_gives_a_new_key_to_the_services_user(service: Service, receiver: Receiver) -> None:
    client = Client(service.start().port, service.first().key)
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    code, said = as_root(service, "secrets", "rotate")
    assert (code, said.startswith("1 handlers")) == (0, True), said
    assert owners(service.data) == {(USER, USER)}
    assert client.settled(client.send("under the new key", handlers=[handler]))[0]["status"] == "delivered"
    assert client.get("/readyz").status == 200
    assert service.terminate() == 0
    client.port = service.start().port
    assert client.settled(client.send("after a restart", handlers=[handler]))[0]["status"] == "delivered"


def test_a_new_key_keeps_the_mode_and_owner_of_the_old_one(service: Service) -> None:
    service.start()
    key = service.data / "secret.key"
    key.chmod(0o640)
    os.chown(key, 0, USER)
    assert as_root(service, "secrets", "rotate")[0] == 0
    found = key.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, USER, 0o640)


@pytest.mark.parametrize("mode", [0o400, 0o440])
def test_its_own_user_replaces_a_key_that_nobody_may_write(service: Service, mode: int) -> None:
    service.start()
    key = service.data / "secret.key"
    before = key.read_text()
    key.chmod(mode)
    code, said = as_user(service, USER, "secrets", "rotate")
    assert code == 0, said
    found = key.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (USER, USER, mode)
    assert key.read_text() != before and service.client().get("/readyz").status == 200


@sqlite_only
def test_its_own_user_restores_over_a_store_that_nobody_may_write(service: Service) -> None:
    service.start()
    service.terminate()
    copy = service.data / "copy.db"
    assert as_user(service, USER, "backup", copy)[0] == 0
    store = service.data / "tocsin.db"
    for file in (copy, store):
        file.chmod(0o400)
    code, said = as_user(service, USER, "restore", copy, "--replace")
    assert code == 0, said
    assert (store.stat().st_uid, stat.S_IMODE(store.stat().st_mode)) == (USER, 0o400)
    store.chmod(0o600)
    service.start()


def test_no_row_changes_where_the_service_cannot_read_the_new_key(service: Service, receiver: Receiver) -> None:
    """Whatever keeps it from reading: here the file has become root's alone."""
    client = Client(service.start().port, service.first().key)
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    key = service.data / "secret.key"
    before, rows = key.read_text(), service.rows("SELECT settings, secret FROM handlers")
    os.chown(key, 0, 0)
    code, said = as_root(service, "secrets", "rotate")
    assert code == 1 and "does not use the new key" in said and "Traceback" not in said
    assert (key.read_text(), service.rows("SELECT settings, secret FROM handlers")) == (before, rows)
    assert client.settled(client.send("under the old key", handlers=[handler]))[0]["status"] == "delivered"
    [complaint] = client.get("/readyz").json["complaints"]
    assert client.get("/readyz").status == 503 and "secret.key cannot be read" in complaint
    os.chown(key, USER, USER)
    until(lambda: client.get("/readyz").status == 200)  # by itself
    assert as_root(service, "secrets", "rotate")[0] == 0


def test_what_no_key_opens_waits_for_the_key(service: Service, receiver: Receiver) -> None:
    client = Client(service.start().port, service.first().key)
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    assert as_root(service, "secrets", "rotate")[0] == 0
    [(sealed,)] = service.rows("SELECT settings FROM handlers")
    [old_key] = service.data.glob("secret.key.before-*")
    new_key = (service.data / "secret.key").read_text()
    (service.data / "secret.key").write_text(old_key.read_text())  # by mistake, and the service notices at the next change
    write(service)
    until(lambda: client.handler(handler)["settings"] == {"webhook": ""})
    notification = client.send("waits", handlers=[handler])
    until(lambda: "handler.sealed" in service.log())
    [delivery] = client.deliveries(notification)
    assert (delivery["status"], delivery["attempt_count"]) == ("pending", 0)
    (service.data / "secret.key").write_text(new_key)
    write(service)
    assert [(one["status"], one["attempt_count"]) for one in client.settled(notification)] == [("delivered", 1)]
    assert service.rows("SELECT settings FROM handlers") == [(sealed,)]


@sqlite_only  # backups of a PostgreSQL database are its administrator's
def test_root_gives_a_restored_store_to_the_services_user(service: Service) -> None:
    client = Client(service.start().port, service.first().key)
    handler = client.add_handler("email", email="root@nas")
    copy = service.folder / "copy.db"
    assert as_root(service, "backup", copy)[0] == 0
    assert copy.stat().st_uid == 0
    service.terminate()
    assert as_root(service, "restore", copy, "--replace")[0] == 0
    assert owners(service.data) == {(USER, USER)}
    assert as_root(service, "check")[0] == 0
    client.port = service.start().port
    assert client.handler(handler)["name"] == "Example"


@sqlite_only
@pytest.mark.parametrize("words", [("check",), ("secrets", "rotate"), ("keys", "list")])
def test_root_that_may_give_nothing_away_leaves_nothing_of_its_own(service: Service, words: tuple[str, ...]) -> None:
    """As in a container without CAP_CHOWN. A file beside the store that only root can read would keep the service out."""
    service.start()
    service.terminate()
    environ = {"PATH": "/usr/bin:/bin", "HOME": "/root", "PYTHONPATH": os.pathsep.join(sys.path), **service.environ}
    command = ["setpriv", "--bounding-set", "-chown", "--inh-caps", "-chown", sys.executable, "-m", "tocsin", *words]
    done = subprocess.run(command, env=environ, cwd=service.folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == (1 if words == ("secrets", "rotate") else 0), done
    assert owners(service.data) == {(USER, USER)}
    service.start()


def test_what_root_starts_by_mistake_does_not_lock_the_services_user_out(service: Service) -> None:
    service.user = None
    service.start()
    assert service.terminate() == 0
    assert owners(service.data) == {(USER, USER)}
    service.user = USER
    service.start()


def test_check_names_files_of_another_user(service: Service) -> None:
    service.start()
    service.terminate()
    file = "tocsin.db" if has_file(service) else "in-flight"
    os.chown(service.data / file, 0, 0)
    code, said = as_root(service, "check")
    assert code == 1 and f"{file} belongs to user 0, and the data directory to user {USER}" in said


@sqlite_only
def test_who_may_not_enter_the_data_directory_is_told_so(service: Service) -> None:
    service.start()
    service.terminate()
    copy = service.folder / "copy.db"
    assert as_root(service, "backup", copy)[0] == 0
    copy.chmod(0o644)
    said = f"The data directory {service.data} cannot be used: Permission denied."
    for words in (
        "backup other.db",
        f"restore {copy} --replace",
        "restore --after-recovery",
        "compact",
        "migrate",
        "secrets rotate",
        "serve",
    ):
        assert as_user(service, USER + 1, *words.split()) == (1, f"tocsin: {said}"), words
    for words in ("users list", "users add a@example.com", "keys list", "keys add name --user a@example.com", "audit"):
        assert as_user(service, USER + 1, *words.split()) == (1, f"tocsin: {said}"), words
    copy.chmod(0o600)
    done = as_user(service, USER, "restore", copy, "--replace")
    assert done == (1, f"tocsin: There is no file {copy}, or this user cannot read it.")
    for words in ("check", "check --json"):
        code, found = as_user(service, USER + 1, *words.split())
        assert code == 1 and found.count(said) == 1 and "Traceback" not in found
