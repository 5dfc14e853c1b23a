"""Waits that providers ask for, in whatever form, and what they pause."""

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from tocsin.channels.contract import Context, retry_after, wait_of
from tocsin.channels.registry import CHANNELS
from tocsin.clock import SECOND
from tocsin.flow.delivery.settle import LONGEST_THROTTLE_SECONDS, MAX_THROTTLES, decide
from tocsin.flow.directory import load
from tocsin.flow.pace import Pacer
from tocsin.model import Delivery, Handler, HttpReply, Later, Reason, Status
from tocsin.settings import load as load_settings

NOW = 1_795_000_000 * SECOND
SETTINGS = load_settings({})
DELIVERY = Delivery(7, 3, 2, 1, Status.PENDING, NOW, NOW, NOW, attempt_count=1)
OFFICIAL = "https://discord.com/api/webhooks/12345678901234567{}/" + "x" * 68


def asked(value: str) -> float | None:
    return retry_after(HttpReply(429, {"retry-after": value}, b""), NOW)


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("0", 0.0),
        ("86401", 86_401.0),
        ("90000", 90_000.0),
        ("1000000000", 1e9),
        (str(NOW // SECOND + 90), 90.0),  # an epoch
        (str(NOW // SECOND + 90_000), 90_000.0),
        (str(NOW // SECOND - 1), None),
        ("9999999999", None),  # more than a year away
        ("99999999999", None),
        ("9" * 400, None),
        ("9" * 400 + ".5", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp() - NOW / SECOND)),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
    ],
)
def test_every_form_of_a_wait(value: str, wait: float | None) -> None:
    assert asked(value) == wait


def test_a_number_in_a_body_is_read_likewise() -> None:
    assert wait_of(5.5, NOW) == 5.5
    body = b'{"retry_after": %d}' % (NOW // SECOND + 30)
    outcome = CHANNELS["discord"].classify(HttpReply(429, {}, body), Context("msg_1", 1, NOW, SETTINGS))
    assert isinstance(outcome, Later) and outcome.wait_seconds == 30.0


@pytest.mark.parametrize("wait", [None, 0.0, 17.0, 86_400.0, 86_401.0, 90_000.0, 3e11])
@pytest.mark.parametrize("throttles", [0, MAX_THROTTLES])
def test_a_throttle_pauses_the_credential_whatever_becomes_of_the_delivery(wait: float | None, throttles: int) -> None:
    outcome = Later(Reason.THROTTLED, wait, counts=False)
    decision = decide(outcome, replace(DELIVERY, throttles=throttles), CHANNELS["slack"], SETTINGS, NOW, 0.5)
    assert 0.2 <= decision.pause_seconds <= LONGEST_THROTTLE_SECONDS
    assert decision.pause_seconds >= min(wait or 0.0, LONGEST_THROTTLE_SECONDS)
    has_failed = throttles > 0 or (wait or 0.0) > LONGEST_THROTTLE_SECONDS
    assert (decision.reason is Reason.THROTTLED_TOO_LONG) == has_failed
    assert decision.delivery.step == 0


# -------------------------------------------------------------------------------------------------- Discord's global limit


def discord(user: int, number: int, url: str = OFFICIAL):
    return load(Handler(number, user, "discord", "D", {"discord": url.format(number)}, True, NOW), SETTINGS)


@pytest.mark.parametrize(
    ("headers", "body", "is_wide"),
    [
        ({"x-ratelimit-global": "true"}, b"", True),
        ({}, b'{"retry_after": 3.0, "global": true}', True),
        ({"x-ratelimit-scope": "shared"}, b'{"retry_after": 3.0, "global": false}', False),
        ({}, b"<html>", False),
    ],
)
def test_a_global_limit_is_told_from_a_webhook_s_own(headers: dict[str, str], body: bytes, is_wide: bool) -> None:
    outcome = CHANNELS["discord"].classify(HttpReply(429, headers, body), Context("msg_1", 1, NOW, SETTINGS))
    assert isinstance(outcome, Later) and outcome.is_wide is is_wide


def test_a_global_limit_pauses_all_of_its_user_s_webhooks_at_that_host_and_nobody_else_s() -> None:
    mine, other, theirs = discord(1, 1), discord(1, 2), discord(2, 3)
    elsewhere, at_home = (
        discord(1, 4, "https://chat.example.com/api/webhooks/{}/t"),
        discord(1, 5, "https://home.example.com/api/webhooks/{}/t"),
    )
    pacer = Pacer()
    pacer.pause(mine.realm, 110.0, 100.0)
    waits = [round(pacer.take(one.credential, (), 100.0, one.realm)) for one in (mine, other, theirs, elsewhere)]
    assert waits == [10, 10, 0, 0]
    assert elsewhere.realm != at_home.realm
    assert load(Handler(6, 1, "webhook", "W", {"webhook": "https://example.com/"}, True, NOW), SETTINGS).realm == ""
