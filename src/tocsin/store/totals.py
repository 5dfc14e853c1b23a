"""Totals that lists show exactly, changed by what was really written.

Every writer has rows of its own, so that no writer waits for another's commit because of a number; readers add them up.
Now and then they are folded into one.
"""

from collections import Counter
from typing import Any, Final

from sqlalchemy import Connection, delete, select, tuple_

from tocsin.clock import Micros
from tocsin.ports.tidying import Swept
from tocsin.store.dialects import SLOT
from tocsin.store.statements import run, upsert
from tocsin.store.tables import totals

FOLDED: Final = 0
"""The slot of what has been folded; nobody writes to it otherwise."""
SERVICE, COMMANDS = 1, 2
"""The slots of a service that is alone, and of the commands beside it. Where processes share the store, each has one of its own."""

ADD_TOTALS = upsert(totals, key=("user_id", "what", "slot"), adds=("n",))


class Totals(Counter[tuple[int, int]]):
    """Changes of totals within one transaction, by user and what is counted; written once at its end."""

    def write(self, connection: Connection) -> None:
        """In the order of the keys, so that two writers do not wait for each other in a circle."""
        slot = connection.get_execution_options().get(SLOT, COMMANDS)
        run(connection, ADD_TOTALS, [(user_id, int(what), slot, n) for (user_id, what), n in sorted(self.items()) if n])


def fold(connection: Connection, _: Micros, rows: int, after: tuple[Any, ...]) -> Swept:
    """A step of housekeeping: what other slots hold is moved, by additions only, so that it does not matter who writes meanwhile."""
    key = (totals.c.user_id, totals.c.what, totals.c.slot)
    chosen = select(*key, totals.c.n).where(totals.c.slot != FOLDED).order_by(*key).limit(rows)
    found = connection.execute(chosen.where(tuple_(*key) > tuple_(*after)) if after else chosen).all()
    moved: Counter[tuple[int, int, int]] = Counter()
    for row in found:
        moved[row.user_id, row.what, FOLDED] += row.n
        moved[row.user_id, row.what, row.slot] -= row.n
    run(connection, ADD_TOTALS, [(*one, n) for one, n in sorted(moved.items())])  # nothing too: then the row is ours until the commit
    if found:
        theirs = totals.c.user_id.between(found[0].user_id, found[-1].user_id)
        connection.execute(delete(totals).where(theirs, totals.c.slot != FOLDED, totals.c.n == 0))
    return Swept(len(found), tuple(found[-1][:3]) if len(found) == rows else None)
