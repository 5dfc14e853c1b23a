"""A store filled beneath the service: users with handlers, and deliveries that wait, thousands of them within a second or two."""

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from sqlalchemy import Connection

from bench.messages import TITLE, text
from bench.service import API_KEY
from tocsin import clock, datadir
from tocsin.model import SigningSecret
from tocsin.settings import load
from tocsin.store import keys, people
from tocsin.store.sql import write_now
from tocsin.vault import Vault, hash_api_key, hash_password, new_signing_secret, shown_key

OTHER_KEY = API_KEY.replace("bench", "other")
MINE, OTHER = 1, 2  # users; keys are API_KEY and OTHER_KEY
PASSWORD = "correct horse battery"
EMAILS = {MINE: "mine@example.com", OTHER: "other@example.com"}
KEYS = {MINE: API_KEY, OTHER: OTHER_KEY}

_HANDLER = (
    "INSERT INTO handlers (id, user_id, type, name, settings, secret, is_enabled, created_at, version) VALUES (?, ?, ?, ?, ?, ?, 1, ?, 1)"
)
_NOTIFICATION = (
    "INSERT INTO notifications (id, user_id, created_at, kind, severity, title, text, url, fields)"
    " VALUES (?, ?, ?, 'notification', 'warning', ?, ?, '', '[]')"
)
_DELIVERY = (
    "INSERT INTO deliveries (notification_id, handler_id, user_id, status, is_critical, due_at, first_due_at, created_at)"
    " VALUES (?, ?, ?, 0, 0, ?, ?, ?)"
)


class Planned(Struct, frozen=True):
    """A handler to be, and how many notifications of its own wait for it."""

    user: int
    type: str
    settings: dict[str, str]
    waiting: int = 0


def webhook(user: int, url: str, waiting: int = 0) -> Planned:
    return Planned(user, "webhook", {"webhook": url}, waiting)


def fill(folder: Path, planned: Sequence[Planned]) -> list[int]:
    """Two users, with passwords, and these handlers: their ids, in order. `folder`: of the service that is to run on it."""
    settings = load({"TOCSIN_DATA_DIR": str(folder / "data")}, folder / "none.env")
    settings.data_path.mkdir(mode=0o700)
    engine, vault = datadir.open_store(settings)
    write_now(engine, _add_users)
    engine.dispose()
    ids = list(range(1, len(planned) + 1))
    with contextlib.closing(sqlite3.connect(folder / "data" / datadir.STORE_FILE)) as store, store:
        store.execute("PRAGMA synchronous=OFF")
        _add_handlers(store, vault, planned)
        _add_waiting(store, planned)
        store.execute(
            "INSERT INTO totals (user_id, what, slot, n) SELECT user_id, status, 0, count(*) FROM deliveries GROUP BY user_id, status"
        )
        store.execute("INSERT INTO totals (user_id, what, slot, n) SELECT user_id, 100, 0, count(*) FROM notifications GROUP BY user_id")
        store.execute("INSERT INTO totals (user_id, what, slot, n) SELECT user_id, 101, 0, count(*) FROM handlers GROUP BY user_id")
    return ids


def _add_users(connection: Connection) -> None:
    for user, email in EMAILS.items():
        if people.add_user(connection, email, user == MINE, clock.now()) != user:
            raise RuntimeError("the store is not a new one")
        key = KEYS[user]
        keys.add_key(connection, user, "bench", hash_api_key(key), shown_key(key), (), clock.now())
        people.set_password(connection, user, hash_password(PASSWORD))


def _add_handlers(store: sqlite3.Connection, vault: Vault, planned: Sequence[Planned]) -> None:
    now = clock.now()
    secret = vault.seal(msgspec.to_builtins(SigningSecret(new_signing_secret())))
    rows = (
        (number, one.user, one.type, f"{one.type} {number}", vault.seal(one.settings), secret if one.type == "webhook" else None, now)
        for number, one in enumerate(planned, 1)
    )
    store.executemany(_HANDLER, rows)


def _add_waiting(store: sqlite3.Connection, planned: Sequence[Planned]) -> None:
    """Handler by handler within each round, as a program that goes round its handlers would have sent them."""
    now, rounds = clock.now(), max((one.waiting for one in planned), default=0)
    owed = [(number, one.user) for turn in range(rounds) for number, one in enumerate(planned, 1) if one.waiting > turn]
    store.executemany(_NOTIFICATION, ((count, user, now, TITLE, text(count)) for count, (_, user) in enumerate(owed, 1)))
    store.executemany(_DELIVERY, ((count, handler, user, now, now, now) for count, (handler, user) in enumerate(owed, 1)))
