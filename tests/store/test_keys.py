"""Whether a store opens is judged before anything is changed, in both databases, even if what the judgement rests on has gone."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, delete

from support.store import STORES, stores_environ
from tocsin import datadir, upkeep
from tocsin.cli.check import secret_key
from tocsin.ports.errors import StoreError
from tocsin.settings import Settings
from tocsin.store import people, values
from tocsin.store.sql import write_now
from tocsin.store.tables import handlers, meta
from tocsin.vault import Vault

OURS, THEIRS = "our-key-of-some-length-0123", "their-key-of-some-length-0123"

Make = Callable[..., Settings]
stores = pytest.fixture(params=STORES)(stores_environ)


@pytest.fixture
def settings(make_settings: Make, stores: Mapping[str, str], tmp_path: Path) -> Iterator[Settings]:
    """Of a store with one handler and without its canary."""
    found = replace(make_settings(TOCSIN_DATA_DIR=str(tmp_path / "data"), **stores), secret_key=OURS)
    found.data_path.mkdir()
    engine, vault = datadir.open_store(found)
    write_now(engine, lambda connection: _fill(connection, vault))
    engine.dispose()
    yield found


def _fill(connection: Connection, vault: Vault) -> None:
    user = people.add_user(connection, "a@b", True, 1)
    row = {"user_id": user, "type": "webhook", "name": "W", "is_enabled": True, "created_at": 1, "version": 1}
    connection.execute(handlers.insert().values(**row, settings=vault.seal({"webhook": "https://a.example/"})))
    connection.execute(handlers.insert().values(**row, settings=None))  # as of one that was deleted
    connection.execute(delete(meta).where(meta.c.name == "canary"))


def test_a_store_without_its_canary_is_judged_by_a_handler(settings: Settings) -> None:
    foreign = replace(settings, secret_key=THEIRS)
    for refuses in (datadir.examine, datadir.open_store, datadir.open_existing):
        with pytest.raises(StoreError, match="was made with another key: no key in TOCSIN_SECRET_KEY opens it") as raised:
            refuses(foreign)
        assert "\n" not in str(raised.value) and THEIRS not in str(raised.value)
    assert [one.text for one in secret_key(foreign)] == [str(raised.value)]
    assert list(secret_key(settings)) == []
    engine, vault = datadir.open_store(settings)
    with engine.connect() as connection:
        assert vault.opens(values.read(connection, "canary") or b"")  # it is there again
    engine.dispose()


def test_what_says_that_a_key_is_foreign_names_the_key_and_the_store(make_settings: Make, tmp_path: Path) -> None:
    mine, theirs = (make_settings(TOCSIN_DATA_DIR=str(tmp_path / name)) for name in ("mine", "theirs"))
    for each in (mine, theirs):
        each.data_path.mkdir()
        engine, vault = datadir.open_store(each)
        write_now(engine, lambda connection, vault=vault: _fill(connection, vault))
        engine.dispose()
    copy = tmp_path / "copies" / "a-copy.db"
    copy.parent.mkdir()
    upkeep.back_up(theirs, copy)
    with pytest.raises(StoreError) as raised:
        upkeep.restore(mine, copy, replace=True)
    key = mine.data_path / "secret.key"
    assert str(raised.value) == f"The copy {copy} was made with another key: no key in the key file {key} opens it."
    with pytest.raises(StoreError) as raised:
        upkeep.restore(replace(mine, secret_key=OURS), copy, replace=True)
    assert str(raised.value) == f"The copy {copy} was made with another key: no key in TOCSIN_SECRET_KEY opens it."
    key.write_bytes((theirs.data_path / "secret.key").read_bytes())
    with pytest.raises(
        StoreError, match=f"The store in {mine.data_path} was made with another key: no key in the key file {key} opens it."
    ):
        datadir.open_store(mine)
    assert upkeep.restore(mine, copy, replace=True) is not None


@pytest.mark.parametrize("setting", ["", " ", ",", ", ,", "\n", "\t"])
@pytest.mark.parametrize("source", ["variable", "mounted"])
def test_no_key_at_all_is_refused_by_every_way_in(make_settings: Make, tmp_path: Path, setting: str, source: str) -> None:
    """A store that exists as well as one that does not; by the start, `check` and `restore`."""
    good = make_settings(TOCSIN_DATA_DIR=str(tmp_path / "good"), TOCSIN_SECRET_KEY=OURS)
    good.data_path.mkdir()
    datadir.open_store(good)[0].dispose()
    upkeep.back_up(good, tmp_path / "copy.db")
    (tmp_path / "mounted").write_text(setting)
    given = {"TOCSIN_SECRET_KEY": setting} if source == "variable" else {"TOCSIN_SECRET_KEY_FILE": str(tmp_path / "mounted")}
    if source == "variable" and not setting:
        pytest.skip("an empty variable is one that is not set")
    for folder in ("good", "new"):
        settings = make_settings(TOCSIN_DATA_DIR=str(tmp_path / folder), **given)
        settings.data_path.mkdir(exist_ok=True)
        for way in (datadir.open_store, lambda one: upkeep.restore(one, tmp_path / "copy.db", replace=True)):
            with pytest.raises(StoreError, match=r"^TOCSIN_SECRET_KEY holds no key: [^\n]*\.$"):
                way(settings)
        assert any("holds no key" in one.text for one in secret_key(settings))
        assert not (settings.data_path / "secret.key").exists()


def _is_a_folder(key: Path) -> None:
    key.unlink()
    key.mkdir()


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda key: key.write_text(""), "holds no key"),
        (lambda key: key.write_text(" \n\t\n"), "holds no key"),
        (lambda key: key.write_bytes(b"\xff\xfe\x00"), "is not text"),
        (_is_a_folder, "Is a directory"),
        (Path.unlink, "is missing"),
    ],
    ids=["empty", "blank", "not text", "a folder", "missing"],
)
def test_a_key_file_that_holds_none_is_refused_by_every_way_in(
    make_settings: Make, tmp_path: Path, spoil: Callable[[Path], object], complaint: str
) -> None:
    settings = make_settings()
    settings.data_path.mkdir()
    datadir.open_store(settings)[0].dispose()
    upkeep.back_up(settings, tmp_path / "copy.db")
    spoil(settings.data_path / "secret.key")
    for way in (datadir.open_store, datadir.open_existing, lambda one: upkeep.restore(one, tmp_path / "copy.db", replace=True)):
        with pytest.raises(StoreError, match=complaint) as raised:
            way(settings)
        assert "\n" not in str(raised.value) and str(settings.data_path) in str(raised.value)
    assert any(complaint in one.text for one in secret_key(settings))
