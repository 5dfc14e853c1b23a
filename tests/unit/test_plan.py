"""What a request becomes, against a plain restatement of the rules."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tocsin.flow.intake.plan import plan
from tocsin.model import Draft, Fault, Invalid, Message, Reason, Status
from tocsin.ports.handlers import HandlerBrief
from tocsin.ports.intake import Planned

NOW = 1_000
IDS = range(1, 8)

handlers = st.dictionaries(st.sampled_from(IDS), st.sampled_from([(True, None), (False, None), (False, "gone")])).map(
    lambda found: {one: HandlerBrief(one, *facts) for one, facts in found.items()}
)
drafts = st.lists(
    st.builds(
        Draft,
        message=st.just(Message("text", at=NOW)),
        handlers=st.none() | st.lists(st.sampled_from(IDS), unique=True, max_size=5).map(tuple),
        send_at=st.none() | st.sampled_from([NOW - 1, NOW, NOW + 1]),
        expires_at=st.none() | st.just(NOW + 50),
    ),
    min_size=1,
    max_size=4,
)


def becomes(draft: Draft, known: dict[int, HandlerBrief]) -> list[tuple[int, Status, int, Reason | None]] | str:
    """The handlers that a draft goes to and how, or the code of what is wrong with them."""
    due_at = max(NOW, draft.send_at or 0)
    wanted = [one for one in known if known[one].is_enabled] if draft.handlers is None else list(draft.handlers)
    if any(one not in known for one in wanted):
        return "unknown_handler"
    if not wanted:
        return "no_handlers"
    rows: list[tuple[int, Status, int, Reason | None]] = []
    for one in wanted:
        if known[one].is_enabled:
            rows.append((one, Status.PENDING, due_at, None))
        elif known[one].disabled_reason is None:
            rows.append((one, Status.SKIPPED, due_at, Reason.HANDLER_PAUSED))
        else:
            rows.append((one, Status.SKIPPED, due_at, Reason.HANDLER_DISABLED))
    return rows


def rows_of(planned: Planned) -> list[tuple[int, Status, int, Reason | None]]:
    return [(one.handler_id, one.status, one.due_at, one.reason) for one in planned.deliveries]


def planned_or_wrong(given: Sequence[Draft], known: dict[int, HandlerBrief], **more: Any) -> tuple[list[Planned], list[Fault]]:
    try:
        return plan(given, known, **more), []
    except Invalid as invalid:
        return [], list(invalid.faults)


@given(drafts, handlers)
def test_a_request_becomes_what_the_rules_say(given: list[Draft], known: dict[int, HandlerBrief]) -> None:
    expected = [becomes(draft, known) for draft in given]
    planned, faults = planned_or_wrong(given, known, batch=True)
    wrong = [(found, f"notifications[{index}].handlers") for index, found in enumerate(expected) if isinstance(found, str)]
    assert [(fault.code, fault.parameter) for fault in faults] == wrong
    if wrong:
        assert planned == []
    else:
        assert [rows_of(one) for one in planned] == expected
        assert [(one.message, one.send_at, one.expires_at) for one in planned] == [
            (one.message, one.send_at, one.expires_at) for one in given
        ]


def enabled(count: int) -> dict[int, HandlerBrief]:
    return {one: HandlerBrief(one, True, None) for one in range(1, count + 1)}


def codes(faults: Sequence[Fault]) -> list[tuple[str, str | None]]:
    return [(one.code, one.parameter) for one in faults]


def test_ten_thousand_deliveries_are_the_most() -> None:
    everybody = Draft(Message("text", at=NOW))
    planned, faults = planned_or_wrong([everybody] * 10, enabled(1_000), batch=True)
    assert (sum(len(one.deliveries) for one in planned), faults) == (10_000, [])
    planned, faults = planned_or_wrong([everybody] * 10 + [Draft(Message("text", at=NOW), (1,))], enabled(1_000), batch=True)
    assert (planned, codes(faults)) == ([], [("too_many_deliveries", None)])
    assert faults[0].detail == "The request would make 10,001 deliveries; at most 10,000 are allowed."
    assert codes(planned_or_wrong([everybody], enabled(10_001))[1]) == [("too_many_deliveries", "handlers")]


def test_what_is_far_too_much_is_counted_and_not_made() -> None:
    class Watched(dict[int, HandlerBrief]):
        looked_up = 0

        def __getitem__(self, key: int) -> HandlerBrief:
            self.looked_up += 1
            return super().__getitem__(key)

    watched = Watched(enabled(10_000))
    _, faults = planned_or_wrong([Draft(Message("text", at=NOW))] * 1_000, watched, batch=True)
    assert faults[0].detail.startswith("The request would make 10,000,000 deliveries;")
    assert watched.looked_up == 10_000


def test_unknown_handlers_are_named_however_many_deliveries_came_before() -> None:
    _, faults = planned_or_wrong(
        [Draft(Message("text", at=NOW)), Draft(Message("text", at=NOW), (1, *range(20_001, 20_013)))], enabled(10_001), batch=True
    )
    assert codes(faults) == [("unknown_handler", "notifications[1].handlers")]
    listed = ", ".join(map(str, range(20_001, 20_011)))
    assert faults[0].detail == f"There is no notification handler with id {listed} and more."


def test_faults_are_told_together_and_each_parameter_once() -> None:
    """A draft whose handlers could not be read goes nowhere in particular: neither they nor their number are judged."""
    bad_time = Fault("invalid", "Invalid", "", "send_at")
    _, faults = planned_or_wrong([Draft(Message("", at=NOW), (9,))], enabled(1), faults=[bad_time])
    assert codes(faults) == [("invalid", "send_at"), ("unknown_handler", "handlers")]
    unread = Fault("invalid", "Invalid", "", "handlers")
    assert planned_or_wrong([Draft(Message("", at=NOW))], {}, faults=[unread]) == ([], [unread])
    assert planned_or_wrong([Draft(Message("", at=NOW))], enabled(10_001), faults=[bad_time]) == ([], [bad_time])
    no_object = Fault("invalid", "Invalid", "", "notifications[0]")
    _, faults = planned_or_wrong([Draft(Message("", at=NOW)), Draft(Message("", at=NOW), (9,))], {}, batch=True, faults=[no_object])
    assert codes(faults) == [("invalid", "notifications[0]"), ("unknown_handler", "notifications[1].handlers")]
