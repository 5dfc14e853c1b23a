"""A published limit is never hit on purpose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.channels.contract import Pace
from tocsin.flow.pace import Pacer, Wait

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


def test_starts_before_this_process_count_in_the_window() -> None:
    pacer = Pacer()
    pacer.remember(FIVE_IN_TWO, [99.5, 97.0])  # as they come from two handlers with one credential
    pacer.remember(FIVE_IN_TWO, [99.0, 98.5, 98.4, 98.3])
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
