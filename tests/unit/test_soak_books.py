"""The matrix of disturbances: its plan is the seed's alone, and its books show whatever is wrong. Neither needs a service."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench.matrix.books import audit, by_moment, stands
from bench.matrix.clocks import Clock, Readings
from bench.matrix.evidence import Accepted, Arrival, Attempt, Copy, Evidence, Kill, Line, Log, Restore, Row, Rows, Span, read_log
from bench.matrix.plan import FAR_DAYS, KINDS, SERVER_KINDS, plan, plan_of_kills
from msgspec.structs import replace

SECOND = 1_000_000


def evidence() -> Evidence:
    """Two messages: one arrived at the webhook, and by the second attempt; one went to Slack, after an answer that was lost."""
    rows = Rows(
        deliveries={
            1: Row(1, 1, 1, 1, "delivered", 2, 0, 1, "ok"),
            2: Row(2, 2, 2, 1, "delivered", 2, 0, 1, "ok"),
        },
        attempts=[
            Attempt(1, 1, "retry", 10 * SECOND, 10 * SECOND),
            Attempt(1, 2, "delivered", 11 * SECOND, 11 * SECOND),
            Attempt(2, 1, "unknown", 12 * SECOND, 12 * SECOND),
            Attempt(2, 2, "delivered", 20 * SECOND, 20 * SECOND),
        ],
        notifications={1: "zq1m0z words", 2: "zq2m0z words"},
        totals={"1 of user 1": 2},
        counted={"1 of user 1": 2},
        hours={1: 1, 2: 1},
        handlers={1: "well0", 2: "slack0"},
    )
    return Evidence(
        accepted=[Accepted("zq1", 1, (1,), 9.0, 9.5), Accepted("zq2", 2, (2,), 11.0, 11.5)],
        dropped=set(),
        names=[(1, "well0"), (2, "slack0")],
        arrivals=[
            Arrival(10.0, "well0", ("zq1m0z",), "refused", "msg_a_1", 1, 1),
            Arrival(11.0, "well0", ("zq1m0z",), "taken", "msg_a_1", 1, 1),
            Arrival(12.0, "slack0", ("zq2m0z",), "taken"),
            Arrival(20.0, "slack0", ("zq2m0z",), "taken"),
        ],
        rows=rows,
        log=Log([Line(100 * place, one.delivery, one.number, one.outcome) for place, one in enumerate(rows.attempts)]),
        restores=[],
        kills=[],
        uneven=[],
        clock=Readings(0.0, [(0.0, 0)]),
        complaints=[],
    )


def with_rows(**changes: Any) -> Callable[[Evidence], Evidence]:
    return lambda of: replace(of, rows=replace(of.rows, **changes))


def with_row(**changes: Any) -> Callable[[Evidence], Evidence]:
    return lambda of: replace(of, rows=replace(of.rows, deliveries=of.rows.deliveries | {1: replace(of.rows.deliveries[1], **changes)}))


def arrived(*arrivals: Arrival) -> Callable[[Evidence], Evidence]:
    return lambda of: replace(of, arrivals=[*of.arrivals, *arrivals])


WRONG: dict[str, tuple[Callable[[Evidence], Evidence], str]] = {
    "lost": (with_rows(notifications={2: "zq2m0z"}, deliveries={}), "(zq1) was accepted and is gone"),
    "another message under its id": (with_rows(notifications={1: "zq9m0z", 2: "zq2m0z"}), "was zq1, and is another one now"),
    "a handler forgotten": (lambda of: replace(of, accepted=[replace(of.accepted[0], handlers=(1, 2)), of.accepted[1]]), "not (1, 2)"),
    "never accepted": (lambda of: replace(of, accepted=of.accepted[1:]), "nobody was told so"),
    "twice in the store": (with_rows(notifications={1: "zq1m0z", 2: "zq2m0z", 3: "zq1m0z"}), "zq1 is in the store 2 times"),
    "still waits": (with_row(status="pending"), "still waits, after 2 attempts"),
    "failed for no reason": (with_row(status="failed", reason=""), "nothing says why"),
    "said to have arrived": (lambda of: replace(of, arrivals=of.arrivals[2:]), "its receiver took 0"),
    "arrived once too often": (arrived(Arrival(30.0, "well0", ("zq1m0z",), "taken")), "arrived 2 times, and 1 attempts say"),
    "arrived though it was cancelled": (
        lambda of: with_row(status="cancelled")(with_rows(attempts=of.rows.attempts[2:])(replace(of, log=Log(of.log.attempts[2:])))),
        "arrived 1 times, and 0 attempts say",
    ),
    "one webhook-id for two": (arrived(Arrival(30.0, "well0", ("zq2m0z",), "refused", "msg_a_1", 5, 2)), "identity msg_a_1 means"),
    "one notification id for two": (arrived(Arrival(30.0, "well0", ("zq2m0z",), "refused", "msg_a_5", 5, 1)), "notification 1 means"),
    "one delivery under two ids": (arrived(Arrival(30.0, "well0", ("zq1m0z",), "refused", "msg_b_1", 1, 1)), "identity of delivery 1"),
    "one handler id for two": (lambda of: replace(of, names=[*of.names, (1, "ill3")]), "handler 1 means"),
    "a wrong total": (with_rows(totals={"1 of user 1": 3}), "2 rows of 1 of user 1, and their total says 3"),
    "hours that lack one": (with_rows(hours={1: 0, 2: 1}), "handler 1 took 1 (0 of them near a kill), its hours say 0"),
    "hours with one too many": (with_rows(hours={1: 2, 2: 1}), "its hours say 2"),
    "a line without a row": (with_rows(attempts=evidence().rows.attempts[:3], hours={1: 1}), "tells of attempt 2 of delivery 2"),
    "a line that says otherwise": (
        lambda of: replace(of, log=Log([replace(of.log.attempts[0], outcome="failed"), *of.log.attempts[1:]])),
        "is retry, and the log says failed",
    ),
    "a row without a line": (lambda of: replace(of, log=Log(of.log.attempts[1:])), "the log tells nothing of attempt 1 of delivery 1"),
    "a pace": (
        arrived(*(Arrival(12.0 + number / 10, "slack0", (f"zq2m{number}z",), "refused") for number in range(3))),
        "slack0 got 4 within 0.20 s, where 3 in 3 s are allowed",
    ),
    "seen at the time": (lambda of: replace(of, complaints=["readyz said that all is well"]), "readyz said that all is well"),
}


def test_books_without_fault_say_nothing() -> None:
    found = audit(evidence())
    assert found.complaints == []
    assert (found.figures["accepted"], found.figures["taken"], found.figures["unknown"]) == (2, 3, 1)


@pytest.mark.parametrize("what", WRONG)
def test_the_books_show_what_is_wrong(what: str) -> None:
    spoil, sentence = WRONG[what]
    assert sentence in "\n".join(audit(spoil(evidence())).complaints)


def killed(*in_flight: int, of: str = "service") -> Callable[[Evidence], Evidence]:
    """Nothing else was done, and every receiver took what came: both messages went to webhooks, the first one twice."""
    came = [Arrival(10.0, "well0", ("zq1m0z",), "taken", "msg_a_1", 1, 1), Arrival(11.0, "well0", ("zq1m0z",), "taken", "msg_a_1", 1, 1)]
    came.append(Arrival(12.0, "slack0", ("zq2m0z",), "taken", "msg_a_2", 2, 2))
    attempts = [Attempt(1, 1, "unknown"), Attempt(1, 2, "delivered"), Attempt(2, 1, "delivered")]
    log = Log([Line(100 * place, one.delivery, one.number, one.outcome) for place, one in enumerate(attempts)])
    return lambda of_: with_rows(attempts=attempts)(replace(of_, arrivals=came, log=log, nothing_but=[Kill(of, 2, {*in_flight})]))


def test_where_there_is_nothing_but_kills_only_what_was_in_flight_at_one_of_the_service_may_repeat() -> None:
    found = audit(killed(1)(evidence()))
    assert found.complaints == []
    assert {name: found.figures[name] for name in ("accepted", "deliveries", "arrived", "lost", "repeated")} == {
        "accepted": 2,
        "deliveries": 2,
        "arrived": 2,
        "lost": 0,
        "repeated": 1,
    }
    for wrong in (killed(2), killed(1, of="server")):
        [complaint] = audit(wrong(evidence())).complaints
        assert complaint == "delivery 1 arrived 2 times, and was not in flight at any kill of the service"
    lost = killed(1)(evidence())
    lost = replace(lost, arrivals=lost.arrivals[:2])
    assert "delivery 2 was accepted and never arrived" in audit(lost).complaints
    assert audit(lost).figures["lost"] == 1


def test_a_plan_of_kills_has_as_many_of_the_service_as_of_its_server() -> None:
    for seed in range(20):
        steps = plan_of_kills(seed, 10, has_server=True)
        assert steps == plan_of_kills(seed, 10, has_server=True)
        kinds = Counter((step.kind, step.by) for step in steps)
        assert kinds == {("kill", "0"): 8, ("server", "killed"): 8, ("server", "both"): 2}
        assert [step.kind for step in plan_of_kills(seed, 10, has_server=False)] == ["kill"] * 10


def test_what_a_kill_may_take_along_is_no_fault() -> None:
    of = evidence()
    killed = replace(of, kills=[Span(10.5, 11.5)], log=Log([of.log.attempts[0], *of.log.attempts[2:]]))
    assert audit(with_rows(hours={1: 0, 2: 1})(killed)).complaints == []


COPY = Copy(5.0, 6.0, 500, 600)
RESTORED = [Restore(10.0, 1000, COPY)]
TWICE = [*RESTORED, Restore(20.0, 2000, COPY)]


@pytest.mark.parametrize(
    ("restores", "at", "expected"),
    [
        ([], 3.0, True),
        (RESTORED, 3.0, True),
        (RESTORED, 5.5, None),
        (RESTORED, 8.0, False),
        (RESTORED, 12.0, True),
        (TWICE, 3.0, True),
        (TWICE, 8.0, False),
        (TWICE, 15.0, False),
        (TWICE, 25.0, True),
        ([*RESTORED, Restore(20.0, 2000, Copy(12.0, 13.0, 1200, 1300))], 11.0, True),
        ([*RESTORED, Restore(20.0, 2000, Copy(12.0, 13.0, 1200, 1300))], 8.0, False),
    ],
)
def test_what_is_left_after_restores(restores: list[Restore], at: float, expected: bool | None) -> None:
    assert stands(at, restores, by_moment) is expected


def test_what_went_with_a_restore_is_not_missed_and_what_did_not_is() -> None:
    of = evidence()
    gone = replace(of, restores=[Restore(30.0, 1000, Copy(10.0, 10.5, 50, 150))])
    left = Rows(
        {1: replace(of.rows.deliveries[1], attempt_count=1, status="failed")}, of.rows.attempts[:1], {1: "zq1m0z"}, {}, {}, {}, {1: "well0"}
    )
    assert audit(replace(gone, rows=left)).complaints == []
    assert "(zq1) was accepted and is gone" in " ".join(audit(replace(gone, rows=replace(left, notifications={}))).complaints)


def test_a_plan_is_the_seeds_alone_and_plans_everything() -> None:
    plans = [plan(seed, 60) for seed in range(40)]
    assert plans == [plan(seed, 60) for seed in range(40)]
    assert len({tuple(map(str, one)) for one in plans}) == 40
    assert {step.kind for one in plans for step in one} == {*KINDS, "copy"}
    on_server = [plan(seed, 60, has_server=True) for seed in range(40)]
    assert {step.kind for one in on_server for step in one} == {*SERVER_KINDS}
    assert all({"kill", "server"} <= {step.kind for step in one} for one in on_server)
    assert any(step.kind == "clock" and int(step.by) > FAR_DAYS * 86_000 for one in plans for step in one)
    for steps in plans:
        kinds = [step.kind for step in steps]
        assert "restore" not in kinds or kinds.index("copy") < kinds.index("restore")
        assert sum(step.after + step.lasts for step in steps) < 60


def test_moments_are_found_again_however_the_clock_was_set(tmp_path: Path) -> None:
    readings = Readings(1000.0, [(0.0, 0), (50.0, 3600), (60.0, 0)])
    assert readings.moments(1010 * SECOND) == [10.0]
    assert readings.moments((1055 + 3600) * SECOND) == [55.0, 3655.0]
    assert readings.moments((1040 + 3600) * SECOND) == [3640.0]
    clock = Clock(tmp_path / "clock")
    clock.step_to(-5)
    assert [offset for _, offset in clock.steps] == [0, -5] and clock.offset == -5


def test_a_line_that_a_kill_cut_is_read_past(tmp_path: Path) -> None:
    whole = b'{"time":"x","delivery":1,"handler":1,"number":2,"outcome":"retry","event":"attempt"}\n'
    file = tmp_path / "service.log"
    file.write_bytes(whole + whole[:40] + b'{"event":"log.dropped","lines":7}\n' + whole + whole[:30])
    log = read_log(file)
    assert [(line.place, line.delivery, line.number, line.outcome) for line in log.attempts] == [
        (0, 1, 2, "retry"),
        (len(whole) + 40 + 34, 1, 2, "retry"),
    ]
    assert (log.dropped, log.torn) == (7, 2)
