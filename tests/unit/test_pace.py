"""A published limit is never hit on purpose."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import run
from support.store import OpenStore
from tocsin.channels.contract import Pace
from tocsin.clock import SECOND
from tocsin.engine.starts import Starts
from tocsin.flow.directory import Directory
from tocsin.flow.egress import Egress
from tocsin.flow.pace import Pacer, Wait
from tocsin.partitions import partition_of
from tocsin.ports.handlers import HandlerChange
from tocsin.settings import load
from tocsin.vault import Vault

FIVE_IN_TWO = Pace("k", 5, 2.0)


def test_a_burst_goes_and_then_waits_for_the_window() -> None:
    pacer = Pacer()
    assert [pacer.take("k", [FIVE_IN_TWO], 100.0) for _ in range(5)] == [0.0] * 5
    assert pacer.take("k", [FIVE_IN_TWO], 100.5) == 1.5
    assert pacer.take("k", [FIVE_IN_TWO], 102.0) == 0.0


def test_all_windows_must_have_room_and_none_is_used_up_in_vain() -> None:
    pacer = Pacer()
    chat, bot = Pace("chat", 1, 1.0), Pace("bot", 2, 1.0)
    assert pacer.take("bot", [bot, chat], 0.0) == 0.0
    assert pacer.take("bot", [bot, chat], 0.5) == 0.5
    assert pacer.take("bot", [bot], 0.5) == 0.0


def test_a_pause_holds_everything_of_the_credential_and_nothing_else() -> None:
    pacer = Pacer()
    pacer.pause("k", 110.0, 100.0)
    pacer.pause("k", 105.0, 100.0)
    assert pacer.take("k", [], 100.0) == 10.0
    assert pacer.take("other", [], 100.0) == 0.0
    assert pacer.take("k", [], 110.0) == 0.0


def test_one_handler_is_paused_by_its_id() -> None:
    pacer = Pacer()
    pacer.pause(7, 102.0, 100.0)
    assert (pacer.pause_left(7, 100.0), pacer.pause_left(8, 100.0), pacer.pause_left(7, 102.0)) == (2.0, 0.0, 0.0)


def test_it_says_how_long_and_why_without_taking_anything() -> None:
    pacer = Pacer()
    for _ in range(5):
        assert pacer.wait("k", [FIVE_IN_TWO], 100.0).seconds == 0.0
        pacer.take("k", [FIVE_IN_TWO], 100.0)
    assert pacer.wait("k", [FIVE_IN_TWO], 100.5) == Wait(1.5, FIVE_IN_TWO)
    pacer.pause("k", 110.0, 100.5)
    assert pacer.wait("k", [FIVE_IN_TWO], 100.5) == Wait(9.5)
    assert pacer.wait("other", [], 100.5) == Wait(0.0)


def test_starts_that_rows_tell_of_count_in_the_window() -> None:
    pacer = Pacer(wall=lambda: 1000 * SECOND)  # while the other clock says 100
    pacer.remember([FIVE_IN_TWO], [int(999.5 * SECOND), 997 * SECOND], 100.0)  # as they come from two handlers with one credential
    pacer.remember([FIVE_IN_TWO], [int(at * SECOND) for at in (999.0, 998.5, 998.4, 998.3)], 100.0)
    assert pacer.take("k", [FIVE_IN_TWO], 100.0) == pytest.approx(0.3)
    assert [pacer.take("k", [FIVE_IN_TWO], 101.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 0.5]


def test_pauses_that_are_over_are_forgotten() -> None:
    pacer = Pacer()
    for number in range(30_000):
        pacer.pause(number, number + 1.0, float(number))
    assert len(pacer._paused_until) <= 10_001
    pacer.pause("k", 50_000.0, 30_000.0)
    assert pacer.pause_left("k", 30_000.0) == 20_000.0


@given(st.lists(st.floats(0, 3), min_size=1, max_size=60), st.integers(1, 6), st.floats(0.1, 5))
def test_never_more_starts_than_allowed_in_any_window(gaps: list[float], count: int, seconds: float) -> None:
    pacer, pace, now = Pacer(), Pace("k", count, seconds), 0.0
    starts: list[float] = []
    for gap in gaps:
        now += gap
        wait = pacer.take("k", [pace], now)
        if wait > 0:
            now += wait
            wait = pacer.take("k", [pace], now)
        if wait == 0:
            starts.append(now)
    assert starts
    for first in starts:
        assert sum(1 for start in starts if first <= start < first + seconds * 0.999_999) <= count


# --------------------------------------------------------------------------------------------------- over a restart


class Process:
    """Pacers on the same file, one after the other: each is killed by the next. `wall` is the time of day, which may step."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "starts"
        self.now, self.wall = 5000.0, 1_700_000_000.0
        self.restart()

    def restart(self, seconds: float = 0.0) -> Pacer:
        """The machine's other clock starts over as well, as after a boot."""
        self.pass_by(seconds)
        self.now = 10.0
        self.pacer = Pacer(Starts(self.file, int(self.wall * SECOND)), lambda: int(self.wall * SECOND))
        return self.pacer

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds

    def take(self, paces: Sequence[Pace], count: int = 1, credential: str = "bot") -> list[float]:
        return [pytest.approx(self.pacer.take(credential, paces, self.now), abs=0.01) for _ in range(count)]


