"""What follows a commit of outcomes: each ending for itself, whatever became of the others in it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from conftest import run
from tocsin import observe
from tocsin.channels.registry import CHANNELS
from tocsin.clock import SECOND, Micros
from tocsin.flow.delivery import keep
from tocsin.flow.delivery.keep import Ending, Keeping
from tocsin.flow.delivery.settle import Decision
from tocsin.flow.delivery.tally import Tally
from tocsin.flow.directory import Loaded
from tocsin.metrics import Metrics
from tocsin.model import Attempt, Busy, Delivery, Handler, Reason, Status
from tocsin.ports.errors import Damaged
from tocsin.ports.queue import Settlement

DUE: Micros = 9 * SECOND


class Kept:
    """The rooms around: what each was told, in order."""

    def __init__(self) -> None:
        self.asked: list[Ending] = []
        self.told: list[tuple[Any, ...]] = []
        self.answered_at = 0
        self.again = asyncio.Event()
        self.metrics = Metrics()
        self.tally = Tally(self)  # pyright: ignore[reportArgumentType]
        self.keeping = Keeping(self, self, self, self.metrics, self.tally)  # pyright: ignore[reportArgumentType]

    def settle(self, row: Settlement, ending: Ending, done: Callable[[Sequence[Ending], Sequence[bool | Exception]], None]) -> None:
        assert row == Settlement(ending.decision.delivery, ending.attempt, ending.at)
        self.asked.append(ending)
        self.done = done
        self.again.set()

    def settled(self, slot: int) -> None:
        self.told.append(("left", slot))

    async def failed(self, _: Loaded, reason: Reason, detail: str, delivery: Delivery) -> None:
        self.told.append(("blamed", reason, detail, delivery.first_due_at))

    def ending(self, number: int, status: Status, **more: Any) -> Ending:
        delivery = Delivery(number, 1, number, 1, status, DUE, DUE, DUE, attempt_count=1, last_reason=more.get("reason", Reason.OK))
        attempt = Attempt(number, 1, DUE + number, 2000, "any", more.get("reason", Reason.OK), more.get("code"), None)
        decision = Decision(delivery, more.get("reason", Reason.OK), blames=more.get("blames", False))
        handler = Handler(number, 1, "webhook", "a", {}, is_enabled=True, created_at=1)
        return Ending(decision, attempt, DUE + 40_000, Told(self, number), Loaded(handler, CHANNELS["webhook"], None), slot=number)

    def text(self) -> str:
        return self.metrics.render()[0].decode()


class Told:
    def __init__(self, kept: Kept, number: int) -> None:
        self._kept = kept
        self._number = number

    def came_back(self, how: int) -> None:
        raise AssertionError("it came back before")

    def settled(self, due_at: Micros | None) -> None:
        self._kept.told.append(("settled", self._number, due_at))


def test_each_ending_of_a_commit_is_followed_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep, "STORE_RETRY_SECONDS", 0.0)
    lines: list[tuple[str, list[int]]] = []
    monkeypatch.setattr(observe, "log_attempts", lambda channel, attempts: lines.append((channel, [one.id for one, _ in attempts])))

    async def main() -> None:
        kept = Kept()
        endings = [
            kept.ending(1, Status.DELIVERED, code=200),
            kept.ending(2, Status.PENDING, reason=Reason.SERVER_ERROR, code=500),
            kept.ending(3, Status.FAILED, reason=Reason.REJECTED, blames=True),
            kept.ending(4, Status.DELIVERED),
            kept.ending(5, Status.DELIVERED),
            kept.ending(6, Status.FAILED, reason=Reason.REJECTED),
            kept.ending(7, Status.DELIVERED),
            kept.ending(8, Status.PENDING, reason=Reason.CONNECT),  # to be tried again, but cancelled meanwhile
        ]
        endings[6] = replace(endings[6], loaded=None, attempt=None)
        for ending in endings:
            kept.keeping.keep(ending)
        assert kept.asked == endings
        kept.asked.clear()
        kept.again.clear()
        kept.done(endings, [True, True, True, Busy("full", 1), ValueError("a fault"), False, True, False])
        await asyncio.wait_for(kept.again.wait(), 5)
        assert kept.asked == [endings[3]]  # the store was busy: one of those that it did not keep is tried
        assert kept.told == [
            *(("left", 1), ("settled", 1, None)),
            *(("left", 2), ("settled", 2, DUE)),
            ("left", 3),
            *(("left", 6), ("settled", 6, DUE + 40_000)),  # it may have been replayed: the engine looks
            *(("left", 7), ("settled", 7, None)),
            *(("left", 8), ("settled", 8, DUE + 40_000)),
            *(("blamed", Reason.REJECTED, "", DUE), ("settled", 3, None)),
        ]
        assert lines == [("webhook", [1, 2, 3, 6, 8])]
        assert kept.answered_at == DUE + 2
        counted = [line for line in kept.text().splitlines() if line.startswith(("tocsin_attempts_total", "tocsin_deliveries"))]
        assert sorted(line for line in counted if "accepted" not in line) == [
            'tocsin_attempts_total{outcome="any",reason="connect",type="webhook"} 1.0',
            'tocsin_attempts_total{outcome="any",reason="ok",type="webhook"} 1.0',
            'tocsin_attempts_total{outcome="any",reason="rejected",type="webhook"} 2.0',
            'tocsin_attempts_total{outcome="any",reason="server_error",type="webhook"} 1.0',
            'tocsin_deliveries_delivered_total{type="deleted"} 1.0',
            'tocsin_deliveries_delivered_total{type="webhook"} 1.0',
            'tocsin_deliveries_failed_total{reason="rejected",type="webhook"} 1.0',
        ]
        counts = {handler: (hour.delivered, hour.failed) for handler, hour in kept.tally._counts.items()}
        assert counts == {1: (1, 0), 3: (0, 1), 7: (1, 0)}
        assert 'tocsin_delivery_latency_seconds_sum{type="webhook"} 0.04' in kept.text()
        assert 'tocsin_attempt_duration_seconds_sum{type="webhook"} 0.01' in kept.text()

    run(main())


def test_what_cannot_be_kept_is_held_and_nothing_more_starts_for_its_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of one row stops its lane, a store that takes no writes all of them. One is tried at a time; once it is kept, all are."""
    monkeypatch.setattr(keep, "STORE_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(observe, "log_attempts", lambda *_: None)

    async def main() -> None:
        kept = Kept()
        endings = [kept.ending(number, Status.DELIVERED) for number in (1, 2, 3)]

        async def tried() -> list[Ending]:
            kept.again.clear()
            kept.asked.clear()
            await asyncio.wait_for(kept.again.wait(), 5)
            return list(kept.asked)

        for ending in endings:
            kept.keeping.keep(ending)
        kept.done(endings, [ValueError("a constraint"), ValueError("a constraint"), True])
        assert [kept.keeping.holds_back(handler) for handler in (1, 2, 3)] == [True, True, False]
        assert kept.keeping.trouble == ("What became of a delivery cannot be kept (a constraint): its handler waits; run `tocsin check`.")
        assert kept.told == [("left", 3), ("settled", 3, None)]
        assert await tried() == [endings[0]]
        kept.done(endings[:1], [Damaged("The store is damaged (page 7): restore a backup.")])
        assert "restore a backup" in (kept.keeping.trouble or "") and not kept.keeping.holds_back(3)
        assert await tried() == [endings[1]]
        kept.done(endings[1:2], [Busy("full", 5)])
        assert kept.keeping.holds_back(3)  # the store takes nothing from anybody
        assert await tried() == [endings[0]]
        kept.asked.clear()
        kept.done(endings[:1], [True])
        assert kept.asked == [endings[1]] and not kept.keeping.holds_back(1) and kept.keeping.holds_back(2)
        kept.done(endings[1:2], [True])
        assert kept.keeping.trouble is None and not kept.keeping.holds_back(2)
        assert kept.told[2:] == [("left", 1), ("settled", 1, None), ("left", 2), ("settled", 2, None)]

    run(main())
