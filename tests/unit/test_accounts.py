"""How long somebody waits who fails to sign in."""

import pytest

from tocsin.flow import accounts
from tocsin.flow.accounts import Throttled, _Tries


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [10_000.0]
    monkeypatch.setattr(accounts.time, "monotonic", lambda: now[0])
    return now


def wait(tries: _Tries, *whose: str) -> float:
    try:
        tries.check(*whose)
    except Throttled as throttled:
        return throttled.seconds
    return 0.0


def test_the_wait_doubles_from_the_sixth_failure_on(clock: list[float]) -> None:
    tries = _Tries()
    waits: list[float] = []
    for _ in range(18):
        tries.failed("address", "account")
        waits.append(wait(tries, "address"))
        clock[0] += waits[-1]
    assert waits == [0.0] * 5 + [2.0**power for power in range(1, 10)] + [900.0] * 4


def test_the_longest_wait_of_address_and_account_counts(clock: list[float]) -> None:
    tries = _Tries()
    for number in range(7):
        tries.failed(f"address {number}", "account")
    assert (wait(tries, "another address", "account"), wait(tries, "address 1", "another account")) == (4.0, 0.0)


def test_a_success_or_an_hour_of_quiet_forgets(clock: list[float]) -> None:
    tries = _Tries()
    for _ in range(7):
        tries.failed("by success", "by time")
    tries.succeeded("by success")
    clock[0] += 4.0 + 3600.0
    for whose in ("by success", "by time"):
        tries.failed(whose)
        assert wait(tries, whose) == 0.0, whose
