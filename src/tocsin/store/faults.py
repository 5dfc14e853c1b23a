"""What an error of the database means to an operator, in one sentence each."""

import contextlib
import sqlite3
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from tocsin.model import Busy

FULL = "The disk is full: make room, or nothing can be accepted and no outcome kept."
NO_ROOM = "The disk has no room left to fold in the store's log: stop the program that has long been reading the store, or make room."
_SENTENCES = {
    "SQLITE_FULL": FULL,
    "SQLITE_BUSY": "Another process holds the store locked.",
    "SQLITE_LOCKED": "Another process holds the store locked.",
    "SQLITE_READONLY": "The store can only be read.",
    "SQLITE_CANTOPEN": "The store cannot be opened.",
}
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


class Damaged(Busy):
    """The store is damaged where something was to be read or written; `sentence` says so to the operator."""

    def __init__(self, what: str) -> None:
        super().__init__("the store is damaged", 60)
        self.sentence = damaged(what)


def damaged(what: str) -> str:
    return f"The store is damaged ({what}): stop the service, keep the data directory as it is, and restore a backup."


def name_of(error: BaseException) -> str:
    """SQLite's name for it, such as SQLITE_FULL; empty if it is none of SQLite's."""
    return getattr(_driver_error(error), "sqlite_errorname", None) or ""


def words_of(error: BaseException) -> str:
    """The driver's own words: SQLAlchemy's hold SQL and values too."""
    return str(_driver_error(error))


def is_damage(error: BaseException) -> bool:
    return name_of(error).startswith(_DAMAGE)


def forget_pages(connection: Connection, error: BaseException) -> None:
    """After damage: SQLite keeps bad pages in memory as it keeps good ones, and would not see that the file is whole again.

    Outside of a transaction. See https://www.sqlite.org/pragma.html#pragma_shrink_memory.
    """
    if is_damage(error):
        with contextlib.suppress(DBAPIError, sqlite3.Error):  # it will be found damaged again, or whole
            cursor: Any = connection.connection.cursor()
            cursor.execute("PRAGMA shrink_memory")


def is_full(error: BaseException) -> bool:
    return name_of(error) == "SQLITE_FULL"


def is_locked(error: BaseException) -> bool:
    """Another process held it for as long as was waited: whoever asks next waits as long."""
    return name_of(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def sentence(error: BaseException) -> str:
    if is_damage(error):
        return damaged(words_of(error))
    name = "_".join(name_of(error).split("_")[:2])  # without the extension, such as SQLITE_READONLY_DBMOVED
    return _SENTENCES.get(name) or f"The store cannot be written ({words_of(error)})."


def _driver_error(error: BaseException) -> BaseException:
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
