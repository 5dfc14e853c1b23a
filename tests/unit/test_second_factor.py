"""The second factor on a clock that the tests move."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pyotp
import pytest

import tocsin.clock
from support.store import sqlite_store
from tocsin.clock import HOUR, MINUTE, SECOND
from tocsin.flow.people.accounts import Accounts, CodeWanted
from tocsin.flow.people.clients import Client, Visitor
from tocsin.flow.people.devices import Devices
from tocsin.flow.people.failures import Failures
from tocsin.flow.people.second_factor import HALFWAY_LASTS, SETTING_UP_LASTS, SecondFactors, Setup
from tocsin.flow.people.tries import Tries
from tocsin.model import Invalid
from tocsin.settings import load
from tocsin.vault import Vault

STEP = 30
START = 1_800_000_000 * SECOND  # the beginning of a step
VISITOR = Visitor(1, "a@b", True, by="password")
CLIENT = Client("203.0.113.1", "203.0.113.1")


class World:
    """A service's second factors at a time."""

    def __init__(self, factors: SecondFactors, accounts: Accounts, vault: Vault) -> None:
        self.factors = factors
        self.accounts = accounts
        self.vault = vault
        self.now = START

    async def set_up(self) -> tuple[pyotp.TOTP, tuple[str, ...]]:
        setup = self.factors.begin(VISITOR, "alerts.example.com")
        app = pyotp.TOTP(setup.secret)
        codes = await self.factors.confirm(VISITOR, setup.sealed, app.at(self.now / SECOND), CLIENT)
        self.now += 10 * MINUTE
        return app, codes

    async def lets_in(self, code: str) -> bool:
        with pytest.raises(CodeWanted) as wanted:
            await self.accounts.begin(1, "link", CLIENT)
        return await self.factors.finish(self.factors.halfway(wanted.value), code, CLIENT) is not None


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[World], Awaitable[None]]], None]:
    def runs(main: Callable[[World], Awaitable[None]]) -> None:
        async def inner() -> None:
            async with sqlite_store(tmp_path) as store:
                settings, vault, tries = load({}, Path("/dev/null")), Vault(["a key for this test"]), Tries()
                failures = Failures(store.audit)
                accounts = Accounts(store.users, store.sessions, store.second_factors, Devices(vault), tries, settings, failures)
                world = World(SecondFactors(store.second_factors, accounts, tries, vault, settings, failures), accounts, vault)
                monkeypatch.setattr(tocsin.clock, "now", lambda: world.now)
                await main(world)

        asyncio.run(inner())

    return runs


@pytest.mark.parametrize(("steps", "is_right"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_clocks_may_differ_by_a_step(run, steps: int, is_right: bool) -> None:
    async def main(world: World) -> None:
        app, _ = await world.set_up()
        code = app.at(world.now / SECOND + steps * STEP)
        assert await world.lets_in(code) is is_right
        assert not await world.lets_in(code)  # replayed

    run(main)


def test_a_later_code_voids_the_earlier_ones(run) -> None:
    async def main(world: World) -> None:
        app, _ = await world.set_up()
        earlier, later = app.at(world.now / SECOND), app.at(world.now / SECOND + STEP)
        assert await world.lets_in(later)
        assert not await world.lets_in(earlier)

    run(main)


def test_two_at_once_with_the_same_code_are_not_both_let_in(run) -> None:
    async def main(world: World) -> None:
        app, codes = await world.set_up()
        for code in (app.at(world.now / SECOND), codes[0]):
            let_in = await asyncio.gather(*(world.lets_in(code) for _ in range(3)))
            assert sorted(let_in) == [False, False, True]

    run(main)


def test_there_are_minutes_between_password_and_code(run) -> None:
    async def main(world: World) -> None:
        app, _ = await world.set_up()
        half = world.factors.halfway(CodeWanted(1, "link"))
        world.now += HALFWAY_LASTS - SECOND
        assert world.factors.is_halfway(half)
        world.now += SECOND
        assert not world.factors.is_halfway(half)
        with pytest.raises(Invalid, match="took too long"):
            await world.factors.finish(half, app.at(world.now / SECOND), CLIENT)

    run(main)


def test_a_secret_waits_an_hour_for_its_first_code(run) -> None:
    async def main(world: World) -> None:
        setup = world.factors.begin(VISITOR, "")
        world.now += SETTING_UP_LASTS - MINUTE
        assert world.factors.again(VISITOR, setup.sealed, "").secret == setup.secret
        world.now += MINUTE
        with pytest.raises(Invalid, match="too long ago"):
            await world.factors.confirm(VISITOR, setup.sealed, pyotp.TOTP(setup.secret).at(world.now / SECOND), CLIENT)
        assert world.factors.again(VISITOR, setup.sealed, "").secret != setup.secret

    run(main)


def test_what_is_kept_for_one_purpose_serves_no_other(run) -> None:
    async def main(world: World) -> None:
        setup, half = world.factors.begin(VISITOR, ""), world.factors.halfway(CodeWanted(1, "link"))
        assert not world.factors.is_halfway(setup.sealed)
        assert world.factors.again(VISITOR, half, "").secret != setup.secret
        assert not world.factors.is_halfway(world.vault.seal({"user": 1, "by": "password", "until": world.now + HOUR}).decode())

    run(main)


def test_with_another_key_a_recovery_code_still_lets_in(run) -> None:
    async def main(world: World) -> None:
        app, codes = await world.set_up()
        world.vault.use(["another key"])
        with pytest.raises(Invalid, match="Use a recovery code"):
            await world.lets_in(app.at(world.now / SECOND))
        assert await world.lets_in(codes[0])

    run(main)


def test_the_secret_shows_in_no_repr(run) -> None:
    async def main(world: World) -> None:
        setup = world.factors.begin(VISITOR, "alerts.example.com:8443")
        assert isinstance(setup, Setup) and setup.secret not in repr(setup)
        assert setup.uri.startswith("otpauth://totp/tocsin%20alerts.example.com%208443:a%40b?secret=")

    run(main)