BOT, CHAT, GROUP, QUARTER = Pace("bot", 25, 1.0), Pace("chat", 1, 1.0), Pace("chat", 20, 60.0), Pace("x", 100, 900.0)


def test_short_windows_go_on_over_a_restart(tmp_path: Path) -> None:
    process = Process(tmp_path)
    assert process.take([BOT], 25) == [0.0] * 25
    process.restart(0.4)
    assert process.take([BOT]) == [0.6]
    process.restart(0.7)
    assert process.take([BOT], 26) == [0.0] * 25 + [1.0]


def test_every_start_counts_however_many_one_delivery_makes(tmp_path: Path) -> None:
    """Nineteen parts or attempts of whatever deliveries, one a second."""
    process = Process(tmp_path)
    for _ in range(19):
        assert process.take([BOT, CHAT, GROUP]) == [0.0]
        process.pass_by(1.0)
    process.restart()
    assert process.take([BOT, CHAT, GROUP]) == [0.0]
    process.restart(1.0)
    assert process.take([BOT, CHAT, GROUP]) == [40.0]
    assert process.pacer.wait("bot", [BOT, CHAT, GROUP], process.now).pace == GROUP
    assert process.take([BOT]) == [0.0]


def test_a_long_window_outlives_any_number_of_younger_starts(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.take([QUARTER], 100, "x")
    for number in range(40_000):
        process.pass_by(0.005)
        process.take([Pace(f"chat {number % 300}", 5, 1.0)])
    process.restart()
    assert process.take([QUARTER], 1, "x") == [700.0]


def test_a_pause_goes_on_over_restarts_for_everything_of_the_credential(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.pacer.pause("bot", process.now + 25.0, process.now)
    process.pacer.pause("bot", process.now + 5.0, process.now)
    for left in (20.0, 15.0):
        process.restart(5.0)
        assert process.pacer.has_pauses
        assert process.take([CHAT]) == [left]
        assert process.take([CHAT], credential="another") == [0.0]
    process.pass_by(15.0)
    assert process.take([CHAT]) == [0.0]
    process.pacer.pause_left("the next one", process.now)
    assert not process.pacer.has_pauses


def test_a_pause_that_grew_is_kept_as_it_grew(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.pacer.pause("bot", process.now + 25.0, process.now)
    process.restart()
    process.pacer.pause("bot", process.now + 10.0, process.now)
    process.pacer.pause("bot", process.now + 60.0, process.now)
    process.restart(10.0)
    assert process.take([]) == [50.0]


def test_what_is_held_for_one_handler_by_its_id_ends_with_the_process(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.pacer.pause(7, process.now + 2.0, process.now)
    assert not process.restart().has_pauses


@pytest.mark.parametrize("years", [1 / 8760, 10.0])
def test_a_clock_that_was_ahead_holds_nothing_longer_than_its_own_length(tmp_path: Path, years: float) -> None:
    process = Process(tmp_path)
    ahead = years * 365 * 86_400
    process.wall += ahead
    process.take([CHAT, GROUP], 1)
    process.pacer.pause("other", process.now + 3600.0, process.now)
    process.pass_by(1.0)
    process.wall -= ahead
    process.restart()
    assert process.take([CHAT, GROUP]) == [1.0]
    assert process.take([], credential="other") == [3600.0]
    process.restart(1.0)  # and another restart opens no new window
    assert process.take([CHAT, GROUP]) == [0.0]
    assert process.take([], credential="other") == [3599.0]
    process.restart(3599.0)
    assert process.take([], credential="other") == [0.0]


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), min_size=1, max_size=40), st.integers(1, 6), st.floats(0.1, 5))
def test_never_more_starts_than_allowed_over_restarts(steps: list[tuple[float, bool]], count: int, seconds: float) -> None:
    with TemporaryDirectory() as folder:
        process, pace = Process(Path(folder)), Pace("k", count, seconds)
        starts: list[float] = []
        for gap, is_restart in steps:
            process.restart(gap) if is_restart else process.pass_by(gap)
            wait = process.pacer.take("k", [pace], process.now)
            if wait > 0:
                process.pass_by(wait + 0.000_01)
                wait = process.pacer.take("k", [pace], process.now)
            assert wait == 0
            starts.append(process.wall)
        for first in starts:
            assert sum(1 for start in starts if first <= start < first + seconds - 0.000_01) <= count


@pytest.mark.parametrize("read", [lambda directory, handler: directory.prepare([handler]), Directory.loaded], ids=["many", "one"])
def test_a_pace_is_known_though_another_handler_changes_while_it_is_read(
    open_store: OpenStore, tmp_path: Path, vault: Vault, read: Callable[[Directory, int], Coroutine[Any, Any, Any]]
) -> None:
    """Without one the next attempt would start at once, and be counted in no window."""

    async def paces() -> tuple[Pace, ...]:
        async with open_store() as store:
            directory = Directory(store.handlers, vault, load({}, tmp_path / "none.env"))
            settings = vault.seal({"slack": "https://hooks.slack.com/services/T000/B000/XXXXXXXXXXXXXXXXXXXXXXXX"})
            handler = await store.handlers.add(1, HandlerChange(type="slack", name="ops", settings=settings, is_enabled=True), 10)
            reading = asyncio.create_task(read(directory, handler))
            await asyncio.sleep(0)  # it is in the store now
            directory.forget(1, handler + 1)
            await reading
            assert directory.cached(handler) is None  # what was read meanwhile is not kept otherwise
            return directory.pacing(handler).paces

    assert [(pace.count, pace.seconds) for pace in run(paces())] == [(3, 3.0)]


# ------------------------------------------------------------------------------------- from one process to the next

SLACK, PUBLIC = Pace("slack:a", 3, 3.0), Pace("discord", 40, 1.0, "egress")
HOOK = Pace("discord:a", 1000, 60.0)
HOME, OTHER = partition_of("slack:a"), partition_of("discord:a")


def shared(wall: Callable[[], float] = lambda: 1000.0, workers: int = 1) -> Pacer:
    pacer = Pacer(wall=lambda: int(wall() * SECOND), egress=Egress())
    assert pacer.egress is not None
    pacer.egress.share(workers, [], True)
    return pacer


def test_starts_and_pauses_move_on_with_their_partition_and_nothing_else_does() -> None:
    first, second = shared(lambda: 1000.0), shared(lambda: 1000.5)
    for _ in range(3):
        assert first.take("slack:a", [SLACK], 50.0) == 0.0
    assert first.take("discord:a", [HOOK], 50.0) == 0.0
    first.pause("slack:a", 60.0, 50.0)
    first.pause("slack@host#1", 60.0, 50.0)
    states = first.hand_on({HOME}, 50.0)
    assert states.keys() == {HOME}
    second.restore(HOME, states[HOME], 7.5)  # half a second later, by a clock that says something else
    assert second.take("slack:a", [SLACK], 7.5) == pytest.approx(9.505)
    assert second.take("slack:a", [SLACK], 17.1) == 0.0, "the pause is over, and so are the starts"
    assert first.wait("discord:a", [Pace("discord:a", 1, 60.0)], 50.0).seconds == 0.0
    assert first.pause_left("slack:a", 50.0) == 0.0 and first.pause_left("slack@host#1", 50.0) == 10.0
    assert first.take("slack:a", [SLACK], 50.0) == 0.0, "it is forgotten here"


@given(st.lists(st.tuples(st.floats(0, 2.5), st.booleans()), min_size=1, max_size=60))
def test_no_window_is_exceeded_however_often_a_partition_moves(steps: list[tuple[float, bool]]) -> None:
    now, wall, pacer, starts = 0.0, 1000.0, shared(), list[float]()
    for gap, moves in steps:
        now += gap
        if moves:
            state = pacer.hand_on({HOME}, now + 3)[HOME]
            pacer = shared()
            pacer.restore(HOME, state, now + 3)
        if pacer.take("slack:a", [SLACK], now + 3) == 0.0:
            starts.append(now)
    assert wall and all(later - earlier >= 3.0 - 0.005 for earlier, later in zip(starts, starts[3:], strict=False))


def test_nothing_starts_behind_the_fence() -> None:
    pacer, closed = shared(), {"seconds": 0.1}
    pacer.fence = lambda: closed["seconds"]
    assert pacer.has_pauses
    assert pacer.take("handler:1", [], 50.0) == pacer.wait("handler:1", [], 50.0).seconds == 0.1
    closed["seconds"] = 0.0
    assert not pacer.has_pauses
    assert pacer.take("handler:1", [], 50.0) == 0.0


def taken(pacer: Pacer, now: float, most: int = 100) -> int:
    count = 0
    while count < most and pacer.take("discord:a", [HOOK, PUBLIC], now) == 0.0:
        count += 1
    return count


def test_what_an_address_may_is_divided_among_those_who_send_from_it() -> None:
    pacer = shared(workers=0)
    egress = pacer.egress
    assert egress is not None
    assert taken(pacer, 50.0) == 0, "one that joins waits until the others know of it"
    egress.share(2, [{}], False)
    assert taken(pacer, 50.0) == 20
    assert egress.used(50.0) == {"discord 40 1": 20}
    egress.share(1, [], False)
    assert taken(pacer, 50.0) == 20, "the other one is gone"
    egress.share(3, [{"discord 40 1": 20}, {"discord 40 1": 30}], False)
    assert taken(pacer, 51.0) == 0, "they have used more than their shares"
    egress.share(3, [{"discord 40 1": 13}, {}], False)
    assert taken(pacer, 51.0) == 13
    egress.share(50, [{}] * 49, False)
    assert taken(pacer, 52.5) == 1


def test_a_start_counts_where_its_partition_is_and_where_it_was_until_it_has_arrived() -> None:
    first, second = shared(workers=2), shared(workers=2)
    assert first.egress is not None and second.egress is not None
    assert taken(first, 50.0) == 20
    state = first.hand_on({OTHER}, 50.0)[OTHER]
    assert first.egress.used(50.0) == {"discord 40 1": 20} and taken(first, 50.0) == 0
    second.restore(OTHER, state, 50.0)
    assert second.egress.used(50.0) == {"discord 40 1": 20} and taken(second, 50.0) == 0
    first.egress.share(2, [second.egress.used(50.0)], True)
    assert taken(first, 50.0) == 20


@given(st.lists(st.sampled_from(["send", "send", "send", "join", "leave"]), min_size=1, max_size=40), st.integers(0, 2**32))
def test_no_address_sends_more_than_it_may_while_others_join_and_go(events: list[str], seed: int) -> None:
    """Workers that know of each other at once, and hand on what they own when they go."""
    chance, now, starts = random.Random(seed), 100.0, list[float]()
    live = [shared(workers=1)]
    for what in events:
        if what == "join" and len(live) < 5:
            live.append(shared(workers=0))
        elif what == "leave" and len(live) > 1:
            gone = live.pop(chance.randrange(len(live)))
            live[0].restore(OTHER, gone.hand_on({OTHER}, now)[OTHER], now)
        used = [pacer.egress.used(now) for pacer in live if pacer.egress is not None]
        for index, pacer in enumerate(live):
            assert pacer.egress is not None
            pacer.egress.share(len(live), [*used[:index], *used[index + 1 :]], True)
        for _ in range(chance.randint(0, 30) if what == "send" else 0):
            pacer = chance.choice(live)
            if pacer.take("discord:a", [HOOK, PUBLIC], now) == 0.0:
                starts.append(now)
            now += chance.choice([0.0, 0.0, 0.01, 0.2])
    assert all(later - earlier >= 1.0 - 0.005 for earlier, later in zip(starts, starts[40:], strict=False))
