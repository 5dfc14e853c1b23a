"""Users are mailed what changes about how they sign in: each change once, nothing lost, and never a flood."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection

import tocsin.clock
from conftest import run
from support.store import OpenStore
from tocsin.acting import Actor
from tocsin.clock import DAY, HOUR, SECOND, Micros
from tocsin.flow.handlers.trial import Letter, Trial
from tocsin.flow.people.telling import AGAIN_FIRST, AGAIN_MOST, AGAIN_SERVER, COMMITTED_AFTER, MAX_AN_HOUR, MAX_UNKNOWN, STATE, Telling
from tocsin.flow.speech import Languages
from tocsin.model import Busy, Reason
from tocsin.ports.audit import Act, AuditFilter, News
from tocsin.ports.people import Living, Session
from tocsin.settings import load
from tocsin.store import audit, people
from tocsin.store.sql import SqlStore

START: Micros = 1_795_000_000 * SECOND
COMMAND = Actor("command", name="root")
TAKEN = ("delivered", Reason.OK, False)
AWAY = ("failed", Reason.MAIL_SERVER, False)
FULL = ("failed", Reason.MAILBOX, False)
REFUSED = ("failed", Reason.MAILBOX, True)
UNKNOWN = ("unknown", Reason.UNKNOWN, False)


class Mails:
    """Stands for the mail server: `verdict` is what it says to each, `to` to whom it says something else."""

    def __init__(self) -> None:
        self.verdict = TAKEN
        self.to: dict[str, tuple[str, Reason, bool]] = {}
        self.taken: list[tuple[str, Letter]] = []
        self.tries: list[str] = []
        self.fault: Exception | None = None
        self.after: Callable[[], None] = lambda: None

    async def mail(self, user_id: int, address: str, letter: Letter) -> Trial:
        self.tries.append(address)
        if self.fault is not None:
            raise self.fault
        status, reason, is_final = self.to.get(address, self.verdict)
        if status != "failed":
            self.taken.append((address, letter))
        self.after()
        return Trial(status, reason.value, 1, None, None, "", is_final)

    async def saved(self, user_id: int, handler_id: int) -> Trial:
        raise NotImplementedError

    async def draft(self, user_id: int, draft: object) -> Trial:
        raise NotImplementedError

    def of(self, address: str) -> list[str]:
        return [letter.text for to, letter in self.taken if to == address]


class House:
    def __init__(self, store: SqlStore, mails: Mails, folder: Path) -> None:
        self.store, self.mails, self.folder = store, mails, folder
        self.leads = True
        self.restart()

    def restart(self) -> None:
        settings = load({"TOCSIN_SMTP_URL": "smtp://127.0.0.1"}, self.folder / "none")
        self.telling = Telling(self.store.audit, self.store.values, self.mails, Languages(), settings, leads=lambda: self.leads)

    async def add(self, email: str) -> int:
        """A user who has been there for a day."""
        return (await self.store.database.write(_add_user, email)) or 0

    async def happens(self, act: Act = Act.PASSWORD_SET, user: int = 1, by: Actor = COMMAND, name: str = "", **detail: object) -> int:
        await self.store.database.write(lambda c: audit.record(c, act, user, None, name, by=by, **detail))
        return (await self.store.audit.page(AuditFilter(), 1))[0].id


OpenHouse = Callable[[], AbstractAsyncContextManager[House]]


def _add_user(connection: Connection, email: str) -> int | None:
    return people.add_user(connection, email, False, tocsin.clock.now() - DAY)


class Now:
    def __init__(self) -> None:
        self.at = START

    def passes(self, span: Micros) -> None:
        self.at += span


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    found = Now()
    monkeypatch.setattr(tocsin.clock, "now", lambda: found.at)
    return found


@pytest.fixture
def mails() -> Mails:
    return Mails()


@pytest.fixture
def open_house(open_store: OpenStore, mails: Mails, tmp_path: Path) -> OpenHouse:
    @asynccontextmanager
    async def opened() -> AsyncGenerator[House, None]:
        async with open_store() as store:
            yield House(store, mails, tmp_path)

    return opened


def test_what_was_before_the_first_look_is_no_news_and_the_rest_is_told_once(open_house: OpenHouse, now: Now, mails: Mails) -> None:
    async def main() -> None:
        async with open_house() as house:
            await house.happens()
            await house.telling.look()
            assert mails.tries == []
            await house.happens(Act.KEY_ADDED, by=Actor("page", 1, None, "192.0.2.7"), name="nas\nspoofed: line")
            await house.happens(Act.HANDLER_ADDED)
            await house.happens(Act.ROLE_CHANGED, by=Actor("page", 99, None, "192.0.2.8"), role="administrator")
            await house.telling.look()
            [text] = mails.of("a@b")
            assert "An API key was added: nas spoofed: line\nWhen: 2026-11-18 " in text and "From the address: 192.0.2.7" in text
            assert "You are an administrator now." in text and "By: an administrator" in text
            assert "192.0.2.8" not in text, "where others are is nobody's business"
            for _ in range(3):
                house.restart()
                await house.telling.look()
                now.passes(2 * COMMITTED_AFTER)
                await house.telling.look()
            await house.happens(Act.FACTOR_REMOVED)
            await house.telling.look()
            [_, second] = mails.of("a@b")
            assert "The second factor was removed." in second and "API key was" not in second

    run(main())


def test_who_is_told(open_house: OpenHouse, now: Now, mails: Mails) -> None:
    """Neither those who are new and have never signed in, nor those who are gone, nor of what the service did by itself."""

    async def main() -> None:
        async with open_house() as house:
            await house.telling.look()
            local, gone, old = [await house.add(email) for email in ("admin@localhost", "gone@example.com", "old@example.com")]
            await house.store.users.invite("new@example.com", False, b"link", now.at, now.at + HOUR)
            new = (await house.store.users.person("new@example.com")).id  # pyright: ignore[reportOptionalMemberAccess]
            for user in (local, gone, old, new):
                await house.happens(Act.KEY_ADDED, user, name="first")
            await house.happens(Act.KEY_ADDED, old, by=Actor(), name="by the service")
            await house.store.users.disable(gone, now.at)
            await house.telling.look()
            assert mails.tries == ["old@example.com"] and "by the service" not in mails.taken[0][1].text
            await house.store.sessions.add(Session(b"t", new, now.at, now.at, "link", "Firefox", "192.0.2.1", now.at), Living(0, 0), b"")
            await house.happens(Act.KEY_ADDED, new, name="second")
            await house.telling.look()
            [text] = mails.of("new@example.com")
            assert "second" in text and "first" not in text

    run(main())


def test_a_mail_server_that_is_away_loses_nothing(open_house: OpenHouse, now: Now, mails: Mails) -> None:
    async def main() -> None:
        async with open_house() as house:
            other = await house.add("other@example.com")
            await house.telling.look()
            mails.verdict = AWAY
            await house.happens()
            await house.happens(user=other)
            await house.telling.look()
            assert len(mails.tries) == 1, "the second would fare no better"
            await house.telling.look()
            assert len(mails.tries) == 1, "it is not asked each time"
            for _ in range(20):
                now.passes(AGAIN_SERVER)
                await house.telling.look()
            assert len(mails.tries) == 21
            house.restart()
            mails.verdict = TAKEN
            await house.telling.look()
            assert [to for to, _ in mails.taken] == ["a@b", "other@example.com"]
            now.passes(AGAIN_SERVER)
            await house.telling.look()
            assert len(mails.taken) == 2

    run(main())


def test_one_mailbox_keeps_nobody_else_waiting_and_is_asked_until_it_takes_it(open_house: OpenHouse, now: Now, mails: Mails) -> None:
    async def main() -> None:
        async with open_house() as house:
            other = await house.add("other@example.com")
            await house.telling.look()
            mails.to["a@b"] = FULL
            await house.happens()
            await house.happens(user=other)
            for _ in range(5):
                await house.telling.look()
                now.passes(AGAIN_FIRST - SECOND)
            assert mails.tries == ["a@b", "other@example.com", "a@b"], "the second wait is longer"
            now.passes(AGAIN_MOST)
            del mails.to["a@b"]
            house.restart()
            await house.telling.look()
            assert len(mails.of("a@b")) == 1 and len(mails.of("other@example.com")) == 1, "what was told is told no more after a restart"

    run(main())


def test_what_is_refused_or_a_day_old_is_given_up(open_house: OpenHouse, now: Now, mails: Mails) -> None:
    async def main() -> None:
        async with open_house() as house:
            await house.telling.look()
            mails.verdict = REFUSED
            await house.happens()
            for _ in range(3):
                await house.telling.look()
                now.passes(AGAIN_MOST)
            assert len(mails.tries) == 1
            mails.verdict = AWAY
            last = await house.happens()
            await house.telling.look()
            now.passes(DAY + SECOND)
            mails.verdict = TAKEN
            await house.telling.look()
            now.passes(COMMITTED_AFTER)
            await house.telling.look()
            assert mails.taken == []
            assert f'"passed":{last}'.encode() in (await house.store.values.read(STATE) or b"")

    run(main())


def test_what_may_have_arrived_is_repeated_a_few_times_only(open_house: OpenHouse, now: Now, mails: Mails) -> None:
    async def main() -> None:
        async with open_house() as house:
            await house.telling.look()
            mails.verdict = UNKNOWN
            await house.happens()
            for _ in range(MAX_UNKNOWN + 3):
                await house.telling.look()
                now.passes(AGAIN_MOST)
            assert len(mails.tries) == MAX_UNKNOWN

    run(main())


def test_nobody_gets_more_than_a_few_an_hour_and_the_next_one_tells_the_rest(open_house: OpenHouse, now: Now, mails: Mails) -> None:
    async def main() -> None:
        async with open_house() as house:
            other = await house.add("other@example.com")
            await house.telling.look()
            for number in range(MAX_AN_HOUR + 30):
                await house.happens(Act.KEY_ADDED, name=f"key {number}.")
                now.passes(SECOND)
                await house.telling.look()
            assert len(mails.of("a@b")) == MAX_AN_HOUR
            await house.happens(user=other)
            await house.telling.look()
            assert len(mails.of("other@example.com")) == 1
            now.passes(HOUR)
            await house.telling.look()
            *_, last = mails.of("a@b")
            assert len(mails.of("a@b")) == MAX_AN_HOUR + 1
            assert f"key {MAX_AN_HOUR}." in last and "And 10 more changes" in last

    run(main())


def test_an_entry_that_comes_to_light_late_is_told_too(open_house: OpenHouse, now: Now, mails: Mails) -> None:
    """As where another process commits later than one whose entry has a higher id."""

    async def main() -> None:
        async with open_house() as house:
            await house.telling.look()
            hidden, shown = await house.happens(Act.PASSWORD_SET), await house.happens(Act.FACTOR_REMOVED)
            news = house.store.audit.news

            async def without_it(*asked: int) -> list[News]:
                return [one for one in await news(*asked) if one.entry.id != hidden]  # pyright: ignore[reportArgumentType]

            house.store.audit.news = without_it  # pyright: ignore[reportAttributeAccessIssue]
            await house.telling.look()
            now.passes(COMMITTED_AFTER - SECOND)
            await house.telling.look()
            house.store.audit.news = news
            house.restart()
            await house.telling.look()
            [first, second] = mails.of("a@b")
            assert "second factor" in first and "A new password was set." in second and hidden < shown

    run(main())


def test_who_no_longer_leads_stops_and_a_death_repeats_one_at_most(open_house: OpenHouse, now: Now, mails: Mails) -> None:
    async def main() -> None:
        async with open_house() as house:
            users = [1, *[await house.add(f"u{number}@example.com") for number in range(3)]]
            await house.telling.look()
            for user in users:
                await house.happens(user=user)

            def resigns() -> None:
                house.leads = False

            mails.after = resigns
            await house.telling.look()
            assert len(mails.tries) == 1
            house.leads, mails.after = True, lambda: None
            house.restart()
            mails.fault = Busy("as if it had died", 1)
            with pytest.raises(Busy):
                await house.telling.look()
            mails.fault = None
            house.restart()
            await house.telling.look()
            assert sorted(to for to, _ in mails.taken) == sorted({to for to, _ in mails.taken}) and len(mails.taken) == len(users)

    run(main())
