"""The processes on a store as people look at them: who owns how much, when each was last seen, what waits there."""

from typing import Any

from sqlalchemy import Connection, Row, text

from tocsin.model import Status
from tocsin.ports.workers import Overview, WorkerLine
from tocsin.store.dialects import SERVER_NOW

MAX_BACKLOG = 1_000_000  # that is counted; more is shown as so many
_LINES = text(
    "SELECT w.id, w.name, w.roles, w.address, w.version, w.is_leaving, w.started_at, (load::json->>'in_flight')::int AS in_flight,"
    f" greatest(0, {SERVER_NOW} - w.beat_at) AS age,"
    " (SELECT count(*) FROM partitions p WHERE p.owner = w.id) AS parts FROM workers w ORDER BY w.id"
)
_BACKLOG = text(
    "SELECT p.owner, count(*) FROM (SELECT partition FROM deliveries"
    f" WHERE status = {Status.PENDING:d} AND due_at <= {SERVER_NOW} LIMIT {MAX_BACKLOG}) d"
    " JOIN partitions p ON p.partition = d.partition GROUP BY p.owner"
)
_NOBODYS = text("SELECT count(*) FROM partitions WHERE owner IS NULL")


def workers(connection: Connection) -> Overview:
    backlog: dict[int | None, int] = {row[0]: row[1] for row in connection.execute(_BACKLOG)}
    lines = [_line(row, backlog.get(row[0], 0)) for row in connection.execute(_LINES).all()]
    return Overview(lines, connection.scalar(_NOBODYS) or 0, backlog.get(None, 0))


def _line(row: Row[Any], backlog: int) -> WorkerLine:
    return WorkerLine(
        id=row.id,
        name=row.name,
        roles=row.roles,
        parts=row.parts,
        beat_age_ms=row.age // 1000,
        backlog=backlog,
        in_flight=row.in_flight or 0,
        address=row.address,
        version=row.version,
        is_leaving=row.is_leaving,
        started_at=row.started_at,
    )
