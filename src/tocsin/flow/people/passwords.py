"""Passwords: which ones are taken, and how they are checked and changed."""

from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from tocsin.flow import pools
from tocsin.flow.people.clients import Client, Visitor
from tocsin.flow.people.failures import Failures
from tocsin.flow.people.tries import Counted, Tries
from tocsin.model import Busy, Fault, Invalid
from tocsin.ports.audit import Act
from tocsin.ports.people import Users
from tocsin.vault import check_password, fingerprint, hash_password

MIN_PASSWORD, MAX_PASSWORD = 10, 1024  # characters
MAX_STRANGERS_WAITING = pools.MAX_PASSWORDS_WAITING // 2
_TOO_MANY = "too many people are signing in at this moment"
COMMON = Path(__file__).with_name("common_passwords.txt")
_LENGTH = "A password takes {least} to {most} characters, and this one has {length}."
_LONGEST_REPEATED = 4  # characters of which a long password may not merely consist, again and again

P = ParamSpec("P")
T = TypeVar("T")


# ------------------------------------------------------------------------------------------------------------- the rule


def fault_of(password: str, email: str, parameter: str = "new") -> Fault | None:
    """Why this user's password cannot be this one. It is the same rule wherever passwords are set."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        values = {"least": str(MIN_PASSWORD), "most": f"{MAX_PASSWORD:,}", "length": f"{len(password):,}"}
        return Fault("invalid", "Not a usable value", _LENGTH, parameter, values=values)
    word, address = password.strip().casefold(), email.strip().casefold()
    if word in {address, address.partition("@")[0]}:
        return Fault("invalid", "Not a usable value", "The e-mail address cannot be the password: it is what others try first.", parameter)
    if word in COMMON.read_text(encoding="utf-8").split() or _is_repeated(password):
        return Fault("invalid", "Not a usable value", "This password is too common: it is among the first that others try.", parameter)
    return None


def _is_repeated(password: str) -> bool:
    size = len(password)
    return any((password[:period] * size)[:size] == password for period in range(1, _LONGEST_REPEATED + 1))


# ------------------------------------------------------------------------------------------------- checked and changed


async def in_turn(counted: Counted, client: Client, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What takes 19 MiB and a core for a moment, one after the other, addresses in turn. Strangers fill half of the queue at most, so that
    however many they are, who has signed in before finds room. Raises Busy.
    """
    pool = pools.here().passwords
    if not counted.is_known and pool.waiting >= MAX_STRANGERS_WAITING:
        raise Busy(_TOO_MANY)
    return await pool.run(client.counted_as, call, *args, **kwargs)


async def fits(hashed: str, password: str, counted: Counted, client: Client) -> bool:
    """Raises Busy."""
    return await in_turn(counted, client, check_password, hashed, password[:MAX_PASSWORD])


class Passwords:
    """Of users who are signed in."""

    def __init__(self, users: Users, tries: Tries, failures: Failures) -> None:
        self._users = users
        self._tries = tries
        self._failures = failures

    async def has_one(self, visitor: Visitor) -> bool:
        person = await self._users.person(visitor.email)
        return person is not None and person.password_hash is not None

    async def is_right(self, visitor: Visitor, password: str, client: Client) -> bool:
        """Whether it is the visitor's. Counted within their session, so nobody else can use up their tries. Raises Throttled, Busy."""
        person = await self._users.person(visitor.email)
        hashed = person.password_hash if person is not None else None
        if hashed is None:
            return False
        counted = _within(visitor)
        async with self._tries.one(counted) as one:
            one.is_right = await fits(hashed, password, counted, client)
        return one.is_right

    async def change(self, visitor: Visitor, old: str, new: str, client: Client) -> None:
        """Every session of theirs ends. `old` is not asked for where there is none. Raises Invalid, Throttled, Busy."""
        faults: list[Fault] = []
        if await self.has_one(visitor) and not await self.is_right(visitor, old, client):
            await self._failures.note(Act.NOT_CONFIRMED, client.address, client.counted_as, visitor.id, by="password")
            faults.append(Fault("invalid", "Wrong password", "This is not the current password.", "old"))
        if (fault := fault_of(new, visitor.email)) is not None:
            faults.append(fault)
        if faults:
            raise Invalid(*faults)
        await self._users.set_password(visitor.id, await in_turn(_within(visitor), client, hash_password, new))


def _within(visitor: Visitor) -> Counted:
    """What somebody tries in a session of theirs counts there."""
    return Counted(f"session {fingerprint(visitor.session.hex())}", is_known=True)
