"""How much of a quota is used, on a clock that the test moves."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from conftest import run
from tocsin import clock
from tocsin.clock import DAY, SECOND, Micros
from tocsin.flow import quotas as module
from tocsin.flow.quotas import Quotas
from tocsin.model import Busy, Draft, Invalid, Message, OverQuota
from tocsin.ports.usage import Owned, Used
from tocsin.settings import OPTIONS, Settings
from tocsin.vault import Vault

DRAFT = Draft(Message("x"))


class Rows:
    """Stands for the store. `stored`: what it measures for everybody."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, int, int, str], int] = {}
        self.admins: set[int] = set()
        self.stored = self.measured = 0
        self.is_away = False

    async def of(self, day: int) -> list[Used]:
        return [Used(*key, n) for key, n in self.kept.items() if key[1] == day]

    async def add(self, used: Sequence[Used]) -> None:
        if self.is_away:
            raise Busy("away")
        for one in used:
            key = (one.user_id, one.day, one.what, one.mark)
            self.kept[key] = self.kept.get(key, 0) + one.n

    async def owned(self, user_id: int) -> Owned:
        self.measured += 1
        return Owned(1, 1, self.stored)

    async def is_admin(self, user_id: int) -> bool:
        return user_id in self.admins


class Time:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr(clock, "now", self.now)
        monkeypatch.setattr(module.time, "monotonic", lambda: 1000.0 + self.seconds)

    def now(self) -> Micros:
        return 20_000 * DAY + int(self.seconds * SECOND)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


@pytest.fixture
def rows() -> Rows:
    return Rows()


def made(rows: Rows, make_settings: Callable[..., Settings], api_processes: int = 1, **given: str) -> Quotas:
    """With these quotas and no others."""
    values = {option.variable: "0" for option in OPTIONS if option.name.startswith("quota_")}
    values |= {f"TOCSIN_QUOTA_{name}": value for name, value in given.items()}
    return Quotas(rows, Vault(["a key that is long enough"]), make_settings(**values), api_processes=lambda: api_processes)


def take(quotas: Quotas, count: int = 1, user: int = 7) -> int:
    """How many seconds there are to wait; 0: they were taken."""

    async def main() -> int:
        try:
            await quotas.take(user, [DRAFT] * count, count)
        except OverQuota as over:
            return over.retry_after
        return 0

    return run(main())


def test_a_minute_begins_with_its_first_and_ends(rows: Rows, time: Time, make_settings: Callable[..., Settings]) -> None:
    quotas = made(rows, make_settings, NOTIFICATIONS_MINUTE="10")
    assert take(quotas, 6) == 0
    time.seconds += 20
    assert take(quotas, 4) == 0
    assert take(quotas) == 40
    assert take(quotas, user=8) == 0
    time.seconds += 40
    assert [take(quotas) for _ in range(11)] == [0] * 10 + [60]


def test_what_is_larger_than_a_minutes_goes_alone_and_waits_longer_after(
    rows: Rows, time: Time, make_settings: Callable[..., Settings]
) -> None:
    quotas = made(rows, make_settings, NOTIFICATIONS_MINUTE="10")
    assert take(quotas, 35) == 0
    assert take(quotas) == 210  # as long as 35 take, at ten a minute
    time.seconds += 210
    assert take(quotas) == 0


def test_what_is_given_back_makes_nobody_wait(rows: Rows, time: Time, make_settings: Callable[..., Settings]) -> None:
    quotas = made(rows, make_settings, NOTIFICATIONS_MINUTE="10")
    assert take(quotas, 35) == 0
    quotas.give_back(7, 35)
    assert [take(quotas) for _ in range(11)] == [0] * 10 + [60]


@pytest.mark.parametrize("batch", [1, 4, 8, 10, 25])
def test_over_several_minutes_all_processes_let_through_what_one_may(
    rows: Rows, time: Time, make_settings: Callable[..., Settings], batch: int
) -> None:
    """Also where each takes requests that are larger than its share."""
    both, taken = [made(rows, make_settings, 2, NOTIFICATIONS_MINUTE="10") for _ in range(2)], 0
    for _ in range(60 * 60):
        taken += sum(batch for quotas in both if not take(quotas, batch))
        time.seconds += 1
    assert 480 <= taken <= 600 + 2 * batch, "a minute may have begun in each"


def test_users_are_told_the_whole_limit_and_that_processes_share_it(rows: Rows, time: Time, make_settings: Callable[..., Settings]) -> None:
    async def main() -> None:
        quotas = made(rows, make_settings, 2, NOTIFICATIONS_MINUTE="10")
        await quotas.take(7, [DRAFT] * 5, 5)
        with pytest.raises(OverQuota) as over:
            await quotas.take(7, [DRAFT], 1)
        assert "10 notifications a minute. Several processes share this limit, and each allows 5" in over.value.fault.detail
        assert [(one.used, one.most) for one in await quotas.lines(7)] == [(5, 10)]
        assert (quotas.over_time[0].most, quotas.left(7)) == (10, [("notifications-minute", 0, 60)])

    run(main())


