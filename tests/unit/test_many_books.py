"""The books of several processes: each broken promise is found, and a good run has none."""

from msgspec.structs import replace

from tocsin.cli.selftest.many.books import Evidence, Row, Sent, Span, Tried, audit


def delivered(number: int, handler: str, at: float, outcome: str = "delivered") -> Row:
    return Row(number, number, handler, "delivered", f"message {number}.", [Tried(1, at, outcome)])


def good(handler: str = "hook", gap: float = 1.0, count: int = 6) -> Evidence:
    sent = [Sent(number, number * gap, number * gap + 0.1) for number in range(1, count + 1)]
    rows = [delivered(one.notification, handler, one.answered) for one in sent]
    totals = {"delivered": count}
    return Evidence(sent, rows, {row.id: [row.attempts[0].at + 0.01] for row in rows}, totals, totals)


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
    assert complaints(replace(run, taken={**run.taken, 1: []})) == "delivery 1 is delivered, and its receiver never took it"


def test_a_repeat_needs_an_attempt_that_says_so_and_a_mishap_that_explains_it() -> None:
    run = replace(good(), mishaps=[Span(2.5, 3.0)])
    twice = replace(run, taken={**run.taken, 2: [2.1, 6.0]})
    assert "delivery 2 arrived 2 times, and its attempts say {'delivered': 1}" in complaints(twice)
    explained = [run.rows[0], replace(run.rows[1], attempts=[Tried(1, 2.1, "unknown"), Tried(2, 6.0, "delivered")]), *run.rows[2:]]
    assert complaints(replace(twice, rows=explained)) == ""
    told_late = [run.rows[0], replace(run.rows[1], attempts=[Tried(1, 2.1, "delivered"), Tried(2, 6.0, "delivered")]), *run.rows[2:]]
    assert complaints(replace(twice, rows=told_late)) == ""
    for elsewhen in ([], [Span(1.0, 2.0)], [Span(6.0, 7.0)]):
        for rows in (explained, told_late):
            assert "though nothing had gone wrong" in complaints(replace(twice, rows=rows, mishaps=elsewhen))


def test_what_was_called_off_may_end_undelivered_and_is_not_begun_any_more() -> None:
    run = good()
    off = [replace(run.rows[0], status="cancelled", attempts=[]), replace(run.rows[1], status="skipped"), *run.rows[2:]]
    assert "delivery 1 to hook is cancelled, after 0 attempts" in complaints(replace(run, rows=off))
    assert complaints(replace(run, rows=off, taken={**run.taken, 1: []}, ended={1: 0.5, 2: 1.0})) == ""
    assert complaints(replace(run, ended={2: 0.0})) == "delivery 2 to hook began 2.1 s after it was cancelled"


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


def test_of_an_attempt_whose_end_is_unknown_the_arrival_counts() -> None:
    """It began later than it was claimed, which is all that its row tells; and if it did not arrive, not at all."""
    run = good("slack", count=3, gap=0.5)
    first = run.rows[0]
    again = replace(first, attempts=[Tried(1, 0.6, "unknown"), Tried(2, 3.72, "delivered")])
    assert complaints(replace(run, rows=[again, *run.rows[1:]], taken={**run.taken, first.id: [3.73]})) == ""
    lost = replace(run, rows=[again, *run.rows[1:]], mishaps=[Span(0.7, 0.8)])
    assert complaints(replace(lost, taken={**run.taken, first.id: [0.71, 3.73]})) == ""
    assert "got 4 within 2.720 s" in complaints(replace(lost, taken={**run.taken, first.id: [1.0, 3.73]}))


def test_totals_are_compared_with_rows() -> None:
    run = good()
    assert complaints(replace(run, totals={"delivered": 5})) == "there are 6 delivered deliveries, and their total says 5"
    assert complaints(replace(run, totals={"delivered": 6, "pending": 1})) == "there are 0 pending deliveries, and their total says 1"
