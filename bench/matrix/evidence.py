"""What is known after a run, from four sides: the clients, the receivers, the rows, the log. Plain values, so that books can be tested.

A life is the time from one restore to the next; what was accepted or tried in it after the copy was made that replaces it is gone.
Moments are of time.monotonic().
"""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, field

from bench.matrix.clocks import Readings

Verdict = Literal["taken", "maybe", "refused", "duplicate", "lost"]


class Arrival(Struct, frozen=True):
    """A request or mail that reached a receiver whole. `key`: the handler's name. `marks`: the words by which its content is known.

    `identity`: webhook-id or Message-ID. `delivery`, `notification`: the ids in it, 0 where there are none.
    """

    at: float
    key: str
    marks: tuple[str, ...]
    verdict: Verdict
    identity: str = ""
    delivery: int = 0
    notification: int = 0


class Accepted(Struct, frozen=True):
    """A 202. `token`: the word that begins the marks in its text. `began`: when it was first asked.

    `may_repeat`: asked again after its key had become too old by the clock, it may be there twice.
    """

    token: str
    notification: int
    handlers: tuple[int, ...]
    began: float
    at: float
    may_repeat: bool = False


class Copy(Struct, frozen=True):
    """A backup. `log_began`, `log_ended`: how long the log was then."""

    began: float
    ended: float
    log_began: int
    log_ended: int


class Restore(Struct, frozen=True):
    """`at`, `log_bytes`: when the next process was started, and how long the log was then. `copy`: what it put back."""

    at: float
    log_bytes: int
    copy: Copy


class Span(Struct, frozen=True):
    began: float
    ended: float

    def has(self, moment: float) -> bool:
        return self.began <= moment <= self.ended


class Kill(Struct, frozen=True):
    """`of`: "service" or "server". `accepted`: messages so far. `in_flight`: deliveries of which an attempt was noted as under way."""

    of: str
    accepted: int
    in_flight: set[int]


class Attempt(Struct, frozen=True):
    """`at`, `ended`: microseconds of the service's clock."""

    delivery: int
    number: int
    outcome: str
    at: int = 0
    ended: int = 0


class Line(Struct, frozen=True):
    """Of the log, about an attempt. `place`: where in the file it begins."""

    place: int
    delivery: int
    number: int
    outcome: str


class Row(Struct, frozen=True):
    """A delivery. `status`: model.Status as a word."""

    id: int
    notification: int
    handler: int
    user: int
    status: str
    attempt_count: int
    replays: int
    part: int
    reason: str


class Rows(Struct, frozen=True):
    """`notifications`: their texts. `totals`: by user and what is counted. `hours`: delivered by handler. `handlers`: names by id."""

    deliveries: dict[int, Row]
    attempts: list[Attempt]
    notifications: dict[int, str]
    totals: dict[str, int]
    counted: dict[str, int]
    hours: dict[int, int]
    handlers: dict[int, str]


class Log(Struct, frozen=True):
    """`dropped`: lines that the service says it could not write. `torn`: what a kill left of a line."""

    attempts: list[Line]
    dropped: int = 0
    torn: int = 0
    events: dict[str, int] = field(default_factory=dict)


class Evidence(Struct, frozen=True):
    """`names`: every handler that was ever registered, as (id, key). `kills`: of each, from when on what was kept may not have been logged.

    `clock`: of the service. `uneven`: when arrivals say little about when they were sent, or the clock was moved.
    `complaints`: what was wrong while it ran. `done`: how often each disturbance was carried out. `nothing_but`: the kills, where nothing
    else was done, and every receiver took what came.
    """

    accepted: list[Accepted]
    dropped: set[str]
    names: list[tuple[int, str]]
    arrivals: list[Arrival]
    rows: Rows
    log: Log
    restores: list[Restore]
    kills: list[Span]
    uneven: list[Span]
    clock: Readings
    complaints: list[str]
    done: dict[str, int] = {}
    nothing_but: list[Kill] | None = None


_STATUSES = ("pending", "delivered", "failed", "expired", "cancelled", "skipped")
_COUNTED = (
    "SELECT user_id, status, count(*) FROM deliveries GROUP BY 1, 2",
    "SELECT user_id, 100, count(*) FROM notifications GROUP BY 1",
    "SELECT user_id, 101, count(*) FROM handlers WHERE deleted_at IS NULL GROUP BY 1",
)


def read_file(file: Path) -> Rows:
    """Of a SQLite store that nobody serves."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return read_rows(lambda sql: connection.execute(sql).fetchall())


def read_rows(rows: Callable[[str], list[tuple[Any, ...]]]) -> Rows:
    """`rows`: what a statement finds in a store that nobody serves."""
    columns = "id, notification_id, handler_id, user_id, status, attempt_count, replays, part, coalesce(last_reason, '')"
    deliveries = [Row(*row[:4], _STATUSES[row[4]], *row[5:]) for row in rows(f"SELECT {columns} FROM deliveries")]
    return Rows(
        {row.id: row for row in deliveries},
        [Attempt(*row) for row in rows("SELECT delivery_id, number, outcome, at, at + duration_us FROM attempts")],
        dict(rows("SELECT id, text FROM notifications")),
        {f"{what} of user {user}": int(n) for user, what, n in rows("SELECT user_id, what, sum(n) FROM totals GROUP BY 1, 2") if n},
        {f"{what} of user {user}": n for sql in _COUNTED for user, what, n in rows(sql)},
        {handler: int(n) for handler, n in rows("SELECT handler_id, sum(delivered) FROM handler_hours GROUP BY 1")},
        dict(rows("SELECT id, name FROM handlers")),
    )


def read_log(file: Path) -> Log:
    attempts: list[Line] = []
    events: dict[str, int] = {}
    dropped = torn = place = 0
    for line in file.read_bytes().splitlines(keepends=True):
        entry, is_whole = _entry(line)
        torn += not is_whole
        if entry.get("event") == "attempt":
            attempts.append(Line(place, entry["delivery"], entry["number"], entry["outcome"]))
        elif "event" in entry:
            events[entry["event"]] = events.get(entry["event"], 0) + 1
            dropped += entry["lines"] if entry["event"] == "log.dropped" else 0
        place += len(line)
    return Log(attempts, dropped, torn, events)


def _entry(line: bytes) -> tuple[dict[str, Any], bool]:
    """The line, and whether it is all there. Behind what a kill left of one, the next process goes on."""
    for start in (0, line.rfind(b'{"')):
        try:
            return json.loads(line[start:]), not start
        except ValueError:
            continue
    return {}, False
