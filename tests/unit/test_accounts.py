"""Signing in: guesses, sessions, devices, and what administrators do with users; with real passwords and rows."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pyotp
import pytest
import uvloop
from argon2 import PasswordHasher
from msgspec import structs
from sqlalchemy import update

import tocsin.clock
from tocsin.api.proxies import counted_as, known_as
from tocsin.clock import DAY, HOUR, MINUTE, SECOND
from tocsin.flow import pools
from tocsin.flow.people import passwords as rules
from tocsin.flow.people.accounts import IDLE, Accounts, CodeWanted, Opened
from tocsin.flow.people.administration import Administration
from tocsin.flow.people.clients import Client, Visitor, device_of
from tocsin.flow.people.confirming import CONFIRMED_FOR, ByPassword, Confirming
from tocsin.flow.people.devices import DEVICE_LASTS, MAX_USERS, Devices
from tocsin.flow.people.failures import Failures
from tocsin.flow.people.passwords import Passwords
from tocsin.flow.people.second_factor import SecondFactors
from tocsin.flow.people.tries import Throttled, Tries
from tocsin.model import Busy, Invalid, Missing
from tocsin.ports.people import MARK_BYTES, MAX_KNOWN_ADDRESSES, MAX_SESSIONS, Living
from tocsin.settings import Settings, load
from tocsin.store import people
from tocsin.store.dialects.sqlite import sqlite_engine
from tocsin.store.migrating import migrate
from tocsin.store.sql import SqlStore
from tocsin.store.tables import users
from tocsin.vault import Vault, hash_password

EMAIL, PASSWORD = "someone@example.com", "correct horse battery"
VAULT = Vault(["a key"])
SETTINGS = load({}, Path("/dev/null"))


def at(address: str) -> Client:
    """Who connects from there and sends no header."""
    asked: tuple[Any, Any, Settings] = ({"client": (address, 4001)}, {}, SETTINGS)
    return Client(address, counted_as(*asked), known_as=known_as(*asked))


HOME, ELSEWHERE = at("81.2.69.1"), at("81.2.69.2")


def kinds(ends: list[Any]) -> dict[str, int]:
    names = [type(end).__name__ for end in ends]
    return {name: names.count(name) for name in names}


class Rooms:
    """What signing in is made of, on a store with one user, whose id is 1."""

    def __init__(self, store: SqlStore) -> None:
        self.users = store.users
        self.sessions = store.sessions
        self.second_factors = store.second_factors
        self.database = store.database
        self.changed: list[int] = []
        self.failures = Failures(store.audit)
        tries = Tries()
        self.accounts = Accounts(store.users, store.sessions, store.second_factors, Devices(VAULT), tries, SETTINGS, self.failures)
        self.passwords = Passwords(store.users, tries, self.failures)
        self.confirming = Confirming(store.sessions, [ByPassword(self.passwords)])
        self.administration = Administration(store.users, lambda: None, self.changed.append)

    async def person(self) -> Any:
        return await self.users.person(EMAIL)

    async def guess(self, password: str = "a wrong guess", client: Client = ELSEWHERE, email: str = EMAIL) -> Opened | str | None:
        try:
            return await self.accounts.sign_in(email, password, client)
        except Throttled:
            return "has to wait"

    async def visitor(self, opened: Opened | str | None, client: Client = HOME) -> Visitor:
        assert isinstance(opened, Opened)
        found = await self.accounts.visitor(opened.token, client)
        assert found is not None
        return found

    async def locked_out(self) -> None:
        """Somebody elsewhere has guessed at the account until a stranger has to wait."""
        for number in range(6):
            await self.guess(client=structs.replace(ELSEWHERE, counted_as=f"81.2.70.{number}"))
        assert await self.guess(PASSWORD) == "has to wait"


def with_accounts(folder: Path, test: Callable[[Rooms], Coroutine[Any, Any, None]], stored: str = "") -> None:
    async def run() -> None:
        engine = sqlite_engine(folder / "tocsin.db")
        migrate(engine)
        store = SqlStore(engine, lambda: None)
        user = await store.database.write(people.add_user, EMAIL, False, tocsin.clock.now())
        assert user == 1
        await store.database.write(people.set_password, user, stored or hash_password(PASSWORD))
        try:
            await test(Rooms(store))
        finally:
            await pools.close()
            await store.close()

    uvloop.run(run())


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passwords that were looked at, each of them really."""
    found: list[str] = []
    check = rules.check_password

    def counting(hashed: str, password: str) -> bool:
        found.append(password)
        return check(hashed, password)

    monkeypatch.setattr(rules, "check_password", counting)
    return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The wall clock."""
    now = [tocsin.clock.now()]
    monkeypatch.setattr(tocsin.clock, "now", lambda: now[0])
    return now


# -------------------------------------------------------------------------------------------------------------- guesses


def test_of_sixty_guesses_at_once_six_are_hashed(tmp_path: Path, hashed: list[str]) -> None:
    async def run(rooms: Rooms) -> None:
        guesses = [rooms.accounts.sign_in(EMAIL, f"guess {number}", HOME) for number in range(60)]
        assert kinds(await asyncio.gather(*guesses, return_exceptions=True)) == {"NoneType": 6, "Throttled": 54}
        assert len(hashed) == 6

    with_accounts(tmp_path, run)


def test_neither_spelling_the_account_differently_nor_four_networks_give_more_guesses(tmp_path: Path, hashed: list[str]) -> None:
    async def run(rooms: Rooms) -> None:
        spelled = [EMAIL, EMAIL.upper(), f" {EMAIL} ", EMAIL.title()]
        clients = [Client(f"2001:db8:{number}::1", f"2001:db8:{number}::/64") for number in range(4)]
        right = 47
        guesses = [
            rooms.accounts.sign_in(spelled[number % 4], PASSWORD if number == right else "a wrong one", clients[number // 4 % 4])
            for number in range(60)
        ]
        assert kinds(await asyncio.gather(*guesses, return_exceptions=True)) == {"NoneType": 6, "Throttled": 54}
        assert len(hashed) == 6

    with_accounts(tmp_path, run)


def test_a_sign_in_that_finds_the_queue_full_is_refused_and_not_counted(tmp_path: Path, hashed: list[str]) -> None:
    async def run(rooms: Rooms) -> None:
        clients = [Client(address, address) for address in (f"192.0.2.{number}" for number in range(1, 60))]
        waiting = [
            asyncio.ensure_future(rooms.accounts.sign_in(f"{number}@example.com", "x", client)) for number, client in enumerate(clients)
        ]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
        assert any(isinstance(task.exception(), Busy) for task in done)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert await rooms.accounts.sign_in(EMAIL, PASSWORD, clients[0]) is not None
        assert len(hashed) < 40

    with_accounts(tmp_path, run)


def test_what_somebody_guesses_at_others_counts_whatever_they_do_at_their_own_account(tmp_path: Path) -> None:
    async def run(rooms: Rooms) -> None:
        ends: list[object] = []
        for number in range(8):
            ends.append(await rooms.guess("Summer of 2026!", email=f"{number}@example.com"))
            ends.append(isinstance(await rooms.guess(PASSWORD), Opened))
        assert ends == [*[None, True] * 5, None, False, *["has to wait", False] * 2]

    with_accounts(tmp_path, run)


def test_who_has_signed_in_before_is_let_in_whatever_others_guess_elsewhere(tmp_path: Path) -> None:
    async def run(rooms: Rooms) -> None:
        first = await rooms.guess(PASSWORD, HOME)
        assert isinstance(first, Opened)
        await rooms.locked_out()
        on_the_road = structs.replace(ELSEWHERE, device=first.device)
        assert isinstance(await rooms.guess(PASSWORD, on_the_road), Opened)
        assert isinstance(await rooms.guess(PASSWORD, HOME), Opened)  # without its cookie, too
        assert await rooms.guess(PASSWORD, Client("", "81.2.71.1")) == "has to wait"  # its success has cleared nothing for others

    with_accounts(tmp_path, run)


def test_a_known_device_or_address_has_no_more_guesses_than_others(tmp_path: Path, hashed: list[str]) -> None:
    async def run(rooms: Rooms) -> None:
        first = await rooms.guess(PASSWORD, HOME)
        assert isinstance(first, Opened)
        for client in (structs.replace(ELSEWHERE, device=first.device), HOME):
            hashed.clear()
            assert [await rooms.guess(f"guess {number}", client) for number in range(8)] == [None] * 6 + ["has to wait"] * 2
            assert len(hashed) == 6

    with_accounts(tmp_path, run)


@pytest.mark.parametrize("case", ["of another account", "made up", "too old", "of another key", "huge"])
def test_a_device_that_is_not_known_counts_like_a_stranger(tmp_path: Path, clock: list[int], case: str) -> None:
    async def run(rooms: Rooms) -> None:
        devices = Devices(Vault(["another key" if case == "of another key" else "a key"]))
        cookie = devices.cookie(2 if case == "of another account" else 1, HOME)
        cookie = {"made up": "gAAAAA-한", "huge": cookie * 100}.get(case, cookie)
        if case == "too old":
            clock[0] += DEVICE_LASTS
        await rooms.locked_out()
        assert await rooms.guess(PASSWORD, structs.replace(ELSEWHERE, device=cookie)) == "has to wait"

    with_accounts(tmp_path, run)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_an_address_that_many_share_is_not_known(tmp_path: Path, address: str) -> None:
    async def run(rooms: Rooms) -> None:
        assert isinstance(await rooms.guess(PASSWORD, at(address)), Opened)
        assert (await rooms.person()).known_addresses == b""
        await rooms.locked_out()
        assert await rooms.guess(PASSWORD, at(address)) == "has to wait"

    with_accounts(tmp_path, run)


@pytest.mark.parametrize(
    ("owner", "attacker", "is_of_old"),
    [("10.0.0.5", "10.0.0.66", False), ("10.0.0.5", "10.0.0.66", True), ("fd00::5", "fd00:0:0:1::66", False)],
)
def test_on_a_private_network_too_nobody_elsewhere_locks_the_owner_out(tmp_path: Path, owner: str, attacker: str, is_of_old: bool) -> None:
    async def run(rooms: Rooms) -> None:
        if is_of_old:
            mark = VAULT.mark(f"address {owner}")[:MARK_BYTES]
            await rooms.database.write(lambda connection: connection.execute(update(users).values(known_addresses=mark)))
        else:
            assert isinstance(await rooms.guess(PASSWORD, at(owner)), Opened)
        assert [await rooms.guess(client=at(attacker)) for _ in range(7)] == [None] * 6 + ["has to wait"]
        assert isinstance(await rooms.guess(PASSWORD, at(owner)), Opened)

    with_accounts(tmp_path, run)


def test_through_a_proxy_that_is_taken_for_a_person_an_account_has_no_more_guesses(tmp_path: Path, hashed: list[str]) -> None:
    """Its owner has signed in through it, and it does not say for whom it sends: so it is known, and strangers come from there."""
    proxy = at("172.17.0.1")

    async def run(rooms: Rooms) -> None:
        await rooms.database.write(people.add_user, "other@example.com", False, tocsin.clock.now())
        assert isinstance(await rooms.guess(PASSWORD, proxy), Opened)
        hashed.clear()
        assert [await rooms.guess(f"guess {number}", proxy) for number in range(8)] == [None] * 6 + ["has to wait"] * 2
        assert len(hashed) == 6
        others = [await rooms.guess(email=f"{number}@example.com", client=proxy) for number in range(46)]
        assert others == [None] * 45 + ["has to wait"]  # all who come through it together have fifty free ones

    with_accounts(tmp_path, run)


def test_of_devices_and_addresses_the_latest_are_kept(tmp_path: Path) -> None:
    devices = Devices(Vault(["a key"]))
    cookie = ""
    for user in range(1, MAX_USERS + 2):
        cookie = devices.cookie(user, structs.replace(HOME, device=cookie))

    async def run(rooms: Rooms) -> None:
        for number in range(MAX_KNOWN_ADDRESSES + 5):
            await rooms.accounts.new_session(1, "link", at(f"81.2.69.{number}"))
        person = await rooms.person()
        known = [devices.counted(person, EMAIL, at(f"81.2.69.{n}")).others for n in range(MAX_KNOWN_ADDRESSES + 5)]
        assert [len(others) == 1 for others in known] == [False] * 5 + [True] * MAX_KNOWN_ADDRESSES
        first, last = (devices.counted(structs.replace(person, id=user), EMAIL, Client("", "", cookie)) for user in (1, MAX_USERS + 1))
        assert first.others and not last.others

    with_accounts(tmp_path, run)


def test_what_is_remembered_of_a_guess_is_short_and_no_account_can_have_a_longer_address(tmp_path: Path, hashed: list[str]) -> None:
    async def run(rooms: Rooms) -> None:
        assert await rooms.guess(email="a" * 309 + "@example.com") is None and hashed == []
        for number in range(20):
            await rooms.guess(email=f"{number}{'한' * 90}@example.com", client=Client("", f"192.0.2.{number}"))
        assert len(hashed) == 20 and max(map(len, rooms.accounts._tries._failed)) < 80

    with_accounts(tmp_path, run)


def test_a_hash_of_older_costs_is_made_anew_by_a_sign_in(tmp_path: Path) -> None:
    """Else its account could be told from others by how long a guess takes."""
    old = PasswordHasher(time_cost=3, memory_cost=65_536, parallelism=4).hash(PASSWORD)

    async def run(rooms: Rooms) -> None:
        assert await rooms.guess("something else") is None
        assert (await rooms.person()).password_hash == old
        assert isinstance(await rooms.guess(PASSWORD), Opened)
        new = (await rooms.person()).password_hash
        assert new not in {None, old}
        assert isinstance(await rooms.guess(PASSWORD), Opened)
        assert (await rooms.person()).password_hash == new

    with_accounts(tmp_path, run, old)


def test_strangers_from_everywhere_leave_room_in_the_queue_for_who_has_signed_in_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on, check = threading.Event(), rules.check_password

    def held(hashed: str, password: str) -> bool:
        assert password != "x" or may_go_on.wait(20)
        return check(hashed, password)

    async def run(rooms: Rooms) -> None:
        visitor = await rooms.visitor(await rooms.guess(PASSWORD, HOME))
        monkeypatch.setattr(rules, "check_password", held)
        strangers = [
            asyncio.ensure_future(rooms.accounts.sign_in(f"{number}@example.com", "x", Client("", f"192.0.2.{number}")))
            for number in range(pools.MAX_PASSWORDS_WAITING * 2)
        ]
        while sum(one.done() for one in strangers) < pools.MAX_PASSWORDS_WAITING * 2 - rules.MAX_STRANGERS_WAITING - 1:
            await asyncio.wait([one for one in strangers if not one.done()], return_when=asyncio.FIRST_COMPLETED)
        assert all(isinstance(one.exception(), Busy) for one in strangers if one.done())
        known = [rooms.guess(PASSWORD, HOME), rooms.confirming.confirm(visitor, "password", PASSWORD, ELSEWHERE)]
        waiting = [asyncio.ensure_future(one) for one in known]
        while pools.here().passwords.waiting < rules.MAX_STRANGERS_WAITING + len(waiting):
            assert not any(one.done() for one in waiting)
            await asyncio.sleep(0)
        may_go_on.set()
        opened, is_confirmed = await asyncio.gather(*waiting)
        assert isinstance(opened, Opened) and is_confirmed
        await asyncio.gather(*strangers, return_exceptions=True)

    with_accounts(tmp_path, run)


# ------------------------------------------------------------------------------------------------------------- sessions


def test_a_session_ends_unused_after_two_weeks_and_used_after_thirty_days(tmp_path: Path, clock: list[int]) -> None:
    async def run(rooms: Rooms) -> None:
        used, unused = [await rooms.accounts.new_session(1, "link", HOME) for _ in range(2)]

        async def living() -> tuple[bool, bool]:
            found = [await rooms.accounts.visitor(one.token, HOME) is not None for one in (used, unused)]
            return found[0], found[1]

        clock[0] += IDLE
        await rooms.visitor(used)
        clock[0] += 1
        assert await living() == (True, False)
        clock[0] += 13 * DAY
        await rooms.visitor(used)
        clock[0] += 3 * DAY - 1
        assert await living() == (True, False)
        clock[0] += 1
        assert await living() == (False, False)

    with_accounts(tmp_path, run)


def test_a_session_says_where_it_is_and_is_ended_by_its_user_only(tmp_path: Path, clock: list[int]) -> None:
    agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"

    async def run(rooms: Rooms) -> None:
        other = await rooms.accounts.new_session(1, "password", structs.replace(HOME, agent=agent))
        clock[0] += 2 * HOUR
        mine = await rooms.visitor(await rooms.accounts.new_session(1, "password", ELSEWHERE))
        stranger = Visitor(2, "x@example.com", False)
        this, that = await rooms.accounts.sessions(mine)
        assert (this.is_this, that.is_this, that.device, that.address) == (True, False, "Firefox, Linux", HOME.address)
        with pytest.raises(Missing):
            await rooms.accounts.end_session(stranger, that.id)
        await rooms.accounts.end_other_sessions(stranger)
        assert len(await rooms.accounts.sessions(mine)) == 2
        await rooms.visitor(other, ELSEWHERE)
        [seen] = [one for one in await rooms.accounts.sessions(mine) if not one.is_this]
        assert (seen.address, seen.seen_at) == (ELSEWHERE.address, clock[0])
        await rooms.accounts.end_session(mine, that.id)
        assert await rooms.accounts.visitor(other.token, HOME) is None
        for _ in range(3):
            await rooms.accounts.new_session(1, "link", HOME)
        await rooms.accounts.end_other_sessions(mine)
        assert [one.is_this for one in await rooms.accounts.sessions(mine)] == [True]

    with_accounts(tmp_path, run)


def test_beyond_so_many_sessions_the_longest_unused_one_ends(tmp_path: Path, clock: list[int]) -> None:
    async def run(rooms: Rooms) -> None:
        opened: list[Opened] = []
        for _ in range(MAX_SESSIONS + 2):
            opened.append(await rooms.accounts.new_session(1, "link", HOME))
            clock[0] += MINUTE
        assert [await rooms.accounts.visitor(one.token, HOME) is None for one in opened[:3]] == [True, True, False]
        assert len(await rooms.accounts.sessions(await rooms.visitor(opened[-1]))) == MAX_SESSIONS

    with_accounts(tmp_path, run)


@pytest.mark.parametrize(
    ("agent", "device"),
    [
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
            "Chrome, Windows",
        ),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0",
            "Edge, Windows",
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Safari/605.1.15",
            "Safari, macOS",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/140.0 Safari/604.1",
            "Chrome, iPhone",
        ),
        ("Mozilla/5.0 (Linux; Android 15; SM-S938N) AppleWebKit/537.36 SamsungBrowser/28.0 Chrome/130 Mobile", "Samsung Internet, Android"),
        ("Mozilla/5.0 (X11; CrOS x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36", "Chrome, ChromeOS"),
        ("Python-urllib/3.11", "Python-urllib"),
        ("<script>", ""),
        ("", ""),
        ("x" * 5000, "x" * 39),
    ],
)
def test_a_device_is_called_by_its_browser_and_system(agent: str, device: str) -> None:
    assert device_of(agent) == device


# ----------------------------------------------------------------------------------------------------------- confirming


def test_signing_in_confirms_for_ten_minutes_and_the_password_does_again(tmp_path: Path, clock: list[int]) -> None:
    async def run(rooms: Rooms) -> None:
        opened = await rooms.guess(PASSWORD, HOME)
        visitor = await rooms.visitor(opened)
        assert rooms.confirming.is_recent(visitor)
        clock[0] += CONFIRMED_FOR
        assert not rooms.confirming.is_recent(visitor)
        assert await rooms.confirming.ways(visitor) == ["password"]
        assert not await rooms.confirming.confirm(visitor, "password", "something else", HOME)
        assert not await rooms.confirming.confirm(visitor, "handshake", PASSWORD, HOME)
        assert not rooms.confirming.is_recent(await rooms.visitor(opened))
        assert await rooms.confirming.confirm(visitor, "password", PASSWORD, HOME)
        assert rooms.confirming.is_recent(await rooms.visitor(opened))
        clock[0] -= 2 * HOUR  # a clock that was ahead
        assert not rooms.confirming.is_recent(await rooms.visitor(opened))

    with_accounts(tmp_path, run)


def test_who_has_no_password_confirms_by_signing_in_again(tmp_path: Path, clock: list[int]) -> None:
    async def run(rooms: Rooms) -> None:
        email, token = await rooms.administration.invite("new@example.com", is_admin=False)
        visitor = await rooms.visitor(await rooms.accounts.sign_in_by_link(token, HOME))
        assert visitor.email == email and rooms.confirming.is_recent(visitor)
        assert await rooms.confirming.ways(visitor) == []
        assert not await rooms.confirming.confirm(visitor, "password", "", HOME)

    with_accounts(tmp_path, run)


def test_a_session_without_a_time_of_confirming_is_asked(tmp_path: Path) -> None:
    """As sessions of older versions are."""

    async def run(rooms: Rooms) -> None:
        opened = await rooms.guess(PASSWORD, HOME)
        visitor = await rooms.visitor(opened)
        await rooms.database.write(people.change_session, visitor.session, {"confirmed_at": None})
        assert not rooms.confirming.is_recent(await rooms.visitor(opened))

    with_accounts(tmp_path, run)


# ------------------------------------------------------------------------------------------------------------ passwords


def test_a_wrong_present_password_is_counted_within_the_session(tmp_path: Path, hashed: list[str]) -> None:
    async def run(rooms: Rooms) -> None:
        visitor = await rooms.visitor(await rooms.guess(PASSWORD, HOME))
        hashed.clear()
        changes = [rooms.passwords.change(visitor, f"guess {number}", "a new password", HOME) for number in range(10)]
        assert kinds(await asyncio.gather(*changes, return_exceptions=True)) == {"Invalid": 6, "Throttled": 4}
        with pytest.raises(Throttled):
            await rooms.confirming.confirm(visitor, "password", PASSWORD, HOME)
        assert len(hashed) == 6
        assert isinstance(await rooms.guess(PASSWORD, ELSEWHERE), Opened)

    with_accounts(tmp_path, run)


def test_nobody_elsewhere_keeps_the_owner_from_changing_the_password(tmp_path: Path) -> None:
    async def run(rooms: Rooms) -> None:
        visitor = await rooms.visitor(await rooms.guess(PASSWORD, HOME))
        await rooms.locked_out()
        await rooms.passwords.change(visitor, PASSWORD, "another long one", HOME)
        assert isinstance(await rooms.guess("another long one", HOME), Opened)

    with_accounts(tmp_path, run)


def test_a_new_password_without_fault_is_taken(tmp_path: Path) -> None:
    async def run(rooms: Rooms) -> None:
        visitor = await rooms.visitor(await rooms.guess(PASSWORD, HOME))
        with pytest.raises(Invalid):
            await rooms.passwords.change(visitor, PASSWORD, "short", HOME)
        await rooms.passwords.change(visitor, PASSWORD, "another long one", HOME)
        assert isinstance(await rooms.guess("another long one", HOME), Opened)
        assert await rooms.guess("another long one", HOME, "nobody@example.com") is None

    with_accounts(tmp_path, run)


def test_who_signs_in_with_the_old_password_while_it_is_changed_has_no_session_afterwards(tmp_path: Path) -> None:
    async def run(rooms: Rooms) -> None:
        add, sessions = rooms.sessions.add, rooms.accounts._sessions

        async def once_it_is_changed(*given: Any) -> None:
            await rooms.users.set_password(1, hash_password("another long one"))
            await add(*given)

        sessions.add = once_it_is_changed  # type: ignore[method-assign]
        assert await rooms.guess(PASSWORD, HOME) is None
        sessions.add = add  # type: ignore[method-assign]
        assert [one.is_this for one in await rooms.accounts.sessions(await rooms.visitor(await rooms.guess("another long one")))] == [True]

    with_accounts(tmp_path, run)


def test_who_is_between_the_old_password_and_a_code_while_it_is_changed_does_not_get_in(tmp_path: Path) -> None:
    async def run(rooms: Rooms) -> None:
        app = pyotp.TOTP(pyotp.random_base32())
        await rooms.second_factors.add(1, VAULT.seal({"secret": app.secret}), 0, [b"a code"], tocsin.clock.now())
        settings = load({}, Path("/dev/null"))
        factors = SecondFactors(rooms.second_factors, rooms.accounts, Tries(), VAULT, settings, rooms.failures)

        async def code_wanted() -> CodeWanted:
            with pytest.raises(CodeWanted) as wanted:
                await rooms.accounts.sign_in(EMAIL, PASSWORD, HOME)
            return wanted.value

        step = tocsin.clock.now() // SECOND
        first, second = factors.halfway(await code_wanted()), factors.halfway(await code_wanted())
        assert isinstance(await factors.finish(first, app.at(step), HOME), Opened)
        await rooms.users.set_password(1, hash_password("another long one"))
        assert await factors.finish(second, app.at(step + 30), HOME) is None
        assert await rooms.sessions.of(1, Living(0, 0)) == []

    with_accounts(tmp_path, run)


def test_a_link_dies_with_a_new_password(tmp_path: Path) -> None:
    async def run(rooms: Rooms) -> None:
        _, token = await rooms.administration.invite("new@example.com", is_admin=False)
        await rooms.users.set_password(2, hash_password("set by the operator"))
        assert await rooms.accounts.sign_in_by_link(token, HOME) is None

    with_accounts(tmp_path, run)


# ---------------------------------------------------------------------------------------------------------------- users


def test_a_zone_is_kept_as_the_database_spells_it_and_an_unknown_one_changes_nothing(tmp_path: Path) -> None:
    async def run(rooms: Rooms) -> None:
        async def kept() -> str | None:
            return (await rooms.person()).time_zone

        assert await kept() is None
        await rooms.administration.set_time_zone(1, " asia/seoul")
        assert await kept() == "Asia/Seoul"
        for name, said in (
            ("Seoul", "There is no time zone Seoul. Similar names: Asia/Seoul"),
            ("x" * 200, f"There is no time zone {'x' * 100}. Use a name such as Asia/Seoul or Europe/Berlin."),
        ):
            with pytest.raises(Invalid) as refused:
                await rooms.administration.set_time_zone(1, name)
            [fault] = refused.value.faults
            assert fault.parameter == "time_zone" and fault.detail.startswith(said)
        assert await kept() == "Asia/Seoul" and rooms.changed == [1]
        await rooms.administration.set_time_zone(1, " ")
        assert await kept() is None and rooms.changed == [1, 1]

    with_accounts(tmp_path, run)


def test_two_administrators_who_disable_or_demote_each_other_at_once_leave_one(tmp_path: Path) -> None:
    async def run(rooms: Rooms) -> None:
        users = rooms.administration
        for name in ("first", "second", "third"):
            await users.invite(f"{name}@example.com", is_admin=True)
        first, second, third = [user.id for user in await users.users() if user.is_admin]
        ending = (
            users.disable(Visitor(first, "", True), second),
            users.set_role(Visitor(second, "", True), third, False),
            users.invite("first@example.com", is_admin=False),
        )
        assert kinds(await asyncio.gather(*ending, return_exceptions=True))["Invalid"] == 1
        assert [user.disabled_at is None for user in await users.users() if user.is_admin].count(True) == 1

    with_accounts(tmp_path, run)


def test_inviting_again_gives_the_role_that_was_asked_for(tmp_path: Path) -> None:
    async def run(rooms: Rooms) -> None:
        users = rooms.administration

        async def role() -> bool:
            return {user.email: user.is_admin for user in await users.users()}["new@example.com"]

        roles: list[bool] = []
        for is_admin in (False, True, True):
            await users.invite("NEW@example.com" if is_admin else "new@example.com", is_admin)
            roles.append(await role())
        assert roles == [False, True, True]
        with pytest.raises(Invalid, match="last administrator"):
            await users.invite("new@example.com", is_admin=False)
        assert await role()
        with pytest.raises(Invalid, match="already"):
            await users.invite(EMAIL, is_admin=True)
        assert not (await rooms.person()).is_admin

    with_accounts(tmp_path, run)


def test_a_role_can_be_changed_but_not_the_last_administrators(tmp_path: Path) -> None:
    async def run(rooms: Rooms) -> None:
        users = rooms.administration
        by = Visitor(2, "boss@example.com", True)
        await users.set_role(by, 1, is_admin=True)
        with pytest.raises(Invalid, match="last administrator"):
            await users.set_role(by, 1, is_admin=False)
        assert (await rooms.person()).is_admin
        with pytest.raises(Invalid, match="own role"):
            await users.set_role(Visitor(1, EMAIL, True), 1, is_admin=True)
        with pytest.raises(Missing):
            await users.set_role(by, 99, is_admin=True)

    with_accounts(tmp_path, run)
