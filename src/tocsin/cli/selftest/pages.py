"""Damage to pages of a store's file, which can be undone."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path

PAGE = 4096


class Damage:
    """Pages of one table or index, or of any. Undoing restores every page, unless the service has rewritten it meanwhile."""

    def __init__(self, file: Path, what: str, dice: random.Random) -> None:
        """`what`: the name of a table or index, or "anything"."""
        self._file = file
        self._before: dict[int, bytes] = {}
        self._garbage: dict[int, bytes] = {}
        for page in self._chosen(what, dice):
            self._garbage[page] = b"\xff" + dice.randbytes(PAGE - 1)
        with file.open("r+b", buffering=0) as out:
            for page, garbage in self._garbage.items():
                out.seek((page - 1) * PAGE)
                self._before[page] = out.read(PAGE)
                out.seek((page - 1) * PAGE)
                out.write(garbage)

    def undo(self) -> None:
        """Nobody may write meanwhile. A page that has changed since the damage was written by the service, and is newer."""
        with self._file.open("r+b", buffering=0) as out:
            for page, garbage in self._garbage.items():
                out.seek((page - 1) * PAGE)
                if out.read(PAGE) == garbage:
                    out.seek((page - 1) * PAGE)
                    out.write(self._before[page])

    def _chosen(self, what: str, dice: random.Random) -> list[int]:
        with closing(sqlite3.connect(self._file, timeout=5)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            pages = _pages(connection, what)
        there = self._file.stat().st_size // PAGE  # the log may hold others
        pages = [page for page in pages if page <= there]
        return dice.sample(pages, min(len(pages), 3)) if what == "anything" else pages


def _pages(connection: sqlite3.Connection, what: str) -> list[int]:
    """The node pages: damage in overflow pages goes unnoticed. Only the roots, if SQLite was built without dbstat."""
    which, values = ("name != 'sqlite_schema'", ()) if what == "anything" else ("name = ?", (what,))
    try:
        found = connection.execute(f"SELECT pageno FROM dbstat WHERE {which} AND pagetype != 'overflow'", values).fetchall()
    except sqlite3.OperationalError:
        found = connection.execute(f"SELECT rootpage FROM sqlite_master WHERE {which} AND rootpage > 1", values).fetchall()
    return [page for (page,) in found]
