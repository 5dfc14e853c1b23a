"""What a start does with attempts that were in flight when the process died. How it looks from outside is in e2e/test_crash.py."""

import pytest
from msgspec.structs import replace

from conftest import run
from tocsin.flow.delivery.keep import Ending
from tocsin.flow.delivery.recover import recover
from tocsin.model import Busy, Delivery, Status
from tocsin.ports.ledger import UnderWay
from tocsin.settings import load

FIRST = Delivery(1, 1, 1, 1, Status.PENDING, 5, 5, 5)
SECOND = replace(FIRST, id=2, handler_id=2)


class Rooms:
    """The store, the directory and what keeps: a handler that cannot be read at first."""

    def __init__(self) -> None:
        self.unreadable = {2}
        self.kept: list[Ending] = []

    async def named(self, ids: list[int]) -> list[Delivery]:
        return [one for one in (FIRST, SECOND) if one.id in ids]

    async def loaded(self, handler_id: int) -> None:
        if handler_id in self.unreadable:
            raise Busy("not now")

    def keep(self, ending: Ending) -> None:
        self.kept.append(ending)
        ending.run.settled(None)


def test_nothing_is_kept_of_a_recovery_that_begins_anew() -> None:
    """Else its outcomes could be written a second time, after their deliveries had been sent again."""
    rooms = Rooms()
    rest = ([UnderWay(1, 1, 0, 7), UnderWay(2, 1, 0, 7)], rooms, rooms, rooms, load({}))

    async def main() -> None:
        with pytest.raises(Busy):
            await recover(*rest)  # pyright: ignore[reportArgumentType]
        assert rooms.kept == []
        rooms.unreadable = set()
        await recover(*rest)  # pyright: ignore[reportArgumentType]
        assert [one.decision.delivery.id for one in rooms.kept] == [1, 2]

    run(main())
