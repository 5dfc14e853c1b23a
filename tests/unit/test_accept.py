"""What is accepted is kept, and what is due now is handed to the engine as it was kept."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from support.store import add_handler, sqlite_store
from tocsin import clock
from tocsin.flow.intake.accept import Accepting
from tocsin.flow.intake.repeats import Repeats
from tocsin.metrics import Metrics
from tocsin.model import Busy, Draft, Fault, Invalid, Message, Severity, Status
from tocsin.ports.handlers import HandlerBrief, HandlerChange
from tocsin.ports.intake import Idempotency
from tocsin.ports.queue import Waiting
from tocsin.store.sql import SqlStore

NOW = 1_000_000
LATER = NOW + 60_000_000


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: NOW)


class Taking:
    """An engine, and a directory, that note what they are given."""

    def __init__(self, store: SqlStore) -> None:
        self.handed: list[list[Waiting]] = []
        self.woken: list[tuple[int, int, int]] = []
        self._store = store
        self.old: dict[int, HandlerBrief] | None = None
        """What is remembered of the handlers, until it is looked for another one."""

    def hand_over(self, jobs: list[Waiting]) -> None:
        self.handed.append(jobs)

    def wake(self, handler_id: int, user_id: int, due_at: int) -> None:
        self.woken.append((handler_id, user_id, due_at))

    async def briefs(self, user_id: int) -> dict[int, HandlerBrief]:
        return self.old if self.old is not None else {brief.id: brief for brief in await self._store.handlers.briefs(user_id)}

    async def look_for(self, user_id: int, handler_ids: Iterable[int]) -> bool:
        self.old = None
        return not (await self.briefs(user_id)).keys().isdisjoint(handler_ids)


def accepting(store: SqlStore, taking: Taking, metrics: Metrics | None = None) -> Accepting:
    return Accepting(store.intake, taking, taking, Repeats(store.intake), metrics or Metrics())  # pyright: ignore[reportArgumentType]


def draft(text: str = "text", handlers: Iterable[int] | None = None, send_at: int | None = None, **more: Any) -> Draft:
    return Draft(Message(text, at=NOW, **more), None if handlers is None else tuple(handlers), send_at)


def test_the_engine_gets_what_is_due_as_it_was_kept(tmp_path: Path) -> None:
    async def main() -> None:
        async with sqlite_store(tmp_path) as store:
            first, second, paused = [await add_handler(store) for _ in range(3)]
            await store.handlers.change(paused, HandlerChange(is_enabled=False))
            taking = Taking(store)
            critical = draft("d", [second], severity=Severity.CRITICAL)
            drafts = [draft("a"), draft("b", [paused, second]), draft("c", [first], LATER), critical]
            ids = await accepting(store, taking).accept(1, drafts, batch=True)
            [jobs] = taking.handed
            assert [(job.notification.id, job.delivery.handler_id) for job in jobs] == [
                (ids[0], first),
                (ids[0], second),
                (ids[1], second),
                (ids[3], second),
            ]
            kept = {job.delivery.id: job for job in await store.queue.waiting([job.delivery.id for job in jobs])}
            assert {job.delivery.id: job for job in jobs} == kept
            assert taking.woken == [(first, 1, LATER)]
            _, counts = await store.history.notification(1, ids[1]) or pytest.fail("it is not there")
            assert (counts[Status.PENDING], counts[Status.SKIPPED]) == (1, 1)

    asyncio.run(main())


def test_nothing_is_accepted_while_what_is_known_of_handlers_may_be_old(tmp_path: Path) -> None:
    async def main() -> None:
        async with sqlite_store(tmp_path) as store:
            await add_handler(store)
            taking, is_old = Taking(store), [True]
            made: Any = (store.intake, taking, taking, Repeats(store.intake), Metrics(), lambda: bool(is_old))
            accepts = Accepting(*made)
            with pytest.raises(Busy, match="lost touch"):
                await accepts.accept(1, [draft()])
            is_old.clear()
            assert await accepts.accept(1, [draft()]) == [1]

    asyncio.run(main())


def test_the_deliveries_of_a_notification_share_it(tmp_path: Path) -> None:
    """It may have ten thousand of them, and 64 KiB of text."""

    async def main() -> None:
        async with sqlite_store(tmp_path) as store:
            for _ in range(300):
                await add_handler(store)
            taking = Taking(store)
            [made] = await accepting(store, taking).accept(1, [draft()])
            [jobs] = taking.handed
            assert (len(jobs), {id(job.notification) for job in jobs}) == (300, {id(jobs[0].notification)})
            assert jobs[0].notification.id == made

    asyncio.run(main())


def test_nothing_to_hand_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with sqlite_store(tmp_path) as store:
            paused = await add_handler(store)
            await store.handlers.change(paused, HandlerChange(is_enabled=False))
            taking = Taking(store)
            assert len(await accepting(store, taking).accept(1, [draft(handlers=[paused])])) == 1
            assert (taking.handed, taking.woken) == ([], [])

    asyncio.run(main())


def test_a_repeated_request_makes_nothing_and_is_not_judged_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with sqlite_store(tmp_path) as store:
            handler = await add_handler(store)
            taking = Taking(store)
            flow = accepting(store, taking)
            key = Idempotency("/api/notifications/batch", "nightly", b"content")
            late = Fault("invalid", "Invalid", "It has passed.", "expires_at")
            with pytest.raises(Invalid) as refused:
                await flow.accept(1, [draft(handlers=[handler, 99])], key, faults=[late])
            assert [one.parameter for one in refused.value.faults] == ["expires_at", "handlers"]
            ids = await flow.accept(1, [draft(), draft()], key, batch=True)
            await store.handlers.delete(handler, NOW)
            assert tuple(await flow.accept(1, [draft(), draft()], key, batch=True, faults=[late])) == tuple(ids)
            assert len(taking.handed) == 1
            assert (await store.history.notifications(1, 1, 25)).total == 2

    asyncio.run(main())


def test_a_handler_that_another_process_has_just_added_is_known(tmp_path: Path) -> None:
    async def main() -> None:
        async with sqlite_store(tmp_path) as store:
            first, taking = await add_handler(store), Taking(store)
            taking.old = await taking.briefs(1)
            second = await add_handler(store)
            assert len(await accepting(store, taking).accept(1, [draft(handlers=[first, second])])) == 1
            assert [job.delivery.handler_id for job in taking.handed[0]] == [first, second]
            with pytest.raises(Invalid):
                await accepting(store, taking).accept(1, [draft(handlers=[first, second + 1])])

    asyncio.run(main())


def test_what_is_accepted_is_counted(tmp_path: Path) -> None:
    async def main() -> None:
        async with sqlite_store(tmp_path) as store:
            for _ in range(3):
                await add_handler(store)
            metrics = Metrics()
            await accepting(store, Taking(store), metrics).accept(1, [draft(), draft()], batch=True)
            told = metrics.render()[0].decode()
            assert "tocsin_notifications_accepted_total 2.0" in told and "tocsin_deliveries_accepted_total 6.0" in told

    asyncio.run(main())
