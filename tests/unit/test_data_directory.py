"""The data directory without a service: what its folder may be called, and which keys are taken."""

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from conftest import run
from support.store import sqlite_store
from tocsin import datadir, files, keyfile, moving, upkeep
from tocsin.cli import check
from tocsin.datadir import locked, open_store
from tocsin.ports.errors import StoreError
from tocsin.settings import Settings
from tocsin.store import values
from tocsin.vault import Vault

GOOD = "a-key-of-some-length-0123456789"


@pytest.mark.parametrize(
    "name", ["a?b", "a?mode=memory", "50%20off", "a%b", "%", "a#b", "a b", "ä&ö=", "file:x?vfs=none", ":memory:", "it's", "a\\b"]
)
def test_a_folder_may_have_any_name(name: str, make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    folder = tmp_path / "around" / name
    settings = make_settings(TOCSIN_DATA_DIR=str(folder))
    with locked(folder):
        engine, _ = open_store(settings)
        engine.dispose()
    assert sorted(one.name for one in folder.parent.iterdir()) == [name]
    assert (folder / "tocsin.db").stat().st_size > 0
    copy = tmp_path / "copy.db"
    upkeep.back_up(settings, copy)
    upkeep.restore(settings, copy, replace=True)
    assert upkeep.rotate_key(settings, lambda _: None)[0] == 0
    assert [one for one in folder.parent.iterdir() if one != folder] == []


def test_two_names_are_two_stores(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    found: list[bytes | None] = []
    for name in ("a?x", "a?y"):
        (tmp_path / name).mkdir()
        engine, _ = open_store(make_settings(TOCSIN_DATA_DIR=str(tmp_path / name)))
        with engine.connect() as connection:
            found.append(values.read(connection, "store_id"))
        engine.dispose()
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("key", "complaint"),
    [
        ("short", "fewer than 16 characters"),
        (f"{GOOD},short", "fewer than 16 characters"),
        (f"{GOOD},", "empty key"),
        (f"{GOOD},,{GOOD}", "empty key"),
        ("   ", "holds no key"),
        (",", "holds no key"),
        ("a key with some blanks in it", "blanks"),
        ("a-key-with\ta-tab-in-the-middle", "blanks"),
    ],
)
@pytest.mark.parametrize("where", ["setting", "file"])
def test_a_new_store_takes_no_weak_key(
    where: str, key: str, complaint: str, make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = make_settings(TOCSIN_SECRET_KEY=key) if where == "setting" else make_settings()
    file = settings.data_path / "secret.key"
    settings.data_path.mkdir()
    if where == "file":
        file.write_text(key.replace(",", "\n") + ("x" if key.endswith(",") and key != "," else ""))
        complaint = complaint if not key.endswith(f"{GOOD},") else "fewer than 16"
    with pytest.raises(StoreError, match=complaint) as raised:
        open_store(settings)
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")
    assert sorted(one.name for one in settings.data_path.iterdir()) == (["secret.key"] if where == "file" else [])


def test_a_secret_of_nothing_is_no_secret_that_is_not_set(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    """An empty file, where a mount is missing, must not lead to a key of our own."""
    (tmp_path / "empty").touch()
    settings = make_settings(TOCSIN_SECRET_KEY_FILE=str(tmp_path / "empty"))
    with pytest.raises(StoreError, match="TOCSIN_SECRET_KEY holds no key"):
        open_store(settings)
    with pytest.raises(StoreError, match="TOCSIN_SECRET_KEY holds no key"):
        upkeep.restore(settings, _store(make_settings, tmp_path))


def _store(make_settings: Callable[..., Settings], tmp_path: Path) -> Path:
    settings = make_settings(TOCSIN_DATA_DIR=str(tmp_path / "other"))
    settings.data_path.mkdir()
    open_store(settings)[0].dispose()
    upkeep.back_up(settings, tmp_path / "a-copy.db")
    return tmp_path / "a-copy.db"


def test_a_short_key_of_an_existing_store_opens_it_and_can_be_rotated(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings()
    settings.data_path.mkdir()
    (settings.data_path / "secret.key").write_text("short\n")
    with monkeypatch.context() as earlier:
        earlier.setattr(keyfile, "MIN_CHARACTERS", 1)
        open_store(settings)[0].dispose()
    open_store(settings)[0].dispose()
    assert keyfile.weakness_of(settings) is not None
    upkeep.rotate_key(settings, lambda _: None)
    assert keyfile.weakness_of(settings) is None
    open_store(settings)[0].dispose()


def test_a_key_file_is_written_whole_or_not_at_all(make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    """A first start that cannot bring its key to the disk leaves none, and the next one makes it."""
    settings = make_settings()
    settings.data_path.mkdir()
    with monkeypatch.context() as broken:

        def fails(_: int) -> None:
            raise OSError(28, "No space left on device")

        broken.setattr("tocsin.files.os.fsync", fails)
        with pytest.raises(StoreError, match="No space left"):
            open_store(settings)
    assert list(settings.data_path.iterdir()) == []
    open_store(settings)[0].dispose()
    assert len((settings.data_path / "secret.key").read_text().strip()) >= 32


def test_a_service_says_which_key_it_uses(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()

    async def main() -> None:
        async with sqlite_store(settings.data_path) as store:
            keys = datadir.Keys(settings, Vault(keyfile.read_keys(settings)))
            question = await store.database.write(datadir.ask_for_key)

            async def is_used(key: str) -> bool | None:
                return await store.database.read(datadir.is_key_in_use, question, key)

            assert await is_used("any") is None
            await keys.answer(store.values)
            [own] = keyfile.read_keys(settings)
            assert await is_used(own) is True
            assert await is_used("any") is False

    run(main())


def _made(make_settings: Callable[..., Settings]) -> Settings:
    settings = make_settings()
    settings.data_path.mkdir()
    open_store(settings)[0].dispose()
    return settings


@pytest.mark.parametrize("name", ["file:copy.db", ":memory:", "a?b.db", "50%41.db"])
def test_a_copy_may_have_any_name_in_the_working_directory(
    name: str, make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = _made(make_settings)
    assert upkeep.back_up(settings, Path(name)) == (tmp_path / name).stat().st_size > 0
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([name, settings.data_path.name])
    assert upkeep.restore(settings, Path(name), replace=True)
    open_store(settings)[0].dispose()


def test_a_store_in_a_folder_with_the_name_of_a_url_can_be_restored(
    make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = _store(make_settings, tmp_path)
    monkeypatch.chdir(tmp_path)
    settings = make_settings(TOCSIN_DATA_DIR="file:data", TOCSIN_SECRET_KEY=(tmp_path / "other" / "secret.key").read_text().strip())
    upkeep.restore(settings, copy)
    assert (tmp_path / "file:data" / "tocsin.db").stat().st_size > 0
    open_store(settings)[0].dispose()


def test_an_empty_file_is_no_copy(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    settings = _made(make_settings)
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreError, match="is empty"):
        upkeep.restore(settings, tmp_path / "empty.db", replace=True)


# ----------------------------------------------------------------------------------------------------- the key file


def test_a_key_file_may_begin_with_a_byte_order_mark(make_settings: Callable[..., Settings]) -> None:
    settings = _made(make_settings)
    file = settings.data_path / "secret.key"
    key = file.read_text()
    file.write_text(key, encoding="utf-8-sig")
    open_store(settings)[0].dispose()
    upkeep.rotate_key(settings, lambda _: None)
    assert key.strip() not in file.read_text() and keyfile.read_keys(settings) == [file.read_text().strip()]
    open_store(settings)[0].dispose()


def test_a_store_whose_key_was_taken_with_the_mark_opens_too(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(TOCSIN_SECRET_KEY=f"\ufeff{GOOD}")
    settings.data_path.mkdir()
    open_store(settings)[0].dispose()
    settings = make_settings()
    (settings.data_path / "secret.key").write_text(GOOD, encoding="utf-8-sig")
    open_store(settings)[0].dispose()
    upkeep.rotate_key(settings, lambda _: None)
    open_store(settings)[0].dispose()
    assert GOOD not in (settings.data_path / "secret.key").read_text()


def test_a_key_file_that_is_a_link_stays_one(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    settings = _made(make_settings)
    file, elsewhere = settings.data_path / "secret.key", tmp_path / "elsewhere"
    elsewhere.mkdir()
    file.rename(elsewhere / "key")
    file.symlink_to(elsewhere / "key")
    [before] = keyfile.read_keys(settings)
    old = upkeep.rotate_key(settings, lambda _: None).old
    assert old is not None and old.read_text() == f"{before}\n"
    assert file.is_symlink() and [one.name for one in elsewhere.iterdir()] == ["key"]
    assert (elsewhere / "key").read_text().strip() != before
    open_store(settings)[0].dispose()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
@pytest.mark.parametrize("between", [0, 1], ids=["the link", "a link that root's leads to"])
def test_root_follows_no_link_of_the_services_user(between: int, make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    settings = _made(make_settings)
    file, victim = settings.data_path / "secret.key", tmp_path / "somebody's"
    file.rename(victim)
    names = [file, tmp_path / "between"][: between + 1]
    for name, leads_to in zip(names, [*names[1:], victim], strict=True):
        name.symlink_to(leads_to)
    os.chown(names[-1], 12345, 12345, follow_symlinks=False)
    before = victim.read_text()
    with pytest.raises(StoreError, match=r"a link of user 12345, which root does not follow: run the command as user 12345\.$"):
        upkeep.rotate_key(settings, lambda _: None)
    assert (victim.read_text(), keyfile.read_keys(settings)) == (before, [before.strip()])
    victim.unlink()
    with pytest.raises(StoreError, match="a link of user 12345"):  # nor for a first key
        keyfile.read_keys(settings, make=True)
    assert not victim.exists()


def test_a_key_file_that_becomes_a_link_meanwhile_is_replaced(
    make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _made(make_settings)
    file, victim = settings.data_path / "secret.key", tmp_path / "somebody's"
    victim.write_text("of somebody else\n")

    def exchanged(*_: object) -> None:
        file.unlink()
        file.symlink_to(victim)

    monkeypatch.setattr(upkeep, "_see_in_use", exchanged)
    upkeep.rotate_key(settings, lambda _: None)
    assert victim.read_text() == "of somebody else\n" and not file.is_symlink()
    open_store(settings)[0].dispose()


def test_keys_are_not_read_through_a_link_that_appears_meanwhile(
    make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _made(make_settings)
    file, victim = settings.data_path / "secret.key", tmp_path / "somebody's"
    victim.write_text("a secret of somebody else\nand another\n")

    open_existing = datadir.open_existing

    def exchanged(settings: Settings) -> tuple[Engine, Vault]:
        found = open_existing(settings)
        file.unlink()
        file.symlink_to(victim)
        return found

    monkeypatch.setattr(datadir, "open_existing", exchanged)
    with pytest.raises(StoreError, match="cannot be read: Too many levels of symbolic links"):
        upkeep.rotate_key(settings, lambda _: None)
    assert not list(settings.data_path.glob("secret.key.*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change another group's file")
def test_a_new_file_that_becomes_a_link_meanwhile_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its mode, nor its group, nor the keys reach what the link names."""
    file, victim = tmp_path / "secret.key", tmp_path / "somebody's"
    for one, mode in ((file, 0o660), (victim, 0o600)):
        one.write_text("before")
        one.chmod(mode)
    os.chown(file, 0, 12345)
    check = files._check_owner

    def exchanged(new: Path, *rest: Any) -> None:
        new.unlink()
        new.symlink_to(victim)
        check(new, *rest)

    monkeypatch.setattr(files, "_check_owner", exchanged)
    with pytest.raises(StoreError, match="cannot be written: Too many levels of symbolic links"):
        keyfile.write_keys(file, ["new"])
    found = victim.stat()
    assert (victim.read_text(), stat.S_IMODE(found.st_mode), found.st_gid) == ("before", 0o600, 0)
    assert file.read_text() == "before"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_root_restores_and_moves_through_no_link_of_the_services_user(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    settings = _made(make_settings)
    upkeep.back_up(settings, tmp_path / "copy.db")
    lock, victim = settings.data_path / datadir.LOCK_FILE, tmp_path / "somebody's"
    victim.write_text("of somebody else\n")
    lock.symlink_to(victim)
    os.chown(lock, 12345, 12345, follow_symlinks=False)
    with pytest.raises(StoreError, match="a link of user 12345"):
        upkeep.restore(settings, tmp_path / "copy.db", replace=True)
    assert victim.read_text() == "of somebody else\n"
    key = settings.data_path / "secret.key"  # which a move to PostgreSQL would bring along
    key.unlink()
    key.symlink_to(victim)
    os.chown(key, 12345, 12345, follow_symlinks=False)
    with pytest.raises(StoreError, match="a link of user 12345"):
        moving._bring_files(tmp_path / "new", settings.data_path)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("has_links", [True, False])
def test_a_key_that_the_service_does_not_take_is_taken_back(
    has_links: bool, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file itself comes back where that can be: it may have rights that no copy has."""
    settings = _made(make_settings)
    file = settings.data_path / "secret.key"
    (settings.data_path.parent / "held").hardlink_to(file)  # or a new file might get its number
    before, inode = file.read_text(), file.stat().st_ino

    def is_not_taken(*_: object) -> None:
        assert len(keyfile.read_keys(settings)) == 2
        raise StoreError("The running service does not use the new key.")

    def no_link(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    read_again: list[list[str]] = []
    monkeypatch.setattr(datadir, "ask_for_key", lambda _: read_again.append(keyfile.read_keys(settings)))
    monkeypatch.setattr(upkeep, "_see_in_use", is_not_taken)
    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", no_link)
    with pytest.raises(StoreError, match="does not use the new key"):
        upkeep.rotate_key(settings, lambda _: None)
    assert file.read_text() == before
    assert (file.stat().st_ino == inode) is has_links
    assert [one.name for one in settings.data_path.glob("secret.key*")] == ["secret.key"]
    assert read_again == [[before.strip()]]


def test_one_rotation_at_a_time(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    settings.data_path.mkdir()
    open_store(settings)[0].dispose()
    refused: list[str] = []

    def meanwhile(_: float) -> None:
        with pytest.raises(StoreError) as caught:
            upkeep.rotate_key(settings, lambda _: None)
        refused.append(str(caught.value))

    old = upkeep.rotate_key(settings, meanwhile).old
    assert set(refused) == {f"Another `tocsin secrets rotate` is at work in {settings.data_path}: wait until it has ended."}
    assert old is not None and len(keyfile.read_keys(settings)) == 1
    assert upkeep.rotate_key(settings, lambda _: None).old != old


def test_both_keys_stay_after_an_interruption(make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    """The service may have taken the new one already, and encrypted with it."""
    settings = _made(make_settings)
    [before] = keyfile.read_keys(settings)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(upkeep, "_see_in_use", interrupted)
        with pytest.raises(KeyboardInterrupt):
            upkeep.rotate_key(settings, lambda _: None)
    new, old = keyfile.read_keys(settings)
    assert old == before
    upkeep.rotate_key(settings, lambda _: None)
    assert keyfile.read_keys(settings) == [new]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_nothing_is_replaced_that_its_owner_could_not_read_afterwards(
    make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the service of another user, by somebody who cannot give files away."""
    settings = _made(make_settings)
    upkeep.back_up(settings, tmp_path / "copy.db")
    for one in (settings.data_path, *settings.data_path.iterdir()):
        os.chown(one, 12345, 12345)
    before = {one.name: (one.stat().st_ino, one.read_bytes()) for one in settings.data_path.iterdir()}

    def refuses(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuses)
    for act in (lambda: upkeep.rotate_key(settings, lambda _: None), lambda: upkeep.restore(settings, tmp_path / "copy.db", replace=True)):
        with pytest.raises(StoreError, match=r"would belong to user 0 instead of 12345.*run the command as user 12345"):
            act()
    after = {one.name: (one.stat().st_ino, one.read_bytes()) for one in settings.data_path.iterdir() if one.name in before}
    assert after == before


@pytest.mark.parametrize("kind", ["file", "below a file", "dangling", "loop"])
def test_a_data_directory_that_is_no_folder_is_one_sentence(kind: str, make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    if kind == "below a file":
        folder.write_text("")
        folder = folder / "below"
    elif kind == "file":
        folder.write_text("")
    else:
        folder.symlink_to(folder if kind == "loop" else tmp_path / "nowhere")
    settings = make_settings(TOCSIN_DATA_DIR=str(folder))
    said = f"The data directory {folder} cannot be used: Not a directory." if kind == "below a file" else f"{folder} is not a folder."
    for work in (open_store, datadir.open_existing, upkeep.rotate_key, upkeep.compact, upkeep.move_on, moving.upgrade):
        with pytest.raises(StoreError) as caught:
            work(settings)
        assert str(caught.value).endswith(said), work
    found = [finding.text for looks in check.LOOKS.values() for look in looks for finding in look(settings)]
    assert any(text.endswith(said) for text in found)


def test_a_link_that_nobody_may_follow_is_one_sentence(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    settings.data_path.mkdir()
    (settings.data_path / "secret.key").symlink_to("secret.key")
    with pytest.raises(StoreError, match=r"secret\.key cannot be used: Too many levels of symbolic links\.$"):
        open_store(settings)
    assert "secret.key cannot be used" in " ".join(finding.text for finding in check.secret_key(settings))


def test_no_new_store_takes_the_place_of_a_link(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    settings = make_settings()
    settings.data_path.mkdir()
    store, target = settings.data_path / "tocsin.db", tmp_path / "volume" / "tocsin.db"
    store.symlink_to(target)
    said = f"{store} is a link to {target}, where no file is: is a volume missing?"
    for work in (open_store, datadir.open_existing, upkeep.rotate_key, upkeep.compact):
        with pytest.raises(StoreError, match=re.escape(said)):
            work(settings)
    assert said in [finding.text for finding in check.secret_key(settings)]
    assert store.is_symlink() and not (settings.data_path / "secret.key").exists()


def test_what_is_no_file_is_not_waited_for(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    settings.data_path.mkdir()
    key = settings.data_path / "secret.key"
    engine, vault = open_store(settings)
    engine.dispose()
    keys = datadir.Keys(settings, vault)
    key.unlink()
    os.mkfifo(key)
    said = f"The key file {key} cannot be read: it is not a file."
    for work in (open_store, datadir.open_existing, upkeep.rotate_key):
        with pytest.raises(StoreError, match=re.escape(said)):
            work(settings)
    assert said in [finding.text for finding in check.secret_key(settings)]
    assert not keys.refresh() and keys.trouble == said
    store = settings.data_path / "tocsin.db"
    store.unlink()
    os.mkfifo(store)
    assert [finding.text for look in check.LOOKS["store"] for finding in look(settings)] == []
    with pytest.raises(StoreError, match=r"tocsin\.db is not a file"):
        open_store(settings)
