"""Charts as shapes; the templates draw them as inline SVG, with words for people who cannot see them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from tocsin.ports.standings import HandlerHour

SPARK_HOURS, SPARK_HEIGHT, SPARK_STEP = 24, 24.0, 5
WIDTH, HEIGHT = 1000.0, 150.0
LEFT, TOP, BOTTOM = 56.0, 18.0, 130.0  # of the plot area; axes and values are around it


class Rect(Struct, frozen=True):
    """`kind` is its class in the style sheet."""

    kind: str
    x: float
    y: float
    width: float
    height: float


class Spark(Struct, frozen=True):
    """A day, with one bar per hour."""

    rects: tuple[Rect, ...]
    delivered: int
    failed: int


class Tick(Struct, frozen=True):
    """A label below the chart."""

    x: float
    label: str
    anchor: str


class Level(Struct, frozen=True):
    """A line across the chart. `label`: the number it marks; `seconds`: the same where it is a length of time."""

    y: float
    label: str = ""
    seconds: float = 0.0


class Column(Struct, frozen=True):
    """Everything for one row. `title`: its words, shown at `value_x` on hover or focus."""

    x: float
    width: float
    value_x: float
    anchor: str
    title: str = ""
    label: str = ""
    p50: float = 0.0
    p95: float = 0.0
    rects: tuple[Rect, ...] = ()


class Chart(Struct, frozen=True):
    """What bars and lines have in common: where things are, the level lines, the labels below, and a column for each row that has
    values. `paths`: SVG path data by kind.
    """

    grid: tuple[Level, ...]
    ticks: tuple[Tick, ...]
    columns: tuple[Column, ...]
    paths: dict[str, str] = {}
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    top: float = TOP
    bottom: float = BOTTOM


def spark(hours: Sequence[HandlerHour], since_hour: int) -> Spark:
    """Delivered ones below, failed and expired ones on top; a base line for hours without any."""
    by_hour = {one.hour: one for one in hours}
    shown = [by_hour.get(since_hour + index) for index in range(SPARK_HOURS)]
    most = max([1, *(one.delivered + one.failed + one.expired for one in shown if one)])
    rects: list[Rect] = []
    for index, one in enumerate(shown):
        x, y = index * SPARK_STEP, SPARK_HEIGHT
        rects.append(Rect("none", x, y - 1, SPARK_STEP - 1, 1))
        counts = (("good", one.delivered), ("bad", one.failed + one.expired)) if one else ()
        for kind, count in counts:
            height = max(2.0, count / most * (SPARK_HEIGHT - 4)) if count else 0.0
            y -= height
            if height:
                rects.append(Rect(kind, x, round(y, 1), SPARK_STEP - 1, round(height, 1)))
    failed = sum(one.failed + one.expired for one in shown if one)
    return Spark(tuple(rects), sum(one.delivered for one in shown if one), failed)


def bars(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> Chart:
    """A stacked bar for each row, with a piece for each of `kinds`; a row has a `title`, a `tick` (or "") and the numbers."""
    most = nice(max([1, *(sum(row[kind] for kind in kinds) for row in rows)]))
    width = (WIDTH - LEFT) / max(1, len(rows))
    columns: list[Column] = []
    for index, row in enumerate(rows):
        x, y = LEFT + index * width, BOTTOM
        rects: list[Rect] = []
        for kind in kinds:
            height = max(1.5, row[kind] / most * (BOTTOM - TOP)) if row[kind] else 0.0
            y -= height
            if height:
                rects.append(Rect(kind, round(x, 1), round(max(TOP, y), 1), round(max(1.0, width - 1), 1), round(height, 1)))
        if rects:
            columns.append(_column(index, width, title=row["title"], rects=tuple(rects)))
    levels = tuple(Level(round(BOTTOM - share * (BOTTOM - TOP), 1), f"{most * share:,.0f}") for share in (_shares(most)))
    return Chart(levels, _ticks(rows, width), tuple(columns))


def nice(most: int) -> int:
    """The next round number, so that the levels of an axis are whole."""
    if most <= 4:
        return 2 if most <= 2 else 4
    step = 10 ** (len(str(most)) - 1)
    return next(factor * step // 2 for factor in (2, 3, 4, 6, 8, 10, 12, 16, 20) if factor * step // 2 >= most)


def _shares(most: int) -> tuple[float, ...]:
    return (0.0, 0.5, 1.0) if most % 2 == 0 else (0.0, 1.0)


def _column(index: int, width: float, **values: Any) -> Column:
    x = LEFT + index * width
    middle = x + width / 2
    anchor = "start" if middle < WIDTH / 3 else "end" if middle > WIDTH * 2 / 3 else "middle"
    return Column(round(x, 1), round(width, 1), round(middle, 1), anchor, **values)


def _ticks(rows: Sequence[Mapping[str, Any]], width: float) -> tuple[Tick, ...]:
    """The labels of the rows that have a `tick`."""
    return tuple(
        Tick(round(LEFT + index * width, 1), row["tick"], "start" if index == 0 else "middle")
        for index, row in enumerate(rows)
        if row["tick"]
    )


def lines(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> Chart | None:
    """Lengths of time on a logarithmic scale: a level stroke for each row with a number of seconds, joined if the next one has one.
    None: there are no numbers.
    """
    seconds = [row[kind] for row in rows for kind in kinds if row[kind] is not None]
    if not seconds:
        return None
    low = math.floor(math.log10(max(0.001, min(seconds))))
    high = max(low + 1, math.ceil(math.log10(max(0.001, *seconds))))
    step, width = (BOTTOM - TOP) / (high - low), (WIDTH - LEFT) / len(rows)
    paths: dict[str, str] = {}
    for kind in kinds:
        path, is_joined = "", False
        for index, row in enumerate(rows):
            if row[kind] is not None:
                y = BOTTOM - (math.log10(max(0.001, row[kind])) - low) * step
                path += f"{'L' if is_joined else 'M'}{LEFT + index * width:.1f} {y:.1f}h{width:.1f}"
            is_joined = row[kind] is not None
        paths[kind] = path
    levels = tuple(Level(round(BOTTOM - number * step, 1), seconds=10.0 ** (low + number)) for number in range(high - low + 1))
    columns = tuple(
        _column(index, width, label=row["label"], p50=row["p50"] or 0.0, p95=row["p95"] or 0.0)
        for index, row in enumerate(rows)
        if row["p50"] is not None or row["p95"] is not None
    )
    return Chart(levels, _ticks(rows, width), columns, paths)
