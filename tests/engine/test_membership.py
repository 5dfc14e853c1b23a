"""What a worker concludes from what it sees of the others: never that somebody lives no more who may still send."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tocsin.engine.membership import (
    BEAT_SECONDS,
    MARGIN_SECONDS,
    TTL_SECONDS,
    EgressShares,
    Watch,
    is_alone,
    is_near,
    is_settled,
    knows_all_of,
    share_of,
    to_release,
)
from tocsin.engine.server_clock import ServerClock
from tocsin.partitions import PARTITIONS
from tocsin.ports.workers import Introduction, Load, Member, Owners


def member(
    number: int, beat: int = 0, seen: int = 0, roles: str = "all", is_leaving: bool = False, egress: str = "", **more: Any
) -> Member:
    load = Load(egress=more.get("used", {}), restored=more.get("restored", 0))
    return Member(number, Introduction("", roles, "", egress, ""), beat, seen, is_leaving, 0, load)


members = st.lists(
    st.builds(member, st.integers(1, 50), roles=st.sampled_from(["all", "worker", "api"]), is_leaving=st.booleans()),
    min_size=1,
    unique_by=lambda one: one.id,
)


@given(members)
def test_shares_are_all_there_is_and_differ_by_one_at_the_most(some: list[Member]) -> None:
    shares = {one.id: share_of(one.id, some) for one in some}
    sending = [one.id for one in some if one.introduction.sends and not one.is_leaving]
    assert sum(shares.values()) == (PARTITIONS if sending else 0)
    assert all(shares[one.id] == 0 for one in some if one.id not in sending)
    assert not sending or max(shares[one] for one in sending) - min(shares[one] for one in sending) <= 1


@given(st.sets(st.integers(0, PARTITIONS - 1)), st.sets(st.integers(0, PARTITIONS - 1)), st.integers(0, PARTITIONS))
def test_work_is_shared_out_as_partitions_are(live: set[int], busy: set[int], count: int) -> None:
    going = to_release(live, busy, count)
    assert len(set(going)) == len(going) == min(count, len(live)) and live.issuperset(going)
    if live:
        share = len(live & busy) * len(going) / len(live)
        assert abs(len(busy.intersection(going)) - share) <= 1


@given(st.data())
def test_nobody_is_dead_who_may_still_start_something(data: st.DataObject) -> None:
    """A worker may start something until its deadline: so long after the moment at which it asked for its last beat. One that watches it
    looks when it likes, may be stopped for long, and its looks take time."""
    beats, now = [0.0], 0.0
    while len(beats) < 12:  # when it asked for each, and how long that took to get there; it may be stopped for a while
        now += BEAT_SECONDS + data.draw(st.sampled_from([0.0, 0.1, 2.0, 2.4, 5.0]))
        beats.append(now)
    arrived = [at + data.draw(st.floats(0.0, 0.4)) for at in beats]
    watch, now = Watch(1), 0.0
    while now < beats[-1]:
        asked_at = now
        read_at = asked_at + data.draw(st.floats(0.0, 0.3))
        now = read_at + data.draw(st.floats(0.0, 0.3))
        beat = sum(at <= read_at for at in arrived)
        dead = watch.look([member(1, beat=99), member(2, beat)], asked_at, now)
        if dead:
            assert dead == [(2, beat)]
            asked = beats[beat - 1] if beat else 0.0
            assert asked_at > asked + TTL_SECONDS - MARGIN_SECONDS, "it may start something until then"
        if data.draw(st.booleans()):
            watch.lost_sight()
        now += data.draw(st.sampled_from([0.1, BEAT_SECONDS, 1.0, 4.0]))


def test_who_comes_back_after_an_outage_does_not_see_everybody_as_dead() -> None:
    watch = Watch(1)
    assert watch.look([member(2, 7)], 0.0, 0.1) == []
    watch.lost_sight()
    assert watch.look([member(2, 7)], 60.0, 60.1) == []
    assert watch.look([member(2, 7)], 61.0, 61.1) == watch.look([member(2, 7)], 62.5, 62.6) == []
    assert watch.look([member(2, 7)], 63.5, 63.6) == [(2, 7)]
    assert watch.look([member(2, 7)], 120.0, 120.1) == [], "a process that was stopped itself"


def test_a_worker_joins_once_everybody_has_seen_it() -> None:
    me = member(5, seen=5)
    assert knows_all_of(5, [me]) and is_alone(5, [me])
    assert not knows_all_of(5, [me, member(3, seen=4)])
    assert knows_all_of(5, [me, member(3, seen=5), member(6, seen=6)]) and not is_alone(5, [me, member(3, seen=5)])


def test_what_an_address_may_is_divided_once_nothing_is_on_its_way() -> None:
    everything, used = [1] * PARTITIONS, {"discord 40 1": 12}
    share = EgressShares("", 1)
    assert share.shares([member(1, restored=4)], Owners(4, [0, *everything[1:]])) == (0, [], False), "not all has been taken"
    assert share.shares([member(1, restored=3)], Owners(4, everything)) == (0, [], False), "nor all of it counted"
    assert share.shares([member(1, restored=4)], Owners(4, everything)) == (1, [], True)
    both = [member(1, restored=4), member(2, seen=2, used=used)]
    assert share.shares(both, Owners(4, everything)) == (2, [used], False), "from the moment on at which it is seen"
    others = [member(3, roles="api"), member(4, egress="elsewhere", restored=5)]
    assert share.shares([member(1, restored=5), member(2, restored=5, used=used), *others], Owners(5, everything)) == (2, [used], True)
    assert share.shares([member(1, restored=5), *others], Owners(6, [0, *everything[1:]])) == (2, [used], False), "dead, and not taken over"
    assert share.shares([member(1, restored=6), member(4, egress="elsewhere", restored=6)], Owners(6, everything)) == (1, [], True)
    assert is_settled(Owners(6, everything), others[:1])


def offers(samples: Sequence[tuple[float, float, float]]) -> list[int]:
    """(own clock ahead, answer time, where in it the server looked) of each beat: by how much the process is behind then."""
    found: list[int] = []
    state = {"now": 0.0, "ahead": 0.0}
    clock = ServerClock(lambda: int((state["now"] + state["ahead"]) * 1e6), lambda: state["now"], lambda _: None)
    for ahead, took, looked in samples:
        state["ahead"] = ahead
        server = int((state["now"] + took * looked) * 1e6)
        state["now"] += took
        clock.heard(server, took)
        found.append(clock.behind)
        state["now"] += BEAT_SECONDS
    return found


@given(st.floats(-10, 10), st.lists(st.tuples(st.floats(0.0001, 0.5), st.floats(0, 1)), min_size=1, max_size=30))
@example(-2.6484375, [(0.477054348989567, 0.0), (0.2265625, 0.0), (0.07421875, 0.0)])
def test_the_quickest_answer_says_how_far_behind_the_clock_is(ahead: float, answers: list[tuple[float, float]]) -> None:
    behind = offers([(ahead, *one) for one in answers])[-1]
    cut = 3  # both clocks and half of the time are cut to whole microseconds
    assert abs(behind + ahead * 1e6) <= min(took for took, _ in answers) * 1e6 / 2 + cut


def test_a_clock_that_is_set_is_followed_at_once() -> None:
    assert [round(one / 1e6) for one in offers([(0, 0.001, 0.5), (0, 0.001, 0.5), (7, 0.1, 0.5), (7, 0.1, 0.5)])] == [0, 0, -7, -7]


@pytest.mark.parametrize(
    ("one", "other", "fits"),
    [
        ("0.2.0", "0.2.9", True),
        ("0.2.0", "0.3.1", True),
        ("0.2.0", "0.4.0", False),
        ("0.9.3", "1.0.0", True),
        ("0.9.3", "1.1.0", False),
        ("1.0.0", "3.0.0", False),
        ("0.3.0.dev2+local", "0.2", True),
    ],
)
def test_versions_next_to_each_other_share_a_store(one: str, other: str, fits: bool) -> None:
    assert is_near(one, other) is is_near(other, one) is fits
