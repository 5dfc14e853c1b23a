"""How many attempts a handler earns: with receivers near and far, saturated, failing, and with a long tail."""

import heapq
import random
from collections.abc import Callable

from tocsin.engine.window import FIRST_LIMIT, MAX_LIMIT, Window


def flood(
    window: Window, answer_seconds: Callable[[int], float], answers: int, strained: Callable[[int], bool] = lambda _: False
) -> list[int]:
    """Always more to send than the window lets out; the limit after each answer. `answer_seconds` is given the number in flight."""
    now, limits = 0.0, []
    flying: list[tuple[float, float, int]] = []
    for number in range(answers):
        while len(flying) < window.limit:
            beside = len(flying) + 1
            heapq.heappush(flying, (now + answer_seconds(beside), now, beside))
        window.is_full = True
        now, started, beside = heapq.heappop(flying)
        window.answered(now - started, beside, strained(number))
        limits.append(window.limit)
    return limits


def test_it_begins_small_and_doubles_within_an_answer_time() -> None:
    limits = flood(Window(), lambda _: 0.2, 14)
    assert FIRST_LIMIT == 2
    assert limits[1] == 4
    assert limits[5] == 8
    assert limits[13] == 16


def test_distance_is_no_reason_to_send_less() -> None:
    for seconds in (0.001, 0.2, 2.0, 10.0):
        assert flood(Window(), lambda _, seconds=seconds: seconds, 600)[-1] == MAX_LIMIT


def test_a_long_tail_is_no_reason_to_send_less() -> None:
    """Log-normal, median 120 ms, one in a hundred over 5 s."""
    for seed in range(40):
        dice = random.Random(seed)
        limits = flood(Window(), lambda _, dice=dice: 0.12 * dice.lognormvariate(0, 1.6), 10_000)
        assert sum(limits) / len(limits) > 150, seed


def test_what_has_enough_places_gets_no_more() -> None:
    window = Window()
    for _ in range(1000):
        window.answered(0.2, 2, strained=False)  # the limit held nothing back
    assert window.limit == FIRST_LIMIT


def test_a_saturated_receiver_is_left_at_what_it_can_take() -> None:
    """Four at a time, about 50 ms each: whatever comes on top only waits there."""
    dice = random.Random(1)
    for spread in (0.0, 0.5):
        limits = flood(Window(), lambda flying, spread=spread: 0.05 * max(1.0, flying / 4) * dice.lognormvariate(0, spread), 20_000)
        assert max(limits) < 100
        settled = limits[2000:]
        assert sum(settled) / len(settled) < 24
        assert max(settled) < 48


def test_a_receiver_that_grows_is_found_again() -> None:
    window = Window()
    flood(window, lambda flying: 0.05 * max(1.0, flying / 4), 5000)
    assert window.limit < 40
    assert flood(window, lambda _: 0.05, 60_000)[-1] >= 100


def test_server_errors_halve_it_and_single_ones_do_not() -> None:
    window = Window()
    flood(window, lambda _: 0.2, 600)
    assert flood(window, lambda _: 0.2, 2000, lambda number: number % 50 == 0)[-1] == MAX_LIMIT
    limits = flood(window, lambda _: 0.2, 400, lambda _: True)
    assert sorted(set(limits), reverse=True) == [256, 128, 64, 32, 16, 8, 4, 2, 1]


def test_after_errors_it_grows_again() -> None:
    window = Window()
    flood(window, lambda _: 0.2, 1000, lambda _: True)
    assert window.limit == 1
    assert flood(window, lambda _: 0.2, 20_000)[-1] >= 100
