"""When handlers are looked at for settings that no key opens."""

from collections.abc import Callable, Sequence

import pytest

from conftest import run
from tocsin import datadir, keyfile
from tocsin.changes import Changes
from tocsin.flow.directory import Directory
from tocsin.flow.handlers import sealed
from tocsin.flow.handlers.sealed import Sealed
from tocsin.model import Busy
from tocsin.ports.handlers import HandlerRow
from tocsin.settings import Settings
from tocsin.vault import Vault

OURS, LOST = Vault(["the key of the service"]), Vault(["a key that nobody has"])


class Rows:
    """Handlers 1 to `count`, and which of them were asked for."""

    def __init__(self, count: int, vault: Vault) -> None:
        self.count = count
        self.settings = vault.seal({})
        self.asked: list[int | list[int]] = []
        self.fails_at = -1

    def _row(self, handler_id: int) -> HandlerRow:
        return HandlerRow(handler_id, 1, "webhook", "", self.settings, None, True, 1, None, None, 1, None, None)

    async def after(self, after: int, limit: int) -> list[HandlerRow]:
        if after == self.fails_at:
            raise Busy("The store is busy.")
        self.asked.append(after)
        return [self._row(one) for one in range(after + 1, min(after + limit, self.count) + 1)]

    async def rows(self, handler_ids: Sequence[int]) -> list[HandlerRow]:
        self.asked.append(list(handler_ids))
        return [self._row(one) for one in handler_ids]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "HANDLERS_AT_ONCE", 3)
    monkeypatch.setattr(sealed, "PAUSE_SECONDS", 0.0)


def looking(rows: Rows, make_settings: Callable[..., Settings]) -> tuple[Sealed, Directory]:
    directory = Directory(rows, OURS, make_settings())  # pyright: ignore[reportArgumentType]
    return Sealed(rows, directory, OURS), directory  # pyright: ignore[reportArgumentType]


def test_each_of_those_that_were_found_has_its_turn(make_settings: Callable[..., Settings]) -> None:
    rows = Rows(7, LOST)
    looks, directory = looking(rows, make_settings)

    async def main() -> None:
        await looks.look()
        assert (rows.asked, directory.sealed) == ([0, 3, 6, 7], {*range(1, 8)})
        del rows.asked[:]
        for _ in range(4):
            await looks.look()
        assert rows.asked == [[1, 2, 3], [4, 5, 6], [7], [1, 2, 3]]
        rows.settings = OURS.seal({})
        for _ in range(3):
            await looks.look()
        assert directory.sealed == set()

    run(main())


def test_a_look_at_all_goes_on_where_the_store_was_busy(make_settings: Callable[..., Settings]) -> None:
    rows = Rows(7, LOST)
    looks, directory = looking(rows, make_settings)

    async def main() -> None:
        rows.fails_at = 3
        for _ in range(2):
            with pytest.raises(Busy):
                await looks.look()
        rows.fails_at = -1
        await looks.look()
        assert (rows.asked, directory.sealed) == ([0, 3, 6, 7], {*range(1, 8)})

        rows.fails_at = 6
        looks.look_again()
        with pytest.raises(Busy):
            await looks.look()
        looks.look_again()  # other keys again: what was looked at counts no longer
        rows.fails_at = -1
        del rows.asked[:]
        await looks.look()
        assert rows.asked == [0, 3, 6, 7]

    run(main())


def test_only_other_keys_are_a_reason_to_look_at_all(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    settings.data_path.mkdir()
    file = settings.data_path / "secret.key"
    keyfile.write_keys(file, ["the first key"])
    changes, told = Changes(datadir.Keys(settings, Vault(["any"]))), list[str]()
    changes.forget += (lambda: told.append("forget"),)
    changes.new_keys += (lambda: told.append("new keys"),)
    changes.noticed()  # another process has written, as a worker does all the time
    assert told == ["forget"]
    keyfile.write_keys(file, ["the first key", "an old key"])
    changes.noticed()
    assert told == ["forget", "forget", "new keys"]
    file.rename(file.with_name("away"))
    changes.noticed()
    file.with_name("away").rename(file)
    changes.noticed()
    assert told[3:] == ["forget", "forget"]
