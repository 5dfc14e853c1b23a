"""What other processes may remember and must forget, noted in the transaction that changes it; only PostgreSQL has other processes.

Notes are written last, one transaction after the other: their ids come in the order of the commits, so a reader of one has read
all before it. Nobody waits for anybody else after that, so nobody waits in a circle.
"""

from typing import Any, Final

from sqlalchemy import Connection, insert, text

from tocsin import clock
from tocsin.store.shared_tables import changes

NEWS: Final = "tocsin_news"
"""The channel on which processes are told that there is something to read."""
_NOTES: Final = "tocsin_notes"
WAIT_FOR_TURN: Final = "SELECT pg_advisory_xact_lock(hashtextextended('changes', 0))"


def note(connection: Connection, what: str, ref: int | None = None, user_id: int | None = None) -> None:
    """See `ports.changes.Change`."""
    if connection.dialect.name == "postgresql":
        connection.info.setdefault(_NOTES, {})[what, ref, user_id] = None


def begin(connection: Connection) -> None:
    """Nothing is left of a transaction that failed."""
    connection.info.pop(_NOTES, None)


def write(connection: Connection) -> bool:
    """At the end of the transaction. Whether there was anything to write."""
    notes: dict[tuple[str, int | None, int | None], None] | None = connection.info.pop(_NOTES, None)
    if not notes:
        return False
    now = clock.now()
    rows: list[dict[str, Any]] = [{"what": what, "ref": ref, "user_id": user_id, "at": now} for what, ref, user_id in notes]
    connection.execute(text(WAIT_FOR_TURN))
    connection.execute(insert(changes), rows)
    return True
