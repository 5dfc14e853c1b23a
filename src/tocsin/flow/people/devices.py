"""Devices and addresses from which a user has signed in before: nobody who guesses at an account from elsewhere locks its owner out there.

The protocol is OWASP's: https://owasp.org/www-community/Slow_Down_Online_Guessing_Attacks_with_Device_Cookies
"""

import secrets

from msgspec import Struct, ValidationError, convert

from tocsin import clock
from tocsin.clock import DAY, Micros
from tocsin.flow.people.clients import Client
from tocsin.flow.people.tries import Counted
from tocsin.ports.people import MARK_BYTES, Person
from tocsin.vault import Vault, WrongKey, fingerprint

DEVICE_LASTS: Micros = 400 * DAY  # the longest that browsers keep a cookie
MAX_USERS = 5  # of one device
_MAX_COOKIE = 1000


class _Device(Struct, frozen=True):
    """What the cookie says, sealed. `users`: who has signed in there, by id, the latest first."""

    device: str
    users: list[int]
    at: Micros


class Devices:
    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def counted(self, person: Person | None, email: str, client: Client) -> Counted:
        """What a try to sign in counts against. Strangers count with their address and with the account; from a device that the account's
        owner has signed in on, or an address, only what was tried there does.
        """
        account = f"account {person.id}" if person is not None else f"account {fingerprint(email.lower())}"
        address = f"address {client.counted_as}"
        if person is not None and (device := self._known_device(person, client)) is not None:
            return Counted(f"device {device} {account}", is_known=True)
        own = f"{account} at {address}"  # a name that began like a shared address would get its 50 tries at each account
        if person is not None and self._is_known_address(person, client):
            return Counted(own, (address,), is_known=True)
        return Counted(own, (address, account))

    def _known_device(self, person: Person, client: Client) -> str | None:
        device = self._read(client.device)
        return device.device if device is not None and person.id in device.users else None

    def _is_known_address(self, person: Person, client: Client) -> bool:
        return self.mark(client) in _marks(person.known_addresses)

    def cookie(self, user: int, client: Client) -> str:
        """What the client's browser is given once this user has signed in there."""
        known = self._read(client.device) or _Device(secrets.token_urlsafe(12), [], 0)
        users = [user, *(one for one in known.users if one != user)][:MAX_USERS]
        return self._vault.seal({"device": known.device, "users": users, "at": clock.now()}).decode()

    def mark(self, client: Client) -> bytes:
        """By which a user's known address is kept; empty where there is none to know them by."""
        return self._vault.mark(f"address {client.known_as}")[:MARK_BYTES] if client.known_as else b""

    def _read(self, cookie: str) -> _Device | None:
        if not 0 < len(cookie) <= _MAX_COOKIE:
            return None
        try:
            found = convert(self._vault.open(cookie.encode("utf-8", "replace")), _Device)
        except (WrongKey, ValidationError):
            return None
        return found if clock.now() - found.at < DEVICE_LASTS else None


def _marks(known: bytes) -> list[bytes]:
    return [known[start : start + MARK_BYTES] for start in range(0, len(known), MARK_BYTES)]
