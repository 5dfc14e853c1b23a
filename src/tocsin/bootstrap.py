"""The first user of a store that has none."""

import secrets

from sqlalchemy import Connection, Engine

from tocsin import clock
from tocsin.flow.people.passwords import fault_of
from tocsin.ports.errors import StoreError
from tocsin.settings import Settings
from tocsin.store import keys, people
from tocsin.store.sql import write_now
from tocsin.vault import hash_api_key, hash_password, new_api_key, shown_key

FIRST_EMAIL = "admin@localhost"


def weakness_of_password(settings: Settings) -> str | None:
    """Why the first user cannot have the password that is set for them."""
    if settings.bootstrap_password is None:
        return None
    fault = fault_of(settings.bootstrap_password, settings.bootstrap_email or FIRST_EMAIL)
    return None if fault is None else f"TOCSIN_BOOTSTRAP_PASSWORD cannot be used: {fault.detail}"


def make_first_user(engine: Engine, settings: Settings, show_password: bool) -> list[str]:
    """Creates the first user on a store without any; returns the lines to be printed once. Raises StoreError."""
    email = settings.bootstrap_email or FIRST_EMAIL
    key = settings.bootstrap_api_key or new_api_key()
    password = settings.bootstrap_password or (secrets.token_urlsafe(12) if show_password else None)

    def first_user(connection: Connection) -> bool:
        if people.has_users(connection):
            return False
        if (weakness := weakness_of_password(settings)) is not None:
            raise StoreError(weakness)
        now = clock.now()
        user = people.add_user(connection, email, True, now)
        if user is None:
            return False
        keys.add_key(connection, user, "first key", hash_api_key(key), shown_key(key), (), now)
        if password:
            people.set_password(connection, user, hash_password(password))
        return True

    if not write_now(engine, first_user):
        return []
    lines = [f"First user: {email}"]
    if settings.bootstrap_api_key is None:
        lines.append(f"API key (shown once): {key}")
    if password and settings.bootstrap_password is None:
        lines.append(f"Password (shown once): {password}")
    return lines
