"""Pauses that a process hands to the store for others, while the store takes them and while it does not."""

import asyncio
from collections.abc import Collection, Sequence

import pytest

from conftest import run
from tocsin import clock, observe
from tocsin.clock import SECOND, Micros
from tocsin.flow import pauses
from tocsin.flow.pace import Pacer
from tocsin.flow.pauses import SharedPauses
from tocsin.model import Busy
from tocsin.ports.pauses import Pause

REALM = "discord@discord.com#1"


class Rows:
    """`refusals`: what is raised before anything is taken."""

    def __init__(self, *refusals: Exception) -> None:
        self.refusals = list(refusals)
        self.kept: dict[str, Micros] = {}
        self.is_kept = asyncio.Event()

    async def begin(self, pauses: Sequence[Pause], now: Micros) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.kept |= {one.key: one.until for one in pauses}
        self.is_kept.set()

    async def of(self, partitions: Collection[int], now: Micros) -> Sequence[Pause]:
        return []


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    events: list[str] = []
    monkeypatch.setattr(observe, "seldom", lambda _, event, **__: events.append(event))
    return events


def began(shared: SharedPauses, pacer: Pacer, key: str, seconds: float) -> None:
    assert pacer.began_pause == shared._began
    pacer.began_pause(key, clock.now() + int(seconds * SECOND))


def test_pauses_of_half_a_second_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: 1_700_000_000 * SECOND)

    async def main() -> None:
        rows, pacer = Rows(), Pacer()
        shared = SharedPauses(rows, pacer)
        for key, seconds in (("slack:a", 0.49), ("slack:b", 0.5), ("slack:c", 2.9), (REALM, 0.1)):
            began(shared, pacer, key, seconds)
        await shared.kept()
        assert rows.kept.keys() == {"slack:b", "slack:c", REALM}
        await shared.close()

    run(main())


def test_what_the_store_refuses_is_logged_and_written_again(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setattr(pauses, "AGAIN_SECONDS", 0.0)

    async def main() -> None:
        rows, pacer = Rows(RuntimeError("no such table"), Busy("the store is away")), Pacer()
        shared = SharedPauses(rows, pacer)
        began(shared, pacer, "slack:a", 60.0)
        async with asyncio.timeout(10):
            await rows.is_kept.wait()
        assert said == ["pauses.failed", "pauses.not_kept"]
        await shared.close()

    run(main())


def test_a_release_does_not_wait_for_ever_for_a_store_that_refuses(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    async def main() -> None:
        rows, pacer = Rows(*[RuntimeError("no such table")] * 2, *[Busy("no permission")] * 2), Pacer()
        shared = SharedPauses(rows, pacer)
        began(shared, pacer, REALM, 60.0)
        await asyncio.sleep(0)  # the first refusal; the next look is much later
        assert said == ["pauses.failed"]
        await shared.kept()
        with pytest.raises(Busy):
            await shared.kept()
        monkeypatch.setattr(pauses, "PATIENCE_SECONDS", 0.0)
        await shared.kept()
        assert said == ["pauses.failed", *["pauses.not_handed_on"] * 2] and rows.kept == {}
        await shared.kept()
        assert rows.kept.keys() == {REALM}
        await shared.close()

    run(main())


def test_pauses_that_are_over_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_700_000_000 * SECOND
    monkeypatch.setattr(clock, "now", lambda: now)

    async def main() -> None:
        nonlocal now
        rows, pacer = Rows(), Pacer()
        shared = SharedPauses(rows, pacer)
        began(shared, pacer, "slack:a", 60.0)
        began(shared, pacer, "slack:b", 30.0)
        now += 30 * SECOND
        await shared.kept()
        assert rows.kept.keys() == {"slack:a"}
        await shared.close()

    run(main())
