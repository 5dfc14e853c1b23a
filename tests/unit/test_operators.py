"""What an operator asks of the store and of the machine: room that comes back, numbers that never hang, file systems that are none."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from conftest import run
from receiver import Receiver
from support.hostile import HostileProvider
from support.store import sqlite_store
from tocsin import upkeep
from tocsin.admin import AdminError, open_admin
from tocsin.api.table import TABLE
from tocsin.cli import check
from tocsin.datadir import open_store
from tocsin.metrics import Metrics
from tocsin.model import HttpReply, HttpRequest
from tocsin.net import exchange
from tocsin.net.http import HttpWire
from tocsin.ports.errors import StoreError
from tocsin.settings import Settings, load
from tocsin.web.site import ROUTES


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    """Of a store that is there."""
    found = make_settings()
    found.data_path.mkdir()
    open_store(found)[0].dispose()
    return found


# -------------------------------------------------------------------------------------------------------------- compact


def grown(settings: Settings) -> Path:
    """A store that held ten megabytes once."""
    file = settings.data_path / "tocsin.db"
    with sqlite3.connect(file) as store:
        store.execute("CREATE TABLE gone (content BLOB)")
        store.executemany("INSERT INTO gone VALUES (?)", [(bytes(100_000),)] * 100)
        store.execute("DROP TABLE gone")
    store.close()
    return file


def test_compacting_gives_back_what_is_not_used(settings: Settings) -> None:
    file = grown(settings)
    before, after = upkeep.compact(settings)
    assert before > 10_000_000 > 1_000_000 > after == file.stat().st_size
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(one.name for one in settings.data_path.iterdir() if not one.name.endswith(("-wal", "-shm"))) == [
        "secret.key",
        "tocsin.db",
    ]
    open_store(settings)[0].dispose()


def test_compacting_beside_a_service_leaves_it_its_store(settings: Settings) -> None:
    async def scenario() -> tuple[int, int]:
        async with sqlite_store(settings.data_path) as store:
            grown(settings)
            unused = await store.vitals.unused()
            assert unused > 10_000_000
            await asyncio.to_thread(upkeep.compact, settings)
            assert await store.vitals.size() < 2_000_000
            return unused, await store.vitals.unused()

    unused, left = run(scenario())
    assert left < unused / 100


def test_compacting_without_room_changes_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    size = grown(settings).stat().st_size
    monkeypatch.setattr(upkeep.shutil, "disk_usage", lambda _: type("Usage", (), {"free": size})())
    with pytest.raises(StoreError, match="MB of room"):
        upkeep.compact(settings)
    assert (settings.data_path / "tocsin.db").stat().st_size == size


# -------------------------------------------------------------------------------------------------------------- metrics


def test_a_number_that_does_not_come_is_left_out_and_holds_nothing_up(settings: Settings) -> None:
    """Nobody waits for a store that hangs: neither the event loop nor the client."""
    freed = threading.Event()

    def hangs(_: object) -> int:
        freed.wait()
        return 7

    async def scenario() -> tuple[bytes, int, bytes]:
        async with sqlite_store(settings.data_path) as store:
            metrics = Metrics()
            readings = 0

            async def hanging() -> int:
                nonlocal readings
                readings += 1
                return await store.database.look(hangs)

            metrics.watch_store("tocsin_hangs", "Never comes.", hanging)
            metrics.watch_store("tocsin_deliveries_pending", "Comes.", store.vitals.backlog)
            for _ in range(3):
                await metrics.refresh()
            meanwhile, _ = metrics.render()
            freed.set()
            while "tocsin_hangs" not in metrics._values:
                await asyncio.sleep(0)
            later, _ = metrics.render()
            return meanwhile, readings, later

    meanwhile, readings, later = run(scenario())
    assert b"tocsin_hangs" not in meanwhile and b"tocsin_deliveries_pending 0.0" in meanwhile
    assert readings == 1  # it is asked for once, not for each who asks
    assert b"tocsin_hangs 7.0" in later


def test_a_number_that_cannot_be_read_is_left_out(settings: Settings) -> None:
    async def fails() -> float:
        raise OSError("no")

    async def scenario() -> bytes:
        metrics = Metrics()
        metrics.watch_store("tocsin_fails", "Fails.", fails)
        await metrics.refresh()
        return metrics.render()[0]

    found = run(scenario())
    assert b"tocsin_fails" not in found and b"tocsin_info" in found


# ---------------------------------------------------------------------------------------------------------------- check

MOUNTS = """22 1 0:21 / / rw,relatime - overlay overlay rw
30 22 0:30 / /mnt/share\\040one rw shared:7 - cifs //nas/share rw
31 22 0:31 / /srv rw master:2 - nfs4 nas:/srv rw
32 31 0:32 / /srv/local rw - ext4 /dev/sda1 rw
33 22 0:33 / /srv rw - tmpfs tmpfs rw
short
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib/tocsin", "overlay"),
        ("/mnt/share one/data", "cifs"),
        ("/mnt/share", "overlay"),
        ("/srv/local/a", "ext4"),
        ("/srv/a", "tmpfs"),
    ],
)
def test_the_file_system_of_a_folder(tmp_path: Path, folder: str, kind: str) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    assert check.mounted_as(Path(folder), tmp_path / "mounts") == kind


