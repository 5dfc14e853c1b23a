"""What was measured, as a table for people and as JSON."""

import platform
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import median
from typing import Any

import msgspec
import pycurl
from msgspec import Struct
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from bench.machine import cpu_model
from bench.rendering import Rendering


class Row(Struct, kw_only=True):
    """One scenario. Latencies run from the 202 at the client to the arrival at the receiver; without a service there are none.

    `answer_p99_ms`: from a request to its 202. `service_us`, `server_us`: processor time a message, until all is settled, of the service
    and of its database's server. Of several rounds, see `together`: `lowest_rate` and `highest_rate` are those of single rounds.
    """

    name: str
    messages: int
    rate: float
    seconds: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    settled_seconds: float | None = None
    settled_within_25_ms: float | None = None
    answer_p99_ms: float | None = None
    service_us: float = 0.0
    server_us: float = 0.0
    peak_mb: float | None = None
    core_used: float | None = None
    busy_answers: int | None = None
    lowest_rate: float = 0.0
    highest_rate: float = 0.0
    of_bare: float | None = None
    of_apprise: float | None = None


def together(rounds: Sequence[Row]) -> Row:
    """All messages over all seconds; of latencies the middle p50 and the worst p99, of memory the most."""
    seconds = sum(row.seconds for row in rounds)
    rates = [row.rate for row in rounds]
    whole = replace(
        rounds[0],
        messages=sum(row.messages for row in rounds),
        rate=sum(row.messages for row in rounds) / seconds,
        seconds=seconds,
        core_used=sum((row.core_used or 0) * row.seconds for row in rounds) / seconds,
        lowest_rate=min(rates),
        highest_rate=max(rates),
    )
    if whole.p50_ms is not None:
        whole.p50_ms = median(row.p50_ms or 0 for row in rounds)
        whole.p99_ms = max(row.p99_ms or 0 for row in rounds)
        whole.peak_mb = max(row.peak_mb or 0 for row in rounds)
        whole.busy_answers = sum(row.busy_answers or 0 for row in rounds)
        whole.settled_seconds = sum(row.settled_seconds or 0 for row in rounds)
        whole.settled_within_25_ms = sum((row.settled_within_25_ms or 0) * row.messages for row in rounds) / whole.messages
    return whole


class Check(Struct):
    """A goal and what came of it. Not asserted: a busy machine is not a fault of the code.

    `doubt`: why the measurement cannot be judged either way, else empty.
    """

    goal: str
    measured: float
    is_met: bool
    doubt: str = ""

    @property
    def verdict(self) -> str:
        return "unclear" if self.doubt else "met" if self.is_met else "MISSED"


class Reconciliation(Struct):
    """Ids that were accepted (202, or the sender's word) against those that arrived."""

    accepted: int
    arrived: int
    missing: int
    duplicates: int
    bare_duplicates: int
    never_accepted: int
    service_accepted: int
    store_delivered: int

    @property
    def is_complete(self) -> bool:
        return self.missing == 0


class Store(Struct, kw_only=True):
    """A store in the same run as the other. `…_us`: processor time a message, of the service and of the database's server.

    `core_used`: by the service, while it delivered.
    """

    name: str
    accepted: float
    accept_us: float
    accept_server_us: float
    delivered: float
    deliver_us: float
    deliver_server_us: float
    answer_p99_ms: float
    arrival_p99_ms: float
    core_used: float


class Beside(Struct):
    """Milliseconds from 202 to arrival at the healthy handlers, beside `trouble`."""

    trouble: str
    messages: int
    p50_ms: float
    p99_ms: float


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def machine() -> dict[str, Any]:
    packages = ("tocsin", "apprise", "uvloop", "uvicorn", "pycurl", "requests")
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "cpu": cpu_model(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "libcurl": pycurl.version_info()[1],
        **{name: version(name) for name in packages},
    }


class Report(Struct):
    """All that one run found out."""

    about: dict[str, Any]
    rows: Sequence[Row]
    renderings: Sequence[Rendering]
    beside: Sequence[Beside]
    stores: Sequence[Store]
    distance: Sequence[Struct]
    checks: Sequence[Check]
    found: Reconciliation


def show(report: Report) -> None:
    found = report.found
    console = Console(width=132)
    console.print(", ".join(f"{name} {value}" for name, value in report.about.items()), highlight=False)
    table = Table(title="Messages of about 500 bytes to 200 webhook handlers; the sender on one core")
    table.add_column("scenario")
    for heading in ("messages", "a second", "rounds", "× bare", "× Apprise", "p50 ms", "p99 ms", "core used", "peak MB"):
        table.add_column(heading, justify="right")
    for row in report.rows:
        table.add_row(
            row.name,
            f"{row.messages:,}",
            f"{row.rate:,.0f}",
            f"{row.lowest_rate:,.0f}-{row.highest_rate:,.0f}" if row.highest_rate else "",
            *(_number(value, 2) for value in (row.of_bare, row.of_apprise)),
            *(_number(value, 1) for value in (row.p50_ms, row.p99_ms)),
            "" if row.core_used is None else f"{row.core_used:.0%}",
            _number(row.peak_mb, 0),
        )
    console.print(table)
    shown = (f"{one.type} {one.seconds * 1e6:,.0f} us ({one.of_parse:.1f} × parse)" for one in report.renderings)
    console.print(f"rendering, median of a corpus: {', '.join(shown)}", highlight=False)
    aside = Table(title="From 202 to arrival at healthy handlers, beside others")
    aside.add_column("beside")
    for heading in ("messages", "p50 ms", "p99 ms"):
        aside.add_column(heading, justify="right")
    for one in report.beside:
        aside.add_row(one.trouble, f"{one.messages:,}", _number(one.p50_ms, 1), _number(one.p99_ms, 1))
    console.print(aside)
    show_stores(console, report.stores)
    for check in report.checks:
        console.print(f"{check.verdict:8} {check.goal}: {check.measured:.2f}{check.doubt and f' ({check.doubt})'}", highlight=False)
    console.print(
        f"{'complete' if found.is_complete else 'INCOMPLETE'}: {found.accepted:,} accepted, {found.arrived:,} arrived, "
        f"{found.missing:,} missing, {found.duplicates:,} more than once (and {found.bare_duplicates:,} of the bare loop), "
        f"{found.never_accepted:,} never accepted; "
        f"the service accepted {found.service_accepted:,} and holds {found.store_delivered:,} as delivered",
        highlight=False,
    )


def show_stores(console: Console, stores: Sequence[Store]) -> None:
    table = Table(title="The stores; us: processor time a message, of the service + of the database's server")
    table.add_column("store")
    for heading in ("accepted/s", "us", "delivered/s", "us", "lone: 202 p99 ms", "202 to arrival p99 ms"):
        table.add_column(heading, justify="right")
    for one in stores:
        table.add_row(
            one.name,
            f"{one.accepted:,.0f}",
            f"{one.accept_us:.0f} + {one.accept_server_us:.0f}",
            f"{one.delivered:,.0f}",
            f"{one.deliver_us:.0f} + {one.deliver_server_us:.0f}",
            _number(one.answer_p99_ms, 1),
            _number(one.arrival_p99_ms, 1),
        )
    console.print(table)


def as_json(report: Report) -> bytes:
    document = {
        "machine": report.about,
        "scenarios": report.rows,
        "rendering": report.renderings,
        "isolation": report.beside,
        "stores": report.stores,
        "distance": report.distance,
        "goals": report.checks,
        "reconciliation": report.found,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