def test_a_day_ends_at_midnight_and_outlives_a_restart(rows: Rows, time: Time, make_settings: Callable[..., Settings]) -> None:
    time.seconds = 86_000
    quotas = made(rows, make_settings, NOTIFICATIONS_DAY="3", MAILS_DAY="1")
    assert take(quotas, 2) == 0
    assert quotas.mail(7, "me@example.com") is True
    run(quotas.keep())
    after = made(rows, make_settings, NOTIFICATIONS_DAY="3", MAILS_DAY="1")
    run(after.load())
    assert [take(after), take(after)] == [0, 400]
    assert after.mail(7, "me@example.com") is False
    time.seconds += 400
    assert take(after) == 0
    assert after.mail(7, "me@example.com") is True
    run(after.keep())
    assert sorted((key[1], key[2], n) for key, n in rows.kept.items() if not key[3]) == [
        *((20_000, 1, 3), (20_000, 2, 1)),
        *((20_001, 1, 1), (20_001, 2, 1)),
    ]


def test_what_is_left_is_told_while_a_users_role_is_looked_up_again(rows: Rows, time: Time, make_settings: Callable[..., Settings]) -> None:
    async def main() -> None:
        quotas = made(rows, make_settings, NOTIFICATIONS_DAY="12")
        assert quotas.left(1) == [], "nothing is known of them"
        await quotas.take(1, [DRAFT], 1)
        quotas.forget_user(1)
        assert [(name, left) for name, left, _ in quotas.left(1)] == [("notifications-day", 11)]

    run(main())


def test_what_cannot_be_kept_now_is_kept_later(rows: Rows, time: Time, make_settings: Callable[..., Settings]) -> None:
    quotas = made(rows, make_settings, NOTIFICATIONS_DAY="100")
    assert take(quotas, 2) == 0
    rows.is_away = True
    with pytest.raises(Busy):
        run(quotas.keep())
    assert take(quotas, 3) == 0
    rows.is_away = False
    run(quotas.keep())
    assert list(rows.kept.values()) == [5]
    quotas.give_back(7, 1)
    run(quotas.keep())
    assert list(rows.kept.values()) == [4]
    del time


def test_mails_to_one_mailbox_are_counted_whatever_its_tag(rows: Rows, time: Time, make_settings: Callable[..., Settings]) -> None:
    quotas = made(rows, make_settings, MAILS_ADDRESS_DAY="2")
    assert [quotas.mail(7, one) for one in ("me@example.com", "ME+x@Example.com", "me+y@example.com")] == [True, True, False]
    assert quotas.mail(7, "you@example.com") is True
    assert quotas.mail(8, "me@example.com") is True
    run(quotas.keep())
    assert all("example" not in key[3] for key in rows.kept)
    del time


def test_what_is_stored_is_measured_seldom(rows: Rows, time: Time, make_settings: Callable[..., Settings]) -> None:
    quotas = made(rows, make_settings, STORED_MB="1")
    rows.stored = 500_000
    for _ in range(400):
        assert take(quotas) == 0
    assert rows.measured == 1
    rows.stored = 999_999
    time.seconds += 601
    for _ in range(3):
        with pytest.raises(Invalid, match="You may store 1 MB"):
            take(quotas)
    assert rows.measured == 2
    rows.stored = 0  # retention
    with pytest.raises(Invalid):
        take(quotas)
    time.seconds += 61
    assert take(quotas) == 0
    assert rows.measured == 3


def test_administrators_have_none_and_a_new_role_counts_at_once(rows: Rows, time: Time, make_settings: Callable[..., Settings]) -> None:
    quotas = made(rows, make_settings, NOTIFICATIONS_DAY="1", HANDLERS="1")
    rows.admins.add(7)
    assert [take(quotas) for _ in range(3)] == [0] * 3
    assert (run(quotas.most_handlers(7)), run(quotas.lines(7)), quotas.left(7)) == (0, [], [])
    rows.admins.clear()
    quotas.forget_user(7)
    assert take(quotas) == 0
    assert take(quotas) == 86_400
    assert run(quotas.most_handlers(7)) == 1
    assert [(one.what, one.used, one.most) for one in run(quotas.lines(7))] == [("handlers", 1, 1), ("day", 1, 1)]
    del time


def test_two_at_once_do_not_pass_together(rows: Rows, time: Time, make_settings: Callable[..., Settings]) -> None:
    quotas = made(rows, make_settings, NOTIFICATIONS_DAY="5", STORED_MB="1")

    async def main() -> list[object]:
        return await asyncio.gather(*(quotas.take(7, [DRAFT] * 3, 3) for _ in range(4)), return_exceptions=True)

    assert sorted(type(one).__name__ for one in run(main())) == ["OverQuota"] * 3 + ["int"]
    del time
