"""A delivery's story: each event at its own time, in order."""

import pytest

from tocsin.clock import SECOND, Micros
from tocsin.flow.words import events, span
from tocsin.model import Attempt, Delivery, Message, Notification, Reason, Replay, Status

START: Micros = 1_700_000_000 * SECOND


def delivery(status: Status, reason: Reason | None, due_at: Micros, *, attempts: int = 0, last: Micros | None = None) -> Delivery:
    return Delivery(
        1, 1, 1, 1, status, due_at, START, START, attempt_count=attempts, step=attempts, last_attempt_at=last, last_reason=reason
    )


def refused(number: int, at: Micros, next_at: Micros | None) -> Attempt:
    return Attempt(1, number, at, SECOND // 2, "later", Reason.CONNECT, None, None, next_at)


def told(row: Delivery, expires_at: Micros | None, attempts: list[Attempt]) -> list[tuple[float, str]]:
    found = events(row, Notification(1, 1, Message("x"), None, expires_at), attempts)
    assert [one.at for one in found] == sorted(one.at for one in found)
    return [((one.at - START) / SECOND, one.text) for one in found]


def test_what_expires_expired_when_it_did_and_the_last_attempt_says_so_beforehand() -> None:
    expires_at = START + 12 * SECOND
    attempts = [refused(1, START, START + 5 * SECOND), refused(2, START + 5 * SECOND, expires_at)]
    row = delivery(Status.EXPIRED, Reason.EXPIRED, expires_at, attempts=2, last=START + 5 * SECOND)
    assert told(row, expires_at, attempts) == [
        (0.0, "Accepted."),
        (0.5, "Attempt 1: No connection could be made. Next attempt in 4.5 s."),
        (5.5, "Attempt 2: No connection could be made. It expires in 6.5 s, before another attempt."),
        (12.0, "Expired: It was not delivered before it expired."),
    ]


def test_an_attempt_that_outlasts_the_expiry_comes_before_it() -> None:
    expires_at = START + 2 * SECOND
    row = delivery(Status.EXPIRED, Reason.EXPIRED, START + 3 * SECOND, attempts=1, last=START + SECOND)
    slow = Attempt(1, 1, START + SECOND, 2 * SECOND, "later", Reason.TIMEOUT, None, None, expires_at)
    assert [at for at, _ in told(row, expires_at, [slow])] == [0.0, 3.0, 3.0]


def test_what_ended_without_an_attempt_ended_when_it_was_ended() -> None:
    for status, reason in (
        (Status.CANCELLED, Reason.CANCELLED),
        (Status.SKIPPED, Reason.HANDLER_PAUSED),
        (Status.FAILED, Reason.HANDLER_DISABLED),
    ):
        row = delivery(status, reason, START + 60 * SECOND, attempts=1, last=START)
        assert [at for at, _ in told(row, None, [refused(1, START, START + 300 * SECOND)])] == [0.0, 0.5, 60.0]


def test_a_replay_stays_in_the_story_with_how_it_had_ended() -> None:
    """Three chapters: refused, sent again and cancelled while it waited, sent again and delivered."""
    refusal = Attempt(1, 1, START, SECOND // 2, "refused", Reason.REJECTED, 403, None, None)
    arrival = Attempt(1, 2, START + 95 * SECOND, SECOND // 2, "delivered", Reason.OK, 200, None)
    replays = [
        Replay(START + 60 * SECOND, 1, Status.FAILED, Reason.REJECTED, START),
        Replay(START + 90 * SECOND, 1, Status.CANCELLED, Reason.CANCELLED, START + 70 * SECOND),
    ]
    row = delivery(Status.DELIVERED, Reason.OK, START + 90 * SECOND, attempts=2, last=arrival.at)
    found = events(row, Notification(1, 1, Message("x"), None, None), [refusal, arrival], replays)
    assert [((one.at - START) / SECOND, one.text) for one in found] == [
        (0.0, "Accepted."),
        (0.5, "Attempt 1: The provider refused the request (403)."),
        (0.5, "Failed; it will not be retried."),
        (60.0, "To be sent again, by request."),
        (70.0, "Cancelled: It was cancelled."),
        (90.0, "To be sent again, by request."),
        (95.0, "Waited 5.0 s for its turn."),
        (95.5, "Attempt 2: delivered (200) after 500 ms."),
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0, "0.0 s"), (0.25, "0.2 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min"), (71, "1 min 11 s"), (599, "9 min 59 s")),
        *((629, "10 min"), (3569, "59 min"), (3600, "1 h"), (5400, "1 h 30 min"), (35_999, "10 h"), (172_000, "2 d"), (300_000, "3 d")),
    ],
)
def test_lengths_are_as_exact_as_people_need_them(seconds: float, words: str) -> None:
    assert span(round(seconds * SECOND)) == words
