"""The books of several processes: each broken promise is found, and a good run has none."""

from msgspec.structs import replace

from tocsin.cli.selftest.many.books import Evidence, Row, Sent, Tried, audit


def delivered(number: int, handler: str, at: float, outcome: str = "delivered") -> Row:
    return Row(number, number, handler, "delivered", [Tried(1, at, outcome)])


def good(handler: str = "hook", gap: float = 1.0, count: int = 6) -> Evidence:
    sent = [Sent(number, number * gap, number * gap + 0.1) for number in range(1, count + 1)]
    rows = [delivered(one.notification, handler, one.answered) for one in sent]
    totals = {"delivered": count}
    return Evidence(sent, rows, {row.id: 1 for row in rows}, totals, totals, killed=False)


def complaints(evidence: Evidence) -> str:
    return "\n".join(audit(evidence).complaints)


def test_a_good_run_has_no_complaints() -> None:
    for evidence in (good(), good("slack"), good("discord", gap=0.5)):
        books = audit(evidence)
        assert (books.complaints, books.accepted, books.delivered, books.lost, books.repeated) == ([], 6, 6, 0, 0)


def test_what_is_lost_is_said() -> None:
    run = good()
    assert (
        complaints(replace(run, rows=run.rows[1:]))
        == "notification 1 was accepted and is gone\ndelivery 1 arrived, and there is no such row"
    )
    waiting = [replace(run.rows[0], status="pending"), *run.rows[1:]]
    assert complaints(replace(run, rows=waiting)) == "delivery 1 to hook is pending, after 1 attempts"
    assert complaints(replace(run, taken={**run.taken, 1: 0})) == "delivery 1 is delivered, and its receiver never took it"


def test_a_repeat_needs_an_attempt_that_says_so() -> None:
    run = replace(good(), killed=True)
    twice = replace(run, taken={**run.taken, 2: 2})
    assert "delivery 2 arrived 2 times, and its attempts say {'delivered': 1}" in complaints(twice)
    explained = [run.rows[0], replace(run.rows[1], attempts=[Tried(1, 2.1, "unknown"), Tried(2, 2.2, "delivered")]), *run.rows[2:]]
    assert complaints(replace(twice, rows=explained)) == ""
    assert "though nothing was killed" in complaints(replace(twice, rows=explained, killed=False))


def test_what_was_accepted_first_goes_first() -> None:
    run = good()
    late = [replace(run.rows[0], attempts=[Tried(1, 2.5, "delivered")]), *run.rows[1:]]
    assert complaints(replace(run, rows=late)) == "delivery 1 to hook began 0.400 s after 2, which was sent later"
    together = [replace(one, asked=1.0, answered=7.0) for one in run.sent]  # nobody was answered before another asked
    assert complaints(replace(run, rows=late, sent=together)) == ""
    elsewhere = [replace(late[0], handler="other"), *run.rows[1:]]
    assert complaints(replace(run, rows=elsewhere)) == ""


def test_a_pace_holds_over_all_processes() -> None:
    assert "slack got 4 within 1.500 s, where 3 in 3 s are allowed" in complaints(good("slack", gap=0.5))
    assert "discord got 6 within 1.000 s" in complaints(good("discord", gap=0.2))


def test_totals_are_compared_with_rows() -> None:
    run = good()
    assert complaints(replace(run, totals={"delivered": 5})) == "there are 6 delivered deliveries, and their total says 5"
    assert complaints(replace(run, totals={"delivered": 6, "pending": 1})) == "there are 0 pending deliveries, and their total says 1"
