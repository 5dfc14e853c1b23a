"""When the operator is told of the mail server, and when that is over."""

import pytest

from tocsin import clock
from tocsin.clock import SECOND, Micros
from tocsin.flow.mail_health import FAILS_AFTER, MailHealth, MailState, read_state
from tocsin.model import Reason

NOW: Micros = 1_795_000_000 * SECOND


@pytest.fixture
def health(monkeypatch: pytest.MonkeyPatch) -> MailHealth:
    monkeypatch.setattr(clock, "now", lambda: NOW)
    return MailHealth()


def test_a_server_that_takes_nothing_for_minutes_is_said_until_it_takes_one(health: MailHealth) -> None:
    health.heard(Reason.MAIL_SERVER, None, NOW - FAILS_AFTER + 1)
    assert health.complaints() == []
    health.heard(Reason.MAIL_SERVER, 451, NOW - FAILS_AFTER + SECOND)
    assert health.complaints() == [], "it counts from the first one, which is younger"
    health = MailHealth()
    health.heard(Reason.MAIL_SERVER, None, NOW - FAILS_AFTER)
    health.heard(Reason.MAIL_SERVER, 421, NOW)
    assert [one.partition(":")[0] for one in health.complaints()] == ["The mail server has taken no e-mail since 2026-11-18 11"]
    health.heard(Reason.OK, 250, NOW)
    assert health.complaints() == []


def test_an_account_that_is_refused_is_said_as_such(health: MailHealth) -> None:
    health.heard(Reason.MAIL_SERVER, None, NOW - FAILS_AFTER)
    health.heard(Reason.MAIL_ACCOUNT, 535, NOW)
    assert "refuses this service" in health.complaints()[0]


@pytest.mark.parametrize("reason", [Reason.MAILBOX, Reason.REJECTED, Reason.SERVER_ERROR, Reason.PLAIN])
def test_an_answer_about_a_recipient_shows_that_it_works(health: MailHealth, reason: Reason) -> None:
    health.heard(Reason.MAIL_SERVER, None, NOW - FAILS_AFTER)
    health.heard(reason, 550, NOW)
    assert health.complaints() == []


@pytest.mark.parametrize("reason", [Reason.INTERNAL, Reason.MAIL_NOT_CONFIGURED, Reason.CUT])
def test_what_never_came_to_the_server_says_nothing_of_it(health: MailHealth, reason: Reason) -> None:
    health.heard(reason, None, NOW - FAILS_AFTER)
    assert health.complaints() == []
    health.heard(Reason.MAIL_SERVER, None, NOW - FAILS_AFTER)
    health.heard(reason, None, NOW)
    assert len(health.complaints()) == 1


def test_one_that_hung_since_before_it_worked_again_says_nothing(health: MailHealth) -> None:
    health.heard(Reason.OK, 250, NOW - FAILS_AFTER)
    health.heard(Reason.MAIL_SERVER, None, NOW - FAILS_AFTER - SECOND)
    assert health.complaints() == []


def test_what_the_store_keeps_may_mean_nothing() -> None:
    assert read_state(None) == read_state(b"no JSON") == read_state(b'{"since": "today"}') == MailState()
