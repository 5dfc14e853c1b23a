"""Every outcome becomes the decision that was promised."""

import pytest
from msgspec.structs import replace

from tocsin.channels.registry import CHANNELS
from tocsin.clock import SECOND
from tocsin.flow.delivery.settle import LATE_AFTER, decide, is_late
from tocsin.model import Delivered, Delivery, Gone, Later, Moved, Outcome, Reason, Refused, Status, Unknown
from tocsin.settings import load

NOW = 1_000_000 * SECOND
SETTINGS = load({})
STOP = load({"TOCSIN_UNKNOWN": "stop"})
DELIVERY = Delivery(7, 3, 2, 1, Status.PENDING, NOW, NOW, NOW, attempt_count=1)
SLACK = CHANNELS["slack"]


def decided(outcome: Outcome, delivery: Delivery = DELIVERY, channel: str = "slack", dice: float = 0.0, settings=SETTINGS):
    return decide(outcome, delivery, CHANNELS[channel], settings, NOW, dice)


def wait_seconds(decision) -> float:
    assert decision.delivery.status is Status.PENDING
    return (decision.due_at - NOW) / SECOND


def test_delivered_is_the_end() -> None:
    decision = decided(Delivered(), replace(DELIVERY, may_have_arrived=True, last_error="cut"))
    assert decision.delivery.status is Status.DELIVERED
    assert decision.due_at is None
    assert decision.delivery.last_error is None
    assert not decision.delivery.may_have_arrived


@pytest.mark.parametrize(("step", "wait"), list(enumerate([5, 30, 300, 1800, 7200, 21600, 43200])))
def test_the_schedule_step_by_step_with_jitter(step: int, wait: int) -> None:
    before = replace(DELIVERY, step=step)
    assert wait_seconds(decided(Later(Reason.SERVER_ERROR), before)) == wait
    assert wait_seconds(decided(Later(Reason.SERVER_ERROR), before, dice=1.0)) == pytest.approx(wait * 1.2)
    assert decided(Later(Reason.SERVER_ERROR), before).delivery.step == step + 1


def test_after_the_last_step_it_has_failed() -> None:
    decision = decided(Later(Reason.TIMEOUT, detail="no answer in 15 s"), replace(DELIVERY, step=7))
    assert decision.delivery.status is Status.FAILED
    assert decision.delivery.last_error == "timeout: no answer in 15 s"
    assert decision.switch_off is None


def test_a_providers_own_wait_is_kept_where_it_is_longer() -> None:
    assert wait_seconds(decided(Later(Reason.SERVER_ERROR, wait_seconds=60))) == 60
    assert wait_seconds(decided(Later(Reason.SERVER_ERROR, wait_seconds=1))) == 5


def test_a_throttle_waits_as_asked_and_uses_up_no_step() -> None:
    decision = decided(Later(Reason.THROTTLED, 17, counts=False))
    assert wait_seconds(decision) == 17
    assert decision.pause_seconds == 17
    assert decision.delivery.step == 0
    assert wait_seconds(decided(Later(Reason.THROTTLED, 0, counts=False))) == pytest.approx(0.2)


def test_a_throttle_of_more_than_a_day_has_failed() -> None:
    assert wait_seconds(decided(Later(Reason.THROTTLED, 86_400, counts=False))) == 86_400
    decision = decided(Later(Reason.THROTTLED, 86_401, counts=False))
    assert (decision.delivery.status, decision.reason) == (Status.FAILED, Reason.THROTTLED_TOO_LONG)


def test_a_provider_that_always_throttles_is_asked_ever_less_and_given_up_after_a_day() -> None:
    delivery, now, asked = DELIVERY, NOW, 0
    while True:
        decision = decide(Later(Reason.THROTTLED, 0, counts=False), delivery, SLACK, SETTINGS, now, 0.0)
        asked += 1
        if decision.due_at is None:
            break
        delivery, now = decision.delivery, decision.due_at
    assert decision.reason is Reason.THROTTLED_TOO_LONG
    assert asked < 350


def test_a_throttle_that_names_no_wait_backs_off() -> None:
    waits = [wait_seconds(decided(Later(Reason.THROTTLED, counts=False), replace(DELIVERY, throttles=n))) for n in (0, 1, 2, 5, 50)]
    assert waits == [1, 2, 4, 32, 300]


def test_refused_has_failed_and_leaves_the_handler_alone() -> None:
    decision = decided(Refused(Reason.PAYLOAD, "invalid_blocks"))
    assert (decision.delivery.status, decision.reason, decision.switch_off) == (Status.FAILED, Reason.PAYLOAD, None)


def test_gone_switches_the_handler_off_and_says_why() -> None:
    decision = decided(Gone(Reason.GONE, "no_service"))
    assert (decision.delivery.status, decision.switch_off) == (Status.FAILED, "no_service")


def test_unknown_is_said_and_tried_again_like_any_other() -> None:
    decision = decided(Unknown(Reason.CUT))
    assert wait_seconds(decision) == 5
    assert decision.delivery.may_have_arrived
    assert "may have arrived" in (decision.delivery.last_error or "")


def test_unknown_waits_five_minutes_for_mail() -> None:
    assert wait_seconds(decided(Unknown(Reason.TIMEOUT), channel="email")) == 300


def test_unknown_can_be_the_end() -> None:
    decision = decided(Unknown(Reason.CUT), settings=STOP)
    assert (decision.delivery.status, decision.reason) == (Status.FAILED, Reason.UNKNOWN)


def test_x_is_tried_four_times_at_most() -> None:
    delivery, attempts = DELIVERY, 1
    while (decision := decided(Later(Reason.SERVER_ERROR), delivery, channel="x")).due_at is not None:
        delivery, attempts = decision.delivery, attempts + 1
    assert attempts == 4


def test_moved_goes_on_at_once_with_the_new_settings_but_not_for_ever() -> None:
    decision = decided(Moved({"telegram_chat_id": "-100"}), channel="telegram")
    assert decision.new_settings == {"telegram_chat_id": "-100"}
    assert wait_seconds(decision) == 0
    assert decision.delivery.step == 0
    assert decided(Moved({"telegram_chat_id": "-100"}), replace(DELIVERY, throttles=3), channel="telegram").new_settings is None


def test_the_first_attempt_decides_whether_it_is_late() -> None:
    after = NOW + LATE_AFTER
    assert (is_late(DELIVERY, after), is_late(DELIVERY, after + 1)) == (False, True)
    assert is_late(replace(DELIVERY, late=False), after + 1) is False
    assert is_late(replace(DELIVERY, late=True), NOW) is True


@pytest.mark.parametrize(
    "outcome",
    [
        Later(Reason.MAIL_SERVER),
        Unknown(Reason.MAIL_SERVER),
        Later(Reason.MAIL_ACCOUNT),
        Later(Reason.PROXY),
        Unknown(Reason.PROXY),
    ],
)
@pytest.mark.parametrize("settings", [SETTINGS, STOP])
def test_a_mail_server_or_proxy_that_fails_is_no_fault_of_the_handler(outcome: Outcome, settings) -> None:
    decision = decided(outcome, replace(DELIVERY, step=7), "email", settings=settings)
    assert decision.delivery.status is Status.FAILED
    assert not decision.blames
    assert decided(Later(Reason.SERVER_ERROR), replace(DELIVERY, step=7), "email").blames
