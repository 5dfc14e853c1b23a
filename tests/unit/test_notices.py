"""What owners are told of handlers that were switched off, through whom, and how often."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import update

from conftest import run
from support.store import OpenStore
from tocsin import clock
from tocsin.clock import SECOND, Micros
from tocsin.flow.delivery import notices as delivery_notices
from tocsin.flow.delivery.notices import GATHER_SECONDS, MAX_A_DAY, MAX_NAMED, MAX_TARGETS, Notices
from tocsin.flow.directory import Directory
from tocsin.flow.intake.accept import Accepting
from tocsin.flow.intake.repeats import Repeats
from tocsin.metrics import Metrics
from tocsin.model import Reason
from tocsin.ports.handlers import HandlerChange, HandlerEvent, SwitchOff
from tocsin.ports.queue import Waiting
from tocsin.settings import load
from tocsin.store import notices, values
from tocsin.store.sql import SqlStore
from tocsin.store.tables import handlers
from tocsin.vault import Vault

HOUR = 3600 * SECOND


class House:
    """Stands for the engine: what is to be sent is only kept."""

    def __init__(self, store: SqlStore, folder: Path) -> None:
        self.store = store
        self.vault = Vault(["a key of sixteen characters"])
        self.handed: list[Waiting] = []
        directory = Directory(store.handlers, self.vault, load({}, folder / "none"))
        self.notices = Notices(
            store.notices, store.handlers, directory, Accepting(store.intake, directory, self, Repeats(store.intake), Metrics())
        )  # pyright: ignore[reportArgumentType]

    def hand_over(self, jobs: Sequence[Waiting]) -> None:
        self.handed += jobs

    def wake(self, *_: object) -> None: ...

    async def handler(self, name: str = "hook", type: str = "webhook", delivered_at: Micros | None = None, **settings: str) -> int:
        sealed = self.vault.seal(settings or {"webhook": "https://example.com/hook"})
        made = await self.store.handlers.add(1, HandlerChange(type=type, name=name, settings=sealed, is_enabled=True), 10)
        if delivered_at is not None:
            await self.store.database.write(
                lambda c: c.execute(update(handlers).where(handlers.c.id == made).values(last_delivered_at=delivered_at))
            )
        return made

    async def dies(self, handler: int, notification: int = 0) -> None:
        event = HandlerEvent(clock.now(), "switched_off", "It is gone.", Reason.GONE)
        assert await self.store.handlers.switch_off(SwitchOff(1, handler, 1, event, notification, 100))

    def told(self) -> list[tuple[str, list[int]]]:
        """Titles and whom they go to, since the last time."""
        found: dict[int, tuple[str, list[int]]] = {}
        for job in self.handed:
            found.setdefault(job.notification.id, (job.notification.message.title, []))[1].append(job.delivery.handler_id)
        self.handed = []
        return list(found.values())

    async def untold(self) -> list[int]:
        return [one.handler_id for one in (await self.store.notices.untold(1))[0]]


def test_those_that_die_together_are_told_of_together_through_a_few(open_store: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_store() as store:
            house = House(store, tmp_path)
            now = clock.now()
            dead = [await house.handler(f"dead_{number}") for number in range(MAX_NAMED + 7)]
            await house.handler("unused")
            await house.handler("old", delivered_at=now - 90 * 24 * HOUR)
            live = [await house.handler("live", delivered_at=now - age * HOUR) for age in range(MAX_TARGETS + 4)]
            await house.handler("@public", "telegram", delivered_at=now, telegram="123456:" + "a" * 35, telegram_chat_id="@public")
            for handler in dead:
                await house.dies(handler)
            assert await house.notices.tell(1) is None
            message = house.handed[0].notification.message
            assert house.told() == [(f"{len(dead)} handlers switched off: dead_0 and others", live[:MAX_TARGETS])]
            assert message.text.count("\n- ") + 1 == MAX_NAMED
            assert (message.is_text, message.text.split(" (")[0]) == (True, "- dead_0")  # no character of a name is markup
            assert "And 7 more." in message.text
            assert message.fields[0] == ("Handler", "dead_0")
            assert await house.untold() == []
            assert await house.notices.tell(1) is None
            assert house.told() == []

    run(main())


def test_a_handful_of_notices_a_day_and_what_is_over_goes_into_the_next(open_store: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_store() as store:
            house = House(store, tmp_path)
            await house.handler("live")
            for number in range(MAX_A_DAY):
                await house.dies(await house.handler(f"dead {number}"))
                assert await house.notices.tell(1) is None
                assert ("the last notice of this kind today" in house.handed[0].notification.message.text) == (number == MAX_A_DAY - 1)
                assert len(house.told()) == 1
            over = [await house.handler("over"), await house.handler("over too")]
            for handler in over:
                await house.dies(handler)
            wait_seconds = await house.notices.tell(1)
            assert wait_seconds is not None
            assert 0 < wait_seconds <= 86_402
            assert (house.told(), await house.untold()) == ([], over)
            yesterday = [clock.now() - 25 * HOUR] * MAX_A_DAY
            await store.database.write(lambda c: values.write(c, "told:1", str(yesterday).encode()))
            assert await house.notices.tell(1) is None
            assert [title for title, _ in house.told()] == ["2 handlers switched off: over and others"]

    run(main())


def test_a_notice_that_is_not_taken_leads_to_no_other(open_store: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_store() as store:
            house = House(store, tmp_path)
            await house.handler("live")
            first, second, third = [await house.handler(f"dead {number}") for number in range(3)]
            await house.dies(first)
            await house.notices.tell(1)
            notice = house.handed[0].notification.id
            house.told()
            await house.dies(second, notice)
            assert await house.notices.tell(1) is None
            assert (house.told(), await house.untold()) == ([], [second])
            await house.dies(third)
            await house.notices.tell(1)
            assert [title for title, _ in house.told()] == ["2 handlers switched off: dead 1 and others"]

    run(main())


def test_what_was_switched_on_again_or_deleted_is_not_told(open_store: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_store() as store:
            house = House(store, tmp_path)
            again, deleted = await house.handler(), await house.handler()
            await house.handler("live")
            await house.dies(again)
            await house.dies(deleted)
            await store.handlers.change(again, HandlerChange(is_enabled=True))
            await store.handlers.delete(deleted, 1)
            assert await store.notices.users() == [1]
            await house.notices.tell(1)
            assert (house.told(), await house.untold()) == ([], [])
            assert await store.notices.users() == []

    run(main())


def test_more_than_one_notice_can_name_are_told_of_in_the_next(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "MAX_READ", 2)
    monkeypatch.setattr(delivery_notices, "MAX_READ", 2)

    async def main() -> None:
        async with open_store() as store:
            house = House(store, tmp_path)
            await house.handler("live")
            for number in range(3):
                await house.dies(await house.handler(f"dead {number}"))
            assert await house.notices.tell(1) == GATHER_SECONDS
            assert await house.notices.tell(1) is None
            assert [len(targets) for _, targets in house.told()] == [1, 1] and await house.untold() == []

    run(main())


class Moved(asyncio.SelectorEventLoop):
    """A loop whose clock the test moves."""

    now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("gaps", "told"),
    [
        ([4, 4, 4.9], []),
        ([4, 4, 5], [3]),
        ([4] * 11, []),  # one that goes on dying is not waited for
        ([4] * 11 + [1.1], [12]),
    ],
    ids=["not yet", "after the last one", "still gathered", "for 45 seconds at most"],
)
def test_handlers_that_die_within_a_short_while_are_gathered(
    open_store: OpenStore, tmp_path: Path, gaps: list[float], told: list[int]
) -> None:
    """One after each gap but the last, which only passes."""
    loop = Moved()

    async def main() -> None:
        async with open_store() as store:
            house = House(store, tmp_path)
            await house.handler("live")
            for number, gap in enumerate(gaps):
                await house.dies(await house.handler(f"dead {number}"))
                house.notices.due(1)
                loop.now += gap
                for _ in range(3):
                    await asyncio.sleep(0)
            await house.notices.close()
            assert [int(title.split()[0]) for title, _ in house.told()] == told

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
