"""Who gets a place: counted, without a clock."""

from collections.abc import Iterable

import pytest

from tocsin.engine.lanes import NEW, SILENT, SLOW, TRUSTED, Lane
from tocsin.engine.places import MAX_PLACES, Bounds, Places, http_bounds, let_go, mail_bounds

BOUNDS = Bounds(places=300, size=1000, untrusted=120, silent=60)


def lane(user: int, trust: int, number: int = 1) -> Lane:
    return Lane(number, user, trust)


def fill(places: Places, lanes: Iterable[Lane], size: int = 0) -> list[Lane]:
    """Those that were let in, one attempt each."""
    let_in: list[Lane] = []
    for one in lanes:
        holding = places.holding(one.user_id)
        if places.admits(one, holding, size):
            places.take(one, holding, size)
            one.sending += 1
            let_in.append(one)
        else:
            places.park(one, holding)
    return let_in


def test_one_user_leaves_room_for_the_next_and_so_does_he() -> None:
    places = Places(BOUNDS)
    taken = [len(fill(places, (lane(user, TRUSTED) for _ in range(400)))) for user in range(1, 5)]
    assert taken == [201, 67, 22, 7]
    assert places.taken < BOUNDS.places
    assert fill(places, [lane(9, TRUSTED)])


def test_one_handler_leaves_room_for_its_users_others() -> None:
    places = Places(BOUNDS)
    busy = lane(1, TRUSTED)
    assert len(fill(places, [busy] * 400)) == 151
    assert fill(places, [lane(1, TRUSTED, 2)])


def test_handlers_that_hang_hold_a_part_only_and_others_have_the_rest() -> None:
    places = Places(BOUNDS)
    assert len(fill(places, (lane(1, SILENT, number) for number in range(500)))) == 41
    assert len(fill(places, (lane(1, NEW, number) for number in range(500)))) == 81 - 41
    assert len(fill(places, (lane(1, TRUSTED, number) for number in range(500)))) > 100
    assert fill(places, [lane(2, NEW)])
    assert fill(places, [lane(2, SILENT)])
    assert fill(places, [lane(2, TRUSTED)])


def test_a_new_handler_starts_soon_though_hundreds_hang_before_it() -> None:
    places = Places(BOUNDS)
    fill(places, (lane(1, NEW, number) for number in range(500)))
    newest = lane(1, NEW, 500)
    assert not fill(places, [newest])
    assert places.next() is None
    places.extra()
    assert places.next() is newest
    fill(places, [newest])
    places.extra()
    oldest = places.next()
    assert oldest is not None
    assert oldest.handler_id == 81  # the first that was not let in


def test_a_new_user_starts_at_once_though_hundreds_of_users_have_handlers_that_hang() -> None:
    places = Places(BOUNDS)
    fill(places, (lane(user, NEW, 3 * user + number) for number in range(3) for user in range(1, 81)))
    newcomers = [lane(user, NEW, 1000 + user) for user in range(1000, 1100)]
    let_in = fill(places, newcomers)
    assert 30 <= len(let_in) < 100  # a tenth of all places is left for those who hold none
    latest = lane(2000, NEW, 5000)
    assert not fill(places, [latest])
    for _ in range(20):
        assert places.next() is None  # other attempts end, which is no reason to go to the end
    started: list[Lane] = []
    while latest not in started:
        places.extra()
        found = places.next()
        assert found is not None
        assert not places.holding(found.user_id).places  # before all users who hold some
        started += fill(places, [found])


def test_an_extra_start_is_one_start() -> None:
    places = Places(BOUNDS)
    fill(places, (lane(1, NEW, number) for number in range(500)))
    places.extra()
    assert len(fill(places, [lane(1, NEW, 500), lane(1, NEW, 501)])) == 1


