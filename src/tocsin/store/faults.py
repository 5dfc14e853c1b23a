"""What an error of the database means to an operator, in one sentence each.

SQLite names its errors (https://sqlite.org/rescode.html), PostgreSQL numbers them (https://www.postgresql.org/docs/current/errcodes-appendix.html).
"""

import contextlib
import sqlite3
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, OperationalError

FULL = "The disk is full: make room, or nothing can be accepted and no outcome kept."
NO_ROOM = "The disk has no room left to fold in the store's log: stop the program that has long been reading the store, or make room."
_LOCKED = "Another process holds the store locked."
_READ_ONLY = "The store can only be read."
_SENTENCES = {
    "SQLITE_FULL": FULL,
    "SQLITE_BUSY": _LOCKED,
    "SQLITE_LOCKED": _LOCKED,
    "SQLITE_READONLY": _READ_ONLY,
    "SQLITE_CANTOPEN": "The store cannot be opened.",
    "25006": "The PostgreSQL server only lets the store be read: it is a standby, or was made read-only.",
    "28000": "The PostgreSQL server refuses the user of TOCSIN_DATABASE_URL.",
    "28P01": "The PostgreSQL server refuses the user or the password of TOCSIN_DATABASE_URL.",
    "3D000": "The PostgreSQL server has no database of the name in TOCSIN_DATABASE_URL.",
    "40001": _LOCKED,
    "40P01": _LOCKED,
    "42501": "The user of TOCSIN_DATABASE_URL lacks a permission on the store's tables.",
    "53100": "The disk of the PostgreSQL server is full: make room, or nothing can be accepted and no outcome kept.",
    "53200": "The PostgreSQL server has no memory left.",
    "53300": "The PostgreSQL server takes no more connections: raise max_connections, or end other clients.",
    "55P03": _LOCKED,
    "57014": "The PostgreSQL server took too long for a statement.",
}
_GONE = ("08", "57P")  # the connection, or the server; so is whatever has no number, as the server did not say it
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "XX001", "XX002")
_LOCKS = ("SQLITE_BUSY", "SQLITE_LOCKED", "40001", "40P01", "55P03", "57014")
_CONFLICTS = ("40001", "40P01")
_REFUSALS = ("25006", "28", "3D000", "42501")  # of the whole store, whatever the statement


def damaged(what: str) -> str:
    """The sentence for an operator; `what`: the driver's words."""
    return f"The store is damaged ({what}): stop the service, keep the data directory as it is, and restore a backup."


def name_of(error: BaseException) -> str:
    """SQLite's name for it, such as SQLITE_FULL, or PostgreSQL's number, such as 53100; empty if it has none."""
    driver_error = _driver_error(error)
    return getattr(driver_error, "sqlite_errorname", None) or getattr(driver_error, "sqlstate", None) or ""


def words_of(error: BaseException) -> str:
    """The driver's own words: SQLAlchemy's hold SQL and values too, and so do PostgreSQL's below the first line."""
    return str(_driver_error(error)).partition("\n")[0]


def is_damage(error: BaseException) -> bool:
    """Bytes of the store are not what they should be."""
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
    """The disk of SQLite's file is full. A full disk of a PostgreSQL server has its sentence, and is not meant here."""
    return name_of(error) == "SQLITE_FULL"


def is_interrupted(error: BaseException) -> bool:
    """It took longer than it was allowed to."""
    return name_of(error) in {"SQLITE_INTERRUPT", "57014"}


def is_gone(error: BaseException) -> bool:
    """The server cannot be reached, or broke the connection off."""
    driver_error = _driver_error(error)
    if not hasattr(driver_error, "sqlstate"):
        return False
    return name_of(error).startswith(_GONE) or (not name_of(error) and _is_operational(driver_error))


def is_conflict(error: BaseException) -> bool:
    """The server has undone the transaction because of another one that met it, and would keep it now."""
    return name_of(error) in _CONFLICTS


def is_orphan(error: BaseException) -> bool:
    """The row that a new one should belong to is not there."""
    return name_of(error) in {"SQLITE_CONSTRAINT_FOREIGNKEY", "23503"}


def is_for_all(error: BaseException) -> bool:
    """No other write would fare better now: of one that another process kept waiting, too, the next would wait as long."""
    return is_gone(error) or name_of(error).startswith((*_LOCKS, *_REFUSALS))


def is_of_driver(error: BaseException) -> bool:
    """Raised by SQLAlchemy or by a driver, not by code of ours."""
    return isinstance(error, (DBAPIError, sqlite3.Error)) or hasattr(error, "sqlstate")


def is_passing(error: BaseException) -> bool:
    """A reason to ask again, and no fault of what was asked."""
    return is_for_all(error) or _is_operational(_driver_error(error))


def sentence(error: BaseException) -> str:
    """What the error means to an operator; without SQL and values."""
    if is_damage(error):
        return damaged(words_of(error))
    if is_gone(error):
        return f"The PostgreSQL server cannot be reached ({words_of(error)})."
    name = "_".join(name_of(error).split("_")[:2])  # without the extension, such as SQLITE_READONLY_DBMOVED
    return _SENTENCES.get(name) or f"The store cannot be written ({words_of(error)})."


def _is_operational(error: BaseException) -> bool:
    """Each driver has a class of that name (PEP 249)."""
    return any(kind.__name__ == OperationalError.__name__ for kind in type(error).__mro__)


def _driver_error(error: BaseException) -> BaseException:
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