def test_check_warns_of_network_file_systems(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(check.file_system(settings)) == []
    for kind in ("nfs4", "nfs", "cifs"):
        monkeypatch.setattr(check, "mounted_as", lambda *_, kind=kind: kind)
        [finding] = check.file_system(settings)
        assert kind in finding.text and finding.is_fault


def test_check_says_whether_people_can_sign_in_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def findings(**environ: str) -> list[tuple[str, str]]:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        found = [(one.level, one.text) for one in check.sign_on(load(environ, Path(os.devnull)))]
        for name in environ:
            monkeypatch.delenv(name)
        return found

    assert findings() == []
    [lonely] = findings(TOCSIN_OIDC_CLIENT_ID="tocsin", TOCSIN_OIDC_DOMAINS="example.com")
    assert lonely == ("wrong", "TOCSIN_OIDC_CLIENT_ID, TOCSIN_OIDC_DOMAINS: without TOCSIN_OIDC_ISSUER this has no effect.")
    with HostileProvider() as provider:
        base = {"TOCSIN_BASE_URL": "https://alerts.example.com/tocsin", "TOCSIN_OIDC_DOMAINS": "example.com"}
        [redirect] = findings(**provider.environ, **base)
        assert redirect[0] == "note" and "https://alerts.example.com/tocsin/sign-in/openid/callback" in redirect[1]
        assert [text[:30] for level, text in findings(**provider.environ) if level == "wrong"] == ["TOCSIN_OIDC_ISSUER: set TOCSIN"]
        assert any("everybody with an account" in text for _, text in findings(**provider.environ | base | {"TOCSIN_OIDC_DOMAINS": "*"}))
        provider.calls_itself = "https://accounts.example.com"
        [wrong] = [text for level, text in findings(**provider.environ, **base) if level == "wrong"]
        assert "'https://accounts.example.com': set TOCSIN_OIDC_ISSUER to exactly that" in wrong
    [down] = [text for level, text in findings(**provider.environ, **base) if level == "wrong"]
    assert "127.0.0.1 does not answer when asked for its discovery document" in down
    [proxy] = findings(TOCSIN_REMOTE_USER_HEADER="Remote-Email", TOCSIN_TRUSTED_PROXIES="10.0.0.1/32")
    assert proxy[0] == "note" and "10.0.0.1/32 can sign in as anybody" in proxy[1]


def test_check_names_authorities_that_are_not_there(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    assert [one.text.partition(" ")[0] for one in check.trusted(settings)] == ["SSL_CERT_FILE", "SSL_CERT_DIR"]
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.delenv("SSL_CERT_FILE")
    assert list(check.trusted(settings)) == []


def test_no_sub_path_is_one_of_our_own(make_settings: Callable[..., Settings]) -> None:
    """The list is all that there are."""
    roots = {path.split("/")[1] for path in (*(route[1] for route in ROUTES), *(one.path for one in TABLE), "/static/x")} - {""}
    assert roots == check.OWN_PATHS
    for path, count in (("/api", 1), ("/log/x", 1), ("/tocsin", 0), ("/x/api", 0), ("", 0)):
        found = [one for one in check.reach(make_settings(TOCSIN_BASE_URL=f"https://a.example{path}")) if "own" in one.text]
        assert len(found) == count, path


# --------------------------------------------------------------------------------------------------------- certificates


def test_a_folder_of_authorities_counts(make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashed as `openssl rehash` does it."""
    with Receiver(tls=True) as server:
        other = trustme.CA()
        for authority in (server.authority, other):
            pem = tmp_path / "authority.pem"
            authority.cert_pem.write_to_path(str(pem))
            try:
                hashed = subprocess.run(["openssl", "x509", "-hash", "-noout", "-in", pem], capture_output=True, text=True, check=True)
            except OSError:
                pytest.skip("openssl is not installed (Debian: apt-get install openssl)")
            folder = tmp_path / ("ours" if authority is server.authority else "others")
            folder.mkdir()
            pem.rename(folder / f"{hashed.stdout.strip()}.0")

        async def scenario() -> object:
            wire = HttpWire(make_settings())
            try:
                request = HttpRequest(url=server.url("/hook"), shown_url="https://example.com/", body=b"{}", timeout_seconds=5.0)
                return await wire.send(request)
            finally:
                await wire.close()

        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        for name, is_trusted in (("ours", True), ("others", False)):
            monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / name))
            exchange.authorities.cache_clear()
            assert isinstance(asyncio.run(scenario()), HttpReply) is is_trusted
        exchange.authorities.cache_clear()


# ---------------------------------------------------------------------------------------------------------------- users


def test_the_last_administrator_stays(settings: Settings) -> None:
    with open_admin(settings) as admin:
        admin.add_user("one@localhost", is_admin=True)
        admin.add_user("user@nas", is_admin=False)
        for remove in (admin.disable_user, admin.delete_user):
            with pytest.raises(AdminError, match="last administrator"):
                remove("one@localhost")
        admin.add_user("two@example.com", is_admin=True)
        admin.disable_user("one@localhost")
        with pytest.raises(AdminError, match="last administrator"):
            admin.delete_user("two@example.com")
        admin.delete_user("user@nas")
        assert [one.email for one in admin.users()] == ["one@localhost", "two@example.com"]


def test_local_addresses_are_taken_by_the_command_line_too(settings: Settings) -> None:
    """In a process that has loaded nothing but what the command needs."""
    environ = {"PATH": os.environ["PATH"], "TOCSIN_DATA_DIR": str(settings.data_path)}
    command = [sys.executable, "-m", "tocsin", "users", "add", "a@localhost"]
    done = subprocess.run(command, env=environ, cwd=settings.data_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
