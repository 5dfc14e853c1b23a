"""Totals that lists show exactly, changed by what was really written."""

from collections import Counter

from sqlalchemy import Connection

from tocsin.store.statements import run, upsert
from tocsin.store.tables import totals

ADD_TOTALS = upsert(totals, key=("user_id", "what"), adds=("n",))


class Totals(Counter[tuple[int, int]]):
    """Changes of totals within one transaction, by user and what is counted; written once at its end."""

    def write(self, connection: Connection) -> None:
        """In the order of the keys, so that two writers do not wait for each other in a circle."""
        run(connection, ADD_TOTALS, [(user_id, int(what), n) for (user_id, what), n in sorted(self.items()) if n])
