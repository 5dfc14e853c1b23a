"""Users and keys, administered on the store itself, also beside a running service."""

import secrets
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

from email_validator import EmailNotValidError
from sqlalchemy import Connection, Engine

from tocsin import acting, clock, datadir
from tocsin.clock import Micros
from tocsin.flow.people.access import SCOPES
from tocsin.flow.people.accounts import SIGN_IN_LINK_LASTS
from tocsin.flow.people.administration import address_of, zone_named
from tocsin.flow.people.passwords import fault_of
from tocsin.model import Invalid
from tocsin.ports.audit import AuditFilter, Entry
from tocsin.ports.errors import StoreError
from tocsin.ports.people import KeyLine, UserLine
from tocsin.settings import Settings
from tocsin.store import audit, identities, keys, people, second_factors
from tocsin.store.sql import read_now, write_now
from tocsin.vault import hash_api_key, hash_password, new_api_key, shown_key

T = TypeVar("T")


class AdminError(Exception):
    """One sentence that says what cannot be done."""


class Admin:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _do(self, work: Callable[[Connection], T]) -> T:
        try:
            with acting.acting(acting.commander()):
                return write_now(self._engine, work)
        except StoreError as error:
            raise AdminError(str(error)) from error

    def add_user(self, email: str, is_admin: bool) -> tuple[int, str]:
        """Id and one-time sign-in token of a new user."""
        try:
            address = address_of(email)
        except EmailNotValidError as error:
            raise AdminError(f"{email!r} is not an e-mail address: {error}") from None
        token = secrets.token_urlsafe(32)

        def work(connection: Connection) -> int:
            now = clock.now()
            user = people.add_user(connection, address, is_admin, now)
            if user is None:
                raise AdminError(f"There is a user {address} already.")
            people.set_sign_in(connection, user, hash_api_key(token), now + SIGN_IN_LINK_LASTS)
            return user

        return self._do(work), token

    def served_at(self) -> str | None:
        """Where the service of this store last listened; None: it never has."""
        return self._do(datadir.served_at)

    def sign_in_token(self, email: str) -> str:
        """A one-time sign-in token for an existing user."""
        token = secrets.token_urlsafe(32)
        until = clock.now() + SIGN_IN_LINK_LASTS
        self._do(lambda connection: people.set_sign_in(connection, _user(connection, email), hash_api_key(token), until))
        return token

    def set_password(self, email: str, password: str) -> None:
        """Raises AdminError, also for a password that is not taken on the pages either."""
        if (fault := fault_of(password, email)) is not None:
            raise AdminError(fault.detail)
        hashed = hash_password(password)
        self._do(lambda connection: people.set_password(connection, _user(connection, email), hashed))

    def disable_user(self, email: str) -> None:
        """Revokes their keys, removes their handlers with all secrets, cancels waiting deliveries; keeps the history."""

        def work(connection: Connection) -> None:
            user = _user(connection, email)
            _not_last(connection, user)
            people.disable_user(connection, user, clock.now())

        self._do(work)

    def set_user(self, email: str, time_zone: str | None, is_admin: bool | None) -> None:
        """None leaves it as it is."""
        try:
            zone = None if time_zone is None else zone_named(time_zone)
        except Invalid as invalid:
            raise AdminError(str(invalid)) from None

        def work(connection: Connection) -> None:
            user = _user(connection, email)
            if is_admin is False:
                _not_last(connection, user)
            if is_admin is not None:
                people.set_administrator(connection, user, is_admin)
            if zone is not None:
                people.set_time_zone(connection, user, zone)

        self._do(work)

    def reset_second_factor(self, email: str) -> bool:
        """Their password alone signs them in again. False: they had none."""
        return self._do(lambda connection: second_factors.remove(connection, _user(connection, email)))

    def unbind(self, email: str) -> bool:
        """At the next sign-in with a provider they are known by their address again. False: they were bound to none."""
        return self._do(lambda connection: identities.unbind(connection, _user(connection, email)))

    def delete_user(self, email: str) -> None:
        """Removes the user and everything that is theirs, including the history."""

        def work(connection: Connection) -> None:
            user = _user(connection, email)
            _not_last(connection, user)
            people.delete_user(connection, user)

        self._do(work)

    def users(self) -> list[UserLine]:
        return self._do(people.list_users)

    def add_key(self, email: str, name: str, scopes: tuple[str, ...], expires_at: Micros | None = None) -> str:
        """The new key, which nothing can show again. `expires_at`: None: it does not."""
        if expires_at is not None and expires_at <= clock.now():
            raise AdminError("A key must expire in the future.")
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown:
            raise AdminError(f"There is no scope {', '.join(unknown)}; there are {', '.join(SCOPES)}.")
        key = new_api_key()

        def work(connection: Connection) -> int:
            user = _user(connection, email)
            named = tuple(dict.fromkeys(scopes))
            return keys.add_key(connection, user, name, hash_api_key(key), shown_key(key), named, clock.now(), expires_at)

        self._do(work)
        return key

    def keys(self) -> list[KeyLine]:
        return self._do(keys.list_keys)

    def revoke_key(self, which: str) -> KeyLine:
        """`which`: a key's id, its name, or its beginning. A running service notices within two seconds."""

        def work(connection: Connection) -> KeyLine:
            live = [key for key in keys.list_keys(connection) if key.revoked_at is None]
            found = [key for key in live if str(key.id) == which] or [key for key in live if which in {key.name, key.shown}]
            if len(found) != 1:
                raise AdminError(f"There is no key {which!r}." if not found else f"Several keys are called {which!r}: name the id.")
            keys.revoke_key(connection, found[0].id, clock.now())
            return found[0]

        return self._do(work)

    def audit(self, which: AuditFilter, limit: int) -> list[Entry]:
        """Entries of the audit log, the newest first."""
        try:
            return read_now(self._engine, lambda connection: audit.entries(connection, which, limit))
        except StoreError as error:
            raise AdminError(str(error)) from error


def _user(connection: Connection, email: str) -> int:
    user = people.user_id(connection, email)
    if user is None:
        raise AdminError(f"There is no user {email}.")
    return user


def _not_last(connection: Connection, user: int) -> None:
    """At least one user must be able to manage users on the pages."""
    if people.is_last_administrator(connection, user):
        raise AdminError("This is the last administrator: make somebody else one first, with `tocsin users set EMAIL --admin`.")


@contextmanager
def open_admin(settings: Settings) -> Generator[Admin, None, None]:
    """Raises AdminError if there is no store, or its key is missing."""
    try:
        engine, _ = datadir.open_existing(settings)
    except StoreError as error:
        raise AdminError(str(error)) from error
    try:
        yield Admin(engine)
    finally:
        engine.dispose()