def test_those_that_wait_are_let_in_users_in_turn_and_answering_ones_first() -> None:
    places = Places(Bounds(places=4, size=1000, untrusted=4, silent=4))
    inside = fill(places, (lane(user, TRUSTED, user) for user in (1, 1, 1, 2, 3)))
    assert len(inside) == 4
    waiting = [lane(1, NEW, 10), lane(1, NEW, 11), lane(2, NEW, 20), lane(1, TRUSTED, 12), lane(3, TRUSTED, 30)]
    fill(places, waiting)
    order: list[int] = []
    for one in inside:
        places.give_back(places.holding(one.user_id), 0, one.trust)
        found = places.next()
        if found is not None:
            order.append(found.handler_id)
            places.take(found, places.holding(found.user_id), 0)
    assert order == [3, 12, 20, 30]


def test_new_and_silent_handlers_get_their_turns_however_many_of_the_same_user_answer() -> None:
    places = Places(Bounds(places=1, size=1000, untrusted=1, silent=1, slow=1))
    inside = fill(places, [lane(1, TRUSTED, 1)])
    fill(places, (lane(1, trust, 100 * trust + number) for trust in (TRUSTED, NEW, SLOW, SILENT) for number in range(20)))
    picked: list[int] = []
    for _ in range(16):
        places.give_back(places.holding(1), 0, inside[0].trust)
        found = places.next()
        assert found is not None
        picked.append(found.trust)
        places.take(found, places.holding(1), 0)
        inside = [found]
    assert [picked.count(trust) for trust in (TRUSTED, NEW, SLOW, SILENT)] == [8, 4, 2, 2]


def test_slow_mailboxes_leave_connections_to_a_quick_one_a_new_one_and_another_user() -> None:
    places = Places(mail_bounds(8))
    assert len(fill(places, (lane(1, SLOW, number) for number in range(6)))) == 4
    assert fill(places, [lane(1, TRUSTED, 10)])
    assert fill(places, [lane(1, NEW, 11)])
    assert fill(places, [lane(2, NEW, 20)])


@pytest.mark.parametrize("trust", [NEW, SILENT, SLOW, TRUSTED])
def test_what_was_taken_is_given_back(trust: int) -> None:
    places = Places(BOUNDS)
    for _ in range(3):
        inside = fill(places, (lane(1, trust, number) for number in range(500)), size=1)
        for _ in inside:
            places.give_back(places.holding(1), 1, trust)
        assert places.taken == 0
    assert len(fill(places, (lane(1, trust, number) for number in range(500)), size=1)) == len(inside)


def test_long_messages_of_one_user_leave_room_for_those_of_another() -> None:
    places = Places(BOUNDS)
    assert len(fill(places, (lane(1, TRUSTED, number) for number in range(50)), size=100)) == 7
    assert fill(places, [lane(2, TRUSTED)], size=100)


def test_long_messages_to_handlers_that_hang_leave_half_to_others() -> None:
    places = Places(BOUNDS)
    assert len(fill(places, (lane(1, NEW, number) for number in range(50)), size=100)) == 5
    assert fill(places, [lane(1, TRUSTED, 60)], size=100)


def test_a_message_larger_than_all_there_is_goes_out_alone() -> None:
    places = Places(BOUNDS)
    assert len(fill(places, [lane(1, NEW, 1), lane(1, NEW, 2)], size=5000)) == 1


def test_a_lane_that_is_let_go_is_not_returned() -> None:
    places = Places(Bounds(places=1, size=1000, untrusted=1, silent=1))
    fill(places, [lane(1, TRUSTED, 1), gone := lane(1, TRUSTED, 2), stays := lane(1, TRUSTED, 3)])
    let_go(gone)
    places.give_back(places.holding(1), 0, TRUSTED)
    assert places.next() is stays
    assert places.next() is None
    assert not places.asking and not places.first


def test_bounds_follow_what_the_process_may_use() -> None:
    assert http_bounds(60_000, 24 << 30).places == MAX_PLACES
    assert http_bounds(640, 24 << 30).places == 320
    small = http_bounds(60_000, 256 << 20)
    assert small.places * 48 << 10 <= 40 << 20
    assert small.size <= 40 << 20
    tiny = http_bounds(10, 64 << 20)
    assert 0 < tiny.silent < tiny.untrusted < tiny.places
