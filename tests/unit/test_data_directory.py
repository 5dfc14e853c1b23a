"""The data directory without a service: what its folder may be called, and which keys are taken."""

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import run
from support.store import sqlite_store
from tocsin import datadir, keyfile, upkeep
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

        def fails(_: Path) -> None:
            raise OSError(28, "No space left on device")

        broken.setattr("tocsin.files.sync", fails)
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
